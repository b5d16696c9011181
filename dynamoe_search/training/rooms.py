"""Room for pairs on a device that the host runs ahead of: how much there is, and what happens if it was too little.

A buffer that is large enough for all pairs that there can be is mostly idle where few experts are chosen. So its room
is learned: now and then the host asks how many pairs there were, and leaves a quarter more. Between two such looks a
buffer may overflow without anybody knowing. So each look keeps a copy of all that training changes, and if a buffer
overflowed, goes back to the last copy and makes the steps since then again, with room for everything. As a step depends
on its number alone, they come out as if there had always been room; nothing is read or stored before the look.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from dynamoe_search.moe.asynchrony import runs_ahead
from dynamoe_search.moe.layouts import PoolLayout
from dynamoe_search.training.states import TrainingCopy

if TYPE_CHECKING:
    from dynamoe_search.training.population import Population

_FIRST, _LONGEST = 4, 64  # steps from one look to the next
_SPARE = 1.25
_FULL = 0.9  # of a buffer: more room is left before it overflows
_WORTH_IT = 0.8  # of a buffer: fewer rows than that are worth new ones
_BLOCK = 256  # rows: a number that changes seldom


class Rooms:
    """The room of all buffers of a population's experts.

    Attributes:
        version: Changes whenever a buffer does.

    Args:
        population: In training.
        redo: Makes the population's next step.
    """

    def __init__(self, population: "Population", redo: Callable[[], object]) -> None:
        self._population, self._redo = population, redo
        self._since, self._interval = 0, _FIRST
        self._copy: TrainingCopy | None = None
        self.version = 0
        cohort = population.cohort
        self._layouts: list[PoolLayout] = []
        if runs_ahead(population.device) and cohort.mode == "vmap":
            self._layouts = [cohort.layout(layer) for layer in cohort.layers]

    def begin(self) -> None:
        """Told before the first step of an epoch."""
        self._remember()

    def after_step(self) -> None:
        """Told after every step; looks now and then."""
        self._since += 1
        if self._since >= self._interval:
            self._interval = min(2 * self._interval, _LONGEST)
            self.look()

    def look(self) -> None:
        """Asks the device whether all pairs of the steps since the last look had room, and sees to it that they had."""
        if self._since and self._overflowed(self._needed()):
            assert self._copy is not None
            until = self._population.batch
            self._copy.restore()
            self._set({})
            self._forget()
            self._interval = _FIRST
            while self._population.batch < until:
                self._redo()
        if self._since:
            self._since = 0
            self._learn(self._needed())
            self._remember()

    def _needed(self) -> dict[tuple[int, int], int]:
        """Returns the pairs of every part of every layer; this waits for the device."""
        noted = {
            (number, part): pairs
            for number, layout in enumerate(self._layouts)
            for part, pairs in layout.needed.items()
        }
        if not noted:
            return {}
        return dict(zip(noted, torch.stack([*noted.values()]).tolist(), strict=True))

    def _overflowed(self, needed: dict[tuple[int, int], int]) -> bool:
        return any(
            pairs > self._layouts[layer].rows.get(part, pairs)
            for (layer, part), pairs in needed.items()
        )

    def _learn(self, needed: dict[tuple[int, int], int]) -> None:
        """Changes the room where it is far from what is needed."""
        rows = {}
        for (layer, part), pairs in needed.items():
            known = self._layouts[layer].rows.get(part, self._layouts[layer].limits[part])
            wanted = -(-int(_SPARE * pairs + 1) // _BLOCK) * _BLOCK
            is_right = pairs <= _FULL * known and wanted >= _WORTH_IT * known
            wanted = known if is_right else wanted
            if wanted < self._layouts[layer].limits[part]:
                rows[layer, part] = wanted
        self._set(rows)
        self._forget()

    def _forget(self) -> None:
        for layout in self._layouts:
            layout.forget()

    def _set(self, rows: dict[tuple[int, int], int]) -> None:
        before = [dict(layout.rows) for layout in self._layouts]
        for number, layout in enumerate(self._layouts):
            layout.rows = {part: own for (layer, part), own in rows.items() if layer == number}
        self.version += before != [layout.rows for layout in self._layouts]

    def _remember(self) -> None:
        has_limits = any(layout.rows for layout in self._layouts)
        self._copy = TrainingCopy(self._population) if has_limits else None
