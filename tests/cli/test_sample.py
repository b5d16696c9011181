"""`sample`: text from an exported language model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dynamoe_search.data import load_tokenizer
from dynamoe_search.training.export import CONFIG, WEIGHTS, load_model, load_validation
from dynamoe_search.training.sampling import _drawn, sample_text
from tests.cli.conftest import Run, invoke

LENGTH = 16
STUDY = f"""
[study]
name = "words"
objectives = ["perplexity", "activated_params"]
[data]
name = "docs"
max_train = 96
max_documents = 40
sequence_length = {LENGTH}
[model]
backbone = "gpt"
d_model = 16
num_heads = 2
num_layers = 1
d_expert = 16
[schedule]
min_experts = 2
max_experts = 2
[router]
kind = "top-k"
k = 1
[train]
epochs = 1
batch_size = 32
"""


@pytest.fixture(scope="module", params=["bytes", "bpe"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an exported language model."""
    folder = tmp_path_factory.mktemp(request.param)
    study, out = folder / "words.toml", folder / "model"
    study.write_text(STUDY)
    change = f"data.tokenizer={request.param}"
    result = invoke("train", study, "--set", change, "--out", out, "--quiet")
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture
def model(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(trained, tmp_path / "model"))


def test_text_goes_on_from_the_prompt_and_depends_on_the_seed(cli: Run, trained: Path) -> None:
    options = ("--prompt", "The class", "--tokens", 30)
    first, again = (cli("sample", trained, *options) for _ in range(2))
    assert first.exit_code == 0, first.output
    assert first.stdout == again.stdout
    assert first.stdout.startswith("The class")
    other = cli("sample", trained, *options, "--seed", 1)
    assert other.stdout != first.stdout


def test_json_has_the_tokens(cli: Run, trained: Path) -> None:
    result = cli("sample", trained, "--prompt", "é", "--tokens", 40, "--json")
    told = json.loads(result.stdout)
    assert told["prompt"] == "é"
    assert len(told["tokens"]) == 40
    tokenizer = load_tokenizer(trained)
    start = [tokenizer.separator, *tokenizer.encode("é")]
    assert tokenizer.decode([*start, *told["tokens"]]) == "é" + told["text"]


def test_coldest_text_is_the_most_probable_token_after_all_that_fits(trained: Path) -> None:
    tokenizer, network = load_tokenizer(trained), load_model(trained)
    tokens = [tokenizer.separator, *tokenizer.encode("if not")]
    expected = []
    for _ in range(LENGTH + 8):
        logits, _ = network(torch.tensor([tokens[-LENGTH:]]))
        expected.append(int(logits[0, -1].argmax()))
        tokens.append(expected[-1])
    for seed in (0, 1):
        found = sample_text(
            trained, prompt="if not", num_tokens=LENGTH + 8, temperature=0, seed=seed
        )
        assert list(found.tokens) == expected


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 1e-9])
def test_tokens_are_drawn_as_the_logits_say(temperature: float) -> None:
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.tensor([_drawn(logits, temperature, generator) for _ in range(4000)])
    shares = drawn.bincount(minlength=4) / 4000
    expected = (logits.double() / temperature).softmax(0).float()
    torch.testing.assert_close(shares, expected, atol=0.025, rtol=0)


def test_exported_model_knows_what_it_was_compared_on(trained: Path) -> None:
    part = load_validation(trained)
    assert part.x.shape[1:] == (LENGTH,)
    logits, routings = load_model(trained)(part.x[:2])
    assert logits.shape == (2, LENGTH, load_tokenizer(trained).vocab_size)
    assert len(routings) == 1
    assert "language model" in (trained / "README.md").read_text()


def spoil_weights(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    state["embed.weight"][0] = float("nan")
    save_file(state, folder / WEIGHTS)


def say_images(folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"input_shape": [1, 8, 8]}))


SPOILS = {
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json"),
    "broken tokenizer": (
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        "describes no tokenizer",
    ),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "there are no weights"),
    "NaN": (spoil_weights, "gives no probabilities"),
    "images": (say_images, "holds a model of images"),
    "nothing": (lambda folder: (folder / CONFIG).unlink(), "holds no exported model"),
}


@pytest.mark.parametrize("name", SPOILS)
def test_what_cannot_write_is_one_sentence(cli: Run, model: Path, name: str) -> None:
    spoil, message = SPOILS[name]
    spoil(model)
    result = cli("sample", model)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_tokenizer_of_another_model_is_refused(cli: Run, model: Path, tmp_path: Path) -> None:
    name = "bpe" if load_tokenizer(model).vocab_size == 257 else "bytes"
    study = tmp_path / "words.toml"
    study.write_text(STUDY)
    out = tmp_path / "other"
    cli("train", study, "--set", f"data.tokenizer={name}", "--out", out, "--quiet")
    shutil.copy(out / "tokenizer.json", model)
    result = cli("sample", model)
    assert result.exit_code == 2
    assert "the model beside it was made for" in result.stderr


def test_another_vocabulary_of_the_same_size_is_refused(
    cli: Run, tmp_path: Path, trained: Path
) -> None:
    if load_tokenizer(trained).vocab_size == 257:
        pytest.skip("there is one vocabulary of bytes")
    study = tmp_path / "words.toml"
    study.write_text(STUDY.replace("max_documents = 40", "max_documents = 20"))
    other = tmp_path / "other"
    cli("train", study, "--set", "data.tokenizer=bpe", "--out", other, "--quiet")
    assert load_tokenizer(other).vocab_size == load_tokenizer(trained).vocab_size
    shutil.copy(trained / "tokenizer.json", other)
    result = cli("sample", other)
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "is not the one that the model beside it was made for" in line


@pytest.mark.parametrize(
    "options", [("--temperature", "-1"), ("--temperature", "inf"), ("--tokens", 0), ("--seed", -1)]
)
def test_wrong_options_are_one_sentence(cli: Run, trained: Path, options: tuple[object]) -> None:
    result = cli("sample", trained, *options)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


def test_prompt_that_is_no_text_does_not_stop_it(trained: Path) -> None:
    assert sample_text(trained, prompt="a\udcffb", num_tokens=2).prompt == "a?b"


def test_wide_model_writes_with_several_threads(cli: Run, tmp_path: Path) -> None:
    study, out = tmp_path / "wide.toml", tmp_path / "wide"
    study.write_text(STUDY)  # 16 tokens times 96 x 96: its experts are computed in threads
    wide = ("--set", "model.d_model=96", "--set", "model.d_expert=96")
    result = cli("train", study, *wide, "--out", out, "--quiet")
    assert result.exit_code == 0, result.output
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = sample_text(out, prompt="The class of all that is", num_tokens=8)
    finally:
        torch.set_num_threads(before)
    assert len(found.tokens) == 8
