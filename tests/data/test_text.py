"""What every text promises, whatever it is read from and tokenised with."""

import math
import os
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamoe_search.data import TextData, describe, find_data, load_data, load_test
from dynamoe_search.data.text import unigram_loss
from dynamoe_search.errors import DataError
from dynamoe_search.specs.sections import DataSection
from tests.data.text_files import KINDS, sentence, text_section, write_jsonl


@pytest.fixture(params=KINDS)
def section(request: pytest.FixtureRequest, tmp_path: Path) -> DataSection:
    """One section per kind of text."""
    return text_section(request.param, tmp_path)


def load(section: DataSection) -> TextData:
    data = load_data(section)
    assert isinstance(data, TextData)
    return data


def documents(data: TextData, tokens: torch.Tensor) -> set[str]:
    """Gives the texts between separators; the last one may have lost its end."""
    stream = torch.cat([tokens[:, :-1].reshape(-1), tokens[-1:, -1]])
    starts = (stream == data.tokenizer.separator).nonzero().flatten().tolist()
    runs = [stream[start:end] for start, end in pairwise([*starts, len(stream)])]
    return {data.tokenizer.decode(run.tolist()) for run in runs}


def test_tokens_are_int64_and_targets_are_the_tokens_that_follow(section: DataSection) -> None:
    data = load(section)
    for part in (data.train, data.validation, load_test(section)):
        assert part.x.dtype == part.y.dtype == torch.int64
        assert tuple(part.x.shape[1:]) == data.input_shape == (section.sequence_length,)
        assert torch.equal(part.x[:, 1:], part.y[:, :-1])
        assert torch.equal(part.y[:-1, -1], part.x[1:, 0])  # no token is left out between two
        assert part.x.data_ptr() == part.tokens.data_ptr()  # views
        assert int(part.tokens.min()) >= 0
        assert int(part.tokens.max()) < data.vocab_size == data.num_classes
    assert int(data.train.tokens[0, 0]) == data.tokenizer.separator


def test_same_section_gives_the_same_tokens(section: DataSection) -> None:
    first, second = load(section), load(section)
    assert torch.equal(first.train.tokens, second.train.tokens)
    assert first.data_hash == second.data_hash
    assert first.tokenizer.fingerprint == second.tokenizer.fingerprint
    assert len(first.data_hash) == 64


def test_no_sequence_holds_a_document_of_another_part(section: DataSection) -> None:
    data = load(section)
    parts = [data.train.tokens, data.validation.tokens, load_test(section).tokens]
    found = [documents(data, tokens) for tokens in parts]
    if section.name != "docs" and not str(section.path).endswith("long.txt"):
        known = {sentence(number) for number in range(12)}
        whole = [{text for text in part if text in known} for part in found]
        assert all(whole)
    else:
        whole = [{text for text in part if len(text) > 100} for part in found]
    assert not whole[0] & whole[1]
    assert not (whole[0] | whole[1]) & whole[2]


def test_describe_find_and_source_agree_with_the_data(section: DataSection) -> None:
    for change in ({}, {"max_train": 2}):
        changed = section.model_copy(update=change)
        data, info = load(changed), describe(changed)
        assert info.input_shape == data.input_shape
        assert info.num_classes == data.vocab_size
        assert (info.num_train, info.num_validation) == (len(data.train.y), len(data.validation.y))
        assert data.source == find_data(changed)
    assert len(data.train.y) == 2


@pytest.mark.parametrize(
    "change",
    [{"split_seed": 1}, {"max_train": 2}, {"sequence_length": 8}, {"max_documents": 6}],
    ids=str,
)
def test_hash_sees_what_changes_the_sequences(section: DataSection, change: dict[str, int]) -> None:
    assert load(section).data_hash != load(section.model_copy(update=change)).data_hash


def test_hash_sees_one_letter_and_the_tokenizer(tmp_path: Path) -> None:
    section = text_section("folder", tmp_path)
    before = load(section)
    for number in (0, 6):
        changed = tmp_path / "texts" / f"{number:02}.txt"
        changed.write_text(sentence(number).replace("Document", "document"))
    hashes = {before.data_hash, load(section).data_hash}
    hashes |= {load(text_section(kind, tmp_path / kind)).data_hash for kind in ("gpt2", "bpe")}
    assert len(hashes) == 4


def test_training_part_is_cut_at_max_train_and_nothing_else_is(tmp_path: Path) -> None:
    section = text_section("folder", tmp_path)
    whole, part = load(section), load(section.model_copy(update={"max_train": 3}))
    assert torch.equal(part.train.tokens, whole.train.tokens[:3])
    assert torch.equal(part.validation.tokens, whole.validation.tokens)


def test_test_part_does_not_depend_on_the_validation_fraction(tmp_path: Path) -> None:
    section = text_section("folder", tmp_path)
    other = section.model_copy(update={"validation_fraction": 0.4})
    assert torch.equal(load_test(section).tokens, load_test(other).tokens)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(
    texts=st.lists(st.text("ab \n", min_size=30, max_size=60), min_size=6, max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_every_document_is_in_exactly_one_part(tmp_path: Path, texts: list[str], seed: int) -> None:
    path = tmp_path / "own.jsonl"
    lines = [f'{{"text": "{number}:{text!r}"}}' for number, text in enumerate(texts)]
    path.write_text("\n".join(lines).replace("\\", "/"))
    section = DataSection(name="text", path=str(path), split_seed=seed, sequence_length=2)
    data = load(section)
    streams = [data.train.tokens, data.validation.tokens, load_test(section).tokens]
    found = [text.partition(":")[0] for tokens in streams for text in documents(data, tokens)]
    assert sorted(map(int, found)) == list(range(len(texts)))


def test_bits_per_byte_of_the_unigram_model_is_what_its_definition_says(tmp_path: Path) -> None:
    for kind in ("folder", "gpt2"):
        section = text_section(kind, tmp_path / kind)
        data = load(section)
        texts = [sentence(number).encode() for number in range(12)]
        shown = data.tokenizer.decode(data.validation.tokens[:, :-1].reshape(-1).tolist())
        held_out = [text for text in texts if text[:12].decode() in shown]
        num_bytes = sum(map(len, held_out))
        num_tokens = sum(1 + len(data.tokenizer.encode(text.decode())) for text in held_out)
        assert data.bytes_per_token == pytest.approx(num_bytes / num_tokens)


@given(
    train=st.lists(st.integers(0, 4), min_size=2, max_size=30),
    validation=st.lists(st.integers(0, 4), min_size=2, max_size=30),
)
def test_unigram_loss_equals_a_loop(train: list[int], validation: list[int]) -> None:
    expected = 0.0
    for token in validation[1:]:
        expected -= math.log((1 + train[1:].count(token)) / (5 + len(train) - 1))
    loss = unigram_loss(torch.tensor([train]), torch.tensor([validation]), 5)
    assert loss == pytest.approx(expected / (len(validation) - 1))


def test_limits_cut_after_whole_documents(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "own.jsonl", 40)
    section = DataSection(name="text", path=str(path), sequence_length=4)
    lengths = [1 + len(sentence(number).encode()) for number in range(40)]
    limit = sum(lengths[:7]) + 1  # reached by the eighth document
    for change in ({"max_documents": 8}, {"max_tokens": limit}):
        limited = section.model_copy(update=change)
        data = load(limited)
        parts = (data.train, data.validation, load_test(limited))
        seen = "".join(text for part in parts for text in documents(data, part.tokens))
        assert {int(number) for number in re.findall(r"Document (\d+)\. ", seen)} == set(range(8))


def test_embedded_documentation_is_real_english_of_this_python() -> None:
    data = load(DataSection(name="docs"))
    assert data.source.startswith("CPython 3.")
    assert len(data.train.y) > 1000
    assert data.vocab_size == 257
    assert 2.5 < data.unigram_loss < 4.0  # letters of English and a little code
    text = data.tokenizer.decode(data.train.x[:400].reshape(-1).tolist())
    assert " the " in text


BAD = {
    "no path": ({}, "data.path must name the file or folder"),
    "missing": ({"path": "none.txt"}, "there is no file or folder .*none.txt"),
    "empty file": ({"path": "empty.txt"}, "empty.txt is empty"),
    "empty folder": ({"path": "nothing"}, "holds no file that ends in .txt, .md, .jsonl"),
    "no name": ({"path": ""}, "data.path must name the file or folder"),
    "empty files": ({"path": "blank"}, "all files of text in blank are empty"),
    "device": ({"path": "/dev/null"}, "/dev/null is a device, which holds no text"),
    "pipe": ({"path": "pipe"}, "pipe is a named pipe, which holds no text"),
    "lost link": ({"path": "link"}, "link is a link to gone, which is not there"),
    "binary": ({"path": "image.png"}, "image.png is not text in UTF-8: it holds zero bytes"),
    "UTF-16": ({"path": "wide.txt"}, "wide.txt is not text in UTF-8: .* UTF-16"),
    "latin-1": ({"path": "latin.txt"}, r"latin.txt is not text in UTF-8 \(.*, byte 40,011\)"),
    "one document": ({"path": "one.txt"}, "1 document is too few for .* give more$"),
    "not JSON": ({"path": "bad.jsonl"}, "bad.jsonl, record .* is not JSON"),
    "no table": ({"path": "list.jsonl"}, "is no table of fields, but list"),
    "wrong field": ({"path": "own.jsonl", "field": "body"}, "no field 'body'; it has text, id"),
    "number": ({"path": "own.jsonl", "field": "id"}, "'id' must be text, got int"),
    "too few": ({"path": "own.jsonl", "max_documents": 3, "test_fraction": 0.6}, "3 documents"),
    "too short": ({"path": "own.jsonl", "sequence_length": 9999}, "less than one sequence"),
    "nobody": ({"path": "~no_such_user_here/x"}, "no_such_user_here"),
    "long name": ({"path": "x" * 900}, "cannot read .*too long"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_text_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").touch()
    Path("nothing").mkdir()
    Path("image.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\x00")
    Path("wide.txt").write_bytes("words".encode("utf-16"))
    Path("latin.txt").write_bytes(b"a" * 40_000 + "\n cafe caf\xe9".encode("latin-1"))
    Path("one.txt").write_text("short")
    Path("blank").mkdir()
    Path("blank/a.txt").touch()
    Path("link").symlink_to("gone")
    os.mkfifo("pipe")
    Path("bad.jsonl").write_text('{"text": "a"}\n{"text": \n' * 9)
    Path("list.jsonl").write_text('["text"]\n' * 9)
    write_jsonl(Path("own.jsonl"))
    change, message = BAD[name]
    with pytest.raises(DataError, match=message) as caught:
        load_data(DataSection(name="text", **change))
    assert "\n" not in str(caught.value)


def test_file_that_grew_is_read_again(tmp_path: Path) -> None:
    section = text_section("folder", tmp_path)
    before = load(section)
    (tmp_path / "texts" / "new.txt").write_text(sentence(99))
    after = load(section)
    assert len(after.train.tokens) + len(after.validation.tokens) > 0
    assert after.data_hash != before.data_hash


def test_stream_of_a_part_is_what_the_documents_say(tmp_path: Path) -> None:
    section = text_section("folder", tmp_path).model_copy(update={"sequence_length": 2})
    data = load(section)
    parts = (data.train, data.validation, load_test(section))
    seen = np.concatenate([part.x.reshape(-1).numpy() for part in parts])
    expected = [token for number in range(12) for token in [256, *sentence(number).encode()]]
    # each part may lose up to two tokens at its end
    lost = np.bincount(expected, minlength=257) - np.bincount(seen, minlength=257)
    assert lost.min() >= 0
    assert lost.sum() <= 9
