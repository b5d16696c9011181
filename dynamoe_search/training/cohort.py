"""`Cohort`: many models as one set of stacked tensors, and back.

Every model is an ordinary module. A cohort stacks what is alike and lays experts side by side, and runs one template
module over it with `torch.func.vmap`, or without where that is the same (`moe.stacked`). Legend: P candidates, G =
experts of one layer over all candidates.

    tensor                      leading axis            in vmap
    expert pools                G                       shared by all (the experts' own rule sees the pack)
    router tensors              members of a group      shared by all (the routers' own rule sees the pack)
    everything else             P                       mapped

A cohort never has fewer than two members, because a batched product of one matrix may round differently from one of
many: a single candidate is accompanied by a copy of itself, a ghost, that is never reported.
"""

import re
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from dynamoe_search.moe.asynchrony import runs_ahead
from dynamoe_search.moe.backbones.language import Body, LanguageModel
from dynamoe_search.moe.layer import MoELayer
from dynamoe_search.moe.layouts import PoolLayout
from dynamoe_search.moe.packs import RouterPack, has_ties, pad_experts
from dynamoe_search.moe.randomness import Dropout
from dynamoe_search.moe.routing import Chosen, Routing
from dynamoe_search.moe.stacked import stack
from dynamoe_search.training.freed_memory import keep_freed_memory
from dynamoe_search.training.one_by_one import run_one_by_one

Mode = Literal["vmap", "loop"]
_STACKED: Any = Routing(**dict.fromkeys(Routing._fields, 0) | {"state": None})  # type: ignore[arg-type]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """Where one MoE layer lies in the template."""

    path: str  # "layers.0."
    pools: tuple[str, ...]  # names of the expert tensors


class Cohort:
    """The stacked tensors of a pack of candidates.

    Attributes:
        parameters: Trainable tensors by name, see the table above for their leading axes.
        buffers: All other tensors by name.
        owner: For every name, which candidate (position) each row of the leading axis belongs to.
        mode: `vmap`, or `loop` if the module cannot be vmapped; then `note` says why.

    Args:
        models: One module per candidate; equal but for expert counts and routers.
        num_slots: Widest layer of the whole study: expert axes are padded to it, so that results do not depend on
            which candidates share a pack.
        device: Where the stacked tensors live.
        backend: How experts are computed, see `moe.experts`.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        num_slots: int,
        device: torch.device,
        backend: str = "grouped",
    ) -> None:
        self.num_candidates = len(models)
        self.num_slots = num_slots
        self.models = list(models)  # plain modules; from here on only names and shapes are read
        self.template = deepcopy(models[0])
        self.mode: Mode = "vmap"
        self.note: str | None = None
        self.parameters: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        self.owner: dict[str, Tensor] = {}
        self.layers: list[Layer] = []
        self.slots: dict[str, Tensor] = {}  # layer path -> (P,) experts that exist
        self.loop_seeds = [0] * len(models)  # of the plain modules' own randomness, for mode `loop`
        self._find_layers(models, backend)
        self._is_stacked = stack(self.template)
        self.has_ties = has_ties(self.template)
        self._stack(models)
        self._move(device)

    def _find_layers(self, models: Sequence[nn.Module], backend: str) -> None:
        for path, layer in list(self.template.named_modules()):
            if isinstance(layer, Dropout):
                own = [model.get_submodule(path) for model in models]
                layer.is_active = any(dropout.is_active for dropout in own)
            if not isinstance(layer, MoELayer):
                continue
            prefix = f"{path}." if path else ""
            experts = f"{prefix}experts."
            pools = tuple(experts + name for name, _ in layer.experts.named_parameters())
            self.layers.append(Layer(path=prefix, pools=pools))
            layer.router = RouterPack(
                [model.get_submodule(f"{prefix}router") for model in models], self.num_slots
            )
            layer.experts.backend = backend  # type: ignore[assignment]
            for model in models:
                model.get_submodule(f"{prefix}experts").backend = backend  # type: ignore[assignment]
            counts = [model.get_parameter(pools[0]).shape[0] for model in models]
            self.slots[prefix] = torch.tensor(counts)
            most = [model.get_submodule(f"{prefix}router").most_chosen() for model in models]  # type: ignore[operator]
            layer.experts.layout = PoolLayout(counts, most)

    def _stack(self, models: Sequence[nn.Module]) -> None:
        pools = {name: layer for layer in self.layers for name in layer.pools}
        opens = {layer.path + "is_open" for layer in self.layers}
        everyone = torch.arange(self.num_candidates)
        for name, tensor in (*self.template.named_parameters(), *self.template.named_buffers()):
            kind = self.parameters if isinstance(tensor, nn.Parameter) else self.buffers
            router = self._router_of(name)
            if router is not None:
                pack, stacked = router
                kind[name] = tensor.detach().clone()
                self.owner[name] = torch.tensor(pack.owners(stacked))
                continue
            own = [_tensor(model, name).detach() for model in models]
            if name in pools:
                kind[name] = torch.cat(own)
                self.owner[name] = everyone.repeat_interleave(self.slots[pools[name].path])
                continue
            if name in opens:
                own = [pad_experts(tensor, 0, self.num_slots) for tensor in own]
            kind[name] = torch.stack(own)
            self.owner[name] = everyone

    def _router_of(self, name: str) -> tuple[RouterPack, str] | None:
        """Returns the router pack that a tensor belongs to, and the tensor's name in it."""
        for layer in self.layers:
            if name.startswith(f"{layer.path}router."):
                pack: Any = self.template.get_submodule(f"{layer.path}router")
                return pack, name.removeprefix(f"{layer.path}router.")
        return None

    def layout(self, layer: Layer) -> PoolLayout:
        """Returns where the experts of a layer lie in their pool."""
        experts: Any = self.template.get_submodule(f"{layer.path}experts")
        layout: PoolLayout = experts.layout
        return layout

    def _move(self, device: torch.device) -> None:
        self.device = device
        if device.type == "cpu":
            keep_freed_memory()
        for name, tensor in self.parameters.items():
            self.parameters[name] = tensor.to(device).requires_grad_()
        for name, tensor in self.buffers.items():
            if not _is_stream(name) or runs_ahead(device):  # else seeds are read on the CPU
                self.buffers[name] = tensor.to(device)
        self.owner = {name: owner.to(device) for name, owner in self.owner.items()}

    def _shared(self) -> list[str]:
        """Names of the tensors that are not mapped over candidates: what experts and routers see as a whole."""
        shared = {name for layer in self.layers for name in layer.pools}
        routers = tuple(f"{layer.path}router." for layer in self.layers)
        names = (*self.parameters, *self.buffers)
        return [name for name in names if name in shared or name.startswith(routers)]

    @property
    def seeds(self) -> list[str]:
        """Names of all buffers that hold seeds; they are set anew before every pass."""
        return [name for name in self.buffers if _is_stream(name)]

    @property
    def streams(self) -> list[str]:
        """Names of the buffers that seed random draws in the next `forward`."""
        quiet = {
            f"{path}.stream"
            for path, module in self.template.named_modules()
            if isinstance(module, Dropout) and not module.is_active
        }
        return [name for name in self.seeds if name not in quiet]

    @property
    def changing_buffers(self) -> list[str]:
        """Names of the buffers that training changes: open experts, and the routers' own."""
        opens = {layer.path + "is_open" for layer in self.layers}
        routers = tuple(f"{layer.path}router." for layer in self.layers)
        return [
            name
            for name in self.buffers
            if name in opens or (name.startswith(routers) and not _is_stream(name))
        ]

    def single_name(self, name: str) -> str:
        """Returns the name that a stacked tensor has in a single model, which does not depend on company."""
        for layer in self.layers:
            prefix = f"{layer.path}router."
            if name.startswith(prefix):
                short = re.sub(r"^g\d+_", "", name.removeprefix(prefix))
                return prefix + short.replace("-", ".")
        return name

    def train(self, mode: bool) -> None:
        """Sets training or evaluation mode for the next `forward`."""
        self.template.train(mode)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Routing]]:
        """Runs every candidate on the same examples.

        Args:
            x: (batch, ...) examples.

        Returns:
            The logits (P, batch, classes) and one `Routing` per MoE layer, each tensor with a leading candidates axis,
            except the routers' running state, which keeps the leading axis of its router group.
        """
        if self.mode == "loop":
            return run_one_by_one(self, x)
        return self._run(self.template, "", x)

    @property
    def head(self) -> str | None:
        """Name of the table with which language models of ours write; None if `forward` is the only way to logits."""
        template = self.template
        if self.mode == "loop" or not isinstance(template, LanguageModel):
            return None
        return template.vocabulary_tables[-1]

    def hidden(self, x: Tensor) -> tuple[Tensor, list[Routing]]:
        """Runs language models of ours up to their heads; the logits are `hidden @ parameters[head].mT`.

        Args:
            x: (batch, tokens) int64.

        Returns:
            What the heads read (P, batch, tokens, d_model), and the routings, see `forward`.
        """
        assert isinstance(self.template, LanguageModel)
        return self._run(Body(self.template), "model.", x)

    def _run(self, module: nn.Module, prefix: str, x: Tensor) -> tuple[Tensor, list[Routing]]:
        """Calls a module for every candidate; its tensors have the names of the template's behind `prefix`."""
        tensors = {**self.parameters, **self.buffers}
        if self._is_stacked:
            return functional_call(module, tensors, (x,), tie_weights=self.has_ties)  # type: ignore[no-any-return]
        shared = {name: tensors.pop(name) for name in self._shared() if name in tensors}
        shared = {prefix + name: tensor for name, tensor in shared.items()}
        names = tuple(prefix + name for name in tensors)

        def one(x: Tensor, *own: Tensor) -> Any:
            state = shared | dict(zip(names, own, strict=True))
            return functional_call(module, state, (x,), tie_weights=self.has_ties)

        run = vmap(one, out_dims=(0, [_STACKED] * len(self.layers)))  # type: ignore[arg-type]
        return run(x.expand(self.num_candidates, *x.shape), *tensors.values())  # type: ignore[no-any-return]

    def keep(self, positions: Sequence[int]) -> dict[str, Tensor]:
        """Cuts the cohort down to the candidates at `positions` (repeats allowed, order kept).

        Returns:
            For every tensor that is left, which rows of its former leading axis were kept: whoever holds tensors of the
            same layout, such as an optimiser, selects the same rows.
        """
        rows: dict[str, Tensor] = {}
        owners: dict[str, Tensor] = {}
        for name, owner in self.owner.items():
            kept = [(owner == position).nonzero().squeeze(1) for position in positions]
            rows[name] = torch.cat(kept)
            sizes = torch.tensor([len(part) for part in kept], device=self.device)
            owners[name] = torch.arange(len(positions), device=self.device).repeat_interleave(sizes)
        for tensors in (self.parameters, self.buffers):
            for name in [name for name in tensors if name in rows]:
                if len(rows[name]) == 0:
                    del tensors[name]
                    continue
                old = tensors[name].detach()
                tensors[name] = old.index_select(0, rows[name].to(old.device))
                tensors[name].requires_grad_(tensors is self.parameters)
        rows = {name: index for name, index in rows.items() if len(index)}
        self.owner = {name: owners[name] for name in rows}
        chosen = torch.tensor(list(positions))
        self.slots = {path: counts[chosen] for path, counts in self.slots.items()}
        self.models = [self.models[position] for position in positions]
        self.loop_seeds = [0] * len(positions)
        self.num_candidates = len(positions)
        self._keep_in_layers(positions)
        return rows

    def _keep_in_layers(self, positions: Sequence[int]) -> None:
        for layer in self.layers:
            experts: Any = self.template.get_submodule(f"{layer.path}experts")
            experts.layout = experts.layout.kept(positions)
            self.template.get_submodule(f"{layer.path}router").keep(positions)  # type: ignore[operator]

    def apply_state(self, chosen: Sequence[Chosen]) -> None:
        """Puts the routers' new running state, as `forward` returned it in training, in place of the old."""
        for layer, own in zip(self.layers, chosen, strict=True):
            for short, value in own.state.items():
                name = f"{layer.path}router.{short}"
                if runs_ahead(self.device):
                    self.buffers[name].copy_(value)  # a recorded step looks for it there
                else:
                    self.buffers[name] = value

    def single(self, position: int) -> dict[str, Tensor]:
        """Returns all tensors of the plain module of one candidate, without padding, still in the autograd graph."""
        state: dict[str, Tensor] = {}
        for name, tensor in (*self.parameters.items(), *self.buffers.items()):
            if name not in self.owner:
                continue
            rows = (self.owner[name] == position).nonzero().squeeze(1)
            if len(rows):
                own = tensor.index_select(0, rows.to(tensor.device))
                plain, value = self._plain(name, own, position)
                state[plain] = value
        return state

    def _plain(self, name: str, own: Tensor, position: int) -> tuple[str, Tensor]:
        """Returns name and value that a stacked tensor's rows have in the plain module."""
        router = self._router_of(name)
        for layer in self.layers:
            slots = int(self.slots[layer.path][position])
            if name in layer.pools:
                return name, own
            if name == layer.path + "is_open":
                return name, own[0, :slots]
            if router is not None and name.startswith(f"{layer.path}router."):
                short, tensor = router[0].plain(router[1], own[0], slots)
                return f"{layer.path}router.{short}", tensor
        return name, own[0]

    def unstack(self, position: int) -> dict[str, Tensor]:
        """Returns the `state_dict` of the plain module of one candidate, on the CPU."""
        own = self.single(position)
        first: dict[int, str] = {}  # a tensor that has two names is stacked under its first
        return {
            name: own[first.setdefault(id(tensor), name)].detach().cpu().clone()
            for name, tensor in self.models[position].state_dict(keep_vars=True).items()
        }


def _is_stream(name: str) -> bool:
    """Tells whether a stacked tensor holds seeds: `stream` in the plain module, or `g0_stream` of a router."""
    return re.search(r"(^|[._-])stream$", name) is not None


def _tensor(model: nn.Module, name: str) -> Tensor:
    path, _, leaf = name.rpartition(".")
    tensor: Tensor = getattr(model.get_submodule(path), leaf)
    return tensor
