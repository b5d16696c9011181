"""The grouped product of all experts of a pack in buffers of fixed size, for devices that the host runs ahead of.

Legend: P candidates, T tokens, E slots (the widest candidate of the study), G = sum of the candidates' experts in this
layer, room = rows of a buffer of (token, expert) pairs, which are ordered by candidate, expert, token.

How many pairs there are is known to the device alone. So a buffer has room for as many as there can be, the ends of the
experts' pairs stay on the device, and rows behind the last pair are *idle*: a grouped product neither reads nor writes
them. What they hold may be anything, not-a-number too, and never reaches a result: idle rows are set to 0 before rows
are added up. They point at tokens spread over the pack, so that they do not all wait for the same address. Nor does
every device write the gradient of an expert without a pair (Blackwell does not, pytorch issue 172439): it is set to 0.

Where far fewer pairs are chosen than there can be, whoever trains may lower the room (`PoolLayout.rows`). Pairs without
room are left out, and what came out is wrong: `PoolLayout.needed` tells, and the step must be made again.

A pack with more experts than one grouped product takes is cut into parts of whole candidates, see `PoolLayout.runs`.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamoe_search.moe.activations import activate, activation_gradient
from dynamoe_search.moe.layouts import MOST_GROUPS, PoolLayout

_ALIKE = 8  # rows of ones: a matrix of one row is nothing that a grouped product takes


class Buffer(NamedTuple):
    """The pairs of a part of the pack, a run of neighbouring candidates; experts and tokens count from its first."""

    rows: Tensor  # (room,) token of the pair, among those of the part
    group: Tensor  # (room,) expert of the pair
    ends: Tensor  # (experts,) int32, where each expert's pairs end
    gate: Tensor  # (room,) place of the pair's weight in the flattened gate of the pack, or behind it if idle
    idle: Tensor  # (room, 1) bool, rows behind the last pair
    empty: Tensor  # (experts, 1, 1) bool, who has no pair
    tokens: slice  # where the part's tokens lie among those of the pack
    experts: slice  # where its experts lie in the pool


def fixed_experts(
    tokens: Tensor,
    gate: Tensor,
    mask: Tensor,
    layout: PoolLayout,
    *pool: Tensor,
    most_groups: int = MOST_GROUPS,
) -> Tensor:
    """Returns the gate-weighted sums of the chosen experts' outputs, float32; see `moe.experts.pool_forward`.

    Args:
        tokens: (candidates, tokens, d_model).
        gate: (candidates, tokens, slots).
        mask: (candidates, tokens, slots) bool.
        layout: Where the experts lie.
        pool: w1, b1, w2, b2 of all experts.
        most_groups: Experts that one grouped product takes.
    """
    runs = layout.runs(most_groups)
    buffers = [_buffer(mask, layout, number, *run) for number, run in enumerate(runs)]
    return _FixedExperts.apply(  # type: ignore[no-any-return, no-untyped-call]
        tokens.contiguous(), gate.contiguous(), buffers, *pool
    )


def _buffer(mask: Tensor, layout: PoolLayout, part: int, begin: int, end: int) -> Buffer:
    """Lists the pairs of a part, the candidates [begin, end), without asking how many there are."""
    num_tokens, num_slots = mask.shape[1:]
    places = layout.places(num_slots, mask.device)
    experts = slice(layout.start[begin], layout.start[end])
    owner, slot = places.owner[experts], places.slot[experts]
    by_slot = mask.transpose(1, 2).reshape(-1, num_tokens)  # (P * E, T)
    chosen = by_slot.index_select(0, owner * num_slots + slot)  # (experts, T)
    counted = chosen.reshape(-1).cumsum(0)  # pairs up to here, this one included
    limit = max(1, num_tokens * sum(layout.most[begin:end]))
    room = min(limit, layout.rows.get(part, limit))
    if torch.is_grad_enabled():
        layout.note(part, limit, counted[-1])
    number = torch.arange(room, device=mask.device)
    pair = torch.searchsorted(counted, number + 1)  # behind the last one if idle
    idle = pair == len(counted)
    pair = torch.where(idle, number, pair)
    group = pair.div(num_tokens, rounding_mode="floor")
    token = pair - group * num_tokens
    candidate = owner.index_select(0, group)
    place = (candidate * num_tokens + token) * num_slots + slot.index_select(0, group)
    ends = counted.view(-1, num_tokens)[:, -1].clamp(max=room).to(torch.int32)
    return Buffer(
        rows=(candidate - begin) * num_tokens + token,
        group=group,
        ends=ends,
        gate=torch.where(idle, mask.numel() + number, place),
        idle=idle[:, None],
        empty=(ends.diff(prepend=ends.new_zeros(1)) == 0)[:, None, None],
        tokens=slice(begin * num_tokens, end * num_tokens),
        experts=experts,
    )


class _FixedExperts(torch.autograd.Function):
    """Grouped products over buffers; what is added up is added up in float32, whatever is multiplied.

    The gate's gradient is <upstream, expert output> per pair, computed from the hidden activations so that no expert
    output has to be kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        gate: Tensor,
        buffers: list[Buffer],
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
    ) -> Tensor:
        flat, weights = tokens.flatten(0, 1), gate.flatten().float()
        weights = torch.cat([weights, weights.new_zeros(max(len(part.rows) for part in buffers))])
        out = torch.zeros(flat.shape, dtype=torch.float32, device=flat.device)
        kept = []
        for part in buffers:
            own = part.experts
            x = flat[part.tokens].index_select(0, part.rows)  # (room, d_model)
            u = F.grouped_mm(x, w1[own], offs=part.ends)  # (room, inner)
            u.add_(b1[own].index_select(0, part.group))
            y = F.grouped_mm(activate(u, w2.shape[1]), w2[own], offs=part.ends)
            y.add_(b2[own].index_select(0, part.group))
            weight = weights.index_select(0, part.gate)
            shares = (y * weight[:, None]).masked_fill_(part.idle, 0.0)
            out[part.tokens].index_add_(0, part.rows, shares)
            kept += [u, weight]
        ctx.buffers, ctx.gate_shape, ctx.gate_dtype = buffers, gate.shape, gate.dtype
        ctx.save_for_backward(flat, w1, b1, w2, b2, *kept)
        return out.view(tokens.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        flat, w1, _, w2, b2, *kept = ctx.saved_tensors
        upstream = gradients[0].flatten(0, 1).to(flat.dtype)
        dx = torch.zeros(flat.shape, dtype=torch.float32, device=flat.device)
        num_gates = ctx.gate_shape.numel()
        dgate = dx.new_zeros(num_gates + max(len(part.rows) for part in ctx.buffers))
        pools: list[tuple[Tensor, ...]] = []
        for number, part in enumerate(ctx.buffers):
            u, weight = kept[2 * number : 2 * number + 2]
            own = part.experts
            d = upstream[part.tokens].index_select(0, part.rows)  # (room, d_model)
            da = F.grouped_mm(d, w2[own].transpose(1, 2), offs=part.ends)  # (room, d_expert)
            a = activate(u, w2.shape[1])
            dweight = (b2[own].index_select(0, part.group) * d).sum(1, dtype=torch.float32)
            dweight += (a * da).sum(1, dtype=torch.float32)
            dgate.index_copy_(0, part.gate, dweight)  # of idle rows, behind all gates
            scale = weight.to(d.dtype)[:, None]
            d.mul_(scale)
            du = activation_gradient(da.mul_(scale), u)
            x = flat[part.tokens].index_select(0, part.rows)
            pools.append(
                (_products(x, du, part), _sums(du, part), _products(a, d, part), _sums(d, part))
            )
            back = F.grouped_mm(du, w1[own].transpose(1, 2), offs=part.ends)
            back = back.float().masked_fill_(part.idle, 0.0)
            dx[part.tokens].index_add_(0, part.rows, back)
        whole = pools[0] if len(pools) == 1 else map(torch.cat, zip(*pools, strict=True))
        return (
            dx.to(flat.dtype).view(gradients[0].shape),
            dgate[:num_gates].view(ctx.gate_shape).to(ctx.gate_dtype),
            None,
            *whole,
        )


def _products(left: Tensor, right: Tensor, part: Buffer) -> Tensor:
    """Returns left.T @ right of each expert's rows, (experts, left width, right width)."""
    return F.grouped_mm(left.t(), right, offs=part.ends).masked_fill_(part.empty, 0.0)


def _sums(rows: Tensor, part: Buffer) -> Tensor:
    """Returns the sums (experts, width) of each expert's rows, as a product with ones: no idle row enters one."""
    return _products(rows.new_ones(len(rows), _ALIKE), rows, part)[:, 0].contiguous()
