"""`StudySpec`: a whole study file, with the checks that need more than one section."""

from collections.abc import Callable, Collection, Iterator
from itertools import pairwise
from typing import get_args

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from dynamoe_search.errors import Problem
from dynamoe_search.specs import language
from dynamoe_search.specs.searchable import Frozen, values_of, whole_numbers_of
from dynamoe_search.specs.sections import (
    AdaptiveSection,
    DataSection,
    LossesSection,
    ModelSection,
    PrunerSection,
    RouterSection,
    ScheduleSection,
    SearchSection,
    StudySection,
    TrainSection,
)
from dynamoe_search.specs.sizes import most_train
from dynamoe_search.specs.vocabulary import (
    BOUNDS_KEPT_BY_RIVALS,
    IMAGE_BACKBONES,
    LANGUAGE_BACKBONES,
    LOSS_NAMES,
    PRUNED_ON,
    ROUTER_LOSSES,
    TEXT_NAMES,
    Objective,
)


class StudySpec(Frozen):
    """A study: a model description in which some values are ranges."""

    study: StudySection
    data: DataSection = Field(default_factory=DataSection)
    model: ModelSection = Field(default_factory=ModelSection)
    schedule: ScheduleSection = Field(default_factory=ScheduleSection)
    router: RouterSection = Field(default_factory=RouterSection)
    losses: LossesSection = Field(default_factory=LossesSection)
    adaptive: AdaptiveSection = Field(default_factory=AdaptiveSection)
    train: TrainSection = Field(default_factory=TrainSection)
    search: SearchSection = Field(default_factory=SearchSection)

    @model_validator(mode="after")
    def _fits_together(self) -> "StudySpec":
        if problems := list(conflicts(self)):
            raise PydanticCustomError(
                "conflicts", "the sections do not fit together", {"problems": problems}
            )
        return self

    @property
    def pruner(self) -> PrunerSection:
        """`search.pruner` with `auto` decided: `pareto` if it may compare what this study is about, else `none`."""
        pruner = self.search.pruner
        if pruner.kind != "auto":
            return pruner
        kind = "none" if unseen_by_pruners(self) else "pareto"
        return pruner.model_copy(update={"kind": kind})


def unseen_by_pruners(spec: StudySpec) -> list[str]:
    """Returns the objectives and constraints of a study that no pruner can compare candidates in."""
    unseen: list[str] = [name for name in spec.study.objectives if name not in PRUNED_ON]
    return unseen + [name for name in spec.study.constraints if name not in BOUNDS_KEPT_BY_RIVALS]


def conflicts(spec: StudySpec, without: Collection[str] = ()) -> Iterator[Problem]:
    """Yields every combination of values that cannot be built, all at once.

    Args:
        spec: The study.
        without: Sections that cannot be relied on; checks that read one of them are left out.
    """
    for sections, check in _CHECKS:
        if not set(sections) & set(without):
            yield from check(spec)


def useless(spec: StudySpec, without: Collection[str] = ()) -> Iterator[Problem]:
    """Yields what a study file says to no effect. Studies that were stored with it can still be read.

    Args:
        spec: The study.
        without: Sections that cannot be relied on.
    """
    for sections, check in _USELESS:
        if not set(sections) & set(without):
            yield from check(spec)


def _patch_conflicts(spec: StudySpec) -> Iterator[Problem]:
    others = [name for name in (*IMAGE_BACKBONES, *LANGUAGE_BACKBONES) if name != "vit"]
    is_changed = spec.model.patch_size != ModelSection.model_fields["patch_size"].default
    if is_changed and spec.model.backbone in others:
        yield Problem(
            path="model.patch_size",
            got=str(spec.model.patch_size),
            allowed=f"is used only with model.backbone vit; here it is {spec.model.backbone}",
        )


def _epoch_conflicts(spec: StudySpec) -> Iterator[Problem]:
    most = most_train(spec.data)
    if most is not None:
        yield from too_long_epochs(spec.data, most)


def too_long_epochs(data: DataSection, num_train: int) -> Iterator[Problem]:
    """Yields an epoch that is longer than the training part.

    Args:
        data: The section.
        num_train: Examples, or sequences, of the training part.
    """
    if data.epoch_size is not None and data.epoch_size > num_train > 0:
        unit = "sequences" if data.name in TEXT_NAMES else "examples"
        yield Problem(
            path="data.epoch_size",
            got=str(data.epoch_size),
            allowed=f"must be at most the training part, which has {num_train:,} {unit}; without it an epoch is all "
            "of them",
        )


def _head_conflicts(spec: StudySpec) -> Iterator[Problem]:
    heads = spec.model.num_heads
    odd = [width for width in whole_numbers_of(spec.model.d_model) if width % heads]
    if spec.model.backbone == "vit" and odd:
        yield Problem(
            path="model.num_heads",
            got=str(heads),
            allowed=f"must divide every model.d_model ({', '.join(map(str, odd[:3]))})",
        )


_TEXT_FIELDS: dict[str, tuple[str, ...]] = {
    "repo": ("hf",),
    "subset": ("hf", "recycling-the-web"),
    "field": TEXT_NAMES[1:],
    "max_documents": TEXT_NAMES,
    "max_tokens": TEXT_NAMES,
    "sequence_length": TEXT_NAMES,
    "tokenizer": TEXT_NAMES,
    "tokenizer_path": TEXT_NAMES,
    "vocab_size": TEXT_NAMES,
}
"""Which fields of `[data]` are for which data sets of text; the others are of no use there."""


def _data_conflicts(spec: StudySpec) -> Iterator[Problem]:
    if spec.data.name in ("npz", "folder", "text") and spec.data.path is None:
        yield Problem(
            path="data.path",
            got="nothing",
            allowed=f'data.name = "{spec.data.name}" needs the path of the data',
        )
    for name, users in _TEXT_FIELDS.items():
        value = getattr(spec.data, name)
        if value != DataSection.model_fields[name].default and spec.data.name not in users:
            yield Problem(
                path=f"data.{name}",
                got=str(value),
                allowed=f"is used only with data.name {', '.join(users)}; here it is {spec.data.name}",
            )
    if spec.data.name in TEXT_NAMES:
        yield from _text_conflicts(spec.data)


def _text_conflicts(data: DataSection) -> Iterator[Problem]:
    is_streamed = data.name in ("hf", "recycling-the-web")
    wrong: dict[tuple[str, str], bool] = {
        ("repo", "must name the data set of data.name hf, as owner/name"): (
            data.name == "hf" and data.repo is None
        ),
        ("path", f"is not used with data.name {data.name}"): (
            data.name != "text" and data.path is not None
        ),
        ("image_size", f"is for images; data.name is {data.name}"): data.image_size is not None,
        ("max_documents", "what is streamed needs data.max_documents or data.max_tokens"): (
            is_streamed and data.max_documents is None and data.max_tokens is None
        ),
        ("max_tokens", "cannot be counted before a bpe is trained; use data.max_documents"): (
            data.max_tokens is not None and data.tokenizer == "bpe"
        ),
        ("tokenizer_path", f"is used only with data.tokenizer gpt2; here it is {data.tokenizer}"): (
            data.tokenizer_path is not None and data.tokenizer != "gpt2"
        ),
        ("vocab_size", f"is used only with data.tokenizer bpe; here it is {data.tokenizer}"): (
            data.vocab_size != DataSection.model_fields["vocab_size"].default
            and data.tokenizer != "bpe"
        ),
    }
    for (name, allowed), is_wrong in wrong.items():
        if is_wrong:
            value = getattr(data, name)
            yield Problem(
                path=f"data.{name}", got="nothing" if value is None else str(value), allowed=allowed
            )


def _schedule_conflicts(spec: StudySpec) -> Iterator[Problem]:
    schedule = spec.schedule
    lowest = min(values_of(schedule.max_experts))
    highest = max(values_of(schedule.min_experts))
    if highest > lowest:
        yield Problem(
            path="schedule.min_experts",
            got=str(highest),
            allowed=f"must be at most the smallest schedule.max_experts ({lowest})",
        )
    if schedule.total_experts is not None and schedule.match != "total":
        yield Problem(
            path="schedule.total_experts",
            got=str(schedule.total_experts),
            allowed='is used only with schedule.match = "total"',
        )


def _total_conflicts(spec: StudySpec) -> Iterator[Problem]:
    schedule = spec.schedule
    if schedule.total_experts is None:
        return
    layers = max(values_of(spec.model.num_layers))
    if min(values_of(schedule.total_experts)) < layers:
        yield Problem(
            path="schedule.total_experts",
            got=str(min(values_of(schedule.total_experts))),
            allowed=f"must be at least one per layer ({layers})",
        )


def _loss_conflicts(spec: StudySpec) -> Iterator[Problem]:
    kinds = tuple(values_of(spec.router.kind))
    for name in LOSS_NAMES:
        weight = getattr(spec.losses, name)
        usable = [kind for kind, losses in ROUTER_LOSSES.items() if name in losses]
        if any(values_of(weight)) and not set(kinds) & set(usable):
            yield Problem(
                path=f"losses.{name}",
                got=str(weight),
                allowed=f"has a gradient only with router.kind {', '.join(usable)}; here it is {', '.join(kinds)}",
            )


def _histogram_conflicts(spec: StudySpec) -> Iterator[Problem]:
    histogram = spec.router.histogram
    if min(histogram) < 0 or abs(sum(histogram) - 1) > 1e-6:
        yield Problem(
            path="router.histogram",
            got=str(list(histogram)),
            allowed="must be probabilities that sum to 1",
        )


def _period_conflicts(spec: StudySpec) -> Iterator[Problem]:
    adaptive = spec.adaptive
    if not any(values_of(adaptive.enabled)):
        return
    if not adaptive.record_from < adaptive.update_at <= adaptive.period:
        yield Problem(
            path="adaptive.update_at",
            got=str(adaptive.update_at),
            allowed=f"must be above adaptive.record_from ({adaptive.record_from}) "
            f"and at most adaptive.period ({adaptive.period})",
        )


def _adaptive_conflicts(spec: StudySpec) -> Iterator[Problem]:
    adaptive = spec.adaptive
    if not any(values_of(adaptive.enabled)):
        return
    if "top-any" not in values_of(spec.router.kind):
        yield Problem(
            path="adaptive.enabled",
            got="true",
            allowed='needs "top-any" among router.kind, whose thresholds can leave a token without an expert',
        )
    most = max(values_of(spec.schedule.max_experts))
    if adaptive.max_experts < most:
        yield Problem(
            path="adaptive.max_experts",
            got=str(adaptive.max_experts),
            allowed=f"must be at least schedule.max_experts ({most})",
        )


def _study_conflicts(spec: StudySpec) -> Iterator[Problem]:
    study = spec.study
    if len(set(study.objectives)) != len(study.objectives):
        yield Problem(
            path="study.objectives",
            got=str(list(study.objectives)),
            allowed="must not name an objective twice",
        )
    known = get_args(Objective)
    for name in study.constraints:
        bound, _, measured = name.partition("_")
        if bound not in ("min", "max") or measured not in known:
            yield Problem(
                path=f"study.constraints.{name}",
                got=name,
                allowed=f"must be min_ or max_ and one of {', '.join(known)}",
            )


def _rung_conflicts(spec: StudySpec) -> Iterator[Problem]:
    pruner = spec.search.pruner
    if pruner.kind == "none":
        return
    rungs, epochs = pruner.rungs, spec.train.epochs
    plan = rungs or ()
    wrong = {
        "must have an epoch; leave it out for the usual ones": rungs == (),
        "must be epochs, which count from 1": any(rung < 1 for rung in plan),
        "must increase": any(later <= rung for rung, later in pairwise(plan)),
        f"must be below train.epochs ({epochs}), where candidates end anyway": any(
            rung >= epochs for rung in plan
        ),
    }
    for allowed, is_wrong in wrong.items():
        if is_wrong:
            yield Problem(path="search.pruner.rungs", got=str(list(plan)), allowed=allowed)


def _pruner_conflicts(spec: StudySpec) -> Iterator[Problem]:
    pruner = spec.search.pruner
    if pruner.kind in ("none", "auto"):
        return
    if unseen := unseen_by_pruners(spec):
        yield Problem(
            path="search.pruner.kind",
            got=f'"{pruner.kind}"',
            allowed=f"compares {', '.join(PRUNED_ON)} only and could stop the best in "
            f'{", ".join(unseen)}; set it to "none" or "auto"',
        )


_CHECKS: tuple[tuple[tuple[str, ...], Callable[[StudySpec], Iterator[Problem]]], ...] = (
    (("model",), _head_conflicts),
    (("model",), language.gpt_head_conflicts),
    (("model", "data"), language.backbone_conflicts),
    (("router", "data"), language.causal_conflicts),
    (("train", "data"), language.augment_conflicts),
    (("study", "data"), language.measure_conflicts),
    (("data",), _data_conflicts),
    (("schedule",), _schedule_conflicts),
    (("schedule", "model"), _total_conflicts),
    (("router", "losses"), _loss_conflicts),
    (("router",), _histogram_conflicts),
    (("adaptive",), _period_conflicts),
    (("adaptive", "router", "schedule"), _adaptive_conflicts),
    (("study",), _study_conflicts),
    (("search", "train"), _rung_conflicts),
    (("search", "study"), _pruner_conflicts),
)
"""Every check between values, with the sections that it reads."""

_USELESS: tuple[tuple[tuple[str, ...], Callable[[StudySpec], Iterator[Problem]]], ...] = (
    (("model",), _patch_conflicts),
    (("data",), _epoch_conflicts),
)
