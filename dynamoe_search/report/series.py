"""What the pictures show, before it is drawn: the same series for the page's plots and for the figures."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from dynamoe_search.pruning import in_words
from dynamoe_search.records import CandidateRecord
from dynamoe_search.report import words
from dynamoe_search.report.reading import StudyData, epochs_of, seconds_of, value
from dynamoe_search.specs.vocabulary import is_about_loss

MAX_CURVES = 300
"""Learning curves that one plot can show; the front, references and an even share of the others."""
MAX_CARDS = 12
"""Members of the front that are drawn as a schedule, and whose experts are shown as figures."""

GROUP_NAMES = {
    "stopped": "pruned",
    "paused": "paused",
    "running": "no outcome yet",
    "failed": "failed",
    "complete": "dominated",
    "reference": "reference",
    "front": "front",
}
"""What a candidate is drawn as, the least important first, and what that is called."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dot:
    """A candidate in the plot of the front."""

    record: CandidateRecord
    across: float
    upwards: float
    is_last: bool = True  # its values are final; else those of its last report


def dots(data: StudyData) -> dict[str, list[Dot]]:
    """Returns every candidate that has values, by group; unfinished ones with their last report."""
    found: dict[str, list[Dot]] = defaultdict(list)
    for record in data.candidates:
        if record.status == "complete":
            dot = Dot(
                record=record,
                across=value(record, data.axes[0]),
                upwards=value(record, data.axes[1]),
            )
        else:
            reported = _last_values(data, record)
            if reported is None:
                continue
            dot = Dot(record=record, across=reported[0], upwards=reported[1], is_last=False)
        if dot.across == dot.across and dot.upwards == dot.upwards:
            found[data.group(record)].append(dot)
    return dict(found)


def _last_values(data: StudyData, record: CandidateRecord) -> tuple[float, float] | None:
    """Returns what an unfinished candidate reported last, if its reports have the measures of the plot."""
    reports = data.progress.get(record.trial, ())
    if not reports or record.status == "failed":
        return None
    reported = reports[-1].metrics(bytes_per_token=1.0)  # the length is not known here
    del reported["bits_per_byte"]
    if not all(name in reported for name in data.axes):
        return None
    return reported[data.axes[0]], reported[data.axes[1]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """What a candidate's validation showed by epoch, see `curve_measure`."""

    record: CandidateRecord
    group: str
    epochs: tuple[int, ...]
    values: tuple[float, ...]


def curve_measure(data: StudyData) -> str:
    """Returns what learning curves show: `accuracy`, or `validation_loss` if the study is about that."""
    return "validation_loss" if is_about_loss(data.objectives) else "accuracy"


def curves(data: StudyData) -> tuple[list[Curve], int]:
    """Returns the learning curves to draw, and of how many candidates there are any."""
    known = [record for record in data.candidates if data.progress.get(record.trial)]
    kept = [one for one in known if data.group(one) in ("front", "reference")]
    others = [one for one in known if data.group(one) not in ("front", "reference")]
    room = max(0, MAX_CURVES - len(kept))
    if len(others) > room:
        others = [others[int(place * len(others) / room)] for place in range(room)]
    shown = sorted([*kept, *others], key=lambda one: one.trial)
    return [_curve(data, record) for record in shown], len(known)


def _curve(data: StudyData, record: CandidateRecord) -> Curve:
    reports = data.progress[record.trial]
    limit = record.outcome.epochs if record.outcome else reports[-1].epoch
    counted = [report for report in reports if report.epoch <= limit] or list(reports)
    return Curve(
        record=record,
        group=data.group(record),
        epochs=tuple(report.epoch for report in counted),
        values=tuple(getattr(report, curve_measure(data)) for report in counted),
    )


def chosen(records: Sequence[CandidateRecord], most: int = MAX_CARDS) -> list[CandidateRecord]:
    """Returns at most so many candidates, evenly over the list, with both of its ends."""
    if len(records) <= most:
        return list(records)
    step = (len(records) - 1) / (most - 1)
    return [records[round(place * step)] for place in range(most)]


def with_routing(data: StudyData) -> list[CandidateRecord]:
    """Returns the front and the references whose routing was measured, the front first."""
    others = [one for one in data.references if one.trial not in data.front_trials]
    members = [*data.front, *others]
    return [one for one in members if one.outcome is not None and one.outcome.routing]


def k_shares(record: CandidateRecord) -> list[list[float]]:
    """Returns per layer the share of tokens that used 0, 1, 2, ... experts, all of one length."""
    layers = record.outcome.routing if record.outcome else ()
    width = max((len(layer.k_histogram) for layer in layers), default=0)
    shares = []
    for layer in layers:
        total = sum(layer.k_histogram) or 1
        padded = [*layer.k_histogram, *([0] * (width - len(layer.k_histogram)))]
        shares.append([tokens / total for tokens in padded])
    while shares and len(shares[0]) > 1 and not any(row[-1] for row in shares):
        shares = [row[:-1] for row in shares]  # nobody used so many
    return shares


def loads(record: CandidateRecord) -> list[list[float | None]]:
    """Returns per layer the share of tokens that used each slot; None where a layer has no such slot."""
    layers = record.outcome.routing if record.outcome else ()
    width = max((len(layer.load) for layer in layers), default=0)
    return [[*layer.load, *([None] * (width - len(layer.load)))] for layer in layers]


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeRow:
    """Training time of one kind of model."""

    model: str
    candidates: int
    epochs: int
    seconds: dict[str, float]  # by status

    @property
    def total(self) -> float:
        """All seconds."""
        return sum(self.seconds.values())


def times(data: StudyData) -> list[TimeRow]:
    """Returns the candidate time by the shape of the model, the most expensive first."""
    groups: dict[str, list[CandidateRecord]] = defaultdict(list)
    for record in data.candidates:
        model = record.candidate.model
        groups[f"{model.backbone} {model.d_model} × {model.num_layers}"].append(record)
    rows = []
    for name, records in groups.items():
        spent: dict[str, float] = defaultdict(float)
        for record in records:
            reports = data.progress.get(record.trial, ())
            spent[record.status] += seconds_of(record, reports)
        epochs = sum(epochs_of(one, data.progress.get(one.trial, ())) for one in records)
        rows.append(
            TimeRow(model=name, candidates=len(records), epochs=epochs, seconds=dict(spent))
        )
    return sorted(rows, key=lambda row: -row.total)


def card_line(data: StudyData, record: CandidateRecord) -> str:
    """Returns the two measures of a candidate on one line."""
    across, upwards = data.axes
    return (
        f"{words.number(upwards, value(record, upwards))} · "
        f"{words.number(across, value(record, across))}"
    )


def why(data: StudyData, record: CandidateRecord) -> str:
    """Returns why a candidate did not go on, in a sentence."""
    lines = (record.message or "").strip().splitlines()
    if lines:
        return lines[-1] if record.status == "failed" else lines[0]
    last = data.last_decision(record.trial)
    if last is None or (last.action == "go" and record.status == "paused"):
        return record.reason or f"stands at epoch {record.epochs} and may go on"
    done = "paused" if last.action == "pause" else words.STATUS[record.status]
    if last.reason is None and not last.beaten:
        return f"{done} after epoch {last.rung}"
    told = in_words(last, data.spec.search.pruner) if data.spec else last.reason or "beaten"
    return f"{done} after epoch {last.rung}: {told}"
