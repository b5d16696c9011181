"""A pool of experts as a loop over candidates, tokens and experts, in float64 if its inputs are."""

import torch
import torch.nn.functional as F
from torch import Tensor


def run_pool_slowly(
    tokens: Tensor, gate: Tensor, mask: Tensor, start: list[int], *pool: Tensor
) -> Tensor:
    """Returns (candidates, tokens, d_model); `start` says where each candidate's experts begin."""
    w1, b1, w2, b2 = pool
    rows = []
    for candidate, own in enumerate(tokens):
        for token, x in enumerate(own):
            y = 0 * x  # part of the graph even if nobody is chosen
            for slot in range(start[candidate + 1] - start[candidate]):
                if mask[candidate, token, slot]:
                    expert = start[candidate] + slot
                    hidden = F.gelu(x @ w1[expert] + b1[expert])
                    out = hidden @ w2[expert] + b2[expert]
                    y = y + gate[candidate, token, slot] * out
            rows.append(y)
    return torch.stack(rows).view(tokens.shape)
