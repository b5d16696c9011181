"""Experts cut into parts, each computed by one thread: the cut changes no number."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamoe_search.moe.experts import pool_forward
from dynamoe_search.moe.layouts import PoolLayout
from dynamoe_search.moe.threads import in_threads
from tests.oracles.experts import run_pool_slowly

WIDTH, TOKENS, SLOTS = 48, 64, 4  # large enough to be cut
Inputs = tuple[Tensor, ...]


@pytest.fixture(params=[1, 2, 3], ids="{} threads".format)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def draw(seed: int, num_experts: int, share: float) -> Inputs:
    """Tokens, gate, mask and pool of one candidate."""
    source = torch.Generator().manual_seed(seed)
    shapes = ((WIDTH, WIDTH), (WIDTH,), (WIDTH, WIDTH), (WIDTH,))
    pool = [torch.randn(num_experts, *shape, generator=source) for shape in shapes]
    chosen = torch.rand(TOKENS, SLOTS, generator=source) < share
    mask = chosen & (torch.arange(SLOTS) < num_experts)
    return (
        torch.randn(TOKENS, WIDTH, generator=source),
        torch.rand(TOKENS, SLOTS, generator=source),
        mask,
        *pool,
    )


def run(pack: list[Inputs]) -> list[dict[str, Tensor]]:
    """Output and gradients of every candidate of a pack."""
    tokens, gate, mask = (torch.stack([own[i] for own in pack]) for i in range(3))
    pool = [torch.cat([own[i] for own in pack]) for i in range(3, 7)]
    counts = [len(own[3]) for own in pack]
    layout = PoolLayout(counts)
    leaves = [tokens, gate, *pool]
    for leaf in leaves:
        leaf.requires_grad_()
    y = pool_forward(tokens, gate, mask, layout, "grouped", *pool)
    gradients = torch.autograd.grad(y.square().sum() + y.sum(), leaves)
    rows = [[*torch.split(x, counts)] for x in gradients[2:]]
    return [
        {
            "y": y[i].detach(),
            "tokens": gradients[0][i],
            "gate": gradients[1][i],
            **{name: rows[k][i] for k, name in enumerate(("w1", "b1", "w2", "b2"))},
        }
        for i in range(len(pack))
    ]


@pytest.mark.usefixtures("threads")
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    designs=st.lists(
        st.tuples(st.integers(1, SLOTS), st.sampled_from([0.0, 0.1, 0.5, 1.0])),
        min_size=2,
        max_size=7,
    )
)
def test_a_candidate_is_the_same_to_the_last_bit_in_any_pack(
    designs: list[tuple[int, float]],
) -> None:
    pack = [draw(seed, *design) for seed, design in enumerate(designs)]
    for own, together in zip(pack, run(pack), strict=True):
        alone = run([own, own])[0]
        assert all(torch.equal(together[name], alone[name]) for name in alone)


def test_the_number_of_threads_changes_no_bit() -> None:
    pack = [draw(seed, 1 + seed % SLOTS, 0.4) for seed in range(5)]
    before = torch.get_num_threads()
    found = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        found.append(run(pack))
    torch.set_num_threads(before)
    for other in found[1:]:
        for one, two in zip(found[0], other, strict=True):
            assert all(torch.equal(one[name], two[name]) for name in one)


def test_values_are_those_of_a_loop() -> None:
    pack = [draw(seed, 1 + seed % SLOTS, (0.5, 0.0, 0.9)[seed % 3]) for seed in range(4)]
    for own, found in zip(pack, run(pack), strict=True):
        exact = [x.double() if x.is_floating_point() else x for x in own]
        parts = [0, len(own[3])]
        slow = run_pool_slowly(exact[0][None], exact[1][None], exact[2][None], parts, *exact[3:])
        torch.testing.assert_close(found["y"].double(), slow[0], rtol=1e-4, atol=1e-4)


def test_what_fails_in_a_thread_is_raised_and_the_threads_go_on(threads: int) -> None:
    with pytest.raises(ZeroDivisionError):
        in_threads(lambda part: 1 // part, [1, 0, 2])
    assert in_threads(lambda part: 2 * part, [1, 0, 2]) == [2, 0, 4]
    assert torch.get_num_threads() == threads


def test_parts_compute_without_gradients() -> None:
    assert in_threads(lambda _: torch.is_grad_enabled(), [0, 1]) == [False, False]
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_inference_mode_holds_in_the_threads_too(threads: int) -> None:
    pack = [draw(seed, 1 + seed % SLOTS, 0.4) for seed in range(4)]
    tokens, gate, mask = (torch.stack([own[i] for own in pack]) for i in range(3))
    pool = [torch.cat([own[i] for own in pack]) for i in range(3, 7)]
    layout = PoolLayout([len(own[3]) for own in pack])
    expected = pool_forward(tokens, gate, mask, layout, "grouped", *pool)
    with torch.inference_mode():
        found = pool_forward(tokens, gate, mask, layout, "grouped", *pool)
    assert torch.equal(found, expected)
    assert in_threads(lambda _: torch.is_inference_mode_enabled(), [0, 1]) == [False, False]
    assert torch.get_num_threads() == threads
