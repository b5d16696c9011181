"""What a study of language models may say, and what only such a study may say."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dynamoe_search.errors import Problem
from dynamoe_search.specs.searchable import values_of, whole_numbers_of
from dynamoe_search.specs.vocabulary import (
    IMAGE_BACKBONES,
    LANGUAGE_BACKBONES,
    LANGUAGE_OBJECTIVES,
    LOOKS_ACROSS_TOKENS,
    ROUTER_KINDS,
    TEXT_NAMES,
)

if TYPE_CHECKING:
    from dynamoe_search.specs.study import StudySpec


def backbone_conflicts(spec: "StudySpec") -> Iterator[Problem]:
    """Yields what does not go with the backbone: data of the other kind, and settings that others read."""
    backbone, is_text = spec.model.backbone, spec.data.name in TEXT_NAMES
    if backbone in (LANGUAGE_BACKBONES if not is_text else IMAGE_BACKBONES):
        fitting = LANGUAGE_BACKBONES if is_text else IMAGE_BACKBONES
        kind = "text" if is_text else "images"
        yield Problem(
            path="model.backbone",
            got=backbone,
            allowed=f"data.name {spec.data.name} is {kind}, for {', '.join(fitting)} or a class of your own",
        )
    if spec.model.moe_every != 1 and backbone != "gpt":
        yield Problem(
            path="model.moe_every",
            got=str(spec.model.moe_every),
            allowed=f"is used only with model.backbone gpt; here it is {backbone}",
        )
    if spec.model.expert != "gelu" and backbone in IMAGE_BACKBONES:
        yield Problem(
            path="model.expert",
            got=spec.model.expert,
            allowed=f"is used only with model.backbone {', '.join(LANGUAGE_BACKBONES)}; here it is {backbone}",
        )


def gpt_head_conflicts(spec: "StudySpec") -> Iterator[Problem]:
    """Yields widths that the heads of a `gpt` do not divide into even parts, which rotary positions turn in pairs."""
    heads = spec.model.num_heads
    odd = [width for width in whole_numbers_of(spec.model.d_model) if width % (2 * heads)]
    if spec.model.backbone == "gpt" and odd:
        yield Problem(
            path="model.num_heads",
            got=str(heads),
            allowed=f"must divide every model.d_model into even parts ({', '.join(map(str, odd[:3]))})",
        )


def causal_conflicts(spec: "StudySpec") -> Iterator[Problem]:
    """Yields routers that would tell a language model of the tokens that it has to guess."""
    for kind in values_of(spec.router.kind):
        if spec.data.name in TEXT_NAMES and kind in LOOKS_ACROSS_TOKENS:
            causal = [one for one in ROUTER_KINDS if one not in LOOKS_ACROSS_TOKENS]
            yield Problem(
                path="router.kind",
                got=kind,
                allowed="compares a token with those after it while training, which a language model has to guess; "
                f"on text use {', '.join(causal)}",
            )


def augment_conflicts(spec: "StudySpec") -> Iterator[Problem]:
    """Yields shifted and mirrored text."""
    if spec.data.name in TEXT_NAMES and spec.train.augment:
        yield Problem(
            path="train.augment", got="true", allowed="is for images; on text set it to false"
        )


def measure_conflicts(spec: "StudySpec") -> Iterator[Problem]:
    """Yields objectives and constraints that only text has."""
    if spec.data.name in TEXT_NAMES:
        return
    study = spec.study
    asked: dict[str, str] = dict.fromkeys(study.objectives, "study.objectives")
    asked |= {name.partition("_")[2]: f"study.constraints.{name}" for name in study.constraints}
    for name, path in asked.items():
        if name in LANGUAGE_OBJECTIVES:
            yield Problem(
                path=path,
                got=name,
                allowed=f"needs text; data.name {spec.data.name} is images, so use accuracy or validation_loss",
            )
