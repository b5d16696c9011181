"""Language models: packed equals alone bit for bit, and what an epoch reports of them."""

import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamoe_search.moe.backbones import build_model
from dynamoe_search.training import Trained, token_losses, train_leg
from dynamoe_search.training.population import Population
from tests.training.populations import SETTINGS, differing, gradients, train_population
from tests.training.texts import LENGTH, language_pack, text

SETTINGS_OF: dict[str, dict[str, Any]] = {
    "gpt": {"backbone": "gpt", "moe_every": 2},
    "gpt with SwiGLU": {"backbone": "gpt", "expert": "swiglu", "tie_embeddings": False},
    "mlp-lm": {"backbone": "mlp-lm"},
    "mlp-lm with SwiGLU": {"backbone": "mlp-lm", "expert": "swiglu", "tie_embeddings": False},
}


class OwnLanguageModel(nn.Module):
    """A user's network for text: no idea of packs, and a head of its own."""

    def __init__(self, input_shape, num_classes, config, layers) -> None:
        super().__init__()
        self.embed = nn.Embedding(num_classes, config.d_model)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(config.d_model, num_classes)

    def forward(self, x: Tensor):
        h, routings = self.embed(x), []
        for layer in self.layers:
            h, routing = layer(h)
            routings.append(routing)
        return self.head(h), routings


@cache
def whole_pack(name: str) -> dict[int, Trained]:
    pack = language_pack(**SETTINGS_OF[name])
    return {one.ordinal: one for one in train_population(pack, text(), SETTINGS)}


@pytest.mark.parametrize("name", SETTINGS_OF)
def test_any_company_gives_the_same_training_to_the_last_bit(name: str) -> None:
    pack = language_pack(**SETTINGS_OF[name])
    whole = whole_pack(name)
    assert {one.outcome.status for one in whole.values()} == {"complete"}
    assert {one.outcome.pack_mode for one in whole.values()} == {"vmap"}
    for company in ([0], [3, 11], [1, 6, 10], [*range(len(pack))][::-1]):
        for one in train_population([pack[i] for i in company], text(), SETTINGS):
            assert differing(one, whole[one.ordinal]) == [], company


def test_experts_were_added_and_removed_in_that_training() -> None:
    changed = [one for one in whole_pack("gpt").values() if len(one.outcome.expert_events) > 1]
    assert len(changed) == 2


def test_neighbours_that_stop_on_the_way_change_nobody() -> None:
    pack = language_pack(**SETTINGS_OF["gpt"])
    first = {one.ordinal: one for one in train_leg(pack, text(), SETTINGS, until=1)}
    stay = [pack[i] for i in (2, 10)]
    states = {one.ordinal: first[one.ordinal].standing for one in stay}
    for one in train_leg(stay, text(), SETTINGS, until=2, start=states):
        assert differing(one, whole_pack("gpt")[one.ordinal]) == []


@pytest.mark.parametrize("part_logits", [257 * 7, 2**21])
def test_the_head_in_parts_has_the_gradients_of_the_whole(
    part_logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against plain autograd of the plain module, one candidate at a time."""
    monkeypatch.setattr(token_losses, "PART_LOGITS", part_logits)
    for name in ("gpt", "mlp-lm with SwiGLU"):
        everybody = language_pack(**SETTINGS_OF[name], dropout=0.0)
        pack = [one for one in everybody if one.router.kind == "top-p"]
        population = Population(pack, text(), SETTINGS)
        x, y = text().train.x[:9], text().train.y[:9]
        population.loss_weights = {}
        population.cohort.train(True)
        task, _ = population.gradients(x, y)
        ours = gradients(population, 0)
        model = build_model(pack[0], (LENGTH,), 257)
        logits, _ = model(x)
        loss = F.cross_entropy(logits.flatten(0, 1), y.flatten())
        loss.backward()
        assert task[0].item() == pytest.approx(loss.item(), rel=1e-5)
        for own, parameter in model.named_parameters():
            expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            torch.testing.assert_close(ours[own], expected, rtol=1e-4, atol=1e-6, msg=own)


def test_what_is_reported_of_a_language_model() -> None:
    for name in ("gpt", "mlp-lm with SwiGLU"):
        for one in whole_pack(name).values():
            metrics, num_tokens = one.outcome.metrics, text().validation.y.numel()
            loss = metrics["validation_loss"]
            assert metrics["perplexity"] == pytest.approx(math.exp(loss))
            assert metrics["bits_per_byte"] == pytest.approx(
                loss / math.log(2) / text().bytes_per_token
            )
            tables = 1 if name == "gpt" else 2
            assert metrics["embedding_params"] == tables * 257 * 16
            for measure in ("activated_params", "total_params"):
                with_tables = metrics[measure] + metrics["embedding_params"]
                assert metrics[f"{measure}_with_embeddings"] == with_tables
            for layer in one.outcome.routing:
                assert sum(layer.k_histogram) == num_tokens
                pairs = zip(layer.k_histogram, layer.loss_by_k, strict=True)
                total = sum(tokens * (mean or 0.0) for tokens, mean in pairs)
                assert total / num_tokens == pytest.approx(loss, rel=1e-5)
                assert [mean is None for mean in layer.loss_by_k] == [
                    tokens == 0 for tokens in layer.k_histogram
                ]


def test_the_numbers_are_those_of_the_plain_module() -> None:
    (one,) = (one for one in whole_pack("gpt").values() if one.ordinal == 6)
    pack = language_pack(**SETTINGS_OF["gpt"])
    model = build_model(next(c for c in pack if c.ordinal == 6), (LENGTH,), 257).eval()
    model.load_state_dict(one.state)
    with torch.no_grad():
        logits, _ = model(text().validation.x)
    y = text().validation.y
    loss = F.cross_entropy(logits.flatten(0, 1), y.flatten()).item()
    assert one.outcome.metrics["validation_loss"] == pytest.approx(loss, rel=1e-5)
    accuracy = (logits.argmax(-1) == y).double().mean().item()
    assert one.outcome.metrics["accuracy"] == pytest.approx(accuracy)


def test_somebodys_own_language_model_is_trained_in_a_pack() -> None:
    pack = language_pack(f"{__name__}:OwnLanguageModel")[3:6]
    settings = replace(SETTINGS, trust_code=True)
    whole = {one.ordinal: one for one in train_population(pack, text(), settings)}
    for one in whole.values():
        assert (one.outcome.status, one.outcome.pack_mode) == ("complete", "vmap")
        assert "embedding_params" not in one.outcome.metrics  # it names no tables
        assert sum(one.outcome.routing[0].k_histogram) == text().validation.y.numel()
    (alone,) = train_population(pack[1:2], text(), settings)
    assert differing(alone, whole[alone.ordinal]) == []


def test_bf16_trains_close_to_fp32() -> None:
    pack = [language_pack(**SETTINGS_OF["gpt with SwiGLU"], dropout=0.0)[i] for i in (4, 5)]
    low = [replace(one, train=replace(one.train, precision="bf16")) for one in pack]
    ends = [train_population(some, text(), SETTINGS) for some in (pack, low)]
    for exact, rough in zip(*ends, strict=True):
        assert rough.outcome.status == "complete"
        losses = [one.outcome.metrics["validation_loss"] for one in (exact, rough)]
        assert losses[0] == pytest.approx(losses[1], rel=0.02)
