"""How records look on a terminal. Nothing is computed here that is not about looks."""

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dynamoe_search.cli.pictures import scatter
from dynamoe_search.cli.words import ago, cell, printable, seconds, size
from dynamoe_search.records import (
    CandidateRecord,
    FrontMember,
    LayerRouting,
    ModelConfig,
    Outcome,
    Progress,
    RouterConfig,
    StudyRecord,
    language_metrics,
)
from dynamoe_search.specs.vocabulary import (
    IMAGE_BACKBONES,
    LANGUAGE_BACKBONES,
    LANGUAGE_OBJECTIVES,
    MAXIMISED,
)

if TYPE_CHECKING:  # these load torch
    from dynamoe_search.search import Estimate, Speed
    from dynamoe_search.specs import StudySpec

_UNPRINTABLE = re.compile(r"[\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")
_WIDE = 140  # columns where the output is no terminal
_NARROW = 90  # below this a table of the front leaves out what `show` tells


def console(to_stderr: bool = False) -> Console:
    """Returns a console for results (stdout) or for progress (stderr)."""
    stream = sys.stderr if to_stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDE
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def print_json(value: Any) -> None:
    """Prints a value as JSON on stdout; what is not a finite number becomes null."""
    text = to_json(value, indent=2, inf_nan_mode="null").decode()
    sys.stdout.write(_UNPRINTABLE.sub(_json_escape, text) + "\n")


def _json_escape(match: re.Match[str]) -> str:
    """Returns a character as JSON escapes it; the serialiser does so with those below 32 only."""
    return json.dumps(match[0])[1:-1]


def table(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None
) -> Table:
    """Returns a table whose columns of numbers stand to the right."""
    content = [list(row) for row in rows]
    grid = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numbers = all(isinstance(row[index], int | float | None) for row in content)
        grid.add_column(
            Text(cell(column)),
            justify="right" if numbers else "left",
            overflow="fold",
            no_wrap=numbers,
        )
    for row in content:
        grid.add_row(*(Text(cell(value)) for value in row))
    return grid


def facts(pairs: Mapping[str, Any]) -> Table:
    """Returns names and values, one pair a line; pairs without a value are left out."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs.items():
        if value is not None:
            grid.add_row(Text(name), Text(cell(value)))
    return grid


def show_front(
    members: Sequence[FrontMember],
    objectives: Sequence[str],
    candidates: Sequence[CandidateRecord] = (),
    epochs: Mapping[int, int] | None = None,
) -> None:
    """Prints the front as a table and, with two objectives or more, as a plot of the first against the second.

    Args:
        members: The front.
        objectives: Names of the study's objectives.
        candidates: Others for the plot; those without values are left out.
        epochs: That a member, by its trial, was trained for so far; None or empty if all are complete.
    """
    rows = [_front_cells(member, objectives) for member in members]
    headings = ["trial", *objectives, "experts per layer", "router", "mean K", "schedule", ""]
    if epochs:
        headings.insert(1, "epochs")
        for row, member in zip(rows, members, strict=True):
            row.insert(1, f"{epochs[member.trial]} of {member.candidate.train.epochs}")
    out = console()
    is_narrow = out.width < _NARROW
    if is_narrow:
        headings = headings[:-3]
        rows = [row[:-3] for row in rows]
    out.print(table(headings, rows))
    if is_narrow:
        out.print(
            f"left out: mean K, schedule, reference; --json has them, and so has a terminal of {_NARROW} columns"
        )
    if len(objectives) < 2 or len(members) < 2:
        return
    upwards, across = objectives[:2]
    points = [(member.values[across], member.values[upwards]) for member in members]
    others = [
        (record.values[across], record.values[upwards]) for record in candidates if record.values
    ]
    out.print()
    columns = max(8, min(56, out.width - 16))
    better = "" if upwards in MAXIMISED else ", lower is better"
    picture = scatter(
        points, printable(across), f"{printable(upwards)}{better}", others, columns=columns
    )
    out.print(picture, markup=False, highlight=False)


def _front_cells(member: FrontMember, objectives: Sequence[str]) -> list[Any]:
    candidate = member.candidate
    return [
        member.trial,
        *(float(member.values[name]) for name in objectives),
        member.experts_per_layer,
        _searched_router(member),
        " ".join(f"{layer.mean_k:.2f}" for layer in member.routing),
        candidate.schedule.shape,
        f"reference {candidate.reference}" if candidate.reference else "",
    ]


def _searched_router(member: FrontMember) -> str:
    """Returns the kind of router with those of its settings that the study varies."""
    settings = {
        path.removeprefix("router."): value
        for path, value in member.params.items()
        if path.startswith("router.") and path != "router.kind"
    }
    return f"{member.candidate.router.kind} {cell(settings)}".strip()


def router_words(router: RouterConfig) -> str:
    """Returns a router's kind with the settings that it reads."""
    settings = {
        name: value
        for name, value in asdict(router).items()
        if value is not None and name != "kind"
    }
    return f"{router.kind} {cell(settings)}".strip()


def show_candidate(record: CandidateRecord, progress: Sequence[Progress] = ()) -> None:
    """Prints everything that is known of one candidate."""
    candidate, outcome = record.candidate, record.outcome
    out = console()
    out.print(
        facts(
            {
                "trial": record.trial,
                "status": f"{record.status} ({record.reason})" if record.reason else record.status,
                "reference": candidate.reference,
                "model": _model_words(candidate.model),
                "schedule": {
                    name: value
                    for name, value in asdict(candidate.schedule).items()
                    if value is not None
                },
                "experts per layer": record.experts_per_layer,
                "at the start": candidate.experts_per_layer if candidate.adaptive else None,
                "router": router_words(candidate.router),
                "losses": asdict(candidate.losses),
                "adaptive": asdict(candidate.adaptive) if candidate.adaptive else None,
                "training": asdict(candidate.train),
                "pack": _pack(record),
                "epochs": outcome.epochs if outcome else len(progress),
                "time": f"{seconds(outcome.seconds)} on {outcome.device}" if outcome else None,
                "versions": record.versions or None,
                "finished": record.finished_at,
            }
        )
    )
    if outcome:
        show_outcome(outcome)
    elif kept := [one for one in progress if one.epoch <= record.epochs] or list(progress):
        _show_report(kept[-1], is_text=candidate.model.backbone in LANGUAGE_BACKBONES)
    if record.message:
        out.print(f"\n{printable(record.message, lines=True)}", markup=False)


def _model_words(model: ModelConfig) -> dict[str, Any]:
    """Returns the settings of a network, without those that only others of our networks have."""
    unread: list[str] = []
    if model.backbone in IMAGE_BACKBONES:
        unread += ["moe_every", "expert", "tie_embeddings"]
    if model.backbone in ("mlp", *LANGUAGE_BACKBONES):
        unread.append("patch_size")
    if model.backbone in ("mlp", "mlp-lm"):
        unread.append("num_heads")
    return {name: value for name, value in asdict(model).items() if name not in unread}


def show_outcome(outcome: Outcome) -> None:
    """Prints what was measured of one model, in all and layer by layer."""
    out = console()
    if outcome.metrics:
        out.print()
        first = [name for name in LANGUAGE_OBJECTIVES if name in outcome.metrics]
        names = dict.fromkeys([*first, *outcome.metrics])
        rows = [(name, float(outcome.metrics[name])) for name in names]
        out.print(table(["measure", "value"], rows))
    if outcome.expert_events:
        events = [(step, " ".join(map(str, counts))) for step, counts in outcome.expert_events]
        out.print()
        out.print(table(["step", "open experts per layer"], events))
    if outcome.routing:
        layers: list[tuple[Any, ...]] = [
            (one.layer, one.num_experts, one.mean_k, one.std_k, one.load_cv, one.max_share)
            for one in outcome.routing
        ]
        headings = ["layer", "experts", "mean K", "std K", "load CV", "largest share"]
        if any(one.loss_by_k for one in outcome.routing):
            headings.append("loss of tokens by K")
            told = [_loss_by_k(one) for one in outcome.routing]
            layers = [(*row, words) for row, words in zip(layers, told, strict=True)]
        out.print()
        out.print(table(headings, layers))


def _loss_by_k(layer: LayerRouting) -> str:
    """Returns the mean loss of a language model's tokens by the number of their experts."""
    told = [f"{k}: {loss:.3f}" for k, loss in enumerate(layer.loss_by_k) if loss is not None]
    return ", ".join(told)


def _show_report(report: Progress, *, is_text: bool) -> None:
    """Prints what a candidate that goes on, or may, reported last."""
    out = console()
    perplexity = language_metrics(report.validation_loss, 1.0)["perplexity"]
    rows = [("perplexity", perplexity)] if is_text else []
    rows += [
        (name, float(getattr(report, name)))
        for name in ("accuracy", "validation_loss", "train_loss", "activated_params")
    ]
    out.print()
    out.print(table([f"measure after epoch {report.epoch}", "value"], rows))
    layers = zip(report.experts_per_layer, report.mean_k_per_layer, strict=False)
    out.print()
    out.print(
        table(["layer", "experts", "mean K"], [(place, *one) for place, one in enumerate(layers)])
    )


def show_loading(folder: Path, *, is_text: bool = False) -> None:
    """Prints how to load an exported model, and how to let it write if it is one of text."""
    out = console()
    out.print("\nload it with:", markup=False)
    out.print("  from dynamoe_search import load_model", markup=False)
    out.print(f"  model = load_model({str(folder)!r})", markup=False)
    if is_text:
        out.print("\nlet it write with:", markup=False)
        line = f"  dynamoe-search sample {shlex.quote(str(folder))}"
        out.print(printable(line), markup=False, soft_wrap=True)


def _pack(record: CandidateRecord) -> str:
    """Returns in what company a candidate was trained."""
    text = f"cohort {record.cohort}"
    if record.outcome is None:
        return text
    outcome = record.outcome
    how = "together" if outcome.pack_mode == "vmap" else "one at a time"
    note = f" ({outcome.pack_note})" if outcome.pack_note else ""
    return f"{text}, {outcome.pack_size} candidates trained {how}{note}"


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
    threads = "1 thread" if found.threads == 1 else f"{found.threads} threads"
    against = "one at a time" if first == 1 else f"{first} together"
    out = console()
    out.print(
        table(["together", "ms per step", "candidate-steps per second", f"against {against}"], rows)
    )
    out.print(
        f"{found.device}, {threads}, {found.backend} experts; best cohort size here: {found.best}",
        markup=False,
    )
    out.print(f"set it with:  --set search.cohort_size={found.best}", markup=False)


def show_studies(records: Sequence[StudyRecord]) -> None:
    """Prints one line per study."""
    rows = [
        (
            record.name,
            record.purpose,
            record.state,
            f"{record.num_complete + record.num_failed + record.num_stopped}/{record.trials}",
            record.num_failed,
            record.num_front,
            ago(record.updated_at),
        )
        for record in records
    ]
    console().print(
        table(
            ["study", "purpose", "state", "candidates", "failed", "on the front", "updated"], rows
        )
    )


def study_row(record: StudyRecord) -> dict[str, Any]:
    """Returns a study as plain values under stable names."""
    return {
        "name": record.name,
        "state": record.state,
        "purpose": record.purpose,
        "parent": record.parent,
        "trials": record.trials,
        "complete": record.num_complete,
        "failed": record.num_failed,
        "stopped": record.num_stopped,
        "running": record.num_running,
        "paused": record.num_paused,
        "front": record.num_front,
        "objectives": list(record.objectives),
        "source": record.source,
        "device": record.settings.device,
        "is_stop_requested": record.is_stop_requested,
        "host": record.host,
        "pid": record.pid,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
    }
