"""One tenant never sees another's answers, spending or place in the cache; nobody sees the key."""

from __future__ import annotations

import io
import json
import logging
import sqlite3
import threading
import time

import pytest

from deepseek_nb.client.sync import Client
from deepseek_nb.gateway.logs import JsonLines
from deepseek_nb.sandbox import Sandbox

from .people import SECRETS, UPSTREAM_KEY, chat_body, new_client


def test_the_same_question_is_asked_for_each_tenant(as_tenant, upstream, tmp_path):
    """Each pays for its own, once; in the store each has keys of its own, the service sees each apart."""
    for _ in range(2):
        for name in ("desk", "lab", "boss"):
            assert as_tenant(name).post("/chat/completions", json=chat_body()).status_code == 200
    assert sorted(record.user_id for record in upstream.log.chats) == ["boss", "desk", "lab"]
    with sqlite3.connect(tmp_path / "data" / "answers.db") as database:
        keys = [key for (key,) in database.execute("SELECT key FROM answers")]
    assert sorted(key.partition("/")[0] for key in keys) == ["@boss", "@desk", "@lab"]
    assert len({key.partition("/")[2] for key in keys}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_equal_questions_at_the_same_time_are_one_for_each_tenant(serve, stream):
    """Single flight within a tenant, never across: ten callers of two tenants are two requests."""
    with Sandbox(count="estimate", first_token_s=0.5) as slow:
        gateway = serve(before=slow)
        costs: list[str] = []

        def ask(name: str) -> None:
            with new_client(gateway, name) as client:
                reply = client.post("/chat/completions", json=chat_body(stream=stream))
                assert "[simulated] The" in reply.text or stream
                costs.append(reply.headers["x-cache"])

        threads = [threading.Thread(target=ask, args=(name,)) for name in ("desk", "lab") * 5]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(record.user_id for record in slow.log.chats) == ["desk", "lab"]
        assert sorted(costs) == ["hit"] * 8 + ["miss"] * 2


def test_a_notebook_on_the_same_files_finds_nothing_of_a_tenant(as_tenant, upstream, tmp_path):
    """And no route that a notebook can name begins as a tenant's keys do."""
    as_tenant().post("/chat/completions", json=chat_body("Return exactly: mine"))
    settings = {"base_url": upstream.base_url, "api_key": upstream.api_key, "data_dir": tmp_path / "data"}
    for route in (None, "deepseek", "desk"):
        with Client(**settings, route=route, thinking=False) as client:
            assert client.ask("Return exactly: mine").cached is False
    with pytest.raises(Exception, match="route"):
        Client(**settings, route="@desk")


def test_a_tenant_sees_its_own_spending_only(as_tenant):
    as_tenant("desk").post("/chat/completions", json=chat_body())
    assert as_tenant("desk").get("/user/balance").json()["budget"]["spent_today_usd"] > 0
    lab = as_tenant("lab").get("/user/balance").json()
    assert (lab["budget"]["tenant"], lab["budget"]["spent_today_usd"]) == ("lab", 0)
    told = as_tenant("lab").get("/status.json", headers={"authorization": ""})
    assert told.status_code in (401, 403)
    for name in ("desk", "lab"):
        assert as_tenant(name).get("/metrics").status_code == 403
        assert as_tenant(name).get("/status.json").status_code == 403


def test_user_ids_of_a_tenant_are_apart_and_its_own(as_tenant, upstream):
    """The service's prefix cache is divided by them; none can pose as another tenant."""
    for name, user_id in (("desk", "ann"), ("lab", "ann"), ("lab", "desk"), ("desk", None)):
        more = {} if user_id is None else {"user_id": user_id}
        as_tenant(name).post(
            "/chat/completions", json=chat_body(**more), headers={"cache-control": "no-store"}
        )
    seen = [record.user_id for record in upstream.log.chats]
    assert len(set(seen)) == 4
    assert seen[0].startswith("desk--")
    assert seen[2].startswith("lab--")
    assert seen[3] == "desk"


def test_the_key_and_the_secrets_show_nowhere(as_tenant, upstream, gateway):
    """Not in an answer, a header, a log line or the metrics."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("deepseek_nb.gateway")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        bodies = (chat_body("Return exactly: x"), chat_body("secret-prompt-words"), {"x": 1})
        more = ({}, {"stream": True})
        seen = [as_tenant().post("/chat/completions", json=body | add) for body in bodies for add in more]
        seen += [
            as_tenant("boss").get(path) for path in ("/metrics", "/status.json", "/models", "/user/balance")
        ]
        time.sleep(0.2)  # the line comes after the answer
    finally:
        logger.removeHandler(handler)
    log = stream.getvalue()
    lines = [json.loads(line) for line in log.splitlines()]
    assert len(lines) == len(seen)
    assert {line["event"] for line in lines} == {"request"}
    assert lines[0]["tenant"] == "desk"
    assert lines[0]["cost_usd"] > 0
    assert "secret-prompt-words" not in log
    token = as_tenant().auth._current().reveal()
    for secret in (UPSTREAM_KEY, *SECRETS.values(), token):
        assert secret not in log
        assert all(secret not in f"{reply.headers}{reply.text}" for reply in seen)
    assert UPSTREAM_KEY not in repr(gateway.config)
