"""A second copy of a request that says nothing: the answer that begins first is taken, the other hung up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from deepseek_nb.client.exchange import Exchange
from deepseek_nb.client.gate import Gate
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.errors import DeepSeekError

__all__ = ["Hedge"]

A_MOMENT_S = 0.01
"""The request leaves a moment after its clock is set here."""

Second = Callable[[Callable[[Exchange], None]], Awaitable[Exchange | None]]


class Hedge:
    """Runs ``first``, and ``second()`` beside it once ``gate`` finds its silence unusual.

    A byte, a status line included, proves that the server has the request: then there is no second
    copy, since both might be charged. ``second`` makes the copy ready, told what to call when its
    answer begins, or gives None (no budget for it). ``lost`` is told of the exchange that was not
    taken, with its own error or None where it was hung up.
    """

    def __init__(
        self,
        first: Exchange,
        second: Second,
        gate: Gate,
        lost: Callable[[Exchange, DeepSeekError | None], None],
    ) -> None:
        self.taken = first
        """The exchange whose answer, or error, is handed over."""
        self._second = second
        self._gate = gate
        self._lost = lost
        self._runs: dict[asyncio.Task[Answer], Exchange] = {}
        self._began = asyncio.Event()

    def begins(self, exchange: Exchange) -> None:
        """An answer begins: it is the one that is taken, and the others are not heard any more."""
        if not self._began.is_set():
            self._began.set()
            self.taken = exchange
            for other in self._runs.values():
                other.muted = other is not exchange

    async def run(self) -> Answer:
        """The answer that began first; raises a :class:`DeepSeekError` when no copy is left."""
        first = asyncio.create_task(self.taken.run())
        self._runs[first] = self.taken
        try:
            await asyncio.wait([first], timeout=self._gate.hedge_after_s + A_MOMENT_S)
            if not first.done() and self._gate.hedge_due(self.taken.ticket):
                second = await self._second(self.begins)
                if second is not None:
                    self._runs[asyncio.create_task(second.run())] = second
            return await self._race()
        finally:
            await self._hang_up(*self._runs)

    async def _race(self) -> Answer:
        began = asyncio.create_task(self._began.wait())
        try:
            while True:
                waiting: set[asyncio.Task[Any]] = {*self._runs} if began.done() else {*self._runs, began}
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if self._began.is_set():
                    await self._hang_up(*(t for t, e in self._runs.items() if e is not self.taken))
                for task in done - {began}:
                    exchange = self._runs.pop(task, None)
                    if exchange is None:  # hung up a moment ago
                        continue
                    error = task.exception()
                    if error is None or not self._runs:
                        self.taken = exchange
                        answer: Answer = task.result()
                        return answer
                    if not isinstance(error, DeepSeekError):
                        self.taken = exchange
                        raise error
                    self._lost(exchange, error)
        finally:
            began.cancel()

    async def _hang_up(self, *tasks: asyncio.Task[Answer]) -> None:
        """End them and book what they were; a cancellation that comes meanwhile waits for that."""
        gone: asyncio.CancelledError | None = None
        for task in tasks:
            task.cancel()
        while left := [task for task in tasks if not task.done()]:
            try:
                await asyncio.wait(left)
            except asyncio.CancelledError as again:
                gone = again
        for task in tasks:
            exchange = self._runs.pop(task)
            error = None if task.cancelled() else task.exception()
            if exchange is not self.taken:
                self._lost(exchange, error if isinstance(error, DeepSeekError) else None)
        if gone is not None:
            raise gone
