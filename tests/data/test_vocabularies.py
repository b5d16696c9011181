"""Tokenizers: every text comes back, files in the real formats, and what is refused."""

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Engine
from tokenizers import models, normalizers, pre_tokenizers

from dynamoe_search.data import load_tokenizer
from dynamoe_search.data.corpora import pieces_of
from dynamoe_search.data.vocabularies import (
    TOKENIZER_FILE,
    ByteTokenizer,
    Tokenizer,
    open_tokenizer,
    train_byte_pairs,
)
from dynamoe_search.errors import DataError
from dynamoe_search.specs.sections import DataSection
from tests.data.text_files import sentence, write_gpt2


def gpt2(folder: Path) -> DataSection:
    return DataSection(name="docs", tokenizer="gpt2", tokenizer_path=str(folder))


@pytest.fixture(scope="module")
def all_kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    """One tokenizer of each kind, and each as it comes back from an exported model."""
    folder = tmp_path_factory.mktemp("vocabularies")
    made: dict[str, Tokenizer] = {
        "bytes": ByteTokenizer(),
        "gpt2": open_tokenizer(gpt2(write_gpt2(folder / "gpt2"))),
        "bpe": train_byte_pairs(iter(map(sentence, range(20))), 290),
    }
    for name, tokenizer in list(made.items()):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / TOKENIZER_FILE).write_text(tokenizer.to_json(), encoding="utf-8")
        made[f"{name} loaded"] = load_tokenizer(folder / name, tokenizer.vocab_size)
    return made


any_text = st.text() | st.lists(
    st.sampled_from(
        ["<|endoftext|>", " ", "  ", "\n", "\r\n", "the", " the", "é", "\x00", "\ufeff"]
    )
).map("".join)


@given(text=any_text)
def test_every_text_comes_back(all_kinds: dict[str, Tokenizer], text: str) -> None:
    for name, tokenizer in all_kinds.items():
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text, name
        assert tokenizer.separator not in tokens
        assert all(0 <= token < tokenizer.vocab_size for token in tokens)
    for name in ("bytes", "gpt2", "bpe"):
        assert all_kinds[name].encode(text) == all_kinds[f"{name} loaded"].encode(text)


@given(first=any_text, second=any_text)
def test_separators_become_blank_lines(
    all_kinds: dict[str, Tokenizer], first: str, second: str
) -> None:
    for tokenizer in all_kinds.values():
        parts = [tokenizer.separator, *tokenizer.encode(first), tokenizer.separator]
        both = tokenizer.decode([*parts, *tokenizer.encode(second)])
        assert both == "\n\n".join(text for text in (first, second) if text)


@settings(max_examples=30)
@given(words=st.lists(st.sampled_from(["one", "two,", "\n", "  ", "'s", "3é"]), min_size=1))
def test_pieces_have_the_tokens_of_the_whole(
    all_kinds: dict[str, Tokenizer], words: list[str]
) -> None:
    text = " ".join(words) + " end of it "
    pieces = list(pieces_of([text * (1_100_000 // len(text))]))
    for name in ("gpt2", "bpe"):
        tokenizer = all_kinds[name]
        for before, after in pairwise(pieces):
            around = tokenizer.encode(before[-50:] + after[:50])
            assert around == tokenizer.encode(before[-50:]) + tokenizer.encode(after[:50])
    assert len(pieces) == 2


def test_broken_characters_are_marked() -> None:
    assert ByteTokenizer().decode([104, 0xC3]) == "h\ufffd"


def test_training_twice_gives_the_same_vocabulary() -> None:
    first, second = (train_byte_pairs(iter(map(sentence, range(20))), 290) for _ in range(2))
    assert first.to_json() == second.to_json()
    assert first.vocab_size == 290
    assert first.separator == 289


def test_short_text_has_a_smaller_vocabulary() -> None:
    tokenizer = train_byte_pairs(iter(["aa"]), 1000)
    assert tokenizer.vocab_size < 300
    assert tokenizer.decode(tokenizer.encode("é漢")) == "é漢"


def test_names_of_the_files_do_not_matter(tmp_path: Path) -> None:
    first = open_tokenizer(gpt2(write_gpt2(tmp_path)))
    (tmp_path / "encoder.json").rename(tmp_path / "vocab.json")
    (tmp_path / "vocab.bpe").rename(tmp_path / "merges.txt")
    second = open_tokenizer(gpt2(tmp_path))
    assert first.fingerprint == second.fingerprint
    assert (first.vocab_size, first.separator) == (300, 299)
    assert first.to_json() == second.to_json()


def test_tokenizer_json_of_the_library_is_read(tmp_path: Path) -> None:
    write_gpt2(tmp_path / "two")
    stored = json.loads(open_tokenizer(gpt2(tmp_path / "two")).to_json())
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "tokenizer.json").write_text(json.dumps(stored["tokenizers"]))
    assert open_tokenizer(gpt2(tmp_path / "one")).encode("the end") == open_tokenizer(
        gpt2(tmp_path / "two")
    ).encode("the end")


def refused(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_tokenizer(gpt2(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_vocabularies_are_refused(tmp_path: Path) -> None:
    assert "there is no folder" in refused(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds neither encoder.json with vocab.bpe nor" in refused(tmp_path / "empty")
    write_gpt2(tmp_path / "gpt2")
    entries = json.loads((tmp_path / "gpt2" / "encoder.json").read_text())
    short = {name: number for name, number in entries.items() if number < 260}
    (tmp_path / "gpt2" / "encoder.json").write_text(json.dumps(short))
    assert "holds no byte-pair vocabulary" in refused(tmp_path / "gpt2")
    (tmp_path / "gpt2" / "encoder.json").write_text("{")
    assert "holds no byte-pair vocabulary" in refused(tmp_path / "gpt2")
    (tmp_path / "gpt2" / "encoder.json").write_text("{}")
    (tmp_path / "gpt2" / "vocab.bpe").write_text("#version: 0.2\n")
    assert "does not give every text back" in refused(tmp_path / "gpt2")


def test_vocabulary_that_loses_capitals_is_refused(tmp_path: Path) -> None:
    engine = Engine(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    engine.normalizer = normalizers.Lowercase()
    engine.pre_tokenizer = pre_tokenizers.Whitespace()
    engine.save(str(tmp_path / "tokenizer.json"))
    assert "does not give every text back as it was" in refused(tmp_path)


def test_nothing_is_downloaded_if_that_is_forbidden() -> None:
    with pytest.raises(DataError, match=r"would have to be downloaded; set data.download = true"):
        open_tokenizer(DataSection(name="docs", tokenizer="gpt2", download=False))


def test_tokenizer_of_another_size_than_the_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / TOKENIZER_FILE).write_text(ByteTokenizer().to_json())
    with pytest.raises(DataError, match=r"has 257 tokens, and the model .* made for 50,257"):
        load_tokenizer(tmp_path, 50_257)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"kind": "bytes"}', '{"kind": "byte-pairs", "name": "x"}', "\x00"]
)
def test_damaged_tokenizer_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(DataError, match=r"tokenizer\.json") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"cannot read .*tokenizer\.json"):
        load_tokenizer(tmp_path / "none")


SCRIPT = """
import sys
missing, *sections = sys.argv[1:]
for name in missing.split():
    sys.modules[name] = None  # as if it were not installed
from dynamoe_search.data import load_data
from dynamoe_search.errors import DataError
from dynamoe_search.specs.sections import DataSection
for section in sections:
    try:
        print(load_data(DataSection.model_validate_json(section)).vocab_size)
    except DataError as error:
        print(error)
"""


def told(missing: str, *sections: DataSection) -> list[str]:
    """Gives a line for each section, the size of its vocabulary or what was wrong, without a network."""
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, missing, *(one.model_dump_json() for one in sections)],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"},
    )
    assert result.stderr == ""
    return result.stdout.splitlines()


def test_missing_extra_is_named_and_bytes_do_without_it() -> None:
    size, *messages = told(
        "tokenizers datasets",
        DataSection(name="docs"),
        DataSection(name="docs", tokenizer="bpe"),
        DataSection(name="docs", tokenizer="gpt2"),
        DataSection(name="recycling-the-web", max_documents=9),
    )
    assert size == "257"
    for message, library in zip(messages, ["tokenizers"] * 2 + ["datasets"], strict=True):
        assert f"needs the library {library}" in message
        assert "pip install 'dynamoe-search[language]'" in message


def test_no_network_is_one_sentence() -> None:
    gpt2_message, hf_message = told(
        "",
        DataSection(name="docs", tokenizer="gpt2"),
        DataSection(name="recycling-the-web", max_documents=9),
    )
    assert "gpt2 cannot be had from Hugging Face" in gpt2_message
    assert "set data.tokenizer_path to a folder" in gpt2_message
    assert "facebook/recycling_the_web cannot be read from Hugging Face" in hf_message
