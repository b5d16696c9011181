"""Routing rules as slow, obvious loops over one token at a time, in double precision.

A rule takes the logits of one token and which experts are open, and returns {expert: weight} of the
chosen ones. `expert_choice` and `pooled_quantile` take the logits of all tokens.
"""

import math

Chosen = dict[int, float]


def cosine(x: list[float], row: list[float]) -> float:
    """Cosine of two vectors, 0 if one of them is 0."""
    length = math.hypot(*x) * math.hypot(*row)
    return sum(a * b for a, b in zip(x, row, strict=True)) / length if length else 0.0


def softmax(logits: list[float], experts: list[int]) -> Chosen:
    """Softmax over the given experts alone."""
    total = sum(math.exp(logits[e]) for e in experts)
    return {e: math.exp(logits[e]) / total for e in experts}


def experts_of(is_open: list[bool]) -> list[int]:
    """The open experts."""
    return [e for e, opened in enumerate(is_open) if opened]


def best_first(scores: Chosen) -> list[int]:
    """Experts by falling score; of equal ones the lower number first."""
    return sorted(scores, key=lambda e: (-scores[e], e))


def quantile(values: list[float], tau: float) -> float:
    """Linearly interpolated quantile."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * tau
    low = math.floor(place + 1e-9)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * max(place - low, 0.0)


def second_softmax(probs: Chosen, cutoff: float, *, strict: bool = True) -> Chosen:
    """Softmax of the probabilities above (or at) the cutoff; the best one if there is none."""
    kept = [e for e, p in probs.items() if p > cutoff or (p == cutoff and not strict)]
    kept = kept or best_first(probs)[:1]
    return softmax([probs.get(e, 0.0) for e in range(max(probs) + 1)], kept)


def percentile(logits: list[float], is_open: list[bool], tau: float) -> Chosen:
    """DynaMoE."""
    probs = softmax(logits, experts_of(is_open))
    return second_softmax(probs, quantile(list(probs.values()), tau))


def relative_to_max(logits: list[float], is_open: list[bool], rho: float) -> Chosen:
    """At least rho times the best."""
    probs = softmax(logits, experts_of(is_open))
    return second_softmax(probs, rho * max(probs.values()), strict=False)


def range_fraction(logits: list[float], is_open: list[bool], tau: float) -> Chosen:
    """Above a share of the range."""
    probs = softmax(logits, experts_of(is_open))
    low, high = min(probs.values()), max(probs.values())
    return second_softmax(probs, low + tau * (high - low))


def pooled_quantile(rows: list[list[float]], is_open: list[bool], tau: float) -> list[Chosen]:
    """Above the quantile of the whole batch."""
    probs = [softmax(logits, experts_of(is_open)) for logits in rows]
    cutoff = quantile([p for token in probs for p in token.values()], tau)
    return [second_softmax(token, cutoff) for token in probs]


def top_p(logits: list[float], is_open: list[bool], p: float) -> Chosen:
    """Experts until their probabilities sum to more than p, the crossing one included."""
    probs = softmax(logits, experts_of(is_open))
    chosen: Chosen = {}
    for e in best_first(probs):
        chosen[e] = probs[e]
        if sum(chosen.values()) > p:
            break
    return chosen


def top_k(logits: list[float], is_open: list[bool], k: int, order: str) -> Chosen:
    """The k best, softmax before or after."""
    probs = softmax(logits, experts_of(is_open))
    kept = best_first(probs)[:k]
    return {e: probs[e] for e in kept} if order == "before" else softmax(logits, kept)


def null_experts(
    logits: list[float], is_open: list[bool], null_logits: list[float], k: int
) -> tuple[Chosen, int]:
    """The real ones among the k best of all, and how many null ones were chosen."""
    width = len(logits)
    everything = logits + null_logits
    experts = experts_of(is_open) + list(range(width, len(everything)))
    kept = best_first(softmax(everything, experts))[:k]
    real = [e for e in kept if e < width]
    return (softmax(logits, real) if real else {}), len(kept) - len(real)


def expert_choice(rows: list[list[float]], is_open: list[bool], capacity: float) -> list[Chosen]:
    """Each open expert takes its best tokens."""
    experts = experts_of(is_open)
    probs = [softmax(logits, experts) for logits in rows]
    count = min(max(round(capacity * len(rows) / len(experts)), 1), len(rows))
    chosen: list[Chosen] = [{} for _ in rows]
    for e in experts:
        best = sorted(range(len(rows)), key=lambda token: (-probs[token][e], token))[:count]
        for token in best:
            chosen[token][e] = probs[token][e]
    return chosen


def relu(logits: list[float], is_open: list[bool]) -> Chosen:
    """Positive logits."""
    return {e: logits[e] for e in experts_of(is_open) if logits[e] > 0}


def top_any(
    cosines: list[float],
    is_open: list[bool],
    thresholds: list[float],
    scale: float,
    *,
    training: bool,
) -> Chosen:
    """Experts above their own threshold, equal weights; in evaluation at least one."""

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    experts = experts_of(is_open)
    kept = [e for e in experts if sigmoid(scale * cosines[e]) > sigmoid(scale * thresholds[e])]
    if not kept and not training:
        kept = [max(experts, key=lambda e: (cosines[e], -e))]
    return {e: 1 / len(kept) for e in kept}
