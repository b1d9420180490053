"""A worker on the ledger's own queue: jobs that others put there are resumed here, in a loop.

Each job is worked off as ``jobs resume`` does it, with all that a run has: leases, the first row alone,
the order that the server's cache likes, one budget for all. Jobs of the highest priority go first; those
below are paused meanwhile. A worker that is killed loses its leases, and the next one takes its rows.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from deepseek_nb.adapters.journal import Journal
from deepseek_nb.adapters.queued import LEDGER, Queued
from deepseek_nb.batch.given_up import DELIVERIES, given_up
from deepseek_nb.batch.job import Job
from deepseek_nb.batch.resume import resume
from deepseek_nb.batch.run import DRAIN_S, error_record
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import (
    AuthError,
    BalanceExhausted,
    Busy,
    DeepSeekError,
    JobMismatch,
    StoreFailed,
)

__all__ = ["LedgerWorker", "Tell"]

LOOK_S = 0.2
REST_S = 30.0
"""How long a job is left alone after the server had no room for it at all, or this worker cannot do it."""

Tell = Callable[[str], None]


@dataclass(slots=True)
class LedgerWorker:
    """Works off the jobs in the queue of ``client``'s data folder. ``run()`` once, in the main thread.

    ``drain``: ends when the queue is empty, instead of waiting for more. Rows that were begun ``deliveries``
    times without an end are given up. :meth:`stop` may be called from a signal handler.
    """

    client: Client
    tell: Tell
    drain: bool = False
    deliveries: int = DELIVERIES
    done: int = 0
    """Rows that this worker finished."""
    failed: int = 0
    _jobs: dict[str, Job] = field(default_factory=dict)
    _resting: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def stop(self) -> None:
        """Finish what is at the server and give the rest back."""
        self._stop.set()

    def run(self) -> bool:
        """Work until the queue is empty (``drain``) or :meth:`stop`; whether nothing was left undone.

        Raises what ends every job alike: no key, an empty account, files that cannot be used.
        """
        self.client.settings.require_credentials()
        with Journal(self.client.settings.data_dir / "jobs.db") as journal:
            try:
                while not self._stop.is_set():
                    self._settle(journal)
                    entries = [entry for entry in journal.queued.all(LEDGER) if entry.error is None]
                    self._begin(journal, entries)
                    self._order(entries)
                    if self.drain and not self._jobs:
                        left = [e for e in entries if e.job in self._resting]
                        if len(left) == len(entries):
                            return not left
                    self.client.warn_if_needed()
                    self._stop.wait(LOOK_S)
            finally:
                self._end(journal)
        return True

    def _begin(self, journal: Journal, entries: list[Queued]) -> None:
        """Take up what is new."""
        for entry in entries:
            if entry.job in self._jobs or self._resting.get(entry.job, 0.0) > time.monotonic():
                continue
            worn = self._give_up(journal, entry.job)
            try:
                job = resume(entry.job, client=self.client, **entry.options)
            except StoreFailed:
                raise
            except DeepSeekError as error:
                self._rest(entry.job, error)
                continue
            self._resting.pop(entry.job, None)
            self._jobs[entry.job] = job
            self._order(entries)
            figures = job.progress
            self.tell(f"{entry.job}: {figures.pending:,} of {figures.total:,} rows to do{worn}")

    def _give_up(self, journal: Journal, name: str) -> str:
        if journal.job(name) is None:
            return ""
        journal.reap(name)
        count = journal.give_up(
            name, self.deliveries, json.dumps(given_up(self.deliveries), ensure_ascii=False)
        )
        return f", {count:,} given up" if count else ""

    def _rest(self, name: str, error: DeepSeekError) -> None:
        if name not in self._resting:
            self.tell(f"{name}: left alone for now. {type(error).__name__}: {error}")
        self._resting[name] = time.monotonic() + REST_S

    def _settle(self, journal: Journal) -> None:
        """See to what has ended here, or was taken back."""
        for name, job in list(self._jobs.items()):
            if journal.queued.get(name) is None and job.status in ("running", "paused"):
                job.cancel()
            if job.done:
                del self._jobs[name]
                self._account(journal, name, job)

    def _account(self, journal: Journal, name: str, job: Job) -> None:
        figures = job.progress
        self.done += figures.finished - figures.already
        self.failed += figures.failed
        self.tell(
            f"{name}: {job.status}, {figures.done:,} done, {figures.failed:,} failed, "
            f"{figures.pending:,} pending; ${figures.spent_usd:.4f} here"
        )
        error = job.error
        if error is None:
            if figures.finished == figures.already and not figures.pending:
                journal.queued.remove(name)  # what is left, if anything, cannot be read
            elif not figures.pending:
                journal.queued.remove_done(name)
        elif not isinstance(error, DeepSeekError) or isinstance(
            error, AuthError | BalanceExhausted | StoreFailed
        ):
            raise error  # no job of this worker can go on
        elif isinstance(error, Busy | JobMismatch):
            self._rest(name, error)
        else:  # the job's own fault, or its budget: its submitter has to see it
            journal.queued.stop(name, error_record(error))

    def _order(self, entries: list[Queued]) -> None:
        """The highest priority works, what is below it is paused.

        A job that waits for off-peak holds up nobody.
        """
        busy = [
            entry.priority
            for entry in entries
            if (job := self._jobs.get(entry.job)) is not None
            and not job.done
            and job.progress.offpeak_s is None
        ]
        highest = max(busy, default=0)
        for entry in entries:
            job = self._jobs.get(entry.job)
            if job is None or job.done:
                continue
            if entry.priority < highest and job.status == "running":
                job.pause()
            elif entry.priority >= highest and job.status == "paused":
                job.resume()

    def _end(self, journal: Journal) -> None:
        """What is at the server finishes; the rest goes back."""
        jobs, self._jobs = self._jobs, {}
        for job in jobs.values():
            job.cancel()
        end_s = time.monotonic() + 2 * DRAIN_S
        for name, job in jobs.items():
            if not job.wait(max(0.0, end_s - time.monotonic())):
                continue
            figures = job.progress
            self.done += figures.finished - figures.already
            if not figures.pending and job.error is None:
                journal.queued.remove_done(name)
            self.tell(f"{name}: {figures.pending:,} rows given back")
