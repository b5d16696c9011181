"""How long a layer of experts takes, grouped and dense: measured once per machine and shape, and kept in a cache.

    CACHE/expert-backends/KEY.json     {"grouped": seconds, "dense": seconds}

KEY is a checksum of the shape, the processor or GPU, the threads and the versions. A file that is damaged is measured
anew; a folder that cannot be written costs a measurement per study, and nothing else.
"""

import logging
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from statistics import median

import torch
from pydantic import TypeAdapter, ValidationError

from dynamoe_search import __version__
from dynamoe_search.cached_texts import cache_folder
from dynamoe_search.data.token_cache import key_of
from dynamoe_search.moe.activations import Activation, inner_width
from dynamoe_search.moe.experts import Backend, pool_forward
from dynamoe_search.moe.layouts import PoolLayout
from dynamoe_search.training.durable_files import write_text

logger = logging.getLogger(__name__)

BACKENDS: tuple[Backend, ...] = ("grouped", "dense")
_SECONDS = 1.2  # for all shapes of a study
_LAP = 0.002  # seconds that are measured at a time, at least
_FEWEST, _MOST = 5, 25  # laps of each backend
_WORK = {
    "cpu": 2e9,
    "cuda": 1e12,
}  # multiplications of a pass with all experts: less is measured of larger layers
_NUMBERS = {"cpu": 2**25, "cuda": 2**29}  # in the largest tensor of such a pass
_FEWEST_TOKENS = 256
_TIMES = TypeAdapter(dict[Backend, float])


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerShape:
    """What the time of a layer of experts depends on, the machine apart."""

    candidates: int
    tokens: int  # of one candidate in one pass
    experts: int  # of one candidate
    d_model: int
    d_expert: int
    expert: Activation
    dtype: str  # `float32` or `bfloat16`
    share: float  # of the experts that a token chooses
    is_training: bool  # forwards and backwards, or forwards only as in an evaluation


def seconds_of(
    shape: LayerShape, device: str, num_threads: int, num_shapes: int = 1
) -> Mapping[Backend, float]:
    """Returns the seconds of a pass through one layer with either backend.

    Args:
        shape: The layer; less of it is measured if it is large.
        device: Where: `cpu`, `cuda:0`.
        num_threads: CPU threads of torch.
        num_shapes: How many are measured for one study; the time is divided among them.
    """
    shape = _cut(shape, device.partition(":")[0])
    path = cache_folder() / "expert-backends" / f"{_key(shape, device, num_threads)}.json"
    found = _read(path)
    if found is None:
        with _threads(num_threads):
            found = measure(shape, device, _SECONDS / num_shapes)
        found = _read(path) or found  # whoever was faster has the say
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, _TIMES.dump_json(found).decode())
    return found


def _cut(shape: LayerShape, kind: str) -> LayerShape:
    """Returns a shape of which a pass does not take long: fewer candidates, then fewer tokens."""

    def is_large(shape: LayerShape) -> bool:
        inner = inner_width(shape.d_expert, shape.expert)
        rows = shape.candidates * shape.experts * shape.tokens
        work = 3 * rows * shape.d_model * (inner + shape.d_expert)
        return work > _WORK[kind] or rows * max(inner, shape.d_model) > _NUMBERS[kind]

    while is_large(shape) and shape.candidates > 2:
        shape = replace(shape, candidates=max(2, shape.candidates // 2))
    while is_large(shape) and shape.tokens > _FEWEST_TOKENS:
        shape = replace(shape, tokens=max(_FEWEST_TOKENS, shape.tokens // 2))
    return shape


def _key(shape: LayerShape, device: str, num_threads: int) -> str:
    """Returns a checksum of all that the times depend on."""
    is_cpu = device == "cpu"
    return key_of(
        {
            **asdict(shape),
            "machine": _processor() if is_cpu else torch.cuda.get_device_name(device),
            "threads": num_threads,
            "torch": torch.__version__,
            "dynamoe_search": __version__,
        }
    )


@cache
def _processor() -> str:
    """Returns the name of the CPU, as exactly as the system tells it."""
    with suppress(OSError):
        for line in (
            Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        ):
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return f"{platform.machine()} {value.strip()}"
    return f"{platform.machine()} {platform.processor()}"


def _read(path: Path) -> dict[Backend, float] | None:
    """Returns what was measured before; None if nothing was, or the file is damaged."""
    try:
        found = _TIMES.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None
    is_whole = set(found) == set(BACKENDS) and all(
        math.isfinite(own) and own > 0 for own in found.values()
    )
    return found if is_whole else None


@contextmanager
def _threads(num: int) -> Iterator[None]:
    """Has torch compute with so many threads, below the `with`."""
    before = torch.get_num_threads()
    torch.set_num_threads(num)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(shape: LayerShape, device: str, seconds: float) -> dict[Backend, float]:
    """Times both backends in turn; what disturbs one then disturbs the other too.

    Args:
        shape: The layer, as it is.
        device: Where: `cpu`, `cuda:0`.
        seconds: How long to go on; a few passes are made in any case.

    Returns:
        The median seconds of a pass, by backend.
    """
    steps = {backend: _step(shape, device, backend) for backend in BACKENDS}
    end = time.perf_counter() + seconds
    for step in steps.values():
        step()  # warms up
    repeats = {backend: max(1, math.ceil(_LAP / _lap(step, 1))) for backend, step in steps.items()}
    laps: dict[Backend, list[float]] = {backend: [] for backend in BACKENDS}
    while (done := len(laps["dense"])) < _FEWEST or (done < _MOST and time.perf_counter() < end):
        for backend, step in steps.items():
            laps[backend].append(_lap(step, repeats[backend]))
    found = {backend: median(own) for backend, own in laps.items()}
    logger.info("a layer of %s takes %s seconds", shape, found)
    return found


def _lap(step: Callable[[], None], repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - begin) / repeats


def _step(shape: LayerShape, device: str, backend: Backend) -> Callable[[], None]:
    """Returns a pass through a layer of a pack, with experts chosen by chance."""
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, shape.dtype)
    pack, rows, experts = shape.candidates, shape.tokens, shape.experts
    inner = inner_width(shape.d_expert, shape.expert)

    def drawn(*size: int, dtype: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(device, dtype).requires_grad_()

    tokens = drawn(pack, rows, shape.d_model)
    gate = drawn(pack, rows, experts, dtype=torch.float32)
    mask = (torch.rand(pack, rows, experts, generator=generator) < shape.share).to(device)
    layout = PoolLayout([experts] * pack)
    pool = (
        drawn(pack * experts, shape.d_model, inner),
        drawn(pack * experts, inner),
        drawn(pack * experts, shape.d_expert, shape.d_model),
        drawn(pack * experts, shape.d_model),
    )
    upstream = torch.ones_like(tokens)

    def step() -> None:
        with torch.set_grad_enabled(shape.is_training):
            out = pool_forward(tokens, gate, mask, layout, backend, *pool)
        if shape.is_training:
            torch.autograd.grad(out, (tokens, gate, *pool), upstream)
        if device != "cpu":
            torch.cuda.synchronize(device)

    return step
