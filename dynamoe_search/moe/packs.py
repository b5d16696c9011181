"""`RouterPack`: the routers of one layer of a whole pack, of any kinds, behind the interface of one router.

Legend: P candidates, T tokens, E slots (the widest candidate of the study).

Candidates whose routers have the same `signature()` form a group; their tensors are stacked and padded to E slots, and
the group runs on its slice of the pack: as it is, if its rule decides for a stack too (`Router.runs_stacked`), else
under its own inner `torch.func.vmap`. So routers with different parameters share one pack, and each router is written
once, as a module that need not know of candidates.
"""

from collections.abc import Hashable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from dynamoe_search.moe.asynchrony import sent
from dynamoe_search.moe.candidate_axis import with_candidate_axis
from dynamoe_search.moe.routers import ROUTERS
from dynamoe_search.moe.routing import Routing

_FIELDS = ("gate", "mask", "probs", "logits", "weight", "null_load")  # what a group returns


class RouterGroup:
    """Routers of equal signature within a pack.

    Attributes:
        members: Positions of the group's candidates in the pack, ascending.
        index: The same as a tensor.
        module: One of the routers; its own tensors are never read.
        names: Names of its parameters and buffers, in the order in which the pack passes them.
    """

    def __init__(self, members: Sequence[int], module: Any) -> None:
        self.members = tuple(members)
        self.index = torch.tensor(self.members)
        self.module = module
        self.names = tuple(
            name for name, _ in (*module.named_parameters(), *module.named_buffers())
        )
        self.has_ties = has_ties(module)
        # who inherits from a rule of ours may do something else
        self.is_stacked = type(module) in ROUTERS.values() and module.runs_stacked()

    def run(
        self, tokens: Tensor, is_open: Tensor, tensors: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        """Routes the group's tokens.

        Args:
            tokens: (members, tokens, d_model).
            is_open: (members, slots) bool.
            tensors: The group's stacked parameters and buffers, leading axis members.

        Returns:
            The fields of `Routing` that differ by candidate, and the new running state, leading axis members.
        """
        alone = len(self.members) == 1
        inputs = (tokens, is_open, *tensors)
        if alone:  # a batched product of one matrix may round differently from one of many
            inputs = tuple(torch.cat([x, x]) for x in inputs)
        fields, state = self._run_stacked(*inputs) if self.is_stacked else self._run_mapped(*inputs)
        if alone:
            fields = tuple(x[:1] for x in fields)
            state = {name: x[:1] for name, x in state.items()}
        return fields, state

    def _run_stacked(
        self, tokens: Tensor, is_open: Tensor, *tensors: Tensor
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        own = dict(zip(self.names, tensors, strict=True))
        spread = {
            name: tensor if tensor.dim() == 3 else tensor.view(len(tensor), 1, -1)
            for name, tensor in own.items()
        }
        routing: Routing = functional_call(
            self.module, spread, (tokens, is_open[:, None]), tie_weights=self.has_ties
        )
        routing = routing._replace(null_load=tokens.new_zeros(len(tokens)))
        state = {name: value.reshape(own[name].shape) for name, value in routing.state.items()}
        return tuple(getattr(routing, field) for field in _FIELDS), state

    def _run_mapped(self, *inputs: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        def one(tokens: Tensor, is_open: Tensor, *own: Tensor) -> tuple[Any, dict[str, Tensor]]:
            state = dict(zip(self.names, own, strict=True))
            routing: Routing = functional_call(
                self.module, state, (tokens, is_open), tie_weights=self.has_ties
            )
            if routing.null_load is None:
                routing = routing._replace(null_load=tokens.new_zeros(()))
            return tuple(getattr(routing, field) for field in _FIELDS), routing.state

        return vmap(one)(*inputs)


class RouterPack(nn.Module):
    """Stands where a single candidate's router stands in the module that a pack is run with.

    Its parameters and buffers are named `g<group>_<name>`, with dashes for the dots of a name, and have the group's
    members as leading axis; under vmap they are passed unbatched. New running state comes back in `Routing.state` under
    the same names, unbatched too.

    Args:
        routers: One router per candidate.
        num_slots: Width to which the expert axis of every tensor is padded with zeros.
    """

    def __init__(self, routers: Sequence[Any], num_slots: int) -> None:
        super().__init__()
        by_signature: dict[Hashable, list[int]] = {}
        for position, router in enumerate(routers):
            by_signature.setdefault((type(router), router.signature()), []).append(position)
        self.groups = {
            index: RouterGroup(members, deepcopy(routers[members[0]]))
            for index, members in enumerate(by_signature.values())
        }
        self._set_order()
        for index, group in self.groups.items():
            members = [routers[position] for position in group.members]
            self._stack(index, group, members, num_slots)

    def _set_order(self) -> None:
        order = [position for group in self.groups.values() for position in group.members]
        self._inverse = None if order == sorted(order) else torch.tensor(order).argsort()
        for group in self.groups.values():
            group.index = torch.tensor(group.members)

    def _move(self, device: torch.device) -> None:
        """Has the positions of members on the device where they are used; they are sent there once."""
        if self._inverse is not None:
            self._inverse = sent(self._inverse, device)
        for group in self.groups.values():
            group.index = sent(group.index, device)

    def _stack(self, index: int, group: RouterGroup, members: list[Any], num_slots: int) -> None:
        parameters = dict(group.module.named_parameters())
        for name in group.names:
            tensors = [
                member.get_parameter(name) if name in parameters else member.get_buffer(name)
                for member in members
            ]
            dim = members[0].expert_dims.get(name)
            if dim is not None:
                tensors = [pad_experts(tensor, dim, num_slots) for tensor in tensors]
            stacked = torch.stack([tensor.detach() for tensor in tensors])
            if name in parameters:
                self.register_parameter(_stacked_name(index, name), nn.Parameter(stacked))
            else:
                self.register_buffer(_stacked_name(index, name), stacked, persistent=False)

    def owners(self, name: str) -> tuple[int, ...]:
        """Returns the positions in the pack of the candidates along the leading axis of the tensor `name`."""
        return self.groups[int(name[1:].partition("_")[0])].members

    def keep(self, positions: Sequence[int]) -> None:
        """Forgets all candidates but those at `positions`; the stacked tensors are cut by whoever holds them."""
        for group in self.groups.values():
            group.members = tuple(new for new, old in enumerate(positions) if old in group.members)
        self.groups = {index: group for index, group in self.groups.items() if group.members}
        self._set_order()

    def plain(self, name: str, tensor: Tensor, num_slots: int) -> tuple[str, Tensor]:
        """Returns the name in a single router of a stacked tensor, and one candidate's row of it without padding."""
        group, _, short = name[1:].replace("-", ".").partition("_")
        dim = self.groups[int(group)].module.expert_dims.get(short)
        return short, tensor if dim is None else tensor.narrow(dim, 0, num_slots)

    def stack_state(self, states: Sequence[dict[str, Tensor]], num_slots: int) -> dict[str, Tensor]:
        """Returns running state of single routers, one per candidate, in the names and shapes of this pack."""
        stacked: dict[str, Tensor] = {}
        for index, group in self.groups.items():
            for name in states[group.members[0]]:
                own = [states[position][name] for position in group.members]
                dim = group.module.expert_dims.get(name)
                if dim is not None:
                    own = [pad_experts(tensor, dim, num_slots) for tensor in own]
                stacked[_stacked_name(index, name)] = torch.stack(own)
        return stacked

    def train(self, mode: bool = True) -> "RouterPack":
        """Sets training or evaluation mode on the groups' routers too."""
        super().train(mode)
        for group in self.groups.values():
            group.module.train(mode)
        return self

    def forward(self, tokens: Tensor, is_open: Tensor) -> Routing:
        """Routes the pack (P, T, d_model), or under vmap one candidate's view of it (T, d_model)."""
        if tokens.dim() == 3:
            # a node of their own: what routers give back to the tokens is added up before anything is added to it
            fields, states = self.route(tokens.view_as(tokens), is_open)
        else:
            outputs = _Route.apply(self, tokens, is_open)  # type: ignore[no-untyped-call]
            fields, states = outputs[: len(_FIELDS)], outputs[len(_FIELDS) :]
        return Routing(
            **dict(zip(_FIELDS, fields, strict=True)),
            is_open=is_open,
            unrouted=torch.zeros_like(tokens[..., 0, :]),
            state=dict(zip(self.state_names, states, strict=True)),
        )

    state_names: tuple[str, ...] = ()  # set by the rule, which is the first to know what came back

    def route(
        self, tokens: Tensor, is_open: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Runs every group on its slice and puts the pack together again, (P, ...) each; see `forward`."""
        parts: list[tuple[Tensor, ...]] = []
        states: dict[str, Tensor] = {}
        self._move(tokens.device)
        for index, group in self.groups.items():
            own = [getattr(self, _stacked_name(index, name)) for name in group.names]
            if len(self.groups) == 1:
                fields, state = group.run(tokens, is_open, own)
            else:
                fields, state = group.run(
                    tokens.index_select(0, group.index), is_open.index_select(0, group.index), own
                )
            parts.append(fields)
            states |= {_stacked_name(index, name): value for name, value in state.items()}
        self.state_names = tuple(states)
        whole = tuple(
            torch.cat(pieces) if len(pieces) > 1 else pieces[0]
            for pieces in zip(*parts, strict=True)
        )
        if self._inverse is not None:
            whole = tuple(field.index_select(0, self._inverse) for field in whole)
        return whole, tuple(states.values())


def _stacked_name(group: int, name: str) -> str:
    return f"g{group}_{name.replace('.', '-')}"  # torch allows no dots in the name of a tensor


def has_ties(module: nn.Module) -> bool:
    """Tells whether a tensor of `module` has more than one name, which costs `functional_call` a search."""
    tensors = [
        tensor
        for named in (module.named_parameters, module.named_buffers)
        for _, tensor in named(remove_duplicate=False)
    ]
    return len({id(tensor) for tensor in tensors}) < len(tensors)


def pad_experts(tensor: Tensor, dim: int, num_slots: int) -> Tensor:
    """Returns `tensor` with zeros appended along its expert axis `dim` up to `num_slots`."""
    shape = list(tensor.shape)
    shape[dim] = num_slots - shape[dim]
    return torch.cat([tensor, tensor.new_zeros(shape)], dim)


class _Route(torch.autograd.Function):
    """Reached only under vmap; its rule sees the whole pack and differentiates through plain autograd."""

    @staticmethod
    def forward(*inputs: Any) -> Tensor:
        raise AssertionError("a router pack is only called under vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise AssertionError("a router pack is only called under vmap")

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[int | None, ...],
        pack: RouterPack,
        tokens: Tensor,
        is_open: Tensor,
    ) -> tuple[tuple[Tensor, ...], tuple[int | None, ...]]:
        tokens = with_candidate_axis(tokens, in_dims[1], info.batch_size)
        is_open = with_candidate_axis(is_open, in_dims[2], info.batch_size)
        fields, states = pack.route(tokens, is_open)
        # a router may hand back its own tensor, and torch would take an output that is an input for unbatched
        outputs = tuple(output.view_as(output) for output in (*fields, *states))
        return outputs, (0,) * len(fields) + (None,) * len(states)
