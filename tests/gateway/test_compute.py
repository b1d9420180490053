"""/v1/compute and /v1/stream: one question or a batch, one answer for each id, failures by themselves."""

from __future__ import annotations

import gzip
import json
import time

import pytest
import zstandard

from deepseek_nb.sandbox import Fault, FaultScript

from .people import new_client


def events_of(body: str) -> list[tuple[str, dict]]:
    parts = [part.split("\n") for part in body.split("\n\n") if part and not part.startswith(":")]
    return [
        (lines[0].removeprefix("event: "), json.loads(lines[1].removeprefix("data: "))) for lines in parts
    ]


@pytest.mark.parametrize(
    "body", [{"query": "Return exactly: blue"}, {"prompt": "Return exactly: blue", "priority": 5}]
)
def test_one_question(as_tenant, upstream, body):
    reply = as_tenant().post("/v1/compute", json=body)
    told = reply.json()
    assert (reply.status_code, told["answer"], told["upstream"], told["cached"]) == (
        200,
        "blue",
        "deepseek",
        False,
    )
    assert told["priority"] == body.get("priority", 4)
    assert told["cost_usd"] == pytest.approx(upstream.log.cost_usd)
    assert "reasoning" not in told, "rows do not think unless they are told to"
    assert as_tenant().post("/v1/compute", json=body).json()["cached"] is True


def test_options_are_those_of_a_chat(as_tenant, upstream):
    body = {"query": "The sky is blue.", "model": "deepseek-v4-pro", "system": "Be short.", "max_tokens": 3}
    told = as_tenant().post("/v1/compute", json=body | {"thinking": True, "reasoning_effort": "low"}).json()
    assert told["finish_reason"] == "length"
    (seen,) = upstream.log.chats
    assert seen.model == "deepseek-v4-pro"
    shaped = {"query": "As json: the sky is blue", "response_format": {"type": "json_object"}}
    assert json.loads(as_tenant().post("/v1/compute", json=shaped).json()["answer"])


def test_a_batch_has_one_result_for_each_id(as_tenant, upstream):
    """Of 120 questions some are wrong in themselves, and only they fail; ids come back as they were given."""
    batch = [{"id": number, "prompt": f"Return exactly: {number}"} for number in range(118)]
    batch += [{"id": "blank", "prompt": " "}, {"id": "model", "prompt": "x", "model": "no-such-model"}]
    reply = as_tenant().post("/v1/compute", json={"batch_requests": batch, "priority": 2})
    told = reply.json()
    assert reply.status_code == 200
    results = {result["id"]: result for result in told["results"]}
    assert len(told["results"]) == len(results) == 120
    assert all(results[number]["answer"] == str(number) for number in range(118))
    assert results["blank"]["error"]["status"] == 400
    assert results["model"]["error"]["code"] == "model_not_found"
    assert (told["answered"], told["failed"], told["cached"]) == (118, 2, 0)
    assert told["cost_usd"] == pytest.approx(upstream.log.cost_usd)
    again = as_tenant().post("/v1/compute", json={"batch_requests": batch[:118]}).json()
    assert (again["cached"], again["cost_usd"]) == (118, 0)


def test_a_zstd_body_is_unpacked(as_tenant):
    body = zstandard.ZstdCompressor().compress(json.dumps({"query": "Return exactly: packed"}).encode())
    headers = {"content-encoding": "zstd", "content-type": "application/json"}
    reply = as_tenant("desk").post("/v1/compute", content=body, headers=headers)
    assert reply.json()["answer"] == "packed"


def test_a_gzip_body_is_unpacked(as_tenant):
    body = gzip.compress(json.dumps({"query": "Return exactly: packed"}).encode())
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    assert as_tenant().post("/v1/compute", content=body, headers=headers).json()["answer"] == "packed"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": "a", "prompt": "b"}, "prompt"),
        ({"query": ""}, "query"),
        ({"query": ["a"]}, "query"),
        ({"query": "a", "seed": 1}, "seed"),
        ({"query": "a", "stream": True}, "stream"),
        ({"query": "a", "priority": 0}, "priority"),
        ({"query": "a", "system": 7}, "system"),
        ({"batch_requests": []}, "batch_requests"),
        ({"batch_requests": {"id": "a"}}, "batch_requests"),
        ({"batch_requests": ["a"]}, "batch_requests[0]"),
        ({"batch_requests": [{"prompt": "a"}]}, "batch_requests[0].id"),
        ({"batch_requests": [{"id": True, "prompt": "a"}]}, "batch_requests[0].id"),
        (
            {"batch_requests": [{"id": "a", "prompt": "a"}, {"id": "a", "prompt": "b"}]},
            "batch_requests[1].id",
        ),
        ({"batch_requests": [{"id": n, "prompt": "a"} for n in range(1001)]}, "batch_requests"),
    ],
)
def test_what_is_no_question(as_tenant, upstream, body, param):
    reply = as_tenant().post("/v1/compute", json=body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)
    assert not upstream.log.chats


def test_a_stream_of_events(as_tenant, upstream):
    reply = as_tenant().post("/v1/stream", json={"query": "The sky is blue. What is blue?"})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *deltas, (last, told) = events_of(reply.text)
    assert [kind for kind, _ in deltas] == ["delta"] * len(deltas)
    assert "".join(delta["text"] for _, delta in deltas) == told["answer"]
    assert (last, told["upstream"], told["cached"]) == ("done", "deepseek", False)
    assert told["cost_usd"] == pytest.approx(upstream.log.cost_usd)


def test_a_stream_tells_that_it_begins_anew(as_tenant, upstream):
    upstream.faults = FaultScript.of(Fault("cut_rst", after_tokens=3))
    events = events_of(as_tenant().post("/v1/stream", json={"query": "The sky is blue. What is blue?"}).text)
    kinds = [kind for kind, _ in events]
    at = kinds.index("restart")
    assert "".join(delta["text"] for _, delta in events[at + 1 : -1]) == events[-1][1]["answer"]


def test_a_stream_tells_how_it_failed(serve, upstream):
    upstream.faults = FaultScript.of(*[Fault("cut_rst", after_tokens=3)] * 50)
    with new_client(serve(patience="1s")) as client:
        kind, told = events_of(
            client.post("/v1/stream", json={"query": "The sky is blue. What is blue?"}).text
        )[-1]
    assert (kind, told["error"]["code"]) == ("error", "upstream_failed")


def test_a_batch_leaves_a_place_for_a_single_question(serve, upstream):
    """A tenant's own batch does not shut its single questions out."""
    gateway = serve(tenants={"desk": {"concurrent": 2}})
    upstream.faults = FaultScript.of(Fault("hang"))
    with new_client(gateway) as client:
        batch = {"batch_requests": [{"id": n, "prompt": f"Return exactly: {n}"} for n in range(3)]}
        with pytest.raises(Exception, match="timed out"):
            client.post("/v1/compute", json=batch, timeout=0.5)
        time.sleep(0.2)
        assert client.post("/v1/compute", json={"query": "Return exactly: x"}).json()["answer"] == "x"
        assert client.post("/v1/compute", json=batch).json()["answered"] == 3
