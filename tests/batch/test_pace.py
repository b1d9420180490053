"""The rate and its curve: right at any length, and of one size."""

from __future__ import annotations

import pytest

from deepseek_nb.batch.pace import POINTS, RECENT_S, Pace
from deepseek_nb.batch.progress import Progress
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.chat import Usage
from deepseek_nb.core.errors import Overloaded
from deepseek_nb.core.events import CallEvent


def paced(seconds: float, rows_a_second: float) -> Pace:
    pace = Pace()
    for tenth in range(1, int(seconds * 10) + 1):
        pace.note(tenth / 10, int(rows_a_second * tenth / 10))
    return pace


@pytest.mark.parametrize("seconds", [1, 10, 60, 3600, 20_000])
def test_a_steady_job_has_a_steady_curve_of_bounded_size(seconds):
    """From a second to hours: at most 120 points over the whole time, and every row is in them."""
    pace = paced(seconds, 20)
    assert pace.rate == pytest.approx(20, rel=0.02)
    assert 1 <= len(pace.points) <= POINTS
    assert all(rate == pytest.approx(20, rel=0.05) for _, rate in pace.points)
    assert [at_s for at_s, _ in pace.points] == sorted(at_s for at_s, _ in pace.points)
    assert pace.points[-1][0] > seconds * 0.9
    assert len(pace._recent) <= 2 * RECENT_S + 2


def test_the_rate_is_that_of_late():
    """Quick for a minute, then nothing: the rate soon falls to nothing, the curve keeps both."""
    pace = paced(60, 50)
    for tenth in range(1, 200):
        pace.note(60 + tenth / 10, 3000)
    assert pace.rate == 0
    assert max(rate for _, rate in pace.points) == pytest.approx(50, rel=0.05)
    assert pace.points[-1][1] == 0


def test_nothing_is_told_before_there_is_anything():
    """No division by a moment."""
    pace = Pace()
    pace.note(0.01, 5)
    assert (pace.rate, pace.points) == (None, [])


def test_the_figures_of_a_panel():
    """States add up, shares are of what they say, a dash's worth of None where nothing is known."""
    figures = Progress(total=100, done=10, already=10, money=Budget(2.0, spent_usd=0.5))
    assert (figures.eta_s, figures.hit_rate, figures.prefix_hit_rate, figures.latency_s(0.99)) == (None,) * 4
    assert figures.error_rate == 0
    for tenth in range(40):
        figures.done += 1
        figures.from_store += tenth % 4 == 0
        figures.answered(0.2 if tenth < 38 else 5.0, Usage(prompt_tokens=100, cache_hit_tokens=60))
        figures.tick(0.1)
    figures.failed, figures.on_the_wire = 5, 8
    assert figures.states == {"done": 40, "from store": 10, "failed": 5, "in flight": 8, "waiting": 37}
    assert sum(figures.states.values()) == figures.total
    assert figures.error_rate == pytest.approx(5 / 55)
    assert figures.hit_rate == pytest.approx(10 / 45)
    assert figures.prefix_hit_rate == pytest.approx(0.6)
    assert figures.latency_s(0.5) == pytest.approx(0.2, rel=0.03)
    assert figures.latency_s(0.99) == pytest.approx(5.0, rel=0.03)
    assert figures.eta_s == pytest.approx(4.5, rel=0.1)
    assert (figures.cost_usd, figures.budget_usd) == (0.5, 2.0)


def test_a_pause_moves_the_clock_of_patience_and_not_the_rate():
    """Trouble begins at 100; ten seconds of work, a minute of pause: it is ten seconds old at 170."""
    figures = Progress(total=10)
    figures.hear(CallEvent("waiting", 2, 100.0, error=Overloaded("x", status=503)))
    figures.tick(10.0)
    figures.paused = True
    for _ in range(600):
        figures.tick(0.1)
    assert figures.trouble_s == pytest.approx(160.0)
    assert (figures.elapsed_s, figures.paused_s) == (pytest.approx(70), pytest.approx(60))
    assert figures.worked_s == pytest.approx(10)
