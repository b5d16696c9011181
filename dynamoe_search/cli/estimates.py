"""How what a study will cost, and how fast this machine is, looks on a terminal."""

from typing import TYPE_CHECKING

from dynamoe_search.cli.screens import console, facts, table
from dynamoe_search.cli.words import printable, seconds, size
from dynamoe_search.wording import counted

if TYPE_CHECKING:  # loads torch
    from dynamoe_search.search import Estimate, Speed
    from dynamoe_search.specs import StudySpec


def show_estimate(file: str, spec: "StudySpec", where: str | None, expected: "Estimate") -> None:
    """Prints what a study file asks for and what it will cost."""
    time = f"{seconds(expected.seconds)} ({expected.basis})"
    missing = "not here yet; run downloads it" if spec.data.download else "not on this machine"
    out = console()
    out.print(f"{printable(file)}: nothing wrong", markup=False)
    out.print(
        facts(
            {
                "study": spec.study.name,
                "question": spec.study.description or None,
                "data": f"{spec.data.name}: {where or missing}",
                **_text_words(expected),
                "candidates": expected.trials,
                "cohorts": expected.cohorts,
                "epochs of all candidates": expected.epochs,
                "largest design": f"{expected.parameters_max:,} parameters",
                "time": time if expected.seconds is not None else expected.basis,
                "memory": size(expected.memory_bytes),
                "disk": size(expected.disk_bytes),
            }
        )
    )
    for note in expected.notes:
        out.print(f"note: {printable(note)}", markup=False)


def _text_words(expected: "Estimate") -> dict[str, str]:
    """Returns what a text is made of; of images nothing."""
    text = expected.text
    if text is None:
        return {}
    most = "at most " if text.tokens is None and text.tokenizer == "bpe" else ""
    words = {"tokenizer": f"{text.tokenizer}, {most}{text.vocab_size:,} different tokens"}
    if text.tokens is None or text.bytes_per_token is None:
        return words | {"tokens": f"not known, so sizes are guesses: {text.unknown_because}"}
    parts = (("train", "for training"), ("validation", "validation"), ("test", "test"))
    counts = ", ".join(f"{text.tokens[part]:,} {name}" for part, name in parts)
    return words | {"tokens": f"{counts}; {text.bytes_per_token:.3g} bytes each on average"}


def show_speed(found: "Speed") -> None:
    """Prints what packs of several sizes come to, and which size to choose."""
    rows = [
        (
            pack.size,
            "out of memory" if pack.step_seconds is None else f"{pack.step_seconds * 1e3:.1f}",
            f"{pack.rate:.0f}",
            f"{pack.ratio:.1f}x",
        )
        for pack in found.packs
    ]
    first = found.packs[0].size
    against = "one at a time" if first == 1 else f"{first} together"
    out = console()
    out.print(
        table(["together", "ms per step", "candidate-steps per second", f"against {against}"], rows)
    )
    out.print(
        f"{found.device}, {counted(found.threads, 'thread')}, {found.backend} experts; "
        f"best cohort size here: {found.best}",
        markup=False,
    )
    out.print(f"set it with:  --set search.cohort_size={found.best}", markup=False)
