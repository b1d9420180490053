"""The background event loop: how blocking code, such as a notebook cell, uses the one async road."""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

import anyio
from anyio.from_thread import BlockingPortal

__all__ = ["CANCELLED", "Interrupt", "Portal", "Stopped", "attend", "background"]

T = TypeVar("T")

TICK_S = 0.05
"""An awaiting cell notices an interrupt only when its loop wakes: this often."""
CLOSING_S = 5.0
"""How long a cancelled piece of work may take to put its books in order."""
CANCELLED = "The request was cancelled."


class Interrupt(KeyboardInterrupt):
    """A blocking call was interrupted. In a notebook it takes one line."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


class Stopped(asyncio.CancelledError):
    """An awaiting cell was interrupted. In a notebook it takes one line."""

    def _render_traceback_(self) -> list[str]:
        return [f"Interrupted: {self}"]


async def attend(work: Future[T], told: str = CANCELLED, *, cancel: bool = True) -> T:
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
    """One event loop in a thread of its own, started at the first use.

    A forked child starts another one. What its parent has open stays the parent's.
    """

    def __init__(self) -> None:
        self._begin_anew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._leave_to_parent)

    def _leave_to_parent(self) -> None:
        """In a forked child: nothing is closed that both have open, not even by the garbage collector.

        Closing a connection here takes it out of the list that the parent waits on: its answer, paid for,
        would not be noticed there.
        """
        for thing in list(self._open):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._portal: BlockingPortal | None = None
        self._open: WeakSet[Closable] = WeakSet()

    def close_at_end(self, thing: Closable) -> None:
        """Close ``thing`` before the loop ends, if it is still there: no connection is left open."""
        self._open.add(thing)

    def _running(self) -> BlockingPortal:
        with self._lock:
            if self._portal is None:
                begun: Future[BlockingPortal] = Future()
                # a context of its own: the loop is no part of the cell that happens to be the first
                self._thread = threading.Thread(
                    target=Context().run, args=(_serve, begun), name="deepseek_nb", daemon=True
                )
                self._thread.start()
                self._portal = begun.result()
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
            raise Interrupt(CANCELLED) from None

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
        if portal is not None:
            for thing in list(self._open):
                with suppress(Exception):
                    portal.start_task_soon(thing.aclose).result(CLOSING_S)
        with self._lock:
            portal, thread, self._portal, self._thread = self._portal, self._thread, None, None
            if portal is not None and thread is not None:
                with suppress(RuntimeError):  # it has ended by itself
                    portal.call(portal.stop)
                thread.join()


def _serve(begun: Future[BlockingPortal]) -> None:
    """The event loop's thread, until the portal is stopped."""

    async def serve() -> None:
        async with BlockingPortal() as portal:
            begun.set_result(portal)
            await portal.sleep_until_stopped()

    try:
        anyio.run(serve)
    except BaseException as error:
        if begun.done():
            raise
        begun.set_exception(error)


background = Portal()
"""The loop that all blocking faces of this process share."""
