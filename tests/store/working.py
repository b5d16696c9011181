"""A worker that trains nothing: it plans, opens, reports and closes legs as a real one does, in no time."""

import os
import signal
import time
from pathlib import Path

from dynamoe_search.records import Ended, Leg, Stood
from dynamoe_search.store import Store
from tests.store.builders import complete, report

EPOCHS = 3


def next_leg(store: Store, name: str, worker: str) -> Leg | None:
    """Takes a dead worker's leg over, else opens one; None if there is nothing to do now."""
    with store.planning(name, worker):
        for leg in store.legs(name, state="open"):
            if leg.worker != worker and store.take_leg(name, worker, leg.number):
                return leg
        busy = {trial for leg in store.legs(name, state="open") for trial in leg.trials}
        for one in store.standings(name, status=("running", "paused")):
            if one.trial not in busy:
                return store.open_leg(
                    name,
                    worker,
                    [one.trial],
                    start=one.epochs,
                    end=one.epochs + 1,
                    pack_key=one.pack_key,
                )
    return None


def close(store: Store, name: str, worker: str, leg: Leg) -> None:
    """Closes a leg as if it had been trained."""
    ended, stood = [], []
    for trial in leg.trials:
        ordinal = store.candidate(name, trial).ordinal
        if leg.end < EPOCHS:
            stood.append(Stood(trial=trial, epochs=leg.end, checkpoint=f"{trial}-{leg.end}"))
        else:
            outcome = complete(ordinal, 0.5, 1.0 + ordinal)
            ended.append(Ended(trial=trial, outcome=outcome, values=(0.5, 1.0 + ordinal)))
    store.close_leg(name, worker, leg.number, ended=ended, stood=stood, versions={})


def work(url: str, name: str, log: Path, signal_at: int | None = None, number: int = 9) -> None:
    """Works until all candidates are over.

    Args:
        url: The database.
        name: The study.
        log: Gets a line for every leg that was closed.
        signal_at: In this leg of its own, counted from 0, it sends itself the signal.
        number: The signal.
    """
    with Store.open(url) as store:
        worker = store.join(name)
        num_legs = 0
        while store.standings(name, status=("running", "paused")):
            leg = next_leg(store, name, worker)
            if leg is None:
                time.sleep(0.05)
                continue
            for trial in leg.trials:
                ordinal = store.candidate(name, trial).ordinal
                store.add_progress(name, [report(ordinal, leg.end)])
            if num_legs == signal_at:
                os.kill(os.getpid(), signal.Signals(number))
            close(store, name, worker, leg)
            num_legs += 1
            with log.open("a") as file:
                file.write(f"{leg.number}\n")
        store.replay_tells(name)
        store.leave(name, worker, "finished")
