"""How long a question of each priority would wait now, and who is turned away before it is too long.

Priorities 4 and 5 do not wait in line (:mod:`deepseek_nb.core.admission`). The others share what the
upstreams bear, the higher ones first. When that falls, or more is asked, the line grows: whoever would wait
in it for longer than its priority is worth is told so at once, with the time after which the line will
have become short enough, instead of being kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from itertools import takewhile

from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.core.admission import INTERACTIVE_LANE
from deepseek_nb.gateway.refusals import ApiError
from deepseek_nb.gateway.routing import Router

__all__ = ["Load", "Throughput"]

MEASURED_S = 10.0
"""Answers count for the line's speed for so many seconds, where there are none since."""
LATE_S = 2.0
"""Those of the last seconds count alone: so many, or twice what an answer takes."""


UNKNOWN_MOST_S = 60.0
"""Where nothing is answered, no more than this is foretold."""


class Throughput:
    """How many answers come in a second. Times are a monotonic clock's.

    When questions begin to come, the first answers are few, and those of all that were sent with them are
    under way: until it is :meth:`known`, the speed is taken to be that of twice as many as are sent at once,
    each taking as long as the first ones. (Twice: how many the server bears is still being found out.)

    >>> speed = Throughput()
    >>> for second in range(10):
    ...     speed.count(second, took_s=0.5)
    >>> round(speed.per_s(9.0), 1)
    1.0
    >>> begun = Throughput()
    >>> begun.count(0.0, took_s=0.5)
    >>> begun.per_s(0.1, at_once=40)
    160.0
    """

    def __init__(self, span_s: float = MEASURED_S) -> None:
        self._span_s = span_s
        self._seen: deque[tuple[float, float]] = deque(maxlen=100_000)
        self._took_s = 0.0
        self._since_s = 0.0

    def count(self, now: float, took_s: float) -> None:
        """One more, that took so long at the server."""
        self._forget(now)
        if not self._seen:
            self._since_s = now
        self._seen.append((now, took_s))
        self._took_s += took_s

    def per_s(self, now: float, at_once: float = 0.0) -> float:
        """Of the last seconds; 0 where there was none. So many are sent ``at_once``."""
        self._forget(now)
        if not self._seen:
            return 0.0
        passed_s, took_s = now - self._since_s, self._took_s / len(self._seen)
        if self.known_in_s(now) > 0:
            return max(len(self._seen) / max(1.0, passed_s), 2 * at_once / max(took_s, 1e-3))
        late_s = min(passed_s, self._span_s, max(LATE_S, 2 * took_s))
        late = sum(1 for _ in takewhile(lambda one: one[0] > now - late_s, reversed(self._seen)))
        return late / late_s if late else len(self._seen) / min(passed_s, self._span_s)

    def known_in_s(self, now: float) -> float:
        """After how long the speed is known, and not guessed: as many answers came as were sent at once."""
        if not self._seen:
            return 0.0
        took_s = self._took_s / len(self._seen)
        return max(0.0, self._since_s + max(1.0, 2 * took_s) - now)

    def _forget(self, now: float) -> None:
        while self._seen and self._seen[0][0] < now - self._span_s:
            self._took_s -= self._seen.popleft()[1]


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

    def answered(self, model: str, lane: int, took_s: float) -> None:
        """A question that waits its turn was answered by an upstream, so long after it was sent."""
        if lane < INTERACTIVE_LANE:
            self._speeds.setdefault(model, Throughput()).count(self._clock(), took_s)

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
        lines = [self._client.upstream(one.client_name).gate(model).admission for one in usable or peers]
        speed = self._speeds.get(model)
        per_s = 0.0 if speed is None else speed.per_s(now, sum(line.limit for line in lines))
        if not per_s:
            return min(now - since_s, UNKNOWN_MOST_S)
        return sum(line.ahead(lane) for line in lines) / per_s

    def refusal(self, model: str, lane: int) -> ApiError | None:
        """The 429 for a question that would wait for too long; None where it may wait."""
        if lane >= INTERACTIVE_LANE:
            return None
        wait_s, most_s = self.wait_s(model, lane), self._waits_s[lane - 1]
        if wait_s <= most_s:
            return None
        speed, retry_after_s = self._speeds.get(model), wait_s - most_s
        if speed is not None and (known_in_s := speed.known_in_s(self._clock())):
            retry_after_s = min(retry_after_s, max(0.1, known_in_s))  # a guess keeps nobody away for long
        return ApiError(
            429,
            f"The line for priority {lane} is {wait_s:.0f} s long now; {most_s:g} s are kept. "
            "Nothing was charged.",
            kind="rate_limit_error",
            code="capacity_exceeded",
            retry_after_s=retry_after_s,
        )
