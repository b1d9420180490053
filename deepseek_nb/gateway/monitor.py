"""What the gateway counts: for Prometheus, and the last minutes for the status page."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from deepseek_nb.core.chat import Answer
from deepseek_nb.core.histogram import Histogram as Durations
from deepseek_nb.core.window import Figures

__all__ = ["Bucket", "Monitor", "Traffic"]

PREFIX = "deepseek_nb_gateway"
SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 0.8, 1, 2, 5, 10, 30, 60, 300)
MODEL_ROUTES = frozenset({"chat", "compute", "stream"})

Gauge = tuple[str, str, str, dict[str, float]]
"""Name, help, label, and the figure for each value of the label."""


@dataclass(slots=True)
class Bucket:
    """What happened in a few seconds."""

    number: int
    ok: int = 0
    refused: int = 0
    """4xx."""
    failed: int = 0
    """5xx."""
    answers: int = 0
    hits: int = 0
    spent_usd: float = 0.0
    latency: Durations = field(default_factory=Durations)
    """Of the routes that ask a model, successes only."""


class Traffic:
    """The last ``span_s`` seconds in buckets of ``bucket_s``. Times are a monotonic clock's."""

    def __init__(self, span_s: float = 300.0, bucket_s: float = 5.0) -> None:
        self.span_s = span_s
        self.bucket_s = bucket_s
        self._kept: deque[Bucket] = deque(maxlen=round(span_s / bucket_s))
        self._since_s: float | None = None

    def bucket(self, now: float) -> Bucket:
        """The bucket of this moment."""
        if self._since_s is None:
            self._since_s = now
        number = int(now // self.bucket_s)
        if not self._kept or number > self._kept[-1].number:
            self._kept.append(Bucket(number))
        return self._kept[-1]

    def series(self, now: float) -> list[Bucket]:
        """Bucket by bucket, the oldest first, none left out."""
        last, kept = int(now // self.bucket_s), {one.number: one for one in self._kept}
        count = self._kept.maxlen or 1
        return [kept.get(number) or Bucket(number) for number in range(last - count + 1, last + 1)]

    def figures(self, now: float) -> Figures:
        """All of it together: calls are the requests that a model was asked for, hits those of the store."""
        buckets = self.series(now)
        latency = Durations()
        for one in buckets:
            latency.merge(one.latency)
        requests = sum(one.ok + one.refused + one.failed for one in buckets)
        span_s = min(self.span_s, now - (now if self._since_s is None else self._since_s))
        failed = sum(one.failed for one in buckets)
        return Figures(
            span_s=span_s,
            calls=sum(one.answers for one in buckets) + failed,
            hits=sum(one.hits for one in buckets),
            failed=failed,
            refusals=sum(one.refused for one in buckets),
            spent_usd=sum(one.spent_usd for one in buckets),
            rate_per_s=requests / max(span_s, 1.0),
            p50_s=latency.quantile(0.5),
            p99_s=latency.quantile(0.99),
        )


class Monitor:
    """Counts what happens. ``clock`` is a monotonic clock; ``gauges`` gives what is true now."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.traffic = Traffic()
        self.registry = CollectorRegistry()
        self.gauges: Callable[[], Iterable[Gauge]] = lambda: ()
        self._clock = clock
        self._requests = self._counter("requests", "Requests that ended.", "tenant", "route", "status")
        self._refused = self._counter("refused", "Requests refused, by reason.", "tenant", "reason")
        self._answers = self._counter("answers", "Answers given.", "tenant", "upstream", "cache")
        self._cost = self._counter("cost_usd", "What answers cost, in US dollars.", "tenant", "upstream")
        self._tokens = self._counter("tokens", "Tokens billed by upstreams.", "tenant", "upstream", "kind")
        self._seconds = Histogram(
            f"{PREFIX}_request_seconds",
            "From the request to the last byte of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.registry.register(self)

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(f"{PREFIX}_{name}", told, labels, registry=self.registry)

    def collect(self) -> Iterable[Metric]:
        """The gauges, for the registry."""
        for name, told, label, figures in self.gauges():
            family = GaugeMetricFamily(f"{PREFIX}_{name}", told, labels=[label])
            for of, figure in figures.items():
                family.add_metric([of], figure)
            yield family

    def ended(self, tenant: str, route: str, status: int, seconds: float, reason: str = "") -> None:
        """A request ended. ``reason`` is the error's code."""
        self._requests.labels(tenant, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        if reason:
            self._refused.labels(tenant, reason).inc()
        bucket = self.traffic.bucket(self._clock())
        if status >= 500:
            bucket.failed += 1
        elif status >= 400:
            bucket.refused += 1
        else:
            bucket.ok += 1
            if route in MODEL_ROUTES:
                bucket.latency.add(seconds)

    def answered(self, tenant: str, upstream: str, answer: Answer, cost_usd: float | None) -> None:
        """An answer was given; ``cost_usd`` is what it cost now."""
        self._answers.labels(tenant, upstream, "hit" if answer.cached else "miss").inc()
        bucket = self.traffic.bucket(self._clock())
        bucket.answers += 1
        bucket.hits += answer.cached
        if answer.cached:
            return
        usage = answer.usage
        for kind, count in (
            ("prompt_hit", usage.cache_hit_tokens),
            ("prompt_miss", usage.cache_miss_tokens),
            ("completion", usage.completion_tokens),
        ):
            self._tokens.labels(tenant, upstream, kind).inc(count)
        if cost_usd:
            self._cost.labels(tenant, upstream).inc(cost_usd)
            bucket.spent_usd += cost_usd

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self.registry)
