"""Checkpoints of a pack in training: what is needed to go on after an epoch, to the same bits. No pickle.

    epoch-000004.safetensors    every tensor that training changes
    epoch-000004.json           the manifest: who trains, who has ended and how, checksums; written last
    end-17.safetensors          the weights with which candidate 17 ended

Every file appears whole or not at all, and a checkpoint counts only if its manifest is there and all checksums are
right. The latest two are kept.
"""

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import safetensors
import torch
from pydantic import TypeAdapter
from safetensors.torch import load_file

from dynamoe_search import __version__
from dynamoe_search.data import ImageData
from dynamoe_search.records import Candidate, Outcome, Progress
from dynamoe_search.training.durable_files import sha256, write_tensors, write_text
from dynamoe_search.training.pack_run import PackRun, load_tensors, tensors_of
from dynamoe_search.training.population import Population
from dynamoe_search.training.settings import Trained, TrainSettings

logger = logging.getLogger(__name__)

FORMAT = 1
EVERY_SECONDS = 30.0
_KEPT = 2

Events = tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class End:
    """How a candidate of the pack ended; `weights` is the checksum of their file, None for a failed one."""

    outcome: Outcome
    weights: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Everything of a pack in training that is not a tensor."""

    format: int
    circumstances: dict[str, str]  # what could change a number, besides the candidates
    candidates: tuple[Candidate, ...]  # all that began together, in order
    live: tuple[int, ...]  # ordinals of those still in training, in order
    epoch: int
    step: int
    seconds: tuple[float, ...]  # of all that began
    histories: tuple[Events, ...]  # open experts over time, of the live
    reports: tuple[Progress, ...]
    ends: tuple[End, ...]
    tensors: str | None  # checksum of their file; None if nobody is left in training


class CheckpointFolder:
    """The checkpoints of one pack.

    Args:
        path: A folder of its own; it is made when the first checkpoint is written.
        every_seconds: A checkpoint is written after an epoch if the last one is so old.
    """

    def __init__(self, path: Path, *, every_seconds: float = EVERY_SECONDS) -> None:
        self.path = path
        self.every_seconds = every_seconds
        self._written_at = time.monotonic()
        self._weights: dict[int, str] = {}  # checksums of the ends' files, by ordinal

    def write_if_due(self, run: PackRun, data: ImageData, settings: TrainSettings) -> None:
        """Writes a checkpoint if the last one is old enough; a full disk is a warning, not an error."""
        if time.monotonic() - self._written_at < self.every_seconds:
            return
        try:
            self._write(run, _circumstances(data, settings))
        except (OSError, safetensors.SafetensorError) as error:
            logger.warning("no checkpoint could be written to %s: %s", self.path, error)
        self._written_at = time.monotonic()

    def _write(self, run: PackRun, circumstances: dict[str, str]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        population, checksum = run.population, None
        for end in run.finished:
            ordinal = end.outcome.ordinal
            if end.state is not None and ordinal not in self._weights:
                self._weights[ordinal] = write_tensors(self._end(ordinal), end.state)
        if population is not None:
            checksum = write_tensors(self._tensors(run.epoch), tensors_of(population))
        manifest = Manifest(
            format=FORMAT,
            circumstances=circumstances,
            candidates=run.pack,
            live=tuple(candidate.ordinal for candidate in run.live),
            epoch=run.epoch,
            step=0 if population is None else population.step,
            seconds=tuple(run.seconds[candidate.ordinal] for candidate in run.pack),
            histories=()
            if population is None
            else tuple(population.adaptation.events(p) for p in range(len(run.live))),
            reports=tuple(run.reports),
            ends=tuple(
                End(outcome=one.outcome, weights=self._weights.get(one.outcome.ordinal))
                for one in run.finished
            ),
            tensors=checksum,
        )
        content = asdict(manifest)
        text = json.dumps({"sha256": _checksum(content), "manifest": content})
        write_text(self._manifest(run.epoch), text)
        self._tidy_up(run.epoch)

    def restore(
        self, pack: Sequence[Candidate], data: ImageData, settings: TrainSettings
    ) -> PackRun | None:
        """Returns the pack as the latest checkpoint that is whole has it; None if there is none.

        Args:
            pack: Those to train. The checkpoint may know more, whose ends are stored elsewhere by now.
            data: See `train_population`.
            settings: See `TrainSettings`; a checkpoint that was made under others is not used.
        """
        for path in sorted(self.path.glob("epoch-*.json"), reverse=True):
            try:
                manifest = _read(path)
                _check(manifest, pack, _circumstances(data, settings))
                return self._restored(manifest, path, pack, data, settings)
            except (OSError, ValueError, RecursionError, safetensors.SafetensorError) as error:
                logger.warning("checkpoint %s is not used: %s", path, _first_line(error))
        return None

    def _restored(
        self,
        manifest: Manifest,
        path: Path,
        pack: Sequence[Candidate],
        data: ImageData,
        settings: TrainSettings,
    ) -> PackRun:
        if path != self._manifest(manifest.epoch):
            raise ValueError("its name belongs to another epoch")
        ends = [self._restored_end(end) for end in manifest.ends]
        population = None
        if manifest.tensors is not None:
            tensors = _verified(self._tensors(manifest.epoch), manifest.tensors)
            population = Population(manifest.candidates, data, settings)
            live = set(manifest.live)
            population.keep([p for p, c in enumerate(manifest.candidates) if c.ordinal in live])
            load_tensors(population, tensors)
            population.epoch, population.step = manifest.epoch, manifest.step
            population.adaptation.set_events(manifest.histories)
        run = PackRun(manifest.candidates, population)
        run.epoch = manifest.epoch
        run.seconds = dict(zip(run.seconds, manifest.seconds, strict=True))
        run.reports = list(manifest.reports)
        run.finished = ends
        run.only({candidate.ordinal for candidate in pack})
        self._weights = {
            end.outcome.ordinal: end.weights for end in manifest.ends if end.weights is not None
        }
        return run

    def _restored_end(self, end: End) -> Trained:
        if end.weights is None:
            return Trained(outcome=end.outcome)
        return Trained(
            outcome=end.outcome, state=_verified(self._end(end.outcome.ordinal), end.weights)
        )

    def _manifest(self, epoch: int) -> Path:
        return self.path / f"epoch-{epoch:06d}.json"

    def _tensors(self, epoch: int) -> Path:
        return self.path / f"epoch-{epoch:06d}.safetensors"

    def _end(self, ordinal: int) -> Path:
        return self.path / f"end-{ordinal}.safetensors"

    def _tidy_up(self, epoch: int) -> None:
        """Removes all checkpoints but the latest up to this epoch, and what interrupted writes left behind."""
        found = sorted(self.path.glob("epoch-*.json"))
        manifests = [path for path in found if path <= self._manifest(epoch)][-_KEPT:]
        kept = {*manifests, *(path.with_suffix(".safetensors") for path in manifests)}
        kept |= {self._end(ordinal) for ordinal in self._weights}
        for path in sorted(self.path.iterdir()):  # a manifest goes before its tensors
            if path not in kept:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the folder, as far as that is possible."""
        self._weights.clear()
        shutil.rmtree(self.path, ignore_errors=True)


def _circumstances(data: ImageData, settings: TrainSettings) -> dict[str, str]:
    facts = {
        "torch": torch.__version__,
        "dynamoe_search": __version__,
        "device": settings.device,
        "num_slots": settings.num_slots,
        "expert_backend": settings.expert_backend,
        "num_threads": torch.get_num_threads(),
        "measure": sorted(settings.measure),
        "data": (data.data_hash, data.input_shape, data.num_classes, len(data.train.y)),
    }
    return {name: str(fact) for name, fact in facts.items()}


@cache
def _adapter() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)


def _read(path: Path) -> Manifest:
    """Reads a manifest; raises `ValueError` if it is none, or damaged."""
    envelope = json.loads(path.read_bytes())
    content = envelope.get("manifest") if isinstance(envelope, dict) else None
    if content is None or envelope.get("sha256") != _checksum(content):
        raise ValueError("its manifest is damaged")
    return _adapter().validate_python(content)


def _checksum(content: object) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _check(manifest: Manifest, pack: Sequence[Candidate], circumstances: dict[str, str]) -> None:
    """Raises `ValueError` if a manifest is not of this pack under these circumstances, or contradicts itself."""
    if manifest.format != FORMAT:
        raise ValueError(f"it has format {manifest.format}, and this version reads {FORMAT}")
    if manifest.circumstances != circumstances:
        raise ValueError("it was made on other data, with other settings or other versions")
    own = {
        (candidate.pack_key, candidate.study_seed) for candidate in (*pack, *manifest.candidates)
    }
    if len(own) != 1 or not set(pack) <= set(manifest.candidates):
        raise ValueError("it is of other candidates")
    ended = [end.outcome.ordinal for end in manifest.ends]
    live = set(manifest.live)
    ordinals = [candidate.ordinal for candidate in manifest.candidates]
    if not {candidate.ordinal for candidate in pack} <= live | set(ended):
        raise ValueError("somebody to train is missing in it")
    if (
        list(manifest.live) != [ordinal for ordinal in ordinals if ordinal in live]
        or len({*live, *ended}) != len(live) + len(ended)
        or len(manifest.histories) != len(live)
        or len(manifest.seconds) != len(ordinals)
        or bool(live) != (manifest.tensors is not None)
    ):
        raise ValueError("it contradicts itself")


def _verified(path: Path, checksum: str) -> dict[str, torch.Tensor]:
    if sha256(path) != checksum:
        raise ValueError(f"{path.name} is damaged")
    # copied: to memory of torch's own alignment, on which rounding may depend, and free of the file
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).partition("\n")[0]
