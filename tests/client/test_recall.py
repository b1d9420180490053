"""The switch that takes rows back which wait in the server's queue, so that an interactive call passes."""

from __future__ import annotations

import asyncio

import pytest

from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.sandbox import Sandbox

ROWS = 40


@pytest.fixture
def queueing():
    """Two answers at a time, half a second each; everybody else waits in line with keep-alives."""
    with Sandbox(slots=2, queue=200, first_token_s=0.5, keep_alive_s=0.2, count="estimate") as server:
        yield server


async def all_arrived(queueing: Sandbox) -> None:
    """Until the server has seen every row. A slow machine may have had the first answers by then."""
    async with asyncio.timeout(30):
        while queueing.in_flight + len(queueing.log) < ROWS:  # noqa: ASYNC110 (the server is in a thread of its own)
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("recall", [True, False])
def test_an_interactive_call_gets_the_place_of_rows_that_never_started(queueing, tmp_path, recall):
    """With the switch it passes rows sent before it; they are asked again, and none is answered twice."""

    async def work() -> tuple[float, int, float]:
        async with AsyncClient(
            base_url=queueing.base_url,
            api_key=queueing.api_key,
            data_dir=tmp_path,
            thinking=False,
            recall=recall,
            concurrency_start=ROWS,
        ) as client:
            rows = [asyncio.create_task(client.ask(f"Return exactly: {n}", priority=2)) for n in range(ROWS)]
            await all_arrived(queueing)
            call = await client.ask("Return exactly: now", priority=5)
            left = sum(not row.done() for row in rows)
            answers = await asyncio.gather(*rows)
            assert [answer.text for answer in answers] == [str(n) for n in range(ROWS)]
            gate = client.road.upstream("").gate("deepseek-flash")
            assert (gate.state().recalls > 0) is recall
            return call.latency_s, left, client.budget.unknown_usd

    latency_s, left, unknown_usd = asyncio.run(work())
    assert queueing.log.answered_twice() == {}
    assert sum(record.usable for record in queueing.log.chats) == ROWS + 1
    if recall:
        assert latency_s < 6, "two seconds until the recall, and then the next place"
        assert left > ROWS / 2, "it passed rows that had been sent before it"
        assert unknown_usd > 0, "whether they are charged is not known: it is booked"
    else:
        assert left < ROWS / 2
        assert unknown_usd == 0


def test_a_call_of_one_kernel_gets_the_place_of_another_ones_rows(queueing, tmp_path):
    """Two clients on one account: the rows of one go back for the call of the other."""
    settings = {
        "base_url": queueing.base_url,
        "api_key": queueing.api_key,
        "data_dir": tmp_path,
        "thinking": False,
        "recall": True,
        "concurrency_start": ROWS,
    }

    async def work() -> tuple[float, int, int]:
        async with AsyncClient(**settings) as busy, AsyncClient(**settings) as other:
            rows = [asyncio.create_task(busy.ask(f"Return exactly: {n}", priority=2)) for n in range(ROWS)]
            await all_arrived(queueing)
            call = await other.ask("Return exactly: now", priority=5)
            left = sum(not row.done() for row in rows)
            assert other.road.upstream("").gate("deepseek-flash").state().kernels == 2
            await asyncio.gather(*rows)
            return call.latency_s, left, busy.road.upstream("").gate("deepseek-flash").state().recalls

    latency_s, left, recalls = asyncio.run(work())
    assert recalls > 0, "the rows' kernel heard of it through the file they share"
    assert latency_s < 6
    assert left > ROWS / 2
    assert queueing.log.answered_twice() == {}
