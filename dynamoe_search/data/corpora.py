"""Corpora: texts as numbered documents that are read one at a time, so that a corpus may be larger than memory.

A corpus is looked through once, for its checksum and for where its documents begin. After that any document can be
read by its number, in pieces of bounded size.
"""

import codecs
import hashlib
import io
import json
import re
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from dynamoe_search.data.images import reading
from dynamoe_search.errors import DataError

MAX_RECORD_BYTES = 1 << 26
"""Longest record of a .jsonl file, which is parsed as a whole; the documents of other files have no limit."""

_BLOCK_BYTES = 1 << 20
_STRETCH_BYTES = 1 << 12
_BLANK_LINE = re.compile(rb"\n[ \t\r]*\n")
_SINGLE_SPACE = re.compile(r"(?<=\S) (?=\S)")


class Corpus(Protocol):
    """Documents by number, counted from 0 in the order in which they stand in their source."""

    source: str
    content_hash: str  # SHA-256 of everything that was looked through
    num_bytes: int  # of all documents, as they stand in their source

    def __len__(self) -> int:
        """Number of documents."""

    def pieces(self, number: int) -> Iterator[str]:
        """Yields the text of a document, in pieces that may be tokenised one by one.

        Raises:
            DataError: The document cannot be read.
        """


class EmbeddedDocs:
    """The topics of CPython's documentation that `help()` shows, in stretches as `FileCorpus` cuts them.

    Some topics repeat parts of others. Paragraphs that a longer topic has are left out, and with them the topics that
    would lose more than half, so that what is held out is not learnt by heart. Of CPython 3.11's 465,000 characters
    372,000 remain. They come with Python, so another version brings other texts, and another checksum.
    Source: module `pydoc_data.topics` of the standard library (PSF licence).
    """

    def __init__(self, max_documents: int | None = None) -> None:
        self.source = docs_source()
        try:
            from pydoc_data.topics import topics  # noqa: PLC0415 - some Pythons come without it
        except ImportError as error:
            raise DataError(
                f"this Python ({sys.executable}) lacks the module pydoc_data of the standard library; "
                "use another Python, or data.name = text"
            ) from error
        texts = _without_repeats([topics[name] for name in sorted(topics)])
        self._texts = [part for text in texts for part in _cut(text)][:max_documents]
        content = "\0".join(self._texts).encode()
        self.content_hash = hashlib.sha256(content).hexdigest()
        self.num_bytes = len(content)

    def __len__(self) -> int:
        return len(self._texts)

    def pieces(self, number: int) -> Iterator[str]:
        """Yields the text of a stretch, see `Corpus`."""
        return pieces_of([self._texts[number]])


def _cut(text: str) -> Iterator[str]:
    content = text.encode()
    for start, end in _stretches(io.BytesIO(content)):
        yield content[start:end].decode()


def _without_repeats(texts: list[str]) -> list[str]:
    """Gives the texts in their order, without paragraphs that stand in a longer one too."""
    seen: set[str] = set()
    kept = {}
    for number in sorted(range(len(texts)), key=lambda number: (-len(texts[number]), number)):
        paragraphs = {text: " ".join(text.split()) for text in texts[number].split("\n\n")}
        fresh = [text for text, words in paragraphs.items() if len(words) < 80 or words not in seen]
        seen.update(paragraphs.values())
        if 2 * sum(map(len, fresh)) > len(texts[number]):
            kept[number] = "\n\n".join(fresh)
    return [kept[number] for number in sorted(kept)]


def docs_source() -> str:
    """Gives the name of the embedded corpus, with the version that its text depends on."""
    return "CPython {}.{}.{} documentation (pydoc_data.topics)".format(*sys.version_info[:3])


class FileCorpus:
    """Documents in files of text.

    Every line of a .jsonl file is a document. Any other file is one document; if it is the only one, it is cut into
    stretches of 4 KiB, each up to the next blank line (or line, if there is no blank one within another 4 KiB), and
    these are the documents.

    Args:
        files: What to read, in this order.
        source: What to call them in messages.
        field: Which field of a .jsonl record holds the text.
        max_documents: How many documents to look for; the rest of the files is not read.

    Raises:
        DataError: A file cannot be read, is not text, or has a record that is too long.
    """

    def __init__(
        self, files: Sequence[Path], *, source: str, field: str, max_documents: int | None = None
    ) -> None:
        self.source = source
        self._files = list(files)
        self._field = field
        self._owners = array("L")  # number of the file of each document
        self._starts, self._ends = array("q"), array("q")  # in bytes
        digest = hashlib.sha256(field.encode())
        for owner, path in enumerate(self._files):
            with reading(path), path.open("rb") as file:
                for start, end in self._ranges(_Watched(file, path, digest.update), path):
                    self._owners.append(owner)
                    self._starts.append(start)
                    self._ends.append(end)
                    if len(self) == max_documents:
                        break
            digest.update(b"\0")
            if len(self) == max_documents:
                break
        self.content_hash = digest.hexdigest()
        self.num_bytes = sum(self._ends) - sum(self._starts)

    def __len__(self) -> int:
        return len(self._owners)

    def pieces(self, number: int) -> Iterator[str]:
        """Yields the text of a document, see `Corpus`."""
        path = self._files[self._owners[number]]
        start, end = self._starts[number], self._ends[number]
        with reading(path), path.open("rb") as file:
            file.seek(start)
            if _is_jsonl(path):
                text = _text_of(file.read(end - start), self._field, path, number)
                yield from pieces_of([text])
            else:
                yield from pieces_of(_decoded(file, path, start, end))

    def _ranges(self, file: "_Watched", path: Path) -> Iterator[tuple[int, int]]:
        if _is_jsonl(path):
            return _lines(file)
        return _stretches(file) if len(self._files) == 1 else _whole(file)


class _Watched:
    """A file whose bytes pass through a checksum, and which refuses what is not text."""

    def __init__(self, file: BinaryIO, path: Path, update: Callable[[bytes], None]) -> None:
        self._file, self.path, self._update = file, path, update

    def read(self, size: int) -> bytes:
        return self._seen(self._file.read(size))

    def readline(self, size: int) -> bytes:
        return self._seen(self._file.readline(size))

    def _seen(self, block: bytes) -> bytes:
        if b"\0" in block:
            raise DataError(
                f"{self.path} is not text in UTF-8: it holds zero bytes; convert it if it is text in UTF-16"
            )
        self._update(block)
        return block


def _is_jsonl(path: Path) -> bool:
    return path.suffix.lower() == ".jsonl"


def _lines(file: _Watched) -> Iterator[tuple[int, int]]:
    """Yields where each line that is not blank begins and ends."""
    start = 0
    while line := file.readline(MAX_RECORD_BYTES + 1):
        if len(line) > MAX_RECORD_BYTES:
            raise DataError(
                f"{file.path} has a record of more than {MAX_RECORD_BYTES >> 20} MiB, which is not read "
                "into memory; cut it, or put it into a file of its own in a folder of .txt files"
            )
        if line.strip():
            yield start, start + len(line)
        start += len(line)


def _whole(file: _Watched) -> Iterator[tuple[int, int]]:
    """Yields where a file begins and ends, or nothing if it is empty."""
    size = 0
    while block := file.read(_BLOCK_BYTES):
        size += len(block)
    if size:
        yield 0, size


def _stretches(file: "_Watched | io.BytesIO") -> Iterator[tuple[int, int]]:
    """Yields where each stretch of a file begins and ends."""
    start, waiting = 0, b""
    while block := file.read(_BLOCK_BYTES):
        waiting += block
        done = 0
        while len(waiting) - done >= 2 * _STRETCH_BYTES:
            length = _stretch_length(waiting[done : done + 2 * _STRETCH_BYTES])
            yield start, start + length
            start += length
            done += length
        waiting = waiting[done:]
    if waiting:
        yield start, start + len(waiting)


def _stretch_length(text: bytes) -> int:
    """Gives how many of the given bytes make a stretch: more than half, up to a blank line if there is one."""
    if blank := _BLANK_LINE.search(text, _STRETCH_BYTES):
        return blank.end()
    if line := text.find(b"\n", _STRETCH_BYTES) + 1:
        return line
    length = len(text)
    while length > len(text) - 4 and text[length - 1] & 0xC0 == 0x80:  # inside a character
        length -= 1
    return length - 1 if text[length - 1] >= 0xC0 else length


def _decoded(file: BinaryIO, path: Path, start: int, end: int) -> Iterator[str]:
    """Yields a range of a file as text, in blocks."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = start
    try:
        while position < end and (block := file.read(min(_BLOCK_BYTES, end - position))):
            position += len(block)
            text = decoder.decode(block, final=position == end)
            yield text.removeprefix("\ufeff") if start == 0 else text
    except UnicodeDecodeError as error:
        place = position - len(error.object) + error.start + 1
        raise DataError(
            f"{path} is not text in UTF-8 ({error.reason}, byte {place:,}); convert it, or take it out"
        ) from error


def _text_of(line: bytes, field: str, path: Path, number: int) -> str:
    """Gives the text of one record."""
    where = f"{path}, record {number + 1:,}"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    return text_in(record, field, where)


def text_in(record: object, field: str, where: str) -> str:
    """Gives the text in a field of a record.

    Raises:
        DataError: The record is no table, has no such field, or something else than text in it.
    """
    if not isinstance(record, dict):
        raise DataError(f"{where} is no table of fields, but {type(record).__name__}")
    if field not in record:
        names = ", ".join(map(str, record)) or "none"
        raise DataError(f"{where} has no field {field!r}; it has {names[:200]}; set data.field")
    text = record[field]
    if not isinstance(text, str):
        raise DataError(f"{where}: the field {field!r} must be text, got {type(text).__name__}")
    return text.encode("utf-8", "replace").decode("utf-8")  # half surrogate pairs become "?"


def pieces_of(blocks: Iterable[str]) -> Iterator[str]:
    """Yields text in pieces of about a million characters.

    They end before a single space between two words, where every byte-pair tokenizer in use here divides words
    anyway, so the pieces give the tokens of the whole. Text without such a place is cut where a block ends.

    Args:
        blocks: The text, in blocks that may end anywhere.
    """
    waiting = ""
    for block in blocks:
        for start in range(0, len(block), _BLOCK_BYTES):
            waiting += block[start : start + _BLOCK_BYTES]
            if len(waiting) < _BLOCK_BYTES:
                continue
            tail = max(0, len(waiting) - 4096)
            places = [match.start() for match in _SINGLE_SPACE.finditer(waiting, tail)]
            cut = places[-1] if places else len(waiting)
            yield waiting[:cut]
            waiting = waiting[cut:]
    if waiting:
        yield waiting


__all__ = [
    "MAX_RECORD_BYTES",
    "Corpus",
    "EmbeddedDocs",
    "FileCorpus",
    "docs_source",
    "pieces_of",
    "text_in",
]
