"""The grouped product of all experts of a pack, computed part by part, with a backward of its own.

Legend: P candidates, T tokens, E slots (the widest candidate of the study), G = sum of the candidates' experts in this
layer, pairs = number of (token, expert) assignments, ordered by candidate, expert, token.

A part is a run of neighbouring candidates. On the CPU a part is small enough for what lies between its products to stay
in the cache, and parts are computed by as many threads as torch has, each of them alone on its part. No pair, and no
sum, crosses from one candidate to another, so how a pack is cut into parts changes no number.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamoe_search.moe.activations import activate, activation_gradient
from dynamoe_search.moe.layouts import PoolLayout
from dynamoe_search.moe.threads import Part, Result, in_threads

_PART = 2**18  # numbers in a (pairs, width) tensor of a part: a megabyte in fp32
_PART_ALONE = 2**21  # where one thread computes all parts: fewer calls are worth more than a cache
_KEPT = 2**22  # numbers in the tokens of all pairs, up to which they are kept for backward
_FEWEST = 6  # the number of rows is a multiple of 2 to this power, at least
_WORTH_CUTTING = 2**17  # multiplications of one candidate's tokens with one expert's matrix


class Pairs(NamedTuple):
    """Who computes for whom in a part of the pack; the part counts its tokens, pairs and experts from 0.

    Behind the pairs there are idle rows, a few in a hundred, up to a round number of all: memory that was freed is then
    of the size that is asked for next, and torch prepares GELU for every number of rows anew. Grouped products leave
    idle rows out, so what they hold may be anything, and is never added to anything. They point at the first token,
    expert and weight.
    """

    number: int  # of pairs
    rows: Tensor  # (pairs and idle,) token of the pair
    group: Tensor  # (pairs and idle,) expert of the pair
    ends: Tensor  # (experts,) int32, where each expert's pairs end
    gate: Tensor  # (pairs and idle,) place of the pair's weight in the flattened gate
    tokens: slice  # where the part's tokens lie among those of the pack
    experts: slice  # where its experts lie among those of the pack


def grouped_experts(
    tokens: Tensor, gate: Tensor, mask: Tensor, layout: PoolLayout, *pool: Tensor
) -> Tensor:
    """Returns the gate-weighted sums of the chosen experts' outputs; see `moe.experts.pool_forward`."""
    parts = _pairs(mask, layout, *pool[0].shape[1:])
    return _GroupedExperts.apply(  # type: ignore[no-any-return, no-untyped-call]
        tokens.contiguous(), gate.contiguous(), mask, layout, parts, *pool
    )


def _pairs(mask: Tensor, layout: PoolLayout, width: int, hidden: int) -> list[Pairs]:
    """Returns the pairs of a pack, part by part; parts without a pair are left out.

    Args:
        mask: (candidates, tokens, slots) bool; slots that a candidate lacks count as False.
        layout: Where each candidate's experts lie in the pool.
        width: Width of the tokens.
        hidden: Width of what the first layer of an expert gives.
    """
    num_candidates, num_tokens, num_slots = mask.shape
    by_slot = mask.transpose(1, 2)  # (candidates, slots, tokens)
    if not layout.is_full(num_slots):
        by_slot = by_slot & layout.places(num_slots, mask.device).exists[..., None]
    flat = by_slot.reshape(-1).nonzero().squeeze(1)  # pairs
    number, walk = len(flat), layout.walk(num_slots, num_tokens, mask.device)
    ends = torch.searchsorted(flat, walk.ends, out_int32=True)  # (G,)
    runs, first = [(0, num_candidates)], [0]
    if _is_cut(mask, width, hidden):
        most = _PART if torch.get_num_threads() > 1 else _PART_ALONE
        all_ends = [0, *ends.tolist()]
        first = [
            all_ends[begin] for begin in layout.start
        ]  # pair of each candidate, and behind the last
        runs = _cuts(first, min(most // max(width, hidden), number // torch.get_num_threads()))
    is_one = runs == [(0, num_candidates)]
    if is_one:
        flat = F.pad(flat, (0, _idle(number)))
    place = flat.div(num_tokens, rounding_mode="floor")  # candidate * slots + slot
    rows = flat - walk.ahead.index_select(0, place)
    gate = (rows * num_slots).add_(walk.slot.index_select(0, place))
    group = walk.expert.index_select(0, place)
    tokens, experts = slice(0, num_candidates * num_tokens), slice(0, len(ends))
    whole = Pairs(number, rows, group, ends, gate, tokens, experts)
    if is_one:
        return [whole]
    return [_part(whole, layout.start, first, num_tokens, *run) for run in runs]


def _part(
    whole: Pairs, start: Sequence[int], first: Sequence[int], num_tokens: int, begin: int, end: int
) -> Pairs:
    """Returns the pairs of the candidates [begin, end), with idle rows.

    Args:
        whole: Those of the pack, without idle rows.
        start: Where each candidate's experts begin.
        first: Where its pairs begin.
        num_tokens: Of each candidate.
        begin: First candidate.
        end: Behind the last one.
    """
    pairs = slice(first[begin], first[end])
    experts = slice(start[begin], start[end])
    tokens = slice(begin * num_tokens, end * num_tokens)
    idle = (0, _idle(pairs.stop - pairs.start))
    return Pairs(
        number=pairs.stop - pairs.start,
        rows=F.pad(whole.rows[pairs] - tokens.start, idle),
        group=F.pad(whole.group[pairs] - experts.start, idle),
        ends=whole.ends[experts] - pairs.start,
        gate=F.pad(whole.gate[pairs], idle),
        tokens=tokens,
        experts=experts,
    )


def _idle(number: int) -> int:
    """Returns how many rows make the number of pairs round."""
    return -number % (1 << max(_FEWEST, number.bit_length() - 5))


def _is_cut(mask: Tensor, width: int, hidden: int) -> bool:
    """Tells whether a pack is computed in parts: by its shape alone, so that company does not decide it."""
    return mask.device.type == "cpu" and mask.shape[1] * width * hidden >= _WORTH_CUTTING


def _cuts(first: Sequence[int], num_pairs: int) -> list[tuple[int, int]]:
    """Cuts candidates into runs [begin, end) of at most `num_pairs` pairs, or of one candidate; none without pairs."""
    runs: list[tuple[int, int]] = []
    for candidate, (begin, end) in enumerate(pairwise(first)):
        if begin == end:
            continue
        if runs and runs[-1][1] == candidate and end - first[runs[-1][0]] <= num_pairs:
            runs[-1] = (runs[-1][0], candidate + 1)
        else:
            runs.append((candidate, candidate + 1))
    return runs


class _GroupedExperts(torch.autograd.Function):
    """Grouped products over pairs sorted by expert, with a backward that needs no `index_put`.

    The gate's gradient is <upstream, expert output> per pair, computed from the hidden activations so that no expert
    output has to be kept. The second biases have a product of their own, of every token with every expert's: it is
    small, and nothing as long as the pairs has to be written for it. Tokens and pool may be bf16; the gate and its
    gradient stay fp32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        tokens: Tensor,
        gate: Tensor,
        mask: Tensor,
        layout: PoolLayout,
        parts: list[Pairs],
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
    ) -> Tensor:
        flat, weights = tokens.reshape(-1, tokens.shape[-1]), gate.reshape(-1)
        share = torch.where(mask, gate, 0.0)  # (candidates, tokens, slots)
        out = torch.bmm(share.float(), _with_slots(b2, layout, mask)).to(tokens.dtype).view_as(flat)
        pool = (w1.detach(), b1.detach(), w2.detach())
        is_kept = sum(len(part.rows) for part in parts) * w1.shape[1] <= _KEPT

        def compute(part: Pairs) -> tuple[Tensor, ...]:
            w1, b1, w2 = (weight[part.experts] for weight in pool)
            x = flat[part.tokens].index_select(0, part.rows)  # (pairs and idle, d_model)
            u = F.grouped_mm(x, w1, offs=part.ends)  # (pairs and idle, inner)
            u.add_(b1.index_select(0, part.group))
            a = activate(u, w2.shape[1])
            y = F.grouped_mm(a, w2, offs=part.ends)
            weight = weights.index_select(0, part.gate).to(y.dtype)
            y, rows = y.mul_(weight[:, None])[: part.number], part.rows[: part.number]
            out[part.tokens].index_add_(0, rows, y)
            return (u, weight, x) if is_kept else (u, weight)

        kept = _run(compute, parts, gate, w1)
        ctx.layout, ctx.parts, ctx.num_kept = layout, parts, 3 if is_kept else 2
        saved = (tensor for part in kept for tensor in part)
        ctx.save_for_backward(flat, share, w1, b1, w2, b2, *saved)
        return out.view_as(tokens)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tokens, share, w1, b1, w2, b2, *saved = ctx.saved_tensors
        (upstream,) = gradients
        flat = upstream.reshape(-1, upstream.shape[-1])
        dx = torch.zeros_like(flat)
        of_bias = torch.bmm(upstream.float(), _with_slots(b2, ctx.layout, share).mT).view(-1)
        db2 = _without_slots(torch.bmm(share.mT.float(), upstream.float()), ctx.layout)
        dgate = torch.zeros_like(share)
        is_whole = [part.experts for part in ctx.parts] == [slice(0, len(w1))]
        dw = [w1, w2] if is_whole else [torch.empty_like(w1), torch.empty_like(w2)]
        db1 = torch.zeros_like(b1)
        for begin, end in _gaps([part.experts for part in ctx.parts], len(w1)):
            dw[0][begin:end], dw[1][begin:end] = 0.0, 0.0

        def put(layer: int, own: slice, gradient: Tensor) -> None:
            if is_whole:  # the product's own memory, for what was in the list
                dw[layer] = gradient
            else:
                dw[layer][own] = gradient

        def compute(number: int) -> None:
            part: Pairs = ctx.parts[number]
            u, weight, *known = saved[ctx.num_kept * number : ctx.num_kept * (number + 1)]
            own = part.experts
            d = flat[part.tokens].index_select(0, part.rows)  # (pairs and idle, d_model)
            da = F.grouped_mm(d, w2[own].transpose(1, 2), offs=part.ends)
            x = known[0] if known else tokens[part.tokens].index_select(0, part.rows)
            a = activate(u, w2.shape[1])
            d.mul_(weight[:, None])  # in place, here and below: memory is what this waits for
            put(1, own, F.grouped_mm(a.t(), d, offs=part.ends))
            dweight = a.mul_(da).sum(1, dtype=torch.float32)
            dweight += of_bias.index_select(0, part.gate)
            gates, dweight = part.gate[: part.number], dweight[: part.number]
            dgate.view(-1).index_copy_(0, gates, dweight.to(dgate.dtype))
            du = activation_gradient(da.mul_(weight[:, None]), u)
            put(0, own, F.grouped_mm(x.t(), du, offs=part.ends))
            _add_by_group(db1[own], part.group[: part.number], du[: part.number])
            back = F.grouped_mm(du, w1[own].transpose(1, 2), offs=part.ends)
            rows, back = part.rows[: part.number], back[: part.number]
            dx[part.tokens].index_add_(0, rows, back)

        _run(compute, range(len(ctx.parts)), dgate, w1)
        return dx.view_as(upstream), dgate, None, None, None, dw[0], db1, dw[1], db2.to(b2.dtype)


def _with_slots(bias: Tensor, layout: PoolLayout, like: Tensor) -> Tensor:
    """Returns biases (experts, width) as (candidates, slots, width), fp32, 0 where a candidate lacks an expert.

    Args:
        bias: Of all experts.
        layout: Where each candidate's experts lie.
        like: (candidates, tokens, slots).
    """
    num, _, num_slots = like.shape
    if layout.is_full(num_slots):
        return bias.float().view(num, num_slots, -1)
    whole = bias.new_zeros(num * num_slots, bias.shape[1], dtype=torch.float32)
    whole.index_copy_(0, layout.slots(num_slots, bias.device), bias.float())
    return whole.view(num, num_slots, -1)


def _without_slots(whole: Tensor, layout: PoolLayout) -> Tensor:
    """Returns the rows (experts, width) of `whole` (candidates, slots, width) that belong to experts."""
    num_slots = whole.shape[1]
    flat = whole.flatten(0, 1)
    if layout.is_full(num_slots):
        return flat
    return flat.index_select(0, layout.slots(num_slots, whole.device))


def _run(
    compute: Callable[[Part], Result], parts: Sequence[Part], gate: Tensor, w1: Tensor
) -> list[Result]:
    if _is_cut(gate, w1.shape[1], w1.shape[2]):
        return in_threads(compute, parts)
    return [compute(part) for part in parts]


def _gaps(runs: Sequence[slice], num: int) -> list[tuple[int, int]]:
    """Returns what of 0 .. `num` lies between ascending runs."""
    edges = [0, *(edge for run in runs for edge in (run.start, run.stop)), num]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]


def _add_by_group(total: Tensor, group: Tensor, rows: Tensor) -> None:
    """Adds rows (rows, width) to `total` (groups, width), counted in fp32: bf16 would stop at 256."""
    if total.dtype == torch.float32:
        total.index_add_(0, group, rows)
    else:
        sums = torch.zeros_like(total, dtype=torch.float32)
        total.copy_(sums.index_add_(0, group, rows.float()))
