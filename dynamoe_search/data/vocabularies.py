"""Tokenizers: text to token numbers and back, of one form whatever they are made of."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dynamoe_search.data.images import reading
from dynamoe_search.data.language_extra import import_extra, without_retry_messages
from dynamoe_search.data.vision import user_path
from dynamoe_search.errors import DataError, in_one_line
from dynamoe_search.specs.sections import DataSection

TOKENIZER_FILE = "tokenizer.json"
GPT2_VOCAB_SIZE = 50_257
_GPT2 = "openai-community/gpt2"
_END_OF_TEXT = "<|endoftext|>"
_FILES = (("encoder.json", "vocab.bpe"), ("vocab.json", "merges.txt"))
_PROBE = "Two  spaces, a tab\tand\n\na blank line; caf\u00e9, \u6f22\u5b57, \U0001f642 and <|endoftext|> ."
_PURPOSE = "a byte-pair vocabulary (data.tokenizer)"


class Tokenizer(Protocol):
    """What turns text into token numbers and back; `decode(encode(text)) == text` for every text."""

    name: str
    vocab_size: int  # numbers that a token can have, the separator included
    separator: int  # the token that stands before every document; no text is encoded to it
    fingerprint: str  # SHA-256 of which number stands for what

    def encode(self, text: str) -> list[int]:
        """Gives the tokens of a text."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Gives the text of tokens; separators become blank lines, broken characters U+FFFD."""

    def to_json(self) -> str:
        """Gives what `from_json` makes the same tokenizer from."""


class ByteTokenizer:
    """The 256 bytes of UTF-8, and 256 for the separator. Needs no library."""

    name = "bytes"
    vocab_size = 257
    separator = 256
    fingerprint = hashlib.sha256(b"the bytes of UTF-8, then a separator").hexdigest()

    def encode(self, text: str) -> list[int]:
        """Gives the bytes of a text."""
        return list(text.encode())

    def decode(self, tokens: Sequence[int]) -> str:
        """Gives the text of bytes, see `Tokenizer`."""
        parts = _between(tokens, self.separator)
        return "\n\n".join(bytes(part).decode("utf-8", "replace") for part in parts)

    def to_json(self) -> str:
        """Gives the kind alone."""
        return _Stored(kind="bytes", name=self.name).model_dump_json(indent=1)


class BytePairTokenizer:
    """Byte pairs, merged as the library `tokenizers` does.

    Text that looks like a special token (`<|endoftext|>`) is text here, so nothing in a corpus can pass for the
    separator. That is the vocabulary's own end of text if it has one, else one more entry.

    Source: Sennrich et al., 2016, arXiv:1508.07909; on bytes as Radford et al., 2019.

    Args:
        engine: A `tokenizers.Tokenizer`.
        name: What to call it.

    Raises:
        DataError: It does not give every text back as it was.
    """

    def __init__(self, engine: Any, name: str) -> None:
        engine.encode_special_tokens = True
        vocabulary = engine.get_vocab(with_added_tokens=True)
        self.name = name
        self._engine = engine
        most = max(vocabulary.values(), default=-1) + 1
        self.separator = vocabulary.get(_END_OF_TEXT, most)
        self.vocab_size = max(most, self.separator + 1)
        entries = json.dumps([self.separator, sorted(vocabulary.items())])
        self.fingerprint = hashlib.sha256(entries.encode()).hexdigest()
        if self.decode(self.encode(_PROBE)) != _PROBE:
            raise DataError(
                f"the vocabulary of {name} does not give every text back as it was; use one of byte pairs"
            )

    def encode(self, text: str) -> list[int]:
        """Gives the byte pairs of a text."""
        return list(self._engine.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        """Gives the text of byte pairs, see `Tokenizer`."""
        parts = _between(tokens, self.separator)
        return "\n\n".join(self._engine.decode(part, skip_special_tokens=False) for part in parts)

    def to_json(self) -> str:
        """Gives the vocabulary in the form of the library `tokenizers`, in a table of ours."""
        model = json.loads(self._engine.to_str())
        return _Stored(kind="byte-pairs", name=self.name, tokenizers=model).model_dump_json(
            indent=1
        )


class _Stored(BaseModel):
    """A tokenizer in a file. `tokenizers` is what `tokenizers.Tokenizer.from_str` takes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    kind: Literal["bytes", "byte-pairs"]
    name: str = Field(max_length=1000)
    tokenizers: dict[str, Any] | None = None


def _between(tokens: Sequence[int], separator: int) -> list[list[int]]:
    """Gives the runs of tokens between separators; one that stands first or last separates nothing."""
    parts: list[list[int]] = [[]]
    for token in tokens:
        if token == separator:
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part] or [[]]


def open_tokenizer(section: DataSection) -> Tokenizer:
    """Gives a tokenizer that exists before the text is read, that is any but `bpe`.

    Raises:
        DataError: Its files are missing or broken, it cannot be downloaded, or the extra `language` is missing.
    """
    if section.tokenizer == "bytes":
        return ByteTokenizer()
    place = section.tokenizer_path
    if place is None:
        return _downloaded(_GPT2, section)
    folder = user_path(place)
    with reading(folder):
        is_folder = folder.is_dir()
    if is_folder:
        return _from_folder(folder)
    if place.count("/") > 1 or place.startswith(("/", ".", "~")):
        raise DataError(f"there is no folder {folder.absolute()} (data.tokenizer_path)")
    return _downloaded(place, section)


def _from_folder(folder: Path) -> Tokenizer:
    library = import_extra("tokenizers", _PURPOSE)
    name = f"{folder.name} (byte pairs)"
    for names in _FILES:
        vocabulary, merges = (folder / name for name in names)
        if vocabulary.is_file() and merges.is_file():
            with _understanding(folder):
                pairs = library.models.BPE.from_file(str(vocabulary), str(merges))
                return BytePairTokenizer(_on_bytes(library, pairs), name)
    if (folder / TOKENIZER_FILE).is_file():
        with _understanding(folder):
            return BytePairTokenizer(
                library.Tokenizer.from_file(str(folder / TOKENIZER_FILE)), name
            )
    wanted = " nor ".join(f"{vocabulary} with {merges}" for vocabulary, merges in _FILES)
    raise DataError(f"{folder} (data.tokenizer_path) holds neither {wanted} nor {TOKENIZER_FILE}")


def _downloaded(name: str, section: DataSection) -> Tokenizer:
    library = import_extra("tokenizers", _PURPOSE)
    if not section.download:
        raise DataError(
            f"the vocabulary {name} would have to be downloaded; set data.download = true, or "
            "data.tokenizer_path to a folder with encoder.json and vocab.bpe"
        )
    try:
        with without_retry_messages():
            engine = library.Tokenizer.from_pretrained(name)
    except Exception as error:
        raise DataError(
            f"the vocabulary {name} cannot be had from Hugging Face: {in_one_line(error)}; set "
            "data.tokenizer_path to a folder with encoder.json and vocab.bpe"
        ) from error
    with _understanding(name):
        return BytePairTokenizer(engine, name)


def train_byte_pairs(pieces: Iterator[str], vocab_size: int) -> BytePairTokenizer:
    """Gives a vocabulary of the most frequent byte pairs of a text.

    A short text may have fewer pairs than asked for; the vocabulary is then smaller.

    Args:
        pieces: The text.
        vocab_size: Entries, with the 256 bytes and the separator.

    Raises:
        DataError: The extra `language` is missing.
    """
    library = import_extra("tokenizers", _PURPOSE)
    engine = _on_bytes(library, library.models.BPE())
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size - 1,
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    engine.train_from_iterator(pieces, trainer)
    return BytePairTokenizer(engine, "byte pairs of the training part")


def _on_bytes(library: Any, pairs: Any) -> Any:
    """Gives a tokenizer that divides text as GPT-2 does and merges bytes; no byte is unknown to it."""
    engine = library.Tokenizer(pairs)
    engine.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    engine.decoder = library.decoders.ByteLevel()
    return engine


@contextmanager
def _understanding(where: object) -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{where} holds no byte-pair vocabulary: {in_one_line(error)}") from error


def from_json(text: str | bytes, where: object) -> Tokenizer:
    """Gives the tokenizer that `Tokenizer.to_json` described.

    Args:
        text: The description.
        where: Where it stands, for messages.

    Raises:
        DataError: It describes none, or the extra `language` is missing.
    """
    try:
        stored = _Stored.model_validate_json(text)
    except ValidationError as error:
        raise DataError(f"{where} describes no tokenizer") from error
    if stored.kind == "bytes":
        return ByteTokenizer()
    library = import_extra("tokenizers", _PURPOSE)
    with _understanding(where):
        engine = library.Tokenizer.from_str(json.dumps(stored.tokenizers))
        return BytePairTokenizer(engine, stored.name)


def load_tokenizer(folder: str | Path, vocab_size: int | None = None) -> Tokenizer:
    """Gives the tokenizer of an exported language model.

    Args:
        folder: The folder of the model.
        vocab_size: How many tokens the model was made for, to be compared.

    Raises:
        DataError: There is none, it is broken, or it has another number of tokens than the model.
    """
    path = Path(folder) / TOKENIZER_FILE
    with reading(path):
        text = path.read_bytes()
    tokenizer = from_json(text, path)
    if vocab_size is not None and tokenizer.vocab_size != vocab_size:
        raise DataError(
            f"{path} has {tokenizer.vocab_size:,} tokens, and the model beside it was made for {vocab_size:,}; "
            "put the tokenizer back that the model was trained with"
        )
    return tokenizer


__all__ = [
    "GPT2_VOCAB_SIZE",
    "TOKENIZER_FILE",
    "BytePairTokenizer",
    "ByteTokenizer",
    "Tokenizer",
    "from_json",
    "load_tokenizer",
    "open_tokenizer",
    "train_byte_pairs",
]
