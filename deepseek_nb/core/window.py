"""The figures of the last minutes: what happens to calls, in buckets of time, in constant memory."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from deepseek_nb.core.events import CallEvent
from deepseek_nb.core.histogram import Histogram

__all__ = ["Figures", "Window"]


@dataclass(frozen=True, slots=True)
class Figures:
    """What happened in a stretch of time. Shares and quantiles are nan where there is nothing to judge by."""

    span_s: float = 0.0
    calls: int = 0
    """Calls that ended: answered, found in the store, or failed."""
    hits: int = 0
    """Of them, found in the store."""
    failed: int = 0
    refusals: int = 0
    """Times the server had no room (429, 503); nothing was charged."""
    spent_usd: float = 0.0
    rate_per_s: float = 0.0
    """Calls that ended, per second."""
    p50_s: float = math.nan
    """Half of the answers that were asked for took at most so long, waiting included."""
    p99_s: float = math.nan

    @property
    def hit_rate(self) -> float:
        """Share of calls answered from the store."""
        return self.hits / self.calls if self.calls else math.nan

    @property
    def error_rate(self) -> float:
        """Share of calls that ended in an error."""
        return self.failed / self.calls if self.calls else math.nan


@dataclass(slots=True)
class _Bucket:
    """What happened in one short stretch of time."""

    number: int
    calls: int = 0
    hits: int = 0
    failed: int = 0
    refusals: int = 0
    spent_usd: float = 0.0
    latency: Histogram = field(default_factory=Histogram)


class Window:
    """The figures of the last ``span_s`` seconds, in buckets of ``bucket_s``: constant memory.

    It is a listener: ``window(event)``. Time is that of the events; whoever asks says what time it is
    on the same clock. What is asked for covers between ``span_s`` and one bucket less, since the oldest
    bucket goes as a whole.

    >>> window = Window(span_s=60, bucket_s=10)
    >>> window(CallEvent("hit", 4, at_s=100.0))
    >>> window.figures(105.0).hits, window.figures(300.0).hits
    (1, 0)
    """

    def __init__(self, span_s: float = 300.0, bucket_s: float = 10.0) -> None:
        self.span_s = span_s
        self.bucket_s = bucket_s
        self.buckets = round(span_s / bucket_s)
        self._kept: deque[_Bucket] = deque(maxlen=self.buckets)
        self._since_s: float | None = None

    def __call__(self, event: CallEvent) -> None:
        """Take one event."""
        if event.kind not in ("hit", "answered", "failed", "waiting", "fallback"):
            return
        bucket = self._bucket(event.at_s)
        bucket.refusals += event.error is not None and event.error.disposition.value == "refused"
        if event.kind == "hit":
            bucket.calls += 1
            bucket.hits += 1
        elif event.kind == "answered" and event.answer is not None:
            bucket.calls += 1
            bucket.spent_usd += event.answer.cost_usd or 0.0
            bucket.latency.add(event.answer.latency_s)
        elif event.kind == "failed":
            bucket.calls += 1
            bucket.failed += 1
            bucket.spent_usd += event.spent_usd or 0.0

    def figures(self, now_s: float, last_s: float | None = None) -> Figures:
        """The figures of all the window, or of its last ``last_s`` seconds, whole buckets of it."""
        buckets = self.buckets if last_s is None else max(1, round(last_s / self.bucket_s))
        first = math.floor(now_s / self.bucket_s) - buckets + 1
        return self._sum((one for one in self._kept if one.number >= first), first, now_s)

    def series(self, now_s: float) -> list[Figures]:
        """The figures bucket by bucket, the oldest first; the last is under way."""
        last = math.floor(now_s / self.bucket_s)
        kept = {one.number: one for one in self._kept}
        numbers = range(last - self.buckets + 1, last + 1)
        ends_s = [min(now_s, (number + 1) * self.bucket_s) for number in numbers]
        return [
            self._sum([kept[number]] if number in kept else [], number, end_s)
            for number, end_s in zip(numbers, ends_s, strict=True)
        ]

    def _bucket(self, at_s: float) -> _Bucket:
        if self._since_s is None:
            self._since_s = at_s
        number = math.floor(at_s / self.bucket_s)
        if not self._kept or number > self._kept[-1].number:
            self._kept.append(_Bucket(number))
        return self._kept[-1]

    def _sum(self, buckets: Iterable[_Bucket], first: int, now_s: float) -> Figures:
        latency = Histogram()
        calls = hits = failed = refusals = 0
        spent_usd = 0.0
        for one in buckets:
            calls += one.calls
            hits += one.hits
            failed += one.failed
            refusals += one.refusals
            spent_usd += one.spent_usd
            latency.merge(one.latency)
        since_s = max(first * self.bucket_s, now_s if self._since_s is None else self._since_s)
        span_s = max(0.0, now_s - since_s)
        return Figures(
            span_s=span_s,
            calls=calls,
            hits=hits,
            failed=failed,
            refusals=refusals,
            spent_usd=spent_usd,
            # one call after a long silence is no rate of a thousand per second
            rate_per_s=calls / max(span_s, 1.0),
            p50_s=latency.quantile(0.5),
            p99_s=latency.quantile(0.99),
        )
