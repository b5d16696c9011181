"""All commands on a study of text: they speak of perplexity, and nowhere of images or classes."""

import json
import math
import re
from pathlib import Path

import pytest

from dynamoe_search.store import Store, weight_files
from tests.cli.conftest import Run, invoke
from tests.cli.test_commands import FRONT_KEYS

STUDY = """
[study]
name = "words"
objectives = ["perplexity", "activated_params"]
references = ["dense"]
trials = 3
[data]
name = "docs"
max_train = 64
max_documents = 40
sequence_length = 16
[model]
backbone = "gpt"
d_model = 16
num_heads = 2
num_layers = 1
d_expert = [8, 16]
[schedule]
max_experts = 2
[router]
kind = "top-k"
k = [1, 2]
[train]
epochs = 2
batch_size = 16
[search]
cohort_size = 3
pruner.kind = "none"
"""
IMAGES = re.compile(r"\b(image|images|class|classes|classifier|accurac\w*|pixels?)\b")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The study file and the database with the study."""
    folder = tmp_path_factory.mktemp("words")
    file, url = folder / "words.toml", f"sqlite:///{folder / 'studies.db'}"
    file.write_text(STUDY)
    done = invoke("run", file, "--device", "cpu", "--threads", 1, "--quiet", "--storage", url)
    assert done.exit_code == 0, done.output
    assert not IMAGES.search(done.stdout)
    return file, url


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "words"),
        ("watch", "words", "--once"),
        ("front", "words"),
        ("front", "words", "--knee"),
        ("list",),
        ("confirm", "words", "--seeds", "2", "--limit", "1", "--quiet"),
        ("show", "words", "0"),
    ],
)
def test_no_command_speaks_of_images(
    cli: Run, words: tuple[Path, str], arguments: tuple[str, ...]
) -> None:
    shown = cli(*arguments, "--storage", words[1])
    assert shown.exit_code == 0, shown.output
    text = shown.stdout
    if arguments[0] == "show":  # the share of tokens that are guessed is a measure like others
        text = re.sub(r"(?m)^accuracy .*\n", "", text, count=1)
        assert text.index("perplexity") < text.index("bits_per_byte") < text.index("train_loss")
        assert "patch_size" not in text
    assert not IMAGES.search(text)
    if arguments[0] != "list":
        assert "perplexity" in text


def test_the_front_of_text_has_the_keys_of_one_of_images(cli: Run, words: tuple[Path, str]) -> None:
    rows = json.loads(cli("front", "words", "--json", "--storage", words[1]).stdout)
    assert rows
    for row in rows:
        assert row.keys() == FRONT_KEYS
        assert row["perplexity"] == row["objectives"]["perplexity"] == row["metrics"]["perplexity"]
        assert row["accuracy"] == row["metrics"]["accuracy"]


def test_check_tells_what_the_text_is_made_of(cli: Run, words: tuple[Path, str]) -> None:
    options = ("--no-measure", "--set", "data.tokenizer=bpe", "--set", "data.vocab_size=300")
    shown = cli("check", words[0], *options).stdout
    assert re.search(r"(?m)^tokenizer +byte pairs of the training part, 300 different", shown)
    assert re.search(r"(?m)^tokens +[\d,]+ for training, [\d,]+ validation, [\d,]+ test;", shown)
    text = json.loads(cli("check", words[0], *options, "--json").stdout)["text"]
    assert text["vocab_size"] == 300
    assert 1 < text["bytes_per_token"] < 4
    assert text["tokens"].keys() == {"train", "validation", "test"}


def test_export_tells_the_perplexity_and_how_to_let_it_write(
    cli: Run, words: tuple[Path, str], tmp_path: Path
) -> None:
    front = json.loads(cli("front", "words", "--json", "--storage", words[1]).stdout)
    (first, *_) = front
    out = tmp_path / "model"
    done = cli("export", "words", first["trial"], "--out", out, "--storage", words[1])
    metrics = first["metrics"]
    assert f"perplexity {metrics['perplexity']:.4g}" in done.stdout
    assert f"{metrics['bits_per_byte']:.3f} bits per byte on the validation part" in done.stdout
    assert "dynamoe-search sample" in done.stdout.replace("\n", " ")
    assert not IMAGES.search(done.stdout)
    card = (out / "README.md").read_text()
    assert "dynamoe-search sample" in card
    assert not IMAGES.search(re.sub(r"(?m)^\| accuracy .*$", "", card))
    told = cli("export", "words", first["trial"], "--out", out, "--json", "--storage", words[1])
    assert json.loads(told.stdout)["metrics"]["perplexity"] == metrics["perplexity"]


def test_a_model_trained_again_for_export_is_compared_by_its_loss(
    cli: Run, words: tuple[Path, str], tmp_path: Path
) -> None:
    with Store.open(words[1]) as store:
        trial = store.front("words")[-1].trial
        kept = store.candidate("words", trial).outcome
        weight_files.remove(store.files_of("words") / "models", [trial])
    assert kept is not None
    done = cli("export", "words", trial, "--out", tmp_path / "again", "--storage", words[1])
    assert done.exit_code == 0, done.output
    assert "epoch 2/2: perplexity " in done.stderr
    assert not IMAGES.search(done.stderr)
    assert f"perplexity {kept.metrics['perplexity']:.4g}" in done.stdout


def test_train_tells_the_perplexity(cli: Run, words: tuple[Path, str]) -> None:
    fixed = ("--set", "model.d_expert=8", "--set", "router.k=1", "--set", "train.epochs=1")
    done = cli("train", words[0], *fixed)
    assert done.exit_code == 0, done.output
    assert "epoch 1/1: perplexity " in done.stderr
    assert not IMAGES.search(done.stderr)


def test_confirm_tells_perplexities_in_json(cli: Run, words: tuple[Path, str]) -> None:
    options = ("--seeds", 2, "--limit", 1, "--quiet", "--json", "--storage", words[1])
    found = json.loads(cli("confirm", "words", *options).stdout)
    confirmation = found["confirmation"]
    assert (confirmation["measure"], confirmation["better"]) == ("perplexity", "lower")
    with Store.open(words[1]) as store:
        losses = [one.loss for one in store.tests("words.confirm")]
    shown = [one["test"]["mean"] for one in confirmation["designs"]]
    assert math.exp(min(losses)) <= min(shown) <= max(shown) <= math.exp(max(losses))
