"""What must hold on a CUDA device. Skipped without one; `benchmarks/gpu.sh` runs it, and keeps what is logged."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

import pytest
import torch

from dynamoe_search.data import describe
from dynamoe_search.moe.experts import pool_forward
from dynamoe_search.moe.layouts import PoolLayout
from dynamoe_search.records import Candidate
from dynamoe_search.search.estimate import largest_design
from dynamoe_search.search.fitting import fitting_cohort
from dynamoe_search.search.space import Space
from dynamoe_search.specs import StudySpec
from dynamoe_search.specs.vocabulary import ROUTER_KINDS
from dynamoe_search.training import TrainSettings
from dynamoe_search.training.graphs import record_on_cuda
from dynamoe_search.training.population import Population
from tests.training.host_reads import NoWaiting, assert_dtypes
from tests.training.populations import (
    ADAPTIVE,
    NUM_SLOTS,
    candidate,
    digits,
    mixed_pack,
    train_population,
)
from tests.training.texts import language_pack, text

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
    pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS, but there was no current CUDA"),
]
logger = logging.getLogger(__name__)
SETTINGS = TrainSettings(num_slots=NUM_SLOTS, device="cuda")
STEPS = 50


def with_precision(pack: list[Candidate], precision: str) -> list[Candidate]:
    return [
        replace(one, train=replace(one.train, precision=precision, learning_rate=1e-3))
        for one in pack
    ]


def wide(pack: list[Candidate]) -> list[Candidate]:
    """Widths in bf16 must be multiples of 8, else there is no grouped product."""
    return [replace(one, model=replace(one.model, d_expert=16)) for one in pack]


def losses(pack: list[Candidate], device: str = "cuda") -> torch.Tensor:
    """Task losses (steps, candidates) over the first steps of training."""
    population = Population(pack, digits(), replace(SETTINGS, device=device))
    population.cohort.train(True)
    data = population.data.train
    batches = ((data.x[i : i + 48], data.y[i : i + 48]) for i in range(0, 150, 3))
    steps = [population._train_step(x, y).cpu() for x, y in islice(batches, STEPS)]
    return torch.stack(steps)[:, : len(pack)]


@pytest.mark.parametrize("backbone", ["mlp", "vit"])
def test_company_changes_losses_by_less_than_a_hundred_thousandth_in_fp32(backbone: str) -> None:
    pack = with_precision(mixed_pack(backbone), "fp32")
    whole = losses(pack)
    for company in ([4, 12], [1, 7, 8]):
        part = losses([pack[i] for i in company])
        difference = float((part - whole[:, company]).abs().max())
        logger.info("%s in fp32: company changes losses by %.1e", backbone, difference)
        torch.testing.assert_close(part, whole[:, company], rtol=0, atol=1e-5)


def test_bf16_trains_every_router_close_to_fp32() -> None:
    low, full = (losses(with_precision(mixed_pack(), name)) for name in ("bf16", "fp32"))
    assert low.isfinite().all()
    difference = float((low[-10:].mean(0) - full[-10:].mean(0)).abs().max())
    logger.info("bf16 ends with losses that differ from fp32 by %.4f at most", difference)
    assert difference < 0.1


def test_every_product_of_a_step_is_in_its_dtype() -> None:
    population = Population(wide(with_precision(mixed_pack(), "auto")), digits(), SETTINGS)
    population.cohort.train(True)
    data = population.data.train
    population._train_step(data.x[:48], data.y[:48])  # sends what does not change
    with NoWaiting(calls=False) as watched:
        population.gradients(data.x[:48], data.y[:48])
    assert_dtypes(watched.products, torch.bfloat16, 8 * len(population.cohort.layers))
    with population._autocast():
        _, routings = population.cohort.forward(data.x[:8])
    for routing in routings:
        for field in ("gate", "probs", "logits"):
            assert getattr(routing, field).dtype == torch.float32


@pytest.fixture
def no_waiting() -> Iterator[Callable[[str], None]]:
    """Switches torch's own watch over synchronisation, which is off again afterwards."""
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["auto", "fp32"])
@pytest.mark.parametrize("kind", [*ROUTER_KINDS, "all of them"])
def test_no_step_waits_for_the_device(
    kind: str, precision: str, no_waiting: Callable[[str], None]
) -> None:
    pack = (
        [candidate(i, kind, (2 + i, 4), dropout=0.1) for i in range(2)]
        if kind in ROUTER_KINDS
        else mixed_pack()
    )
    population = Population(with_precision(wide(pack), precision), digits(), SETTINGS)
    population._steps.record = None  # recording a graph waits, once
    population.cohort.train(True)
    data = population.data.train
    population._train_step(data.x[:48], data.y[:48])  # sends what does not change
    no_waiting("error")
    for begin in range(1, 2 * ADAPTIVE.period):
        population._train_step(data.x[begin : begin + 48], data.y[begin : begin + 48])
    no_waiting("default")
    assert population.is_finite.all()


@pytest.mark.parametrize("backbone", ["vit", "gpt"])
def test_nor_does_a_step_of_a_network_with_attention(
    backbone: str, no_waiting: Callable[[str], None]
) -> None:
    is_text = backbone == "gpt"
    pack = wide(language_pack("gpt") if is_text else mixed_pack("vit"))
    population = Population(pack, text() if is_text else digits(), SETTINGS)
    population._steps.record = None
    population.cohort.train(True)
    data = population.data.train
    population._train_step(data.x[:12], data.y[:12])
    no_waiting("error")
    for begin in range(1, ADAPTIVE.period):
        population._train_step(data.x[begin : begin + 12], data.y[begin : begin + 12])
    no_waiting("default")
    assert population.is_finite.all()


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "counts", [[3, 1, 4], [8] * 150], ids=["few", "more than one product takes"]
)
def test_grouped_products_in_bf16_are_those_of_a_loop_in_fp64(
    counts: list[int], share: float
) -> None:
    source = torch.Generator().manual_seed(0)
    num, total = len(counts), sum(counts)
    shapes = [(num, 9, 16), (num, 9, 8), (total, 16, 32), (total, 32), (total, 32, 16), (total, 16)]
    drawn = [torch.randn(shape, generator=source).bfloat16() for shape in shapes]
    mask = torch.rand(num, 9, 8, generator=source) < share
    mask &= torch.arange(8) < torch.tensor(counts)[:, None, None]
    found = []
    for device, dtype in (("cuda", torch.bfloat16), ("cpu", torch.float64)):
        leaves = [leaf.to(device, dtype).requires_grad_() for leaf in drawn]
        layout = PoolLayout(counts)
        y = pool_forward(
            leaves[0],
            leaves[1].float() if device == "cuda" else leaves[1],
            mask.to(device),
            layout,
            "grouped",
            *leaves[2:],
        )
        gradients = torch.autograd.grad((y.square() + y).sum(), leaves)
        found.append([y.detach(), *gradients])
    for name, low, exact in zip(("y", "x", "gate", "w1", "b1", "w2", "b2"), *found, strict=True):
        scale = max(1.0, float(exact.abs().max()))
        error = float((low.cpu().double() - exact).abs().max()) / scale
        logger.info("%s in bf16, %d experts: within %.4f of fp64", name, total, error)
        assert error < 0.02


@pytest.mark.parametrize(
    ("backbone", "precision"), [("mlp", "auto"), ("mlp", "fp32"), ("vit", "auto"), ("gpt", "auto")]
)
def test_recorded_steps_come_to_what_steps_come_to(backbone: str, precision: str) -> None:
    is_text = backbone == "gpt"
    pack = [
        replace(one, train=replace(one.train, batch_size=5 if is_text else 16))
        for one in with_precision(
            wide(language_pack("gpt") if is_text else mixed_pack(backbone)), precision
        )
    ]
    data = text() if is_text else digits()
    plain, recorded = (Population(pack, data, SETTINGS) for _ in range(2))
    plain._steps.record = None
    for population in (plain, recorded):
        population.train_epoch()
        population.train_epoch()
    replays, all_steps = recorded._steps.num_replays, recorded.step
    logger.info("%s, %s: %d of %d steps replayed", backbone, precision, replays, all_steps)
    assert recorded._steps.refusal is None
    assert recorded._steps.num_replays > 0
    torch.testing.assert_close(recorded.train_loss, plain.train_loss, rtol=0, atol=0.02)


def test_a_recording_that_fails_leaves_nothing_open() -> None:
    here, x = torch.cuda.current_stream(), torch.ones(3, device="cuda")

    def reads() -> None:
        x.sum().item()

    def adds() -> None:
        x.add_(1)

    with pytest.raises(RuntimeError):
        record_on_cuda(reads)
    assert torch.cuda.current_stream() == here
    assert torch.rand(3, device="cuda").isfinite().all()
    record_on_cuda(adds).replay()
    assert x.tolist() == [2.0, 2.0, 2.0]


def test_room_that_was_too_little_is_found() -> None:
    pack = with_precision(wide(mixed_pack()), "auto")
    plain, tight = (Population(pack, digits(), SETTINGS) for _ in range(2))
    for layer in tight.cohort.layers:
        tight.cohort.layout(layer).rows = {0: 40}
    plain.train_epoch()
    tight.train_epoch()
    torch.testing.assert_close(tight.train_loss, plain.train_loss, rtol=0, atol=0.02)


def test_a_cohort_that_does_not_fit_is_lowered_and_said_so(
    tiny_spec: Callable[..., StudySpec],
) -> None:
    small = tiny_spec(search={"cohort_size": 64})
    large = tiny_spec(
        model={"d_model": 4096, "d_expert": 4096, "num_layers": 4}, search={"cohort_size": 1024}
    )
    for spec, is_lowered in ((small, False), (large, True)):
        info = describe(spec.data)
        size, note = fitting_cohort(spec, largest_design(Space(spec), info), info, "cuda:0")
        logger.info("%d of %d candidates fit", size, spec.search.cohort_size)
        assert (size < spec.search.cohort_size) == is_lowered == (note is not None)


def test_a_study_on_the_device_ends_like_one_on_the_cpu() -> None:
    pack = with_precision(mixed_pack()[:12], "fp32")
    gpu = train_population(pack, digits(), SETTINGS)
    cpu = train_population(pack, digits(), replace(SETTINGS, device="cpu"))
    for one, other in zip(gpu, cpu, strict=True):
        assert one.outcome.status == "complete"
        assert one.outcome.metrics["total_params"] == other.outcome.metrics["total_params"]
        assert abs(one.outcome.metrics["accuracy"] - other.outcome.metrics["accuracy"]) < 0.15
