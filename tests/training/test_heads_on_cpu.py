"""Heads of language models on the CPU: the numbers of autograd, whatever the parts, and of nobody's company."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dynamoe_search.training import heads_on_cpu


def heads(
    num: int, vocabulary: int, width: int, tokens: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(vocabulary)
    tables = torch.randn(num, vocabulary, width, generator=generator)
    hidden = torch.randn(num, tokens, width, generator=generator) * scale
    return tables, hidden, torch.randint(vocabulary, (tokens,), generator=generator)


@given(
    vocabulary=st.integers(2, 90),
    width=st.sampled_from([4, 12, 16]),
    tokens=st.integers(1, 40),
    size=st.integers(1, 50),
    scale=st.sampled_from([0.0, 0.1, 1.0, 40.0]),  # with the last, probabilities are 0 in fp32
    smoothing=st.sampled_from([0.0, 0.1]),
)
def test_losses_and_gradients_are_those_of_autograd(
    vocabulary: int, width: int, tokens: int, size: int, scale: float, smoothing: float
) -> None:
    tables, hidden, y = heads(2, vocabulary, width, tokens, scale)
    mean, of_tables, of_hidden = heads_on_cpu.gradients(
        tables, hidden, y, size=size, label_smoothing=smoothing
    )
    own, is_right = heads_on_cpu.losses(tables, hidden, y, size=size)
    for number in range(2):
        table, rows = tables[number].clone().requires_grad_(), hidden[number].requires_grad_()
        logits = rows @ table.T
        expected = F.cross_entropy(logits, y, label_smoothing=smoothing)
        wanted = torch.autograd.grad(expected, (table, rows))
        torch.testing.assert_close(mean[number], expected.detach(), rtol=1e-4, atol=1e-4)
        for ours, theirs in zip((of_tables[number], of_hidden[number]), wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * max(1, scale))
        each = F.cross_entropy(logits, y, reduction="none").detach()
        torch.testing.assert_close(own[number], each, rtol=1e-4, atol=1e-3)
        if scale:
            assert torch.equal(is_right[number], logits.argmax(1) == y)


@pytest.mark.parametrize("width", [4, 12, 32])
def test_no_bit_depends_on_the_place_in_a_pack(width: int) -> None:
    tables, hidden, y = heads(5, 257, width, 50, 1.0)
    together = heads_on_cpu.gradients(tables, hidden, y, size=21)
    for place in range(5):
        alone = heads_on_cpu.gradients(
            tables[place : place + 1], hidden[place : place + 1], y, size=21
        )
        for one, all_of_them in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_of_them[place])


def test_what_is_not_a_number_stays_with_its_candidate() -> None:
    tables, hidden, y = heads(2, 20, 4, 8, 1.0)
    hidden[0, 3] = math.nan
    for told in (
        *heads_on_cpu.gradients(tables, hidden, y, size=3),
        heads_on_cpu.losses(tables, hidden, y, size=3)[0],
    ):
        assert not told[0].isfinite().all()
        assert told[1].isfinite().all()


def test_equal_logits_are_a_guess_at_the_first_token() -> None:
    tables, _, _ = heads(1, 20, 4, 6, 1.0)
    losses, is_right = heads_on_cpu.losses(
        tables, torch.zeros(1, 6, 4), torch.tensor([0, 1, 2, 0, 4, 5]), size=4
    )
    assert is_right.tolist() == [[True, False, False, True, False, False]]
    assert losses.tolist() == [[pytest.approx(math.log(20))] * 6]


def test_bf16_is_near() -> None:
    tables, hidden, y = heads(2, 300, 16, 60, 0.5)
    exact = heads_on_cpu.gradients(tables, hidden, y, size=7)
    rough = heads_on_cpu.gradients(tables, hidden, y, size=7, is_low=True)
    for one, other in zip(exact, rough, strict=True):
        assert other.dtype == torch.float32
        assert float((one - other).norm() / one.norm()) < 0.02
