"""The size of a text, its vocabulary and its tokens: as they are, or guessed where finding out would take long."""

from dynamoe_search.data.sources import STREAMED, find_text
from dynamoe_search.data.splits import DataInfo, TextFacts
from dynamoe_search.data.text import OpenedText, open_text, sequences, tokens_of
from dynamoe_search.data.token_cache import is_cached
from dynamoe_search.data.vocabularies import GPT2_VOCAB_SIZE
from dynamoe_search.errors import DataError
from dynamoe_search.specs.sections import DataSection

QUICK_BYTES = 4_000_000
"""Text from which a vocabulary is made in seconds."""
_DOCUMENT_BYTES = 3000
_PAIR_BYTES = 4  # a usual byte pair
_VOCABULARY_SIZES = {"bytes": 257, "gpt2": GPT2_VOCAB_SIZE}


def describe_text(section: DataSection, *, quickly: bool = False) -> DataInfo:
    """Gives the size of a text, by reading it; of what would have to be streamed first, a rough guess.

    Args:
        section: The `[data]` section of a study file.
        quickly: Whether to guess as well where a vocabulary would have to be made from a long text first.

    Raises:
        DataError: As for `load_text`.
    """
    if section.name in STREAMED and find_text(section) is None:
        return _guess(
            section, _streamed_tokens(section), "the text would have to be streamed first"
        )
    opened = open_text(section)
    if quickly and _is_long(opened):
        size = opened.corpus.num_bytes
        why = f"the vocabulary would have to be made from {size / 1e6:,.0f} MB of text first"
        return _guess(section, size // _PAIR_BYTES, why)
    return _counted(section, opened)


def _is_long(opened: OpenedText) -> bool:
    is_made = opened.tokenizer is not None or is_cached(opened.key)
    return not is_made and opened.corpus.num_bytes > QUICK_BYTES


def _counted(section: DataSection, opened: OpenedText) -> DataInfo:
    tokenizer, tokens = tokens_of(section, opened)
    lengths = {part: len(stream) for part, stream in tokens.streams.items()}
    bytes_per_token = tokens.manifest.num_bytes["validation"] / lengths["validation"]
    num_train = len(sequences(tokens, "train", section).tokens)
    if section.max_train is not None and section.max_train < num_train:
        num_train = section.max_train
        lengths["train"] = num_train * section.sequence_length
    facts = TextFacts(
        tokenizer=tokenizer.name,
        vocab_size=tokenizer.vocab_size,
        tokens=lengths,
        bytes_per_token=bytes_per_token,
    )
    return _info(section, facts, num_train, len(sequences(tokens, "validation", section).tokens))


def _streamed_tokens(section: DataSection) -> int:
    """Gives how many tokens will be streamed, if a document has 3,000 bytes and a byte pair stands for 4."""
    per_token = 1 if section.tokenizer == "bytes" else _PAIR_BYTES
    limits = [] if section.max_tokens is None else [section.max_tokens]
    if section.max_documents is not None:
        limits.append(section.max_documents * _DOCUMENT_BYTES // per_token)
    if not limits:
        raise DataError("what is streamed needs data.max_documents or data.max_tokens")
    return min(limits)


def _guess(section: DataSection, num_tokens: int, why: str) -> DataInfo:
    facts = TextFacts(
        tokenizer=section.tokenizer,
        vocab_size=_VOCABULARY_SIZES.get(section.tokenizer, section.vocab_size),
        unknown_because=why,
    )
    searched = 1 - section.test_fraction
    train = searched * (1 - section.validation_fraction)
    num_sequences = num_tokens / section.sequence_length
    num_train = max(1, round(num_sequences * train))
    if section.max_train is not None:
        num_train = min(num_train, section.max_train)
    return _info(section, facts, num_train, max(1, round(num_sequences * (searched - train))))


def _info(section: DataSection, facts: TextFacts, num_train: int, num_validation: int) -> DataInfo:
    return DataInfo(
        input_shape=(section.sequence_length,),
        num_classes=facts.vocab_size,
        num_train=num_train,
        num_validation=num_validation,
        epoch_size=section.epoch_size,
        text=facts,
    )


__all__ = ["QUICK_BYTES", "describe_text"]
