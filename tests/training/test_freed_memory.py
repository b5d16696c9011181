"""Memory that a step gives back stays with the process, unless its user has said something else about that."""

import os
import platform
import subprocess
import sys

import pytest

if platform.libc_ver()[0] != "glibc":
    pytest.skip("only glibc can be told to keep memory", allow_module_level=True)

_PROGRAM = """
import resource
from dynamoe_search.training.freed_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [bytearray(20_000_000) for _ in range(5)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(), faults()
before = faults()
kept = keep_freed_memory()
faults(), faults()
print(kept, before, faults())
"""


def _told(**variables: str) -> tuple[bool, int, int]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    command = [sys.executable, "-c", _PROGRAM]
    run = subprocess.run(command, env=own | variables, capture_output=True, text=True, check=True)
    kept, before, after = run.stdout.split()
    return kept == "True", int(before), int(after)


def test_what_was_given_back_is_not_cleared_anew() -> None:
    kept, before, after = _told()
    assert kept
    assert before > 10_000  # pages of 4 KiB, of 100 MB
    assert after < before / 10


def test_who_has_told_the_c_library_something_else_is_not_overruled() -> None:
    assert _told(MALLOC_TOP_PAD_="0")[0] is False
