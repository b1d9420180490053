"""A second copy of an interactive call that hears nothing: when it is sent, which counts, what is booked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.client.portal import background
from deepseek_nb.client.sync import Client
from deepseek_nb.core import errors
from deepseek_nb.sandbox import Fault, FaultScript

QUESTION = "The sky is blue. Grass is green. What is blue?"
SOON = {"hedge_after_s": 0.2, "thinking": False}


def wait_for(what: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + 10
    while not what():
        assert time.monotonic() < give_up_s
        time.sleep(0.01)


def test_a_silent_request_is_doubled_and_the_other_answer_taken(sandbox, with_client):
    """No byte for ``hedge_after_s``: a second copy, its answer, and the first booked as perhaps charged."""
    sandbox.faults = FaultScript.of("hang")
    started_s = time.monotonic()

    async def ask(client: AsyncClient) -> None:
        pieces = []
        answer = await client.ask(QUESTION, on_delta=pieces.append)
        assert answer.text == "".join(piece.text for piece in pieces)
        assert client.budget.spent_usd > 0
        assert client.budget.unknown_usd > 0, "whether the silent copy is charged is not known"
        assert client.budget.reserved_usd == 0
        gate = client.road.upstream("").gate("deepseek-flash")
        assert gate.admission.passing == 0, "no place is kept"

    with_client(ask, silence_timeout_s=20, **SOON)
    assert time.monotonic() - started_s < 10, "the silence timeout was not waited for"
    assert len(sandbox.log.chats) == 2


def test_a_request_that_was_heard_of_is_not_doubled(sandbox, with_client):
    """Keep-alives prove that the server has it: two copies would both be charged."""
    sandbox.faults = FaultScript.of(Fault("keepalive_then_json", lines=5, every_s=10.0))
    with_client(lambda c: c.ask(QUESTION), **SOON)
    assert len(sandbox.log.chats) == 1


def test_rows_are_never_doubled(sandbox, with_client):
    """Priority 1 to 3: the silent request is hung up first, then sent again."""
    sandbox.faults = FaultScript.of("hang")
    with_client(lambda c: c.ask(QUESTION, priority=3), silence_timeout_s=1.5, **SOON)
    first, second = sandbox.log.chats
    assert first.ended_s <= second.arrived_s + 5
    assert second.arrived_s - first.arrived_s > 100 * 0.4, "server seconds: not after hedge_after_s"


def test_it_can_be_switched_off(sandbox, with_client):
    """``hedge_after_s=None``."""
    sandbox.faults = FaultScript.of("hang")
    with_client(lambda c: c.ask(QUESTION), hedge_after_s=None, silence_timeout_s=1.0, thinking=False)
    first, second = sandbox.log.chats
    assert second.arrived_s - first.arrived_s > 100 * 0.8


def test_when_both_are_silent_the_silence_ends_them_and_a_third_answers(sandbox, with_client):
    """Two copies hang: both are given up, one fault is counted, the next try answers."""
    sandbox.faults = FaultScript.of("hang", "hang")
    answer = with_client(lambda c: c.ask(QUESTION), silence_timeout_s=1.0, **SOON)
    assert answer.text
    assert len(sandbox.log.chats) == 3


def test_a_refused_copy_leaves_the_first_alone(sandbox, with_client):
    """The second gets a 503: it is not charged, the first is waited for."""
    sandbox.faults = FaultScript.of(Fault("bimodal_hang", wait_s=100.0), "busy_503")

    async def ask(client: AsyncClient) -> None:
        assert (await client.ask(QUESTION)).text
        assert client.budget.unknown_usd == 0

    with_client(ask, silence_timeout_s=30, **SOON)
    assert len(sandbox.log.chats) == 2


def test_without_budget_for_two_there_is_no_second_copy(sandbox, with_client):
    """Each copy reserves its own worst case."""
    sandbox.faults = FaultScript.of(Fault("bimodal_hang", wait_s=100.0))

    async def ask(client: AsyncClient) -> None:
        longest_usd = client.price_now("deepseek-flash").cost_usd(output_tokens=1000)
        await client.ask(QUESTION, max_tokens=1000, budget_usd=1.5 * longest_usd)

    with_client(ask, **SOON)
    assert len(sandbox.log.chats) == 1


def test_an_interrupt_hangs_up_both(sandbox, with_client):
    """Cancelled while two copies are out: both are closed, nothing stays reserved, both may be charged."""
    sandbox.faults = FaultScript.of("hang", "hang")

    async def ask(client: AsyncClient) -> None:
        work = asyncio.create_task(client.ask(QUESTION))
        for _ in range(500):
            if sandbox.in_flight == 2:
                break
            await asyncio.sleep(0.02)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
        assert client.budget.reserved_usd == 0
        assert client.budget.unknown_usd > 0
        assert client.road.upstream("").gate("deepseek-flash").admission.passing == 0

    with_client(ask, silence_timeout_s=30, **SOON)
    assert len(sandbox.log.chats) == 2
    assert not any(record.complete for record in sandbox.log.chats)


def test_an_interrupt_of_the_blocking_client_hangs_up_both(sandbox, tmp_path):
    """Its loop cancels again and again, until the call has ended: the books are in order all the same."""
    sandbox.faults = FaultScript.of("hang", "hang")
    reached = {"base_url": sandbox.base_url, "api_key": sandbox.api_key, "data_dir": tmp_path}
    with Client(**reached, budget_usd=1, **SOON) as client:
        work = background.start(client.atake, client.aio.prepare(QUESTION))
        while sandbox.in_flight < 2:
            time.sleep(0.01)
        work.cancel()
        wait_for(lambda: client.budget.reserved_usd == 0)
        assert client.budget.unknown_usd > 0
        assert client.aio.upstream("").gate("deepseek-flash").admission.passing == 0


def test_a_refused_key_is_told_at_once(sandbox, with_client):
    """An error before the second copy is the error."""
    sandbox.faults = FaultScript.of("governor_401")
    with pytest.raises(errors.AuthError):
        with_client(lambda c: c.ask(QUESTION), **SOON)
    assert len(sandbox.log.chats) == 1
