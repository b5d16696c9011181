"""Whether a cohort runs under vmap or one candidate after the other."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from dynamoe_search.moe.backbones import BACKBONES
from dynamoe_search.moe.layer import MoELayer
from dynamoe_search.training.cohort import Cohort
from dynamoe_search.training.failures import is_out_of_memory

_taken: set[Hashable] = set()
"""What vmap has taken in this process, so that packs of the same networks are not tried again for every leg."""


def choose_mode(cohort: Cohort, models: Sequence[nn.Module], x: Tensor) -> None:
    """Tries passes over a few examples and falls back to one candidate at a time if vmap refuses the module.

    Our own backbones are tried once for each router. A user's own code is always tried: nobody knows on what else it
    depends whether vmap takes it.

    Args:
        cohort: Its mode and note are set; the running state is left as it was.
        models: Its candidates as plain modules.
        x: (batch, ...) at least one example.
    """
    kinds = _kinds(cohort, models)
    if kinds and kinds <= _taken:
        return
    # logits are large, and what makes them is a product that nothing refuses
    run = cohort.forward if cohort.head is None else cohort.hidden
    try:
        for mode in (False, True):
            cohort.train(mode)
            with torch.no_grad():
                run(x)
    except (RuntimeError, ValueError) as error:
        if is_out_of_memory(error):
            raise
        cohort.mode = "loop"
        cohort.note = str(error).strip().partition("\n")[0][:200]
    else:
        _taken.update(kinds)


def _kinds(cohort: Cohort, models: Sequence[nn.Module]) -> set[Hashable]:
    """Returns what decides for each router of our own backbones whether vmap takes it; nothing for others."""
    if type(models[0]) not in BACKBONES.values():
        return set()
    how = (type(models[0]), cohort.device.type, cohort.num_slots)
    return {
        (*how, type(layer.router), layer.router.signature(), layer.experts.backend)
        for model in models
        for layer in model.modules()
        if isinstance(layer, MoELayer)
    }
