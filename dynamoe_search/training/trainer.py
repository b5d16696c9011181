"""`train_leg`: trains a pack from one epoch to another, and turns what goes wrong into outcomes."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch

from dynamoe_search.data import SearchData
from dynamoe_search.errors import CandidateError, DeviceLostError, InputError
from dynamoe_search.moe.threads import one_thread
from dynamoe_search.records import Candidate
from dynamoe_search.training import hands
from dynamoe_search.training.checkpoints import CheckpointFolder
from dynamoe_search.training.epochs import train_epoch
from dynamoe_search.training.failures import (
    Caller,
    MixedModulesError,
    OnMemory,
    OnProgress,
    ShouldStop,
    failed,
    is_device_lost,
    is_out_of_memory,
)
from dynamoe_search.training.hand import Line
from dynamoe_search.training.hands import HandLostError
from dynamoe_search.training.large import Large, read_once
from dynamoe_search.training.manifests import first_line
from dynamoe_search.training.pack_run import PackRun
from dynamoe_search.training.parts import (
    divided,
    is_small,
    most_parts,
    number_of_parts,
    parts_of_study,
)
from dynamoe_search.training.settings import DamagedError, Interrupted, Trained, TrainSettings
from dynamoe_search.training.side_by_side import OthersAtWork
from dynamoe_search.training.states import CandidateState, circumstances

logger = logging.getLogger(__name__)

Part = tuple[list[Candidate], CheckpointFolder | None]
Split = tuple[list[list[Candidate]], bool]  # parts, and whether memory is the reason

_MOST_LOSSES = 2
"""Of the device, until a candidate that was alone at the last one fails; a single one may be chance."""
_PARTS = 4  # of a pack with which the device was lost, so that few processes end until the candidate is found


def train_leg(
    pack: Sequence[Candidate],
    data: SearchData,
    settings: TrainSettings,
    *,
    until: int,
    start: Mapping[int, CandidateState] | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
    checkpoints: CheckpointFolder | None = None,
    on_restore: OnProgress | None = None,
    max_pack: int | None = None,
    on_memory: OnMemory | None = None,
    num_parts: int | None = None,
) -> list[Trained]:
    """Trains candidates that stand at the same epoch to another one, and returns where each is, in the order given.

    A candidate's numbers depend neither on its company nor on how its training is cut into legs: on the CPU they are
    the same bit for bit. A candidate whose loss stops being finite, or that ends without an active expert, fails alone.
    If a pack raises or runs out of memory, it is halved, until the candidate at fault stands alone and fails; the
    halves go on from the pack's latest checkpoint.

    On the CPU the parts of a pack of small networks are trained side by side, by this process and others of
    `training.hands`; with the same numbers, so nobody has to know.

    After an error that leaves the device useless for this process nobody fails: the process must end. Whoever goes on
    with the leg trains the pack in smaller parts, down to the candidate at fault, which then fails alone.

    Args:
        pack: At most one per ordinal; equal `pack_key` and study seed.
        data: See `data.load_data`; `data_on` spares copying them to the device for every leg.
        settings: See `TrainSettings`.
        until: Epochs that those have behind them who reach the leg's end; who has fewer in all is complete before.
        start: Where the candidates stand, by ordinal; nothing if they are new.
        on_progress: Called after every epoch with a report of each live candidate, part by part if the pack was split.
            The same epoch may be reported twice, with the same numbers but for seconds.
        should_stop: Asked after every step; at the end, only to write a checkpoint of it.
        checkpoints: A folder for this leg, from which it goes on if it was begun. The caller removes the folder.
        on_restore: Called before training with the reports of the epochs that a checkpoint saves from being trained
            again; `on_progress` is not called for them.
        max_pack: A larger pack is trained in parts from the start.
        on_memory: Called once memory has forced a pack to be split, with the largest number of candidates that got
            through an epoch together since then; again when a larger number did.
        num_parts: How many parts of the pack are trained side by side where that is possible; none means as many as
            are worth it. Of a leg that was begun the parts stay.

    Raises:
        ValueError: if the candidates may not share a leg, or do not stand before its end.
        DamagedError: if a state does not fit its candidate's network.
        Interrupted: if `should_stop` returned true, after a checkpoint was written.
        InputError: for what would be wrong for every candidate, such as a backbone that cannot be imported.
        DeviceLostError: if this process cannot use the device any more.
    """
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    settings = replace(settings, num_threads=torch.get_num_threads())
    states = dict(start or {})
    begin = _check(pack, states, until, circumstances(data, settings))
    leg = _Leg(
        data=data,
        settings=settings,
        start=begin,
        until=until,
        states=states,
        caller=Caller(on_progress, should_stop, on_restore, on_memory),
        max_pack=max_pack,
        num_parts=num_parts,
        top=checkpoints,
    )
    trained = {one.ordinal: one for one in leg.train(list(pack), checkpoints)}
    return [trained[candidate.ordinal] for candidate in pack]


def prepare(
    candidate: Candidate, data: SearchData, settings: TrainSettings, candidate_epochs: float
) -> None:
    """Has other processes started, if so much training is ahead that its legs are worth being divided.

    They take some seconds to come up; until then legs are trained by this process alone.

    Args:
        candidate: One of the study.
        data: See `train_leg`.
        settings: See `TrainSettings`.
        candidate_epochs: About how many epochs of how many candidates will be trained.
    """
    hands.prepare(parts_of_study(candidate, data, settings, candidate_epochs) - 1)


def _check(
    pack: Sequence[Candidate],
    states: Mapping[int, CandidateState],
    until: int,
    facts: Mapping[str, str],
) -> int:
    """Returns the epoch at which all stand; raises `ValueError` if they may not share a leg."""
    kinds = {(candidate.pack_key, candidate.study_seed) for candidate in pack}
    if len(kinds) != 1:
        raise ValueError(f"a leg is for one pack, not for {len(kinds)}")
    if len({candidate.ordinal for candidate in pack}) < len(pack):
        raise ValueError("a candidate can be in a pack only once")
    if not states:
        begin = 0
    elif states.keys() < {candidate.ordinal for candidate in pack}:
        raise ValueError("some candidates have a state, and others have none")
    else:
        own = [states[candidate.ordinal] for candidate in pack]
        if any(state.candidate != one for state, one in zip(own, pack, strict=True)):
            raise ValueError("states of other candidates")
        if any(state.circumstances != facts for state in own):
            raise ValueError("states from other data, with other settings or other versions")
        moments = {(state.epoch, state.batch, state.step) for state in own}
        if len(moments) != 1 or own[0].batch:
            raise ValueError("candidates that do not stand at the end of the same epoch")
        begin = own[0].epoch
    if not begin < min([until, *(candidate.train.epochs for candidate in pack)]):
        raise ValueError(f"candidates that stand at epoch {begin} already")
    return begin


@dataclass(frozen=True, kw_only=True, slots=True)
class _Order:
    """What another process needs to train a part of a pack.

    Attributes:
        pack: The part.
        data: Where to read what it is trained on.
        settings: As here.
        start: Epoch at which the leg begins.
        until: Epoch at which it ends.
        states: Where the candidates stand, by ordinal.
        folder: For checkpoints.
        share: Of the time.
    """

    pack: list[Candidate]
    data: Large
    settings: TrainSettings
    start: int
    until: int
    states: Mapping[int, CandidateState]
    folder: CheckpointFolder | None
    share: float


def train_part(line: Line, order: _Order) -> list[Trained]:
    """Trains a part of a pack in this process for another one, which hears of every epoch."""
    progress, restore = (partial(line.tell, name) for name in ("on_progress", "on_restore"))
    torch.set_num_threads(order.settings.num_threads or 1)
    leg = _Leg(
        data=read_once(order.data),
        settings=order.settings,
        start=order.start,
        until=order.until,
        states=order.states,
        caller=Caller(progress, line.should_stop, restore, None),  # of memory it knows a share
        max_pack=None,
        num_parts=1,
        top=order.folder,
        share=order.share,
    )
    line.on_stop = leg.keep_held
    return leg.train(order.pack, order.folder)


@dataclass(kw_only=True, slots=True)
class _Leg:
    """What holds for all parts of a pack on its leg.

    Attributes:
        num_parts: See `train_leg`; 1 within a part that is trained beside others.
        top: The folder of all that is trained here.
        share: Of the time, where others are trained at the same time.
        held: What has come to the end of the leg with that folder, of which it has no checkpoint.
    """

    data: SearchData
    settings: TrainSettings
    start: int
    until: int
    states: Mapping[int, CandidateState]
    caller: Caller
    max_pack: int | None
    num_parts: int | None
    top: CheckpointFolder | None
    share: float = 1.0
    held: PackRun | None = None

    def train(self, pack: list[Candidate], folder: CheckpointFolder | None) -> list[Trained]:
        """Trains a pack or a part of one, in parts if it was, must be or has to be split."""
        known = None if folder is None else folder.known_split(pack)
        split = known
        if split is None:
            losses = folder.num_losses if folder is not None and folder.is_lost else 0
            if len(pack) == 1 and losses >= _MOST_LOSSES:
                return [self._given_up(pack[0], losses)]
            split = self._beforehand(pack, losses)
        if split is None:
            trained = self._whole_or_split(pack, folder)
            if isinstance(trained, list):
                return trained
            split = trained
        parts, is_memory = split
        if known is None and folder is not None:
            folder.write_split(parts, is_memory=is_memory)
        self.caller.wants_sizes |= is_memory
        folders = [None if folder is None else folder.part(number) for number in range(len(parts))]
        own = [(part, folder) for part, folder in zip(parts, folders, strict=True) if part]
        if self._has_hands(own, is_memory=is_memory):
            try:
                return self._side_by_side(own)
            except HandLostError as error:
                logger.warning("%s; its candidates are trained in this one", error)
                alone = replace(self, num_parts=1)
                return [result for part, folder in own for result in alone.train(part, folder)]
        return [result for part, folder in own for result in self.train(part, folder)]

    def _beforehand(self, pack: list[Candidate], losses: int) -> Split | None:
        """Returns the parts of a pack that has to be split, or is better trained so; None if it is left whole."""
        most = self._most_together(len(pack), losses)
        parts = _chunks(pack, most) if most < len(pack) else self._for_hands(pack)
        return (parts, False) if len(parts) > 1 else None

    def _whole_or_split(
        self, pack: list[Candidate], folder: CheckpointFolder | None
    ) -> list[Trained] | Split:
        """Trains a pack as a whole; returns the parts that it is to be trained in if that does not work."""
        device = torch.device(self.settings.device)
        try:
            # from the start: threads that wait for more to do would keep other processes from their cores
            with one_thread(only_if=is_small(pack[0], self.data.input_shape, device)):
                return self._train_together(pack, folder)
        except (Interrupted, InputError, DamagedError):
            raise
        except MixedModulesError as error:
            return [[pack[position] for position in group] for group in error.groups], False
        except Exception as error:  # a candidate's own code, or memory
            if error is self.caller.error:
                raise
            self._end_if_lost(pack, folder, error)
            if len(pack) == 1:
                state = self.states.get(pack[0].ordinal)
                return [failed(pack[0], error, self.settings.device, state)]
            logger.info("a pack of %d failed (%s); halving it", len(pack), error)
            return _chunks(pack, -(-len(pack) // 2)), is_out_of_memory(error)

    def _for_hands(self, pack: list[Candidate]) -> list[list[Candidate]]:
        """Returns the parts of a pack that are worth being trained side by side; one if it is better left whole."""
        number = self.num_parts
        if self.max_pack is not None:
            return [pack]
        if number is None:
            started = hands.are_ready(1)
            epochs = self.until - self.start
            number = number_of_parts(pack, self.data, self.settings, epochs, are_started=started)
        number = min(number, most_parts(pack, self.data, self.settings))
        return divided(pack, number) if number > 1 and hands.hands(number - 1) else [pack]

    def _has_hands(self, own: Sequence[Part], *, is_memory: bool) -> bool:
        """Tells whether parts are trained side by side: all that have to be, where there is enough memory."""
        if is_memory or self.num_parts == 1 or self.max_pack is not None or len(own) < 2:
            return False
        pack = [candidate for part, _ in own for candidate in part]
        return len(own) <= most_parts(pack, self.data, self.settings)

    def _side_by_side(self, own: list[Part]) -> list[Trained]:
        """Trains parts at the same time, the first in this process."""
        (part, folder), *others = own
        with OthersAtWork(self.caller, len(others)) as at_work:
            for theirs, at in others:
                at_work.begin(train_part, self._order(theirs, at, share=1 / len(own)))
            here = replace(self, num_parts=1, share=1 / len(own), top=folder, caller=at_work.caller)
            trained = here.train(part, folder)
            if not at_work.wait():
                here.keep_held()
                raise Interrupted(f"stopped after epoch {self.until}")
            return [*trained, *at_work.results()]

    def _order(
        self, part: list[Candidate], folder: CheckpointFolder | None, share: float
    ) -> "_Order":
        return _Order(
            pack=part,
            data=hands.written(self.data),
            settings=self.settings,
            start=self.start,
            until=self.until,
            states={one.ordinal: self.states[one.ordinal] for one in part if self.states},
            folder=folder,
            share=share,
        )

    def keep_held(self) -> None:
        """Writes a checkpoint of what has come to its end here."""
        if self.held is not None and self.top is not None:
            self.top.write(self.held, self.data, self.settings, self.start)

    def _most_together(self, num: int, losses: int) -> int:
        """Returns how many of a pack of `num` are trained together, with which the device was lost so often."""
        most = num if self.max_pack is None else min(num, self.max_pack)
        part: int = num // _PARTS**losses
        return max(1, min(most, part))

    def _end_if_lost(
        self, pack: list[Candidate], folder: CheckpointFolder | None, error: Exception
    ) -> None:
        """Raises what ends this process if it has lost the device, of which whoever goes on is told."""
        device = self.settings.device
        if not is_device_lost(error, device):
            return
        if folder is not None:
            folder.write_loss(first_line(error))
        who = "a candidate was" if len(pack) == 1 else f"{len(pack)} candidates were"
        raise DeviceLostError(
            f"the device {device} failed while {who} trained ({first_line(error)}), and does nothing more for this "
            "process; resume goes on from the checkpoints, in another one"
        ) from error

    def _given_up(self, candidate: Candidate, losses: int) -> Trained:
        error = CandidateError(
            "device-lost",
            f"the device {self.settings.device} failed {losses} times while it was trained, the last time alone",
        )
        state = self.states.get(candidate.ordinal)
        return failed(candidate, error, self.settings.device, state)

    def _train_together(
        self, pack: list[Candidate], folder: CheckpointFolder | None
    ) -> list[Trained]:
        run = None if folder is None else self._restored(pack, folder)
        if run is None:
            run = PackRun.start(pack, self.data, self.settings, self.states)
        run.share = self.share
        while run.population is not None and run.population.epoch < self.until:
            train_epoch(run, run.population, self.caller, self._after_step(run, folder))
            if folder is not None and folder.is_due:
                folder.write(run, self.data, self.settings, self.start)
        if folder is not None and folder is self.top:
            self.held = run
        # Other parts are still to be trained, or the caller may leave before it has stored the results.
        if folder is not None and (folder is not self.top or self.caller.should_stop()):
            folder.write(run, self.data, self.settings, self.start)
        return run.results()

    def _restored(self, pack: list[Candidate], folder: CheckpointFolder) -> PackRun | None:
        run = folder.restore(pack, self.data, self.settings, start=self.start, until=self.until)
        if run is not None:
            self.caller.on_restore(run.reports)
        return run

    def _after_step(self, run: PackRun, folder: CheckpointFolder | None) -> Callable[[], None]:
        def after_step() -> None:
            stops = self.caller.should_stop()
            if folder is not None and (stops or folder.is_due):
                folder.write(run, self.data, self.settings, self.start)
            if stops:
                raise Interrupted(f"stopped in epoch {run.epoch + 1}")

        return after_step


def _chunks(pack: Sequence[Candidate], size: int) -> list[list[Candidate]]:
    """Divides a pack into as few parts as possible with at most `size` members each, nearly equal ones."""
    num = -(-len(pack) // size)
    bounds = [len(pack) * part // num for part in range(num + 1)]
    return [list(pack[begin:end]) for begin, end in pairwise(bounds)]
