"""A small text and small language models that the tests share."""

from dataclasses import replace
from functools import cache
from typing import Any

from dynamoe_search.data import TextData, load_data
from dynamoe_search.records import Candidate
from dynamoe_search.specs import DataSection
from dynamoe_search.specs.vocabulary import LOOKS_ACROSS_TOKENS
from tests.training.populations import mixed_pack

LENGTH = 16


@cache
def text(num_train: int = 60, num_validation: int = 40) -> TextData:
    """The beginning of the documentation of Python, in sequences of 16 bytes."""
    data = load_data(DataSection(name="docs", sequence_length=LENGTH, max_train=num_train))
    assert isinstance(data, TextData)
    validation = replace(data.validation, tokens=data.validation.tokens[:num_validation])
    return replace(data, validation=validation)


def language_pack(backbone: str, **changes: Any) -> list[Candidate]:
    """The mixed pack of the training tests as language models, without the routers that are refused for text."""
    return [
        replace(one, model=replace(one.model, **changes))
        for one in mixed_pack(backbone)
        if one.router.kind not in LOOKS_ACROSS_TOKENS
    ]
