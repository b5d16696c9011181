"""Runs of candidates in MLflow: one experiment per study, one run per candidate."""

import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence

# Before mlflow is imported: a server that is gone is given up in seconds, nothing is told to third parties.
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}.items():
    os.environ.setdefault(_name, _value)

from mlflow.entities import Metric, Param, RunTag  # noqa: E402
from mlflow.entities import Run as StoredRun  # noqa: E402
from mlflow.exceptions import MlflowException  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

from dynamoe_search.cli.log_runs import Run, end_of, measures_of  # noqa: E402
from dynamoe_search.records import CandidateRecord, Progress  # noqa: E402

_MARK = "accuracy"  # every report has it, so it says which epochs are there
_TAG = "dynamoe_search"
_PAGE = 1000
_MOST_PARAMS = 100  # that MLflow takes at once
_LONGEST_PARAM, _LONGEST_TAG = 500, 5000
_STATUS = {"complete": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}


class MlflowSink:
    """Writes to a tracking server or a database.

    Args:
        place: The tracking URI, such as `sqlite:///mlflow.db` or `http://localhost:5000`.
    """

    def __init__(self, place: str) -> None:
        for name in ("mlflow", "alembic"):  # they tell of every table that they make
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = MlflowClient(tracking_uri=place)
        self._experiment = ""
        self._ids: dict[int, str] = {}  # by trial
        self._finished: set[int] = set()
        self._steps: dict[int, set[int]] = {}

    def is_finished(self, run: Run) -> bool:
        """Whether the end of a run is written."""
        self._find_all(run)
        return run.trial in self._finished

    def write_epochs(self, run: Run, reports: Sequence[Progress]) -> None:
        """Writes reports, with the epoch as step."""
        if not reports:
            return
        number = self._id(run)
        if run.trial not in self._steps:
            history = self._client.get_metric_history(number, _MARK)
            self._steps[run.trial] = {one.step for one in history}
        steps = self._steps[run.trial]
        for report in reports:
            if report.epoch not in steps:
                measures = measures_of(report, is_text=run.is_text)
                self._client.log_batch(number, metrics=_metrics(measures, report.epoch))
                steps.add(report.epoch)

    def finish(self, run: Run, record: CandidateRecord, links: Mapping[str, str]) -> None:
        """Writes how a run ended, and where its files are."""
        number = self._id(run)
        metrics = record.outcome.metrics if record.outcome else {}
        final = {f"final/{name}": float(value) for name, value in metrics.items()}
        told = {"status": end_of(record), "message": record.message or "", **links}
        tags = [RunTag(f"{_TAG}.{key}", one[:_LONGEST_TAG]) for key, one in told.items() if one]
        self._client.log_batch(number, metrics=_metrics(final, record.epochs), tags=tags)
        self._client.set_terminated(number, _STATUS[record.status])
        self._finished.add(run.trial)

    def rest(self, run: Run) -> None:
        """Nothing is kept open."""

    def _id(self, run: Run) -> str:
        """Returns the id of a run, which is made if there is none."""
        self._find_all(run)
        if run.trial not in self._ids and (found := self._first(run)) is not None:
            self._ids[run.trial] = found  # another process made it meanwhile
        if run.trial not in self._ids:
            tags = {
                f"{_TAG}.study": run.study,
                f"{_TAG}.created_at": run.created_at,
                f"{_TAG}.trial": str(run.trial),
            }
            made = self._client.create_run(self._experiment, run_name=run.name, tags=tags)
            first = self._first(run) or made.info.run_id
            if first != made.info.run_id:  # another process made one at the same time
                self._client.delete_run(made.info.run_id)
            params = [Param(key, str(one)[:_LONGEST_PARAM]) for key, one in run.settings.items()]
            self._client.log_batch(first, params=params[:_MOST_PARAMS])
            self._ids[run.trial] = first
        return self._ids[run.trial]

    def _first(self, run: Run) -> str | None:
        """Returns the id of the run that was made first of this trial; None if there is none."""
        found = self._search(run, f" and tags.`{_TAG}.trial` = '{run.trial}'")
        made = sorted((one.info.start_time, one.info.run_id) for one in found)
        return str(made[0][1]) if made else None

    def _find_all(self, run: Run) -> None:
        """Learns, once, which runs of the study are there."""
        if self._experiment:
            return
        self._experiment = self._experiment_of(run.study)
        for found in self._search(run):
            trial = int(found.data.tags[f"{_TAG}.trial"])
            self._ids[trial] = found.info.run_id
            if found.info.status in _STATUS.values():
                self._finished.add(trial)

    def _experiment_of(self, study: str) -> str:
        for is_last in (False, True):
            if (found := self._client.get_experiment_by_name(study)) is not None:
                return str(found.experiment_id)
            try:
                return str(self._client.create_experiment(study))
            except MlflowException:  # another process made it meanwhile
                if is_last:
                    raise
        raise AssertionError("the last try returns or raises")

    def _search(self, run: Run, more: str = "") -> Iterator[StoredRun]:
        wanted = f"tags.`{_TAG}.created_at` = '{run.created_at}'{more}"
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment], wanted, max_results=_PAGE, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return


def _metrics(values: Mapping[str, float], step: int) -> list[Metric]:
    now = int(time.time() * 1000)
    return [Metric(name, value, now, step) for name, value in values.items()]
