"""Documents of a Hugging Face data set: streamed once, up to a limit, into a file in the cache.

    CACHE/documents/KEY/documents.jsonl     {"text": ...} for every document
    CACHE/documents/KEY/manifest.json       how many there are, and the checksum of the file

Later the file is read like one of the user's own, without a network. A damaged one is streamed anew.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from dynamoe_search.cached_texts import MANIFEST, cache_folder
from dynamoe_search.data.corpora import MAX_RECORD_BYTES, FileCorpus, text_in
from dynamoe_search.data.images import READ_ERRORS
from dynamoe_search.data.language_extra import import_extra, without_retry_messages
from dynamoe_search.data.token_cache import key_of, mark_used, writing
from dynamoe_search.data.vision import user_path
from dynamoe_search.data.vocabularies import Tokenizer
from dynamoe_search.errors import DataError, in_one_line
from dynamoe_search.specs.sections import DataSection

RECYCLING_THE_WEB = "facebook/recycling_the_web"
"""44 billion tokens of rewritten web text, in English, in the field `text`; CC-BY-NC, and Llama 3.3's licence.

Source: Nguyen et al., 2025, arXiv:2506.04689.
"""

_DOCUMENTS = "documents.jsonl"


def _repository(section: DataSection) -> str:
    """Gives the name of the data set, or the folder that holds it.

    Raises:
        DataError: `data.repo` is missing.
    """
    if section.name == "recycling-the-web":
        return RECYCLING_THE_WEB
    if section.repo is None:
        raise DataError("data.repo must name the data set, as owner/name, when data.name is hf")
    return section.repo


def source_of(section: DataSection) -> str:
    """Gives what messages and reports call the data set."""
    return f"Hugging Face, {_repository(section)}"


def find_documents(section: DataSection) -> Path | None:
    """Gives the folder in the cache that holds the documents, or None if they would have to be streamed."""
    folder = _folder(section)
    return folder if (folder / _DOCUMENTS).is_file() and (folder / MANIFEST).is_file() else None


def open_documents(section: DataSection, tokenizer: Tokenizer | None) -> FileCorpus:
    """Gives the documents, streamed first if they are not in the cache.

    Args:
        section: Which data set, which field, and how much of it.
        tokenizer: What `max_tokens` is counted with.

    Raises:
        DataError: The data set cannot be reached or read, has no such field, or may not be downloaded; the extra
            `language` is missing; the cache cannot be written.
    """
    if (corpus := _cached(section)) is not None:
        return corpus
    if not section.download:
        raise DataError(
            f"{_repository(section)} was not found in {cache_folder()}; set data.download = true"
        )
    with writing(_folder(section), lambda: _cached(section) is not None) as fresh:
        count = _write(fresh / _DOCUMENTS, _stream(section), section, tokenizer)
        corpus = _corpus(fresh / _DOCUMENTS, section)
        source = source_of(section)
        manifest = {"checksum": corpus.content_hash, "documents": count, "source": source}
        (fresh / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
    if (corpus := _cached(section)) is None:
        raise DataError(f"{_folder(section)} was damaged while it was written; try again")
    return corpus


def _folder(section: DataSection) -> Path:
    place = _repository(section)
    ingredients = {
        "repo": place,
        "subset": section.subset,
        "field": section.field,
        "limits": (section.max_documents, section.max_tokens),
        "tokenizer": (section.tokenizer, section.tokenizer_path) if section.max_tokens else None,
        "files": _state_of(user_path(place)),
    }
    return cache_folder() / "documents" / key_of(ingredients)


def _state_of(folder: Path) -> list[tuple[str, int, int]]:
    """Gives names, sizes and times of the files of a folder of the user's, which may change; of a name, nothing."""
    if not folder.is_dir():
        return []
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _cached(section: DataSection) -> FileCorpus | None:
    """Gives the documents in the cache, or None if there are none or they are damaged."""
    folder = _folder(section)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        corpus = _corpus(folder / _DOCUMENTS, section)
    except (OSError, ValueError):  # a DataError is a ValueError
        return None
    known = {"checksum": corpus.content_hash, "documents": len(corpus)}
    if not isinstance(manifest, dict) or manifest | known != manifest:
        return None
    mark_used(folder)
    return corpus


def _corpus(path: Path, section: DataSection) -> FileCorpus:
    return FileCorpus([path], source=source_of(section), field="text")


def _stream(section: DataSection) -> Iterator[object]:
    """Yields the records of the training part of a data set, or of its only part."""
    library = import_extra("datasets", f"data.name = {section.name}")
    place = _repository(section)
    folder = user_path(place)
    had_bars = library.are_progress_bars_disabled() is False
    library.disable_progress_bars()
    try:
        with without_retry_messages(), _reaching(place, library.exceptions.DatasetsError):
            parts = library.load_dataset(
                str(folder) if folder.is_dir() else place, section.subset, streaming=True
            )
            yield from parts["train"] if "train" in parts else next(iter(parts.values()))
    finally:
        if had_bars:
            library.enable_progress_bars()


@contextmanager
def _reaching(place: str, other_errors: type[Exception]) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except (*READ_ERRORS, other_errors) as error:
        raise DataError(
            f"the data set {place} cannot be read from Hugging Face: {in_one_line(error)}; check "
            "data.repo, data.subset and the network"
        ) from error


def _write(
    path: Path, records: Iterable[object], section: DataSection, tokenizer: Tokenizer | None
) -> int:
    """Writes the texts of records until a limit is reached, and gives how many there are."""
    place = _repository(section)
    count, num_tokens = 0, 0
    with path.open("wb") as file:
        for record in islice(records, section.max_documents):
            count += 1
            text = text_in(record, section.field, f"{place}, document {count:,}")
            line = json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n"
            if len(line) > MAX_RECORD_BYTES:
                raise DataError(
                    f"{place}, document {count:,} is longer than {MAX_RECORD_BYTES >> 20} MiB, which is "
                    "not read into memory; use another data set, or files with data.name = text"
                )
            file.write(line)
            if section.max_tokens is not None and tokenizer is not None:
                num_tokens += 1 + len(tokenizer.encode(text))
                if num_tokens >= section.max_tokens:
                    break
    return count


__all__ = ["RECYCLING_THE_WEB", "find_documents", "open_documents", "source_of"]
