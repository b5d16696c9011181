"""Writes what `audit --json` printed as a page of results.

python -m benchmarks.auditing.page AUDIT.json TITLE COMMAND... > benchmarks/auditing/results/NAME.md
"""

import json
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from dynamoe_search.wording import counted

_ACCURACY = "accuracy of "


def lines(audit: dict[str, Any], title: str, commands: list[str]) -> Iterator[str]:
    """Yields the page line by line."""
    yield f"# {title}\n"
    yield (
        f"Commands: {', then '.join(f'`{one}`' for one in commands)}. 2 CPU cores, shared; torch "
        f"{torch.__version__}, numpy {np.__version__}, scipy {scipy.__version__}, Python {platform.python_version()}.\n"
    )
    yield (
        f"{audit['seeds']} seeds, {counted(audit['epochs'], 'epoch')}, margin {audit['margin']} points; "
        f"{counted(audit['failed'], 'run')} failed. Rule: {audit['rule']}.\n"
    )
    yield "| claim | about | answer | effect | 95 % interval | n | in words |"
    yield "| --- | --- | --- | --: | --: | --: | --- |"
    for one in audit["findings"]:
        interval = f"{_signed(one['low'])} to {_signed(one['high'])}"
        cells = (one["claim"], one["subject"], one["verdict"], _signed(one["effect"]), interval)
        yield f"| {' | '.join(cells)} | {one['n']} | {one['sentence']} |"
    yield "\nGradient noise without the experts' parameters, per cent lower than that of top-k:\n"
    yield "| about | lower | 95 % interval |"
    yield "| --- | --: | --: |"
    for one in audit["findings"]:
        own = one["details"]
        if "lower_without_experts" in own:
            low, high = own["lower_without_experts_low"], own["lower_without_experts_high"]
            middle = _signed(own["lower_without_experts"])
            yield f"| {one['subject']} | {middle} | {_signed(low)} to {_signed(high)} |"
    yield "\nMean accuracy of the shapes, per cent:\n"
    yield "| matching | shape | accuracy |"
    yield "| --- | --- | --: |"
    for one in audit["findings"]:
        for name, value in one["details"].items():
            if name.startswith(_ACCURACY):
                yield f"| {one['subject']} | {name.removeprefix(_ACCURACY)} | {value:.2f} |"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.2f}"


if __name__ == "__main__":
    path, title, *commands = sys.argv[1:]
    print("\n".join(lines(json.loads(Path(path).read_text("utf-8")), title, commands)))
