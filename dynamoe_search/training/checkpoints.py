"""Checkpoints of a pack on its leg: what is needed to go on after any step, to the same bits. No pickle.

    epoch-000004-step-000017.safetensors    the states of those in training, after 4 epochs and 17 steps
    epoch-000004-step-000017.json           the manifest: who trains, who has ended and how, checksums; written last
    end-17.safetensors                      the weights with which candidate 17 ended
    split.json, part-000/, part-001/        if the pack had to be split: into whom, and the parts' own checkpoints
    lost-1.txt                              if the device was lost while it was trained: what it said

Every file appears whole or not at all, and a checkpoint counts only if its manifest is there and all checksums are
right. The latest two are kept. On remote storage nothing is written over: there every name but those of `split.json`
and `lost-1.txt` ends in the first 16 digits of the file's checksum. Both names are read, as a study can be copied from
one to the other.
"""

import logging
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict

import safetensors
from torch import Tensor

from dynamoe_search.data import SearchData
from dynamoe_search.places import AnyPath, PlaceError, RemotePath, listed, remove_tree
from dynamoe_search.records import Candidate
from dynamoe_search.training.durable_files import make_folder, named, write_tensors, write_text
from dynamoe_search.training.manifests import (
    FORMAT,
    End,
    Manifest,
    Split,
    first_line,
    read_content,
    verified,
    wrapped,
)
from dynamoe_search.training.pack_run import PackRun
from dynamoe_search.training.population import Population
from dynamoe_search.training.settings import Trained, TrainSettings
from dynamoe_search.training.states import CandidateState, circumstances

logger = logging.getLogger(__name__)

EVERY_SECONDS = 30.0
_KEPT = 2
_LOSS = "lost-"
_UNREADABLE = (OSError, ValueError, LookupError, RecursionError, safetensors.SafetensorError)


class CheckpointFolder:
    """The checkpoints of one pack on one leg, or of a part of it.

    Args:
        path: A folder of its own; it is made when the first checkpoint is written.
        every_seconds: A checkpoint is written after a step if the last one is so old.
        whole: The checkpoints of the pack that this one is a part of, made before it was split.
    """

    def __init__(
        self,
        path: AnyPath,
        *,
        every_seconds: float = EVERY_SECONDS,
        whole: "CheckpointFolder | None" = None,
    ) -> None:
        self.path = path
        self.every_seconds = every_seconds
        self._whole = whole
        self._written_at = time.monotonic()
        self._weights: dict[int, str] = {}  # checksums of the ends' files, by ordinal

    @property
    def is_part(self) -> bool:
        """Whether the pack is a part of one that was split."""
        return self._whole is not None

    @property
    def is_due(self) -> bool:
        """Whether the last checkpoint is old enough for the next."""
        return time.monotonic() - self._written_at >= self.every_seconds

    def part(self, number: int) -> "CheckpointFolder":
        """Returns the checkpoints of a part of this pack."""
        path = self.path / f"part-{number:03d}"
        return CheckpointFolder(path, every_seconds=self.every_seconds, whole=self)

    def late(self, epoch: int) -> "CheckpointFolder":
        """Returns the checkpoints of those who stand at an earlier epoch and catch up before the leg."""
        return CheckpointFolder(self.path / f"late-{epoch:06d}", every_seconds=self.every_seconds)

    def write(self, run: PackRun, data: SearchData, settings: TrainSettings, start: int) -> None:
        """Writes a checkpoint; a full disk is a warning, not an error.

        Args:
            run: The pack, between two steps.
            data: What it is trained on.
            settings: How.
            start: The epoch at which the leg began.
        """
        try:
            make_folder(self.path)
            self._write(run, circumstances(data, settings), start)
        except (OSError, safetensors.SafetensorError) as error:
            logger.warning("no checkpoint could be written to %s: %s", self.path, error)
        self._written_at = time.monotonic()

    def _write(self, run: PackRun, facts: dict[str, str], start: int) -> None:
        for end in run.finished:
            if end.state is not None and end.ordinal not in self._weights:
                self._weights[end.ordinal] = write_tensors(self._end(end.ordinal), end.state)
        elapsed = run.lap()
        population = run.population
        states = [] if population is None else population.states(run.seconds)
        name = _name(run.epoch, 0 if population is None else population.batch)
        tensors = {
            f"{state.ordinal}/{own}": tensor
            for state in states
            for own, tensor in state.tensors.items()
        }
        manifest = Manifest(
            format=FORMAT,
            circumstances=facts,
            candidates=run.pack,
            live=tuple(state.ordinal for state in states),
            start=start,
            epoch=run.epoch,
            batch=0 if population is None else population.batch,
            step=0 if population is None else population.step,
            seconds=tuple(run.seconds[candidate.ordinal] for candidate in run.pack),
            epoch_seconds=elapsed,
            histories=tuple(state.events for state in states),
            reports=tuple(run.reports),
            ends=tuple(
                End(outcome=one.outcome, weights=self._weights.get(one.ordinal))
                for one in run.finished
                if one.outcome is not None
            ),
            tensors=write_tensors(self._tensors(name), tensors) if states else None,
        )
        write_text(self._manifest(name), wrapped(asdict(manifest)))
        self._tidy_up(name)

    def restore(
        self,
        pack: Sequence[Candidate],
        data: SearchData,
        settings: TrainSettings,
        *,
        start: int,
        until: int,
    ) -> PackRun | None:
        """Returns the pack as the latest checkpoint that is whole has it; None if there is none.

        A storage that does not answer says nothing of what is there, and is an error.

        Args:
            pack: Those to train. The checkpoint may know more.
            data: See `train_leg`.
            settings: See `TrainSettings`; a checkpoint that was made under others is not used.
            start: The epoch at which the leg began.
            until: The epoch at which it ends.

        Raises:
            PlaceError: The storage does not say.
        """
        for path in reversed(listed(self.path, "epoch-*.json")):
            try:
                manifest = Manifest.read(path)
                manifest.check(pack, circumstances(data, settings), start=start, until=until)
                if _step_of(path) != _name(manifest.epoch, manifest.batch):
                    raise ValueError("its name belongs to another step")
                return self._restored(manifest, pack, data, settings)
            except PlaceError:
                raise
            except _UNREADABLE as error:
                logger.warning("checkpoint %s is not used: %s", path, first_line(error))
        if self._whole is None:
            return None
        return self._whole.restore(pack, data, settings, start=start, until=until)

    def _restored(
        self,
        manifest: Manifest,
        pack: Sequence[Candidate],
        data: SearchData,
        settings: TrainSettings,
    ) -> PackRun:
        ordinals = {candidate.ordinal for candidate in pack}
        ends = [end for end in manifest.ends if end.outcome.ordinal in ordinals]
        finished = [self._restored_end(end) for end in ends]
        live = [candidate for candidate in pack if candidate.ordinal in manifest.live]
        population = None
        if live:
            states = self._states(manifest)
            own = [states[candidate.ordinal] for candidate in live]
            population = Population(live, data, settings, own)
        run = PackRun(pack, population, manifest.seconds_of())
        run.epoch = manifest.epoch
        run.epoch_seconds = manifest.epoch_seconds * len(live) / max(1, len(manifest.live))
        run.reports = [report for report in manifest.reports if report.ordinal in ordinals]
        run.finished = finished
        self._weights = {
            end.outcome.ordinal: end.weights for end in ends if end.weights is not None
        }
        return run

    def _states(self, manifest: Manifest) -> dict[int, CandidateState]:
        """Reads the states of all who were in training, by ordinal."""
        own: dict[int, dict[str, Tensor]] = {ordinal: {} for ordinal in manifest.live}
        step = _name(manifest.epoch, manifest.batch)
        for full, tensor in self._content(step, manifest.tensors or "").items():
            ordinal, _, name = full.partition("/")
            own[int(ordinal)][name] = tensor
        seconds = manifest.seconds_of()
        candidates = {candidate.ordinal: candidate for candidate in manifest.candidates}
        return {
            ordinal: CandidateState(
                candidate=candidates[ordinal],
                epoch=manifest.epoch,
                batch=manifest.batch,
                step=manifest.step,
                seconds=seconds[ordinal],
                events=events,
                tensors=own[ordinal],
                circumstances=manifest.circumstances,
            )
            for ordinal, events in zip(manifest.live, manifest.histories, strict=True)
        }

    def _restored_end(self, end: End) -> Trained:
        if end.weights is None:
            return Trained(outcome=end.outcome)
        state = self._content(f"end-{end.outcome.ordinal}", end.weights)
        return Trained(outcome=end.outcome, state=state)

    def write_split(self, parts: Sequence[Sequence[Candidate]], *, is_memory: bool) -> None:
        """Notes that the pack is trained in parts, so that the same parts go on with their checkpoints.

        Args:
            parts: Who is in each.
            is_memory: Whether it was split because memory ran out.
        """
        ordinals = tuple(tuple(candidate.ordinal for candidate in part) for part in parts)
        split = Split(format=FORMAT, parts=ordinals, is_memory=is_memory)
        try:
            make_folder(self.path)
            write_text(self.path / "split.json", wrapped(asdict(split)))
        except OSError as error:
            logger.warning("no checkpoint could be written to %s: %s", self.path, error)

    def known_split(self, pack: Sequence[Candidate]) -> tuple[list[list[Candidate]], bool] | None:
        """Returns what `write_split` noted of this pack; None if nothing, or nothing that can be read."""
        path = self.path / "split.json"
        try:
            if not path.exists():
                return None
            split = read_content(Split, path)
            return split.divide(pack), split.is_memory
        except PlaceError:
            raise
        except _UNREADABLE as error:
            logger.warning("checkpoint %s is not used: %s", path, first_line(error))
        self.remove()  # parts whose members are unknown
        return None

    @property
    def is_lost(self) -> bool:
        """Whether the device was lost while this very pack was trained."""
        return bool(listed(self.path, f"{_LOSS}*.txt"))

    @property
    def num_losses(self) -> int:
        """How often the device was lost with this pack, or with one that it was a part of."""
        before = 0 if self._whole is None else self._whole.num_losses
        return before + len(listed(self.path, f"{_LOSS}*.txt"))

    def write_loss(self, words: str) -> None:
        """Notes that the device was lost while this pack was trained.

        Args:
            words: Of the device.
        """
        number = len(listed(self.path, f"{_LOSS}*.txt")) + 1
        try:
            make_folder(self.path)
            write_text(self.path / f"{_LOSS}{number}.txt", words)
        except OSError as error:
            logger.warning("no note could be written to %s: %s", self.path, error)

    def damaged(self) -> list[str]:
        """Returns the checkpoints, those of parts included, that `restore` would pass over, with the reason."""
        found = []
        for path in listed(self.path, "epoch-*.json", below=True):
            folder = CheckpointFolder(path.parent)
            try:
                manifest = Manifest.read(path)
                if manifest.tensors is not None:
                    folder._content(_step_of(path), manifest.tensors)
                for end in manifest.ends:
                    folder._restored_end(end)
            except PlaceError:
                raise
            except _UNREADABLE as error:
                found.append(f"{str(path)[len(str(self.path)) + 1 :]}: {first_line(error)}")
        return found

    @property
    def _mark(self) -> str:
        """What the names of new files end in."""
        return "-{checksum}" if isinstance(self.path, RemotePath) else ""

    def _manifest(self, name: str) -> AnyPath:
        return self.path / f"{name}{self._mark}.json"

    def _tensors(self, name: str) -> AnyPath:
        return self.path / f"{name}{self._mark}.safetensors"

    def _end(self, ordinal: int) -> AnyPath:
        return self._tensors(f"end-{ordinal}")

    def _content(self, name: str, checksum: str) -> dict[str, Tensor]:
        """Reads tensors of this name and checksum; raises as `verified` does."""
        plain = self.path / f"{name}.safetensors"
        marked = self.path / f"{name}-{checksum[:16]}.safetensors"
        first, second = (marked, plain) if self._mark else (plain, marked)
        try:
            return verified(first, checksum)
        except FileNotFoundError as error:
            try:
                return verified(second, checksum)
            except FileNotFoundError:
                raise error from None

    def _tidy_up(self, name: str) -> None:
        """Removes all checkpoints but the latest up to this one, and what interrupted writes left behind."""
        if self.path.is_symlink():  # somebody else's folder
            return
        files = sorted(self._files(), key=lambda path: (not path.name.endswith(".json"), path.name))
        steps = {_step_of(path) for path in files if path.name.endswith(".json")} - {""}
        kept = (*sorted(step for step in steps if step <= name)[-_KEPT:], _LOSS)
        ends = {
            path.name
            for ordinal, checksum in self._weights.items()
            for path in (
                named(self._end(ordinal), checksum),
                self.path / f"end-{ordinal}.safetensors",
            )
        }
        for path in files:  # a manifest goes before its tensors
            if path.name not in ends and not path.name.startswith(kept):
                path.unlink(missing_ok=True)

    def _files(self) -> "Iterable[AnyPath]":
        if isinstance(self.path, RemotePath):  # of one listing
            return [path for path in self.path.files() if path.parent == self.path]
        return [path for path in listed(self.path) if path.is_file()]

    def remove(self) -> None:
        """Removes the folder, as far as that is possible."""
        self._weights.clear()
        remove_tree(self.path)


def _name(epoch: int, batch: int) -> str:
    return f"epoch-{epoch:06d}-step-{batch:06d}"


def _step_of(path: AnyPath) -> str:
    """The step in a manifest's name; empty if it is another file."""
    match = re.fullmatch(r"(epoch-\d{6,}-step-\d{6,})(-[0-9a-f]{16})?\.json", path.name, re.ASCII)
    return match[1] if match else ""
