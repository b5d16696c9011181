"""`CandidateState`: all that one candidate needs to go on training, to the same bits and in any company.

Stacked tensors are cut into what belongs to one candidate, and put together again for another pack:

    part/name in a single model            what it is, with the candidate's rows as leading axis
    parameters/layers.0.experts.w1         (its experts, ...); of everything else (1, ...)
    buffers/layers.0.is_open               open experts, and the running state of routers
    mean/..., square/..., powers/...       the optimiser's, of each parameter
    routed/layers.0., unrouted/layers.0.   records for the next change of experts, of adaptive candidates
    vectors/is_finite, ...                 one number each

Expert axes keep their padding to the widest layer of the study. Names are those of a single model, since a router's
group number in a pack depends on company.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dynamoe_search import __version__
from dynamoe_search.data import SearchData
from dynamoe_search.records import Candidate
from dynamoe_search.training.settings import DamagedError, Events, TrainSettings

if TYPE_CHECKING:
    from dynamoe_search.training.population import Population

VECTORS = ("is_finite", "train_loss", "loss_sum")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class CandidateState:
    """One candidate between two training steps.

    Attributes:
        candidate: Whose state this is.
        epoch: Epochs finished.
        batch: Steps made in the epoch that has begun; 0 between two epochs.
        step: Steps made in all.
        seconds: The candidate's share of the time that training has taken.
        events: (step, open experts per layer) at the start and after every change; empty if not adaptive.
        tensors: On the CPU; names and shapes do not depend on company.
        circumstances: What could change a number besides the candidate, see `circumstances`.
    """

    candidate: Candidate
    epoch: int
    batch: int
    step: int
    seconds: float
    events: Events
    tensors: Mapping[str, Tensor]
    circumstances: Mapping[str, str]

    @property
    def ordinal(self) -> int:
        """The candidate's ordinal."""
        return self.candidate.ordinal


def circumstances(data: SearchData, settings: TrainSettings) -> dict[str, str]:
    """Returns what could change a number in training, besides the candidates."""
    facts = {
        "torch": torch.__version__,
        "dynamoe_search": __version__,
        "device": "cuda:0"
        if settings.device.startswith("cuda")
        else settings.device,  # of one kind
        "num_slots": settings.num_slots,
        "expert_backend": settings.expert_backend,
        "num_threads": settings.num_threads or torch.get_num_threads(),
        "measure": sorted(settings.measure),
        "data": (data.data_hash, data.input_shape, data.num_classes, len(data.train.y)),
    }
    if data.per_epoch < len(data.train.y):
        facts["epoch_size"] = data.per_epoch
    return {name: str(fact) for name, fact in facts.items()}


def states_of(population: "Population", seconds: Mapping[int, float]) -> list[CandidateState]:
    """Returns the states of all candidates of a population, in its order; nothing of it is shared.

    Args:
        population: Candidates in training.
        seconds: What each one's share of the time was so far, by ordinal.
    """
    population.settle()
    tensors: list[dict[str, Tensor]] = [{} for _ in population.candidates]
    for name, stacked, owner in _stacked(population):
        counts = torch.bincount(owner.cpu(), minlength=len(tensors)).tolist()
        rows = torch.split(stacked.detach().cpu(), counts)  # rows stand in the order of candidates
        for own, part, candidate in zip(tensors, rows, population.candidates, strict=False):
            if len(part) and _is_kept(name, candidate):
                own[name] = part.clone(memory_format=torch.contiguous_format)
    facts = circumstances(population.data, population.settings)
    return [
        CandidateState(
            candidate=candidate,
            epoch=population.epoch,
            batch=population.batch,
            step=population.step,
            seconds=seconds.get(candidate.ordinal, 0.0),
            events=population.adaptation.events(position),
            tensors=tensors[position],
            circumstances=facts,
        )
        for position, candidate in enumerate(population.candidates)
    ]


def load_states(population: "Population", states: Sequence[CandidateState]) -> None:
    """Puts the states of all candidates of a new population in place, in its order.

    Raises:
        DamagedError: if a state has not the tensors that its network needs; then nothing is changed.
        ValueError: if the states are of different moments of training.
    """
    moments = {(state.epoch, state.batch, state.step) for state in states}
    if len(moments) != 1:
        raise ValueError(f"candidates that stand at {len(moments)} different steps")
    if [state.candidate for state in states] != population.candidates:
        raise ValueError("states of other candidates")
    for state in states:
        _make_unrouted(population, state)
    known = list(_stacked(population))
    _check_names(known, states)
    members = states if len(states) > 1 else [*states, *states]  # a lone one has a ghost
    ready = [(stacked, _joined(name, stacked, owner, members)) for name, stacked, owner in known]
    with torch.no_grad():
        for stacked, value in ready:
            stacked.copy_(value)
    ((population.epoch, population.batch, population.step),) = moments
    population.adaptation.set_events([state.events for state in states])


def training_tensors(population: "Population") -> list[Tensor]:
    """Returns all that training changes, always in the same order; whoever writes into them changes the population."""
    return [tensor for _, tensor, _ in _stacked(population)]


class TrainingCopy:
    """All that training changes, as it is now, on the device."""

    def __init__(self, population: "Population") -> None:
        self._population = population
        self._moment = (population.epoch, population.batch, population.step)
        self._tensors: list[Tensor] = [tensor.clone() for tensor in training_tensors(population)]
        self._adaptation = population.adaptation.remembered()

    @torch.no_grad()
    def restore(self) -> None:
        """Puts it in place again."""
        population = self._population
        population.epoch, population.batch, population.step = self._moment
        population.adaptation.recall(self._adaptation)
        for tensor, own in zip(training_tensors(population), self._tensors, strict=True):
            tensor.copy_(own)


def _stacked(population: "Population") -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yields name, stacked tensor and owner of each row of all that training changes."""
    cohort, optimizer, adaptation = population.cohort, population.optimizer, population.adaptation
    parts = {
        "parameters": cohort.parameters,
        "mean": optimizer.mean,
        "square": optimizer.square,
        "powers": optimizer.powers,
        "buffers": {name: cohort.buffers[name] for name in cohort.changing_buffers},
    }
    for part, tensors in parts.items():
        for name, tensor in tensors.items():
            yield f"{part}/{cohort.single_name(name)}", tensor, cohort.owner[name]
    everyone = torch.arange(cohort.num_candidates)
    for part, records in (("routed", adaptation.routed), ("unrouted", adaptation.unrouted)):
        for path, tensor in records.items():
            yield f"{part}/{path}", tensor, everyone
    for name in VECTORS:
        yield f"vectors/{name}", getattr(population, name), everyone


def _is_kept(name: str, candidate: Candidate) -> bool:
    """Tells whether a candidate has use for a tensor; whether it has rows in it may depend on its company."""
    return candidate.adaptive is not None or not name.startswith(("routed/", "unrouted/"))


def _make_unrouted(population: "Population", state: CandidateState) -> None:
    """Makes the sums of unrouted tokens, which a new population has not, if a state brings some."""
    adaptation = population.adaptation
    for path in adaptation.routed:
        own = state.tensors.get(f"unrouted/{path}")
        if own is not None and path not in adaptation.unrouted:
            shape = (population.cohort.num_candidates, *own.shape[1:])
            adaptation.unrouted[path] = torch.zeros(shape, device=population.device)


def _check_names(
    known: Sequence[tuple[str, Tensor, Tensor]], states: Sequence[CandidateState]
) -> None:
    """Raises `DamagedError` if a state's tensors are not those that its network has."""
    needed: list[set[str]] = [set() for _ in states]
    for name, _, owner in known:
        for position in set(owner.tolist()):
            if position < len(states) and _is_kept(name, states[position].candidate):
                needed[position].add(name)
    for state, names in zip(states, needed, strict=True):
        # sums of unrouted tokens are made when recording begins
        other = {name for name in names ^ state.tensors.keys() if not name.startswith("unrouted/")}
        if other:
            raise _does_not_fit(state, f"{min(other)} is in one of them only")


def _joined(name: str, stacked: Tensor, owner: Tensor, members: Sequence[CandidateState]) -> Tensor:
    """Returns the stacked tensor from every member's own rows; who has no records gets zeros."""
    counts = torch.bincount(owner.cpu(), minlength=len(members)).tolist()
    parts = []
    for member, count in zip(members, counts, strict=True):
        if count == 0:
            continue
        shape = (count, *stacked.shape[1:])
        own = member.tensors.get(name)
        if own is None:
            own = torch.zeros(shape, dtype=stacked.dtype)
        if own.shape != shape or own.dtype != stacked.dtype:
            raise _does_not_fit(member, f"{name} is {tuple(own.shape)} {own.dtype}")
        parts.append(own)
    return torch.cat(parts)


def _does_not_fit(state: CandidateState, why: str) -> DamagedError:
    return DamagedError(
        f"the checkpoint of candidate {state.ordinal} does not fit its network: {why}",
        ordinal=state.ordinal,
    )
