"""What `check` says of a study, against what the study then is."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dynamoe_search.data import describe
from dynamoe_search.errors import DeviceError, SpecError, UsageError
from dynamoe_search.moe.formulas import formula_counts
from dynamoe_search.presets import preset_names, read_study
from dynamoe_search.search import create_study, estimate
from dynamoe_search.search.estimate import largest_design
from dynamoe_search.search.machine import library_versions, resolve_device
from dynamoe_search.search.notes import unread_settings
from dynamoe_search.search.pilot import pilot_steps
from dynamoe_search.search.sampling import Proposer
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec
from dynamoe_search.store import Store

MakeSpec = Callable[..., StudySpec]


def test_trials_cohorts_and_epochs(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        study={"trials": 7},
        router={"threshold": {"low": -1.0, "high": 1.0}},
        train={"epochs": 3},
    )
    found = estimate(spec)
    assert (found.trials, found.cohorts, found.epochs) == (7, 4, 21)
    assert found.seconds is None
    assert found.memory_bytes > 0 < found.disk_bytes


def test_a_space_that_is_smaller_than_the_study_is_noted(tiny_spec: MakeSpec) -> None:
    found = estimate(tiny_spec(study={"trials": 9}, model={"d_expert": [8, 12]}))
    assert found.trials == 2
    assert any("at most 2 designs" in note for note in found.notes)


@pytest.mark.parametrize("backbone", ["mlp", "vit"])
def test_no_design_is_larger_than_the_largest(tiny_spec: MakeSpec, backbone: str) -> None:
    spec = tiny_spec(
        study={"references": ["dense", "top-1", "top-2", "uniform"]},
        model={"backbone": backbone, "d_model": [8, 16], "num_layers": {"low": 1, "high": 4}},
        schedule={"shape": ["uniform", "wave-up"], "max_experts": {"low": 2, "high": 9}},
        router={"kind": ["top-k", "top-any", "null-experts"], "learn_logit_scale": [True, False]},
        train={"learning_rate": {"low": 1e-4, "high": 1e-2}},
    )
    space, info = Space(spec), describe(spec.data)
    bound = largest_design(space, info).parameters
    proposer = Proposer(space)
    sizes = []
    for _ in range(60):
        proposal = proposer.propose()
        assert proposal is not None
        counts = formula_counts(proposal.candidate, info.input_shape, info.num_classes)
        sizes.append(counts.total)
    assert max(sizes) <= bound
    assert max(sizes) > bound / 3  # a bound that says something


def test_the_time_is_measured_if_asked_for(tiny_spec: MakeSpec) -> None:
    found = estimate(tiny_spec(), measure=True, device="cpu")
    assert found.seconds is not None
    assert 0 < found.seconds < 600


def test_the_time_grows_with_epochs_and_trials(tiny_spec: MakeSpec) -> None:
    changes = {"threshold": {"low": -1.0, "high": 1.0}}
    short = estimate(tiny_spec(router=changes), measure=True, device="cpu")
    long = estimate(
        tiny_spec(router=changes, train={"epochs": 40}, study={"trials": 40}),
        measure=True,
        device="cpu",
    )
    assert short.seconds is not None
    assert long.seconds is not None
    assert long.seconds > 10 * short.seconds  # ten times the candidates, and each trains longer
    assert long.seconds < 1600 * short.seconds  # set-up is not counted per epoch


def test_settings_that_no_design_reads_are_noted(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        schedule={"shape": "descending", "min_experts": 1, "max_experts": 3, "cycles": [1, 2]},
        router={"kind": "top-k", "k": 1, "tau": {"low": 0.2, "high": 0.8}, "histogram": [0.5, 0.5]},
        losses={"load_balance": 0.0, "normalize_load_balance": False, "efficiency": 0.0},
        adaptive={"enabled": False, "period": 10},
    )
    unread = [
        "schedule.cycles",
        "router.tau",
        "router.histogram",
        "losses.normalize_load_balance",
        "adaptive.period",
    ]
    assert unread_settings(Space(spec)) == unread
    notes = estimate(spec).notes
    for path in unread:
        assert f"{path} is set, but no design of this study reads it" in notes


def test_settings_that_some_design_reads_are_not_noted(tiny_spec: MakeSpec) -> None:
    spec = tiny_spec(
        schedule={"shape": ["uniform", "wave-up"], "cycles": 2, "ramp": "cosine", "match": "max"},
        router={"kind": ["top-any", "random-k"], "histogram": [0.5, 0.5], "threshold": 0.1},
        losses={"load_balance": 0.1, "normalize_load_balance": False},
        adaptive={"enabled": [True, False], "period": 900, "update_at": 600},
    )
    assert unread_settings(Space(spec)) == []


@pytest.mark.parametrize("name", preset_names())
def test_presets_say_nothing_in_vain(name: str) -> None:
    assert unread_settings(Space(read_study(name).spec)) == []


def test_an_adaptation_that_comes_too_late_is_noted(tiny_spec: MakeSpec) -> None:
    steps = 4  # of 64 examples each
    in_time = {"enabled": True, "record_from": 1, "update_at": steps, "period": 900}
    late = in_time | {"update_at": steps + 1}
    assert not any("update_at" in note for note in estimate(tiny_spec(adaptive=in_time)).notes)
    notes = estimate(tiny_spec(adaptive=late)).notes
    assert any("adaptive.update_at (5) is beyond the 4 training steps" in note for note in notes)


def test_patches_that_do_not_fit_the_image_are_refused_before_the_study_is_created(
    tiny_spec: MakeSpec, storage_url: str
) -> None:
    spec = tiny_spec(model={"backbone": "vit", "patch_size": 3})
    with pytest.raises(SpecError, match=r"patch_size: got 3; must divide the image \(8 x 8\)"):
        estimate(spec)
    with Store.open(storage_url) as store:
        with pytest.raises(SpecError, match="patch_size"):
            create_study(store, spec, source="test", device="cpu")
        assert store.studies() == []


def test_a_backbone_that_raises_is_told_in_one_sentence(
    tiny_spec: MakeSpec, storage_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "raising_backbone.py").write_text(
        "class Net:\n    def __init__(self, *args):\n        raise KeyError('no such\\nwidth')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = tiny_spec(model={"backbone": "raising_backbone:Net"})
    words = r"'raising_backbone:Net' cannot be built .*: KeyError: .*no such"
    with pytest.raises(UsageError, match=words):
        estimate(spec, trust_code=True)
    with Store.open(storage_url) as store:
        with pytest.raises(UsageError, match=words):
            create_study(store, spec, source="test", device="cpu", trust_code=True)
        assert store.studies() == []


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    assert resolve_device("auto") in ("cpu", "cuda:0")
    for name in ("abacus", "cuda:99", "meta"):
        with pytest.raises(DeviceError, match=name):
            resolve_device(name)


def test_versions_are_those_that_compute() -> None:
    assert {"python", "torch", "numpy", "optuna"} <= library_versions().keys()


def test_large_steps_are_measured_once_and_small_ones_several_times() -> None:
    assert pilot_steps(1e12, "cpu") == 1
    assert pilot_steps(1e9, "cpu") == 6
