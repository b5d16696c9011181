"""Commands for language models: sample."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from dynamoe_search.cli.options import AsJson, TrustCode, finite
from dynamoe_search.cli.words import say


def sample(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="An exported language model, as `export` or `train --out` wrote it.",
            show_default=False,
        ),
    ],
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="TEXT", help="What the text begins with.")
    ] = "",
    tokens: Annotated[
        int, typer.Option("--tokens", min=1, max=100_000, help="How many tokens to write.")
    ] = 200,
    temperature: Annotated[
        float,
        typer.Option(
            "--temperature",
            min=0.0,
            callback=finite,
            help="Below 1 what is probable becomes more so; 0 always takes the most probable token.",
        ),
    ] = 0.8,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**32 - 1, help="The same seed, the same text.")
    ] = 0,
    trust_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Let an exported language model write text, to see what it has learnt."""
    from dynamoe_search.cli import screens
    from dynamoe_search.training.sampling import sample_text

    written = sample_text(
        folder,
        prompt=prompt,
        num_tokens=tokens,
        temperature=temperature,
        seed=seed,
        trust_code=trust_code,
    )
    if as_json:
        screens.print_json(asdict(written))
    else:
        say(written.prompt + written.text)


COMMANDS: dict[str, Any] = {"sample": sample}
