"""How one candidate, or one model, looks on a terminal: its design, its training, what was measured."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dynamoe_search.cli.screens import console, facts, table
from dynamoe_search.cli.words import cell, printable, seconds
from dynamoe_search.records import (
    CandidateRecord,
    LayerRouting,
    ModelConfig,
    Outcome,
    Progress,
    RouterConfig,
    language_metrics,
)
from dynamoe_search.specs.vocabulary import (
    IMAGE_BACKBONES,
    LANGUAGE_BACKBONES,
    LANGUAGE_OBJECTIVES,
)


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
                "router": _router_words(candidate.router),
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


def _router_words(router: RouterConfig) -> str:
    """Returns a router's kind with the settings that it reads."""
    settings = {
        name: value
        for name, value in asdict(router).items()
        if value is not None and name != "kind"
    }
    return f"{router.kind} {cell(settings)}".strip()


def _pack(record: CandidateRecord) -> str:
    """Returns in what company a candidate was trained."""
    text = f"cohort {record.cohort}"
    if record.outcome is None:
        return text
    outcome = record.outcome
    how = "together" if outcome.pack_mode == "vmap" else "one at a time"
    note = f" ({outcome.pack_note})" if outcome.pack_note else ""
    if outcome.pack_size == 1:
        return f"{text}, trained alone{note}"
    return f"{text}, {outcome.pack_size:,} candidates trained {how}{note}"


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


def show_loading(folder: Path, *, is_text: bool = False, trust_code: bool = False) -> None:
    """Prints how to load an exported model, and how to let it write if it is one of text."""
    out = console()
    out.print("\nload it with:", markup=False)
    out.print("  from dynamoe_search import load_model", markup=False)
    trust = ", trust_code=True" if trust_code else ""
    out.print(f"  model = load_model({str(folder)!r}{trust})", markup=False)
    if is_text:
        out.print("\nlet it write with:", markup=False)
        line = f"  dynamoe-search sample {shlex.quote(str(folder))}{' --trust-code' if trust_code else ''}"
        out.print(printable(line), markup=False, soft_wrap=True)
