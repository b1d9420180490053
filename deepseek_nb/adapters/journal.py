"""The job journal: one SQLite file that is the ledger of every row and the queue they are taken from.

A row is queued (``q``), running under a lease (``r``), done (``d``) or failed (``f``). What
:meth:`Journal.ack_many` accepted is on the disk when it returns; a killed process loses the leases
it held and nothing else: the next one takes those rows again.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from deepseek_nb.adapters.ballast import BALLAST_BYTES
from deepseek_nb.adapters.database import Database, StoreDamaged
from deepseek_nb.adapters.group_commit import Committing, GroupCommit
from deepseek_nb.adapters.owners import owner_may_live, owner_name, retire_owner
from deepseek_nb.adapters.queued import QUEUED_TABLE, QueuedJobs
from deepseek_nb.core.accounts import Drawn
from deepseek_nb.core.errors import ConfigError, JobMismatch, StoreFailed

__all__ = [
    "JOURNAL_FILE",
    "SCHEMA",
    "UPGRADES",
    "VERSION",
    "Item",
    "ItemRow",
    "ItemState",
    "JobRow",
    "JobState",
    "Journal",
    "Prompt",
]

JOURNAL_FILE = "jobs.db"
"""The file's name where only a directory is given."""

VERSION = 3
"""Of the tables below; raised with an upgrade step when they change."""

_ALLOWANCES = (
    "CREATE TABLE allowances (job INTEGER NOT NULL, owner TEXT NOT NULL, usd REAL NOT NULL, "
    "PRIMARY KEY (job, owner)) WITHOUT ROWID"
)

SCHEMA = (
    "CREATE TABLE jobs (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, digest TEXT NOT NULL, "
    "created REAL NOT NULL, meta TEXT NOT NULL, state TEXT NOT NULL, total INTEGER NOT NULL, "
    "spent_usd REAL NOT NULL, unknown_usd REAL NOT NULL, boot TEXT NOT NULL)",
    "CREATE TABLE items (id INTEGER PRIMARY KEY, job INTEGER NOT NULL, position INTEGER NOT NULL, "
    "key TEXT NOT NULL, state TEXT NOT NULL, priority INTEGER NOT NULL, due REAL NOT NULL, lease REAL, "
    "owner TEXT, tries INTEGER NOT NULL, refusals INTEGER NOT NULL, body TEXT NOT NULL, "
    "body_sum INTEGER NOT NULL, answer TEXT, error TEXT, result_sum INTEGER)",
    "CREATE UNIQUE INDEX item_of ON items (job, key)",
    "CREATE INDEX ready ON items (job, state, priority DESC, due, position)",
    "CREATE INDEX in_order ON items (job, position)",
    _ALLOWANCES,
    QUEUED_TABLE,
)

UPGRADES = {1: (_ALLOWANCES,), 2: (QUEUED_TABLE,)}
"""From each older version to the next."""

PAGE_ITEMS = 1000
"""Rows that ``rows()`` holds in memory at a time."""

ItemState = Literal["q", "r", "d", "f"]
JobState = Literal["running", "paused", "done"]

_TELLING = ("template", "schema", "model")


@dataclass(frozen=True, slots=True)
class Item:
    """One leased row: what to ask, and how often it was tried."""

    id: int
    """The journal's own number for it."""
    job: str
    position: int
    key: str
    body: str
    """What was given to ``open_job``, as it was."""
    priority: int
    tries: int
    """Times it was tried before, refusals not counted."""
    refusals: int
    """Times the server had no room for it."""


@dataclass(frozen=True, slots=True)
class JobRow:
    """One job as the journal knows it."""

    name: str
    digest: str
    created: float
    """Wall clock, seconds since 1970."""
    meta: dict[str, Any]
    state: JobState
    total: int
    spent_usd: float
    unknown_usd: float
    """Spent perhaps: calls that broke off after sending."""


class ItemRow(NamedTuple):
    """What became of one row. ``answer_json`` is there if ``state`` is "d", ``error_json`` if it is "f"."""

    key: str
    state: ItemState
    tries: int
    refusals: int
    answer_json: str | None
    error_json: str | None


class Prompt(NamedTuple):
    """What one row asks, as it was given to ``open_job``."""

    key: str
    body: str
    priority: int


_Ack = tuple[Item, str, float | None]


class Journal:
    """Jobs and their rows in one SQLite file; any number of threads and processes take rows from it.

    ``path`` is a file, or a directory that gets ``jobs.db``. ``owner`` names this process on its
    leases. ``now`` is the wall clock (only for ``created``); leases and due times go by
    ``monotonic``, which does not jump, and end with the boot they were given in.

    Every method is synchronous and may be called from any thread; ``aack`` and ``afail`` are for
    event loops. Costs: opening a job 10 us a row, lease and ack together 25 us a row in groups of
    64. All raise ConfigError where the file cannot be used, never sqlite3's errors.

    Example::

        with Journal("jobs.db") as journal:
            journal.open_job("risk", "4f1c", {"model": "deepseek-chat"}, [("k1", '{"q": 1}', 3)])
            items = journal.lease("risk", n=64, lease_s=60)
            journal.ack_many([(item, '{"text": "low"}', 0.0001) for item in items])   # on the disk now
            journal.counts("risk")    # {'q': 0, 'r': 0, 'd': 1, 'f': 0}
    """

    def __init__(
        self,
        path: str | Path,
        *,
        owner: str | None = None,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        ballast_bytes: int = BALLAST_BYTES,
    ) -> None:
        path = Path(path).expanduser()
        self.path = path / JOURNAL_FILE if path.is_dir() or not (path.suffix or path.is_file()) else path
        self._now = now
        self._monotonic = monotonic
        self._given_owner = owner
        self._mark = uuid.uuid4().hex[:12]
        self._own_name = (owner_name(self._mark), os.getpid())
        self._database = Database(self.path, SCHEMA, VERSION, upgrades=UPGRADES, ballast_bytes=ballast_bytes)
        self.queued = QueuedJobs(self._database, lambda: self.owner, now)
        """The jobs that were handed to a queue."""
        self._acks: GroupCommit[_Ack, bool] = GroupCommit(self._ack_group, name="journal acks")
        self._fails: GroupCommit[tuple[Item, str], bool] = GroupCommit(self._fail_group, name="journal fails")

    @property
    def owner(self) -> str:
        """This process's name on leases; another one in a forked child, unless one was given."""
        if self._given_owner is not None:
            return self._given_owner
        name, pid = self._own_name
        if pid != os.getpid():
            name = owner_name(self._mark)
            self._own_name = (name, os.getpid())
        return name

    @property
    def disk_full(self) -> StoreFailed | None:
        """An error that says so where the last reserve was needed for a write; None while all is well."""
        return self._database.disk_full

    # ---------------------------------------------------------------- jobs

    def open_job(
        self,
        name: str,
        digest: str,
        meta: Mapping[str, Any],
        items: Iterable[tuple[str, str, int]],
    ) -> JobRow:
        """The job of that name, made or gone on with, holding every ``(key, body, priority)`` of ``items``.

        ``digest`` stands for all that decides what the answers mean; ``meta`` (plain JSON) is kept
        beside it. A job that is there keeps what is done, failed and running; keys it does not hold
        yet are added behind the others; its state is "running" again. A key that comes twice is
        kept once. A ``meta`` that is damaged there, while the digest tells that the work is the same, is
        written anew. One transaction: a kill half-way leaves the journal as it was, and other writers
        wait while ``items`` is read. About 1 s for 100,000 rows.

        Raises JobMismatch if the name belongs to a job with another digest.
        """
        kept = json.dumps(dict(meta))  # in ASCII: half a surrogate pair is no UTF-8

        def make(connection: sqlite3.Connection) -> JobRow:
            there = _job(connection, name)
            if there is None:
                connection.execute(
                    "INSERT INTO jobs (name, digest, created, meta, state, total, spent_usd, unknown_usd, "
                    "boot) VALUES (?, ?, ?, ?, 'running', 0, 0, 0, ?)",
                    (
                        name,
                        digest,
                        self._now(),
                        kept,
                        _boot_of(owner_name()),
                    ),
                )
            elif there.digest != digest:
                raise _mismatch(there, meta)
            elif there.meta != json.loads(kept):
                connection.execute("UPDATE jobs SET meta=? WHERE name=?", (kept, name))
            number = _number(connection, name)
            self._end_leases(connection, number)
            first = connection.execute(
                "SELECT coalesce(max(position) + 1, 0) FROM items WHERE job=?", (number,)
            ).fetchone()[0]
            before = connection.total_changes
            placed = enumerate(items, first)
            connection.executemany(
                "INSERT OR IGNORE INTO items (job, position, key, state, priority, due, tries, refusals, "
                "body, body_sum) VALUES (?, ?, ?, 'q', ?, 0, 0, 0, ?, ?)",
                (
                    (number, position, key, priority, body, _sum(key, body))
                    for position, (key, body, priority) in (
                        _missing(connection, number, placed) if first else placed
                    )
                ),
            )
            added = connection.total_changes - before
            connection.execute("UPDATE jobs SET total=total+?, state='running' WHERE id=?", (added, number))
            job = _job(connection, name)
            assert job is not None  # noqa: S101 (made above)
            return job

        return self._database.write(make, again=False)

    def job(self, name: str) -> JobRow | None:
        """The job of that name, or None."""
        return self._database.read(lambda c: _job(c, name))

    def jobs(self) -> list[JobRow]:
        """Every job, the newest first."""
        return self._database.read(
            lambda c: [_job_row(row) for row in c.execute(f"{_SELECT_JOB} ORDER BY created DESC, id DESC")]
        )

    def set_state(self, job: str, state: JobState) -> None:
        """Say that the job runs, is paused or is done. Raises ConfigError for an unknown job."""
        self._database.write(
            lambda c: c.execute("UPDATE jobs SET state=? WHERE id=?", (state, _number(c, job)))
        )

    def add_spend(self, job: str, usd: float, unknown_usd: float = 0.0) -> None:
        """Book money beside the acks; ``unknown_usd`` is for calls that broke off after sending."""
        owner = self.owner

        def book(connection: sqlite3.Connection) -> None:
            number = _number(connection, job)
            connection.execute(
                "UPDATE jobs SET spent_usd=spent_usd+?, unknown_usd=unknown_usd+? WHERE id=?",
                (usd, unknown_usd, number),
            )
            _use_allowance(connection, number, owner, usd + unknown_usd)

        self._database.write(book)

    # ---------------------------------------------------------------- a limit that processes share

    def draw(self, job: str, limit_usd: float, want_usd: float, least_usd: float) -> Drawn:
        """Set aside ``want_usd`` of the limit for this process, or what is left, but not below ``least_usd``.

        Spent, perhaps spent and all that is set aside never pass ``limit_usd`` together. What is
        acked or booked here later is taken off what was set aside. What a process that is gone had
        set aside counts as perhaps spent: its requests in flight may have been charged. One fsync.
        """
        owner = self.owner

        def take(connection: sqlite3.Connection) -> Drawn:
            number = _number(connection, job)
            _end_allowances(connection, number)
            spent, unknown = connection.execute(
                "SELECT spent_usd, unknown_usd FROM jobs WHERE id=?", (number,)
            ).fetchone()
            aside = dict(
                connection.execute("SELECT owner, usd FROM allowances WHERE job=?", (number,)).fetchall()
            )
            left = limit_usd - spent - unknown - sum(aside.values())
            given = min(want_usd, left) if left >= least_usd else 0.0
            mine = aside.pop(owner, 0.0)
            if given:
                connection.execute(
                    "INSERT OR REPLACE INTO allowances VALUES (?, ?, ?)", (number, owner, mine + given)
                )
            return Drawn(given, spent, unknown, sum(aside.values()))

        return self._database.write(take)

    def return_share(self, job: str, *, unknown: bool = False) -> None:
        """Set nothing aside for this process any more; with ``unknown``, what is left may have been spent."""
        owner = self.owner

        def end(connection: sqlite3.Connection) -> None:
            number = _number(connection, job)
            if unknown:
                _write_off(connection, number, owner)
            connection.execute("DELETE FROM allowances WHERE job=? AND owner=?", (number, owner))

        self._database.write(end)

    def delete(self, job: str, *, wipe: bool = True) -> bool:
        """Delete the job and its rows for good, no byte of them stays; False if there was none.

        Rewrites the file (about 1 s for 150 MB). Raises ConfigError while another process reads it.
        ``wipe=False`` does neither: some bytes may stay in the file's log for a while.
        """

        def drop(connection: sqlite3.Connection) -> bool:
            if _job(connection, job) is None:
                return False
            number = _number(connection, job)
            connection.execute("DELETE FROM items WHERE job=?", (number,))
            connection.execute("DELETE FROM allowances WHERE job=?", (number,))
            connection.execute("DELETE FROM queued WHERE job=?", (job,))
            connection.execute("DELETE FROM jobs WHERE id=?", (number,))
            return True

        deleted = self._database.write(drop)
        if deleted and wipe:
            self._database.scrub()
        return deleted

    # ---------------------------------------------------------------- the queue

    def lease(self, job: str, n: int, lease_s: float) -> list[Item]:
        """Up to ``n`` queued rows that are due, now this owner's for ``lease_s`` seconds.

        Highest priority first, then the longest due, then by position. Without an fsync: a power
        cut may forget a lease, which costs nothing. A row whose body was damaged on disk is taken
        out with one StoreDamaged warning; opening the job again puts it back.
        """
        return self._lease(
            job,
            "SELECT id FROM items WHERE job=:job AND state='q' AND due<=:now "
            "ORDER BY priority DESC, due, position LIMIT :n",
            {"n": n},
            lease_s,
        )

    def lease_among(self, job: str, keys: Sequence[str], lease_s: float) -> list[Item]:
        """As :meth:`lease`, of the rows ``keys`` only, whatever their due time.

        For a caller that works on its own part of a job: rows outside it stay as they are.
        """
        return self._lease(
            job,
            "SELECT id FROM items INDEXED BY item_of WHERE job=:job AND state='q' AND key IN "
            "(SELECT value FROM json_each(:keys))",
            {"keys": json.dumps(list(keys))},
            lease_s,
        )

    def _lease(self, job: str, chosen: str, values: Mapping[str, Any], lease_s: float) -> list[Item]:
        owner, now = self.owner, self._monotonic()

        def take(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(
                f"UPDATE items SET state='r', owner=:owner, lease=:until WHERE id IN ({chosen}) "  # noqa: S608 (our own text)
                "RETURNING due, id, position, key, body, body_sum, priority, tries, refusals",
                {
                    "owner": owner,
                    "until": now + lease_s,
                    "job": _number(connection, job),
                    "now": now,
                    **values,
                },
            ).fetchall()

        rows = self._database.write(take, durable=False)
        rows.sort(key=lambda row: (-row[6], row[0], row[2]))
        damaged = [row[1] for row in rows if _sum(row[3], row[4]) != row[5]]
        if damaged:
            self._take_out(damaged)
        return [
            Item(number, job, position, key, body, priority, tries, refusals)
            for _, number, position, key, body, body_sum, priority, tries, refusals in rows
            if number not in damaged and body_sum is not None
        ]

    def extend(self, items: Sequence[Item], lease_s: float) -> int:
        """Let these leases end ``lease_s`` seconds from now; how many were still this owner's."""
        until, owner = self._monotonic() + lease_s, self.owner
        return self._each(
            "UPDATE items SET lease=? WHERE id=? AND owner=? AND state='r'",
            [(until, item.id, owner) for item in items],
            durable=False,
        )

    def ack_many(self, acks: Iterable[tuple[Item, str, float | None]]) -> int:
        """Keep ``(item, answer_json, cost_usd)``, on the disk when this returns; how many were accepted.

        Only the owner's are: not those that another process took after the lease had ended (their
        answers should be in the answer store). The cost of all is booked, since all were paid.
        ``cost_usd=None`` (no price known) books nothing. One fsync for all of them.
        """
        return sum(self._ack_group(list(acks)))

    async def aack(self, item: Item, answer_json: str, cost_usd: float | None) -> bool:
        """As :meth:`ack_many` for one row, in the writer thread; all that wait together share one fsync.

        Returns whether it was accepted, after the commit that holds it. Cancelling stops only the waiting.
        """
        return await self._acks.run((item, answer_json, cost_usd))

    def ack_soon(self, item: Item, answer_json: str, cost_usd: float | None) -> Committing[bool]:
        """As :meth:`aack`, handed in now; the future ends after the commit, and no cancelling ends it."""
        return self._acks.hand_in((item, answer_json, cost_usd))

    def fail_many(self, fails: Iterable[tuple[Item, str]]) -> int:
        """Mark ``(item, error_json)`` as failed for good; how many were this owner's. One fsync."""
        return sum(self._fail_group(list(fails)))

    async def afail(self, item: Item, error_json: str) -> bool:
        """As :meth:`fail_many` for one row, in the writer thread."""
        return await self._fails.run((item, error_json))

    def put_back(
        self,
        items: Sequence[Item],
        due_in_s: float = 0.0,
        count_try: bool = False,
        count_refusal: bool = False,
    ) -> int:
        """Queue these rows again, due in ``due_in_s`` seconds; how many were this owner's.

        ``count_try``: it was tried and something broke; ``count_refusal``: the server had no room;
        neither: it was not begun, or stopped by the user.
        """
        due, owner = self._monotonic() + due_in_s if due_in_s > 0 else 0.0, self.owner
        return self._each(
            "UPDATE items SET state='q', due=?, lease=NULL, owner=NULL, tries=tries+?, refusals=refusals+? "
            "WHERE id=? AND owner=? AND state='r'",
            [(due, int(count_try), int(count_refusal), item.id, owner) for item in items],
            durable=False,
        )

    def reap(self, job: str) -> int:
        """Queue again what is running under an ended lease or a dead owner; how many rows.

        Each counts as one try (it may have been sent, and paid). Its late owner may still ack it, as
        long as nobody else took it.
        """
        return self._database.write(lambda c: self._end_leases(c, _number(c, job)))

    def give_up(self, job: str, tries: int, error_json: str) -> int:
        """Mark as failed what is queued and was begun ``tries`` times without an end; how many rows."""

        def fail(connection: sqlite3.Connection) -> int:
            worn = connection.execute(
                "SELECT id, key FROM items WHERE job=? AND state='q' AND tries>=?",
                (_number(connection, job), tries),
            ).fetchall()
            connection.executemany(
                "UPDATE items SET state='f', error=?, result_sum=?, lease=NULL WHERE id=?",
                [(error_json, _sum(key, "f", None, error_json), number) for number, key in worn],
            )
            return len(worn)

        return self._database.write(fail)

    def retry_failed(self, job: str) -> int:
        """Queue every failed row again, its tries counted from zero; how many."""
        return self._database.write(
            lambda c: (
                c.execute(
                    "UPDATE items SET state='q', due=0, tries=0, owner=NULL, error=NULL, result_sum=NULL "
                    "WHERE job=? AND state='f'",
                    (_number(c, job),),
                ).rowcount
            )
        )

    # ---------------------------------------------------------------- looking

    def counts(self, job: str) -> dict[ItemState, int]:
        """How many rows are queued, running, done and failed. Reads an index: 10 ms for 100,000 rows."""
        found = self._database.read(
            lambda c: c.execute(
                "SELECT state, count(*) FROM items WHERE job=? GROUP BY state", (_number(c, job),)
            ).fetchall()
        )
        counts: dict[ItemState, int] = {"q": 0, "r": 0, "d": 0, "f": 0}
        counts.update((state, number) for state, number in found if state in counts)
        return counts

    def states(self, job: str, keys: Sequence[str]) -> dict[str, ItemState]:
        """The state of each of these rows that the job holds."""
        return self._database.read(
            lambda c: dict(
                c.execute(
                    "SELECT key, state FROM items WHERE job=? AND key IN (SELECT value FROM json_each(?))",
                    (_number(c, job), json.dumps(list(keys))),
                ).fetchall()
            )
        )

    def rows(self, job: str) -> Iterator[ItemRow]:
        """Every row by position, 1000 in memory at a time; rows added meanwhile may be left out.

        A result that was damaged on disk is never given: its row is queued again, comes as "q", and
        one StoreDamaged warning says how many there were.
        """
        after, damaged = -1, 0
        while True:
            page = self._database.read(
                lambda c, after=after: c.execute(  # type: ignore[misc]
                    "SELECT position, id, key, state, tries, refusals, answer, error, result_sum FROM items "
                    "WHERE job=? AND position>? ORDER BY position LIMIT ?",
                    (_number(c, job), after, PAGE_ITEMS),
                ).fetchall()
            )
            again = []
            for _, number, key, state, tries, refusals, answer, error, result_sum in page:
                finished = state in ("d", "f")
                lost = state not in ("q", "r", "d", "f")  # no state of ours: nobody would ever take it
                if lost or (finished and _result_sum(key, state, answer, error) != result_sum):
                    again.append(number)
                    yield ItemRow(key, "q", tries, refusals, None, None)
                elif finished:
                    yield ItemRow(key, state, tries, refusals, answer, error)
                else:
                    yield ItemRow(key, state, tries, refusals, None, None)
            if again:
                damaged += len(again)
                self._queue_again(again)
            if len(page) < PAGE_ITEMS:
                break
            after = page[-1][0]
        if damaged:
            warnings.warn(
                f"{damaged} results of the job {job!r} in {self.path} were damaged; "
                "their rows are queued again.",
                StoreDamaged,
                stacklevel=2,
            )

    def prompts(self, job: str) -> Iterator[Prompt]:
        """What every row asks, by position, 1000 in memory at a time.

        One that was damaged on disk is left out; one StoreDamaged warning says how many there were.
        """
        after, damaged = -1, 0
        while True:
            page = self._database.read(
                lambda c, after=after: c.execute(  # type: ignore[misc]
                    "SELECT position, key, body, priority, body_sum FROM items "
                    "WHERE job=? AND position>? ORDER BY position LIMIT ?",
                    (_number(c, job), after, PAGE_ITEMS),
                ).fetchall()
            )
            for _, key, body, priority, body_sum in page:
                if _sum(key, body) == body_sum:
                    yield Prompt(key, body, priority)
                else:
                    damaged += 1
            if len(page) < PAGE_ITEMS:
                break
            after = page[-1][0]
        if damaged:
            warnings.warn(
                f"{damaged} rows of the job {job!r} in {self.path} were damaged and are left out; "
                "run the call that began it once more: it has them.",
                StoreDamaged,
                stacklevel=2,
            )

    def check(self) -> None:
        """Look the file over and repair it; for when rows cannot be found that should be there.

        Warns StoreDamaged where it had to be repaired. Rows that are lost are put back by :meth:`open_job`.
        """
        self._database.check()

    def close(self) -> None:
        """Commit what is queued in the writer threads and close the file.

        Leases that were not given back (the disk was full, say) stay until they end; journals in this
        process take them over at once.
        """
        self._acks.close()
        self._fails.close()
        self._database.close()
        if self._given_owner is None:
            retire_owner(self.owner)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Journal({str(self.path)!r})"

    # ---------------------------------------------------------------- inside

    def _ack_group(self, acks: list[_Ack]) -> list[bool]:
        owner = self.owner
        spent: dict[str, float] = {}
        for item, _, cost_usd in acks:
            spent[item.job] = spent.get(item.job, 0.0) + (cost_usd or 0.0)

        def keep(connection: sqlite3.Connection) -> list[bool]:
            accepted = [
                connection.execute(
                    "UPDATE items SET state='d', answer=?, error=NULL, result_sum=?, "
                    "tries=tries+(state='r'), lease=NULL WHERE id=? AND owner=? AND state IN ('r', 'q')",
                    (answer, _sum(item.key, "d", answer, None), item.id, owner),
                ).rowcount
                == 1
                for item, answer, _ in acks
            ]
            for name, usd in spent.items():
                if usd:
                    connection.execute("UPDATE jobs SET spent_usd=spent_usd+? WHERE name=?", (usd, name))
                    _use_allowance(connection, _number(connection, name), owner, usd)
            return accepted

        return self._database.write(keep) if acks else []

    def _fail_group(self, fails: list[tuple[Item, str]]) -> list[bool]:
        owner = self.owner

        def keep(connection: sqlite3.Connection) -> list[bool]:
            return [
                connection.execute(
                    "UPDATE items SET state='f', error=?, result_sum=?, tries=tries+1, lease=NULL "
                    "WHERE id=? AND owner=? AND state='r'",
                    (error, _sum(item.key, "f", None, error), item.id, owner),
                ).rowcount
                == 1
                for item, error in fails
            ]

        return self._database.write(keep) if fails else []

    def _each(self, update: str, values: list[tuple[Any, ...]], *, durable: bool) -> int:
        if not values:
            return 0
        return self._database.write(lambda c: c.executemany(update, values).rowcount, durable=durable)

    def _end_leases(self, connection: sqlite3.Connection, number: int) -> int:
        _end_allowances(connection, number)
        boot, now = _boot_of(owner_name()), self._monotonic()
        back = "UPDATE items SET state='q', lease=NULL, tries=tries+1 WHERE job=? AND state='r'"
        there = connection.execute("SELECT boot FROM jobs WHERE id=?", (number,)).fetchone()[0]
        if there != boot:  # the clock of leases and due times began anew
            ended = connection.execute(back, (number,)).rowcount
            connection.execute("UPDATE items SET due=0 WHERE job=? AND due>0", (number,))
            connection.execute("UPDATE jobs SET boot=? WHERE id=?", (boot, number))
            return ended
        ended = connection.execute(f"{back} AND (lease IS NULL OR lease<=?)", (number, now)).rowcount
        owners = connection.execute(
            "SELECT DISTINCT owner FROM items WHERE job=? AND state='r'", (number,)
        ).fetchall()
        for (owner,) in owners:
            if owner is None or not owner_may_live(owner):
                ended += connection.execute(f"{back} AND owner IS ?", (number, owner)).rowcount
        return ended

    def _take_out(self, numbers: list[int]) -> None:
        def drop(connection: sqlite3.Connection) -> None:
            for number in numbers:
                connection.execute(
                    "UPDATE jobs SET total=total-1 WHERE id=(SELECT job FROM items WHERE id=?)", (number,)
                )
                connection.execute("DELETE FROM items WHERE id=?", (number,))

        self._database.write(drop)
        warnings.warn(
            f"{len(numbers)} rows in {self.path} were damaged and have been taken out; "
            "run the same call again to put them back.",
            StoreDamaged,
            stacklevel=3,
        )

    def _queue_again(self, numbers: list[int]) -> None:
        self._each(
            "UPDATE items SET state='q', due=0, owner=NULL, answer=NULL, error=NULL, result_sum=NULL "
            "WHERE id=?",
            [(number,) for number in numbers],
            durable=True,
        )


def _use_allowance(connection: sqlite3.Connection, number: int, owner: str, usd: float) -> None:
    """What was booked is no longer only set aside."""
    connection.execute(
        "UPDATE allowances SET usd=max(0.0, usd-?) WHERE job=? AND owner=?", (usd, number, owner)
    )


def _end_allowances(connection: sqlite3.Connection, number: int) -> None:
    """What processes that are gone had set aside may have been spent."""
    owners = connection.execute("SELECT owner FROM allowances WHERE job=?", (number,)).fetchall()
    for (owner,) in owners:
        if not owner_may_live(owner):
            _write_off(connection, number, owner)
            connection.execute("DELETE FROM allowances WHERE job=? AND owner=?", (number, owner))


def _write_off(connection: sqlite3.Connection, number: int, owner: str) -> None:
    connection.execute(
        "UPDATE jobs SET unknown_usd=unknown_usd+coalesce((SELECT usd FROM allowances WHERE job=:job AND "
        "owner=:owner), 0) WHERE id=:job",
        {"job": number, "owner": owner},
    )


_SELECT_JOB = "SELECT name, digest, created, meta, state, total, spent_usd, unknown_usd FROM jobs"


def _job(connection: sqlite3.Connection, name: str) -> JobRow | None:
    row = connection.execute(f"{_SELECT_JOB} WHERE name=?", (name,)).fetchone()
    return None if row is None else _job_row(row)


def _job_row(row: tuple[Any, ...]) -> JobRow:
    name, digest, created, meta, state, total, spent_usd, unknown_usd = row
    try:
        told = json.loads(meta)
    except (TypeError, ValueError):
        told = None
    return JobRow(
        name,
        digest,
        _number_or_0(created),
        told if isinstance(told, dict) else {},
        state if state in ("running", "paused", "done") else "running",
        int(_number_or_0(total)),
        _number_or_0(spent_usd),
        _number_or_0(unknown_usd),
    )


def _number_or_0(value: Any) -> float:
    """``value``, or 0 where the file was damaged."""
    return float(value) if isinstance(value, (int, float)) and abs(value) < 1e15 else 0.0


def _number(connection: sqlite3.Connection, name: str) -> int:
    row = connection.execute("SELECT id FROM jobs WHERE name=?", (name,)).fetchone()
    if row is None:
        raise ConfigError(f"There is no job named {name!r}.", hint="List the jobs with: deepseek-nb jobs")
    return int(row[0])


def _missing(
    connection: sqlite3.Connection, number: int, placed: Iterator[tuple[int, tuple[str, str, int]]]
) -> Iterator[tuple[int, tuple[str, str, int]]]:
    """Without those pages of rows that the job holds already: where it is run again, all of them."""
    while chunk := list(islice(placed, PAGE_ITEMS)):
        keys = json.dumps([key for _, (key, _, _) in chunk])
        (there,) = connection.execute(
            "SELECT count(*) FROM items WHERE job=? AND key IN (SELECT value FROM json_each(?))",
            (number, keys),
        ).fetchone()
        if there < len(chunk):
            yield from chunk


def _mismatch(there: JobRow, meta: Mapping[str, Any]) -> JobMismatch:
    given = json.loads(json.dumps(dict(meta)))
    other = [
        name
        for name in (*_TELLING, *sorted({*given, *there.meta} - {*_TELLING}))
        if there.meta.get(name) != given.get(name)
    ]
    what = f" It differs in: {', '.join(other)}." if other else " It was made for other work."
    return JobMismatch(f"The job {there.name!r} exists already.{what}", differs=tuple(other))


def _sum(key: str, *texts: str | None) -> int:
    """A checksum that ties texts to their key: damaged text is never taken for an answer. 1 us for 1 kB."""
    together = "".join([str(key), *(_NOTHING if text is None else str(text) for text in texts)])
    return zlib.crc32(together.encode("utf-8", "surrogatepass"))


def _result_sum(key: str, state: str, answer: str | None, error: str | None) -> int:
    """As :func:`_sum`, for every row of a job that is read."""
    told = f"{key}{state}{_NOTHING if answer is None else answer}{_NOTHING if error is None else error}"
    return zlib.crc32(told.encode("utf-8", "surrogatepass"))


_NOTHING = "\0"


def _boot_of(owner: str) -> str:
    return owner.split("|", 1)[0]
