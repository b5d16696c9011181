"""The order in which multi-objective asynchronous successive halving (MO-ASHA) lets candidates pass a rung.

Ranks are those of nondominated sorting in error and activated parameters; inside a front they follow an epsilon net.
Differences to the publication: distances are measured with both objectives scaled to the rung's range, equal points
share a rank, and all records are judged together, not in the order in which they arrived.

Source: Schmucker et al., 2021, "Multi-objective Asynchronous Successive Halving", arXiv:2106.12639.
"""

import numpy as np

from dynamoe_search.pareto import Bools, Floats, Indices, pareto_ranks


def moasha_places(points: Floats, is_finite: Bools, rows: Indices) -> Indices:
    """Returns how many records come before each, (records,).

    Inside a front that none of the asked is on, everybody has the place of its first.

    Args:
        points: (records, 2).
        is_finite: (records,) The others come last.
        rows: The asked.
    """
    places = np.full(len(points), len(points), dtype=np.int64)
    if not is_finite.any():
        return places
    different, inverse, counts = _different(points[is_finite])
    ranks = pareto_ranks(different, (False, False))
    sizes = np.bincount(ranks, weights=counts).astype(np.int64)
    before = (np.cumsum(sizes) - sizes)[ranks]
    span = np.ptp(different, axis=0)
    scaled = (different - different.min(axis=0)) / np.where(span > 0, span, 1.0)
    is_asked = np.zeros(len(points), dtype=np.bool_)
    is_asked[rows] = True
    for rank in np.unique(ranks[inverse[is_asked[is_finite]]]):
        front = np.flatnonzero(ranks == rank)
        order = front[epsilon_net(scaled[front])]
        before[order] += np.cumsum(counts[order]) - counts[order]
    places[is_finite] = before[inverse]
    return places


def _different(points: Floats) -> tuple[Floats, Indices, Indices]:
    """Returns the different points in ascending order, which of them each point is, and how often each occurs.

    It is `numpy.unique` over rows, several times as fast.
    """
    order = np.lexsort(points.T[::-1])
    ordered = points[order]
    is_new = np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))
    inverse = np.empty(len(points), dtype=np.int64)
    inverse[order] = np.cumsum(is_new) - 1
    return ordered[is_new], inverse, np.bincount(inverse)


def epsilon_net(points: Floats) -> Indices:
    """Returns the order in which points (points, objectives) enter the net: each time the one farthest from it.

    The first is the first row; of equally far ones the first row is taken, so the rows' order must mean something.

    Source: Salinas et al., 2021, "A multi-objective perspective on jointly tuning hardware and hyperparameters",
    arXiv:2106.05680.
    """
    order = np.zeros(len(points), dtype=np.int64)
    distance = np.full(len(points), np.inf)
    columns = np.ascontiguousarray(points.T)  # (objectives, points)
    for place in range(1, len(points)):
        latest = order[place - 1]
        offsets = columns - columns[:, latest, None]
        np.minimum(distance, (offsets * offsets).sum(axis=0), out=distance)
        distance[latest] = -1.0
        order[place] = distance.argmax()
    return order
