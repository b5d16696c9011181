"""A cohort whose module vmap refuses: one plain module after the other, with the results of a pack."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

from dynamoe_search.errors import UsageError
from dynamoe_search.moe.packs import pad_experts
from dynamoe_search.moe.routing import Routing

if TYPE_CHECKING:
    from dynamoe_search.training.cohort import Cohort


def run_one_by_one(cohort: "Cohort", x: Tensor) -> tuple[Tensor, list[Routing]]:
    """Returns what `Cohort.forward` would return.

    Args:
        cohort: Its `loop_seeds` are the seeds of each module's own random draws, as in `nn.Dropout`.
        x: (batch, ...) examples.

    Raises:
        UsageError: if a module does not return one `Routing` per MoE layer.
    """
    outputs = []
    devices = [cohort.device] if cohort.device.type == "cuda" else []
    for position in range(cohort.num_candidates):
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(cohort.loop_seeds[position])
            model = cohort.models[position].train(cohort.template.training)
            outputs.append(functional_call(model, cohort.single(position), (x,)))
        if len(outputs[-1][1]) != len(cohort.layers):
            raise UsageError(
                f"a backbone must return one routing for each of its {len(cohort.layers)} MoE layers, "
                f"got {len(outputs[-1][1])}"
            )
    routings = [
        _stack_routings(cohort, index, [output[1][index] for output in outputs])
        for index in range(len(cohort.layers))
    ]
    return torch.stack([output[0] for output in outputs]), routings


def _stack_routings(cohort: "Cohort", index: int, own: Sequence[Routing]) -> Routing:
    """Puts the plain routings of one layer into the shape of a pack's."""

    def stack(field: str, dim: int | None) -> Tensor:
        tensors = [getattr(routing, field) for routing in own]
        if dim is not None:
            tensors = [pad_experts(tensor, dim, cohort.num_slots) for tensor in tensors]
        return torch.stack(tensors)

    nothing = torch.zeros((), device=cohort.device)
    null_loads = [nothing if one.null_load is None else one.null_load for one in own]
    pack: Any = cohort.template.get_submodule(f"{cohort.layers[index].path}router")
    return Routing(
        gate=stack("gate", 1),
        mask=stack("mask", 1),
        probs=stack("probs", 1),
        logits=stack("logits", 1),
        weight=stack("weight", 0),
        is_open=stack("is_open", 0),
        unrouted=stack("unrouted", None),
        null_load=torch.stack(null_loads),
        state=pack.stack_state([routing.state for routing in own], cohort.num_slots),
    )
