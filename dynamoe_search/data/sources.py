"""Where text comes from: embedded, in files, or streamed; and what is known of it without reading it."""

from importlib.util import find_spec
from pathlib import Path

from dynamoe_search.data.corpora import Corpus, EmbeddedDocs, FileCorpus, docs_source
from dynamoe_search.data.hugging_face import find_documents, open_documents, source_of
from dynamoe_search.data.images import reading
from dynamoe_search.data.vision import user_path
from dynamoe_search.data.vocabularies import Tokenizer
from dynamoe_search.errors import DataError
from dynamoe_search.specs.sections import DataSection

STREAMED = ("hf", "recycling-the-web")
"""Data sets that come over the network, and end only where they are told to."""

_SUFFIXES = (".txt", ".md", ".jsonl")


def find_text(section: DataSection) -> str | None:
    """Gives where a text would be read from, without reading it, or None if it is not on this machine.

    Raises:
        DataError: `data.path` cannot be a path, or may not be looked at.
    """
    if section.name == "docs":
        return docs_source() if find_spec("pydoc_data") else None
    if section.name in STREAMED:
        return None if find_documents(section) is None else source_of(section)
    path = user_path(section.path or "")
    with reading(path):
        return str(path) if section.path and path.exists() else None


def open_corpus(section: DataSection, tokenizer: Tokenizer | None) -> Corpus:
    """Gives the documents of a text, looked through but not read.

    Args:
        section: The `[data]` section of a study file.
        tokenizer: What `max_tokens` is counted with while a data set is streamed; none counts nothing.

    Raises:
        DataError: They are missing, or not text.
    """
    if section.name == "docs":
        return EmbeddedDocs(section.max_documents)
    if section.name in STREAMED:
        return open_documents(section, tokenizer)
    path = _required(section)
    files = _files_in(path) if path.is_dir() else [path]
    corpus = FileCorpus(
        files, source=str(path), field=section.field, max_documents=section.max_documents
    )
    if not len(corpus):
        empty = f"{path} is empty" if path.is_file() else f"all files of text in {path} are empty"
        raise DataError(f"{empty} (data.path)")
    return corpus


def _required(section: DataSection) -> Path:
    if not section.path:
        raise DataError("data.path must name the file or folder when data.name is text")
    path = user_path(section.path)
    with reading(path):
        if path.is_file() or path.is_dir():
            return path
        if path.is_symlink() and not path.exists():
            raise DataError(
                f"{path.absolute()} is a link to {path.readlink()}, which is not there (data.path)"
            )
        if path.exists():
            raise DataError(
                f"{path.absolute()} is {_kind_of(path)}, which holds no text; data.path must be a regular file "
                "or a folder"
            )
    raise DataError(f"there is no file or folder {path.absolute()} (data.path)")


def _kind_of(path: Path) -> str:
    """Gives what a path is that is neither a regular file nor a folder."""
    if path.is_fifo():
        return "a named pipe"
    if path.is_socket():
        return "a socket"
    return "a device"


def _files_in(folder: Path) -> list[Path]:
    """Gives the files of text in a folder and below it, in the order of their names."""
    with reading(folder):
        found = sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in _SUFFIXES
            and path.is_file()
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
    if not found:
        raise DataError(f"{folder} holds no file that ends in {', '.join(_SUFFIXES)} (data.path)")
    return found


__all__ = ["STREAMED", "find_text", "open_corpus"]
