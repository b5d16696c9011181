"""Where the time of a run goes: what has just ended is named, and gets the time since the last name was given."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, get_args

from dynamoe_search.records import Progress

Activity = Literal["train", "evaluate", "prune", "sample", "store", "wait"]
"""`train` has set-up and legs' checkpoints in it, `store` whatever is none of the others: database, files, planning."""
ACTIVITIES: tuple[Activity, ...] = get_args(Activity)


class Stopwatch:
    """Divides the time since it was made among activities."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = dict.fromkeys(ACTIVITIES, 0.0)
        self._last = time.perf_counter()

    @property
    def seconds(self) -> Mapping[str, float]:
        """Seconds of every activity so far; what goes on now is in none of them."""
        return dict(self._seconds)

    def lap(self, activity: Activity) -> None:
        """Gives the time since the last lap to the activity that has just ended."""
        before, self._last = self._last, time.perf_counter()
        self._seconds[activity] += self._last - before

    @contextmanager
    def at(self, activity: Activity) -> Iterator[None]:
        """Gives the time of the block to an activity, and that before it to `store`."""
        self.lap("store")
        try:
            yield
        finally:
            self.lap(activity)

    def after_steps(self, should_stop: Callable[[], bool]) -> Callable[[], bool]:
        """Returns `should_stop`, which is asked after every training step."""

        def asked() -> bool:
            self.lap("train")
            answer = should_stop()
            self.lap("store")
            return answer

        return asked

    def after_epochs(
        self, on_reports: Callable[[list[Progress]], None]
    ) -> Callable[[list[Progress]], None]:
        """Returns `on_reports`, which is called after the evaluation that follows an epoch's last step."""

        def called(reports: list[Progress]) -> None:
            self.lap("evaluate")
            on_reports(reports)
            self.lap("store")

        return called
