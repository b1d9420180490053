"""When more is asked than the upstream bears: who waits, who is sent away, and who does not notice."""

from __future__ import annotations

import asyncio
import statistics
import time

import httpx
import pytest

from deepseek_nb.adapters.auth import JWTBearer
from deepseek_nb.sandbox import Sandbox

from .people import SECRETS, UPSTREAM_KEY, chat_body, new_client


def open_client(gateway, name: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=gateway.base_url,
        auth=JWTBearer(name, SECRETS[name]),
        timeout=60,
        limits=httpx.Limits(max_connections=500),
        trust_env=False,
    )


def busy_upstream(concurrency: int) -> Sandbox:
    """Answers take a quarter of a second, so many at once; more is a 429."""
    return Sandbox(
        count="estimate", first_token_s=0.2, token_s=0.01, concurrency=concurrency, api_key=UPSTREAM_KEY
    )


@pytest.mark.slow
def test_low_lanes_are_sent_away_first_and_high_ones_do_not_notice(serve):
    with busy_upstream(10) as server:
        gateway = serve(
            before=server, waits=["0.3s", "4s", "30s"], tenants={"lab": {"concurrent": 300}, "desk": {}}
        )

        async def story():
            async with open_client(gateway, "lab") as lab, open_client(gateway, "desk") as desk:
                number = 0

                async def ask(client, lane: int):
                    nonlocal number
                    number += 1
                    began_s = time.monotonic()
                    body = chat_body(f"Return exactly: {number}", priority=lane)
                    return await client.post("/chat/completions", json=body), time.monotonic() - began_s

                alone = [(await ask(desk, 5))[1] for _ in range(3)]
                first = [asyncio.create_task(ask(lab, 3)) for _ in range(70)]
                await asyncio.sleep(1)  # by now the line's speed is known
                low, middle, high = [], [], []
                for _ in range(8):
                    low.append(asyncio.create_task(ask(lab, 1)))
                    middle.append(asyncio.create_task(ask(lab, 3)))
                    high.append(asyncio.create_task(ask(desk, 5)))
                    await asyncio.sleep(0.1)
                low, middle, high = [await asyncio.gather(*each) for each in (low, middle, high)]
                told_s = float(low[0][0].headers["retry-after"])
                shed_s = time.monotonic()
                await asyncio.gather(*first)
                await asyncio.sleep(max(0.0, told_s - (time.monotonic() - shed_s)))
                again = await ask(lab, 1)
                return alone, low, middle, high, again

        alone, low, middle, high, again = asyncio.run(story())
        with new_client(gateway, "boss", scope="metrics") as client:
            text = client.get("/metrics").text
    refused = [reply for reply, _ in low if reply.status_code == 429]
    assert len(refused) >= 6
    for reply in refused:
        assert reply.json()["error"]["code"] == "capacity_exceeded"
        assert 1 <= int(reply.headers["retry-after"]) <= 60
    assert max(seconds for _, seconds in low) < 3, "they are told at once, or wait a second"
    assert [reply.status_code for reply, _ in middle] == [200] * 8
    assert [reply.status_code for reply, _ in high] == [200] * 8
    usual_s, under_load_s = statistics.median(alone), statistics.median(s for _, s in high)
    print(f"priority 5: {usual_s:.2f} s alone, {under_load_s:.2f} s under load")
    assert under_load_s < usual_s + 1.5
    assert again[0].status_code == 200, "after the time that was named, there is room"
    assert 'refused_total{reason="capacity_exceeded",tenant="lab"}' in text
    assert 'expected_wait_s{priority="1"}' in text


@pytest.mark.slow
def test_while_a_batch_begins_nobody_is_told_a_longer_wait_than_the_batch_takes(serve):
    """The first answers of many that are under way say little about how fast they come."""
    with busy_upstream(16) as server:
        gateway = serve(
            before=server, waits=["1s", "4s", "30s"], tenants={"lab": {"concurrent": 300}, "desk": {}}
        )

        async def story():
            async with open_client(gateway, "lab") as lab, open_client(gateway, "desk") as desk:
                prompts = [{"id": n, "prompt": f"Return exactly: {n}"} for n in range(250)]
                began_s = time.monotonic()
                whole = asyncio.create_task(
                    lab.post("/v1/compute", json={"batch_requests": prompts, "priority": 1})
                )
                asked = []
                for number in range(100):
                    body = chat_body(f"Return exactly: {number} too", priority=1)
                    asked.append(asyncio.create_task(desk.post("/chat/completions", json=body)))
                    await asyncio.sleep(0.01)
                replies = await asyncio.gather(*asked)
                assert (await whole).json()["answered"] == 250
                return replies, time.monotonic() - began_s

        replies, took_s = asyncio.run(story())
    told_s = [int(r.headers["retry-after-ms"]) / 1000 for r in replies if r.status_code == 429]
    print(f"the batch took {took_s:.1f} s; told were {[round(s, 1) for s in told_s]}")
    assert told_s
    assert max(told_s) <= took_s


@pytest.mark.slow
def test_capacity_falls_and_only_the_low_lane_notices(serve):
    """Two upstreams bear the load; one is killed, and the other bears half of it."""
    with busy_upstream(10) as first, busy_upstream(10) as second:
        twin = {"name": "twin", "base_url": second.base_url, "weight": 1, "key_env": "UP_KEY"}
        tenants = {"lab": {"concurrent": 500}, "desk": {}}
        gateway = serve(
            before=first, more=[twin], failover="2s", waits=["0.5s", "4s", "30s"], tenants=tenants
        )

        async def story():
            async with open_client(gateway, "lab") as lab, open_client(gateway, "desk") as desk:

                async def ask(client, name: str, lane: int):
                    began_s = time.monotonic()
                    body = chat_body(f"Return exactly: {name}", priority=lane)
                    reply = await client.post("/chat/completions", json=body)
                    return reply.status_code, time.monotonic() - began_s

                async def phase(name: str, seconds: float):
                    low, high = [], []
                    for tick in range(round(seconds * 60)):
                        low.append(asyncio.create_task(ask(lab, f"{name} {tick}", 1)))
                        if tick % 10 == 0:
                            high.append(asyncio.create_task(ask(desk, f"{name} high {tick}", 5)))
                        await asyncio.sleep(1 / 60)
                    return await asyncio.gather(*low), await asyncio.gather(*high)

                both = await phase("both", 3)
                await asyncio.to_thread(second.stop)
                await phase("falling", 2.5)
                return both, await phase("one", 3)

        both, one = asyncio.run(story())
    assert {status for status, _ in both[1] + one[1]} == {200}
    assert {status for status, _ in both[0] + one[0]} <= {200, 429}
    shed_before, shed = (sum(status == 429 for status, _ in low) for low in (both[0], one[0]))
    before_s, after_s = (statistics.median(s for _, s in high) for high in (both[1], one[1]))
    print(f"refused {shed_before} and {shed} of 180; priority 5: {before_s:.2f} s and {after_s:.2f} s")
    assert shed > shed_before
    assert after_s < before_s + 1.5


def test_a_low_lane_goes_to_a_stand_in_where_its_tenant_allows(serve):
    with busy_upstream(4) as server, Sandbox(count="estimate", time_scale=100, api_key=UPSTREAM_KEY) as local:
        more = [{"name": "local", "base_url": local.base_url, "model": "deepseek-flash", "key_env": "UP_KEY"}]
        gateway = serve(
            before=server,
            more=more,
            failover="30s",
            waits=["0.5s", "1s", "30s"],
            tenants={"lab": {"concurrent": 300, "degrade": 2}, "desk": {"concurrent": 300}},
        )

        async def story():
            async with open_client(gateway, "lab") as lab, open_client(gateway, "desk") as desk:
                kept = chat_body("Return exactly: kept", priority=1)
                await desk.post("/chat/completions", json=kept)
                line = [
                    asyncio.create_task(
                        desk.post("/chat/completions", json=chat_body(f"Return exactly: {n}", priority=3))
                    )
                    for n in range(60)
                ]
                await asyncio.sleep(1.5)
                body = chat_body("Return exactly: low", priority=1)
                there = await lab.post("/chat/completions", json=body)
                here = await desk.post("/chat/completions", json=body)
                found = await desk.post("/chat/completions", json=kept)
                batch = {"priority": 1, "batch_requests": [{"id": 1, "prompt": "x"}]}
                whole = await desk.post("/v1/compute", json=batch)
                for one in line:
                    one.cancel()
                await asyncio.gather(*line, return_exceptions=True)
                return there, here, found, whole

        there, here, found, whole = asyncio.run(story())
    assert there.status_code == 200
    assert (there.headers["x-upstream"], there.headers["x-degraded"]) == ("local", "true")
    assert there.json()["choices"][0]["message"]["content"] == "low"
    assert here.status_code == 429
    assert (found.status_code, found.headers["x-cache"]) == (200, "hit"), "what is kept needs no line"
    assert (whole.status_code, whole.json()["error"]["code"]) == (429, "capacity_exceeded")
