"""/metrics, /healthz, the status page and its figures, and the log."""

from __future__ import annotations

import io
import json
import logging
import sys

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deepseek_nb.gateway.health import Health
from deepseek_nb.gateway.logs import JsonLines
from deepseek_nb.gateway.monitor import Traffic
from deepseek_nb.sandbox import FaultScript

from .people import chat_body, new_client

PREFIX = "deepseek_nb_gateway_"


def figures_of(text: str) -> dict[tuple[str, ...], float]:
    """Every figure, by name and the values of its labels."""
    return {
        (
            sample.name.removeprefix(PREFIX),
            *(sample.labels[name] for name in sorted(sample.labels)),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_tell_what_happened(serve, upstream):
    gateway = serve(tenants={"lab": {"requests_per_second": 1.0}, "desk": {"budget_day_usd": 1.0}})
    with new_client(gateway) as desk, new_client(gateway, "lab") as lab, new_client(gateway, "boss") as boss:
        for _ in range(3):
            desk.post("/chat/completions", json=chat_body())
        desk.post("/chat/completions", json={"model": 1})
        for _ in range(3):
            lab.post("/v1/compute", json={"query": "x"})
        desk.get("/never/there")
        reply = boss.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain")
    told = figures_of(reply.text)
    assert told["requests_total", "chat", "200", "desk"] == 3
    assert told["requests_total", "chat", "400", "desk"] == 1
    assert told["requests_total", "compute", "429", "lab"] == 2
    assert told["requests_total", "other", "404", ""] == 1
    assert told["refused_total", "rate_limit_exceeded", "lab"] == 2
    assert told["answers_total", "hit", "desk", "deepseek"] == 2
    assert told["answers_total", "miss", "desk", "deepseek"] == 1
    first = upstream.log.chats[0]
    assert told["tokens_total", "completion", "desk", "deepseek"] == first.completion_tokens
    assert told["cost_usd_total", "desk", "deepseek"] == pytest.approx(first.cost_usd)
    assert told["spent_today_usd", "desk"] == pytest.approx(first.cost_usd)
    assert told["budget_day_usd", "desk"] == 1.0
    assert ("budget_day_usd", "lab") not in told
    assert told["request_seconds_count", "chat"] == 4
    assert told["upstream_up", "deepseek"] == 1
    assert told["in_flight", "desk"] == 0
    assert told["limit", "deepseek-flash"] >= 1


def test_metrics_need_a_scope_unless_they_are_open(gateway, serve):
    assert httpx.get(f"{gateway.base_url}/metrics").status_code == 401
    assert httpx.get(f"{serve(open_metrics=True).base_url}/metrics").status_code == 200


def test_the_figures_are_open_and_the_tenants_are_not(serve):
    gateway = serve()
    with new_client(gateway) as client:
        client.post("/chat/completions", json=chat_body())
        client.post("/chat/completions", json=chat_body())
    told = httpx.get(f"{gateway.base_url}/status.json").json()
    assert (told["hit_rate"], told["error_rate"], told["in_flight"]) == (0.5, 0.0, 0)
    assert told["p50_ms"] <= told["p99_ms"]
    assert sum(map(sum, told["series"])) == 2
    assert [one["state"] for one in told["upstreams"]] == ["up"]
    assert not any(word in json.dumps(told) for word in ("tenant", "usd", "desk", "127.0.0.1"))
    with new_client(gateway, "boss", scope="metrics") as client:
        assert "tenants" not in client.get("/status.json").json()
    with new_client(gateway, "boss", scope="admin") as client:
        (desk, *_) = client.get("/status.json").json()["tenants"]
    assert (desk["name"], desk["limit_day_usd"]) == ("desk", None)
    assert desk["spent_today_usd"] > 0
    closed = serve(open_status=False)
    assert httpx.get(f"{closed.base_url}/status.json").status_code == 401
    assert httpx.get(f"{closed.base_url}/healthz").json() == {"status": "ok"}


def test_the_page_asks_nobody_else(gateway):
    """Everything it needs comes from here, and its policy forbids all else."""
    for path in ("/", "/status"):
        reply = httpx.get(gateway.base_url + path)
        assert reply.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert "http" not in reply.text
    assert httpx.get(f"{gateway.base_url}/status.js").headers["content-type"].startswith("text/javascript")
    assert httpx.get(f"{gateway.base_url}/status.css").headers["content-type"].startswith("text/css")


def test_an_upstream_that_fails_shows(serve, upstream):
    gateway = serve(patience="3s", alarms={"least_calls": 1, "error_rate": 0.5})
    upstream.faults = FaultScript.of(*["busy_503"] * 400)
    with new_client(gateway) as client:
        assert client.post("/chat/completions", json=chat_body()).status_code == 503
        told = client.get("/status.json", auth=None).json()
        (one,) = told["upstreams"]
        assert one["state"] == "failing"
        assert one["refusals"] >= 3
        assert one["last_trouble"] == "busy (503)"
        assert "error_rate" in [alarm["name"] for alarm in told["alarms"]]
        upstream.faults = None
        assert client.post("/chat/completions", json=chat_body()).status_code == 200
        assert client.get("/status.json", auth=None).json()["upstreams"][0]["state"] == "up"


def test_what_a_caller_did_wrong_is_no_trouble_of_an_upstream():
    from deepseek_nb.core import errors

    health = Health(["a"])
    health.trouble("a", errors.RequestInvalid("no"), 1.0)
    health.trouble("a", errors.AnswerEmpty("blank"), 1.0)
    health.trouble("b", errors.Overloaded("busy"), 1.0)
    assert health.upstreams["a"].state == "unused"
    for _ in range(3):
        health.trouble("a", errors.ServerFault("500"), 2.0)
    assert health.upstreams["a"].state == "down"
    health.back("a", 3.0)
    assert health.upstreams["a"].state == "failing", "a probe alone shows no answer"
    health.well("a", 3.0)
    assert health.upstreams["a"].state == "up"


def test_what_is_five_minutes_old_is_not_counted():
    traffic = Traffic(span_s=300.0, bucket_s=5.0)
    traffic.bucket(0.0).ok += 10
    traffic.bucket(200.0).failed += 2
    assert (traffic.figures(200.0).rate_per_s, traffic.figures(200.0).failed) == (12 / 200, 2)
    assert traffic.figures(400.0).rate_per_s == 2 / 300
    assert traffic.figures(900.0).rate_per_s == 0
    assert len(traffic.series(900.0)) == 60


def test_a_log_line_of_an_error_tells_kind_and_place_and_no_words():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.Logger("test")
    logger.addHandler(handler)
    try:
        {}["what the prompt said"]
    except KeyError:
        logger.error("Exception in ASGI application: what the prompt said", exc_info=sys.exc_info())
    line = json.loads(stream.getvalue())
    assert (line["exception"], line["level"]) == ("KeyError", "error")
    assert line["at"].startswith("test_monitoring.py:")
    assert "prompt" not in json.dumps({**line, "at": ""})
