"""Study files and presets: every preset loads, changes apply, and everything that is wrong is told at once."""

import tomllib
from pathlib import Path

import pytest

from dynamoe_search.errors import SpecError, UsageError
from dynamoe_search.presets import (
    json_schema,
    preset_names,
    preset_text,
    presets,
    presets_folder,
    read_study,
)
from dynamoe_search.presets.overrides import parse_value
from dynamoe_search.presets.toml import to_toml, to_toml_value
from dynamoe_search.specs import IntRange, StudySpec

EXPECTED = {
    *("digits", "fashion-mnist", "mnist", "cifar10", "schedules", "routers"),
    *("lm-docs", "lm-tiny", "lm-small", "lm-medium", "lm-top-p"),
}


def write(folder: Path, text: str) -> str:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems_of(source: str, *overrides: str, name: str | None = None) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        read_study(source, overrides, name)
    return {problem.path: str(problem) for problem in caught.value.problems}


def test_all_presets_are_there() -> None:
    assert set(preset_names()) >= EXPECTED
    assert [preset.name for preset in presets()] == preset_names()


@pytest.mark.parametrize(
    "path", sorted(presets_folder().rglob("*.toml")), ids=lambda path: path.stem
)
def test_preset_opens_with_question_command_and_time(path: Path) -> None:
    loaded = read_study(path.stem)
    opening = [line for line in loaded.text.splitlines() if line.startswith("#")]
    assert opening[0].startswith("# Question:")
    assert f"dynamoe-search run {path.stem}" in opening[1]
    assert opening[2].startswith("# Takes:")
    assert loaded.spec.study.name == path.stem
    assert loaded.spec.study.description
    assert preset_text(path.stem) == loaded.text


def test_readme_lists_every_preset_with_its_question_and_trials() -> None:
    lines = (presets_folder() / "README.md").read_text().splitlines()
    for preset in presets():
        (row,) = [line for line in lines if line.startswith(f"| `{preset.name}` |")]
        assert preset.question in row
        assert row.rstrip(" |").endswith(str(preset.trials))


def test_changes_apply_and_the_text_as_run_says_the_same() -> None:
    loaded = read_study(
        "digits",
        ["router.kind=top-k", "losses.efficiency=0", "losses.z.low=0.1", "losses.z.high=1"],
        name="my study",
    )
    assert loaded.spec.router.kind == "top-k"
    assert loaded.spec.study.name == "my study"
    assert loaded.text.startswith("# Question:")
    assert "# changed by --set router.kind=top-k" in loaded.text
    assert StudySpec.model_validate(tomllib.loads(loaded.text)) == loaded.spec


def test_a_file_without_changes_is_kept_word_for_word(tmp_path: Path) -> None:
    text = '# mine\n[study]\nname = "a"  # a comment\n'
    assert read_study(write(tmp_path, text)).text == text


def test_byte_order_mark_and_windows_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(b'\xef\xbb\xbf[study]\r\nname = "a"\r\n')
    assert read_study(str(path)).spec.study.name == "a"


def test_relative_data_path_is_made_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source = write(tmp_path, '[study]\nname = "a"\n[data]\nname = "npz"\npath = "my.npz"\n')
    loaded = read_study(source)
    assert loaded.spec.data.path == str(tmp_path / "my.npz")
    assert StudySpec.model_validate(tomllib.loads(loaded.text)) == loaded.spec


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("top-k", "top-k"),
        ("5", 5),
        ("0.5", 0.5),
        ("true", True),
        ('"5"', "5"),
        ('["top-k", "top-p"]', ["top-k", "top-p"]),
        ("{low = 1, high = 2}", {"low": 1, "high": 2}),
        ("1\nother = 2", "1\nother = 2"),
        ("", ""),
    ],
)
def test_value_of_a_change(text: str, value: object) -> None:
    assert parse_value(text) == value


def test_toml_goes_out_as_it_came_in() -> None:
    raw = {
        "top": 'a "quoted" \\ line\nand\x7f ü',
        "study": {"name": "x", "odd key.": [1, 2.5, True, 1e-05], "range": {"low": 1, "high": 2}},
        "numbers": {"large": 1e300, "infinite": float("inf"), "empty": []},
    }
    assert tomllib.loads(to_toml(raw)) == raw
    assert to_toml_value([{"a": "b"}]) == '[{a = "b"}]'


def test_all_problems_are_told_at_once_with_path_value_and_cure(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        """
        [study]
        name = "a/b"
        trials = "ten"
        sead = 1
        objectives = ["accuracy", "acc"]
        [losess]
        [router]
        kind = ["top-k", "topp"]
        k = 2.5
        tau = {low = 0.9, high = 0.1}
        p = {low = 0.1, hihg = 0.2}
        rho = 1.5
        threshold = []
        [adaptive]
        enabled = {low = 0, high = 1}
        [train]
        epochs = 0
        clip_norm = -1
        """,
    )
    found = problems_of(source)
    assert set(found) == {
        "study.name",
        "study.trials",
        "study.sead",
        "study.objectives[1]",
        "losess",
        "router.kind[1]",
        "router.k",
        "router.tau",
        "router.p.high",
        "router.p.hihg",
        "router.rho",
        "router.threshold",
        "adaptive.enabled",
        "train.epochs",
        "train.clip_norm",
    }
    assert found["study.trials"] == 'study.trials: got "ten"; must be a whole number'
    assert "did you mean seed?" in found["study.sead"]
    assert "did you mean losses?" in found["losess"]
    assert "did you mean top-p?" in found["router.kind[1]"]
    assert "a range {low = ..., high = ...}" in found["router.k"]
    assert "the range is empty" in found["router.tau"]
    assert "did you mean high?" in found["router.p.hihg"]
    assert found["router.rho"] == (
        "router.rho: got 1.5; must be above 0 and at most 1, which 1.5 is not"
    )
    assert "cannot be a range" in found["adaptive.enabled"]
    assert found["train.epochs"] == "train.epochs: got 0; must be at least 1"


def test_conflicts_between_sections_are_told_at_once() -> None:
    found = problems_of("digits", "schedule.min_experts=9", "router.kind=top-k")
    assert set(found) == {"schedule.min_experts", "losses.efficiency"}
    assert "(from --set)" in found["schedule.min_experts"]


def test_conflicts_are_told_together_with_what_is_wrong_in_other_sections() -> None:
    found = problems_of(
        "digits",
        "train.epochs=0",
        "schedule.min_experts=9",
        "router.kind=topk",
        "losses.z=0.1",
        'search.pruner={kind = "pareto", rungs = [99]}',
    )
    # not search.pruner.rungs, which depends on train.epochs, and not losses.z, which does on router.kind
    assert set(found) == {"train.epochs", "schedule.min_experts", "router.kind"}
    assert "(from --set)" in found["schedule.min_experts"]


def test_a_study_without_its_name_is_still_checked(tmp_path: Path) -> None:
    source = write(tmp_path, '[data]\nname = "npz"\n[model]\nbackbone = "vit"\nnum_heads = 3\n')
    assert set(problems_of(source)) == {"study", "data.path", "model.num_heads"}


@pytest.mark.parametrize(
    ("d_model", "cure"),
    [
        ("{low = 8, high = 32}", "write step = 4"),
        ("{low = 8, high = 32, step = 6}", "write step = 8"),
        ("{low = 8, high = 32, log = true}", "write a list"),
        ("{low = 10, high = 32, step = 4}", "a multiple of 4, which 10 is not"),
    ],
)
def test_a_range_keeps_to_multiples(d_model: str, cure: str) -> None:
    found = problems_of("digits", f"model.d_model={d_model}")
    assert cure in found["model.d_model"]
    assert "(from --set)" in found["model.d_model"]


def test_a_range_of_multiples_is_fine() -> None:
    spec = read_study("digits", ["model.d_model={low = 8, high = 32, step = 4}"]).spec
    assert spec.model.d_model == IntRange(low=8, high=32, step=4)


def test_heads_divide_every_value_of_a_range() -> None:
    changes = ["model.backbone=vit", "model.d_model={low = 16, high = 32, step = 4}"]
    found = problems_of("digits", *changes, "model.num_heads=8")
    assert "must divide every model.d_model (20, 28)" in found["model.num_heads"]
    assert read_study("digits", [*changes, "model.num_heads=4"])


def test_the_usual_references_are_all_four(tmp_path: Path) -> None:
    spec = read_study(write(tmp_path, '[study]\nname = "a"\n')).spec
    assert spec.study.references == ("dense", "top-1", "top-2", "uniform")


def test_problems_of_options_say_so() -> None:
    found = problems_of("digits", "router.k=x", "epochs", "train.epochs=[1,a]", name="a/b")
    assert 'got "x" (from --set)' in found["router.k"]
    assert 'got "a/b" (from --name)' in found["study.name"]
    assert "must be section.key=value" in found["--set"]
    assert "in quotes" in found["train.epochs"]


def test_long_values_are_shortened() -> None:
    found = problems_of("digits", f'train.decay="{"x" * 500}"')
    assert len(found["train.decay"]) < 200


@pytest.mark.parametrize("form", ["value", "choice", "range"])
def test_keys_named_like_a_form_keep_their_name(form: str, tmp_path: Path) -> None:
    source = write(tmp_path, f'[study]\nname = "a"\nconstraints = {{{form} = "x"}}\n')
    assert set(problems_of(source)) == {f"study.constraints.{form}"}


def test_syntax_error_names_the_line(tmp_path: Path) -> None:
    found = problems_of(write(tmp_path, '[study]\nname "x"\n'))
    assert "line 2" in found[""]


@pytest.mark.parametrize(
    "text", ["a = " + "1" * 5000, "a = " + "[" * 100_000, "[[[", "a = 1\na = 2"]
)
def test_odd_toml_is_a_problem_and_no_crash(text: str, tmp_path: Path) -> None:
    assert "text that is not TOML" in problems_of(write(tmp_path, text))[""]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x89PNG\r\n\x1a\n\xff\xfe", "not UTF-8"),
        (b"a = 1\n\0\0", "zero byte"),
        (b"# " + b"x" * 1_000_001, "larger than"),
    ],
)
def test_files_that_are_no_text(content: bytes, words: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        read_study(str(path))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("digit", "did you mean digits"),
        ("no/such.toml", "there is no file"),
        ("/dev/null", "not a regular file"),
        (".", "is a folder"),
        ("bad\0name.toml", "there is no file"),
        ("x" * 5000 + ".toml", "cannot read"),
        ("", "is empty"),
    ],
)
def test_sources_that_are_no_file(source: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        read_study(source)


def test_a_folder_named_like_a_preset_does_not_hide_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mnist").mkdir()
    monkeypatch.chdir(tmp_path)
    assert read_study("mnist").spec.data.name == "mnist"


def test_ranges_come_through() -> None:
    assert read_study("digits").spec.schedule.max_experts == IntRange(low=2, high=8)


def test_schema_describes_every_section_and_field() -> None:
    schema = json_schema()
    sections = schema["$defs"]["StudySpec"]["properties"]
    assert set(sections) == set(StudySpec.model_fields)
    router = schema["$defs"]["RouterSection"]["properties"]
    assert all("description" in field for field in router.values())


@pytest.mark.parametrize("levels", [300, 20_000])
@pytest.mark.parametrize("form", ["{}=1", "[{}]"])
def test_a_key_with_very_many_parts_is_refused(tmp_path: Path, form: str, levels: int) -> None:
    path = tmp_path / "deep.toml"
    path.write_text(form.format(".".join(["a"] * levels)), "utf-8")
    with pytest.raises(SpecError, match="not TOML"):
        read_study(str(path))
