"""What an audit sees in the weights of its runs, pack by pack, stored with the trials as it comes."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from dynamoe_search.auditing import AuditPlan
from dynamoe_search.auditing.observations import control_name
from dynamoe_search.data import SearchData
from dynamoe_search.places import AnyPath
from dynamoe_search.records import Candidate, to_json
from dynamoe_search.search import weights
from dynamoe_search.search.designed import DesignedRun, designed_runs
from dynamoe_search.search.machine import train_settings
from dynamoe_search.search.packs import by_packs, most_together
from dynamoe_search.search.same_data import load_same_data
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store
from dynamoe_search.training import Interrupted, TrainSettings, data_on
from dynamoe_search.training.evidence import gradient_noise, hardness, see_examples
from dynamoe_search.training.population import Population

HARDNESS, NOISE_START, NOISE_END = "hardness", "noise-start", "noise-end"
"""Kinds of evidence."""


def gather(
    store: Store, name: str, parent: str, plan: AuditPlan, should_stop: Callable[[], bool]
) -> bool:
    """Looks at the weights of the runs of a designed study that a plan asks for, and were not looked at.

    Returns:
        Whether it came to its end; false if `should_stop` returned true.
    """
    wanted = _wanted(plan)
    known = {(one.trial, one.kind) for one in store.evidence(name)}
    missing = [
        (run, kind)
        for run in designed_runs(store, name)
        for kind in (HARDNESS, NOISE_START, NOISE_END)
        if run.record.status == "complete"
        and (run.record.trial, kind) not in known
        and run.design in wanted[kind]
    ]
    if not missing:
        return True
    record = store.study(name)
    spec = StudySpec.model_validate_json(record.spec_json)
    settings = train_settings(spec, record.settings)
    data = data_on(load_same_data(store.study(parent)), settings.device)
    seer = _Look(data, settings, should_stop)
    folder = store.files_of(name) / "models"

    def look(runs: Sequence[tuple[DesignedRun, str]]) -> None:
        part = _with_weights([run for run, _ in runs], folder)
        candidates = [run.record.candidate for run, _ in part]
        texts = seer.at(runs[0][1], candidates, [own for _, own in part])
        for (run, _), text in zip(part, texts, strict=True):
            store.add_evidence(name, run.record.trial, runs[0][1], text)

    try:
        return by_packs(
            missing,
            lambda one: (one[0].record.candidate.pack_key, one[1]),
            look,
            most=most_together(record),
            should_stop=should_stop,
        )
    except Interrupted:
        return False


def _wanted(plan: AuditPlan) -> dict[str, set[str]]:
    """Which designs are looked at, for each kind of evidence."""
    judged = {plan.routers[kind] for kind in plan.controls}
    controls = {control_name(kind) for kind in plan.controls}
    noisy: set[str] = set()
    if "gradient" in plan.claims:
        for curve in plan.curves:
            if curve.label in plan.routers:
                noisy |= {curve.design, *curve.rivals.values()}
    return {HARDNESS: judged | controls, NOISE_START: noisy, NOISE_END: noisy}


Run = tuple[DesignedRun, Mapping[str, Tensor]]


def _with_weights(runs: Sequence[DesignedRun], folder: AnyPath) -> list[Run]:
    """Runs with their weights; whose file was lost is left out, and counts as a run that failed."""
    records = [run.record for run in runs]
    loaded = [weights.load(folder, one.trial, one.weights) for one in records]
    return [(run, own) for run, own in zip(runs, loaded, strict=True) if own is not None]


class _Look:
    """Looks at packs of candidates on the same data."""

    def __init__(
        self, data: SearchData, settings: TrainSettings, should_stop: Callable[[], bool]
    ) -> None:
        self.data = data
        self.settings = settings
        self.should_stop = should_stop

    def at(
        self, kind: str, candidates: Sequence[Candidate], states: Sequence[Mapping[str, Tensor]]
    ) -> list[str]:
        """Returns what was seen of every candidate as JSON text."""
        if not candidates:
            return []
        chosen = states if kind != NOISE_START else ()
        population = Population(candidates, self.data, self.settings, weights=chosen)
        if kind == HARDNESS:
            return [to_json(one) for one in hardness(see_examples(population))]
        return [to_json(one) for one in gradient_noise(population, self.should_stop)]
