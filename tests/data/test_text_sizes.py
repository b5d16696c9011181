"""What is told of a text before a study: the tokens that it will have, or that finding out would take long."""

from pathlib import Path

import pytest

from dynamoe_search.cached_texts import find_cached
from dynamoe_search.data import TextData, describe, load_data, load_test
from dynamoe_search.data.text_sizes import QUICK_BYTES
from dynamoe_search.specs.sections import DataSection
from tests.data.text_files import KINDS, text_section


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "docs"])
def test_what_is_described_is_what_is_loaded(kind: str, tmp_path: Path) -> None:
    section = text_section(kind, tmp_path)
    info = describe(section, quickly=True)
    if kind == "hf":  # it would have to be streamed first
        assert info.is_guess
        assert info.text is not None
        assert info.text.tokens is None
        load_data(section)
        info = describe(section, quickly=True)
    data, text = load_data(section), info.text
    assert isinstance(data, TextData)
    assert (info.num_train, info.num_validation) == (
        len(data.train.tokens),
        len(data.validation.tokens),
    )
    assert text is not None
    assert text.tokens is not None
    assert not info.is_guess
    assert (text.tokenizer, text.vocab_size) == (data.tokenizer.name, data.vocab_size)
    assert text.bytes_per_token == data.bytes_per_token
    parts = {"train": data.train, "validation": data.validation, "test": load_test(section)}
    for name, part in parts.items():
        assert 0 < text.tokens[name] - len(part.y) * section.sequence_length <= 16, name


def test_tokens_that_max_train_leaves_out_are_not_counted(tmp_path: Path) -> None:
    section = text_section("file", tmp_path).model_copy(update={"max_train": 3})
    text = describe(section).text
    assert text is not None
    assert text.tokens is not None
    assert text.tokens["train"] == 3 * 16


def test_no_vocabulary_is_made_from_a_long_text_to_answer_quickly(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_bytes(b"one line of a long text\n" * (QUICK_BYTES // 24 + 1))
    section = DataSection(name="text", path=str(path), tokenizer="bpe", vocab_size=300)
    info = describe(section, quickly=True)
    assert info.is_guess
    assert info.num_classes == 300
    assert info.text is not None
    assert info.text.unknown_because is not None
    assert "made from 4 MB of text first" in info.text.unknown_because
    assert find_cached() == []
