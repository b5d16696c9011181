"""Text from an exported language model, one token after another."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dynamoe_search.data import load_tokenizer
from dynamoe_search.errors import DataError, UsageError
from dynamoe_search.training.export import load_config, load_model


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """What a language model wrote.

    Attributes:
        prompt: What it was given.
        text: What it wrote after that; blank lines stand where it began another document.
        tokens: The same as tokens.
    """

    prompt: str
    text: str
    tokens: tuple[int, ...]


def sample_text(
    folder: str | Path,
    *,
    prompt: str = "",
    num_tokens: int = 200,
    temperature: float = 0.8,
    seed: int = 0,
    trust_code: bool = False,
) -> Sample:
    """Gives text that an exported language model writes, on the CPU.

    The prompt stands at the beginning of a document. The model sees as many of the last tokens as in its training.

    Args:
        folder: Where `dynamoe-search export` or `train --out` wrote it.
        prompt: What to go on from; may be empty.
        num_tokens: How many tokens to write.
        temperature: Divides the logits; 0 always takes the most probable token.
        seed: The same seed gives the same text.
        trust_code: Whether a backbone that is the author's own code may be imported.

    Raises:
        DataError: The tokenizer beside the model is missing, broken or another model's.
        UsageError: The folder holds no language model, its weights are no numbers, or the temperature is below 0.
    """
    if not 0 <= temperature < float("inf"):
        raise UsageError(f"the temperature must be a number from 0 up, got {temperature}")
    config = load_config(folder)
    if len(config.input_shape) != 1:
        raise UsageError(
            f"{folder} holds a model of images, which writes no text; export one that was trained on text"
        )
    tokenizer = load_tokenizer(folder, config.num_classes)
    if config.tokenizer not in ("", tokenizer.fingerprint):
        raise DataError(
            f"the vocabulary in {folder} is not the one that the model beside it was made for; "
            "put the tokenizer back that the model was trained with"
        )
    model = load_model(folder, trust_code=trust_code)
    prompt = prompt.encode("utf-8", "replace").decode("utf-8")  # of bytes that are no text
    start = [tokenizer.separator, *tokenizer.encode(prompt)]
    generator = torch.Generator().manual_seed(seed)
    written = tuple(
        _continued(model, start, num_tokens, config.input_shape[0], temperature, generator)
    )
    text = tokenizer.decode([*start, *written]).removeprefix(prompt)
    return Sample(prompt=prompt, text=text, tokens=written)


def _continued(
    model: nn.Module,
    tokens: list[int],
    num_tokens: int,
    length: int,
    temperature: float,
    generator: torch.Generator,
) -> Iterator[int]:
    """Yields the tokens that follow, each drawn after all before it."""
    window = tokens[-length:]
    for _ in range(num_tokens):
        with torch.inference_mode():
            logits, _ = model(torch.tensor([window]))
        token = _drawn(logits[0, -1], temperature, generator)
        yield token
        window = [*window, token][-length:]


def _drawn(logits: Tensor, temperature: float, generator: torch.Generator) -> int:
    """Gives one token of the distribution that logits (vocabulary,) describe."""
    if not logits.isfinite().all():
        raise UsageError(
            "the model gives no probabilities: its weights hold NaN or too large numbers"
        )
    if temperature == 0:
        return int(logits.argmax())
    wide = logits.double()
    probabilities = ((wide - wide.max()) / temperature).softmax(0)
    return int(torch.multinomial(probabilities, 1, generator=generator))


__all__ = ["Sample", "sample_text"]
