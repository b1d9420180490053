"""Small plots: whatever the figures, what is drawn is well-formed, inside its box, and says what it is."""

from __future__ import annotations

import math
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.notebook.plots import HEIGHT, WIDTH, plot, sparkline

SERIES = st.lists(st.one_of(st.floats(0, 1e12), st.just(math.nan)), max_size=40)


def points_of(svg: str) -> list[list[tuple[float, float]]]:
    """The points of each line that is drawn."""
    lines = ElementTree.fromstring(svg).iter("polyline")
    return [[tuple(map(float, p.split(","))) for p in line.get("points", "").split()] for line in lines]


@given(SERIES, SERIES, st.one_of(st.none(), st.floats(0.001, 1e12)))
def test_everything_stays_in_the_box(one, other, threshold):
    """No figure leads out of it, and none is left out."""
    svg = plot(one, other, label="x", threshold=threshold)
    for line in points_of(svg):
        assert len(line) > 1, "a line of one point shows nothing"
        for x, y in line:
            assert 0 <= x <= WIDTH
            assert 0 <= y <= HEIGHT
    assert len(svg) < 200 * (len(one) + len(other)) + 1500


def test_a_gap_is_a_gap_and_more_is_higher():
    """Nan parts a line in two."""
    first, second = points_of(plot([1.0, 2.0, math.nan, 4.0, 3.0], label="x"))
    assert first[0][1] > first[1][1] > second[0][1]
    assert second[0][1] < second[1][1]
    assert first[0][0] < first[1][0] < second[0][0]


def test_a_threshold_shows_where_it_is_in_reach():
    """Far above the figures it would press them flat."""
    assert "dasharray" in plot([500.0, 900.0], label="x", threshold=800.0)
    assert "dasharray" in plot([500.0], label="x", threshold=800.0)
    assert "dasharray" not in plot([5.0], label="x", threshold=800.0)
    assert "dasharray" not in plot([math.nan], label="x", threshold=800.0)


def test_it_says_what_it_is_and_loads_nothing():
    """For a screen reader; in the colour of the text around it; nothing of a label is markup."""
    svg = plot([1.0], label='a "b" <c>')
    assert ElementTree.fromstring(svg).attrib["aria-label"] == 'a "b" <c>'
    assert ElementTree.fromstring(svg).attrib["stroke"] == "currentColor"
    assert "http" not in svg
    assert "script" not in svg


def test_a_line_of_blocks():
    """From nothing to the largest."""
    assert sparkline([]) == ""
    assert sparkline([0.0, 0.0]) == "▁▁"
    assert sparkline([math.nan, 1.0, 8.0]) == "·▂█"
