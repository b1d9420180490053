"""When an alarm is raised, when it ends, and what it says."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.core.alarms import RULES, Alarms, Thresholds
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.window import Figures

QUIET = {"p99_ms": None, "error_rate": None, "cache_hit_rate": None, "quota": None}


def only(**thresholds: float) -> Alarms:
    return Alarms(Thresholds(**{**QUIET, **thresholds}))


def names(alarms: Alarms, figures: Figures, now_s: float = 0.0, **quota: float) -> list[str]:
    return [alarm.name for alarm in alarms.judge(figures, now_s, **quota)]


def test_the_guides_thresholds_are_the_defaults():
    """P99 above 800 ms, errors above 2 %, cache hits below 60 %, a quota at 80 %."""
    bad = Figures(calls=100, hits=59, failed=3, p99_s=0.81)
    good = Figures(calls=100, hits=60, failed=2, p99_s=0.8)
    assert names(Alarms(), bad, budget=0.8, in_flight=0.8) == list(RULES)
    assert names(Alarms(), good, budget=0.79, in_flight=0.79) == []


def test_each_can_be_switched_off():
    """None is off."""
    bad = Figures(calls=100, hits=0, failed=100, p99_s=99.0)
    assert names(only(), bad, budget=1.0, in_flight=1.0) == []


def test_too_few_calls_are_not_judged():
    """One failure of one call is no error rate of 100 %; a budget needs no calls."""
    bad = Figures(calls=19, hits=0, failed=19, p99_s=99.0)
    assert names(Alarms(), bad) == []
    assert names(Alarms(), bad, budget=0.9) == ["budget"]
    assert names(Alarms(Thresholds(least_calls=19)), bad) == ["p99_ms", "error_rate", "cache_hit_rate"]
    assert names(Alarms(), Figures()) == []


@pytest.mark.parametrize(
    ("name", "field", "raised", "standing", "over"),
    [
        ("p99_ms", "p99_s", 0.801, 0.73, 0.72),
        ("error_rate", "failed", 21, 19, 18),
        ("cache_hit_rate", "hits", 599, 639, 640),
    ],
)
def test_an_alarm_does_not_flap(name, field, raised, standing, over):
    """Raised at the threshold, it stands until the figure is a tenth on the good side of it."""
    alarms = only(**{name: getattr(Thresholds(), name)})

    def at(value: float, now_s: float) -> list[str]:
        return names(alarms, Figures(calls=1000, **{"hits": 1000, field: value}), now_s)

    assert at(standing, 0.0) == []
    assert at(raised, 1.0) == [name]
    assert at(standing, 2.0) == [name]
    assert at(over, 3.0) == []
    assert at(standing, 4.0) == []


def test_a_standing_alarm_knows_since_when_and_follows_its_figure():
    """Until it ends: raised again, it begins anew."""
    alarms = only(error_rate=0.02)
    alarms.judge(Figures(calls=100, failed=5), 10.0)
    (alarm,) = alarms.judge(Figures(calls=100, failed=9), 40.0)
    assert (alarm.figure, alarm.since_s, alarm.line(40.0)) == (0.09, 10.0, "Errors 9 %, above 2 %, for 30 s")
    assert alarm.todo.endswith(".")
    alarms.judge(Figures(calls=100), 50.0)
    (alarm,) = alarms.judge(Figures(calls=100, failed=9), 60.0)
    assert alarm.since_s == 60.0


def test_an_alarm_ends_when_the_calls_are_gone():
    """With half of the calls it takes to raise it, there is nothing left to judge by."""
    alarms = only(error_rate=0.02)
    assert names(alarms, Figures(calls=20, failed=20)) == ["error_rate"]
    assert names(alarms, Figures(calls=10, failed=10)) == ["error_rate"]
    assert names(alarms, Figures(calls=9, failed=9)) == []
    assert names(alarms, Figures(calls=19, failed=19)) == []


def test_thresholds_may_be_changed_while_an_alarm_stands():
    """The next look judges by the new ones."""
    alarms = only(p99_ms=800)
    slow = Figures(calls=100, p99_s=2.0)
    assert names(alarms, slow) == ["p99_ms"]
    alarms.thresholds = Thresholds(**{**QUIET, "p99_ms": 5000.0})
    assert names(alarms, slow) == []


def test_the_lines_name_figure_and_threshold():
    """In the units a reader thinks in."""
    bad = Figures(calls=100, hits=10, failed=5, p99_s=12.345)
    lines = [alarm.line(90.0) for alarm in Alarms().judge(bad, 0.0, budget=0.85, in_flight=1.0)]
    assert lines == [
        "P99 latency 12,345 ms, above 800 ms, for 2 min",
        "Errors 5 %, above 2 %, for 2 min",
        "Cache hits 10 %, below 60 %, for 2 min",
        "Budget 85 %, at or above 80 %, for 2 min",
        "Requests in flight 100 %, at or above 80 %, for 2 min",
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"error_rate": 2},
        {"error_rate": 0},
        {"quota": "80%"},
        {"p99_ms": -1},
        {"p99_ms": math.inf},
        {"cache_hit_rate": math.nan},
        {"quota": True},
        {"least_calls": None},
        {"least_calls": 0},
    ],
)
def test_what_can_be_no_threshold_is_refused(wrong):
    """With its name in the message."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Thresholds(**wrong)


@given(st.lists(st.tuples(st.integers(0, 200), st.floats(0, 1), st.floats(0, 5)), max_size=40))
def test_one_look_changes_an_alarm_at_most_once_and_only_past_its_marks(looks):
    """One that begins is past its threshold; one that ends is past the mark of its end, or has no calls."""
    alarms, before = only(error_rate=0.1, p99_ms=1000), set()
    for number, (calls, share, p99_s) in enumerate(looks):
        failed = round(share * calls)
        figures = Figures(calls=calls, failed=failed, p99_s=p99_s if calls else math.nan)
        now = set(names(alarms, figures, float(number)))
        for name, figure, threshold in (
            ("error_rate", figures.error_rate, 0.1),
            ("p99_ms", figures.p99_s, 1.0),
        ):
            if name in now - before:
                assert calls >= 20
                assert figure > threshold
            if name in before - now:
                assert calls < 10 or figure <= 0.9 * threshold
        before = now
