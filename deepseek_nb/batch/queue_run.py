"""A job that others work off: the rows are in a queue, this process looks on.

It stands where a :class:`~deepseek_nb.batch.run.JobRun` stands in a :class:`~deepseek_nb.batch.job.Job`.
Here is what all queues have in common, and the run of a job in the ledger's own queue, which workers with
the same data folder (``deepseek-nb worker``) take it from. A job on a broker: ``broker_run``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from deepseek_nb.adapters.journal import ItemRow, Journal
from deepseek_nb.adapters.queued import DASK, LEDGER, Queued
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.run import DRAIN_S
from deepseek_nb.core import errors
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.errors import ConfigError, DeepSeekError

__all__ = ["LedgerRun", "QueueRun", "error_of", "refuse_elsewhere"]

LOOK_S = 0.3
"""How often to look into the ledger, at least; no more than a twentieth of the time goes into it."""
BUSY_SHARE = 20


def error_of(record: Mapping[str, Any]) -> DeepSeekError:
    """The error that a worker wrote down (``batch.run.error_record``), as one that can be raised here."""
    kind = getattr(errors, str(record.get("error")), DeepSeekError)
    if not (isinstance(kind, type) and issubclass(kind, DeepSeekError)):
        kind = DeepSeekError
    return kind(str(record.get("message")), hint=str(record.get("hint") or ""), status=record.get("status"))


def refuse_elsewhere(journal: Journal, name: str, queue: str | None) -> None:
    """Raise ConfigError where the job's rows are on a broker, and not on the one that is meant now."""
    there = journal.queued.get(name)
    if there is None or there.queue in (queue, LEDGER, DASK):
        return
    raise ConfigError(
        f"The job {name!r} is in the queue at {there.queue}: its rows may be under way there.",
        hint=f"Go on with queue={there.queue!r} (and its password), or take it back first: "
        f"deepseek-nb worker --queue {there.queue} --take-back {name!r}",
    )


class QueueRun(ABC):
    """What a job in any queue does here. ``await run()`` once; the rest in the same loop.

    ``pause`` takes the rows out of the queue, ``resume`` puts them in again, ``stop`` takes them out for
    good, and ``leave`` only stops looking: the work goes on.
    """

    def __init__(
        self,
        journal: Journal,
        job: str,
        pending: Sequence[str],
        progress: Progress,
        *,
        budget_usd: float | None,
    ) -> None:
        self.journal = journal
        self.job = job
        self.progress = progress
        self.stopped_by: DeepSeekError | None = None
        self.unsaved: dict[str, str] = {}
        """None here: what comes is in the ledger, or waits in the queue."""
        self.pending = dict.fromkeys(pending)
        self._budget_usd = budget_usd
        self._began_usd = progress.cost_usd
        self._wanted = True  # in the queue
        self._ending: float | None = None  # until when to wait for what is under way
        self._left = False
        self.put = threading.Event()
        """Set when the rows are in the queue, and when it has ended."""
        self._look_after_s = LOOK_S
        self._looked_s = time.monotonic()
        self._wake = asyncio.Event()

    def pause(self) -> None:
        """Take what nobody has begun out of the queue; what is under way comes in."""
        self._wanted = False
        self._wake.set()

    def resume(self) -> None:
        """Put it in again."""
        self._wanted = True
        self._wake.set()

    def stop(self, why: DeepSeekError | None = None) -> None:
        """Take the rows back; those under way have ``DRAIN_S`` seconds to come in."""
        if self._ending is None:
            self.stopped_by = self.stopped_by or why
            self._ending = time.monotonic() + DRAIN_S
            self._wake.set()

    def hurry(self, drain_s: float) -> None:
        """After :meth:`stop`: no longer than this."""
        if self._ending is not None:
            self._ending = min(self._ending, time.monotonic() + drain_s)

    def leave(self) -> None:
        """Stop looking; the job stays in its queue."""
        self._left = True
        self._wake.set()

    @abstractmethod
    async def run(self) -> None:
        """Until every row is done or failed, or the job is stopped or left."""

    def ledger(self) -> Iterator[ItemRow]:
        """Every row of the job as the journal has it."""
        return self.journal.rows(self.job)

    # -- for the queues

    async def rest(self) -> None:
        """Until the next look is due, or something was asked for."""
        self._wake.clear()
        try:
            async with asyncio.timeout(self._look_after_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    @property
    def look_is_due(self) -> bool:
        """Whether it was long enough ago that the ledger was looked into."""
        return time.monotonic() - self._looked_s >= self._look_after_s

    async def look(self) -> None:
        """Bring the figures up to what the ledger says."""
        began = time.monotonic()
        await asyncio.to_thread(self._look)
        self._look_after_s = max(LOOK_S, BUSY_SHARE * (time.monotonic() - began))
        now_s = time.monotonic()
        self.progress.tick(now_s - self._looked_s)
        self._looked_s = now_s

    def _look(self) -> None:
        figures = self.progress
        if self.pending:
            states = self.journal.states(self.job, list(self.pending))
            for key, state in states.items():
                if state in ("d", "f"):
                    del self.pending[key]
                    figures.done += state == "d"
                    figures.failed += state == "f"
            figures.on_the_wire = sum(state == "r" for state in states.values())
        there = self.journal.job(self.job)
        if there is not None:
            figures.money = Budget(self._budget_usd, spent_usd=there.spent_usd, unknown_usd=there.unknown_usd)
            figures.spent_usd = figures.cost_usd - self._began_usd

    @property
    def drained(self) -> bool:
        """Whether a job that is being stopped need wait no longer."""
        return self._ending is not None and (not self.progress.on_the_wire or time.monotonic() > self._ending)

    def note_pause(self, *, queued: bool) -> None:
        """Have the figures say whether the rows are in the queue."""
        self.progress.paused = not queued


class LedgerRun(QueueRun):
    """A job in the ledger's own queue."""

    def __init__(
        self,
        journal: Journal,
        job: str,
        pending: Sequence[str],
        progress: Progress,
        *,
        options: Mapping[str, Any],
        priority: int,
    ) -> None:
        super().__init__(journal, job, pending, progress, budget_usd=options.get("budget_usd"))
        self._options = dict(options)
        self._priority = priority
        if self.pending:
            self._put()
        self.put.set()

    def _put(self) -> Queued:
        return self.journal.queued.put(self.job, LEDGER, priority=self._priority, options=self._options)

    async def run(self) -> None:
        """Look on until every row is done or failed, or the job is stopped or left."""
        queued = True
        while not self._left:
            if self._ending is not None and queued:
                queued = False
                await asyncio.to_thread(self.journal.queued.remove, self.job)
            elif self._ending is None and queued != self._wanted:
                queued = self._wanted
                await asyncio.to_thread(self._put if queued else self._take_back)
                self.note_pause(queued=queued)
            await self.look()
            if not self.pending:
                await asyncio.to_thread(self.journal.queued.remove, self.job)
                return
            if self.drained:
                return
            if queued:
                await self._hear()
            await self.rest()

    def _take_back(self) -> None:
        self.journal.queued.remove(self.job)

    async def _hear(self) -> None:
        """What workers say of it."""
        there = await asyncio.to_thread(self.journal.queued.get, self.job)
        if there is not None and there.error is not None:
            self.stop(error_of(there.error))
            return
        held = self.progress.on_the_wire
        self.progress.waiting = "" if held else "waits for a worker (deepseek-nb worker)"
