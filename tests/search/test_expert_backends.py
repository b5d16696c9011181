"""`search.expert_backend = "auto"`: measured once, remembered, and stored as what it came to."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dynamoe_search.data import describe
from dynamoe_search.records import StudySettings, from_json, to_json
from dynamoe_search.search import create_study, run_study
from dynamoe_search.search.backend_timing import LayerShape, seconds_of
from dynamoe_search.search.expert_backends import BackendChoice, choose_backend
from dynamoe_search.search.machine import train_settings
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store

SMALL = LayerShape(
    candidates=2,
    tokens=64,
    experts=3,
    d_model=16,
    d_expert=8,
    expert="gelu",
    dtype="float32",
    share=0.5,
    is_training=True,
)
Specs = Callable[..., StudySpec]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the folder of what is measured."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dynamoe-search" / "expert-backends"


def choose(spec: StudySpec) -> BackendChoice:
    return choose_backend(Space(spec), describe(spec.data), device="cpu", num_threads=1)


def only_file(cache: Path) -> Path:
    (path,) = cache.iterdir()
    return path


def claim(cache: Path, ratio: float) -> None:
    """Has the cache say that dense takes so much of the time of grouped."""
    for path in cache.iterdir():
        path.write_text(json.dumps({"grouped": 1e-3, "dense": ratio * 1e-3}), encoding="utf-8")


def test_what_was_measured_is_not_measured_again(cache: Path) -> None:
    first = seconds_of(SMALL, "cpu", 1)
    assert set(first) == {"grouped", "dense"}
    written = only_file(cache).stat().st_mtime_ns
    assert seconds_of(SMALL, "cpu", 1) == first
    assert only_file(cache).stat().st_mtime_ns == written
    assert json.loads(only_file(cache).read_text(encoding="utf-8")) == first


@pytest.mark.parametrize("change", [{"d_model": 8}, {"share": 1.0}, {"is_training": False}])
def test_another_layer_is_measured_apart(cache: Path, change: dict[str, float]) -> None:
    seconds_of(SMALL, "cpu", 1)
    seconds_of(replace(SMALL, **change), "cpu", 1)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"grouped": 1}', '{"grouped": -1, "dense": 1}', '{"grouped": 1e999}']
)
def test_a_damaged_file_is_measured_anew(cache: Path, text: str) -> None:
    seconds_of(SMALL, "cpu", 1)
    only_file(cache).write_text(text, encoding="utf-8")
    found = seconds_of(SMALL, "cpu", 1)
    assert min(found.values()) > 0
    assert json.loads(only_file(cache).read_text(encoding="utf-8")) == found


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert min(seconds_of(SMALL, "cpu", 1).values()) > 0


def test_a_backend_that_the_file_names_is_not_measured(cache: Path, tiny_spec: Specs) -> None:
    for name in ("grouped", "dense"):
        choice = choose(tiny_spec(search={"expert_backend": name}))
        assert choice == BackendChoice(backend=name)  # type: ignore[arg-type]
    assert not cache.exists()


def test_few_chosen_experts_need_no_measurement(cache: Path, tiny_spec: Specs) -> None:
    spec = tiny_spec(
        router={"kind": "top-k", "k": 1}, schedule={"min_experts": 8, "max_experts": 8}
    )
    choice = choose(spec)
    assert choice.backend == "grouped"
    assert choice.basis == "not measured, since a token chooses about 12% of the experts"
    assert not cache.exists()


@pytest.mark.parametrize(
    ("ratio", "backend"), [(0.5, "dense"), (0.89, "dense"), (0.91, "grouped"), (2.0, "grouped")]
)
def test_dense_must_be_clearly_faster(
    cache: Path, tiny_spec: Specs, ratio: float, backend: str
) -> None:
    choose(tiny_spec())
    claim(cache, ratio)
    choice = choose(tiny_spec())
    assert choice.backend == backend
    assert f"dense experts take {ratio:.2f} times as long" in choice.basis


def test_names_and_seeds_do_not_matter_to_what_is_measured(cache: Path, tiny_spec: Specs) -> None:
    choose(tiny_spec())
    before = set(cache.iterdir())
    other = tiny_spec(study={"name": "other", "seed": 7}, train={"epochs": 3})
    assert choose(other) == choose(tiny_spec())
    assert set(cache.iterdir()) == before


def test_the_answer_is_stored_and_outlives_another_measurement(
    cache: Path, tiny_spec: Specs, storage_url: str
) -> None:
    spec = tiny_spec(study={"trials": 2})
    choose(spec)
    claim(cache, 0.5)
    with Store.open(storage_url) as store:
        create_study(store, spec, source="here", device="cpu", num_threads=1)
        claim(cache, 2.0)
        run_study(store, "tiny")
        settings = store.study("tiny").settings
        assert settings.expert_backend == "dense"
        assert settings.backend_words.startswith("dense (measured: dense experts take 0.50")
        assert train_settings(spec, settings).expert_backend == "dense"
        assert store.study("tiny").state == "finished"


def test_settings_of_older_studies_say_what_they_said() -> None:
    settings = StudySettings(
        device="cpu", num_slots=3, expert_backend="grouped", num_threads=1, cohort_size=2
    )
    stored = json.loads(to_json(settings))
    del stored["backend_basis"]
    assert from_json(StudySettings, json.dumps(stored)) == settings
    assert settings.backend_words == "grouped"
