"""Queued batches on disk: each question, and its answer once there is one. They survive a restart."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepseek_nb.adapters.database import Database
from deepseek_nb.adapters.group_commit import GroupCommit

__all__ = ["JOBS_FILE", "Entry", "JobState", "Ledger", "Queued"]

JOBS_FILE = "gateway_jobs.db"
"""In the data directory."""

VERSION = 1
SCHEMA = (
    "CREATE TABLE jobs (id TEXT PRIMARY KEY, tenant TEXT NOT NULL, created REAL NOT NULL, finished REAL, "
    "priority INTEGER NOT NULL, wish TEXT NOT NULL, total INTEGER NOT NULL)",
    "CREATE INDEX jobs_of ON jobs (tenant, created)",
    "CREATE TABLE items (job TEXT NOT NULL, number INTEGER NOT NULL, name TEXT NOT NULL, "
    "body TEXT NOT NULL, result TEXT, PRIMARY KEY (job, number)) WITHOUT ROWID",
    "CREATE INDEX items_left ON items (job, number) WHERE result IS NULL",
)


DAMAGED = {
    "error": {
        "message": "The result was damaged on the gateway's disk: ask this question again.",
        "type": "server_error",
        "param": None,
        "code": "result_damaged",
        "status": 500,
    }
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One question as it is handed in."""

    name: str | int
    """The caller's ``id``."""
    body: dict[str, Any]
    result: dict[str, Any] | None = None
    """Where it is known to fail: its error."""


@dataclass(frozen=True, slots=True)
class Queued:
    """One question that has no result yet."""

    job: str
    number: int
    name: str | int
    body: dict[str, Any]
    wish: dict[str, Any]
    created: float

    @property
    def place(self) -> tuple[str, int]:
        """What tells it from all others."""
        return self.job, self.number


@dataclass(frozen=True, slots=True)
class JobState:
    """How a job stands. Times are the wall clock's."""

    id: str
    created: float
    finished: float | None
    priority: int
    total: int
    left: int

    @property
    def state(self) -> str:
        """One of "queued", "running", "done"."""
        if not self.left:
            return "done"
        return "queued" if self.left == self.total else "running"


class Ledger:
    """The jobs in one SQLite file. Methods block, for a few milliseconds at most; any thread.

    All raise StoreFailed where the file cannot be used. A result is on the disk when :meth:`keep` returns;
    the question's text goes with the same commit.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self._database = Database(path, SCHEMA, VERSION)
        self._now = now
        self._results: GroupCommit[tuple[Queued, dict[str, Any]], None] = GroupCommit(
            self._write, name="jobs"
        )

    def add(self, tenant: str, priority: int, wish: dict[str, Any], entries: Sequence[Entry]) -> str:
        """Write a job down; its id. One fsync."""
        job, now = uuid.uuid4().hex, self._now()
        done = all(entry.result is not None for entry in entries)
        rows = [
            (
                job,
                number,
                json.dumps(entry.name),
                _text(entry.body),
                _kept(entry.result),
            )
            for number, entry in enumerate(entries)
        ]

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?)",
                (job, tenant, now, now if done else None, priority, json.dumps(wish), len(rows)),
            )
            connection.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", rows)

        self._database.write(write)
        return job

    def left(self) -> dict[str, int]:
        """How many questions of each tenant have no result."""
        return dict(
            self._database.read(
                lambda c: c.execute(
                    "SELECT tenant, count(*) FROM jobs JOIN items ON job=id WHERE result IS NULL "
                    "GROUP BY tenant"
                ).fetchall()
            )
        )

    def next_of(self, tenant: str, count: int) -> list[Queued]:
        """The tenant's first ``count`` questions without a result: by priority, then as they came.

        One that was damaged on disk comes without a body, and is refused as such a one.
        """

        def read(connection: sqlite3.Connection) -> list[Queued]:
            found: list[Queued] = []
            jobs = connection.execute(
                "SELECT id, wish, created FROM jobs WHERE tenant=? AND finished IS NULL "
                "ORDER BY priority DESC, created",
                (tenant,),
            ).fetchall()
            for job, wish, created in jobs:
                rows = connection.execute(
                    "SELECT number, name, body FROM items WHERE job=? AND result IS NULL ORDER BY number "
                    "LIMIT ?",
                    (job, count - len(found)),
                ).fetchall()
                found += [_queued(job, number, name, body, wish, created) for number, name, body in rows]
                if len(found) >= count:
                    break
            return found

        return self._database.read(read)

    async def keep(self, queued: Queued, result: dict[str, Any]) -> None:
        """Write a result down. All that come at the same time share one fsync."""
        await self._results.run((queued, result))

    def _write(self, results: list[tuple[Queued, dict[str, Any]]]) -> list[None]:
        now = self._now()

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "UPDATE items SET result=?, body='' WHERE job=? AND number=?",
                [(_kept(result), *queued.place) for queued, result in results],
            )
            connection.executemany(
                "UPDATE jobs SET finished=? WHERE id=? AND finished IS NULL AND NOT EXISTS "
                "(SELECT 1 FROM items WHERE job=id AND result IS NULL)",
                [(now, job) for job in {queued.job for queued, _ in results}],
            )

        self._database.write(write)
        return [None] * len(results)

    def state(self, tenant: str, job: str) -> JobState | None:
        """How that job stands; None where the tenant has no such job."""
        found = self._states("id=? AND tenant=?", (job, tenant), 1)
        return found[0] if found else None

    def states(self, tenant: str, most: int) -> list[JobState]:
        """The tenant's newest jobs."""
        return self._states("tenant=?", (tenant,), most)

    def _states(self, where: str, values: tuple[str, ...], most: int) -> list[JobState]:
        rows = self._database.read(
            lambda c: c.execute(
                "SELECT id, created, finished, priority, total, "  # noqa: S608 (our own words)
                "(SELECT count(*) FROM items WHERE job=id AND result IS NULL) "
                f"FROM jobs WHERE {where} ORDER BY created DESC LIMIT ?",
                (*values, most),
            ).fetchall()
        )
        return [JobState(*row) for row in rows]

    def results(self, job: str, after: int, most: int) -> list[tuple[int, dict[str, Any]]]:
        """Results of a job with their numbers, of questions after that number, in order."""
        rows = self._database.read(
            lambda c: c.execute(
                "SELECT number, result FROM items WHERE job=? AND number>? AND result IS NOT NULL "
                "ORDER BY number LIMIT ?",
                (job, after, most),
            ).fetchall()
        )
        return [(number, _result(number, result)) for number, result in rows]

    def drop(self, tenant: str, job: str) -> int | None:
        """Delete a job; how many of its questions had no result. None where the tenant has no such job."""

        def write(connection: sqlite3.Connection) -> int | None:
            if not connection.execute("DELETE FROM jobs WHERE id=? AND tenant=?", (job, tenant)).rowcount:
                return None
            (left,) = connection.execute(
                "SELECT count(*) FROM items WHERE job=? AND result IS NULL", (job,)
            ).fetchone()
            connection.execute("DELETE FROM items WHERE job=?", (job,))
            return int(left)

        return self._database.write(write)

    def forget(self, older_than_s: float) -> int:
        """Delete the jobs that were finished so long ago; how many."""
        before = self._now() - older_than_s

        def write(connection: sqlite3.Connection) -> int:
            connection.execute(
                "DELETE FROM items WHERE job IN (SELECT id FROM jobs WHERE finished<?)", (before,)
            )
            return connection.execute("DELETE FROM jobs WHERE finished<?", (before,)).rowcount

        return self._database.write(write)

    def close(self) -> None:
        """Write what is queued, and close the file."""
        self._results.close()
        self._database.close()


def _queued(job: str, number: int, name: str, body: str, wish: str, created: float) -> Queued:
    try:
        return Queued(job, number, json.loads(name), json.loads(body), json.loads(wish), created)
    except (TypeError, ValueError):
        return Queued(job, number, number, {}, {}, created)


def _result(number: int, text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except (TypeError, ValueError):
        return {"id": number, **DAMAGED}


def _text(value: dict[str, Any]) -> str:
    return json.dumps(value, separators=(",", ":"))


def _kept(result: dict[str, Any] | None) -> str | None:
    return None if result is None else _text(result)
