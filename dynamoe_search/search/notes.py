"""What is worth knowing of a study that is not wrong: the notes that `check` prints, one sentence each."""

import itertools
import math
from collections.abc import Iterator

from dynamoe_search.data import DataInfo
from dynamoe_search.search.designs import KIND, SHAPE, applicable_paths, setting
from dynamoe_search.search.space import Space
from dynamoe_search.specs import values_of
from dynamoe_search.specs.study import unseen_by_pruners
from dynamoe_search.wording import counted

_SECTIONS = ("schedule", "router", "losses", "adaptive")
_FIXED_SCHEDULE = {"dense"}  # references that read no setting of the schedule


def notes(space: Space, info: DataInfo, trials: int) -> Iterator[str]:
    """Yields the notes on a study.

    Args:
        space: The study's designs.
        info: The study's data.
        trials: How many candidates there will be.
    """
    spec = space.spec
    if not space.distributions:
        yield "every value is fixed, so there is one design; `train` trains it"
    elif space.size is not None and trials < spec.study.trials:
        yield (
            f"the space has at most {counted(space.size, 'design')}, fewer than study.trials "
            f"({spec.study.trials}); the search ends when all are tried"
        )
    for path in unread_settings(space):
        yield f"{path} is set, but no design of this study reads it"
    yield from _late_adaptation(space, info)
    if spec.search.pruner.kind == "auto" and (unseen := unseen_by_pruners(spec)):
        yield f"nobody is pruned: no pruner can compare candidates in {', '.join(unseen)}"
    if spec.pruner.kind != "none":
        yield "epochs and time are at most this: candidates that are pruned take less"
    widths = {*values_of(spec.model.d_model), *values_of(spec.model.d_expert)}
    if spec.train.precision != "fp32" and any(width % 8 for width in widths):
        yield (
            "on a GPU in bf16, grouped matrix products want model.d_model and model.d_expert "
            "in multiples of 8"
        )


def unread_settings(space: Space) -> list[str]:
    """Returns the settings about experts that the file gives and that change no design of the study.

    What is switched off (`adaptive.enabled = false`, a loss of weight 0) ignores nothing.
    """
    spec, read = space.spec, _read_paths(space)
    unread = []
    for section in _SECTIONS:
        given = getattr(spec, section).model_fields_set
        for name in type(getattr(spec, section)).model_fields:
            path = f"{section}.{name}"
            if name in given and path not in read and not _is_off(space, path):
                unread.append(path)
    return unread


def _is_off(space: Space, path: str) -> bool:
    is_switch = path == "adaptive.enabled" or (
        path.startswith("losses.") and path != "losses.normalize_load_balance"
    )
    return is_switch and not any(values_of(setting(space.spec, path)))


def _read_paths(space: Space) -> set[str]:
    """The settings that some searched or reference design reads."""
    spec = space.spec
    shapes = list(space.shapes)
    if set(spec.study.references) - _FIXED_SCHEDULE:
        shapes.append("uniform")
    read = {SHAPE, KIND, "schedule.match"}
    for shape, kind in itertools.product(shapes, space.kinds):
        read.update(applicable_paths(spec, shape, kind))
    if "random-k" in space.kinds:
        read.add("router.histogram")
    if "losses.load_balance" in read and any(values_of(spec.losses.load_balance)):
        read.add("losses.normalize_load_balance")
    if _can_adapt(space):
        read.update(f"adaptive.{name}" for name in type(spec.adaptive).model_fields)
    return read


def _can_adapt(space: Space) -> bool:
    return "top-any" in space.kinds and any(values_of(space.spec.adaptive.enabled))


def _late_adaptation(space: Space, info: DataInfo) -> Iterator[str]:
    train, first = space.spec.train, space.spec.adaptive.update_at
    steps = math.ceil(info.per_epoch / train.batch_size) * train.epochs
    if _can_adapt(space) and first > steps:
        yield (
            f"no expert is ever added or removed: adaptive.update_at ({first}) is beyond the "
            f"{steps:,} training steps of a candidate"
        )
