"""States that were written a moment ago: whoever goes on with one need not read it, and not too many are kept."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dynamoe_search.search.recent_states import RecentStates
from dynamoe_search.specs import StudySpec
from dynamoe_search.training import CandidateState
from dynamoe_search.training.state_files import StateFolder
from tests.search.interrupting import facts, run, spec_with
from tests.training.populations import candidate

MakeSpec = Callable[..., StudySpec]
LIMIT = "dynamoe_search.search.recent_states._MOST_BYTES"


def state(epoch: int, numbers: int = 25) -> CandidateState:
    return CandidateState(
        candidate=candidate(0),
        epoch=epoch,
        batch=0,
        step=epoch,
        seconds=0.0,
        events=(),
        tensors={"weight": torch.zeros(numbers)},  # a hundred bytes
        circumstances={},
    )


def test_the_oldest_are_forgotten_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LIMIT, 250)
    recent = RecentStates()
    first, second, third = (state(epoch) for epoch in (1, 2, 3))
    recent.put({"a": first})
    recent.put({"b": second, "c": third})
    assert [recent.take(name) for name in "abc"] == [None, second, third]
    assert recent.take("b") is None  # it has gone on from there
    assert recent.take(None) is None
    recent.put({"large": replace(first, tensors={"weight": torch.zeros(100)})})
    assert recent.take("large") is None


def test_a_search_reads_no_file_that_it_has_just_written_and_comes_to_the_same(
    tiny_spec: MakeSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_with(tiny_spec, "pareto")
    load, read = StateFolder.load, []

    def noted(self: StateFolder, *arguments: object) -> CandidateState:
        found = load(self, *arguments)  # type: ignore[arg-type]
        read.append(found.ordinal)
        return found

    monkeypatch.setattr(StateFolder, "load", noted)
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("recent", "read")]
    run(urls[0], spec)
    assert read == []
    monkeypatch.setattr(LIMIT, 0)
    run(urls[1], spec)
    assert read
    assert facts(urls[0]) == facts(urls[1])
