"""Several upstreams: shared by weight, left in seconds when one dies, asked again when it is back."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import httpx
import pytest

from deepseek_nb.adapters.auth import JWTBearer
from deepseek_nb.sandbox import FaultScript, Sandbox

from .people import SECRETS, UPSTREAM_KEY, chat_body, new_client

AT_ONCE = 40
WITHIN_S = 5.0


def stand_in(server: Sandbox, **more) -> dict:
    return {
        "name": "second",
        "base_url": server.base_url,
        "model": "deepseek-flash",
        "key_env": "UP_KEY",
        **more,
    }


def peer(server: Sandbox, name: str = "twin", weight: float = 1.0) -> dict:
    return {"name": name, "base_url": server.base_url, "weight": weight, "key_env": "UP_KEY"}


def asks(gateway, path: str = "/chat/completions"):
    """A context of concurrent questions: gives (client, ask) where ask gives reply and seconds."""
    client = httpx.AsyncClient(
        base_url=gateway.base_url,
        auth=JWTBearer("desk", SECRETS["desk"]),
        timeout=30,
        limits=httpx.Limits(max_connections=300),
        trust_env=False,
    )

    async def ask(number: int, **more) -> tuple[httpx.Response, float]:
        began_s = time.monotonic()
        body = chat_body(f"Return exactly: answer number {number} is here", **more)
        return await client.post(path, json=body), time.monotonic() - began_s

    return client, ask


def test_a_killed_upstream_loses_no_request(serve):
    """40 callers at once in all five lanes, whole and streamed; it dies with all of them in flight."""
    with (
        Sandbox(count="estimate", first_token_s=0.3, token_s=0.05) as first,
        Sandbox(count="estimate", time_scale=100, api_key=None) as second,
    ):
        gateway = serve(
            before=first, more=[stand_in(second)], failover="2s", tenants={"desk": {"concurrent": 200}}
        )

        async def load() -> list[tuple[httpx.Response, float]]:
            client, ask = asks(gateway)

            def one(number: int) -> asyncio.Task:
                return asyncio.create_task(ask(number, stream=number % 2 == 0, priority=1 + number % 5))

            async with client:
                under_way = [one(number) for number in range(AT_ONCE)]
                await asyncio.sleep(0.6)
                await asyncio.to_thread(first.stop)
                after = [one(1000 + number) for number in range(AT_ONCE)]
                return await asyncio.gather(*under_way, *after)

        seen = asyncio.run(load())
    assert [reply.status_code for reply, _ in seen] == [200] * (2 * AT_ONCE)
    for number, (reply, _) in enumerate(seen):
        if number % 2:
            at = number if number < AT_ONCE else 1000 + number - AT_ONCE
            assert reply.json()["choices"][0]["message"]["content"] == f"answer number {at} is here"
        else:
            assert reply.text.endswith("data: [DONE]\n\n")
    assert all(reply.headers["x-upstream"] == "second" for reply, _ in seen[AT_ONCE:])
    assert all(reply.headers["x-degraded"] == "true" for reply, _ in seen[AT_ONCE:])
    slowest_s = max(seconds for _, seconds in seen)
    print(f"slowest {slowest_s:.2f} s")
    assert slowest_s < WITHIN_S


def test_an_upstream_that_freezes_is_left_by_every_lane(serve):
    """Its process is stopped: connections stay open, and nothing comes any more."""
    command = [sys.executable, "-m", "deepseek_nb.cli", "sandbox", "--port", "0"]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ}) as frozen,
        Sandbox(count="estimate", time_scale=100, api_key=UPSTREAM_KEY) as second,
    ):
        try:
            line = next(text for text in frozen.stdout if "http://" in text)
            url = next(word for word in line.split() if word.startswith("http://")).rstrip(".,;")
            slow = [{"name": "twin", "base_url": url, "weight": 1, "key_env": "UP_KEY"}]
            gateway = serve(before=second, more=slow, failover="2s", tenants={"desk": {"concurrent": 200}})

            async def load() -> list[tuple[httpx.Response, float]]:
                client, ask = asks(gateway)
                async with client:
                    await ask(0)
                    frozen.send_signal(signal.SIGSTOP)
                    return await asyncio.gather(*(ask(1 + n, priority=1 + n % 5) for n in range(20)))

            seen = asyncio.run(load())
        finally:
            frozen.send_signal(signal.SIGCONT)
            frozen.terminate()
            frozen.wait()
    assert [(reply.status_code, reply.headers["x-upstream"]) for reply, _ in seen] == [(200, "deepseek")] * 20
    assert max(seconds for _, seconds in seen) < WITHIN_S
    assert max(seconds for _, seconds in seen) > 1.5, "nobody was asked of the frozen one"


def test_peers_share_by_weight_and_know_each_others_answers(serve, upstream):
    with Sandbox(count="estimate", time_scale=100, api_key=UPSTREAM_KEY) as twin:
        gateway = serve(more=[peer(twin, weight=3)])
        with new_client(gateway) as client:
            seen = Counter[str]()
            for number in range(40):
                reply = client.post("/chat/completions", json=chat_body(f"Return exactly: {number}"))
                seen[reply.headers["x-upstream"]] += 1
                assert "x-degraded" not in reply.headers
            assert seen == {"deepseek": 10, "twin": 30}
            again = [
                client.post("/chat/completions", json=chat_body(f"Return exactly: {number}"))
                for number in range(40)
            ]
        assert {reply.headers["x-cache"] for reply in again} == {"hit"}
        assert Counter(reply.headers["x-upstream"] for reply in again) == seen
        assert len(upstream.log) + len(twin.log) < 45  # 40 questions, and the lists of models


def test_a_peer_of_weight_zero_waits_for_the_others_to_fail(serve):
    with (
        Sandbox(count="estimate", time_scale=100, api_key=UPSTREAM_KEY) as first,
        Sandbox(count="estimate", time_scale=100, api_key=UPSTREAM_KEY) as spare,
    ):
        gateway = serve(before=first, more=[peer(spare, "spare", 0)], failover="1s")
        with new_client(gateway) as client:
            for number in range(5):
                reply = client.post("/chat/completions", json=chat_body(f"Return exactly: {number}"))
                assert reply.headers["x-upstream"] == "deepseek"
            first.stop()
            reply = client.post("/chat/completions", json=chat_body("Return exactly: 5"))
            assert (reply.headers["x-upstream"], reply.status_code) == ("spare", 200)
            assert "x-degraded" not in reply.headers
            # the list of models is told by whoever lives
            assert client.get("/models").status_code == 200


def said_of_upstreams(caplog) -> list[tuple[str, str, str]]:
    told = [getattr(record, "fields", {}) for record in caplog.records]
    return [
        (one["upstream"], one["state"], one.get("why", "")) for one in told if one.get("event") == "upstream"
    ]


def test_an_account_that_is_closed_is_left_for_the_next(serve, caplog):
    """An empty balance, and a key that is refused: the question is answered all the same, streamed too."""
    with (
        Sandbox(count="estimate", time_scale=100, balance_usd="0.00", api_key=UPSTREAM_KEY) as broke,
        Sandbox(count="estimate", time_scale=100, api_key="sk-another-0123456789") as closed,
        Sandbox(count="estimate", time_scale=100, api_key=UPSTREAM_KEY) as good,
    ):
        more = [peer(closed, "closed"), {**stand_in(good), "name": "good"}]
        gateway = serve(before=broke, more=more)
        with new_client(gateway) as client:
            for number in range(6):
                body = chat_body(f"Return exactly: {number}", stream=number % 2 == 0)
                reply = client.post("/chat/completions", json=body)
                assert (reply.status_code, reply.headers["x-upstream"]) == (200, "good")
            assert upstream_state(gateway, "closed") == "down"

        async def equal() -> set[tuple[int, str]]:
            client, ask = asks(gateway)
            async with client:
                replies = await asyncio.gather(*(ask(99) for _ in range(20)))
            return {(reply.status_code, reply.headers["x-upstream"]) for reply, _ in replies}

        assert asyncio.run(equal()) == {(200, "good")}
        assert upstream_state(gateway, "good") == "up"
        with new_client(gateway) as client:
            assert len(broke.log.chats) + len(closed.log.chats) < 8
        said = said_of_upstreams(caplog)
        assert ("deepseek", "down", "empty balance") in said, "whoever runs it reads it in the log"
        assert ("closed", "down", "key refused") in said


def upstream_state(gateway, name: str) -> str:
    told = httpx.get(f"{gateway.base_url}/status.json", trust_env=False).json()["upstreams"]
    return next(one["state"] for one in told if one["name"] == name)


def test_an_upstream_that_comes_back_is_found_by_a_probe(serve, caplog):
    """While it is down nobody's question is spent on it; then it answers again; the log says so."""
    caplog.set_level("INFO", "deepseek_nb.gateway")
    with Sandbox(count="estimate", time_scale=100, api_key=UPSTREAM_KEY) as second:
        first = Sandbox(count="estimate", time_scale=100, api_key=UPSTREAM_KEY)
        first.start()
        port = int(first.base_url.rsplit(":", 1)[1])
        gateway = serve(before=first, more=[stand_in(second)], failover="1s", probe_every="0.2s")
        with new_client(gateway) as client:
            assert client.post("/chat/completions", json=chat_body("one")).headers["x-upstream"] == "deepseek"
            first.stop()
            assert client.post("/chat/completions", json=chat_body("two")).headers["x-upstream"] == "second"
            assert upstream_state(gateway, "deepseek") == "down"
            for number in range(5):  # at once, without a try at the dead one
                began_s = time.monotonic()
                client.post("/chat/completions", json=chat_body(f"quick {number}")).raise_for_status()
                assert time.monotonic() - began_s < 1.0
            with Sandbox(count="estimate", time_scale=100, api_key=UPSTREAM_KEY, port=port):
                until_s = time.monotonic() + 20
                while upstream_state(gateway, "deepseek") == "down":
                    assert time.monotonic() < until_s
                    time.sleep(0.1)
                seen = ""
                while seen != "deepseek":
                    assert time.monotonic() < until_s
                    reply = client.post("/chat/completions", json=chat_body(f"back {time.monotonic()}"))
                    seen = reply.headers["x-upstream"]
                assert upstream_state(gateway, "deepseek") == "up"
            with new_client(gateway, "boss", scope="metrics") as boss:
                text = boss.get("/metrics").text
        assert 'deepseek_nb_gateway_upstream_probes{upstream="deepseek"}' in text
        assert said_of_upstreams(caplog) == [
            ("deepseek", "down", "no connection"),
            ("deepseek", "back", ""),
        ]


def test_who_waits_in_line_for_another_goes_back_to_the_one_that_is_up_again(serve):
    """Questions of priority 2 that were sent on to a slow upstream: what it has not begun, it loses."""
    with (
        Sandbox(count="estimate", time_scale=100) as first,
        Sandbox(count="estimate", api_key=None, slots=1, first_token_s=2.0) as slow,
    ):
        gateway = serve(
            before=first,
            more=[stand_in(slow)],
            failover="1s",
            probe_every="0.2s",
            tenants={"desk": {"concurrent": 200}},
        )

        async def load() -> list[tuple[httpx.Response, float]]:
            client, ask = asks(gateway)
            async with client:
                await ask(0)
                await asyncio.sleep(3.5)  # silent for so long, ten refusals show that it is down
                first.faults = FaultScript.always("busy_503")
                waiting = [asyncio.create_task(ask(1 + n, priority=2)) for n in range(12)]
                await asyncio.sleep(2.5)
                assert not all(task.done() for task in waiting)
                first.faults = None
                number = 100
                while first.log.chats[-1].status != 200:
                    number += 1
                    await ask(number)  # the next question finds out
                return await asyncio.gather(*waiting)

        seen = asyncio.run(load())
    assert [reply.status_code for reply, _ in seen] == [200] * 12
    by = Counter(reply.headers["x-upstream"] for reply, _ in seen)
    slowest_s = max(seconds for _, seconds in seen)
    print(f"{dict(by)}, slowest {slowest_s:.1f} s")
    assert by["deepseek"] >= 6
    assert slowest_s < 15, "twelve would be 24 s at the slow one"
    answered = [r.question_hash for r in (*first.log.chats, *slow.log.chats) if r.usable]
    assert len(answered) == len(set(answered)), "none is asked twice"


@pytest.mark.parametrize("allowed", [True, False])
def test_a_tenant_without_fallback_has_the_peers_alone(serve, upstream, allowed):
    with Sandbox(count="estimate", time_scale=100, api_key=None) as second:
        upstream.stop()
        gateway = serve(
            before=upstream,
            more=[stand_in(second)],
            patience="1s",
            failover="0.3s",
            tenants={"desk": {"fallback": allowed}},
        )
        with new_client(gateway) as client:
            reply = client.post("/chat/completions", json=chat_body())
        assert reply.status_code == (200 if allowed else 502)
