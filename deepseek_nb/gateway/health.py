"""How each upstream does, by what happens to the calls that reach it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deepseek_nb.core.errors import Busy, DeepSeekError
from deepseek_nb.core.events import CallEvent, cause

__all__ = ["Health", "UpstreamHealth", "Watch"]

FAILING_AFTER = 3
"""So many failures in a row, and an upstream is called failing."""


@dataclass(slots=True)
class UpstreamHealth:
    """One upstream. Times are the loop's seconds; None: never."""

    name: str
    answers: int = 0
    failures: int = 0
    """Faults: errors, broken answers, silence. Refusals are not among them."""
    refusals: int = 0
    """Times it had no room (429, 503)."""
    in_a_row: int = 0
    """Faults and refusals since it last began an answer."""
    last_answer_s: float | None = None
    last_trouble_s: float | None = None
    last_trouble: str = ""
    """In a few words of our own."""

    @property
    def state(self) -> str:
        """One of "unused", "up", "shaky" (trouble since its last answer), "failing"."""
        if not self.in_a_row:
            return "up" if self.answers else "unused"
        return "failing" if self.in_a_row >= FAILING_AFTER else "shaky"


class Health:
    """All upstreams, the first one first."""

    def __init__(self, names: Sequence[str]) -> None:
        self.upstreams = {name: UpstreamHealth(name) for name in names}

    def well(self, name: str, at_s: float) -> None:
        """It began an answer."""
        if (one := self.upstreams.get(name)) is not None:
            one.answers += 1
            one.in_a_row = 0
            one.last_answer_s = at_s

    def trouble(self, name: str, error: DeepSeekError, at_s: float) -> None:
        """It refused, or failed. What is the caller's own fault is no trouble."""
        one = self.upstreams.get(name)
        if one is None or not error.retryable or error.charged == "yes":
            return
        if isinstance(error, Busy):
            one.refusals += 1
        else:
            one.failures += 1
        one.in_a_row += 1
        one.last_trouble_s, one.last_trouble = at_s, cause(error)


class Watch:
    """Follows one call from upstream to upstream: a listener for its events."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self.upstream = next(iter(health.upstreams))
        """Where it is asked, or was asked last."""
        self.began = False
        """Whether an upstream began an answer: what comes without is from the store."""

    def __call__(self, event: CallEvent) -> None:
        """Take one event."""
        if event.error is not None:  # of a fallback too, which names the upstream after it
            self._health.trouble(self.upstream, event.error, event.at_s)
        if event.route:
            self.upstream = event.route
        if event.kind == "first_token":
            self.began = True
            self._health.well(event.route, event.at_s)
