"""How long reading a text takes and how much memory, with each tokenizer, and how good the unigram model is.

    python -m benchmarks.language.tokens TEXTS --gpt2 FOLDER > benchmarks/language/results/tokens_2-cores.md

TEXTS is a folder of .txt files. FOLDER holds GPT-2's encoder.json and vocab.bpe. Every row is a process of its own
with an empty cache; memory is what it has beyond imports and mapped files. The last one reads all texts as a single
document, ten times over.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Thread

import torch

from dynamoe_search.data import TextData, load_data
from dynamoe_search.specs import DataSection

HEAD = "| text | tokenizer | vocabulary | first | again | memory | tokens | bytes per token | unigram, bits per byte |"


def main() -> None:
    """Measures every tokenizer and prints the page, or with `--one` one of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("texts", type=Path)
    parser.add_argument("--gpt2", type=Path)
    parser.add_argument("--one")
    arguments = parser.parse_args()
    if arguments.one is not None:
        print(json.dumps(measured(DataSection.model_validate_json(arguments.one))))
        return
    files = sorted(arguments.texts.rglob("*.txt"))
    size = sum(path.stat().st_size for path in files)
    print("# Reading text\n")
    print("Command: `python -m benchmarks.language.tokens TEXTS --gpt2 FOLDER`.")
    print(f"{len(files)} files, {size:,} bytes. {platform.machine()}, {os.cpu_count()} cores,")
    print(f"Python {platform.python_version()}, torch {torch.__version__}.\n")
    print(HEAD + "\n" + "|---|---|" + "--:|" * 7)
    known = {"name": "text", "path": str(arguments.texts)}
    kinds: dict[str, dict[str, object]] = {"bytes": {}, "bpe": {"vocab_size": 4096}}
    if arguments.gpt2:
        kinds["gpt2"] = {"tokenizer_path": str(arguments.gpt2)}
    for kind, more in kinds.items():
        show("as it is", known | {"tokenizer": kind} | more)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.txt"
        with whole.open("wb") as target:
            for path in files * 10:
                target.write(path.read_bytes())
        for name in "abc":
            (Path(folder) / f"{name}.txt").write_bytes(files[0].read_bytes())
        show("ten times, as one document", {"name": "text", "path": folder, "split_seed": 3})


def show(text: str, section: dict[str, object]) -> None:
    """Prints one row, measured in a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        done = subprocess.run(  # noqa: S603 - this program again
            [sys.executable, "-m", "benchmarks.language.tokens", ".", "--one", json.dumps(section)],
            env=os.environ | {"XDG_CACHE_HOME": cache},
            capture_output=True,
            text=True,
            check=True,
        )
    row = json.loads(done.stdout)
    cells = (text, section.get("tokenizer", "bytes"), *row.values())
    print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def measured(section: DataSection) -> dict[str, str]:
    """Reads a text twice and returns what it took, as the cells of a row."""
    before, peak = own_memory(), [0]
    Thread(target=watch, args=(peak,), daemon=True).start()
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        data = load_data(section)
        seconds.append(time.perf_counter() - started)
    assert isinstance(data, TextData)
    bits = data.unigram_loss / 0.6931471805599453 / data.bytes_per_token
    return {
        "vocabulary": f"{data.vocab_size:,}",
        "first": f"{seconds[0]:.1f} s",
        "again": f"{seconds[1]:.1f} s",
        "memory": f"{(peak[0] - before) / 1024:.0f} MiB",
        "tokens": f"{(data.train.y.numel() + data.validation.y.numel()):,}",
        "bytes per token": f"{data.bytes_per_token:.2f}",
        "unigram": f"{bits:.2f}",
    }


def own_memory() -> int:
    """Returns the memory in KiB that is not a file's, which the system may take back."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0])


def watch(peak: list[int]) -> None:
    """Keeps the most memory of its own that the process has had, looking every 5 ms."""
    while True:
        peak[0] = max(peak[0], own_memory())
        time.sleep(0.005)


if __name__ == "__main__":
    main()
