"""What a tenant may: requests in a second, questions at once, dollars in a day, models, priorities."""

from __future__ import annotations

import threading
import time

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.gateway.quota import TokenBucket
from deepseek_nb.sandbox import Sandbox

from .people import chat_body, new_client


@given(st.floats(0.1, 1000), st.lists(st.floats(0.0, 3.0), min_size=1, max_size=200), st.integers(0, 20))
def test_no_stretch_of_time_has_more_than_its_share(rate, gaps, owed):
    """And the wait that is told is the truth: a moment before nothing fits, then it does."""
    bucket, now, taken = TokenBucket(rate), 0.0, []
    bucket.owe(owed)
    for gap in gaps:
        now += gap
        wait_s = bucket.take(now)
        if wait_s == 0.0:
            taken.append(now)
            continue
        assert bucket.take(now + 0.5 * wait_s) > 0.0
        now += wait_s * (1 + 1e-9) + 1e-9
        assert bucket.take(now) == 0.0
        taken.append(now)
    for first in range(len(taken)):
        span_s = taken[-1] - taken[first]
        assert len(taken) - first <= max(1.0, rate) + rate * span_s + 1 + 1e-6


def test_too_many_in_a_second_is_429_with_the_time_to_wait(serve):
    """After that time the next one fits; another tenant notices nothing."""
    gateway = serve(tenants={"desk": {"requests_per_second": 2.0}})
    with new_client(gateway) as client, new_client(gateway, "lab") as other:
        replies = [client.post("/chat/completions", json=chat_body()) for _ in range(5)]
        refused = [reply for reply in replies if reply.status_code == 429]
        assert len(refused) >= 2
        assert refused[-1].json()["error"]["code"] == "rate_limit_exceeded"
        wait_s = int(refused[-1].headers["retry-after-ms"]) / 1000
        assert 0 < wait_s <= 0.5
        assert int(refused[-1].headers["retry-after"]) == 1
        time.sleep(wait_s)
        assert client.post("/chat/completions", json=chat_body()).status_code == 200
        assert all(other.post("/chat/completions", json=chat_body()).status_code == 200 for _ in range(5))


def test_the_openai_client_waits_as_it_is_told(serve):
    """Its own retries, by Retry-After, carry it over."""
    gateway = serve(tenants={"desk": {"requests_per_second": 2.0}})
    with new_client(gateway) as client:
        token = client.auth._current().reveal()
    with openai.OpenAI(base_url=gateway.base_url, api_key=token, max_retries=4) as ai:
        for number in range(5):
            ai.chat.completions.create(
                model="deepseek-flash", messages=[{"role": "user", "content": f"Return exactly: {number}"}]
            )


def test_a_batch_counts_as_many(serve):
    gateway = serve(tenants={"desk": {"requests_per_second": 10.0}})
    with new_client(gateway) as client:
        batch = [{"id": number, "prompt": f"Return exactly: {number}"} for number in range(30)]
        assert client.post("/v1/compute", json={"batch_requests": batch}).json()["answered"] == 30
        reply = client.post("/v1/compute", json={"query": "x"})
        assert reply.status_code == 429
        assert 1 <= int(reply.headers["retry-after"]) <= 3


def test_too_many_at_once_is_429(serve):
    """A place is free again when its question ends."""
    with Sandbox(count="estimate", first_token_s=1.0) as slow:
        gateway = serve(before=slow, tenants={"desk": {"concurrent": 2}})
        seen: list[int] = []

        def ask(number: int) -> None:
            with new_client(gateway) as client:
                body = chat_body(f"Return exactly: {number}", stream=number % 2 == 0)
                seen.append(client.post("/chat/completions", json=body).status_code)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(seen) == [200, 200, 429, 429, 429]
        with new_client(gateway) as client:
            assert client.post("/chat/completions", json=chat_body("Return exactly: 9")).status_code == 200


def test_models_that_are_not_open_are_403(serve, upstream):
    gateway = serve(tenants={"desk": {"models": ["deepseek-v4-pro"]}})
    with new_client(gateway) as client:
        reply = client.post("/chat/completions", json=chat_body())
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "model_not_allowed")
        assert not upstream.log.chats
        assert client.post("/chat/completions", json=chat_body(model="deepseek-v4-pro")).status_code == 200
        assert [model["id"] for model in client.get("/models").json()["data"]] == ["deepseek-v4-pro"]
        assert client.get("/models/deepseek-flash").status_code == 404


@pytest.mark.parametrize(("asked", "given_"), [(1, 1), (3, 3), (4, 4), (5, 4), (None, 3)])
def test_a_priority_is_lowered_to_what_the_tenant_has(gateway, as_tenant, asked, given_):
    more = {} if asked is None else {"priority": asked}
    reply = as_tenant("lab").post("/chat/completions", json=chat_body(**more))
    assert reply.headers["x-priority"] == str(given_)
    if asked is not None:
        reply = as_tenant("lab").post("/v1/compute", json={"query": "x"}, headers={"X-Priority": str(asked)})
        assert reply.json()["priority"] == given_


@pytest.mark.parametrize("header", ["0", "6", "five", "", "1.5", "4,4"])
def test_a_priority_that_is_none_is_400(as_tenant, header):
    reply = as_tenant().post("/chat/completions", json=chat_body(), headers={"X-Priority": header})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "x-priority")


def test_a_day_has_its_budget_also_after_a_restart(serve, upstream):
    """Nothing is sent beyond it; the other tenants go on; /user/balance tells the tenant's own day."""
    ask = {"max_tokens": 1000}
    gateway = serve(tenants={"desk": {"budget_day_usd": 0.01}})
    spent_usd, sent = 0.0, 0
    with new_client(gateway) as client:
        for number in range(400):
            reply = client.post("/chat/completions", json=chat_body(f"Say: {'long ' * 60}{number}", **ask))
            if reply.status_code != 200:
                break
            sent += 1
            spent_usd += float(reply.headers["x-cost-usd"])
        assert reply.status_code == 402, reply.text
        error = reply.json()["error"]
        assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
        assert "daily budget of desk" in error["message"]
        assert "starts anew" in error["message"]
        day = client.get("/user/balance").json()
        assert day["budget"]["spent_today_usd"] == pytest.approx(spent_usd, abs=1e-8)
        assert day["budget"]["limit_day_usd"] == 0.01
        assert float(day["balance_infos"][0]["total_balance"]) <= 0.01
    assert spent_usd <= 0.01
    assert len(upstream.log.chats) == sent > 3
    gateway.stop()
    with new_client(serve(tenants={"desk": {"budget_day_usd": 0.01}})) as client:
        reply = client.post("/chat/completions", json=chat_body(f"Say: {'long ' * 60} again", **ask))
        assert reply.status_code == 402
        assert client.get("/user/balance").json()["budget"]["spent_today_usd"] == pytest.approx(
            spent_usd, abs=1e-8
        )
    with new_client(serve(), "lab") as other:
        assert other.post("/chat/completions", json=chat_body("Say: x", **ask)).status_code == 200


def test_the_gateways_own_budget_is_not_told(serve):
    gateway = serve(budget_day_usd=0.0000001, tenants={"desk": {"budget_day_usd": 5.0}})
    with new_client(gateway) as client:
        reply = client.post("/chat/completions", json=chat_body())
    assert (reply.status_code, reply.json()["error"]["code"]) == (402, "gateway_budget")
    assert "$" not in reply.text


def test_a_model_that_nobody_knows_costs_nothing(gateway, as_tenant, upstream):
    """It is not asked for, and nothing is kept for its name; old names and aliases are known."""
    for number in range(50):
        reply = as_tenant().post("/chat/completions", json=chat_body(model=f"made-up-{number}"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "model_not_found")
    assert not upstream.log.chats
    assert as_tenant("boss").get("/status.json").json()["lines"] == []
    assert as_tenant().post("/chat/completions", json=chat_body(model="deepseek-v4-flash")).status_code == 200
    assert as_tenant().post("/chat/completions", json=chat_body(model="deepseek-chat")).status_code == 200
    upstream.stop()
    assert as_tenant().post("/chat/completions", json=chat_body(model="made-up")).status_code == 400


def test_a_list_that_cannot_be_had(gateway, as_tenant, upstream):
    upstream.stop()
    assert as_tenant().get("/models").status_code == 502
    assert as_tenant().post("/chat/completions", json=chat_body(model="made-up")).status_code == 502


def test_a_model_without_a_price_is_not_asked_where_a_budget_is_kept(serve, upstream):
    """Where none is kept it is, and the upstream says what it thinks of the name."""
    listed = {"models": ["house-model"]}
    gateway = serve(tenants={"desk": listed | {"budget_day_usd": 1.0}, "lab": listed})
    with new_client(gateway) as client:
        reply = client.post("/chat/completions", json=chat_body(model="house-model"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "model_without_price")
        assert not upstream.log
    with new_client(gateway, "lab") as client:
        reply = client.post("/chat/completions", json=chat_body(model="house-model"))
        assert (reply.status_code, reply.json()["error"]["code"]) == (400, "model_not_found")
    assert len(upstream.log) == 1
