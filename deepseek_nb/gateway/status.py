"""The state of the gateway: as JSON for its page, as gauges for Prometheus, and the page itself."""

from __future__ import annotations

import math
from collections.abc import Iterable
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from deepseek_nb.core.alarms import Alarm, Alarms
from deepseek_nb.gateway.desk import Desk
from deepseek_nb.gateway.monitor import Gauge
from deepseek_nb.gateway.refusals import ApiError
from deepseek_nb.gateway.replies import compact
from deepseek_nb.gateway.tokens import Doorkeeper
from deepseek_nb.gateway.webhook import Notice, alarm_notice, upstream_notice

__all__ = ["StatusRoom", "gauges_of"]

PAGE = {
    "status.html": "text/html; charset=utf-8",
    "status.css": "text/css; charset=utf-8",
    "status.js": "text/javascript; charset=utf-8",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class StatusRoom:
    """Shows how the gateway stands. ``now`` in every method is the loop's clock, in seconds."""

    def __init__(self, desk: Desk, doorkeeper: Doorkeeper, now: float) -> None:
        self._desk = desk
        self._doorkeeper = doorkeeper
        self._began_s = now
        self._alarms = Alarms(desk.config.thresholds)

    def page(self, name: str) -> Response:
        """A file of the page."""
        text = (files(__package__) / "page" / name).read_bytes()
        headers = {
            "content-security-policy": POLICY,
            "referrer-policy": "no-referrer",
            "cache-control": "no-cache",
        }
        return Response(text, 200, headers, PAGE[name])

    def json(self, request: Request, now: float) -> Response:
        """The figures. With a token that has the scope ``admin``, the tenants' too."""
        authorization = request.headers.get("authorization")
        caller = None
        if authorization is not None or not self._desk.config.open_status:
            caller = self._doorkeeper.admit(authorization)
            caller.require("metrics", "admin")
        told = self.figures(now)
        if caller is not None and "admin" in caller.scopes:
            told["tenants"] = self.tenants()
        return Response(compact(told), 200, media_type="application/json")

    def metrics(self, request: Request) -> Response:
        """Everything, for Prometheus: with a token of the scope ``metrics`` or ``admin``."""
        if not self._desk.config.open_metrics:
            self._doorkeeper.admit(request.headers.get("authorization")).require("metrics", "admin")
        if request.query_params:
            raise ApiError(400, "There are no parameters here.")
        text = self._desk.monitor.exposition()
        return Response(text, 200, media_type="text/plain; version=0.0.4; charset=utf-8")

    # -- what they say

    def alarms(self, now: float) -> tuple[Alarm, ...]:
        """The alarms that stand."""
        full = [s.held / s.limit for s in self._desk.client.standing().values() if s.limit > 0]
        return self._alarms.judge(
            self._desk.monitor.traffic.figures(now),
            now,
            budget=self._desk.client.budget.used_share,
            in_flight=max(full, default=None),
        )

    def notices(self, now: float) -> list[Notice]:
        """What is wrong now."""
        down = [one for one in self._desk.health.upstreams.values() if one.down]
        return [
            *(alarm_notice(alarm, now) for alarm in self.alarms(now)),
            *(upstream_notice(one.name, one.last_trouble) for one in down),
        ]

    def figures(self, now: float) -> dict[str, Any]:
        """What everybody may see: no tenant's, and no amount of money."""
        desk, traffic = self._desk, self._desk.monitor.traffic
        seen = traffic.figures(now)
        lines = desk.client.standing()
        return {
            "up_s": round(now - self._began_s),
            "span_s": traffic.span_s,
            "bucket_s": traffic.bucket_s,
            "rate_per_s": _round(seen.rate_per_s, 2),
            "p50_ms": _round(1000 * seen.p50_s),
            "p99_ms": _round(1000 * seen.p99_s),
            "error_rate": _round(seen.error_rate, 4),
            "hit_rate": _round(seen.hit_rate, 4),
            "in_flight": sum(quota.in_flight for quota in desk.quotas.values()),
            "waiting": sum(state.waiting for state in lines.values()),
            "series": [[one.ok, one.refused, one.failed] for one in traffic.series(now)],
            "upstreams": [
                {
                    "name": one.name,
                    "state": one.state,
                    "answers": one.answers,
                    "refusals": one.refusals,
                    "failures": one.failures,
                    "last_answer_s": _ago(one.last_answer_s, now),
                    "last_trouble_s": _ago(one.last_trouble_s, now),
                    "last_trouble": one.last_trouble,
                }
                for one in desk.health.upstreams.values()
            ],
            "lines": [
                {
                    "model": model,
                    "limit": _round(state.limit, 1),
                    "held": state.held,
                    "interactive": state.interactive,
                    "waiting": state.waiting,
                    "down_s": _ago(state.down_since_s, now),
                }
                for model, state in lines.items()
            ],
            "alarms": [
                {"name": one.name, "text": one.line(now), "todo": one.todo} for one in self.alarms(now)
            ],
        }

    def tenants(self) -> list[dict[str, Any]]:
        """What the tenants do and spend, for whoever runs the gateway."""
        told = []
        for name, quota in self._desk.quotas.items():
            tenant, day = quota.tenant, self._desk.purses[name].standing_or_none()
            told.append(
                {
                    "name": name,
                    "in_flight": quota.in_flight,
                    "concurrent": tenant.concurrent,
                    "requests_per_second": tenant.requests_per_second,
                    "priority": [tenant.priority, tenant.priority_max],
                    "spent_today_usd": None if day is None else round(day.spent_usd, 6),
                    "limit_day_usd": tenant.budget_day_usd,
                }
            )
        return told


def _round(value: float, digits: int = 0) -> float | None:
    return None if math.isnan(value) else round(value, digits)


def _ago(at_s: float | None, now: float) -> int | None:
    return None if at_s is None else max(0, round(now - at_s))


def _upstream_lines(desk: Desk) -> Iterable[tuple[str, str, dict[str, float]]]:
    """The lines to each upstream, all its models together."""
    stands = {
        one.name: list(desk.client.upstream(one.client_name).standing().values())
        for one in desk.router.served
    }
    bears = {name: sum(state.limit for state in states) for name, states in stands.items()}
    yield "upstream_limit", "What an upstream seems to bear at once.", bears
    held = {name: float(sum(s.held + s.interactive for s in states)) for name, states in stands.items()}
    yield "upstream_requests", "Requests at an upstream.", held
    waits = {name: float(sum(state.waiting for state in states)) for name, states in stands.items()}
    yield "upstream_waiting", "Questions in the line to an upstream.", waits
    probes = {name: float(one.probes) for name, one in desk.health.upstreams.items()}
    yield "upstream_probes", "Times an upstream that was down was asked whether it is back.", probes


def gauges_of(desk: Desk) -> Iterable[Gauge]:
    """What is true now, for Prometheus."""
    upstreams, lines = desk.health.upstreams, desk.client.standing()
    days = {name: day for name, purse in desk.purses.items() if (day := purse.standing_or_none())}
    limits = {name: day.limit_usd for name, day in days.items() if day.limit_usd is not None}
    up = {name: float(one.state not in ("failing", "down")) for name, one in upstreams.items()}
    held = {model: float(state.held + state.interactive) for model, state in lines.items()}
    waiting = {model: float(state.waiting) for model, state in lines.items()}
    flying = {name: float(quota.in_flight) for name, quota in desk.quotas.items()}
    yield "upstream_up", "0 after three failures in a row, until it answers.", "upstream", up
    failures = {name: float(one.failures) for name, one in upstreams.items()}
    yield "upstream_failures", "Faults so far.", "upstream", failures
    refusals = {name: float(one.refusals) for name, one in upstreams.items()}
    yield "upstream_refusals", "429 and 503 so far.", "upstream", refusals
    tiers = {} if desk.client.store is None else desk.client.store.lookups()
    if desk.redis is not None:
        tiers["redis"] = desk.redis.counts["hits"], desk.redis.counts["misses"]
        yield "redis_up", "0 while Redis does not answer.", "tier", {"redis": float(desk.redis.up)}
        yield "redis_errors", "Times Redis failed.", "tier", {"redis": float(desk.redis.counts["errors"])}
    hits = {tier: float(hit) for tier, (hit, _) in tiers.items()}
    yield "cache_hits", "Answers found in a tier; memory is asked first, the disk last.", "tier", hits
    yield (
        "cache_misses",
        "Times it was not there.",
        "tier",
        {t: float(miss) for t, (_, miss) in tiers.items()},
    )
    model = desk.config.settings.model
    waits = {str(lane): desk.load.wait_s(model, lane) for lane in range(1, 6)}
    yield "expected_wait_s", "How long a question of the usual model would wait in line.", "priority", waits
    for name, told, figures in _upstream_lines(desk):
        yield name, told, "upstream", figures
    bears = {model: state.limit for model, state in lines.items()}
    yield "limit", "What the first upstream seems to bear at once.", "model", bears
    yield "upstream_in_flight", "Requests at the first upstream.", "model", held
    yield "waiting", "Questions in the line to the first upstream.", "model", waiting
    yield "in_flight", "Questions under way.", "tenant", flying
    spent = {name: day.spent_usd for name, day in days.items()}
    yield "spent_today_usd", "Spent or perhaps charged today.", "tenant", spent
    yield "budget_day_usd", "What may be spent in a day.", "tenant", limits
