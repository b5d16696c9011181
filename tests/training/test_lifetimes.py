"""What is given up is freed at once: a GPU's memory does not wait for Python's garbage collector."""

import gc
import weakref
from collections.abc import Iterator

import pytest
import torch

from dynamoe_search.moe.asynchrony import running_ahead
from dynamoe_search.training.population import Population
from tests.training.populations import SETTINGS, digits, mixed_pack
from tests.training.texts import language_pack, text


@pytest.fixture(autouse=True)
def without_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def ahead() -> Iterator[None]:
    with running_ahead():
        yield


def population(backbone: str) -> Population:
    if backbone == "gpt":
        return Population(language_pack("gpt"), text(), SETTINGS)
    return Population(mixed_pack(backbone), digits(), SETTINGS)


@pytest.mark.usefixtures("ahead")
def test_a_population_is_freed_with_its_last_reference() -> None:
    trained = population("mlp")
    trained.train_epoch()
    trained.keep([1, 3, 12])
    trained.train_epoch()
    trained.evaluate()
    trained.states()
    known = [weakref.ref(own) for own in (trained, trained.cohort, trained.optimizer)]
    del trained
    assert [own() for own in known] == [None] * 3


@pytest.mark.usefixtures("ahead")
@pytest.mark.parametrize("backbone", ["mlp", "gpt"])
def test_nothing_of_a_step_outlives_it(backbone: str) -> None:
    """A CUDA graph cannot be recorded while the way back of an earlier step is there: it is on another stream."""
    trained = population(backbone)
    trained.cohort.train(True)
    data = trained.data.train
    results = trained.gradients(data.x[:8], data.y[:8])
    parameters = trained.cohort.parameters
    for tensor in parameters.values():
        _end_of_way(tensor).metadata["step"] = "this"
    del results
    assert not [name for name in parameters if _end_of_way(parameters[name]).metadata]


def _end_of_way(leaf: torch.Tensor) -> torch.autograd.graph.Node:
    """Returns the node at which gradients of a leaf arrive: a new one, if no way back leads there."""
    node: torch.autograd.graph.Node = torch.autograd.graph.get_gradient_edge(leaf).node
    return node
