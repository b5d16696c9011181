"""Small studies that the fault benchmarks interrupt, and all that must be the same when they have ended.

Digits, 256 examples, two layers of width 8, four epochs, cohorts of four: seconds for a study.
"""

import dataclasses
import json
import re
import sqlite3
from itertools import pairwise
from pathlib import Path
from typing import Any

import optuna

from dynamoe_search.places import AnyPath, at_hand, listed
from dynamoe_search.search import Limits, create_study, run_study
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store, weight_files
from dynamoe_search.training.durable_files import PARTIAL, sha256

NAME = "faults"
SECTIONS: dict[str, dict[str, Any]] = {
    "study": {"name": NAME, "trials": 10, "references": ["dense", "top-2"]},
    "data": {"name": "digits", "max_train": 256},
    "model": {"d_model": 8, "num_layers": 2, "d_expert": 8, "dropout": 0.1},
    "schedule": {
        "shape": ["uniform", "descending"],
        "min_experts": 1,
        "max_experts": {"low": 2, "high": 4},
    },
    "router": {"kind": ["top-any", "top-k", "top-p"]},
    "adaptive": {
        "enabled": True,
        "max_experts": 5,
        "period": 3,
        "record_from": 0,
        "update_at": 2,
        "new_expert": "fresh",
    },
    "train": {
        "learning_rate": {"low": 3e-4, "high": 3e-2, "log": True},
        "epochs": 4,
        "batch_size": 64,
    },
    "search": {"cohort_size": 4, "startup_trials": 4, "sampler": "tpe"},
}
PARETO = {"kind": "pareto", "min_records": 2, "share": 0.3}
MOASHA = {"kind": "moasha", "min_records": 2, "eta": 2.0}
MEDIAN = {"kind": "median", "min_records": 2, "pause": False}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class SmallStudy:
    """A study and its budget.

    Attributes:
        title: What is special about it.
        spec: The study.
        max_epochs: Its budget in candidate-epochs, None for no limit.
    """

    title: str
    spec: StudySpec
    max_epochs: int | None = None

    def create(self, url: str) -> None:
        """Makes the study if it is new."""
        with Store.open(url) as store:
            if self.spec.study.name not in [record.name for record in store.studies()]:
                create_study(store, self.spec, source="faults", device="cpu", num_threads=1)

    def run(self, url: str, checkpoint_seconds: float = 30.0) -> None:
        """Makes the study if it is new, and runs it to its end."""
        self.create(url)
        with Store.open(url) as store:
            limits = Limits(epochs=self.max_epochs)
            name = self.spec.study.name
            run_study(store, name, limits=limits, checkpoint_seconds=checkpoint_seconds)


def spec_with(**sections: dict[str, Any]) -> StudySpec:
    """Returns the basic study with other values in some sections."""
    names = SECTIONS.keys() | sections.keys()
    return StudySpec.model_validate(
        {name: SECTIONS.get(name, {}) | sections.get(name, {}) for name in names}
    )


def _small(title: str, max_epochs: int | None = None, **sections: dict[str, Any]) -> SmallStudy:
    search = SECTIONS["search"] | sections.pop("search", {})
    return SmallStudy(title=title, spec=spec_with(**sections, search=search), max_epochs=max_epochs)


def small_studies() -> list[SmallStudy]:
    """Returns the studies that are interrupted in turn."""
    return [
        _small("tpe, pareto pauses, adaptive", search={"pruner": PARETO}),
        _small("tpe, pareto, a budget of 26 epochs", 26, search={"pruner": PARETO}),
        _small("random, moasha, adaptive", search={"sampler": "random", "pruner": MOASHA}),
        _small("tpe, no pruner, adaptive", search={"pruner": {"kind": "none"}}, study=_trials(8)),
        _small("nsga2, pareto, adaptive", search={"sampler": "nsga2", "pruner": PARETO}),
        _small(
            "tpe, pareto, adaptive or not, two widths",
            search={"pruner": PARETO},
            adaptive={"enabled": [True, False]},
            model={"d_expert": [8, 12]},
        ),
        _small(
            "qmc, median stops, not adaptive, a bound",
            search={"sampler": "qmc", "pruner": MEDIAN},
            adaptive={"enabled": False},
            study=SECTIONS["study"] | {"constraints": {"max_activated_params": 1200.0}},
        ),
        _small(
            "tpe, moasha, fixed rungs, cohorts of three",
            search={"cohort_size": 3, "pruner": MOASHA | {"rungs": (1, 3)}},
        ),
        _small(
            "a space that gives out",
            search={"cohort_size": 3, "pruner": PARETO},
            schedule={"shape": ["uniform", "descending"], "max_experts": 2},
            router={"kind": "top-k", "k": [1, 2]},
            model={"d_expert": [8, 12]},
            train={"learning_rate": 3e-3},
            adaptive={"enabled": False},
            study=_trials(14),
        ),
    ]


def quick_study() -> SmallStudy:
    """Returns a smaller one, for tests."""
    return _small("six trials", search={"cohort_size": 3, "pruner": PARETO}, study=_trials(6))


def _trials(number: int) -> dict[str, Any]:
    return SECTIONS["study"] | {"trials": number}


def facts(url: str, name: str = NAME) -> dict[str, Any]:
    """Returns all of a study that interruptions must not change: everything but seconds, times and who did it."""
    with Store.open(url, create=False) as store:
        study = optuna.load_study(study_name=name, storage=store.storage_for_optuna())
        record = store.study(name)
        spent = dataclasses.asdict(store.spent(name))
        found = {
            "state": record.state,
            "exhausted at": record.exhausted_at,
            "spent": spent,
            "candidates": [_plain(one) for one in store.candidates(name)],
            "progress": [_plain(one) for one in store.progress(name)],
            "decisions": [_plain(one) for one in store.decisions(name)],
            "legs": [_plain(one) for one in store.legs(name)],
            "front": [_plain(one) for one in store.front(name)],
            "optuna": [_of_optuna(trial) for trial in study.get_trials(deepcopy=False)],
            "zombies": store.zombies(name),
            "late tells": store.replay_tells(name),
            "weights": _weights(store, name),
            "files": _files(store.files_of(name)),
        }
    text = json.dumps(found, default=repr, sort_keys=True)
    return _timeless(json.loads(text))


def _plain(record: Any) -> dict[str, Any]:
    return dataclasses.asdict(record)


def _timeless(value: Any) -> Any:
    """Returns JSON without times, seconds, workers, and checksums of files that hold seconds."""
    dropped = ("seconds", "created_at", "finished_at", "checkpoint", "worker", "versions", "token")
    if isinstance(value, dict):
        return {key: _timeless(one) for key, one in value.items() if key not in dropped}
    return [_timeless(one) for one in value] if isinstance(value, list) else value


def _of_optuna(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.name,
        "values": trial.values,
        "params": trial.params,
        "user": trial.user_attrs,
        "constraints": trial.system_attrs.get("constraints"),
    }


def _weights(store: Store, name: str) -> dict[str, str]:
    """Returns the checksums of the front's weights."""
    folder = store.files_of(name) / "models"
    members = store.candidates(name, trials=[one.trial for one in store.front(name)])
    paths = {one.trial: weight_files.path_of(folder, one.trial, one.weights) for one in members}
    return {str(trial): _checksum(path) for trial, path in paths.items()}


def _checksum(place: AnyPath) -> str:
    if not place.exists():
        return "missing"
    with at_hand(place) as path:
        return sha256(path)


_MARK = re.compile("(?<=^study-)[0-9a-f]{32}")
"""What is different in the name of every study's mark."""


def _files(folder: AnyPath) -> list[str]:
    """Returns the files of a study; those of checkpoints without the checksum in their names."""
    files = [path for path in listed(folder, below=True) if path.is_file()]
    names = [str(path)[len(str(folder)) + 1 :] for path in files]
    paths = [Path(name) for name in names if not name.endswith(PARTIAL)]  # which `gc` removes
    return sorted(f"{path.parent}/{_MARK.sub('', path.name)[:12]}" for path in paths)


def finished_trials(path: Path) -> dict[str, list[Any]]:
    """Returns everything that a database says of the trials that are over, ours and Optuna's.

    Args:
        path: A SQLite file that nobody has open.

    Raises:
        AssertionError: The file is damaged.
    """
    with sqlite3.connect(path) as connection:
        (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
        assert verdict == "ok", verdict
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        found: dict[str, list[Any]] = {}
        for name, query in _FINISHED.items():
            if name in tables:
                for number, *rest in connection.execute(query):
                    found[f"{name} {number}"] = rest
    connection.close()
    return found


_FINISHED = {
    "dynamoe_candidates": (
        "SELECT trial_number, status, epochs, reason, message, params_json, finished_at "
        "FROM dynamoe_candidates WHERE status IN ('complete', 'failed', 'stopped')"
    ),
    "dynamoe_evaluations": (
        "SELECT trial_number, values_json, metrics_json, outcome_json, finished_at "
        "FROM dynamoe_evaluations"
    ),
    "trials": (
        "SELECT number, state, datetime_complete, group_concat(value) FROM trials "
        "LEFT JOIN (SELECT * FROM trial_values ORDER BY objective) USING (trial_id) "
        "WHERE state NOT IN ('RUNNING', 'WAITING') GROUP BY number"
    ),
}


def done_twice(found: dict[str, Any]) -> list[str]:
    """Returns what in the facts of a study was done twice: epochs, outcomes, designs.

    Args:
        found: See `facts`.
    """
    problems = []
    for trial in {trial for leg in found["legs"] for trial in leg["trials"]}:
        legs = sorted((leg["start"], leg["end"]) for leg in found["legs"] if trial in leg["trials"])
        if any(one[1] > two[0] for one, two in pairwise(legs)):
            problems.append(f"trial {trial} was in the legs {legs}")
    reports = [(one["ordinal"], one["epoch"]) for one in found["progress"]]
    ordinals = [one["ordinal"] for one in found["candidates"]]
    designs = [json.dumps(_design(one["candidate"])) for one in found["candidates"]]
    for what, rows in (("report", reports), ("ordinal", ordinals), ("design", designs)):
        if len(set(rows)) < len(rows):
            problems.append(f"a {what} is there twice")
    if [one["number"] for one in found["optuna"]] != [one["trial"] for one in found["candidates"]]:
        problems.append("Optuna has other trials")
    return problems


def _design(candidate: dict[str, Any]) -> dict[str, Any]:
    """Returns what is trained; a reference may share its searched values with a design that differs from it."""
    return {name: one for name, one in candidate.items() if name not in ("ordinal", "reference")}


def by_ordinal(found: dict[str, Any]) -> dict[int, Any]:
    """Returns the numbers of each candidate; its company and its trial number apart.

    Args:
        found: See `facts`.
    """
    numbers = {}
    for one in found["candidates"]:
        ordinal = one["ordinal"]
        outcome = {k: v for k, v in one["outcome"].items() if not k.startswith("pack")}
        reports = [report for report in found["progress"] if report["ordinal"] == ordinal]
        numbers[ordinal] = (one["candidate"], one["values"], outcome, reports)
    return numbers


def shared_study() -> SmallStudy:
    """Returns a study whose designs are drawn by their ordinals, whoever works on it and how fast."""
    return _small(
        "random, no pruner",
        search={"cohort_size": 3, "sampler": "random", "pruner": {"kind": "none"}},
        study={"name": NAME, "trials": 12, "references": ["dense"]},
    )
