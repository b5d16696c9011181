"""The stacked optimiser against torch's own, one optimiser per candidate, step by step."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from dynamoe_search.training.optimizers import StackedAdamW, schedule_factor

TOTAL = 12
RATES, DECAYS, CLIPS = (1e-2, 3e-3, 1e-1), (0.0, 0.3, 0.05), (0.5, math.inf, 2.0)
SHAPES = {"w": (4, 3), "b": (4,)}  # of one candidate
EXPERTS = (2, 1, 3)  # rows of each candidate in a ragged pool


def factor(step: int, position: int) -> float:
    return schedule_factor(
        step,
        TOTAL + position,
        warmup_fraction=0.25,
        decay=("cosine", "linear", "constant")[position],
        final_fraction=0.1,
    )


def start(position: int) -> dict[str, nn.Parameter]:
    seed = torch.Generator().manual_seed(position)
    shapes = SHAPES | {"pool": (EXPERTS[position], 3, 2), "bias": (EXPERTS[position], 2)}
    return {
        name: nn.Parameter(torch.randn(shape, generator=seed)) for name, shape in shapes.items()
    }


def gradient(name: str, like: Tensor, position: int, step: int) -> Tensor:
    seed = torch.Generator().manual_seed(1000 * position + 10 * step + len(name))
    return torch.randn(like.shape, generator=seed) * 10 ** (step % 3 - 1)


class TorchCandidate:
    """One candidate with `torch.optim.AdamW`, clipping and schedule, as anyone would write it."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.own = start(position)
        matrices = [self.own["w"], self.own["pool"]]
        groups = [
            {"params": matrices, "weight_decay": DECAYS[position]},
            {"params": [self.own["b"], self.own["bias"]], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=RATES[position])
        self.schedule = LambdaLR(self.optimizer, lambda step: factor(step, position))

    def step(self, step: int) -> None:
        for name, parameter in self.own.items():
            parameter.grad = gradient(name, parameter, self.position, step)
        nn.utils.clip_grad_norm_(list(self.own.values()), CLIPS[self.position])
        self.optimizer.step()
        self.schedule.step()


class Stack:
    """The same three candidates with our optimiser."""

    def __init__(self) -> None:
        own = [start(position) for position in range(3)]
        whole = torch.arange(3)
        self.owner = {"w": whole, "b": whole}
        self.parameters = {
            name: torch.stack([one[name].detach() for one in own]).requires_grad_()
            for name in SHAPES
        }
        for name in ("pool", "bias"):
            self.owner[name] = whole.repeat_interleave(torch.tensor(EXPERTS))
            self.parameters[name] = torch.cat([one[name].detach() for one in own]).requires_grad_()
        self.optimizer = StackedAdamW(
            self.parameters,
            self.owner,
            learning_rate=torch.tensor(RATES),
            weight_decay=torch.tensor(DECAYS),
            clip_norm=torch.tensor(CLIPS),
        )

    def of(self, name: str, position: int) -> Tensor:
        own = self.parameters[name][self.owner[name] == position]
        return own[0] if name in SHAPES else own

    def step(self, step: int) -> None:
        for name, parameter in self.parameters.items():
            parts = [gradient(name, self.of(name, p), p, step) for p in range(3)]
            parameter.grad = torch.stack(parts) if name in SHAPES else torch.cat(parts)
        factors = torch.tensor([factor(step, position) for position in range(3)])
        self.optimizer.step(self.parameters, self.owner, factors)


def test_every_candidate_moves_as_with_torchs_optimiser() -> None:
    stack, plain = Stack(), [TorchCandidate(position) for position in range(3)]
    for step in range(TOTAL):
        stack.step(step)
        for candidate in plain:
            candidate.step(step)
            for name, parameter in candidate.own.items():
                torch.testing.assert_close(
                    stack.of(name, candidate.position), parameter, rtol=1e-4, atol=1e-5
                )
    assert all(parameter.grad is None for parameter in stack.parameters.values())


def test_a_candidate_that_is_not_finite_moves_nobody_else() -> None:
    wild, calm = Stack(), Stack()
    for step in range(3):
        calm.step(step)
        if step == 1:
            with torch.no_grad():
                wild.parameters["w"][1] = math.nan
        wild.step(step)
    for name in calm.parameters:
        for position in (0, 2):
            assert torch.equal(wild.of(name, position), calm.of(name, position))


def test_those_who_are_kept_go_on_as_before() -> None:
    whole, part = Stack(), Stack()
    whole.step(0)
    part.step(0)
    whole.step(1)
    kept = [2, 0]
    rows = {
        name: torch.cat([(owner == p).nonzero().squeeze(1) for p in kept])
        for name, owner in part.owner.items()
    }
    for name, index in rows.items():
        parts = [gradient(name, part.of(name, p), p, 1) for p in kept]
        part.parameters[name] = part.parameters[name].detach()[index].requires_grad_()
        part.parameters[name].grad = torch.stack(parts) if name in SHAPES else torch.cat(parts)
        own = part.owner[name][index]
        part.owner[name] = torch.where(own == 2, 0, 1)
    part.optimizer.keep(rows, kept)
    factors = torch.tensor([factor(1, position) for position in kept])
    part.optimizer.step(part.parameters, part.owner, factors)
    for name in part.parameters:
        for new, old in enumerate(kept):
            assert torch.equal(part.of(name, new), whole.of(name, old))


def test_a_row_that_starts_again_moves_like_a_new_one() -> None:
    stack = Stack()
    stack.step(0)
    stack.step(1)
    stack.optimizer.restart_rows("bias", torch.tensor([0]), torch.tensor([True]))
    before = stack.parameters["bias"].detach().clone()
    stack.step(2)
    moved = (stack.parameters["bias"].detach() - before)[0]
    rate = RATES[0] * factor(2, 0)  # Adam's first step has the size of the rate
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, rate), rtol=1e-4, atol=0)


def test_no_gradient_counts_as_gradient_zero() -> None:
    with_none, with_zero = Stack(), Stack()
    for stack in (with_none, with_zero):
        stack.step(0)
        for name, parameter in stack.parameters.items():
            parameter.grad = torch.ones_like(parameter)
            if name == "w":
                parameter.grad = None if stack is with_none else torch.zeros_like(parameter)
        stack.optimizer.step(stack.parameters, stack.owner, torch.ones(3))
    for name, parameter in with_none.parameters.items():
        assert torch.equal(parameter, with_zero.parameters[name])


@pytest.mark.parametrize(
    ("step", "decay", "expected"),
    [
        (0, "cosine", 0.5),  # warm-up of two of ten steps
        (1, "cosine", 1.0),
        (2, "cosine", 1.0),
        (6, "cosine", 0.1 + 0.9 * 0.5),
        (6, "linear", 0.1 + 0.9 * 0.5),
        (8, "linear", 0.1 + 0.9 * 0.25),
        (9, "constant", 1.0),
    ],
)
def test_schedule(step: int, decay: str, expected: float) -> None:
    value = schedule_factor(step, 10, warmup_fraction=0.2, decay=decay, final_fraction=0.1)
    assert value == pytest.approx(expected)


@pytest.mark.parametrize("decay", ["constant", "cosine", "linear"])
def test_schedule_without_warm_up_starts_at_the_peak_and_stays_in_its_bounds(decay: str) -> None:
    for total in (1, 2, 7):
        values = [
            schedule_factor(step, total, warmup_fraction=0.0, decay=decay, final_fraction=0.0)
            for step in range(total)
        ]
        assert values[0] == 1.0
        assert all(0 < value <= 1 for value in values)
        assert values == sorted(values, reverse=True)
