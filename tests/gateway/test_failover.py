"""The first upstream is killed under load: nobody's request is lost, and new ones go elsewhere in seconds."""

from __future__ import annotations

import asyncio
import time

import httpx

from deepseek_nb.adapters.auth import JWTBearer
from deepseek_nb.sandbox import Sandbox

from .people import SECRETS, chat_body

AT_ONCE = 40
WITHIN_S = 5.0


def test_a_killed_upstream_loses_no_request(serve):
    """40 callers at once, whole and streamed; the server dies with all of them in flight."""
    with (
        Sandbox(count="estimate", first_token_s=0.3, token_s=0.05) as first,
        Sandbox(count="estimate", time_scale=100, api_key=None) as second,
    ):
        more = [
            {"name": "second", "base_url": second.base_url, "model": "deepseek-flash", "key_env": "UP_KEY"}
        ]
        gateway = serve(before=first, more=more, failover="2s", tenants={"desk": {"concurrent": 200}})

        async def load() -> list[tuple[httpx.Response, float]]:
            auth = JWTBearer("desk", SECRETS["desk"])
            limits = httpx.Limits(max_connections=200)
            async with httpx.AsyncClient(
                base_url=gateway.base_url, auth=auth, timeout=30, limits=limits
            ) as client:

                async def ask(number: int) -> tuple[httpx.Response, float]:
                    began_s = time.monotonic()
                    body = chat_body(
                        f"Return exactly: answer number {number} is here", stream=number % 2 == 0
                    )
                    return await client.post("/chat/completions", json=body), time.monotonic() - began_s

                under_way = [asyncio.create_task(ask(number)) for number in range(AT_ONCE)]
                await asyncio.sleep(0.6)
                await asyncio.to_thread(first.stop)
                after = [asyncio.create_task(ask(1000 + number)) for number in range(AT_ONCE)]
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
    slowest_s = max(seconds for _, seconds in seen)
    print(f"slowest {slowest_s:.2f} s")
    assert slowest_s < WITHIN_S
