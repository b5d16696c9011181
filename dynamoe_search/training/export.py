"""Trained models as files: weights in safetensors, the configuration in JSON, a model card in Markdown. No pickle."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dynamoe_search.data import Split, TextSplit, Tokenizer, load_data
from dynamoe_search.data.vocabularies import TOKENIZER_FILE
from dynamoe_search.errors import UsageError
from dynamoe_search.moe.backbones import BACKBONES, build_model
from dynamoe_search.records import Candidate, Outcome, Purpose, from_json, to_json
from dynamoe_search.specs import DataSection
from dynamoe_search.training.durable_files import write_tensors, write_text
from dynamoe_search.wording import counted

FORMAT = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportedConfig:
    """Everything that is needed to build the module again and to repeat its training."""

    format: int
    study: str
    trial: int | None
    input_shape: tuple[int, ...]
    num_classes: int
    candidate: Candidate
    outcome: Outcome
    data: DataSection
    mean: tuple[float, ...]  # per channel, of the training part; inputs are (pixels - mean) / std
    std: tuple[float, ...]
    versions: dict[str, str]
    purpose: Purpose = "search"  # of the study
    tokenizer: str = ""  # fingerprint of a language model's, see `data.Tokenizer`; empty if unknown


def load_state(path: Path) -> dict[str, Tensor]:
    """Reads a `state_dict` from a safetensors file.

    Raises:
        UsageError: if the file is missing or is not safetensors.
    """
    try:
        return load_file(path)
    except FileNotFoundError as error:
        raise UsageError(f"there are no weights at {path}") from error
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is not a safetensors file: {error}") from error


def save_model(
    folder: Path,
    config: ExportedConfig,
    state: Mapping[str, Tensor],
    tokenizer: Tokenizer | None = None,
) -> None:
    """Writes weights, configuration and model card of one trained candidate into `folder`.

    Args:
        folder: Made if it is missing.
        config: What the model is, and how it was trained.
        state: Its `state_dict`.
        tokenizer: Of a language model, to be written beside it, see `data.load_tokenizer`.

    Raises:
        UsageError: if the folder cannot be made or written.
    """
    text = json.dumps(json.loads(to_json(config)), indent=2)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_tensors(folder / WEIGHTS, {name: own.contiguous() for name, own in state.items()})
        write_text(folder / CONFIG, text + "\n")
        write_text(folder / CARD, _card(config))
        if tokenizer is not None:
            write_text(folder / TOKENIZER_FILE, tokenizer.to_json() + "\n")
    except (OSError, SafetensorError) as error:
        raise UsageError(f"the model cannot be written to {folder}: {error}") from error


def load_config(folder: str | Path) -> ExportedConfig:
    """Reads the configuration of an exported model.

    Raises:
        UsageError: if the folder holds no exported model, or one of another format.
    """
    path = Path(folder) / CONFIG
    try:
        config = from_json(ExportedConfig, path.read_bytes())
    except OSError as error:
        if not Path(folder).exists():
            raise UsageError(f"there is no folder {folder}") from error
        raise UsageError(f"{folder} holds no exported model: {path.name} cannot be read") from error
    except ValidationError as error:
        raise UsageError(f"{path} is not the configuration of an exported model") from error
    if config.format != FORMAT:
        raise UsageError(
            f"{path} has format {config.format}, and this version reads format {FORMAT}"
        )
    return config


def load_model(folder: str | Path, *, trust_code: bool = False) -> nn.Module:
    """Loads an exported model as a plain module in evaluation mode, on the CPU.

    The module takes images (batch, channels, height, width), standardised as `config.json` says, and returns the logits
    (batch, classes) and one `Routing` per MoE layer. A language model takes tokens (batch, tokens) of the tokenizer
    that `data.load_tokenizer` gives, and returns the logits (batch, tokens, vocabulary) of those that follow.

    Args:
        folder: Where `dynamoe-search export` wrote it.
        trust_code: Whether a backbone that is the author's own code may be imported.

    Raises:
        UsageError: if the folder holds no exported model, or its weights do not fit its configuration.
    """
    config = load_config(folder)
    try:
        model = build_model(
            config.candidate, config.input_shape, config.num_classes, trust_code=trust_code
        )
    except UsageError:
        raise
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(f"{folder}/{CONFIG} describes no model: {error}") from error
    try:
        model.load_state_dict(load_state(Path(folder) / WEIGHTS))
    except RuntimeError as error:
        raise UsageError(f"the weights in {folder} do not fit its {CONFIG}") from error
    return model.eval()


def load_validation(folder: str | Path) -> Split | TextSplit:
    """Loads the validation part that an exported model was compared on; `x` of images is standardised already."""
    return load_data(load_config(folder).data).validation


def _card(config: ExportedConfig) -> str:
    candidate, metrics = config.candidate, config.outcome.metrics
    layers = "\n".join(
        f"| {layer.layer} | {layer.num_experts} | {layer.mean_k:.2f} | {layer.std_k:.2f} |"
        for layer in config.outcome.routing
    )
    numbers = "\n".join(f"| {name} | {_number(value)} |" for name, value in sorted(metrics.items()))
    origin = _plain_text(config.study)
    title = f"{origin}, trial {config.trial}" if config.trial is not None else origin
    versions = ", ".join(f"{name} {version}" for name, version in sorted(config.versions.items()))
    router = {
        name: value
        for name, value in json.loads(to_json(candidate.router)).items()
        if value is not None
    }
    kind = "classifier" if len(config.input_shape) > 1 else "language model"
    return f"""# {title}

A mixture-of-experts {kind}: backbone `{candidate.model.backbone}`, {candidate.model.num_layers} MoE layers,
d_model {candidate.model.d_model}, d_expert {candidate.model.d_expert}, schedule {candidate.schedule.shape},
router `{candidate.router.kind}` ({_plain_text(json.dumps(router))}).

Trained on {config.data.name} for {counted(config.outcome.epochs, "epoch")}; {_inputs(config)}
`{CONFIG}`. The numbers below are from the validation part, on which designs were also compared{_of_test_part(config)}.

| measure | value |
| --- | --- |
{numbers}

| layer | experts | mean experts per token | standard deviation |
| --- | --- | --- | --- |
{layers}

## Use

{_use(config)}

`load_validation("path/to/this/folder")` gives what the numbers above were measured on.

Study seed {candidate.study_seed}, ordinal {candidate.ordinal}. Made with {versions}.
"""


def _number(value: float) -> str:
    """A measure as people read it: whole numbers, such as counts of parameters, without decimals."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:,.4f}"


def _use(config: ExportedConfig) -> str:
    """How the model is called, as an indented block."""
    is_own = config.candidate.model.backbone not in BACKBONES
    in_python, on_line = (", trust_code=True", " --trust-code") if is_own else ("", "")
    if len(config.input_shape) > 1:
        sides = ", ".join(str(side) for side in config.input_shape)
        return f"""    from dynamoe_search import load_model
    model = load_model("path/to/this/folder"{in_python})
    logits, routing = model(x)  # x: (batch, {sides})"""
    return f"""    import torch
    from dynamoe_search import load_model
    from dynamoe_search.data import load_tokenizer
    tokenizer = load_tokenizer("path/to/this/folder")
    model = load_model("path/to/this/folder"{in_python})
    tokens = [tokenizer.separator, *tokenizer.encode("The")]  # at most {config.input_shape[0]}
    logits, routing = model(torch.tensor([tokens]))  # (1, tokens, {config.num_classes})

On the command line: `dynamoe-search sample path/to/this/folder --prompt "The"{on_line}`."""


def _of_test_part(config: ExportedConfig) -> str:
    """What is true of the test part, as the end of a sentence; a confirmation's runs were measured on it."""
    return "" if config.purpose == "confirm" else "; the test part was not\ntouched"


def _inputs(config: ExportedConfig) -> str:
    """What goes in and comes out, as a clause that ends before the name of the configuration."""
    sides = "x".join(str(side) for side in config.input_shape)
    if len(config.input_shape) > 1:
        return (
            f"{config.num_classes} classes, inputs\n{sides}, standardised per channel with the mean and "
            "standard deviation in"
        )
    return (
        f"{config.num_classes} tokens, of which it\nreads {sides} at once; the tokenizer stands in "
        f"`{TOKENIZER_FILE}`, all settings in"
    )


def _plain_text(text: str) -> str:
    """Text of unknown origin without what Markdown or HTML would act on."""
    return re.sub(r"[^\w .,:{}\"-]", " ", text)
