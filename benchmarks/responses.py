"""How long people wait: for help, and for the page of a large study.

Command: python -m benchmarks.responses
"""

import platform
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

from dynamoe_search.report.pages import study_page
from dynamoe_search.specs import StudySpec
from tests.report.studies import in_memory

_PROGRAM = [sys.executable, "-m", "dynamoe_search"]


def _help() -> None:
    subprocess.run([*_PROGRAM, "--help"], capture_output=True, check=True)  # noqa: S603


def _page() -> None:
    spec = StudySpec.model_validate({"study": {"name": "large"}, "train": {"epochs": 24}})
    study_page(in_memory(spec, 5000, 24))


def _seconds(act: Callable[[], None], rounds: int) -> str:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        act()
        times.append(time.perf_counter() - started)
    return f"{median(times):.2f} | {min(times):.2f} | {max(times):.2f}"


def main() -> None:
    """Prints the result page."""
    print("# How long people wait\n")
    print(
        f"Command: `python -m benchmarks.responses`. {platform.machine()}, Python {platform.python_version()}.\n"
    )
    print("| of | median, s | least | most |\n|---|--:|--:|--:|")
    print(f"| `dynamoe-search --help`, a process of its own | {_seconds(_help, 9)} |")
    print(f"| the page of a study of 5,000 candidates and 24 epochs | {_seconds(_page, 3)} |")


if __name__ == "__main__":
    main()
