"""The background event loop: how blocking code, such as a notebook cell, uses the one async road."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from anyio.from_thread import BlockingPortal, start_blocking_portal

__all__ = ["Portal", "Stopped", "attend", "background"]

T = TypeVar("T")

TICK_S = 0.05
"""An awaiting cell notices an interrupt only when its loop wakes: this often."""
CLOSING_S = 5.0
"""How long a cancelled piece of work may take to put its books in order."""


class Stopped(asyncio.CancelledError):
    """An awaiting cell was interrupted. In a notebook it takes one line."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


async def attend(work: Future[T], told: str = "The request was cancelled.", *, cancel: bool = True) -> T:
    """Await what runs in the background loop, from any other loop, which goes on meanwhile.

    An interrupt or cancellation raises :class:`Stopped`, saying ``told``, and with ``cancel`` ends the work.
    """
    waiting = asyncio.wrap_future(work)
    try:
        while not waiting.done():
            await asyncio.wait([waiting], timeout=TICK_S)
        return waiting.result()
    except asyncio.CancelledError:
        if work.cancelled():
            raise
        if cancel:
            work.cancel()
        raise Stopped(told) from None


class Closable(Protocol):
    """What can be closed in an event loop."""

    async def aclose(self) -> None:
        """Close it; calling it twice is fine."""
        ...


class Portal:
    """One event loop in a thread of its own, started at the first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stack: ExitStack | None = None
        self._portal: BlockingPortal | None = None
        self._pid = 0
        self._open: WeakSet[Closable] = WeakSet()

    def close_at_end(self, thing: Closable) -> None:
        """Close ``thing`` before the loop ends, if it is still there: no connection is left open."""
        self._open.add(thing)

    def _running(self) -> BlockingPortal:
        with self._lock:
            if self._portal is None or self._pid != os.getpid():
                self._stack = ExitStack()
                self._portal = self._stack.enter_context(start_blocking_portal("asyncio", name="deepseek_nb"))
                self._pid = os.getpid()
                atexit.register(self.close)
            return self._portal

    def run(self, work: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run ``work(*args)`` in the background loop and wait for its result.

        An interrupt (Ctrl-C, the stop button) cancels the work, which is what ends the request and
        its bill, and goes on as KeyboardInterrupt once the work has put its books in order.
        """
        ended = threading.Event()

        async def to_the_end() -> T:
            try:
                return await work(*args)
            finally:
                ended.set()

        future = self._running().start_task_soon(to_the_end)
        try:
            return future.result()
        except KeyboardInterrupt:
            future.cancel()  # from here on the future says "cancelled", whatever the work still does
            ended.wait(CLOSING_S)
            raise

    def start(self, work: Callable[..., Awaitable[T]], *args: Any) -> Future[T]:
        """Run ``work(*args)`` in the background loop; gives the future of its result."""
        return self._running().start_task_soon(work, *args)

    def call_soon(self, call: Callable[..., object], *args: Any) -> None:
        """Call a plain function in the background loop, without waiting."""

        async def soon() -> None:
            call(*args)

        self._running().start_task_soon(soon)

    def close(self) -> None:
        """End the loop and its thread, after what was left open in it."""
        portal = self._portal
        if portal is not None and self._pid == os.getpid():
            for thing in list(self._open):
                with suppress(Exception):
                    portal.start_task_soon(thing.aclose).result(CLOSING_S)
        with self._lock:
            stack, self._stack, self._portal = self._stack, None, None
            if stack is not None and self._pid == os.getpid():
                stack.close()


background = Portal()
"""The loop that all blocking faces of this process share."""
