"""How long a question of each priority would wait now, and who is turned away before it is too long.

Priorities 4 and 5 do not wait in line (:mod:`deepseek_nb.core.admission`). The others share what the
upstreams bear, the higher ones first. When that falls, or more is asked, the line grows: whoever would wait
in it for longer than its priority is worth is told so at once, with the time after which the line will
have become short enough, instead of being kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.core.admission import INTERACTIVE_LANE
from deepseek_nb.gateway.refusals import ApiError
from deepseek_nb.gateway.routing import Router

__all__ = ["Load", "Throughput"]

MEASURED_S = 10.0
"""The line's speed is that of the last so many seconds."""


UNKNOWN_MOST_S = 60.0
"""Where nothing is answered, no more than this is foretold."""


class Throughput:
    """How many answers come in a second. Times are a monotonic clock's.

    >>> speed = Throughput()
    >>> for second in range(10):
    ...     speed.count(second)
    >>> round(speed.per_s(10.0), 1)
    1.0
    """

    def __init__(self, span_s: float = MEASURED_S) -> None:
        self._span_s = span_s
        self._seen: deque[float] = deque(maxlen=100_000)
        self._since_s: float | None = None

    def count(self, now: float) -> None:
        """One more."""
        if self._since_s is None or not self._seen:
            self._since_s = now
        self._seen.append(now)

    def per_s(self, now: float) -> float:
        """Of the last seconds; 0 where there was none."""
        while self._seen and self._seen[0] < now - self._span_s:
            self._seen.popleft()
        if not self._seen or self._since_s is None:
            return 0.0
        return len(self._seen) / max(1.0, min(self._span_s, now - self._since_s))


class Load:
    """The lines to the peers, model by model. ``waits_s`` are what priorities 1, 2 and 3 may wait."""

    def __init__(
        self, client: AsyncClient, router: Router, waits_s: Sequence[float], clock: Callable[[], float]
    ) -> None:
        self._client = client
        self._router = router
        self._waits_s = tuple(waits_s)
        self._clock = clock
        self._speeds: dict[str, Throughput] = {}
        self._lines: dict[str, tuple[float, float]] = {}
        """Of each model without room: since when, and when that was last seen."""

    def answered(self, model: str, lane: int) -> None:
        """A question that waits its turn was answered by an upstream."""
        if lane < INTERACTIVE_LANE:
            self._speeds.setdefault(model, Throughput()).count(self._clock())

    def wait_s(self, model: str, lane: int) -> float:
        """How long a question of ``lane`` would wait in line: those before it, at the speed of late.

        Where nothing was answered of late, as long as the line has been there, a minute at most. 0 where
        one has room.
        """
        if lane >= INTERACTIVE_LANE:
            return 0.0
        peers = [one for one in self._router.served if one.is_peer]
        usable = [one for one in peers if self._router.usable(one, model)]
        now = self._clock()
        if any(self._router.room(one, model) >= 1.0 for one in usable):
            self._lines.pop(model, None)
            return 0.0
        since_s, seen_s = self._lines.get(model, (now, now))
        if now - seen_s > MEASURED_S:
            since_s = now  # nobody knows what was between
        self._lines[model] = since_s, now
        speed = self._speeds.get(model)
        per_s = 0.0 if speed is None else speed.per_s(now)
        if not per_s:
            return min(now - since_s, UNKNOWN_MOST_S)
        before = sum(
            self._client.upstream(one.client_name).gate(model).admission.ahead(lane)
            for one in (usable or peers)
        )
        return before / per_s

    def refusal(self, model: str, lane: int) -> ApiError | None:
        """The 429 for a question that would wait for too long; None where it may wait."""
        if lane >= INTERACTIVE_LANE:
            return None
        wait_s, most_s = self.wait_s(model, lane), self._waits_s[lane - 1]
        if wait_s <= most_s:
            return None
        return ApiError(
            429,
            f"The line for priority {lane} is {wait_s:.0f} s long now; {most_s:g} s are kept. "
            "Nothing was charged.",
            kind="rate_limit_error",
            code="capacity_exceeded",
            retry_after_s=wait_s - most_s,
        )
