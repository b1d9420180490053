"""When is something wrong? Thresholds for what a client's figures show, and the alarms that stand.

Rules of this room. An alarm needs something to judge by: the shares and the latency of fewer than
``least_calls`` calls raise none, and a standing one ends when there are fewer than half of them. An
alarm does not flap: it is raised at its threshold and ends only a tenth before it. What is due is
decided on figures and times that are passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.events import duration
from deepseek_nb.core.window import Figures

__all__ = ["Alarm", "Alarms", "Thresholds"]

BACK_SHARE = 0.1
"""How far before its threshold a figure must be for its alarm to end."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """From where on there is an alarm; None switches one off.

    Raises ConfigError for what can be no threshold.
    """

    p99_ms: float | None = 800.0
    """The time that 99 % of the answers stay within, waiting included, in milliseconds."""
    error_rate: float | None = 0.02
    """The share of calls that end in an error."""
    cache_hit_rate: float | None = 0.6
    """The share of calls answered from the store; the only one where less is worse."""
    quota: float | None = 0.8
    """The share of the budget that is spent, and of the requests that may be in flight."""
    least_calls: int = 20
    """Fewer calls than this in the window are not judged."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value, share = getattr(self, one.name), one.name not in ("p99_ms", "least_calls")
            if value is None and one.name != "least_calls":
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value <= (1 if share else math.inf) or not math.isfinite(value):
                wanted = "a share above 0, up to 1" if share else "a number above 0"
                raise ConfigError(
                    f"{one.name} is {wanted}, not {value!r}.",
                    hint="Give a number." if one.name == "least_calls" else "None switches the alarm off.",
                )


@dataclass(frozen=True, slots=True)
class _Rule:
    """One figure that is watched."""

    title: str
    field: str
    """The threshold's name in :class:`Thresholds`."""
    todo: str
    below: bool = False
    judged: bool = True
    """Whether it needs calls to judge by."""


RULES = {
    "p99_ms": _Rule(
        "P99 latency",
        "p99_ms",
        "Ask for shorter answers or fewer at a time; a long answer takes seconds on an idle server too.",
    ),
    "error_rate": _Rule(
        "Errors", "error_rate", "Look at the errors of the last calls: each says what to do."
    ),
    "cache_hit_rate": _Rule(
        "Cache hits",
        "cache_hit_rate",
        "Most questions are new ones, and paid: the same question has to be the same text to be found.",
        below=True,
    ),
    "budget": _Rule("Budget", "quota", "Raise budget_usd, or stop what is not needed.", judged=False),
    "in_flight": _Rule(
        "Requests in flight", "quota", "Start less at a time, or raise concurrency_max.", judged=False
    ),
}
"""The alarms, by name."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that stands."""

    name: str
    """One of ``RULES``."""
    figure: float
    """Milliseconds for ``p99_ms``, else a share."""
    threshold: float
    since_s: float
    """On the clock of the events."""

    @property
    def title(self) -> str:
        """What is watched, in words."""
        return RULES[self.name].title

    @property
    def todo(self) -> str:
        """What to do, in a sentence."""
        return RULES[self.name].todo

    def line(self, now_s: float) -> str:
        """The alarm in one line.

        >>> Alarm("error_rate", 0.05, 0.02, since_s=10.0).line(40.0)
        'Errors 5 %, above 2 %, for 30 s'
        """
        side = "below" if RULES[self.name].below else "above"
        if RULES[self.name].field == "quota":
            side = "at or above"
        return (
            f"{self.title} {self._said(self.figure)}, {side} {self._said(self.threshold)}, "
            f"for {duration(max(0.0, now_s - self.since_s))}"
        )

    def _said(self, value: float) -> str:
        if self.name == "p99_ms":
            return f"{value:,.0f} ms"
        return f"{100 * value:.3g} %"


class Alarms:
    """The alarms that stand, from one look at the figures to the next.

    ``thresholds`` may be replaced at any time.

    >>> alarms = Alarms(Thresholds(error_rate=0.02))
    >>> [alarm.name for alarm in alarms.judge(Figures(calls=100, hits=80, failed=5), 7.0)]
    ['error_rate']
    """

    def __init__(self, thresholds: Thresholds | None = None) -> None:
        self.thresholds = thresholds or Thresholds()
        self._standing: dict[str, Alarm] = {}

    def judge(
        self, figures: Figures, now_s: float, *, budget: float | None = None, in_flight: float | None = None
    ) -> tuple[Alarm, ...]:
        """The alarms that stand now, in the order of ``RULES``.

        ``budget`` is the share of the budget that is spent, ``in_flight`` that of the requests that may
        be in flight; None where there is no limit.
        """
        seen = {
            "p99_ms": 1000 * figures.p99_s,
            "error_rate": figures.error_rate,
            "cache_hit_rate": figures.hit_rate,
            "budget": math.nan if budget is None else budget,
            "in_flight": math.nan if in_flight is None else in_flight,
        }
        before, self._standing = self._standing, {}
        for name, figure in seen.items():
            threshold = getattr(self.thresholds, RULES[name].field)
            standing = before.get(name)
            if threshold is not None and self._stands(name, figure, threshold, figures.calls, standing):
                since_s = now_s if standing is None else standing.since_s
                self._standing[name] = Alarm(name, figure, threshold, since_s)
        return tuple(self._standing.values())

    def _stands(self, name: str, figure: float, threshold: float, calls: int, standing: Alarm | None) -> bool:
        rule, least = RULES[name], self.thresholds.least_calls
        if math.isnan(figure) or (rule.judged and calls < (least if standing is None else least / 2)):
            return False
        if rule.below:
            end = threshold + BACK_SHARE * (1 - threshold)
            return figure < (threshold if standing is None else end)
        end = (1 - BACK_SHARE) * threshold
        if rule.field == "quota" and standing is None:
            return figure >= threshold
        return figure > (threshold if standing is None else end)
