"""What all candidates share: the order of examples, their augmentation, and the loss they are trained on."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from dynamoe_search.training.batches import augment, epoch_order
from dynamoe_search.training.evaluation import cross_entropy
from dynamoe_search.training.population import Population
from dynamoe_search.training.states import circumstances
from tests.training.populations import SETTINGS
from tests.training.texts import language_pack, text


def test_every_epoch_visits_every_example_once_in_an_order_of_its_own() -> None:
    orders = {(seed, epoch): epoch_order(50, seed, epoch) for seed in (0, 1) for epoch in range(3)}
    for (seed, epoch), order in orders.items():
        assert order.sort().values.tolist() == list(range(50))
        assert torch.equal(order, epoch_order(50, seed, epoch))
    assert len({tuple(order.tolist()) for order in orders.values()}) == 6


@given(num=st.integers(1, 40), share=st.floats(0, 1), seed=st.integers(0, 9))
def test_epochs_of_a_part_take_turns_until_every_example_was_visited(
    num: int, share: float, seed: int
) -> None:
    size = max(1, round(share * num))
    epochs = [epoch_order(num, seed, epoch, size) for epoch in range(2 * num)]
    assert {len(order) for order in epochs} == {size}
    passes = torch.cat(epochs)[: 2 * num].view(2, num)
    for number, visited in enumerate(passes):
        assert torch.equal(visited, epoch_order(num, seed, number))


def test_a_short_epoch_has_fewer_steps() -> None:
    pack = language_pack("mlp-lm")[:2]
    data = text(num_train=60)
    short, longer = replace(data, epoch_size=20), replace(data, epoch_size=61)
    steps = [Population(pack, some, SETTINGS).num_steps for some in (data, longer, short)]
    assert steps == [2, 2, 1]  # of 48 sequences
    facts = [circumstances(some, SETTINGS) for some in (data, longer, short)]
    assert facts[0] == facts[1] != facts[2]  # a checkpoint of one goes on only where it began


def test_images_are_only_shifted_and_mirrored() -> None:
    x = torch.rand(64, 3, 16, 24) + 1  # nowhere 0, so that the border is known
    y = augment(x, 5, 3)
    assert y.shape == x.shape
    assert y.is_contiguous()
    seen = set()
    for old, new in zip(x, y, strict=True):
        fits = [
            (down, right, flip)
            for down in range(-2, 3)
            for right in range(-3, 4)
            for flip in (False, True)
            if torch.equal(new, shifted_slowly(old, down, right, flip=flip))
        ]
        assert len(fits) == 1
        seen.add(fits[0])
    assert {down for down, _, _ in seen} == set(range(-2, 3))
    assert {right for _, right, _ in seen} == set(range(-3, 4))
    assert {flip for *_, flip in seen} == {False, True}


def shifted_slowly(image: torch.Tensor, down: int, right: int, *, flip: bool) -> torch.Tensor:
    _, height, width = image.shape
    wide = torch.zeros(3, height + 4, width + 6)
    wide[:, 2:-2, 3:-3] = image
    out = wide[:, 2 + down : 2 + down + height, 3 + right : 3 + right + width]
    return out.flip(2) if flip else out


def test_grey_images_are_not_mirrored() -> None:
    x = torch.arange(1.0, 65.0).view(1, 1, 8, 8).repeat(40, 1, 1, 1)
    y = augment(x, 0, 0)
    rows = y[:, 0, 4, 2:6]
    assert bool((rows.diff(dim=1) > 0).all())


def test_augmentation_depends_on_seed_and_step_alone() -> None:
    x = torch.rand(16, 3, 8, 8)
    assert torch.equal(augment(x, 1, 2), augment(x, 1, 2))
    assert not torch.equal(augment(x, 1, 2), augment(x, 1, 3))
    assert not torch.equal(augment(x, 1, 2), augment(x, 2, 2))


@pytest.mark.parametrize("num_classes", [5, 40])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_cross_entropy_is_torchs_for_every_candidate(smoothing: float, num_classes: int) -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 9, num_classes, requires_grad=True)
    y = torch.randint(num_classes, (9,))
    ours = cross_entropy(logits, y, smoothing)
    assert ours.shape == (3, 9)
    for own, rows in zip(ours, logits, strict=True):
        expected = F.cross_entropy(rows, y, label_smoothing=smoothing, reduction="none")
        torch.testing.assert_close(own, expected)
    assert cross_entropy(logits.bfloat16(), y).dtype == torch.float32
