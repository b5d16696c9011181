"""Documents in files: how they are cut, and that no document is ever held in memory as a whole."""

import json
import re
import tracemalloc
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamoe_search.data import corpora
from dynamoe_search.data.corpora import EmbeddedDocs, FileCorpus, pieces_of
from dynamoe_search.errors import DataError
from tests.data.text_files import sentence, write_texts

IN_PLACE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)


def corpus_of(*files: Path) -> FileCorpus:
    return FileCorpus(files, source="test", field="text")


def texts_of(corpus: FileCorpus | EmbeddedDocs) -> list[str]:
    return ["".join(corpus.pieces(number)) for number in range(len(corpus))]


@IN_PLACE
@given(
    blocks=st.lists(
        st.text("ab é漢🙂", min_size=1, max_size=40).map(lambda text: text * 60), max_size=12
    ),
    between=st.sampled_from(["\n\n", "\n", "\r\n\r\n", "\n \t\n\n", " ", ""]),
)
def test_stretches_of_a_file_are_the_file(tmp_path: Path, blocks: list[str], between: str) -> None:
    path, text = tmp_path / "long.txt", between.join(blocks)
    path.write_text(text, encoding="utf-8", newline="")
    texts = texts_of(corpus_of(path))
    assert "".join(texts) == text
    for part in texts[:-1]:
        assert 4096 <= len(part.encode()) <= 8192 + 40


def test_stretches_end_at_blank_lines_where_there_are_any(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("\n\n".join(map(sentence, range(200))))
    texts = texts_of(corpus_of(path))
    assert len(texts) > 10
    assert all(text.endswith("\n\n") for text in texts[:-1])


def test_files_of_a_folder_are_documents_as_they_are(tmp_path: Path) -> None:
    files = sorted(write_texts(tmp_path / "texts").rglob("*.txt"))
    files = [path for path in files if ".hidden" not in path.parts]
    assert texts_of(corpus_of(*files)) == [path.read_text("utf-8") for path in files]


@IN_PLACE
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=8))
def test_records_give_back_their_text(tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    assert texts_of(corpus_of(path)) == texts


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path: Path) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text('{"text": "a\\ud800b"}\n')
    assert texts_of(corpus_of(path)) == ["a?b"]


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone")
    (tmp_path / "b.txt").write_bytes(b"two")
    assert texts_of(corpus_of(tmp_path / "a.txt", tmp_path / "b.txt")) == ["one", "two"]


@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_pieces_are_the_text_and_end_before_a_space_between_words(block: int) -> None:
    text = "word another  one\n" * (150_000 if block > 7 else 3_000)
    pieces = list(pieces_of(text[start : start + block] for start in range(0, len(text), block)))
    assert "".join(pieces) == text
    for piece, following in pairwise(pieces):
        assert re.match(r" \S", following)
        assert not piece[-1].isspace()
        assert len(piece) < 2 << 20


def test_text_without_a_space_is_cut_all_the_same() -> None:
    pieces = list(pieces_of(["x" * (3 << 20)]))
    assert sum(map(len, pieces)) == 3 << 20
    assert max(map(len, pieces)) <= 1 << 20


def test_document_of_any_length_takes_bounded_memory(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("short")
    with (tmp_path / "long.txt").open("w") as file:
        for _ in range(40):
            file.write("some words " * 100_000)  # 44 MB in one document
    tracemalloc.start()
    corpus = corpus_of(tmp_path / "long.txt", tmp_path / "short.txt")
    assert sum(len(piece) for piece in corpus.pieces(0)) == 44_000_000
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 12_000_000


def test_record_longer_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpora, "MAX_RECORD_BYTES", 1 << 20)
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({"text": "x" * (1 << 20)}))
    with pytest.raises(DataError, match=r"own\.jsonl has a record of more than 1 MiB"):
        corpus_of(path)


def test_embedded_paragraphs_stand_in_one_document_only() -> None:
    seen: dict[str, int] = {}
    for number, text in enumerate(texts_of(EmbeddedDocs())):
        for paragraph in text.split("\n\n"):
            words = " ".join(paragraph.split())
            if len(words) >= 80:
                assert seen.setdefault(words, number) == number
    assert len(seen) > 500
