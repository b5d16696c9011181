"""Architecture search as tutorials show it: one Optuna trial at a time, `DataLoader`, a loop over experts, no pruning.

Nothing here knows of dynamoe_search but the data, which are the same tensors, and the rule that turns a schedule into
expert counts. The space, the objectives and the training are those of `SPACE` in `whole_study.py`.
"""

import time
from collections.abc import Sequence

import optuna
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from dynamoe_search.data import ImageData
from dynamoe_search.moe.schedules import experts_per_layer
from dynamoe_search.records import ScheduleConfig

SHAPES = ("uniform", "descending", "ascending", "pyramid-up", "pyramid-down")


class TopKMoE(nn.Module):
    """A layer with `experts` experts, of which every token takes the `k` most probable."""

    def __init__(self, width: int, hidden: int, experts: int, k: int) -> None:
        super().__init__()
        self.k = min(k, experts)
        self.norm = nn.LayerNorm(width)
        self.router = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
            for _ in range(experts)
        )
        self.balance = torch.zeros(())

    def forward(self, x: Tensor) -> Tensor:
        """Returns the new tokens; the load-balance loss is left in `balance`."""
        z = self.norm(x)
        logits = self.router(z)
        top, chosen = logits.topk(self.k, dim=-1)
        weights = top.softmax(-1)
        out = torch.zeros_like(z)
        for number, expert in enumerate(self.experts):
            rows, place = torch.where(chosen == number)
            if len(rows):
                out.index_add_(0, rows, weights[rows, place, None] * expert(z[rows]))
        probs = logits.softmax(-1)
        load = F.one_hot(chosen, len(self.experts)).sum(1).float().mean(0) / self.k
        self.balance = len(self.experts) * (load * probs.mean(0)).sum()
        return x + out


class Network(nn.Module):
    """The residual MLP around the layers."""

    def __init__(self, pixels: int, classes: int, width: int, layers: Sequence[TopKMoE]) -> None:
        super().__init__()
        self.embed = nn.Linear(pixels, width)
        self.layers = nn.ModuleList(layers)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Returns logits, (batch, classes)."""
        h = self.embed(x.flatten(1))
        for layer in self.layers:
            h = layer(h)
        logits: Tensor = self.head(self.norm(h))
        return logits

    def activated(self) -> float:
        """Parameters that one picture activates."""
        idle = 0
        for layer in self.layers:
            size = sum(p.numel() for p in layer.experts[0].parameters())
            idle += (len(layer.experts) - layer.k) * size
        return float(sum(p.numel() for p in self.parameters()) - idle)


def objective(
    trial: optuna.Trial, data: ImageData, *, width: int, num_layers: int, epochs: int, batch: int
) -> tuple[float, float]:
    """Trains one design and returns validation accuracy and activated parameters."""
    schedule = ScheduleConfig(
        shape=trial.suggest_categorical("shape", SHAPES),
        min_experts=1,
        max_experts=trial.suggest_int("max_experts", 2, 12),
    )
    k = trial.suggest_categorical("k", [1, 2, 4])
    rate = trial.suggest_float("learning_rate", 1e-3, 1e-2, log=True)
    balance = trial.suggest_float("load_balance", 1e-3, 0.1, log=True)
    torch.manual_seed(trial.number)
    counts = experts_per_layer(schedule, num_layers)
    layers = [TopKMoE(width, width, count, k) for count in counts]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Network(data.train.x[0].numel(), data.num_classes, width, layers).to(device)
    loader = DataLoader(TensorDataset(data.train.x, data.train.y), batch_size=batch, shuffle=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    total = epochs * len(loader)
    schedule_of_rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=total)
    for _ in range(epochs):
        model.train()
        for images, labels in loader:
            x, y = images.to(device), labels.to(device)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss = loss + balance * sum(layer.balance for layer in layers)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule_of_rate.step()
    return _accuracy(model, data), model.activated()


@torch.no_grad()
def _accuracy(model: nn.Module, data: ImageData) -> float:
    model.eval()
    validation = DataLoader(TensorDataset(data.validation.x, data.validation.y), batch_size=1024)
    device = next(model.parameters()).device
    correct = sum(
        int((model(x.to(device)).argmax(-1) == y.to(device)).sum()) for x, y in validation
    )
    return correct / len(data.validation.y)


def run(
    storage: str,
    data: ImageData,
    *,
    trials: int,
    until: float,
    seed: int,
    width: int,
    num_layers: int,
    epochs: int,
    batch: int,
) -> optuna.Study:
    """Runs the search, or goes on with it, to so many trials or to a moment of `time.monotonic`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage,
        study_name="plain",
        directions=["maximize", "minimize"],
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=16),
        load_if_exists=True,
    )
    while len(study.trials) < trials and time.monotonic() < until:
        study.optimize(
            lambda trial: objective(
                trial, data, width=width, num_layers=num_layers, epochs=epochs, batch=batch
            ),
            n_trials=1,
        )
    return study
