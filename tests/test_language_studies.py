"""Study files about text: what does not go together is told, with a reason."""

from pathlib import Path

import pytest

from dynamoe_search.errors import SpecError
from dynamoe_search.presets import read_study
from dynamoe_search.specs.vocabulary import is_about_loss

TEXT = """
[study]
name = "a"
objectives = ["perplexity", "activated_params"]
[data]
name = "docs"
[model]
backbone = "gpt"
d_model = 32
[schedule]
max_experts = 8
"""


def problems(folder: Path, *changes: str) -> dict[str, str]:
    path = folder / "study.toml"
    path.write_text(TEXT, "utf-8")
    with pytest.raises(SpecError) as caught:
        read_study(str(path), changes)
    return {problem.path: str(problem) for problem in caught.value.problems}


def test_a_study_of_text_is_right_and_pruned(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(TEXT, "utf-8")
    spec = read_study(str(path)).spec
    assert spec.pruner.kind == "pareto"
    assert is_about_loss(spec.study.objectives)


@pytest.mark.parametrize("kind", ["expert-choice", "pooled-quantile"])
def test_routers_that_look_at_later_tokens_are_refused(tmp_path: Path, kind: str) -> None:
    for value in (kind, f'["top-k", "{kind}"]'):
        found = problems(tmp_path, f"router.kind={value}")
        assert found.keys() == {"router.kind"}
        assert "after it while training" in found["router.kind"]
        assert "top-p" in found["router.kind"]


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        (["model.backbone=vit"], "model.backbone", "docs is text, for gpt, mlp-lm"),
        (
            ["data.name=digits", "study.objectives=['accuracy']"],
            "model.backbone",
            "digits is images, for mlp, vit",
        ),
        (["data.name=digits", "model.backbone=mlp"], "study.objectives", "needs text"),
        (["train.augment=true"], "train.augment", "is for images"),
        (["model.patch_size=8"], "model.patch_size", "used only with model.backbone vit"),
        (
            ["data.max_train=100", "data.epoch_size=101"],
            "data.epoch_size",
            "at most the training part, which has 100 sequences",
        ),
        (["model.num_heads=32"], "model.num_heads", "into even parts (32)"),
        (["model.backbone=mlp-lm", "model.moe_every=2"], "model.moe_every", "only with"),
        (
            [
                "data.name=digits",
                "model.backbone=mlp",
                "study.objectives=['accuracy']",
                "model.expert=swiglu",
            ],
            "model.expert",
            "gpt, mlp-lm",
        ),
        (
            [
                "data.name=digits",
                "model.backbone=mlp",
                "study.objectives=['accuracy']",
                "study.constraints={max_perplexity=9}",
            ],
            "study.constraints.max_perplexity",
            "needs text",
        ),
    ],
)
def test_what_does_not_go_together(
    tmp_path: Path, changes: list[str], path: str, words: str
) -> None:
    found = problems(tmp_path, *changes)
    assert found.keys() == {path}
    assert words in found[path]


@pytest.mark.parametrize(
    ("changes", "path", "words"),
    [
        (["data.name=text"], "data.path", "needs the path of the data"),
        (["data.path=x"], "data.path", "is not used with data.name docs"),
        (["data.name=hf", "data.max_documents=9"], "data.repo", "as owner/name"),
        (["data.name=recycling-the-web"], "data.max_documents", "what is streamed needs"),
        (["data.repo=a/b"], "data.repo", "is used only with data.name hf; here it is docs"),
        (["data.field=body"], "data.field", "text, hf, recycling-the-web; here it is docs"),
        (["data.image_size=8"], "data.image_size", "is for images"),
        (["data.vocab_size=300"], "data.vocab_size", "only with data.tokenizer bpe"),
        (["data.tokenizer_path=x"], "data.tokenizer_path", "only with data.tokenizer gpt2"),
        (["data.tokenizer=bpe", "data.max_tokens=9"], "data.max_tokens", "use data.max_documents"),
        (["data.sequence_length=1"], "data.sequence_length", "at least 2"),
        (["data.vocab_size=257", "data.tokenizer=bpe"], "data.vocab_size", "at least 258"),
        (["data.max_documents=2"], "data.max_documents", "at least 3"),
    ],
)
def test_settings_of_the_text_that_do_not_fit_are_told(
    tmp_path: Path, changes: list[str], path: str, words: str
) -> None:
    found = problems(tmp_path, *changes)
    assert found.keys() == {path}
    assert words in found[path]


def test_settings_of_text_are_refused_for_images() -> None:
    changes = {
        "data.sequence_length": "64",
        "data.tokenizer": "gpt2",
        "data.max_tokens": "100",
        "data.subset": "en",
    }
    with pytest.raises(SpecError) as caught:
        read_study("digits", [f"{key}={value}" for key, value in changes.items()])
    assert {problem.path for problem in caught.value.problems} == changes.keys()


def test_folders_are_made_absolute_and_names_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "set").mkdir()
    (tmp_path / "study.toml").write_text(TEXT)
    known = ("data.name=hf", "data.max_documents=9", "data.tokenizer=gpt2")
    here = read_study("study.toml", (*known, "data.repo=set", "data.tokenizer_path=gpt2")).spec.data
    assert (here.repo, here.tokenizer_path) == (str(tmp_path / "set"), str(tmp_path / "gpt2"))
    named = read_study("study.toml", (*known, "data.repo=a/b", "data.tokenizer_path=c/d")).spec.data
    assert (named.repo, named.tokenizer_path) == ("a/b", "c/d")
