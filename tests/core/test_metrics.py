"""Events in, figures out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.core.chat import Answer, Usage
from deepseek_nb.core.errors import AuthError, Overloaded, ServerFault
from deepseek_nb.core.events import CallEvent
from deepseek_nb.core.histogram import Histogram
from deepseek_nb.core.metrics import Metrics
from deepseek_nb.core.window import Window


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


def test_merged_histograms_are_as_one():
    """Buckets of a window are put together when somebody looks."""
    one, other, both = Histogram(), Histogram(), Histogram()
    for number in range(1, 101):
        (one if number % 3 else other).add(number / 10)
        both.add(number / 10)
    one.merge(other)
    assert (one.count, one.bins) == (both.count, both.bins)
    assert one.sum_s == pytest.approx(both.sum_s)


def _event(kind: str, at_s: float, latency_s: float) -> CallEvent:
    if kind == "refused":
        return CallEvent("waiting", 4, at_s, error=Overloaded("busy"))
    if kind == "failed":
        return CallEvent("failed", 4, at_s, error=AuthError("401"), spent_usd=0.25)
    return CallEvent(kind, 4, at_s, answer=Answer("x", latency_s=latency_s, cost_usd=0.5))  # type: ignore[arg-type]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["hit", "answered", "failed", "refused", "sent", "first_token"]),
            st.floats(0, 100),
            st.floats(0.01, 10),
        ),
        max_size=60,
    ),
    st.floats(0, 200),
)
def test_a_window_counts_what_a_recount_counts(happened, later_s):
    """Whatever came, and after any silence: the figures are those of the events in the last buckets."""
    window, at_s, events = Window(span_s=60, bucket_s=10), 1000.0, []
    for kind, pause_s, latency_s in happened:
        at_s += pause_s
        events.append(_event(kind, at_s, latency_s))
        window(events[-1])
    now_s = at_s + later_s
    oldest_s = (math.floor(now_s / 10) - 5) * 10
    seen = [event for event in events if event.at_s >= oldest_s]
    ended = [event for event in seen if event.kind in ("hit", "answered", "failed")]
    figures = window.figures(now_s)
    assert figures.calls == len(ended)
    assert figures.hits == sum(event.kind == "hit" for event in ended)
    assert figures.failed == sum(event.kind == "failed" for event in ended)
    assert figures.refusals == sum(event.kind == "waiting" for event in seen)
    answered = [event.answer.latency_s for event in ended if event.kind == "answered"]
    assert figures.spent_usd == pytest.approx(0.5 * len(answered) + 0.25 * figures.failed)
    if answered:
        assert figures.p99_s == pytest.approx(max(answered), rel=0.026)
    else:
        assert math.isnan(figures.p99_s)
    series = window.series(now_s)
    assert len(series) == 6
    assert sum(one.calls for one in series) == figures.calls
    assert figures.rate_per_s <= figures.calls


def test_the_rate_is_that_of_the_time_there_was():
    """Twenty calls in the two seconds since the first are ten per second, not a fraction of the window's."""
    window = Window(span_s=300, bucket_s=10)
    for number in range(21):
        window(CallEvent("hit", 4, 95.0 + number / 10))
    assert window.figures(97.0).rate_per_s == pytest.approx(10.5)
    assert window.figures(97.0, last_s=30).rate_per_s == pytest.approx(10.5)
    assert window.figures(125.0, last_s=10).rate_per_s == 0
    assert math.isnan(window.figures(97.0).p99_s), "an answer from the store says nothing about the server"


def test_a_window_takes_no_more_memory_for_more_calls():
    """Buckets and bins are bounded."""
    window = Window(span_s=60, bucket_s=10)
    for number in range(20_000):
        window(_event("answered", number / 2, 0.001 * 1.01 ** (number % 2000)))
    assert len(window._kept) == 6
    assert sum(len(bucket.latency.bins) for bucket in window._kept) < 6 * 420


def test_the_metrics_of_a_client_keep_a_window():
    """Running figures and those of the last five minutes hear the same events."""
    metrics = Metrics()
    metrics(_event("answered", 10.0, 1.0))
    metrics(_event("failed", 400.0, 1.0))
    assert (metrics.calls, metrics.window.figures(400.0).calls) == (2, 1)
    assert metrics.window.figures(400.0).error_rate == 1.0
