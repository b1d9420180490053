"""Events in, figures out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.core.chat import Answer, Usage
from deepseek_nb.core.errors import AuthError, Overloaded, ServerFault
from deepseek_nb.core.events import CallEvent
from deepseek_nb.core.metrics import Histogram, Metrics


@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_quantile_is_within_the_width_of_a_bin(values, q):
    """Constant memory costs at most 2.6 % of precision."""
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    exact = sorted(values)[max(0, math.ceil(q * len(values)) - 1)]
    assert histogram.quantile(q) == pytest.approx(exact, rel=0.026)


def test_an_empty_histogram_has_no_quantile():
    """Nothing measured is not zero."""
    assert math.isnan(Histogram().quantile(0.5))
    assert math.isnan(Metrics().hit_rate)
    assert math.isnan(Metrics().error_rate)


def test_the_figures_follow_the_events():
    """Hits, answers, refusals and faults are told apart."""
    metrics = Metrics()
    answer = Answer("x", usage=Usage(10, 5), latency_s=2.0, first_token_s=1.0)
    for event in (
        CallEvent("sent", 4, 0.0),
        CallEvent("waiting", 4, 0.1, error=Overloaded("busy")),
        CallEvent("waiting", 4, 0.2, error=ServerFault("500")),
        CallEvent("first_token", 4, 1.0),
        CallEvent("answered", 4, 2.0, answer=answer),
        CallEvent("hit", 4, 2.0, answer=answer),
        CallEvent("failed", 4, 3.0, error=AuthError("401")),
    ):
        metrics(event)
    assert (metrics.calls, metrics.hits, metrics.answered, metrics.failed, metrics.sent) == (3, 1, 1, 1, 1)
    assert (dict(metrics.refusals), dict(metrics.faults)) == (
        {"Overloaded": 1},
        {"ServerFault": 1, "AuthError": 1},
    )
    assert metrics.usage == Usage(10, 5)
    assert metrics.hit_rate == pytest.approx(1 / 3)
    assert metrics.latency.quantile(0.5) == pytest.approx(2.0, rel=0.03)
