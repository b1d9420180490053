"""Rows on their way into a run: leased from the journal, answered from the store, claimed, queued.

A row is leased long before its turn, in chunks, and claimed for this process only just before it is asked:
a job that is paused keeps nobody waiting. What the store has is given at once and queues nowhere. Rows that
another process holds are looked at again and again, until it has done them or is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from deepseek_nb.adapters.journal import Item, Journal
from deepseek_nb.adapters.store import AnswerStore, json_text
from deepseek_nb.batch.progress import Progress
from deepseek_nb.client.errand import Errand
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.errors import DeepSeekError, StoreFailed

__all__ = ["CHUNK_ROWS", "Intake"]

LEASE_S = 120.0
CHUNK_ROWS = 256
ELSEWHERE_S = 1.0
"""How often to look for rows that another process holds."""
CLAIM_ROWS = 64
"""So many rows are claimed at once, just before they are asked: a paused job keeps nobody waiting."""


class Intake:
    """The rows ``keys`` of one job on their way in. ``await feed()`` once, beside those who take ``next()``.

    ``probe`` is any errand of the job: it says whether and for how long answers are kept. ``check`` raises
    where a kept answer does not fit. ``going`` is set while rows may be sent, ``feeding`` while the store may
    give answers, ``stopping`` once no more are wanted.
    """

    def __init__(
        self,
        store: AnswerStore | None,
        journal: Journal,
        job: str,
        keys: Sequence[str],
        progress: Progress,
        *,
        probe: Errand,
        check: Callable[[Answer], Any] | None,
        going: asyncio.Event,
        feeding: asyncio.Event,
        stopping: asyncio.Event,
    ) -> None:
        self.store = store
        self.journal = journal
        self.job = job
        self.progress = progress
        self.held: dict[int, Item] = {}
        """The rows that this process has leased and not finished, by number."""
        self._probe = probe
        self._check = check
        self._going, self._feeding, self._stopping = going, feeding, stopping
        self._todo: deque[str] = deque(keys)
        self._elsewhere: list[str] = []
        self._leased: deque[Item] = deque()
        self._queue: asyncio.Queue[Item | None] = asyncio.Queue()
        self._claimed: set[str] = set()  # of the queue
        self._hungry = asyncio.Event()  # fewer rows are queued than are claimed at once

    async def feed(self) -> None:
        """Lease rows in chunks, answer from the store what is there, queue the rest. Raises StoreFailed."""
        try:
            while self._todo and not self._stopping.is_set():
                await self._feeding.wait()
                if len(self._leased) >= (1 if self._going.is_set() else CHUNK_ROWS):
                    await self._going.wait()
                    await self._serve()
                    continue
                chunk = [self._todo.popleft() for _ in range(min(CHUNK_ROWS, len(self._todo)))]
                leased = await self._lease(chunk)
                self._elsewhere += (
                    sorted(set(chunk) - leased, key=chunk.index) if len(leased) < len(chunk) else []
                )
            while (self._leased or self._elsewhere) and not self._stopping.is_set():
                await self._going.wait()
                if self._leased:
                    await self._serve()
                else:
                    await self._look_elsewhere()
        finally:
            self._queue.put_nowait(None)

    async def next(self) -> Item | None:
        """The next row to ask; None, for everybody who asks, when there are no more."""
        item = await self._queue.get()
        if item is None:
            self._queue.put_nowait(None)
        elif self._queue.qsize() < CLAIM_ROWS:
            self._hungry.set()
        return item

    def take_claims(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that are claimed for this process; whoever asks for them answers for them now."""
        mine = self._claimed.intersection(keys)
        self._claimed -= mine
        return mine

    def let_go(self) -> None:
        """Rows that wait for long keep no other process waiting; they are claimed one by one later."""
        if self.store is not None:
            for key in self._claimed:
                self.store.let_go(key)
        self._claimed.clear()

    def done(self, item: Item) -> None:
        """The row has come to its end."""
        self.held.pop(item.id, None)

    async def keep_leases(self) -> None:
        """Extend the leases in time, until it is cancelled."""
        while True:
            await asyncio.sleep(LEASE_S / 3)
            with contextlib.suppress(StoreFailed):  # tried again before the leases end
                await asyncio.to_thread(self.journal.extend, list(self.held.values()), LEASE_S)

    async def give_back(self) -> None:
        """What was leased and not finished can be taken by whoever comes next."""
        self.let_go()
        if self.held:
            with contextlib.suppress(StoreFailed):  # then they come back when this process ends
                await asyncio.to_thread(self.journal.put_back, list(self.held.values()))
            self.held.clear()

    async def _serve(self) -> None:
        """Claim the next leased rows and queue them, once fewer are queued than are claimed at once."""
        if self._queue.qsize() >= CLAIM_ROWS:
            self._hungry.clear()
            await self._hungry.wait()
            return
        rows = [self._leased.popleft() for _ in range(min(CLAIM_ROWS, len(self._leased)))]
        store, probe = self.store, self._probe
        if store is not None and probe.look_up and probe.keep:
            keys = [row.key for row in rows]
            claiming = asyncio.ensure_future(store.take_now(keys, probe.ttl_s))
            try:
                self._claimed |= await asyncio.shield(claiming)
            except asyncio.CancelledError:  # the thread claims them all the same
                self._claimed |= await claiming
                raise
            if not self._going.is_set():
                self.let_go()
        for row in rows:
            self._queue.put_nowait(row)

    async def _lease(self, keys: Sequence[str]) -> set[str]:
        leasing = asyncio.ensure_future(asyncio.to_thread(self.journal.lease_among, self.job, keys, LEASE_S))
        try:
            items = await asyncio.shield(leasing)
        except asyncio.CancelledError:  # the thread leases them all the same: they are to be given back
            self.held.update((item.id, item) for item in await leasing)
            raise
        self.held.update((item.id, item) for item in items)
        if not items:
            return set()
        kept: dict[str, dict[str, Any]] = {}
        if self.store is not None and self._probe.look_up:
            kept = await self.store.aget_many([item.key for item in items], self._probe.ttl_s)
        acks: list[tuple[Item, str, float | None]] = []
        turn = {key: place for place, key in enumerate(keys)}  # they come in the order they were written down
        for item in sorted(items, key=lambda item: turn[item.key]):
            if (found := kept.get(item.key)) is not None and self._fits(found):
                acks.append((item, json_text({**found, "cached": True}), 0.0))
            else:
                self._leased.append(item)
        if acks:
            await asyncio.to_thread(self.journal.ack_many, acks)
            for item, _, _ in acks:
                self.held.pop(item.id, None)
            self.progress.done += len(acks)
            self.progress.from_store += len(acks)
        return {item.key for item in items}

    def _fits(self, found: dict[str, Any]) -> bool:
        try:
            answer = Answer.from_json(found)
            if self._check is not None:
                self._check(answer)
        except (DeepSeekError, TypeError, ValueError, KeyError, AttributeError):
            return False
        return True

    async def _look_elsewhere(self) -> None:
        """Rows another process holds: take them over when it is gone, count them when it has done them."""
        await asyncio.sleep(ELSEWHERE_S)
        await self._going.wait()
        await asyncio.to_thread(self.journal.reap, self.job)
        leased = await self._lease(self._elsewhere)
        states = await asyncio.to_thread(self.journal.states, self.job, self._elsewhere)
        for key in self._elsewhere:
            if key not in leased and states.get(key) in ("d", "f"):
                self.progress.done += states[key] == "d"
                self.progress.failed += states[key] == "f"
        self._elsewhere = [k for k in self._elsewhere if k not in leased and states.get(k) in ("q", "r")]
