"""One worker thread does in one go what many callers ask for at the same time."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

__all__ = ["Committing", "GroupCommit"]

T = TypeVar("T")
R = TypeVar("R")

LINGER_S = 0.008
"""How long a group is awaited where the one before was a crowd: fewer commits, and nobody notices."""

_Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[R]"]


class Committing(asyncio.Future[R]):
    """Ends with the commit and not before: a task that is cancelled while it awaits this goes on to the end.

    Then it is cancelled, as after ``asyncio.shield`` in a loop, without what that costs.
    """

    def cancel(self, msg: Any | None = None) -> bool:  # noqa: ARG002 (of a base class)
        """Stops nothing; False says so."""
        return False


class GroupCommit(Generic[T, R]):
    """Hands groups of items to ``commit(items) -> results`` (one result an item), in its own thread.

    A lone item goes at once. A group is what arrived while the one before was at work; where that was a
    crowd, also what arrives within ``LINGER_S`` seconds, so that a crowd shares one fsync. If ``commit``
    raises, everyone in that group gets the error. An item once handed in is committed even if its caller
    stops waiting; at the exit of the process the queue is emptied first. Callable from any thread, loop
    and forked child.

    Example::

        group = GroupCommit(lambda rows: [save(rows)] * len(rows), name="save")
        await group.run(row)      # returns when the commit that holds the row is done
        group.close()
    """

    def __init__(
        self, commit: Callable[[list[T]], Sequence[R]], *, name: str, group_items: int = 2000
    ) -> None:
        self._commit = commit
        self._name = name
        self._group_items = group_items
        self._reset()

    def submit(self, item: T) -> Future[R]:
        """Hand in one item from a thread; ``.result()`` returns or raises when its group is done."""
        future: Future[R] = Future()
        future.set_running_or_notify_cancel()  # from here on it cannot be taken back
        self._hand_in(item, future)
        return future

    async def run(self, item: T) -> R:
        """Hand in one item from a coroutine and wait for its group. Cancelling stops only the waiting."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[R] = loop.create_future()
        self._hand_in(item, (loop, future))
        return await future

    def hand_in(self, item: T) -> Committing[R]:
        """As :meth:`run`, handed in at once; the future ends with the group, and no cancelling ends it."""
        loop = asyncio.get_running_loop()
        future: Committing[R] = Committing(loop=loop)
        self._hand_in(item, (loop, future))
        return future

    def close(self) -> None:
        """Commit what is queued and end the thread. It starts again with the next item."""
        if self._pid != os.getpid():
            return
        with self._wake:
            self._closing = True
            self._wake.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        atexit.unregister(self.close)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._wake = threading.Condition()
        self._queue: deque[tuple[T, Future[R] | _Waiter[R]]] = deque()
        self._thread: threading.Thread | None = None
        self._closing = False

    def _hand_in(self, item: T, waiter: Future[R] | _Waiter[R]) -> None:
        if self._pid != os.getpid():
            self._reset()  # a forked child has neither the thread nor its queue
        with self._wake:
            if self._started():
                self._queue.append((item, waiter))
                self._wake.notify()
                return
        self._do([(item, waiter)])

    def _started(self) -> bool:
        """Whether the thread is there; where the system gives no more of them, the caller commits."""
        if self._thread is None:
            thread = threading.Thread(target=self._work, name=f"deepseek_nb {self._name}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                return False
            self._closing = False
            self._thread = thread
            atexit.register(self.close)
        return True

    def _work(self) -> None:
        crowd = False
        while True:
            with self._wake:
                while not self._queue and not self._closing:
                    self._wake.wait()
                if not self._queue:
                    self._thread = None
                    return
            if crowd and not self._closing:
                time.sleep(LINGER_S)
            with self._wake:
                group = [self._queue.popleft() for _ in range(min(len(self._queue), self._group_items))]
            crowd = len(group) > 1
            self._do(group)
            del group  # or an idle thread would keep the last answers alive

    def _do(self, group: list[tuple[T, Future[R] | _Waiter[R]]]) -> None:
        results: Sequence[R] = ()
        failure: BaseException | None = None
        try:
            results = self._commit([item for item, _ in group])
        except BaseException as error:  # noqa: BLE001 (it is delivered to those who wait)
            failure = error
        loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[R], Sequence[R]]]] = {}
        for number, (_, waiter) in enumerate(group):
            if isinstance(waiter, Future):
                if failure is not None:
                    waiter.set_exception(failure)
                else:
                    waiter.set_result(results[number])
            else:
                loop, future = waiter
                loops.setdefault(loop, []).append((future, results[number : number + 1]))
        for loop, waiting in loops.items():
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits there any more
                loop.call_soon_threadsafe(_deliver, waiting, failure)  # one wake-up a loop, not one an item


def _deliver(waiting: list[tuple[asyncio.Future[R], Sequence[R]]], failure: BaseException | None) -> None:
    for future, result in waiting:
        if future.done():
            continue
        if failure is not None:
            future.set_exception(failure)
        else:
            future.set_result(result[0])
