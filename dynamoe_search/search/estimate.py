"""What a study will cost, before it runs: the numbers that `check` prints."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from dynamoe_search.data import DataInfo, TextFacts, describe
from dynamoe_search.errors import InputError, Problem, SpecError, UsageError
from dynamoe_search.moe.accounting import count_parameters
from dynamoe_search.moe.backbones import BACKBONES, build_model
from dynamoe_search.moe.formulas import formula_counts, formula_flops, num_tokens
from dynamoe_search.records import AdaptiveConfig, Candidate
from dynamoe_search.search.designs import KIND, SHAPE, build_candidate, decide
from dynamoe_search.search.distributions import middle_value
from dynamoe_search.search.machine import resolve_device
from dynamoe_search.search.notes import notes
from dynamoe_search.search.pilot import measured_seconds, pilot_steps
from dynamoe_search.search.planner import most_in_leg
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec, too_long_epochs, values_of
from dynamoe_search.training.token_losses import PART_LOGITS

_BYTES = 4  # of a number in fp32
_COPIES = 4  # weight, gradient and the two moments of AdamW
_ROW_BYTES = 40_000  # of a candidate in the database, with its epochs and layers
_FRONT_MEMBERS = 20  # whose weights are kept; a usual front has fewer
_LARGEST = ("model.d_model", "model.num_layers", "model.d_expert", "schedule.max_experts")


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """What a study will cost. Memory and disk are rough, and on the high side.

    Attributes:
        trials: Candidates, references included; fewer than asked for if the space is smaller.
        cohorts: How many groups of candidates are proposed and trained together.
        epochs: Candidate-epochs.
        parameters_max: Parameters of the largest design.
        memory_bytes: Of a full leg of largest designs in training, with the data.
        disk_bytes: Database and weights.
        seconds: Time of the whole study, None if not measured.
        basis: What the time stands on, in words.
        notes: What else is worth knowing, one sentence each.
        text: What a text is made of; None for images.
    """

    trials: int
    cohorts: int
    epochs: int
    parameters_max: int
    memory_bytes: int
    disk_bytes: int
    seconds: float | None
    basis: str
    notes: tuple[str, ...]
    text: TextFacts | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LargestDesign:
    """The most that a design of a space can have; no single design need have all of it."""

    parameters: int  # without the tables of a vocabulary
    embedding: int  # those
    flops_per_token: int  # with all experts active
    tokens: int  # of one example
    num_slots: int  # of all layers


def estimate(
    spec: StudySpec, *, trust_code: bool = False, measure: bool = False, device: str = "auto"
) -> Estimate:
    """Returns what a study will cost.

    Args:
        spec: The study.
        trust_code: Whether a backbone named as `package.module:Class` may be imported.
        measure: Train one cohort for a few steps and extrapolate the time.
        device: Where to measure.

    Raises:
        DataError: The data cannot be described or, with `measure`, read.
        DeviceError: This machine has no such device.
        SpecError, UsageError: The largest design cannot be built, see `largest_design`.
    """
    resolve_device(device)
    space = Space(spec)
    info = describe(spec.data, quickly=True)
    largest = largest_design(space, info, trust_code=trust_code)
    trials = most_trials(space)
    together = min(trials, most_in_leg(spec.search.cohort_size))
    stored = largest.parameters + largest.embedding
    seconds, basis = None, "not measured"
    if measure and info.is_guess:
        basis = "not measured, since there are no tokens yet"
    elif measure:
        examples = spec.train.batch_size * min(trials, spec.search.cohort_size)
        forwards = largest.flops_per_token * largest.tokens * examples
        steps = pilot_steps(3 * forwards, device)  # backwards is twice that
        seconds = measured_seconds(space, info, trials, steps, device=device, trust_code=trust_code)
        basis = f"{2 * steps} training steps of the first cohort, extrapolated"
    return Estimate(
        trials=trials,
        cohorts=math.ceil(trials / spec.search.cohort_size),
        epochs=trials * spec.train.epochs,
        parameters_max=largest.parameters,
        memory_bytes=together * candidate_bytes(spec, largest) + data_bytes(info),
        disk_bytes=trials * _ROW_BYTES + _FRONT_MEMBERS * stored * _BYTES,
        seconds=seconds,
        basis=basis,
        notes=tuple(notes(space, info, trials)),
        text=info.text,
    )


def most_trials(space: Space) -> int:
    """Returns how many trials a study can have; a finite space may have fewer designs than are asked for."""
    asked = space.spec.study.trials
    if space.size is None:
        return asked
    return min(asked, space.size + len(space.spec.study.references))  # these may lie outside it


def largest_design(space: Space, info: DataInfo, *, trust_code: bool = False) -> LargestDesign:
    """Returns bounds on the size and the work of every design of a space.

    Raises:
        UsageError: The backbone is the user's own and `trust_code` is false, or it cannot be built
            for these data.
        SpecError: The patches of a `vit` do not fit the images, or an epoch is longer than the training part.
    """
    if problems := list(_misfits(space.spec, info)):
        raise SpecError(space.spec.study.name, problems)
    kinds = dict.fromkeys((*space.kinds, "top-k"))
    return _largest([_largest_of_kind(space, kind) for kind in kinds], info, trust_code=trust_code)


def largest_of(
    candidates: Iterable[Candidate], info: DataInfo, *, trust_code: bool = False
) -> LargestDesign:
    """Returns bounds on the size and the work of given designs of one backbone, with all of their slots open.

    Raises:
        UsageError: The backbone is the user's own and `trust_code` is false, or it cannot be built.
    """
    opened = [
        replace(one, experts_per_layer=one.slots_per_layer, adaptive=None) for one in candidates
    ]
    return _largest(opened, info, trust_code=trust_code)


def _largest(counts: list[Candidate], info: DataInfo, *, trust_code: bool) -> LargestDesign:
    if counts[0].model.backbone not in BACKBONES:
        # No formula for a user's own network: it is built; its work is bounded by its parameters.
        most = max(_built_size(one, info, trust_code=trust_code) for one in counts)
        tokens = 1
        return LargestDesign(
            parameters=most,
            embedding=0,
            flops_per_token=2 * most,
            tokens=tokens,
            num_slots=_slots(counts),
        )
    shape, classes = info.input_shape, info.num_classes
    sizes = [formula_counts(one, shape, classes) for one in counts]
    return LargestDesign(
        parameters=max(size.total for size in sizes),
        embedding=max(size.embedding for size in sizes),
        flops_per_token=math.ceil(
            max(formula_flops(one, shape, classes, one.experts_per_layer) for one in counts)
        ),
        tokens=num_tokens(counts[0], shape),
        num_slots=_slots(counts),
    )


def _misfits(spec: StudySpec, info: DataInfo) -> Iterator[Problem]:
    """Yields what the study file says that does not go with these data."""
    if not info.is_guess:
        yield from too_long_epochs(spec.data, info.num_train)
    if spec.model.backbone == "vit":
        _, height, width = info.input_shape
        patch = spec.model.patch_size
        if height % patch or width % patch:
            allowed = f"must divide the image ({height} x {width})"
            yield Problem(path="model.patch_size", got=str(patch), allowed=allowed)


def _built_size(candidate: Candidate, info: DataInfo, *, trust_code: bool) -> int:
    """Parameters of a design that is built, with whatever the user's own code raises in one sentence."""
    shape, classes = info.input_shape, info.num_classes
    try:
        counts = count_parameters(build_model(candidate, shape, classes, trust_code=trust_code))
    except InputError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())
        raise UsageError(
            f"backbone {candidate.model.backbone!r} cannot be built for images of shape {shape} "
            f"and {classes} classes: {type(error).__name__}: {text}"
        ) from error
    return counts.total + counts.embedding


def _slots(candidates: list[Candidate]) -> int:
    return max(sum(candidate.slots_per_layer) for candidate in candidates)


def _largest_of_kind(space: Space, kind: str) -> Candidate:
    """A design with the largest value of everything that has a size, all slots open."""

    def pick(path: str, value: object) -> object:
        if path == KIND:
            return kind
        if path == SHAPE:
            return "uniform"
        return max(values_of(value)) if path in _LARGEST else middle_value(value)

    spec = space.spec
    schedule = spec.schedule.model_copy(update={"match": "max", "total_experts": None})
    flat = spec.model_copy(update={"schedule": schedule})
    candidate = build_candidate(decide(flat, pick), flat, 0)
    per_layer = _largest_mean(space, candidate.adaptive)
    return replace(
        candidate, experts_per_layer=(per_layer,) * candidate.model.num_layers, adaptive=None
    )


def _largest_mean(space: Space, adaptive: AdaptiveConfig | None) -> int:
    """Experts per layer of the largest design, averaged over layers and rounded up."""
    schedule, layers = space.spec.schedule, space.spec.model.num_layers
    most: int = max(values_of(schedule.max_experts))
    if schedule.match == "total" and schedule.total_experts is not None:
        total = max(values_of(schedule.total_experts))
        most = max(most, math.ceil(total / max(values_of(layers))))
    if any(values_of(space.spec.adaptive.enabled)) or adaptive is not None:
        most = max(most, space.num_slots)
    return most


def candidate_bytes(spec: StudySpec, largest: LargestDesign) -> int:
    """Returns the memory of one candidate in training: its tensors, and what the backward pass needs."""
    stored = _COPIES * (largest.parameters + largest.embedding)
    return _BYTES * stored + pass_bytes(spec, largest)


def pass_bytes(spec: StudySpec, largest: LargestDesign) -> int:
    """Returns what the backward pass of one candidate needs of the forward pass, in bytes."""
    tokens = spec.train.batch_size * largest.tokens
    width: int = max(values_of(spec.model.d_model))
    hidden: int = max(values_of(spec.model.d_expert))
    layers: int = max(values_of(spec.model.num_layers)) * spec.model.moe_every
    per_token = layers * (8 * width + 4 * hidden) + 6 * largest.num_slots
    logits = 4 * PART_LOGITS if largest.embedding else 0
    return _BYTES * (logits + tokens * per_token)


def data_bytes(info: DataInfo) -> int:
    """Returns the memory of a study's data."""
    return _BYTES * math.prod(info.input_shape) * (info.num_train + info.num_validation)
