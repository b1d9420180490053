"""The gate on a real event loop: waiting, taking back, and kernels that share a real file."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections.abc import Awaitable, Callable

import pytest

from deepseek_nb.adapters.limits import SharedLimits
from deepseek_nb.client.gate import Gate, NotShared
from deepseek_nb.core.admission import Admission, Ticket, Tuning

BULK, INTERACTIVE = 2, 5
PATIENCE_S = 30.0


def admission(**tuning: float) -> Admission:
    return Admission(rng=random.Random(1).random, tuning=Tuning(**{"pardons": 0.0, **tuning}))  # type: ignore[arg-type]


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


async def until(what: Callable[[], bool]) -> None:
    """Wait for ``what``."""
    async with asyncio.timeout(PATIENCE_S):
        while not what():  # noqa: ASYNC110 (what is waited for is not ours to announce)
            await asyncio.sleep(0.005)


class Row:
    """A row that is sent, and hung up and sent again when it is taken back."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.sent = self.taken_back = 0
        self.ticket: Ticket | None = None
        self.task = asyncio.ensure_future(self.live())

    async def live(self) -> None:
        while True:
            self.ticket = await self.gate.enter(self.ticket, BULK)
            self.sent += 1
            hung_up = asyncio.Event()
            self.gate.sent(self.ticket, hung_up.set)
            await hung_up.wait()
            self.taken_back += 1
            self.gate.recalled(self.ticket)


async def call(gate: Gate) -> Ticket:
    """An interactive call on the wire."""
    ticket = await gate.enter(None, INTERACTIVE)
    gate.sent(ticket, lambda: None)
    return ticket


# --------------------------------------------------------------------------------------- one kernel


def test_rows_wait_for_their_place_and_calls_do_not() -> None:
    async def work() -> None:
        gate = Gate(admission(start=2))
        rows = [Row(gate) for _ in range(4)]
        await call(gate)
        await asyncio.sleep(0)
        assert [row.sent for row in rows] == [1, 1, 0, 0]
        state = gate.state()
        assert (state.held, state.waiting, state.kernels, state.down_since_s) == (2, 2, 1, None)
        assert not gate.at_the_end
        gate.close()
        for row in rows:
            row.task.cancel()

    run(work)


def test_waiting_rows_are_taken_back_for_a_call_without_a_token() -> None:
    async def work() -> None:
        gate = Gate(admission(start=3, recall_s=0.05), recall=True)
        rows = [Row(gate) for _ in range(3)]
        await until(lambda: all(row.sent for row in rows))
        first = rows[0].ticket
        assert first is not None
        gate.first_token(first)
        ticket = await call(gate)
        await until(lambda: gate.state().recalls == 2)
        assert [row.taken_back for row in rows] == [0, 1, 1]
        assert gate.state().held == 1
        gate.answered(ticket)
        gate.close()
        for row in rows:
            row.task.cancel()

    run(work)


@pytest.mark.parametrize("why", ["the switch is off", "the token came"])
def test_nothing_is_taken_back_without_need(why: str) -> None:
    async def work() -> None:
        gate = Gate(admission(start=3, recall_s=0.05), recall=why != "the switch is off")
        rows = [Row(gate) for _ in range(3)]
        ticket = await call(gate)
        if why == "the token came":
            gate.first_token(ticket)
        await asyncio.sleep(0.3)
        assert gate.state().recalls == 0
        gate.close()
        for row in rows:
            row.task.cancel()

    run(work)


def test_it_tells_for_how_long_the_server_is_down_and_who_may_probe() -> None:
    async def work() -> None:
        gate = Gate(admission(trip_silence_s=-1.0))
        assert gate.down_s() is None
        assert gate.may_probe()
        tickets = [await gate.enter(None, BULK) for _ in range(10)]
        for ticket in tickets:
            gate.refused(ticket, overloaded=True, named_limit=None)
        down_s = gate.down_s()
        assert down_s is not None
        assert down_s >= 0.0
        assert gate.down_s(gate.now() + 12.0) == pytest.approx(12.0, abs=1.0)
        assert not gate.may_probe()
        assert gate.may_probe(gate.now() + 5.0)
        assert gate.state().down_since_s is not None
        gate.close()

    run(work)


def test_silent_requests_are_named() -> None:
    async def work() -> None:
        gate = Gate(admission(tail_silence_s=0.05, hedge_s=0.05))
        row, ticket = await gate.enter(None, BULK), await call(gate)
        gate.sent(row, lambda: None)
        spoken = await gate.enter(None, BULK)
        gate.sent(spoken, lambda: None)
        gate.byte(spoken)
        assert gate.at_the_end
        await until(lambda: gate.repeat_due(row) and gate.hedge_due(ticket))
        assert not gate.repeat_due(spoken)
        assert not gate.hedge_due(row)
        gate.close()

    run(work)


# ---------------------------------------------------------------------- kernels that share a file


@pytest.fixture
def limits(tmp_path):
    shared = SharedLimits(tmp_path / "limits.db", "account")
    yield shared
    shared.close()


def members(limits: SharedLimits) -> dict[str, list[float]]:
    """The table's members."""
    found: list[str | None] = []
    limits.exchange(lambda text: found.append(text) or text or "")  # type: ignore[func-returns-value]
    return json.loads(found[-1] or "[0, [], {}]")[2]


def test_two_kernels_share_the_limit(limits: SharedLimits) -> None:
    async def work() -> None:
        a, b = (Gate(admission(), shared=limits, member=name) for name in "ab")
        rows = [Row(gate) for gate in (a, b) for _ in range(20)]
        await until(lambda: a.state().kernels == b.state().kernels == 2)
        for _ in range(12):  # the first had nearly all: its rows end, and it gives way
            for row in rows[:20]:
                if row.ticket is not None and row.ticket.held and a.state().held > 8:
                    row.task.cancel()
                    a.answered(row.ticket)
        await until(lambda: a.state().held + b.state().held == 16 and b.state().held >= 4)
        b.refused(
            next(r.ticket for r in rows[20:] if r.ticket and r.ticket.held),
            overloaded=False,
            named_limit=None,
        )
        await until(lambda: a.state().limit < 16)
        a.close()
        b.close()
        for row in rows:
            row.task.cancel()
        await until(lambda: members(limits) == {})

    run(work)


def test_a_call_in_one_kernel_takes_back_the_waiting_rows_of_another(limits: SharedLimits) -> None:
    async def work() -> None:
        a, b = (Gate(admission(recall_s=0.5), shared=limits, member=name, recall=True) for name in "ab")
        rows = [Row(b) for _ in range(6)]
        await until(lambda: all(row.sent for row in rows))  # a place alone is not on the wire
        await call(a)
        await until(lambda: b.state().recalls >= 6)
        assert all(row.taken_back for row in rows)
        a.close()
        b.close()
        for row in rows:
            row.task.cancel()

    run(work)


def test_without_a_usable_file_a_kernel_goes_on_alone_and_says_so_once(limits: SharedLimits) -> None:
    async def work() -> None:
        limits.close()
        gate = Gate(admission(), shared=limits, member="a")
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: told.append(repr(context.get("exception")))
        )
        rows = [Row(gate) for _ in range(20)]
        await until(lambda: gate.state().held == 16)
        assert gate.state().kernels == 1
        assert len(told) == 1  # warnings are errors here
        assert NotShared.__name__ in told[0]
        gate.close()
        for row in rows:
            row.task.cancel()

    run(work)


def test_an_idle_kernel_meets_nobody(limits: SharedLimits) -> None:
    async def work() -> None:
        gate = Gate(admission(), shared=limits, member="a")
        gate.answered(await gate.enter(None, BULK))
        await until(lambda: gate.admission.meet_at() is None)
        await until(lambda: gate._meeting is None and gate._sync_timer is None)
        await asyncio.sleep(0.6)
        assert gate._meeting is None
        assert gate._sync_timer is None
        gate.close()

    run(work)


def test_the_loop_goes_on_while_somebody_sits_on_the_file(limits: SharedLimits) -> None:
    """A meeting waits in its thread, and the rows have the places they had."""

    async def work() -> None:
        gate = Gate(admission(), shared=limits, member="a")
        gate.answered(await gate.enter(None, BULK))
        await until(lambda: gate.admission.meet_at() is None)
        sitter = sqlite3.connect(limits._database.path, isolation_level=None)
        sitter.execute("BEGIN IMMEDIATE")
        ticket = await gate.enter(None, BULK)
        await until(lambda: gate._meeting is not None)
        ticks = 0
        for _ in range(20):
            await asyncio.sleep(0.01)
            ticks += gate._meeting is not None
        assert ticks == 20
        gate.answered(ticket)
        sitter.close()
        await until(lambda: gate._meeting is None)
        gate.close()

    run(work)


class _Quiet(asyncio.TimerHandle):
    """A timer that does not tell when it goes off, as some of uvloop's."""

    __slots__ = ()

    def when(self) -> float:
        raise AttributeError("when")


class _QuietLoop(asyncio.SelectorEventLoop):
    def call_at(self, when, callback, *args, context=None):  # type: ignore[no-untyped-def,override]
        timer = super().call_at(when, callback, *args, context=context)
        timer.__class__ = _Quiet
        return timer


def test_timers_need_not_tell_when_they_go_off(limits: SharedLimits) -> None:
    """The next meeting is planned again and again while one is planned."""

    async def work() -> None:
        gate = Gate(admission(start=2), shared=limits, member="k")
        for _ in range(3):
            tickets = [await gate.enter(None, BULK) for _ in range(2)]
            for ticket in tickets:
                gate.sent(ticket, lambda: None)
            for ticket in tickets:
                gate.answered(ticket)
            await asyncio.sleep(0.02)
        gate.close()

    with asyncio.Runner(loop_factory=_QuietLoop) as runner:
        runner.run(asyncio.wait_for(work(), 60))
