"""The watchdogs of one event loop: one timer for all, each with limits of its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref

import pytest

from deepseek_nb.client.watchdog import Limits, Watchdog
from deepseek_nb.core.errors import WentSilent

LONG = Limits()


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts the timers that were ever set."""

    timers = 0

    def call_at(self, when, callback, *args, context=None):
        self.timers += 1
        return super().call_at(when, callback, *args, context=context)


async def guarded(limits: Limits, work_s: float) -> float:
    """How long a block that wants ``work_s`` seconds lasts."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    try:
        async with Watchdog(limits):
            await asyncio.sleep(work_s) if work_s else None
    except WentSilent:
        assert work_s
    return loop.time() - began_s


def test_a_crowd_sets_one_timer():
    async def crowd() -> int:
        loop = asyncio.get_running_loop()
        async with Watchdog(LONG):
            before = loop.timers
            for _ in range(200):
                await guarded(LONG, 0)
        return loop.timers - before

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        assert runner.run(crowd()) == 0


def test_each_is_hung_up_on_by_its_own_limit():
    """Also one that begins after another one's timer was set, and is due before it."""

    async def several() -> list[float]:
        limits = [Limits(silence_s=seconds) for seconds in (30.0, 1.2, 0.2, 30.0, 0.6)]
        return await asyncio.gather(*(guarded(each, 2.4) for each in limits))

    lasted_s = asyncio.run(several())
    for found_s, expected_s in zip(lasted_s, (2.4, 1.2, 0.2, 2.4, 0.6), strict=True):
        assert expected_s - 0.01 <= found_s
    assert lasted_s[2] < lasted_s[4] < lasted_s[1] < lasted_s[0]


def test_a_standstill_is_seen_in_its_own_time():
    """Also where that is shorter than the silence, and the first token came just now."""

    async def stands_still() -> float:
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        with contextlib.suppress(WentSilent):
            async with Watchdog(Limits(silence_s=30.0, token_s=0.3)) as dog:
                dog.byte()
                dog.token()
                await asyncio.sleep(10)
        return loop.time() - began_s

    assert 0.3 <= asyncio.run(stands_still()) < 5


def test_a_byte_moves_the_limit():
    heard = []

    async def spoken_to() -> None:
        async with Watchdog(Limits(silence_s=0.5)) as dog:
            for number in range(5):
                await asyncio.sleep(0.2)
                dog.byte()
                heard.append(number)
            await asyncio.sleep(10)

    with pytest.raises(WentSilent, match=r"silent for 0\.5 s"):
        asyncio.run(spoken_to())
    assert heard == [0, 1, 2, 3, 4]


def test_no_loop_is_kept_alive():
    loops = []

    async def one() -> None:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await guarded(LONG, 0)

    for _ in range(3):
        asyncio.run(one())
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3
