"""Which jobs of the ledger were handed to a queue: who may take them, in what order, what was said of them.

The table stands in the journal's file. A job in the queue "ledger" is worked off by any worker with this
file; of one that is on a broker this is the memory of its submitter: where its answers come back.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deepseek_nb.adapters.database import Database
from deepseek_nb.adapters.owners import owner_may_live

__all__ = ["DASK", "LEDGER", "QUEUED_TABLE", "Queued", "QueuedJobs"]

LEDGER = "ledger"
"""The queue that is the ledger itself."""
DASK = "dask"
"""Not a queue: the rows are under way on a cluster, and its workers know this ledger by that."""

QUEUED_TABLE = (
    "CREATE TABLE queued (job TEXT PRIMARY KEY, queue TEXT NOT NULL, put TEXT NOT NULL, "
    "answers TEXT NOT NULL, options TEXT NOT NULL, priority INTEGER NOT NULL, owner TEXT NOT NULL, "
    "ready INTEGER NOT NULL, created REAL NOT NULL, error TEXT) WITHOUT ROWID"
)

_SELECT = "SELECT job, queue, put, answers, options, priority, owner, ready, error FROM queued"


@dataclass(frozen=True, slots=True)
class Queued:
    """A job in a queue."""

    job: str
    queue: str
    """ "ledger", or the address of a broker without its password."""
    put: str
    """Names this handing over; a job that is taken back and put in again has another."""
    answers: str
    """Where its answers come back, on a broker."""
    options: dict[str, Any]
    """What a worker has to know beside the job's ``meta``; plain JSON, no key."""
    priority: int
    owner: str
    """Who put it there."""
    ready: bool
    """Whether all its rows are in the queue."""
    error: dict[str, Any] | None
    """Why a worker stopped the job, as the journal keeps errors."""

    @property
    def half_done(self) -> bool:
        """Whether its submitter ended before all rows were in the queue."""
        return not self.ready and not (self.owner and owner_may_live(self.owner))


class QueuedJobs:
    """The table of them, in ``database``. Any thread and process; every change is on the disk on return.

    Example::

        journal.queued.put("risk", LEDGER, priority=2, options={"budget_usd": 2.0})
        [queued.job for queued in journal.queued.all(LEDGER)]    # ['risk']
        journal.queued.remove("risk")
    """

    def __init__(self, database: Database, owner: Callable[[], str], now: Callable[[], float]) -> None:
        self._database = database
        self._owner = owner
        self._now = now

    def put(
        self,
        job: str,
        queue: str,
        *,
        priority: int,
        options: Mapping[str, Any],
        put: str = "",
        answers: str = "",
        ready: bool = True,
    ) -> Queued:
        """Put the job into the queue; gives what is there, which is what was there before if it was.

        An error that a worker left is forgotten.
        """
        values = (
            *(job, queue, put, answers, json.dumps(dict(options), ensure_ascii=False)),
            *(priority, self._owner(), int(ready), self._now()),
        )

        def write(connection: sqlite3.Connection) -> Queued:
            connection.execute(
                "INSERT INTO queued (job, queue, put, answers, options, priority, owner, ready, created) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (job) DO UPDATE SET "
                "error=NULL, options=excluded.options, priority=excluded.priority",
                values,
            )
            there = _one(connection, job)
            assert there is not None  # noqa: S101 (put above)
            return there

        return self._database.write(write)

    def get(self, job: str) -> Queued | None:
        """That job, if it is in a queue."""
        return self._database.read(lambda c: _one(c, job))

    def all(self, queue: str) -> list[Queued]:
        """The jobs in that queue: the highest priority first, then the longest there."""
        rows = self._database.read(
            lambda c: c.execute(
                f"{_SELECT} WHERE queue=? ORDER BY priority DESC, created, job", (queue,)
            ).fetchall()
        )
        return [_queued(row) for row in rows]

    def put_again(self, job: str, before: str, put: str) -> bool:
        """The rows go in once more, under a new name, from this process; False if somebody was quicker."""
        return self._change(
            "put=?, owner=?, ready=0, error=NULL WHERE job=? AND put=?", put, self._owner(), job, before
        )

    def disown(self, job: str, put: str) -> bool:
        """This process does not put its rows in any more."""
        return self._change("owner='' WHERE job=? AND put=? AND owner=?", job, put, self._owner())

    def mark_ready(self, job: str, put: str) -> bool:
        """All its rows are in the queue."""
        return self._change("ready=1 WHERE job=? AND put=?", job, put)

    def stop(self, job: str, error: Mapping[str, Any]) -> bool:
        """Say why the job cannot go on; no worker takes it until it is put in again."""
        return self._change("error=? WHERE job=?", json.dumps(dict(error), ensure_ascii=False), job)

    def remove(self, job: str) -> bool:
        """Take the job out of its queue, as far as this file is concerned; False if it was in none."""
        return self._database.write(
            lambda c: c.execute("DELETE FROM queued WHERE job=?", (job,)).rowcount == 1
        )

    def remove_done(self, job: str) -> bool:
        """As :meth:`remove`, unless a row is left: somebody may have put in more since the last look."""
        return self._database.write(
            lambda c: (
                c.execute(
                    "DELETE FROM queued WHERE job=:job AND NOT EXISTS (SELECT 1 FROM items WHERE "
                    "job=(SELECT id FROM jobs WHERE name=:job) AND state IN ('q', 'r'))",
                    {"job": job},
                ).rowcount
                == 1
            )
        )

    def _change(self, change: str, *values: Any) -> bool:
        return self._database.write(
            lambda c: c.execute(f"UPDATE queued SET {change}", values).rowcount == 1  # noqa: S608 (our own text)
        )


def _one(connection: sqlite3.Connection, job: str) -> Queued | None:
    row = connection.execute(f"{_SELECT} WHERE job=?", (job,)).fetchone()
    return None if row is None else _queued(row)


def _queued(row: tuple[Any, ...]) -> Queued:
    job, queue, put, answers, options, priority, owner, ready, error = row
    return Queued(
        job, queue, put, answers, _object(options) or {}, int(priority), owner, bool(ready), _object(error)
    )


def _object(text: str | None) -> dict[str, Any] | None:
    try:
        told = json.loads(text or "null")
    except (TypeError, ValueError):
        return None
    return told if isinstance(told, dict) else None
