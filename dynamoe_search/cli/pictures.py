"""Pictures made of characters: bars and a plot of points."""

from collections.abc import Sequence

from dynamoe_search.cli.words import cell

_EIGHTHS = " ▁▂▃▄▅▆▇█"


def bars(heights: Sequence[int], highest: int, rows: int = 3) -> list[str]:
    """Returns lines of text with one vertical bar for each number."""
    lines = []
    for row in reversed(range(rows)):
        line = ""
        for height in heights:
            eighths = round(height / max(1, highest) * rows * 8)
            line += _EIGHTHS[min(8, max(0, eighths - 8 * row))] * 2 + " "
        lines.append(line.rstrip())
    return lines


def scatter(
    points: Sequence[tuple[float, float]],
    across: str,
    upwards: str,
    others: Sequence[tuple[float, float]] = (),
    unfinished: Sequence[tuple[float, float]] = (),
    *,
    columns: int = 56,
    rows: int = 12,
) -> str:
    """Returns a plot made of characters.

    Args:
        points: (x, y) of the points that matter, drawn as `o`.
        across: Name of the x axis.
        upwards: Name of the y axis.
        others: (x, y) of further points, drawn as `.` under them.
        unfinished: (x, y) of points that may still move, drawn as `+` under all others.
        columns: Width of the area in characters.
        rows: Height of the area in lines.
    """
    if not points and not others and not unfinished:
        return ""
    xs, ys = zip(*points, *others, *unfinished, strict=True)
    left, right, bottom, top = min(xs), max(xs), min(ys), max(ys)
    area = [[" "] * columns for _ in range(rows)]
    for mark, group in (("+", unfinished), (".", others), ("o", points)):
        for x, y in group:
            column = round((x - left) / ((right - left) or 1) * (columns - 1))
            row = round((top - y) / ((top - bottom) or 1) * (rows - 1))
            area[row][column] = mark
    labels = [cell(float(top)), *[""] * (rows - 2), cell(float(bottom))]
    margin = max(len(label) for label in labels)
    lines = [
        f"{label:>{margin}} |{''.join(line)}" for label, line in zip(labels, area, strict=True)
    ]
    ends = f"{cell(float(left))}{cell(float(right)):>{columns - len(cell(float(left)))}}"
    lines.append(" " * margin + " +" + "-" * columns)
    lines.append(" " * (margin + 2) + ends)
    return "\n".join([f"{upwards} (up) against {across} (right)", *lines])
