"""Another route when the first is busy, down or broken: when it is taken, and what its answer is called."""

from __future__ import annotations

import asyncio
import os
import socket
import time

import pandas as pd
import pytest

from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.client.routes import Route, read_routes
from deepseek_nb.client.sync import Client
from deepseek_nb.core import errors
from deepseek_nb.core.secret import Secret
from deepseek_nb.sandbox import Fault, FaultScript, Sandbox

QUESTION = "The sky is blue. Grass is green. What is blue?"
HASTY = {"failover_s": 0.5, "thinking": False}


@pytest.fixture
def local():
    """A second server: the model on this machine."""
    with Sandbox(count="estimate", time_scale=100) as running:
        yield running


@pytest.fixture
def local_route(local) -> Route:
    return Route(
        base_url=local.base_url,
        api_key=local.api_key,
        model="deepseek-flash",
        name="local",
        dialect="deepseek",
    )


def always(*names: str) -> FaultScript:
    """These faults in turn, for ever."""
    return FaultScript.of(*(names * 400))


@pytest.mark.parametrize(
    "fault", ["busy_503", "rate_429", "reset_before_headers", "html_500", "hang", "empty_200"]
)
def test_an_interactive_call_takes_the_next_route_in_time(with_client, sandbox, local, local_route, fault):
    """Refused, broken or silent for ``failover_s``: the next route answers, and the answer says so."""
    sandbox.faults = always(fault)
    told = []
    started_s = time.monotonic()
    answer = with_client(lambda c: c.ask(QUESTION, fallback=[local_route], on_event=told.append), **HASTY)
    assert time.monotonic() - started_s < 5
    assert (answer.route, answer.origin) == ("local", "local/deepseek-flash")
    assert len(local.log.chats) == 1
    (turn,) = [event for event in told if event.kind == "fallback"]
    assert turn.route == "local"
    assert turn.error.retryable
    assert all(event.route == "local" for event in told[told.index(turn) :])


def test_a_server_that_is_not_there_is_passed_over(tmp_path, local, local_route):
    """Nobody listens: nothing was sent there, the next route answers, nothing is booked for the first."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Client(
        base_url=f"http://127.0.0.1:{port}",
        api_key="k" * 20,
        data_dir=tmp_path,
        fallback=[local_route],
        **HASTY,
    ) as client:
        assert client.ask(QUESTION).route == "local"
        assert client.budget.unknown_usd == 0.0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("governor_401", errors.AuthError),
        ("balance_402", errors.BalanceExhausted),
        ("content_risk", errors.ContentRefused),
    ],
)
def test_what_asking_elsewhere_does_not_mend_is_raised(with_client, sandbox, local, local_route, fault, kind):
    """A wrong key, an empty account, a refused text: the user is told, and no other route is asked."""
    sandbox.faults = always(fault)
    with pytest.raises(kind):
        with_client(lambda c: c.ask(QUESTION, fallback=[local_route]), **HASTY)
    assert len(local.log.chats) == 0


def test_a_fallback_answer_never_poses_as_the_first_routes(with_client, sandbox, local, local_route):
    """It is kept under its own name: once the first server is back, that one is asked and its answer kept."""

    async def ask(client: AsyncClient) -> None:
        sandbox.faults = always("busy_503")
        first = await client.ask(QUESTION, fallback=[local_route])
        again = await client.ask(QUESTION, fallback=[local_route])
        assert (first.route, again.route, again.cached) == ("local", "local", True)
        assert len(local.log.chats) == 1, "it is found under its own key"
        sandbox.faults = None
        await asyncio.sleep(1.5)  # the breaker lets a probe through
        for _ in range(100):
            back = await client.ask(QUESTION, fallback=[local_route])
            if back.route != "local":
                break
            await asyncio.sleep(0.2)
        assert not back.cached
        assert back.origin != first.origin
        assert (await client.ask(QUESTION)).origin == back.origin

    with_client(ask, **HASTY)


def test_who_did_not_allow_another_route_gets_none(with_client, sandbox, local, local_route):
    """Two equal questions at once, one with a fallback: the other waits for its own server."""

    async def ask(client: AsyncClient) -> None:
        sandbox.faults = always("busy_503")
        strict = asyncio.create_task(client.ask(QUESTION, fallback=[]))
        loose = asyncio.create_task(client.ask(QUESTION, fallback=[local_route]))
        other = asyncio.create_task(client.ask(QUESTION + " Say.", fallback=[local_route]))
        assert (await other).route == "local"
        sandbox.faults = None
        assert (await strict).route != "local"
        await loose

    with_client(ask, **HASTY)


def test_the_chain_is_gone_in_order_and_begun_again(with_client, sandbox, local, local_route):
    """Both servers refuse for a while: first, second, first ... until one answers, with waits between."""

    async def ask(client: AsyncClient) -> None:
        sandbox.faults = always("busy_503")
        local.faults = FaultScript.of(*["busy_503"] * 4)
        told = []
        answer = await client.ask(QUESTION, fallback=[local_route], on_event=told.append)
        assert answer.route == "local"
        assert len(sandbox.log.chats) >= 2
        waits_s = sum(event.wait_s for event in told if event.kind == "waiting")
        assert waits_s > 0.2, "a chain of servers that all refuse is not hammered"

    with_client(ask, **HASTY)


def test_when_all_routes_stay_busy_the_patience_ends_it(with_client, sandbox, local, local_route):
    """Nothing charged, and the error is the last server's."""
    sandbox.faults = local.faults = always("busy_503")
    started_s = time.monotonic()
    with pytest.raises(errors.Overloaded, match="times in"):
        with_client(lambda c: c.ask(QUESTION, fallback=[local_route], patience="2s"), **HASTY)
    assert time.monotonic() - started_s < 8
    assert sum(record.cost_usd for record in (*sandbox.log.chats, *local.log.chats)) == 0


def test_another_model_of_the_same_server_is_a_route(with_client, sandbox):
    """Named by its model; it has an admission of its own, and is billed at its own price."""
    sandbox.faults = always("busy_503")

    def calm_down(event) -> None:
        if event.kind == "fallback":
            sandbox.faults = None

    async def ask(client: AsyncClient) -> None:
        answer = await client.ask(QUESTION, fallback="deepseek-v4-pro", on_event=calm_down)
        assert answer.origin.endswith("/deepseek-v4-pro")
        (charged,) = [record for record in sandbox.log.chats if record.cost_usd]
        assert charged.model == "deepseek-v4-pro"
        assert answer.cost_usd == pytest.approx(charged.cost_usd)
        assert (await client.ask(QUESTION, model="deepseek-v4-pro")).cached, "it is that model's own answer"
        gates = client.road.upstream("").gate
        assert gates("deepseek-v4-pro") is not gates("deepseek-flash")

    with_client(ask, **HASTY)


def test_a_job_goes_on_elsewhere_and_its_column_says_so(tmp_path, sandbox, local, local_route):
    """The server goes down in mid-job: the rest is answered by the other, no row is lost or unmarked."""
    frame = pd.DataFrame({"text": [f"Ticket {n} is about cash" for n in range(60)]})
    sandbox.faults = FaultScript.of(*[None] * 20, *["busy_503"] * 4000)
    with Client(
        base_url=sandbox.base_url,
        api_key=sandbox.api_key,
        data_dir=tmp_path,
        failover_s=0.3,
        concurrency_start=4,
    ) as client:
        out = frame.deepseek.apply(
            "Sum up: {{text}}", job="j", client=client, progress=False, fallback=[local_route]
        )
        assert set(out.status) == {"done"}
        primary = f"{sandbox.base_url.removeprefix('http://')}/deepseek-flash"
        counts = out.route.value_counts()
        assert set(counts.index) == {primary, "local/deepseek-flash"}
        assert counts["local/deepseek-flash"] == len(local.log.chats)
        kept = set(client.aio.store.keys())
        assert sum(key.startswith("local/") for key in kept) == counts["local/deepseek-flash"]
        assert sum(key.startswith(primary) for key in kept) == counts[primary]
        again = frame.deepseek.apply(
            "Sum up: {{text}}", job="j", client=client, progress=False, fallback=[local_route]
        )
        assert list(again.route) == list(out.route), "a resumed job keeps who answered"


def test_a_breaker_that_is_open_sends_calls_on_at_once(with_client, sandbox, local, local_route):
    """While the first server is known to be down, a call does not wait for it to say so again."""

    async def ask(client: AsyncClient) -> None:
        sandbox.faults = always("busy_503")
        number = 0
        while client.road.upstream("").gate("deepseek-flash").down_s() is None:
            number += 1
            await client.ask(f"{QUESTION} {number}", fallback=[local_route])
            await asyncio.sleep(0.1)
        sent = len(sandbox.log.chats)
        started_s = time.monotonic()
        answers = await asyncio.gather(
            *(client.ask(f"{QUESTION} again {number}", fallback=[local_route]) for number in range(10))
        )
        assert {a.route for a in answers} == {"local"}
        assert time.monotonic() - started_s < 3
        assert len(sandbox.log.chats) - sent <= 3, "probes only"

    with_client(ask, failover_s=0.2, thinking=False)


# ------------------------------------------------------------------------------------ what is refused


def test_the_clients_key_is_never_sent_to_another_server(tmp_path, sandbox, local):
    """Without a key of its own a server on this machine is asked without one, any other one not at all."""
    bare = Route(base_url=local.base_url, model="deepseek-flash", name="local")
    sandbox.faults = always("busy_503")
    with (
        Client(
            base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path, fallback=[bare], **HASTY
        ) as client,
        pytest.raises(errors.AuthError, match="governor"),  # what it says to a request without any key
    ):
        client.ask(QUESTION)
    with pytest.raises(errors.ConfigError, match="key of its own"):
        Client(api_key="k" * 20, fallback=[Route(base_url="https://other.example", model="m")])


@pytest.mark.parametrize(
    ("fallback", "told"),
    [
        (3, "list of routes"),
        ([3], "model name or a Route"),
        ([{"modle": "x"}], "modle"),
        ([Route(base_url="http://127.0.0.1:1/v1")], "needs a model"),
        ([Route(name="x", model="m")], "needs a base_url"),
        ([Route()], "a model or a base_url"),
        ([Route(base_url="http://10.0.0.1/v1", model="m", api_key="k" * 20)], "plain http"),
        ([Route(base_url="https://169.254.169.254", model="m", api_key="k" * 20)], "link-local"),
        ([Route(base_url="https://x.example", model="m", api_key="k" * 20, api_key_env="K")], "one of them"),
        ([Route(base_url="https://x.example", model="m", api_key_env="NOT_SET_AT_ALL")], "NOT_SET_AT_ALL"),
        (
            [Route(base_url="http://127.0.0.1:1", model="m", name="api.deepseek.com")],
            "name of your own server",
        ),
        (
            [
                Route(base_url="http://127.0.0.1:1", model="m", name="a"),
                Route(base_url="http://127.0.0.1:2", model="m", name="a"),
            ],
            "Two fallbacks",
        ),
    ],
)
def test_a_route_that_cannot_be_used_is_refused_before_anything_is_sent(fallback, told):
    """A ConfigError that says what to do."""
    with pytest.raises(errors.ConfigError, match=told):
        AsyncClient(api_key="k" * 20, fallback=fallback)


def test_a_route_does_not_show_its_key(monkeypatch):
    """Given or named: neither repr nor str has it."""
    route = Route(base_url="https://x.example", model="m", api_key="sk-secret-0123456789")
    assert "0123456789" not in repr(route) + str(route) + f"{route}"
    monkeypatch.setitem(os.environ, "OTHER_KEY", "sk-secret-0123456789")
    client = AsyncClient(
        api_key="k" * 20, fallback=[Route(base_url="https://x.example", model="m", api_key_env="OTHER_KEY")]
    )
    assert "0123456789" not in repr(vars(client))
    assert Secret("sk-secret-0123456789") in client._upstreams.secrets


def test_a_route_can_be_written_as_a_name_or_a_dict():
    """The three forms of one thing."""
    assert read_routes("deepseek-v4-pro") == read_routes([{"model": "deepseek-v4-pro"}])
    assert read_routes([Route(model="deepseek-v4-pro")]) == read_routes(["deepseek-v4-pro"])
    assert read_routes(None) == read_routes([]) == ()


def test_a_route_is_booked_at_the_price_it_was_given(with_client, sandbox):
    """US dollars per million tokens: cache hit, cache miss, output."""
    sandbox.faults = always("busy_503")
    with Sandbox(count="estimate") as other:
        paid = Route(
            base_url=other.base_url,
            api_key=other.api_key,
            model="deepseek-v4-pro",
            name="b",
            price_usd=(1.0, 2.0, 3.0),
        )

        async def ask(client: AsyncClient) -> None:
            answer = await client.ask(QUESTION, fallback=[paid], budget_usd=5.0)
            usage = answer.usage
            expected_usd = (
                usage.cache_hit_tokens * 1.0 + usage.cache_miss_tokens * 2.0 + usage.completion_tokens * 3.0
            ) / 1e6
            assert answer.cost_usd == pytest.approx(expected_usd)

        with_client(ask, **HASTY)


def test_other_servers_are_not_sent_what_only_deepseek_knows(local):
    """The dialect leaves out ``thinking`` and ``user_id``."""
    from deepseek_nb.core.chat import ChatRequest, Message
    from deepseek_nb.core.wire import request_body

    request = ChatRequest("m", (Message("user", "q"),), thinking=False, user_id="u", json_mode=True)
    assert b"thinking" in request_body(request)
    body = request_body(request, dialect="openai")
    assert b"thinking" not in body
    assert b"user_id" not in body
    assert b"json_object" in body


def test_a_fault_is_counted_for_its_own_route(with_client, sandbox, local, local_route):
    """Eight faults at the first server do not use up the second's tries."""
    sandbox.faults = always("cut_rst")
    local.faults = FaultScript.of(Fault("cut_rst"), Fault("cut_rst"))
    answer = with_client(
        lambda c: c.ask(QUESTION, fallback=[local_route]), failover_s=60.0, max_faults=2, thinking=False
    )
    assert answer.route == "local"
    assert len(local.log.chats) == 3
