"""Work on the CPU that is cut into parts, each computed by one thread alone.

Small tensors gain nothing from several threads inside of one operation, which meet after each of them. Parts of a pack
have nothing to do with each other, so every thread takes the next part as soon as it is through with the last.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


@cache
def _threads(num: int) -> ThreadPoolExecutor:
    """Threads in each of which torch computes alone."""

    def begin() -> None:
        torch.get_num_threads()  # what a thread has set counts from its first question on
        torch.set_num_threads(1)

    return ThreadPoolExecutor(num, "parts", initializer=begin)


def in_threads(compute: Callable[[Part], Result], parts: Sequence[Part]) -> list[Result]:
    """Returns `compute` of every part, in order, each computed by one thread, without gradients.

    Under `torch.inference_mode`, which every thread has of its own, the parts are computed in it too. If one raises,
    so does this, once nobody computes any more: what the others hold is free then, and they change nothing later.
    """
    num, is_inference = torch.get_num_threads(), torch.is_inference_mode_enabled()

    if num == 1:
        with torch.inference_mode(is_inference), torch.no_grad():
            return [compute(part) for part in parts]

    def alone(part: Part) -> Result:
        with torch.inference_mode(is_inference), torch.no_grad():
            return compute(part)

    futures = [_threads(num).submit(alone, part) for part in parts]
    try:
        return [future.result() for future in futures]
    finally:
        for future in futures:
            future.cancel()  # those that have not begun
        wait(futures)
        torch.set_num_threads(num)  # new threads of others take over what was set last


@contextmanager
def one_thread(*, only_if: bool = True) -> Iterator[None]:
    """Has torch compute with one thread, or, if not wanted, with those it has."""
    num = torch.get_num_threads()
    if not only_if or num == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num)
