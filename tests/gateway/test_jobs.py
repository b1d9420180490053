"""Queued batches: taken at once, asked in the background, seen by their tenant alone, and never lost."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from deepseek_nb.gateway.ledger import JOBS_FILE, Entry, Ledger
from deepseek_nb.sandbox import FaultScript, Sandbox

from .people import SECRETS, UPSTREAM_KEY, new_client


def batch(count: int, **more):
    questions = [{"id": f"q{n}", "prompt": f"Return exactly: {n}"} for n in range(count)]
    return {"batch_requests": questions, "queue": True, **more}


def when_done(client, where: str, within_s: float = 40.0):
    until_s = time.monotonic() + within_s
    while True:
        told = client.get(where).raise_for_status().json()
        if told["state"] == "done":
            return told
        assert time.monotonic() < until_s, told
        time.sleep(0.1)


def test_a_queued_batch_is_answered_in_the_background(gateway, as_tenant, upstream):
    client = as_tenant("desk")
    asked = batch(30)
    asked["batch_requests"].append({"id": "bad", "prompt": ""})
    reply = client.post("/v1/compute", json=asked)
    assert reply.status_code == 202
    where, told = reply.headers["location"], reply.json()
    assert (told["object"], told["total"], told["pending"]) == ("job", 31, 30)
    assert where == f"/v1/jobs/{told['id']}"
    done = when_done(client, where)
    results = {one["id"]: one for one in done["results"]}
    assert len(done["results"]) == 31
    assert all(results[f"q{n}"]["answer"] == str(n) for n in range(30))
    assert {one["upstream"] for one in done["results"] if "answer" in one} == {"deepseek"}
    assert {one["priority"] for one in done["results"] if "answer" in one} == {1}
    assert results["bad"]["error"]["status"] == 400
    assert done["finished"] is not None
    # in pieces
    first = client.get(where, params={"limit": 10}).json()
    second = client.get(where, params={"after": first["next"], "limit": 10}).json()
    assert first["results"] + second["results"] == done["results"][:20]
    assert client.get(where, params={"limit": "x"}).status_code == 400
    listed = client.get("/v1/jobs").json()["data"]
    assert [(one["id"], one["state"]) for one in listed] == [(told["id"], "done")]
    with new_client(gateway, "boss", scope="metrics") as boss:
        assert 'deepseek_nb_gateway_queued{tenant="desk"} 0.0' in boss.get("/metrics").text


def test_one_question_can_be_queued_and_its_priority_is_bounded(as_tenant):
    client = as_tenant("desk")
    reply = client.post("/v1/compute", json={"query": "Return exactly: 5", "queue": True, "priority": 5})
    (result,) = when_done(client, reply.headers["location"])["results"]
    assert (result["id"], result["answer"], result["priority"]) == (1, "5", 3)
    assert client.post("/v1/compute", json={"query": "x", "queue": 1}).status_code == 400
    assert client.post("/v1/stream", json={"query": "x", "queue": True}).status_code == 400


def test_other_tenants_have_no_such_job(as_tenant):
    mine, theirs = as_tenant("desk"), as_tenant("lab")
    where = mine.post("/v1/compute", json=batch(2)).headers["location"]
    nowhere = theirs.get("/v1/jobs/0123")
    for reply in (theirs.get(where), theirs.delete(where), nowhere):
        assert reply.status_code == 404
        assert reply.json() == nowhere.json()
    assert theirs.get("/v1/jobs").json()["data"] == []
    assert len(when_done(mine, where)["results"]) == 2


def test_a_job_can_be_deleted_while_it_runs(serve):
    with Sandbox(count="estimate", first_token_s=1.0, api_key=UPSTREAM_KEY) as slow:
        gateway = serve(before=slow, tenants={"desk": {"concurrent": 4}})
        with new_client(gateway) as client:
            where = client.post("/v1/compute", json=batch(50)).headers["location"]
            until_s = time.monotonic() + 20
            while not slow.in_flight:
                assert time.monotonic() < until_s
                time.sleep(0.02)
            assert client.delete(where).status_code == 204
            assert client.get(where).status_code == 404
            while slow.in_flight:
                assert time.monotonic() < until_s
                time.sleep(0.02)
            asked = len(slow.log.chats)
            other = client.post("/v1/compute", json=batch(2)).headers["location"]
            assert len(when_done(client, other)["results"]) == 2
            assert len(slow.log.chats) <= asked + 2


def test_a_busy_upstream_is_waited_out(serve, upstream):
    gateway = serve(patience="0.2s")
    upstream.faults = FaultScript.weights({"busy_503": 1.0})
    with new_client(gateway) as client:
        where = client.post("/v1/compute", json=batch(5)).headers["location"]
        time.sleep(1.5)
        told = client.get(where).json()
        assert (told["pending"], told["results"]) == (5, [])
        upstream.faults = None
        done = when_done(client, where)
    assert sorted(one["answer"] for one in done["results"]) == list("01234")


def test_a_damaged_question_or_result_stops_none_of_the_others(serve, tmp_path):
    """Each has its error; the job ends, and so does the next one."""
    file = tmp_path / "data" / JOBS_FILE
    wish = {"look_up": True, "keep": True, "ttl_s": None}
    entries = [Entry(f"q{n}", {"query": f"Return exactly: {n}"}) for n in range(4)]
    with closing(Ledger(file)) as ledger:
        where = "/v1/jobs/" + ledger.add("desk", 1, wish, entries)
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("UPDATE items SET body=substr(body, 9) WHERE number=1")
        connection.execute('UPDATE items SET result=\'{"id": "q2\' WHERE number=2')
    with new_client(serve()) as client:
        results = when_done(client, where)["results"]
        assert [one.get("answer") for one in results] == ["0", None, None, "3"]
        assert [one["error"]["status"] for one in results[1:3]] == [400, 500]
        other = client.post("/v1/compute", json=batch(2)).headers["location"]
        assert len(when_done(client, other)["results"]) == 2


def test_the_queue_is_bounded(serve):
    gateway = serve(queued_max=10)
    with new_client(gateway) as client:
        reply = client.post("/v1/compute", json=batch(11))
        assert (reply.status_code, reply.json()["error"]["code"]) == (429, "queue_full")
        assert client.post("/v1/compute", json=batch(10)).status_code == 202


CONFIG = """
[gateway]
port = 0
data_dir = "{data}"
[[upstream]]
name = "deepseek"
base_url = "{url}"
key_env = "UP_KEY"
[tenant.desk]
secret_env = "S_DESK"
concurrent = 8
cache = {cache}
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_jobs_survive_the_gateway(tmp_path, how):
    """It is ended half-way and started again: every question has one answer.

    After a kill few were asked twice, after a signal none: what is at the server is taken first.
    """
    with Sandbox(count="estimate", first_token_s=0.2, api_key=UPSTREAM_KEY) as server:
        text = CONFIG.format(data=tmp_path / "data", url=server.base_url, cache="true")
        (tmp_path / "g.toml").write_text(text)
        command = [sys.executable, "-m", "deepseek_nb.cli", "gateway", "--config", tmp_path / "g.toml"]
        environ = {**os.environ, "UP_KEY": UPSTREAM_KEY, "S_DESK": SECRETS["desk"]}

        @contextmanager
        def start() -> Iterator[subprocess.Popen[str]]:
            with subprocess.Popen(
                command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            ) as one:
                try:
                    one.base_url = next(word for word in one.stdout.readline().split() if "http" in word)
                    yield one
                    one.wait(30)
                finally:
                    one.kill()

        with start() as first:
            with new_client(first) as client:
                where = client.post("/v1/compute", json=batch(40)).headers["location"]
                until_s = time.monotonic() + 30
                while client.get(where).json()["pending"] > 30:
                    assert time.monotonic() < until_s
                    time.sleep(0.02)
            first.send_signal(how)
        before = len(server.log.chats)
        assert 10 <= before < 40
        with start() as second:
            with new_client(second) as client:
                done = when_done(client, where)
            second.terminate()
        assert Counter(one["id"] for one in done["results"]) == {f"q{n}": 1 for n in range(40)}
        assert all(one["answer"] == one["id"][1:] for one in done["results"])
        assert len(server.log.chats) <= 40 + (4 if how is signal.SIGKILL else 0)
