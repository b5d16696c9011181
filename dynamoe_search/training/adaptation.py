"""Experts added and removed while a cohort trains; the rules themselves are in `moe.adaptive`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dynamoe_search.moe.adaptive import SlotUpdate, is_recording, is_update_due, update_slots
from dynamoe_search.moe.routing import Routing
from dynamoe_search.records import Candidate
from dynamoe_search.seeding import derive_seed
from dynamoe_search.training.cohort import Cohort, Layer
from dynamoe_search.training.optimizers import StackedAdamW
from dynamoe_search.training.settings import Events


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
        self.routed: dict[str, Tensor] = {}
        self.unrouted: dict[str, Tensor] = {}
        if self.is_active:
            for layer in cohort.layers:
                self.routed[layer.path] = torch.zeros(num, slots, device=cohort.device)
        self.history: list[list[tuple[int, tuple[int, ...]]]] = [[] for _ in candidates]
        if self.is_active:
            self._note(0, range(num))

    def after_step(self, step: int, routings: Sequence[Routing]) -> None:
        """Records a training step and makes the updates that are due.

        Args:
            step: Number of the step that is over; 1 is the first.
            routings: One per layer, leading axis candidates, from this step's forward pass.
        """
        if not self.is_active:
            return
        settings = [candidate.adaptive for candidate in self.candidates]
        recording = [own is not None and is_recording(step, own) for own in settings]
        due = [own is not None and is_update_due(step, own) for own in settings]
        if any(recording):
            self._record(torch.tensor(recording, device=self.cohort.device), routings)
        if any(due):
            self._update(step, due)

    @torch.no_grad()
    def _record(self, recording: Tensor, routings: Sequence[Routing]) -> None:
        for layer, routing in zip(self.cohort.layers, routings, strict=True):
            counts = routing.mask.sum(1) * recording[:, None]  # (P, slots)
            self.routed[layer.path] += counts
            alone = torch.where(recording[:, None], routing.unrouted, 0.0)  # (P, d_model)
            known = self.unrouted.get(layer.path)
            # added to 0 too, so that the sign of a zero does not depend on who else records
            self.unrouted[layer.path] = alone + (0.0 if known is None else known)

    @torch.no_grad()
    def _update(self, step: int, due: list[bool]) -> None:
        device = self.cohort.device
        settings = [candidate.adaptive for candidate in self.candidates]
        add = torch.tensor([own is not None and own.add for own in settings], device=device)
        remove = torch.tensor([own is not None and own.remove for own in settings], device=device)
        is_due = torch.tensor(due, device=device)
        for layer in self.cohort.layers:
            name = layer.path + "is_open"
            slots = torch.arange(self.cohort.num_slots, device=device)
            exists = slots < self.cohort.slots[layer.path].to(device)[:, None]
            update = update_slots(
                self.cohort.buffers[name],
                exists,
                self.routed[layer.path],
                self.unrouted[layer.path],
                add=add,
                remove=remove,
                due=is_due,
            )
            self.cohort.buffers[name] = update.is_open
            self._open(layer, update, step)
            self.routed[layer.path] *= ~is_due[:, None]
            self.unrouted[layer.path] = torch.where(is_due[:, None], 0.0, self.unrouted[layer.path])
        self._note(step, [position for position, now in enumerate(due) if now])

    def _open(self, layer: Layer, update: SlotUpdate, step: int) -> None:
        """Writes the router rows and thresholds of opened slots, and draws their experts anew where asked for."""
        prefix = f"{layer.path}router."
        for position, slot in enumerate(update.opened.tolist()):
            if slot < 0:
                continue
            for name, tensor in self.cohort.parameters.items():
                if not name.startswith(prefix):
                    continue
                rows = (self.cohort.owner[name] == position).nonzero().squeeze(1).tolist()
                for row in rows:
                    if name.endswith("_weight"):
                        tensor[row, slot] = update.router_row[position]
                    elif name.endswith("_threshold"):
                        tensor[row, slot] = update.threshold[position]
            own = self.candidates[position]
            if own.adaptive is not None and own.adaptive.new_expert == "fresh":
                self._draw_expert(layer, position, slot, step)

    def _draw_expert(self, layer: Layer, position: int, slot: int, step: int) -> None:
        """Gives an opened slot an expert with fresh weights and no optimiser history."""
        own = self.candidates[position]
        row = int(self.cohort.buffers[layer.start][position]) + slot
        seed = derive_seed(own.study_seed, own.ordinal, "fresh-expert", layer.path, slot, step)
        generator = torch.Generator().manual_seed(seed)
        for name in layer.pools:
            pool = self.cohort.parameters[name]
            shape = pool.shape[1:]
            fresh = torch.zeros(shape)
            if len(shape) == 2:  # a matrix (inputs, outputs); biases start at 0
                fresh = torch.randn(shape, generator=generator) / shape[0] ** 0.5
            pool[row] = fresh.to(pool.device)
            self.optimizer.restart_row(name, row)

    def _note(self, step: int, positions: Sequence[int]) -> None:
        """Appends the open experts per layer to the history of the adaptive candidates at these positions."""
        counts = [
            self.cohort.buffers[layer.path + "is_open"].sum(1).tolist()
            for layer in self.cohort.layers
        ]
        for position in positions:
            if self.candidates[position].adaptive is not None:
                self.history[position].append((step, tuple(own[position] for own in counts)))

    def events(self, position: int) -> Events:
        """Returns (step, open experts per layer) at the start and after every update; empty if not adaptive."""
        return tuple(self.history[position])

    def set_events(self, events: Sequence[Events]) -> None:
        """Puts what `events` returned for every candidate in place; a ghost has the first one's."""
        self.history = [
            list(events[position if position < len(events) else 0])
            for position in range(len(self.candidates))
        ]

    def keep(self, positions: Sequence[int]) -> None:
        """Goes on with the members at these positions of the cohort."""
        index = torch.tensor(list(positions), device=self.cohort.device)
        self.routed = {path: tensor[index] for path, tensor in self.routed.items()}
        self.unrouted = {path: tensor[index] for path, tensor in self.unrouted.items()}
        self.candidates = [self.candidates[position] for position in positions]
        self.history = [list(self.history[position]) for position in positions]
        self.is_active = any(candidate.adaptive is not None for candidate in self.candidates)
