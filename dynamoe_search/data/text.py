"""Text as sequences of tokens in three disjoint parts.

Documents are dealt out to training, validation and test part first; only then each part becomes one stream of tokens,
in which a separator stands before every document, and the stream is cut into sequences. So no sequence holds text of
two parts.

Legend: n sequences, T tokens of a sequence.
"""

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dynamoe_search.data.corpora import Corpus
from dynamoe_search.data.images import Array
from dynamoe_search.data.sources import STREAMED, open_corpus
from dynamoe_search.data.splits import part_indices, part_sizes
from dynamoe_search.data.token_cache import PARTS, Manifest, TokenStreams, cached_streams, key_of
from dynamoe_search.data.vocabularies import (
    Tokenizer,
    from_json,
    open_tokenizer,
    train_byte_pairs,
)
from dynamoe_search.errors import DataError
from dynamoe_search.specs.sections import DataSection
from dynamoe_search.wording import counted


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextSplit:
    """One part of a text: `tokens` (n, T + 1) int64; a sequence begins with the last token of the one before it."""

    tokens: Tensor

    @property
    def x(self) -> Tensor:
        """What a model sees, (n, T); a view."""
        return self.tokens[:, :-1]

    @property
    def y(self) -> Tensor:
        """The token that follows each of `x`, (n, T); a view."""
        return self.tokens[:, 1:]

    def to(self, device: torch.device | str) -> "TextSplit":
        """Gives the part on a device; what is there already is not copied."""
        return TextSplit(tokens=self.tokens.to(device))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class TextData:
    """What a search may see of a text: the training and the validation part, never the test part.

    On the CPU the tokens are mapped from the cache, so they may be larger than memory.
    """

    name: str
    train: TextSplit
    validation: TextSplit
    sequence_length: int  # T
    vocab_size: int
    source: str  # where it was read from
    tokenizer: Tokenizer
    bytes_per_token: (
        float  # UTF-8 bytes of the validation documents / their tokens, separators included
    )
    unigram_loss: float  # nats per validation token of the training part's frequencies, one added to each count
    data_hash: str = (
        ""  # of the tokens of both parts and of the tokenizer; empty for data made by hand
    )
    epoch_size: int | None = None  # training sequences of an epoch; none means all

    @property
    def input_shape(self) -> tuple[int]:
        """Shape (T,) of one sequence."""
        return (self.sequence_length,)

    @property
    def num_classes(self) -> int:
        """What is told apart: the entries of the vocabulary."""
        return self.vocab_size

    @property
    def per_epoch(self) -> int:
        """Training sequences that an epoch visits."""
        return min(self.epoch_size or len(self.train.y), len(self.train.y))


def load_text(section: DataSection) -> TextData:
    """Gives the training and the validation part of a text, from the cache if it was read before.

    Args:
        section: The `[data]` section of a study file.

    Raises:
        DataError: The text is missing, broken or too short, its tokenizer cannot be had, or the cache not be written.
    """
    opened = open_text(section)
    tokenizer, tokens = tokens_of(section, opened)
    train = sequences(tokens, "train", section)
    validation = sequences(tokens, "validation", section)
    if section.max_train is not None:
        train = TextSplit(tokens=train.tokens[: section.max_train])
    manifest = tokens.manifest
    return TextData(
        name=section.name,
        train=train,
        validation=validation,
        sequence_length=section.sequence_length,
        vocab_size=tokenizer.vocab_size,
        source=opened.corpus.source,
        tokenizer=tokenizer,
        bytes_per_token=manifest.num_bytes["validation"] / len(tokens.streams["validation"]),
        unigram_loss=unigram_loss(train.tokens, validation.tokens, tokenizer.vocab_size),
        data_hash=_hash(tokenizer, manifest, train, validation),
        epoch_size=section.epoch_size,
    )


def load_test_text(section: DataSection) -> TextSplit:
    """Gives the test part of a text.

    Raises:
        DataError: As for `load_text`.
    """
    _, tokens = tokens_of(section, open_text(section))
    return sequences(tokens, "test", section)


def unigram_loss(train: Tensor, validation: Tensor, vocab_size: int) -> float:
    """Gives the loss, in nats per token, of a model that knows only how frequent every token is in training.

    One is added to every count, so that what training never shows has a probability too (Laplace's rule).

    Args:
        train: Sequences (n, T + 1) to count in.
        validation: Sequences (m, T + 1) to predict.
        vocab_size: How many tokens there are.
    """
    seen = _counts(train, vocab_size) + 1
    log_probability = np.log(seen) - math.log(seen.sum())
    asked = _counts(validation, vocab_size)
    return -float((asked * log_probability).sum() / asked.sum())


def _counts(sequences: Tensor, vocab_size: int) -> Array:
    """Gives how often each token is a target, (vocab_size,) float64."""
    counts = np.zeros(vocab_size)
    for rows in torch.split(sequences[:, 1:], 4096):
        counts += np.bincount(rows.numpy().reshape(-1), minlength=vocab_size)
    return counts


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class OpenedText:
    """A text that was looked through, but is not yet tokens."""

    corpus: Corpus
    tokenizer: Tokenizer | None  # None if it is trained on the training part
    key: str  # of its tokens in the cache


def open_text(section: DataSection) -> OpenedText:
    """Gives a text and its tokenizer, if that exists before the text is read.

    Raises:
        DataError: As for `load_text`.
    """
    known = None if section.tokenizer == "bpe" else open_tokenizer(section)
    corpus = open_corpus(section, known)
    key = key_of(
        {
            "content": (corpus.content_hash, len(corpus)),
            "tokenizer": known.to_json() if known else f"byte pairs, {section.vocab_size}",
            "split": (section.split_seed, section.validation_fraction, section.test_fraction),
            "max_tokens": section.max_tokens,
        }
    )
    return OpenedText(corpus=corpus, tokenizer=known, key=key)


def tokens_of(section: DataSection, opened: OpenedText) -> tuple[Tokenizer, TokenStreams]:
    """Gives the tokenizer of a text and the tokens of its parts, from the cache if they are there.

    Raises:
        DataError: As for `load_text`.
    """
    corpus, known = opened.corpus, opened.tokenizer
    tokens = cached_streams(opened.key, lambda folder: _write(folder, corpus, known, section))
    return known or from_json(tokens.manifest.tokenizer, corpus.source), tokens


def _write(
    folder: Path, corpus: Corpus, tokenizer: Tokenizer | None, section: DataSection
) -> Manifest:
    """Writes the stream of each part: every document with a separator before it, in random order."""
    parts = _parts(_num_wanted(corpus, tokenizer, section), section)
    trained = ""
    if tokenizer is None:
        seen = (piece for number in parts["train"].tolist() for piece in corpus.pieces(number))
        tokenizer = train_byte_pairs(seen, section.vocab_size)
        trained = tokenizer.to_json()
    num_bytes = dict.fromkeys(parts, 0)
    for part, numbers in parts.items():
        with (folder / part).open("wb") as file:
            for number in numbers.tolist():
                np.array([tokenizer.separator], dtype=np.int64).tofile(file)
                for piece in corpus.pieces(number):
                    num_bytes[part] += len(piece.encode())
                    np.array(tokenizer.encode(piece), dtype=np.int64).tofile(file)
    num_documents = {part: len(numbers) for part, numbers in parts.items()}
    return Manifest(
        num_documents=num_documents,
        num_bytes=num_bytes,
        tokenizer=trained,
        source=f"{corpus.source}, {tokenizer.name}",
    )


def _num_wanted(corpus: Corpus, tokenizer: Tokenizer | None, section: DataSection) -> int:
    """Gives how many documents are read before `max_tokens` is reached; streaming has seen to it already."""
    limit = section.max_tokens
    if limit is None or tokenizer is None or section.name in STREAMED:
        return len(corpus)
    num_tokens = 0
    for number in range(len(corpus)):
        num_tokens += 1 + sum(len(tokenizer.encode(piece)) for piece in corpus.pieces(number))
        if num_tokens >= limit:
            return number + 1
    return len(corpus)


def _parts(num_documents: int, section: DataSection) -> dict[str, Array]:
    """Gives the numbers of each part's documents, in random order."""
    section = section.model_copy(update={"max_train": None})
    part_sizes(num_documents, section, has_test=False, unit="documents")
    parts = part_indices(np.zeros(num_documents), section, has_test=False)
    return {name: getattr(parts, name) for name in PARTS}


def sequences(tokens: TokenStreams, part: str, section: DataSection) -> TextSplit:
    """Cuts the stream of a part into sequences; what is left at its end is too short for one and left out.

    Raises:
        DataError: There is not one.
    """
    stream, length = tokens.streams[part], section.sequence_length
    if len(stream) <= length:
        raise DataError(
            f"the {part} part of the text has {counted(len(stream), 'token')}, which is less than one sequence of "
            f"{length:,} and what follows it; give more text, or lower data.sequence_length"
        )
    return TextSplit(tokens=torch.from_numpy(stream).unfold(0, length + 1, length))


def _hash(tokenizer: Tokenizer, manifest: Manifest, train: TextSplit, validation: TextSplit) -> str:
    """Gives the SHA-256 of what the models see: tokens of both parts, how they are cut, and what they stand for."""
    shapes = tuple(train.tokens.shape), tuple(validation.tokens.shape)
    checksums = manifest.checksums["train"], manifest.checksums["validation"]
    return hashlib.sha256(f"{tokenizer.fingerprint} {checksums} {shapes}".encode()).hexdigest()


__all__ = [
    "OpenedText",
    "TextData",
    "TextSplit",
    "load_test_text",
    "load_text",
    "open_corpus",
    "open_text",
    "sequences",
    "tokens_of",
    "unigram_loss",
]
