"""A call that waits in line at a fallback goes back to the server before it, once that is up again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pandas as pd
import pytest

from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.client.gate import Gate
from deepseek_nb.client.routes import Route
from deepseek_nb.client.sync import Client
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.events import CallEvent
from deepseek_nb.sandbox import FaultScript, Sandbox

BULK = 2
DOWN = FaultScript.always("busy_503")
ONE_AT_A_TIME = {"failover_s": 0.1, "concurrency_start": 1, "share_limit": False}


@pytest.fixture
def slow() -> Iterator[Sandbox]:
    """A server that queues whatever it is sent, as a model on a laptop, and answers one in two seconds."""
    with Sandbox(count="estimate", slots=1, queue=10_000, first_token_s=2.0) as running:
        yield running


def route_of(server: Sandbox, name: str = "local") -> Route:
    return Route(
        base_url=server.base_url,
        api_key=server.api_key,
        model="deepseek-flash",
        name=name,
        dialect="deepseek",
        price_usd=(0.0, 0.0, 0.0),
    )


@contextmanager
def up_once(sandbox: Sandbox, due: Callable[[], bool]) -> Iterator[None]:
    """Mend the sandbox as soon as ``due``, in a thread of its own."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            if due():
                sandbox.faults = None
                return

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield
    finally:
        ended.set()
        watching.join()


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not what():  # noqa: ASYNC110 (what is waited for is not ours to announce)
            await asyncio.sleep(0.01)


def gate_of(client: AsyncClient, route: str) -> Gate:
    return client.road.upstream(f"{route}/deepseek-flash").gate("deepseek-flash")


def own_gate(client: AsyncClient) -> Gate:
    return client.road.upstream("").gate("deepseek-flash")


def local_gate(client: AsyncClient) -> Gate:
    return gate_of(client, "local")


async def until_down(client: AsyncClient, *before: Route) -> None:
    """Ask until the breakers of the client's own server and of those ``before`` the last one are open."""
    asking = [
        asyncio.create_task(client.ask(f"Is it {number}?", fallback=[*before], priority=5))
        for number in range(6)
    ]
    gates = (own_gate(client), *(gate_of(client, route.name) for route in before))
    await until(lambda: all(gate.down_s() is not None for gate in gates))
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await asyncio.sleep(0.7)  # down for longer than rows wait for it


@pytest.mark.parametrize("queue", [10_000, 0], ids=["queues", "refuses"])
def test_the_rest_of_a_job_goes_to_the_service_once_it_is_up(tmp_path, sandbox, queue):
    """60 rows in an outage, one a second at the fallback: what only waits there does not stay there."""
    frame = pd.DataFrame({"text": [f"Ticket {n} is about cash" for n in range(60)]})
    sandbox.faults = DOWN
    with (
        Sandbox(count="estimate", slots=1, queue=queue, first_token_s=1.0) as slow,
        Client(
            base_url=sandbox.base_url,
            api_key=sandbox.api_key,
            data_dir=tmp_path,
            failover_s=0.3,
            concurrency_start=4,
        ) as client,
    ):
        mended_s = []

        def some_waited() -> bool:
            if sum(record.usable for record in slow.log.chats) < 5:
                return False
            mended_s.append(time.monotonic())
            return True

        with up_once(sandbox, some_waited):
            out = frame.deepseek.apply(
                "Sum up: {{text}}",
                job="j",
                client=client,
                progress=False,
                fallback=[route_of(slow)],
            )
        took_s = time.monotonic() - mended_s[0]
        print(
            f"{took_s:.1f} s after it was up, {(out.route == 'local/deepseek-flash').sum()} at the fallback"
        )
        assert set(out.status) == {"done"}
        assert took_s < 30, "the rest alone would be 50 s at the fallback"
        assert (out.route == "local/deepseek-flash").sum() < 30
        charged = [r.question_hash for r in (*sandbox.log.chats, *slow.log.chats) if r.cost_usd]
        assert len(charged) == len(set(charged)) == 60, "each row is answered by one of them, once"
        assert not any(record.aborted for record in slow.log.chats), "nothing on the wire is withdrawn"
        assert (out.route == "local/deepseek-flash").sum() == sum(r.usable for r in slow.log.chats)
        assert len(set(client.aio.store.keys())) == 60


def test_they_go_back_in_the_order_in_which_they_came(with_client, sandbox, slow):
    """Who came before stands before, whoever came to that line meanwhile; what was sent stays."""
    local = route_of(slow)

    async def work(client: AsyncClient) -> None:
        sandbox.faults = DOWN
        await until_down(client)
        told: list[tuple[str, CallEvent]] = []

        def ask(name: str, *fallback: Route) -> asyncio.Task:
            def hear(event: CallEvent) -> None:
                told.append((name, event))

            asking = client.ask(f"Return exactly: {name}", fallback=[*fallback], priority=BULK, on_event=hear)
            return asyncio.create_task(asking)

        rows = []
        for number in range(6):
            rows.append(ask(f"row {number}", local))
            await asyncio.sleep(0.02)
        later = ask("row 6")  # in the service's line at once, where the others only come after it
        await until(lambda: own_gate(client).admission.waiting >= 5)
        sandbox.faults = None
        up = len(told)
        answers = await asyncio.gather(*rows, later)
        own_route = client.road.upstream("").route
        sent = [name for name, event in told[up:] if (event.kind, event.route) == ("sent", own_route)]
        assert sent == sorted(sent)
        assert sent[-1] == "row 6"
        back = {name for name, event in told if event.kind == "back"}
        kept = {name for name, event in told if event.kind == "sent" and event.route != own_route}
        assert back == {f"row {number}" for number in range(6)} - kept  # how many, the machine's pace decides
        assert len(back) >= 2
        assert {a.text for a in answers if a.route == own_route} == {*sent}
        assert {event.route for _, event in told if event.kind == "back"} == {own_route}
        for gate in (own_gate(client), local_gate(client)):
            assert (gate.state().waiting, gate.state().held) == (0, 0)
        assert not any(record.aborted for record in slow.log.chats)

    with_client(work, fallback=[local], **ONE_AT_A_TIME)


async def in_line(client: AsyncClient, local: Route, **options: object) -> tuple[asyncio.Task, asyncio.Task]:
    """A row on the wire of the fallback, and one that waits behind it and for the service, too."""
    await until_down(client)
    rows = []
    for name in ("first", "second"):
        rows.append(
            asyncio.create_task(
                client.ask(f"Return exactly: {name}", fallback=[local], priority=BULK, **options)
            )
        )
        await until(lambda: bool(local_gate(client).admission.held))
    await until(lambda: local_gate(client).admission.waiting == 1)
    return rows[0], rows[1]


def test_who_goes_away_leaves_both_lines(with_client, sandbox, slow):
    """Cancelled while it stands in two lines: no place is lost in either."""
    local = route_of(slow)

    async def work(client: AsyncClient) -> None:
        sandbox.faults = DOWN
        first, second = await in_line(client, local)
        await until(lambda: own_gate(client).admission.waiting == 1)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        await asyncio.sleep(0)
        assert own_gate(client).admission.waiting == local_gate(client).admission.waiting == 0
        assert (await first).route == "local"
        assert client.budget.reserved_usd == 0.0

    with_client(work, fallback=[local], **ONE_AT_A_TIME)


@pytest.mark.parametrize("joined", [False, True], ids=["before", "after"])
def test_what_the_service_costs_is_set_aside_before_a_row_goes_back(with_client, sandbox, slow, joined):
    """Without room in the budget it waits on for the fallback, which costs nothing; it does not fail.

    Whether the budget was used up before or after the row stood in the service's line.
    """
    local = route_of(slow)

    async def work(client: AsyncClient) -> None:
        sandbox.faults = DOWN
        first, second = await in_line(client, local, max_tokens=1000)
        if joined:
            await until(lambda: own_gate(client).admission.waiting == 1)
        client.budget.reserve("somebody else", client.budget.left_usd - 1e-4)
        sandbox.faults = None
        assert (await client.ask("Is it back?", fallback=[], max_tokens=1)).usage.completion_tokens == 1
        assert own_gate(client).down_s() is None
        assert not second.done()
        assert (await first).route == (await second).route == "local"
        assert own_gate(client).state().waiting == 0
        client.budget.release("somebody else")
        assert client.budget.reserved_usd == 0.0
        assert client.budget.spent_usd == pytest.approx(sum(r.cost_usd for r in sandbox.log.chats))

    with_client(work, budget_usd=1.0, fallback=[local], **ONE_AT_A_TIME)


def test_a_limited_row_that_goes_back_is_booked_at_the_services_price(with_client, sandbox, slow):
    """What was set aside for the fallback ends; what the answer costs is booked, and nothing else."""
    local = route_of(slow)

    async def work(client: AsyncClient) -> None:
        sandbox.faults = DOWN
        first, second = await in_line(client, local)
        sandbox.faults = None
        answer = await second
        assert answer.route != "local"
        assert (await first).route == "local"
        assert client.budget.reserved_usd == client.budget.unknown_usd == 0.0
        assert client.budget.spent_usd == pytest.approx(answer.cost_usd)
        assert answer.cost_usd == pytest.approx(sum(record.cost_usd for record in sandbox.log.chats))

    with_client(work, budget_usd=1.0, fallback=[local], **ONE_AT_A_TIME)


def test_an_equal_question_waits_for_the_row_that_goes_back(with_client, sandbox, slow):
    """One flight all the way: both get the service's answer, which is asked for once."""
    local = route_of(slow)

    async def work(client: AsyncClient) -> None:
        sandbox.faults = DOWN
        first, second = await in_line(client, local)
        equal = asyncio.create_task(client.ask("Return exactly: second", fallback=[local], priority=BULK))
        await asyncio.sleep(0.1)
        sandbox.faults = None
        answers = await asyncio.gather(second, equal)
        assert answers[0].fingerprint == answers[1].fingerprint
        assert answers[0].route != "local"
        assert sorted(a.cached for a in answers) == [False, True]
        await first
        assert sum(record.usable for record in (*sandbox.log.chats, *slow.log.chats)) == len(
            {r.question_hash for r in (*sandbox.log.chats, *slow.log.chats) if r.usable}
        )

    with_client(work, fallback=[local], **ONE_AT_A_TIME)


def test_of_three_the_first_that_is_up_again_gets_the_row(with_client, sandbox, slow):
    """Both servers before the slow one are down; the one that comes back first is gone back to."""
    local = route_of(slow)

    async def work(client: AsyncClient, second: Sandbox) -> None:
        sandbox.faults = second.faults = DOWN
        chain = [route_of(second, "second"), local]

        async def ask(name: str) -> Answer:
            return await client.ask(f"Return exactly: {name}", fallback=chain, priority=BULK)

        await until_down(client, chain[0])
        gates = (own_gate(client), gate_of(client, "second"))
        rows = [asyncio.create_task(ask(f"row {n}")) for n in range(4)]
        await until(lambda: all(gate.admission.waiting >= 2 for gate in gates))
        second.faults = None
        answers = await asyncio.gather(*rows)
        assert {a.route for a in answers} == {"local", "second"}
        assert not any(record.usable for record in sandbox.log.chats)
        assert [gate.admission.waiting for gate in gates] == [0, 0]

    with Sandbox(count="estimate", time_scale=100) as second:
        with_client(
            lambda client: work(client, second), fallback=[route_of(second, "second"), local], **ONE_AT_A_TIME
        )
