"""Networks as users write them, good and bad ones, and candidates that have them."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from dynamoe_search.records import Candidate
from dynamoe_search.training import Trained
from tests.training.populations import (
    ADAPTIVE,
    SETTINGS,
    candidate,
    digits,
    train_population,
)

TRUSTED = replace(SETTINGS, trust_code=True)
SOURCE = '''
import torch
from torch import nn
import torch.nn.functional as F

from dynamoe_search.moe.layer import MoELayer
from dynamoe_search.moe.randomness import Dropout
from dynamoe_search.moe.routers.router import Router, decide
from dynamoe_search.moe.routers.selection import sigmoid
from dynamoe_search.moe.routing import Routing
from dynamoe_search.moe.candidate_axis import has_candidate_axis


class Plain(nn.Module):
    """Two maps around the layers, one of them tied, a constant buffer, and hooks for the sub-classes."""

    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__()
        self.embed = nn.Linear(input_shape[1] * input_shape[2], config.d_model)
        self.first = nn.Linear(config.d_model, config.d_model)
        self.second = nn.Linear(config.d_model, config.d_model)
        self.second.weight = self.first.weight
        self.blocks = nn.ModuleList(layers)
        self.head = nn.Linear(config.d_model, num_classes)
        self.register_buffer("upstream", torch.linspace(0.5, 1.5, config.d_model))

    def forward(self, x):
        h = self.second(self.first(self.embed(x.flatten(1)))) * self.upstream
        routings = []
        for block in self.blocks:
            h, routing = block(self.between(h))
            routings.append(routing)
        return self.head(h), routings

    def between(self, h):
        return h


class Branches(Plain):
    def between(self, h):
        return h * 0.5 if h.abs().max() > 3 else h


class BranchesInEvaluation(Plain):
    def between(self, h):
        return h * 0.5 if not self.training and h.abs().max() > 3 else h


class TorchDropout(Plain):
    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__(input_shape, num_classes, config, layers)
        self.drop = nn.Dropout(0.2)

    def between(self, h):
        return self.drop(h)


class SkipsALayer(Plain):
    """Uses a matrix only where a value says so, so that it may have no gradient at all."""

    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__(input_shape, num_classes, config, layers)
        self.rarely = nn.Linear(config.d_model, config.d_model)
        self.is_used = nn.Parameter(torch.tensor(float(len(layers[0].is_open) > 3)))

    def between(self, h):
        return self.rarely(h) if self.is_used > 0.5 else h


class Rate(Plain):
    """Keeps a searched number outside tensors."""

    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__(input_shape, num_classes, config, layers)
        self.rate = config.dropout

    def between(self, h):
        return h * (1 - self.rate)


class Normed(Plain):
    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__(input_shape, num_classes, config, layers)
        self.norm = nn.BatchNorm1d(config.d_model)

    def between(self, h):
        return self.norm(h)


class WithoutLayers(nn.Module):
    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__()
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1)), []


class ForgetsARouting(Plain):
    def forward(self, x):
        logits, routings = super().forward(x)
        return logits, routings[:1]


class Explodes(Plain):
    """Raises for values above 1e6, so for a candidate whose learning rate is absurd."""

    def between(self, h):
        if h.abs().max() > 1e6:
            raise ArithmeticError("values above a million")
        return h


class LosesTheDevice(Plain):
    """Fails as a kernel of a GPU does, for a candidate whose learning rate is absurd."""

    def between(self, h):
        if h.abs().max() > 1e6:
            error = torch.AcceleratorError("CUDA error: device-side assert triggered\\nand more")
            error.error_code = 710
            raise error
        return h


class Large(Plain):
    """Has memory for three candidates at a time."""

    def between(self, h):
        if has_candidate_axis(h):
            num = torch._C._functorch.get_unwrapped(h).shape[0]
            if num > 3:
                raise torch.OutOfMemoryError(f"no room for {num}")
        return h


class OutOfMemory(Plain):
    """Asks for more memory than there is if more than three candidates are trained together."""

    def between(self, h):
        if has_candidate_axis(h) and torch._C._functorch.get_unwrapped(h).shape[0] > 3:
            bytearray(2**62)
        return h


class DashedName(Plain):
    """Has a part with a dash in its name."""

    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__(input_shape, num_classes, config, layers)
        self.parts = nn.ModuleDict({"to-drop": Dropout(0.2)})

    def between(self, h):
        return self.parts["to-drop"](h)


class AlwaysTooLarge(Plain):
    def __init__(self, input_shape, num_classes, config, layers):
        super().__init__(input_shape, num_classes, config, layers)
        self.is_large = len(layers[0].is_open) == 6

    def between(self, h):
        if self.is_large and len(h) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return h


class MyRouter(Router):
    """The first expert, always; with a part of its own, and without `null_load`."""

    kind = "mine"
    expert_dims = {"rows.weight": 0}

    def __init__(self, num_experts, d_model):
        super().__init__()
        self.rows = nn.Linear(d_model, num_experts, bias=False)
        self.register_buffer("scale", torch.tensor(1.0))

    def route(self, tokens, is_open):
        logits = self.rows(tokens)
        mask = (torch.arange(is_open.shape[0], device=is_open.device) == 0) & is_open
        probs = sigmoid(logits) * is_open
        routing = decide(gate=probs * mask, mask=mask.expand(probs.shape), probs=probs, logits=logits,
                         weight=self.rows.weight, is_open=is_open,
                         state={"scale": self.scale * 0.5} if self.training else {})
        return routing._replace(null_load=None)


class OwnRouter(Plain):
    def __init__(self, input_shape, num_classes, config, layers):
        for layer in layers:
            layer.router = MyRouter(len(layer.is_open), config.d_model)
        super().__init__(input_shape, num_classes, config, layers)


class OwnRouterThatBranches(OwnRouter):
    def between(self, h):
        return h * 0.5 if h.abs().max() > 3 else h
'''


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Has the module above as a file that can be imported, below the `with`.

    Args:
        folder: Where the file is written.
    """
    (folder / "own_networks.py").write_text(SOURCE)
    (folder / "own_typo.py").write_text("class Plain(:\n")
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("own_networks", None)


def own(name: str, ordinal: int, kind: str = "top-any", **settings: object) -> Candidate:
    experts = ((2, 4), (5, 3), (6, 1), (3, 3))[ordinal % 4]
    return candidate(ordinal, kind, experts, backbone=f"own_networks:{name}", **settings)  # type: ignore[arg-type]


def pack_of(name: str) -> list[Candidate]:
    return [
        own(name, 0),
        own(name, 1, "top-k"),
        own(name, 2, "percentile"),
        own(name, 3, "relu"),
        replace(own(name, 4), adaptive=ADAPTIVE),
    ]


def stop_after(steps: int, asked: list[int]) -> Callable[[], bool]:
    """Stops after so many steps, each of which it notes."""

    def should_stop() -> bool:
        asked.append(1)
        return len(asked) >= steps

    return should_stop


def train(pack: list[Candidate]) -> dict[int, Trained]:
    return {one.ordinal: one for one in train_population(pack, digits(), TRUSTED)}
