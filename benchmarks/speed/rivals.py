"""What users run today, one candidate at a time: the rivals that the packed step is measured against.

Every rival is a residual MLP of MoE layers on images of 28 x 28 pixels, like our own, in the usual way of its authors:
`DataLoader`, `torch.optim.AdamW`, one model. `LoopMoE` chooses its experts as our `top-any` router does, so that the
number of experts per token is the same; `HuggingFaceMoE` has the MoE block of transformers in place of ours; `Dense`
has one expert per layer that is as wide as the experts that a token of ours activates.
"""

import importlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

PIXELS, CLASSES, LAYERS, EXPERTS, BATCH = 784, 10, 4, 8, 256


class LoopMoE(nn.Module):
    """A layer as it is found in tutorials: a list of experts, and a loop over those that somebody chose.

    Args:
        width: Of tokens and of experts.
        threshold: On the cosine, where every expert's own begins; with 8 experts of width 128, 0 opens about 4 and
            0.078 about 1.5.
    """

    def __init__(self, width: int, threshold: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.keys = nn.Parameter(nn.init.orthogonal_(torch.empty(EXPERTS, width)))
        self.threshold = nn.Parameter(torch.full((EXPERTS,), threshold))
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(EXPERTS)
        )
        self.chosen = 0.0  # mean number of experts of a token in the last batch

    def forward(self, x: Tensor) -> Tensor:
        """Returns the new tokens, (tokens, width) as they came."""
        z = self.norm(x)
        cosine = F.normalize(z, dim=-1) @ F.normalize(self.keys, dim=-1).t()
        above = torch.relu(torch.sigmoid(cosine) - torch.sigmoid(self.threshold))
        mask = above > 0
        opened = mask.float() + (above - above.detach())  # 0 or 1, with the gradient of `above`
        gate = opened / opened.sum(-1, keepdim=True).clamp(min=1)
        out = torch.zeros_like(z)
        for number, expert in enumerate(self.experts):
            rows = mask[:, number].nonzero().squeeze(1)
            if len(rows):
                out.index_add_(0, rows, gate[rows, number, None] * expert(z[rows]))
        self.chosen = float(mask.sum()) / len(mask)
        return x + out


class DenseLayer(nn.Module):
    """One expert for everybody."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.expert = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: Tensor) -> Tensor:
        """Returns the new tokens, (tokens, width) as they came."""
        out: Tensor = x + self.expert(self.norm(x))
        return out


class HuggingFaceLayer(nn.Module):
    """`MixtralSparseMoeBlock` of transformers behind a norm; top-k, gated experts of two thirds of the width.

    So its three matrices have the work of our two.
    """

    def __init__(self, width: int, top_k: int, implementation: str) -> None:
        super().__init__()
        mixtral = _mixtral()
        config = mixtral.MixtralConfig(
            hidden_size=width,
            intermediate_size=4 * (width // 6),
            num_local_experts=EXPERTS,
            num_experts_per_tok=top_k,
        )
        config._experts_implementation = implementation
        self.norm = nn.LayerNorm(width)
        self.block = mixtral.MixtralSparseMoeBlock(config)
        for weight in self.block.parameters():  # the library leaves this to the whole model
            nn.init.normal_(weight, std=config.initializer_range)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the new tokens, (tokens, width) as they came."""
        out: Tensor = x + self.block(self.norm(x)[:, None])[:, 0]
        return out


def _mixtral() -> Any:
    """Imports the block; a torchvision that does not fit torch would keep transformers from being imported."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, RuntimeError):  # what a broken installation raises
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules["torchvision"] = None  # type: ignore[assignment]
    return importlib.import_module("transformers.models.mixtral.modeling_mixtral")


def network(width: int, layers: list[nn.Module]) -> nn.Module:
    """Returns the residual MLP around MoE layers."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(PIXELS, width),
        *layers,
        nn.LayerNorm(width),
        nn.Linear(width, CLASSES),
    )


def loop(width: int, threshold: float) -> nn.Module:
    """The rival that counts: the loop over experts."""
    return network(width, [LoopMoE(width, threshold) for _ in range(LAYERS)])


def dense(width: int, num_active: float) -> nn.Module:
    """The floor: no routing at all, as much arithmetic as `num_active` experts per token."""
    return network(width, [DenseLayer(width, round(num_active * width)) for _ in range(LAYERS)])


def hugging_face(width: int, top_k: int, implementation: str) -> nn.Module:
    """The same network around the block of transformers."""
    layers: list[nn.Module] = [
        HuggingFaceLayer(width, top_k, implementation) for _ in range(LAYERS)
    ]
    return network(width, layers)


def mean_chosen(model: nn.Module) -> float:
    """Experts per token in the last batch of a `loop`."""
    own = [layer.chosen for layer in model.modules() if isinstance(layer, LoopMoE)]
    return sum(own) / len(own)


class Trainer:
    """The training loop of a tutorial, batch after batch.

    Args:
        model: Any network.
        x: (examples, 1, 28, 28).
        y: (examples,).
        device: Where to train.
        is_tuned: Without `DataLoader` and with torch's fused AdamW: what somebody who profiles comes to.
    """

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, device: str, *, is_tuned: bool = False
    ) -> None:
        self.model, self.device, self.is_tuned = model.to(device).train(), device, is_tuned
        self.x, self.y = (x.to(device), y.to(device)) if is_tuned else (x, y)
        self.loader = DataLoader(TensorDataset(x, y), batch_size=BATCH, shuffle=True)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-5, fused=True if is_tuned else None
        )
        self._batches = iter(())

    def _epoch(self) -> Iterator[tuple[Tensor, Tensor]]:
        if not self.is_tuned:
            yield from self.loader
            return
        order = torch.randperm(len(self.y), device=self.device)
        for rows in order.split(BATCH):
            yield self.x[rows], self.y[rows]

    def steps(self, num: int) -> None:
        """Makes `num` training steps."""
        for _ in range(num):
            batch = next(self._batches, None)
            if batch is None:
                self._batches = self._epoch()
                batch = next(self._batches)
            x, y = (part.to(self.device) for part in batch)
            loss = F.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()


Build = Callable[[], nn.Module]
