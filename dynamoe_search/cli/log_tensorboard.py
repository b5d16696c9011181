"""Runs of candidates as event files of TensorBoard, one folder per study and candidate."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from torch.utils.tensorboard import SummaryWriter

from dynamoe_search.cli.log_runs import Run, end_of, measures_of
from dynamoe_search.records import CandidateRecord, Progress

_FLUSH_SECONDS = 10
_MARK = "accuracy"  # every report has it, so it says which epochs are there
_END = "status"


class TensorBoardSink:
    """Writes to `DIR/STUDY-TIME/TRIAL`.

    Args:
        place: The folder.
    """

    def __init__(self, place: str) -> None:
        self._folder = Path(place)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._writers: dict[int, SummaryWriter] = {}  # by trial
        self._steps: dict[int, set[int]] = {}
        self._finished: set[int] = set()

    def is_finished(self, run: Run) -> bool:
        """Whether the end of a run is written."""
        self._read(run)
        return run.trial in self._finished

    def write_epochs(self, run: Run, reports: Sequence[Progress]) -> None:
        """Writes reports, with the epoch as step."""
        steps = self._read(run)
        for report in reports:
            if report.epoch in steps:
                continue
            writer = self._writer(run)
            for name, value in measures_of(report, is_text=run.is_text).items():
                writer.add_scalar(name, value, report.epoch)
            steps.add(report.epoch)

    def finish(self, run: Run, record: CandidateRecord, links: Mapping[str, str]) -> None:
        """Writes how a run ended, and where its files are."""
        writer, step = self._writer(run), record.epochs
        metrics = record.outcome.metrics if record.outcome else {}
        final = {f"final/{name}": float(value) for name, value in metrics.items()}
        writer.add_hparams(dict(run.settings), final, run_name=".", global_step=step)
        for name, text in links.items():
            if text:
                writer.add_text(name, _code(text), step)
        if record.message:
            writer.add_text("message", _code(record.message), step)
        writer.add_text(_END, end_of(record), step)
        self._finished.add(run.trial)

    def rest(self, run: Run) -> None:
        """Closes the file of a run; the next report opens another beside it."""
        writer = self._writers.pop(run.trial, None)
        if writer is not None:
            writer.close()

    def _folder_of(self, run: Run) -> Path:
        moment = re.sub(r"\D", "", run.created_at)[:14]
        study = re.sub(r"[^\w-]+", "-", run.study)[:60].strip("-") or "study"
        return self._folder / f"{study}-{moment}" / str(run.trial)

    def _writer(self, run: Run) -> SummaryWriter:
        if run.trial not in self._writers:
            self._writers[run.trial] = SummaryWriter(
                str(self._folder_of(run)), flush_secs=_FLUSH_SECONDS
            )
        return self._writers[run.trial]

    def _read(self, run: Run) -> set[int]:
        """Returns the epochs that earlier processes have written; of a file that was cut short, what is whole."""
        if run.trial in self._steps:
            return self._steps[run.trial]
        steps = self._steps[run.trial] = set()
        for path in sorted(self._folder_of(run).glob("events.out.tfevents.*")):
            for event in EventFileLoader(str(path)).Load():
                tags = {value.tag for value in event.summary.value}
                if _MARK in tags:
                    steps.add(event.step)
                if f"{_END}/text_summary" in tags:
                    self._finished.add(run.trial)
        return steps


def _code(text: str) -> str:
    """Returns text of unknown origin as a block of code, in which Markdown means nothing."""
    return "\n".join(f"    {line}" for line in text.splitlines())
