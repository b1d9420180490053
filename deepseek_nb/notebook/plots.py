"""Small plots of a few dozen figures: inline SVG in the colour of the text around, or a line of blocks."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

__all__ = ["plot", "sparkline"]

WIDTH, HEIGHT, MARGIN = 240, 56, 3
BLOCKS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float]) -> str:
    """The course of ``values`` in one line, from 0 up to the largest; a point where there is none.

    >>> sparkline([0, 1, 2, float("nan"), 4])
    '▁▃▅·█'
    """
    most = max((value for value in values if not math.isnan(value)), default=0.0) or 1.0
    return "".join(
        "·" if math.isnan(value) else BLOCKS[min(7, int(value / most * len(BLOCKS)))] for value in values
    )


def plot(
    *lines: Sequence[float],
    label: str,
    threshold: float | None = None,
    width: int = WIDTH,
    height: int = HEIGHT,
) -> str:
    """One SVG with the course of each of ``lines``, from 0 up to the largest, the first one strong.

    nan leaves a gap. ``label`` tells who does not see it what there is to see; ``threshold`` is a dashed
    line, where it is in reach.
    """
    seen = [value for line in lines for value in line if not math.isnan(value)]
    most = max(seen, default=0.0)
    near = threshold is not None and threshold <= 2 * most
    top = max(most, threshold if near and threshold is not None else 0.0) or 1.0

    def y(value: float) -> float:
        return round(height - MARGIN - value / top * (height - 2 * MARGIN), 1)

    parts = [f'<line x1="0" x2="{width}" y1="{y(0)}" y2="{y(0)}" stroke-opacity="0.25"/>']
    if near and threshold is not None:
        at = y(threshold)
        parts.append(
            f'<line x1="0" x2="{width}" y1="{at}" y2="{at}" stroke-opacity="0.6" stroke-dasharray="4 3"/>'
        )
    for number, line in enumerate(lines):
        strength = "" if number == 0 else ' stroke-opacity="0.4"'
        for start, run in _runs(line):
            points = [(_x(start + i, len(line), width), y(value)) for i, value in enumerate(run)]
            if len(points) == 1:
                points = [(points[0][0] - 1.5, points[0][1]), (points[0][0] + 1.5, points[0][1])]
            drawn = " ".join(f"{x:g},{at:g}" for x, at in points)
            if number == 0:
                first, last = points[0][0], points[-1][0]
                parts.append(
                    f'<polygon points="{first:g},{y(0):g} {drawn} {last:g},{y(0):g}" '
                    'fill="currentColor" fill-opacity="0.1" stroke="none"/>'
                )
            parts.append(f'<polyline points="{drawn}" fill="none"{strength}/>')
    return (
        f'<svg role="img" aria-label="{html.escape(label)}" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" stroke="currentColor" stroke-width="1.5">{"".join(parts)}</svg>'
    )


def _x(number: int, count: int, width: int) -> float:
    return round(MARGIN + number / max(1, count - 1) * (width - 2 * MARGIN), 1)


def _runs(values: Sequence[float]) -> Iterator[tuple[int, list[float]]]:
    """The stretches without a gap: where each begins, and its values."""
    start, run = 0, list[float]()
    for number, value in enumerate(values):
        if math.isnan(value):
            if run:
                yield start, run
            run = []
        else:
            if not run:
                start = number
            run.append(value)
    if run:
        yield start, run
