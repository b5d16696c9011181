"""What stands on the page of a study, and on that of a comparison."""

from collections import Counter
from typing import Any

from dynamoe_search.auditing.findings import RULE
from dynamoe_search.records import CandidateRecord
from dynamoe_search.report import (
    compared_grids,
    designed_grids,
    findings,
    grids,
    plots,
    points,
    provenance,
    series,
    words,
)
from dynamoe_search.report.cells import Grid
from dynamoe_search.report.comparing import Comparison
from dynamoe_search.report.history import hypervolumes, reference_of
from dynamoe_search.report.page import render
from dynamoe_search.report.reading import StudyData, value
from dynamoe_search.report.words import label, number
from dynamoe_search.wording import counted

MAX_CHOICES = 60
"""Candidates whose experts the page can show."""


def study_page(data: StudyData) -> str:
    """Returns the page of a study."""
    drawn = plots.study_plots(data)
    chosen = series.chosen(series.with_routing(data), MAX_CHOICES)
    shown = series.chosen(data.front)
    content = {
        "title": f"{data.name} – report",
        "heading": data.name,
        "kicker": "Report of a study",
        "question": data.spec.study.description if data.spec else "",
        "facts": _facts(data),
        "keys": _keys(data),
        "headline": findings.headline(data),
        "caveat": findings.caveat(data),
        "across": label(data.axes[0]),
        "upwards": label(data.axes[1]),
        "num_objectives": len(data.objectives),
        "reference_point": _point(data.objectives, reference_of(data)),
        "alts": _alts(data),
        "pairs": _pairs(drawn),
        "cards": [_card(data, record, _most(shown)) for record in shown],
        "cards_note": f"{len(shown)} of {len(data.front)}, evenly chosen."
        if len(shown) < len(data.front)
        else "",
        "curves_title": words.curve_label(series.curve_measure(data)).capitalize(),
        "curves_note": _curves_note(data),
        "choices": [(one.trial, _choice(data, one)) for one in chosen],
        "chosen": data.knee.trial if data.knee else None,
        "num_importance": max((one.candidates for one in data.importances), default=0),
        "failures_text": _failures(data),
        "confirmed": [(one.sentences, designed_grids.confirmed(one)) for one in data.confirmed],
        "audited": [designed_grids.audited(one) for one in data.audited],
        "audit_rule": RULE,
        **_grids(data),
        **provenance.of_study(data),
    }
    experts = {str(one.trial): plots.experts(one) for one in chosen}
    content["sections"] = _sections(content, drawn)
    return render("study.html", content, drawn, experts)


def _grids(data: StudyData) -> dict[str, Grid]:
    return {
        "references": grids.references(data),
        "front_table": grids.front(data),
        "pruned": grids.pruned(data),
        "layers": grids.layers(data),
        "importance": grids.importance(data),
        "times": grids.times(data),
        "failures": grids.failures(data),
        "trials": grids.trials(data),
    }


def _sections(content: dict[str, Any], drawn: dict[str, Any]) -> list[tuple[str, str]]:
    """The headings that the template shows."""
    found = [
        ("summary", "In short", True),
        ("front", "Front", "front" in drawn),
        ("designs", "Designs", bool(content["cards"])),
        ("course", "Course", "hypervolume" in drawn or "curves" in drawn),
        ("experts", "Experts", bool(content["choices"])),
        ("confirmed", "Confirmed", bool(content["confirmed"])),
        ("claims", "Claims", bool(content["audited"])),
        ("importance", "What mattered", bool(content["importance"].rows)),
        ("time", "Time", "time" in drawn),
        ("failures", "Failures", True),
        ("candidates", "Candidates", bool(content["trials"].rows)),
        ("repeat", "Repeat", True),
        ("words", "Words", True),
    ]
    return [(anchor, name) for anchor, name, is_there in found if is_there]


def _facts(data: StudyData) -> list[tuple[str, str]]:
    counts = Counter(words.STATUS[one.status] for one in data.candidates)
    found = ", ".join(f"{number_of:,} {word}" for word, number_of in counts.most_common())
    return [
        ("state", data.record.state),
        ("candidates", f"{found or 'none'} of {data.record.trials:,}"),
        ("epochs trained", f"{data.epochs:,}"),
        ("candidate time", words.seconds(data.seconds)),
        ("data", data.spec.data.name if data.spec else words.NONE),
        ("device", data.record.settings.device),
        ("last change", words.moment(data.record.updated_at)),
    ]


def _keys(data: StudyData) -> list[dict[str, str]]:
    """The numbers that a reader looks for first."""
    if not data.front:
        return []
    across, upwards = data.axes
    best = findings.best_of(data.front, upwards)
    cheapest = findings.best_of(data.front, across)
    found = [_key(f"best {label(upwards)}", best, upwards, across)]
    if data.knee is not None and len(data.front) > 2:
        found.append(_key("at the knee", data.knee, upwards, across))
    if cheapest is not best:
        found.append(_key(f"fewest {label(across)}", cheapest, across, upwards))
    share = _hypervolume(data)
    found.append(
        {
            "what": "designs on the front",
            "number": f"{len(data.front):,}",
            "more": f"hypervolume {words.real(share)}",
        }
    )
    return found


def _key(what: str, record: CandidateRecord, first: str, second: str) -> dict[str, str]:
    return {
        "what": f"{what} · {words.title(record)}",
        "number": number(first, value(record, first)),
        "more": f"{label(second)} {number(second, value(record, second))}",
    }


def _hypervolume(data: StudyData) -> float | None:
    """The hypervolume of a study at its end."""
    moments = hypervolumes(data)
    return moments[-1].hypervolume if moments else None


def _alts(data: StudyData) -> dict[str, str]:
    """What a plot shows, for those who cannot see it."""
    across, upwards = (label(name) for name in data.axes)
    end = words.real(_hypervolume(data))
    said = " ".join(findings.headline(data))
    return {
        "front": f"Scatter plot of {upwards} against {across}. {said}",
        "hypervolume": f"Line: hypervolume over epochs trained, rising to {end}.",
        "curves": f"Lines: {words.curve_label(series.curve_measure(data))} by epoch; "
        "tables/progress.csv has the numbers.",
        "fanova": "Bars: importance of parameters over all candidates, as in the table below.",
        "ped": "Bars: importance of parameters among the best quarter, as in the table below.",
        "time": "Bars: candidate time by model, as in the table below.",
    }


def _pairs(drawn: dict[str, Any]) -> list[tuple[str, str]]:
    """The plots of further pairs of objectives, each with a sentence."""
    found = []
    for name, plot in drawn.items():
        if name.startswith("pair-"):
            across, upwards = (plot["layout"][axis]["title"]["text"] for axis in ("xaxis", "yaxis"))
            found.append((name, f"Complete candidates by {across} and {upwards}."))
    return found


def _curves_note(data: StudyData) -> str:
    drawn, known = series.curves(data)
    return f", for {len(drawn):,} of {known:,} candidates" if len(drawn) < known else ""


def _choice(data: StudyData, record: CandidateRecord) -> str:
    return f"{words.title(record)}: {series.card_line(data, record)}"


def _failures(data: StudyData) -> str:
    failed = data.with_status("failed")
    reasons = Counter(one.reason or "unknown" for one in failed)
    listed = ", ".join(f"{reason} ({number_of:,})" for reason, number_of in reasons.most_common())
    return f"{counted(len(failed), 'candidate')} of {len(data.candidates):,} failed: {listed}."


def _most(records: list[CandidateRecord]) -> int:
    return max((max(one.experts_per_layer) for one in records), default=1)


def _card(data: StudyData, record: CandidateRecord, most: int) -> dict[str, Any]:
    """A design as bars: the experts of each layer, and in them how many a token used."""
    experts = record.experts_per_layer
    used = words.mean_k(record) or (0.0,) * len(experts)
    step, floor = max(9.0, min(44.0, 180 / len(experts))), 72.0
    gap = step * 0.12
    bars = [
        {
            "x": round(layer * step + gap, 2),
            "width": round(step - 2 * gap, 2),
            "y": round(floor - floor * count / most + 1, 2),
            "height": round(floor * count / most, 2),
            "used_x": round(layer * step + step * 0.3, 2),
            "used_width": round(step * 0.4, 2),
            "used_y": round(floor - floor * k / most + 1, 2),
            "used_height": round(floor * k / most, 2),
            "middle": round((layer + 0.5) * step, 2),
            "text": str(count) if step > 12 else "",
            "alt": f"layer {layer}: {counted(count, 'expert')}, mean K {k:.2f}",
        }
        for layer, (count, k) in enumerate(zip(experts, used, strict=True))
    ]
    model = record.candidate.model
    return {
        "title": words.title(record),
        "line": series.card_line(data, record),
        "design": f"{record.candidate.schedule.shape} · {words.router(record)} · width {model.d_model}",
        "width": round(max(180.0, len(experts) * step), 1),
        "bars": bars,
        "alt": f"Experts per layer: {words.whole(experts)}; mean K: {words.numbers(used)}.",
    }


def _point(names: tuple[str, ...], point: tuple[float, ...]) -> str:
    return ", ".join(
        f"{label(name)} {number(name, bound)}" for name, bound in zip(names, point, strict=True)
    )


def comparison_page(compared: Comparison) -> str:
    """Returns the page of studies side by side."""
    names = [one.name for one in compared.studies]
    drawn: dict[str, Any] = {}
    if any(one.ranked for one in compared.studies):
        drawn["fronts"] = points.fronts(compared.studies, compared.axes)
        drawn["hypervolume"] = plots.hypervolume(
            compared.studies, compared.objectives, compared.reference
        )
    across, upwards = (label(name) for name in compared.axes)
    content = {
        "title": f"{' and '.join(names)} – comparison",
        "heading": " · ".join(names),
        "kicker": "Studies side by side",
        "question": f"Compared in {', '.join(label(name) for name in compared.objectives)}.",
        "headline": _verdicts(compared),
        "warnings": compared.warnings,
        "alts": {
            "fronts": f"Scatter plot of {upwards} against {across}: the fronts of the studies, as in the table below.",
            "hypervolume": "Lines: hypervolume over epochs trained, one per study.",
        },
        "reference_point": _point(compared.objectives, compared.reference),
        "summary": compared_grids.summary(compared),
        "fronts_table": compared_grids.fronts(compared),
        "budgets": compared_grids.budgets(compared),
        "sections": [
            ("summary", "In short"),
            ("fronts", "Fronts"),
            ("course", "Course"),
            ("repeat", "Repeat"),
        ],
        **provenance.of_comparison(compared),
    }
    return render("comparison.html", content, drawn, {})


def _verdicts(compared: Comparison) -> list[str]:
    ordered = sorted(compared.studies, key=compared.hypervolume, reverse=True)
    found = [
        f"{one.name}: hypervolume {words.real(compared.hypervolume(one))} after {counted(one.epochs, 'epoch')}"
        for one in ordered
    ]
    fairness = (
        "One run of each study cannot tell a better method from a luckier seed; "
        "the table of equal budgets is the fair one of the two."
    )
    return [f"{'; '.join(found)}.", fairness]
