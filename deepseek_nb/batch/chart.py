"""Small multiples as one SVG: panels with axes, units and round ticks, in a light or a dark theme.

The picture needs nothing from outside: no library, style sheet, script or font, and it has a ground of its
own, so that it reads on any page.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from deepseek_nb.batch.ticks import Axis

__all__ = ["THEMES", "Anchor", "Panel", "Theme", "chart"]

Theme = Literal["light", "dark"]
Anchor = Literal["start", "middle", "end"]
Points = Sequence[tuple[float, float]]

WIDTH, EDGE, HEAD = 660, 22, 72
"""As wide as fits beside the side bar of a notebook: wider pictures are cut off there."""
PANEL, ACROSS, DOWN = 294, 28, 20
TITLE, PLOT, FOOT = 49, 120, 20
"""Heights within a panel: its title, what is drawn, the words below."""
LETTER = 6.5
"""How wide a digit of a tick is, at most."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK, SOFT, GRID, PAPER, DATA, MARK, BAND = range(7)
THEMES: dict[Theme, tuple[str, ...]] = {
    "light": ("#1f2328", "#59636e", "#e1e6eb", "#ffffff", "#0969da", "#bc4c00", "#eef1f4"),
    "dark": ("#f0f6fc", "#9aa4af", "#2b3138", "#14181d", "#58a6ff", "#f0883e", "#21262d"),
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot. Everything in it is in the units of its axes."""

    title: str
    told: str
    """Its gist in a few words."""
    key: str = ""
    """What its colours and dashes mean."""
    x: Axis = field(default=Axis(0.0, 1.0, ()))
    y: Axis = field(default=Axis(0.0, 1.0, ()))
    bars: Sequence[tuple[float, float, float]] = ()
    """From, to, how high."""
    line: Points = ()
    stairs: Points = ()
    """Where each step begins and how high it is; the last one only ends the one before."""
    dashed: Points = ()
    """Something to measure the others by."""
    marks: Sequence[tuple[float, str, Anchor]] = ()
    """Vertical lines: where, a word, and whether it ends or starts at the line."""
    bands: Sequence[tuple[float, float]] = ()
    """Stretches of a ground of their own."""
    empty: str = ""
    """Said in the place of a picture."""


def chart(title: str, told: str, panels: Sequence[Panel], *, theme: Theme) -> str:
    """The SVG of these panels, two in a row; its label says their gist to those who do not see it."""
    gists = [f"{panel.title}: {panel.told or panel.empty}" for panel in panels]
    label = "; ".join([f"{title}: {told}", *gists])
    colours = THEMES[theme]
    words = max((len(words) for panel in panels for _, words in panel.y.ticks), default=0)
    gutter = max(36, round(words * LETTER) + 10)  # the same in all, so that they stand in line
    rows = math.ceil(len(panels) / 2)
    height = HEAD + rows * (TITLE + PLOT + FOOT) + (rows - 1) * DOWN + EDGE
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{html.escape(label)}" '
        f'width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" font-family="{FONT}">',
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" fill="{colours[PAPER]}" '
        f'stroke="{colours[GRID]}"/>',
        _text(EDGE, 34, title, colours[INK], size=16, bold=True),
        _text(EDGE, 54, told, colours[SOFT], size=12),
    ]
    for number, panel in enumerate(panels):
        left = EDGE + (number % 2) * (PANEL + ACROSS)
        top = HEAD + (number // 2) * (TITLE + PLOT + FOOT + DOWN)
        parts += _panel(panel, left, top, gutter, colours)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(panel: Panel, left: float, top: float, gutter: float, colours: tuple[str, ...]) -> Iterator[str]:
    right, first, bottom = left + PANEL, top + TITLE, top + TITLE + PLOT
    begin = left + gutter
    yield _text(left, top + 14, panel.title, colours[INK], size=13, bold=True)
    told = ", ".join(filter(None, (panel.told, panel.key)))
    if told:
        yield _text(left, top + 31, told, colours[SOFT], size=11.5)
    if panel.empty:
        yield f'<rect x="{left}" y="{first}" width="{PANEL}" height="{PLOT}" rx="6" fill="{colours[BAND]}"/>'
        middle = (left + right) / 2
        yield _text(middle, first + PLOT / 2 + 4, panel.empty, colours[SOFT], size=12, anchor="middle")
        return

    def x(value: float) -> float:
        at = begin + (value - panel.x.low) / (panel.x.high - panel.x.low) * (right - begin)
        return round(min(max(at, begin), right), 1)

    def y(value: float) -> float:
        at = bottom - (value - panel.y.low) / (panel.y.high - panel.y.low) * PLOT
        return round(min(max(at, first), bottom), 1)

    for since, until in panel.bands:
        yield (
            f'<rect x="{x(since):g}" y="{first}" width="{max(1.0, x(until) - x(since)):.1f}" '
            f'height="{PLOT}" fill="{colours[BAND]}"/>'
        )
    for value, words in panel.y.ticks:
        at = y(value)
        strong = colours[SOFT] if value == panel.y.low else colours[GRID]
        yield f'<line x1="{begin}" x2="{right}" y1="{at:g}" y2="{at:g}" stroke="{strong}"/>'
        yield _text(begin - 8, at + 4, words, colours[SOFT], anchor="end")
    for value, words in panel.x.ticks:
        at = x(value)
        yield f'<line x1="{at:g}" x2="{at:g}" y1="{bottom}" y2="{bottom + 4}" stroke="{colours[SOFT]}"/>'
        if at > right - 14:
            yield _text(right, bottom + 17, words, colours[SOFT], anchor="end")
        else:
            yield _text(at, bottom + 17, words, colours[SOFT], anchor="middle")
    for since, until, high in panel.bars:
        width = max(1.0, x(until) - x(since) - 1)
        tall = max(1.5, bottom - y(high))
        yield (
            f'<rect x="{x(since) + 0.5:.1f}" y="{bottom - tall:.1f}" width="{width:.1f}" '
            f'height="{tall:.1f}" fill="{colours[DATA]}" fill-opacity="0.75"/>'
        )
    if panel.dashed:
        way = " ".join(f"{x(at):g},{y(value):g}" for at, value in panel.dashed)
        yield (
            f'<polyline points="{way}" fill="none" stroke="{colours[MARK]}" stroke-width="1.25" '
            'stroke-dasharray="5 4"/>'
        )
    drawn = [(x(at), y(value)) for at, value in panel.line] or list(_stairs(panel.stairs, x, y))
    if drawn:
        way = " ".join(f"{at:g},{high:g}" for at, high in drawn)
        yield (
            f'<polygon points="{drawn[0][0]:g},{bottom} {way} {drawn[-1][0]:g},{bottom}" '
            f'fill="{colours[DATA]}" fill-opacity="0.14"/>'
        )
        yield (
            f'<polyline points="{way}" fill="none" stroke="{colours[DATA]}" stroke-width="1.5" '
            'stroke-linejoin="round"/>'
        )
    for value, words, anchor in panel.marks:
        at = x(value)
        yield (
            f'<line x1="{at:g}" x2="{at:g}" y1="{first}" y2="{bottom}" stroke="{colours[MARK]}" '
            'stroke-width="1.25" stroke-dasharray="5 4"/>'
        )
        beside = at + 5 if anchor == "start" else at - 5
        yield _text(beside, first + 10, words, colours[MARK], anchor=anchor, halo=colours[PAPER])


def _stairs(steps: Points, x: Callable[[float], float], y: Callable[[float], float]) -> Points:
    corners: list[tuple[float, float]] = []
    for (since, high), (until, _) in pairwise(steps):
        corners += [(x(since), y(high)), (x(until), y(high))]
    return corners


def _text(
    x: float,
    y: float,
    words: str,
    colour: str,
    *,
    size: float = 11,
    bold: bool = False,
    anchor: Anchor = "start",
    halo: str = "",
) -> str:
    strong = ' font-weight="600"' if bold else ""
    where = "" if anchor == "start" else f' text-anchor="{anchor}"'
    around = f' paint-order="stroke" stroke="{halo}" stroke-width="3" stroke-linejoin="round"' if halo else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}"{strong}{where}{around}>'
        f"{html.escape(words)}</text>"
    )
