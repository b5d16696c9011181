"""Experts added and removed while a cohort trains; the rules themselves are in `moe.adaptive`."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dynamoe_search.moe.adaptive import SlotUpdate, is_recording, is_update_due, update_slots
from dynamoe_search.moe.asynchrony import runs_ahead, sent
from dynamoe_search.moe.randomness import hashed, normal
from dynamoe_search.moe.routing import Chosen
from dynamoe_search.records import Candidate
from dynamoe_search.seeding import derive_seed
from dynamoe_search.training.cohort import Cohort, Layer
from dynamoe_search.training.optimizers import StackedAdamW
from dynamoe_search.training.settings import Events

_Note = tuple[int, list[int], Tensor]  # step, positions, open experts (positions of all, layers)
_History = list[list[tuple[int, tuple[int, ...]]]]
Memory = tuple[tuple[str, ...], tuple[_Note, ...], _History]


class Adaptation:
    """What was routed where since recording began, for every member of a cohort, and what follows from it.

    Args:
        candidates: One per position of the cohort, ghosts included.
        cohort: Its `is_open` buffers, router rows and thresholds are changed in place.
        optimizer: Moments of a fresh expert are forgotten; all others persist, as published.
    """

    def __init__(
        self, candidates: Sequence[Candidate], cohort: Cohort, optimizer: StackedAdamW
    ) -> None:
        self.candidates = list(candidates)
        self.cohort = cohort
        self.optimizer = optimizer
        num, slots = cohort.num_candidates, cohort.num_slots
        self.is_active = any(candidate.adaptive is not None for candidate in candidates)
        for layer in cohort.layers:
            for model in (cohort.template, *cohort.models):
                own: Any = model.get_submodule(layer.path.removesuffix("."))
                own.sums_unrouted = self.is_active
        self.routed: dict[str, Tensor] = {}
        self.unrouted: dict[str, Tensor] = {}
        if self.is_active:
            for layer in cohort.layers:
                self.routed[layer.path] = torch.zeros(num, slots, device=cohort.device)
        self.history: _History = [[] for _ in candidates]
        self._noted: list[_Note] = []  # not yet read from the device
        self._sent: dict[tuple[bool, ...], Tensor] = {}
        if self.is_active:
            self._note(0, range(num))

    def after_step(self, step: int, chosen: Sequence[Chosen]) -> None:
        """Records a training step and makes the updates that are due.

        Args:
            step: Number of the step that is over; 1 is the first.
            chosen: One per layer, from this step's forward pass.
        """
        if not self.is_active:
            return
        settings = [candidate.adaptive for candidate in self.candidates]
        recording = [own is not None and is_recording(step, own) for own in settings]
        due = [own is not None and is_update_due(step, own) for own in settings]
        if any(recording):
            self._record(self._flags(recording), chosen)
        if any(due):
            self._update(step, due)

    def _flags(self, flags: Sequence[bool]) -> Tensor:
        """Returns one bool per member on the device, where it is sent once."""
        key = tuple(flags)
        if key not in self._sent:
            self._sent[key] = sent(torch.tensor(key), self.cohort.device)
        return self._sent[key]

    @torch.no_grad()
    def _record(self, recording: Tensor, chosen: Sequence[Chosen]) -> None:
        for layer, own in zip(self.cohort.layers, chosen, strict=True):
            counts = own.mask.sum(1) * recording[:, None]  # (P, slots)
            self.routed[layer.path] += counts
            alone = torch.where(recording[:, None], own.unrouted, 0.0)  # (P, d_model)
            known = self.unrouted.get(layer.path)
            # added to 0 too, so that the sign of a zero does not depend on who else records
            self.unrouted[layer.path] = alone + (0.0 if known is None else known)

    @torch.no_grad()
    def _update(self, step: int, due: list[bool]) -> None:
        settings = [candidate.adaptive for candidate in self.candidates]
        add = self._flags([own is not None and own.add for own in settings])
        remove = self._flags([own is not None and own.remove for own in settings])
        is_due = self._flags(due)
        for layer in self.cohort.layers:
            name = layer.path + "is_open"
            layout = self.cohort.layout(layer)
            exists = layout.places(self.cohort.num_slots, self.cohort.device).exists
            update = update_slots(
                self.cohort.buffers[name],
                exists,
                self.routed[layer.path],
                self.unrouted[layer.path],
                add=add,
                remove=remove,
                due=is_due,
            )
            self.cohort.buffers[name].copy_(update.is_open)
            self._open(layer, update)
            self._draw_experts(layer, update, step, due)
            self.routed[layer.path] *= ~is_due[:, None]
            self.unrouted[layer.path] = torch.where(is_due[:, None], 0.0, self.unrouted[layer.path])
        self._note(step, [position for position, now in enumerate(due) if now])

    def _open(self, layer: Layer, update: SlotUpdate) -> None:
        """Writes the router rows and thresholds of opened slots."""
        prefix = f"{layer.path}router."
        news = {f"{prefix}weight": update.router_row, f"{prefix}threshold": update.threshold}
        for name, tensor in self.cohort.parameters.items():
            kind = self.cohort.single_name(name)
            if kind not in news:
                continue
            owner = self.cohort.owner[name]  # (members of a group,)
            slot = update.opened.index_select(0, owner)
            row = torch.arange(len(owner), device=owner.device)
            new, old = news[kind].index_select(0, owner), tensor[row, slot.clamp(min=0)]
            is_opened = (slot >= 0).view(-1, *(1,) * (old.dim() - 1))
            tensor[row, slot.clamp(min=0)] = torch.where(is_opened, new, old)

    def _draw_experts(
        self, layer: Layer, update: SlotUpdate, step: int, due: Sequence[bool]
    ) -> None:
        """Gives opened slots experts with fresh weights and no optimiser history, where that is asked for."""
        fresh = [
            position
            for position, own in enumerate(self.candidates)
            if due[position] and own.adaptive is not None and own.adaptive.new_expert == "fresh"
        ]
        if not fresh:
            return
        if runs_ahead(self.cohort.device):
            for position in fresh:
                self._draw_ahead(layer, update.opened[position : position + 1], position, step)
            return
        opened = update.opened.tolist()
        for position in fresh:
            if opened[position] >= 0:
                self._draw_expert(layer, position, opened[position], step)

    def _draw_expert(self, layer: Layer, position: int, slot: int, step: int) -> None:
        own = self.candidates[position]
        row = self.cohort.layout(layer).start[position] + slot
        seed = derive_seed(own.study_seed, own.ordinal, "fresh-expert", layer.path, slot, step)
        generator = torch.Generator().manual_seed(seed)
        for name in layer.pools:
            pool = self.cohort.parameters[name]
            shape = pool.shape[1:]
            fresh = torch.zeros(shape)
            if len(shape) == 2:  # a matrix (inputs, outputs); biases start at 0
                fresh = torch.randn(shape, generator=generator) / shape[0] ** 0.5
            pool[row] = fresh.to(pool.device)
            self.optimizer.restart_rows(name, torch.tensor([row]), torch.tensor([True]))

    def _draw_ahead(self, layer: Layer, slot: Tensor, position: int, step: int) -> None:
        """The same where nobody knows which slot (1,) was opened, or whether one was (-1)."""
        own = self.candidates[position]
        row = self.cohort.layout(layer).start[position] + slot.clamp(min=0)
        for name in layer.pools:
            pool = self.cohort.parameters[name]
            seed = derive_seed(own.study_seed, own.ordinal, "fresh-expert", name, step)
            fresh = torch.zeros(1, *pool.shape[1:], device=pool.device)
            if pool.dim() == 3:
                stream = hashed(slot, seed)[0]
                fresh = normal(stream, tuple(pool.shape[1:]), pool.device)[None]
                fresh = fresh / pool.shape[1] ** 0.5
            is_opened = slot >= 0  # (1,)
            where = is_opened.view(-1, *(1,) * (pool.dim() - 1))
            pool.index_copy_(0, row, torch.where(where, fresh, pool.index_select(0, row)))
            self.optimizer.restart_rows(name, row, is_opened)

    def _note(self, step: int, positions: Sequence[int]) -> None:
        """Notes the open experts per layer of the adaptive candidates at these positions; `_tell` reads them."""
        counts = [
            self.cohort.buffers[layer.path + "is_open"].sum(1) for layer in self.cohort.layers
        ]
        adaptive = [own for own in positions if self.candidates[own].adaptive is not None]
        self._noted.append((step, adaptive, torch.stack(counts, 1)))

    def _tell(self) -> None:
        """Appends what was noted to the history."""
        for step, positions, counts in self._noted:
            own = counts.tolist()
            for position in positions:
                self.history[position].append((step, tuple(own[position])))
        self._noted.clear()

    def events(self, position: int) -> Events:
        """Returns (step, open experts per layer) at the start and after every update; empty if not adaptive."""
        self._tell()
        return tuple(self.history[position])

    def set_events(self, events: Sequence[Events]) -> None:
        """Puts what `events` returned for every candidate in place; a ghost has the first one's."""
        self._noted.clear()
        self.history = [
            list(events[position if position < len(events) else 0])
            for position in range(len(self.candidates))
        ]

    def remembered(self) -> Memory:
        """Returns what is not in a tensor, for `recall`."""
        return tuple(self.unrouted), tuple(self._noted), [list(own) for own in self.history]

    def recall(self, memory: Memory) -> None:
        """Goes back to what `remembered` returned; the tensors are the caller's."""
        paths, noted, history = memory
        self.unrouted = {path: self.unrouted[path] for path in paths}
        self._noted, self.history = list(noted), [list(own) for own in history]

    def keep(self, positions: Sequence[int]) -> None:
        """Goes on with the members at these positions of the cohort."""
        self._tell()
        self._sent.clear()
        index = torch.tensor(list(positions), device=self.cohort.device)
        self.routed = {path: tensor[index] for path, tensor in self.routed.items()}
        self.unrouted = {path: tensor[index] for path, tensor in self.unrouted.items()}
        self.candidates = [self.candidates[position] for position in positions]
        self.history = [list(self.history[position]) for position in positions]
        self.is_active = any(candidate.adaptive is not None for candidate in self.candidates)
