"""The answer store: paid answers as JSON under their fingerprint, in memory and in one SQLite file.

An answer is on the disk when :meth:`AnswerStore.put`, ``put_many`` or ``aput`` returns: nothing is
at risk but what has not returned yet. Values are JSON text with a checksum, never pickle; a value
that was changed on disk counts as a miss and is put aside, it is never returned.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import threading
import time
import uuid
import warnings
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

from deepseek_nb.adapters.ballast import BALLAST_BYTES
from deepseek_nb.adapters.claims import CLAIM_S, CLAIMS_TABLE, Claims, take_claim
from deepseek_nb.adapters.database import Database, NotSaved, StoreDamaged
from deepseek_nb.adapters.group_commit import Committing, GroupCommit
from deepseek_nb.adapters.owners import owner_name
from deepseek_nb.core.errors import ConfigError, StoreFailed

__all__ = [
    "SCHEMA",
    "STORE_FILE",
    "VERSION",
    "AnswerStore",
    "SharedTier",
    "checksum",
    "json_text",
    "store_file",
]

STORE_FILE = "answers.db"
"""The file's name where only a directory is given."""

VERSION = 1
"""Of the tables below; raised with an upgrade step when they change."""

SCHEMA = (
    "CREATE TABLE answers (key TEXT PRIMARY KEY, value TEXT NOT NULL, digest TEXT NOT NULL, "
    "created REAL NOT NULL, size INTEGER NOT NULL)",
    "CREATE TABLE quarantine (key TEXT, value TEXT, digest TEXT, created REAL, found REAL)",
    CLAIMS_TABLE,
    "CREATE TABLE joblib_items (func TEXT NOT NULL, args TEXT NOT NULL, value TEXT NOT NULL, "
    "digest TEXT NOT NULL, created REAL NOT NULL, accessed REAL NOT NULL, duration REAL, "
    "size INTEGER NOT NULL, PRIMARY KEY (func, args))",
    "CREATE TABLE joblib_functions (func TEXT PRIMARY KEY, source TEXT NOT NULL) WITHOUT ROWID",
)
"""Both key spaces of the file: our fingerprints, and joblib's own keys."""

LOOKUP_ITEMS = 500
"""Keys in one SELECT, and in one question to the shared tier."""

COMMIT_ITEMS = 5000
"""Rows in one transaction of ``put_many``: what is at risk while it runs."""

LOOK_AGAIN_S = (0.05, 0.5)
"""How often to look for an answer that another process is asking for: at first, and at most."""

_UPSERT = (
    "INSERT INTO answers (key, value, digest, created, size) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (key) DO UPDATE SET value=excluded.value, digest=excluded.digest, "
    "created=excluded.created, size=excluded.size"
)


class _Row(NamedTuple):
    key: str
    text: str
    digest: str
    created: float
    size_bytes: int


class _Outcome(NamedTuple):
    """How a flight ended: with a value, with an error for all, or with neither (the next one flies)."""

    value: dict[str, Any] | None = None
    error: BaseException | None = None


class SharedTier(Protocol):
    """Answers and claims that other machines share, asked between memory and file. Never raises."""

    async def get(self, key: str) -> tuple[str, float] | None:
        """The JSON text under ``key``, and when it was put."""

    async def get_many(self, keys: Sequence[str]) -> dict[str, tuple[str, float]]:
        """As :meth:`get`, by key, for those that are there."""

    async def put(self, key: str, text: str, created: float) -> None:
        """Keep it."""

    async def claim(self, key: str) -> bool:
        """Whether ``key`` may be asked here now; :meth:`let_go` follows."""

    async def claim_many(self, keys: Collection[str], ttl_s: float | None = None) -> set[str]:
        """Those that may be asked here now and have no answer there younger than ``ttl_s``."""

    def let_go(self, key: str) -> None:
        """Give the claim back, if it is held."""


class AnswerStore:
    """Answers under their fingerprint: memory first, then SQLite. Any thread, loop and process.

    ``path`` is a file, or a directory that gets ``answers.db``. Memory holds the ``memory_items``
    used last, at most ``memory_bytes`` of text. ``now`` is the wall clock in seconds; an answer's
    age is counted from the moment it was put, one from the future has age 0. ``ttl_s=None`` means
    however old. Values are dicts of what JSON can hold, and every reader gets a dict of its own.

    ``shared`` is a tier between the two for the coroutines, :meth:`put_soon` and :meth:`let_go`; all of them
    then belong to its event loop.

    Costs: a memory hit 4 us, a lookup on disk 25 us alone and 10 us in batches; a ``put`` is one fsync
    (about 0.4 ms), in groups of 64 about 35 us each. Every method raises ConfigError, never
    sqlite3's errors, where the file cannot be used; see :mod:`deepseek_nb.adapters.database`.

    Example::

        with AnswerStore("answers.db") as store:
            store.put("api/deepseek-chat_1f_2e", {"text": "Paris"})
            store.get("api/deepseek-chat_1f_2e", ttl_s=1800)   # {'text': 'Paris'}
    """

    def __init__(
        self,
        path: str | Path,
        *,
        memory_items: int = 4096,
        memory_bytes: int = 64 << 20,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        ballast_bytes: int = BALLAST_BYTES,
        shared: SharedTier | None = None,
    ) -> None:
        self.path = store_file(path)
        self._now = now
        self._monotonic = monotonic
        self._memory_items = memory_items
        self._memory_limit_bytes = memory_bytes
        self._memory: OrderedDict[str, tuple[str, float]] = OrderedDict()
        self._memory_bytes = 0
        self._shared = shared
        self._promotions: set[asyncio.Task[None]] = set()
        self._unsaved: dict[str, _Row] = {}
        self._flights: dict[str, Future[_Outcome]] = {}
        self._counts = {"memory_hits": 0, "memory_misses": 0, "disk_hits": 0, "disk_misses": 0}
        self._lock = threading.Lock()
        self._mark = uuid.uuid4().hex[:12]
        self._pid = os.getpid()
        self._owner = owner_name(self._mark)
        self._database = Database(self.path, SCHEMA, VERSION, ballast_bytes=ballast_bytes)
        self.claims = Claims(self._database, lambda: self.owner, monotonic, self._stored)
        """Who asks which key now, of all processes with this file."""
        self._writer: GroupCommit[_Row, None] = GroupCommit(self._commit, name="store writer")
        self._reader: GroupCommit[tuple[str, float | None], str | None] = GroupCommit(
            self._read_group, name="store reader"
        )

    # ---------------------------------------------------------------- reading

    def get(self, key: str, ttl_s: float | None = None) -> dict[str, Any] | None:
        """The value under ``key`` if it is younger than ``ttl_s`` seconds, else None."""
        return self.get_many([key], ttl_s).get(key)

    def get_many(self, keys: Iterable[str], ttl_s: float | None = None) -> dict[str, dict[str, Any]]:
        """What is stored of ``keys``, by key, in their order. One SELECT for 500 keys not in memory."""
        texts = self._texts(keys, ttl_s)
        return {key: json.loads(text) for key, text in texts.items() if text is not None}

    async def aget(self, key: str, ttl_s: float | None = None) -> dict[str, Any] | None:
        """As :meth:`get`. From memory at once; from disk in another thread, with all who ask then."""
        with self._own_lock():
            text = self._recall(key, self._now(), ttl_s)
        if text is None and self._shared is not None:
            text = await self._find_shared(self._shared, key, ttl_s)
        if text is None:
            text = await self._reader.run((key, ttl_s))
            if text is not None and self._shared is not None:
                self._promote(self._shared, key)
        return None if text is None else json.loads(text)

    async def aget_many(self, keys: Sequence[str], ttl_s: float | None = None) -> dict[str, dict[str, Any]]:
        """As :meth:`get_many`, in another thread.

        What is not there is asked of the shared tier, in one round trip for 500; what that has is then in the
        file.
        """
        found = await asyncio.to_thread(self.get_many, keys, ttl_s)
        if self._shared is None:
            return found
        left = [key for key in keys if key not in found]
        for start in range(0, len(left), LOOKUP_ITEMS):
            kept = await self._shared.get_many(left[start : start + LOOKUP_ITEMS])
            now = self._now()
            rows = [_row(key, text, at) for key, (text, at) in kept.items() if _fresh(at, now, ttl_s)]
            if rows:
                await asyncio.to_thread(self._commit, rows)
            found |= {row.key: json.loads(row.text) for row in rows}
        return found

    async def _find_shared(self, shared: SharedTier, key: str, ttl_s: float | None) -> str | None:
        found = await shared.get(key)
        if found is None or not _fresh(found[1], self._now(), ttl_s):
            return None
        with self._own_lock():
            self._remember(key, *found)
        return found[0]

    def _promote(self, shared: SharedTier, key: str) -> None:
        """Let the others find what only the file had."""
        with self._own_lock():
            held = self._memory.get(key)
        if held is not None:
            putting = asyncio.get_running_loop().create_task(shared.put(key, *held))
            self._promotions.add(putting)
            putting.add_done_callback(self._promotions.discard)

    def keys(self, match: str = "*") -> Iterator[str]:
        """The keys on disk that fit ``match`` (``*``, ``?``, ``[...]``), in order, 500 at a time."""
        after: tuple[str, ...] = ()
        while True:
            where = "key > ? AND key GLOB ?" if after else "key GLOB ?"
            select = f"SELECT key FROM answers WHERE {where} ORDER BY key LIMIT {LOOKUP_ITEMS}"  # noqa: S608 (ours)
            asked = (*after, match)
            page = self._database.read(lambda c, s=select, a=asked: c.execute(s, a).fetchall())  # type: ignore[misc]
            for (key,) in page:
                yield key
            if len(page) < LOOKUP_ITEMS:
                return
            after = page[-1]

    # ---------------------------------------------------------------- writing

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Keep ``value`` under ``key``; on the disk when this returns. One fsync.

        Raises ConfigError where it cannot be written: the value then stays readable in this process,
        is tried again with the next write, and counts in :attr:`unsaved`. TypeError: not JSON.
        """
        self._commit([self._row(key, value)])

    def put_many(self, items: Iterable[tuple[str, dict[str, Any]]]) -> int:
        """Keep all ``(key, value)``; how many. One fsync for 5000: so many are at risk until it returns.

        Raises as :meth:`put`; items not yet taken from the iterable are then not kept.
        """
        rows = (self._row(key, value) for key, value in items)
        kept = 0
        while chunk := list(islice(rows, COMMIT_ITEMS)):
            self._commit(chunk)
            kept += len(chunk)
        return kept

    async def aput(self, key: str, value: dict[str, Any]) -> None:
        """As :meth:`put`, in the writer thread; all that wait at the same time share one fsync.

        Returns after the commit that holds this value. Cancelling stops the waiting, not the write.
        """
        await asyncio.shield(self._put_soon(self._row(key, value)))

    def put_soon(self, key: str, text: str) -> Committing[None]:
        """As :meth:`aput`, handed in at once and as JSON text, a dict's, which :func:`json_text` made.

        The future ends after the commit, and no cancelling ends it.
        """
        return self._put_soon(_row(key, text, float(self._now())))

    def _put_soon(self, row: _Row) -> Committing[None]:
        writing = self._writer.hand_in(row)
        return writing if self._shared is None else _in_both(self._shared, row, writing)

    def holds(self, key: str, ttl_s: float | None = None) -> bool:
        """Whether this process has an answer in memory, one that could not be written included."""
        with self._own_lock():
            return self._recall(key, self._now(), ttl_s, counted=False) is not None

    @property
    def unsaved(self) -> int:
        """Answers that are in this process's memory only, since the last write failed (disk full)."""
        return len(self._unsaved)

    @property
    def disk_full(self) -> StoreFailed | None:
        """An error that says so where the last reserve was needed for a write; None while all is well."""
        return self._database.disk_full

    def save(self) -> None:
        """Write what is :attr:`unsaved`. Raises ConfigError if that fails again."""
        if self._unsaved:
            self._commit([])

    # ---------------------------------------------------------------- one flight a key

    async def once(
        self,
        key: str,
        make: Callable[[], Awaitable[dict[str, Any]]],
        *,
        ttl_s: float | None = None,
        across_processes: bool = False,
        lease_s: float = CLAIM_S,
    ) -> tuple[dict[str, Any], bool]:
        """``(value, shared)``: of all who ask for ``key`` now, one runs ``make()`` and the others wait.

        ``make`` has to put its value into the store before it returns; whoever comes a moment late
        finds it there (younger than ``ttl_s``). ``shared`` is True for those who did not run it. The
        value is one object for all: do not change it.

        If the one who runs it fails or is cancelled, the next of the waiting takes over; only an error
        with ``retryable=False`` is raised for all. With ``across_processes`` other processes with the
        same file are kept out too, by a claim of ``lease_s`` seconds that is extended while this one
        lives; they look for the value every 50 to 500 ms. At a ``kill -9`` the question may be asked
        (and paid) once more. ``make`` must not ask for the same key again.
        """
        while True:
            with self._own_lock():
                text = self._recall(key, self._now(), ttl_s)
                flight = self._flights.get(key)
                mine = text is None and flight is None
                if mine:
                    flight = self._flights[key] = Future()
                    flight.set_running_or_notify_cancel()  # nobody who waits can cancel it for the others
            if text is not None:
                return json.loads(text), True
            assert flight is not None  # noqa: S101 (told by the lines above)
            if mine:
                return await self._fly(key, make, flight, ttl_s, lease_s if across_processes else None)
            outcome = await asyncio.wrap_future(flight)
            if outcome.value is not None:
                return outcome.value, True
            if outcome.error is not None:
                raise outcome.error

    def claim(self, key: str, owner: str | None = None, lease_s: float = CLAIM_S) -> bool:
        """Whether ``key`` is now this owner's to ask, for ``lease_s`` seconds. ``owner=None``: this process.

        False while another holds it: its lease (by the monotonic clock of this boot) has not ended and
        its process may live. About 30 us; a power cut may lose a claim, not an answer.
        """
        owner = owner or self.owner
        now = self._monotonic()

        return self._database.write(lambda c: take_claim(c, key, owner, now, lease_s), durable=False)

    def extend(self, key: str, owner: str | None = None, lease_s: float = CLAIM_S) -> bool:
        """Let the claim end ``lease_s`` seconds from now; False if it is not this owner's any more."""
        asked = (self._monotonic() + lease_s, key, owner or self.owner)
        return self._database.write(
            lambda c: c.execute("UPDATE claims SET lease=? WHERE key=? AND owner=?", asked).rowcount == 1,
            durable=False,
        )

    def release(self, key: str, owner: str | None = None) -> bool:
        """Give the claim back; False if it was not this owner's."""
        asked = (key, owner or self.owner)
        return self._database.write(
            lambda c: c.execute("DELETE FROM claims WHERE key=? AND owner=?", asked).rowcount == 1,
            durable=False,
        )

    @property
    def owner(self) -> str:
        """This process's name on claims; another one in a forked child."""
        self._notice_fork()
        return self._owner

    # ---------------------------------------------------------------- keeping house

    def lookups(self) -> dict[str, tuple[int, int]]:
        """Hits and misses of the memory and of the file since the store was opened. Costs nothing."""
        with self._own_lock():
            counts = dict(self._counts)
        return {tier: (counts[f"{tier}_hits"], counts[f"{tier}_misses"]) for tier in ("memory", "disk")}

    def stats(self) -> dict[str, Any]:
        """Hits and misses since the store was opened, and sizes now. Costs a scan of the keys.

        ``items, size_bytes (the file's), hits, misses, unsaved, quarantined`` and, by tier,
        ``memory`` and ``disk`` with ``items, size_bytes, hits, misses`` each.
        """
        items, aside = self._database.read(
            lambda c: (
                c.execute("SELECT count(*) FROM answers").fetchone()[0],
                c.execute("SELECT count(*) FROM quarantine").fetchone()[0],
            )
        )
        size_bytes = self._database.size_bytes()
        with self._own_lock():
            counts = dict(self._counts)
            memory = {
                "items": len(self._memory),
                "size_bytes": self._memory_bytes,
                "hits": counts["memory_hits"],
                "misses": counts["memory_misses"],
            }
        return {
            "items": items,
            "size_bytes": size_bytes,
            "hits": counts["memory_hits"] + counts["disk_hits"],
            "misses": counts["disk_misses"],
            "unsaved": self.unsaved,
            "quarantined": aside,
            "memory": memory,
            "disk": {
                "items": items,
                "size_bytes": size_bytes,
                "hits": counts["disk_hits"],
                "misses": counts["disk_misses"],
            },
        }

    def purge(
        self,
        *,
        older_than_s: float | None = None,
        match: str | None = None,
        keys: Iterable[str] | None = None,
    ) -> int:
        """Delete answers for good; how many. All of them, or those for which every given condition holds.

        ``older_than_s``: put more than so many seconds ago; ``match``: key fits the glob; ``keys``:
        one of these. No byte of them stays in the file, its log or its damaged copies; damaged rows
        are deleted with them. Other processes may hold some in memory until they end. Rewrites the
        file: about 1 s for 130 MB. joblib's results are not touched.
        """
        conditions, values = ["1"], list[Any]()
        if older_than_s is not None:
            conditions.append("created < ?")
            values.append(self._now() - older_than_s)
        if match is not None:
            conditions.append("key GLOB ?")
            values.append(match)
        chosen = None if keys is None else list(dict.fromkeys(keys))
        where = " AND ".join(conditions)

        def delete(connection: sqlite3.Connection) -> int:
            connection.execute("DELETE FROM quarantine")
            if chosen is None:
                return connection.execute(f"DELETE FROM answers WHERE {where}", values).rowcount  # noqa: S608 (our own words)
            deleted = 0
            for key in chosen:
                deleted += connection.execute(
                    f"DELETE FROM answers WHERE {where} AND key=?",  # noqa: S608 (our own words)
                    [*values, key],
                ).rowcount
            return deleted

        if self._unsaved and (older_than_s, match, chosen) != (None, None, None):
            self.save()  # so that the conditions are asked of all answers
        with self._own_lock():
            self._forget()
            self._unsaved.clear()
        deleted = self._database.write(delete)
        with self._own_lock():
            self._forget()  # what a reader brought back meanwhile
        self._database.scrub()
        return deleted

    def close(self) -> None:
        """Write what is queued or unsaved and close the file. Warns NotSaved for what cannot be written."""
        self.claims.close()
        self._writer.close()
        self._reader.close()
        try:
            self.save()
        except ConfigError as error:
            warnings.warn(f"{self.unsaved} answers could not be saved. {error}", NotSaved, stacklevel=2)
        self._database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        more = f", unsaved={self.unsaved}" if self._unsaved else ""
        return f"AnswerStore({str(self.path)!r}, in memory={len(self._memory)}{more})"

    # ---------------------------------------------------------------- the memory tier

    def _own_lock(self) -> threading.Lock:
        """The lock of this process: a forked child may have copied it while another thread held it."""
        self._notice_fork()
        return self._lock

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():
            self._lock = threading.Lock()
            self._flights = {}
            self._unsaved = {}  # the parent's to save
            self._owner = owner_name(self._mark)
            self._pid = os.getpid()

    def _recall(self, key: str, now: float, ttl_s: float | None, *, counted: bool = True) -> str | None:
        """From memory; under the lock. The tiers are asked one after another; a shared one comes between."""
        held = self._memory.get(key)
        if held is None and (row := self._unsaved.get(key)) is not None:
            held = (row.text, row.created)
        if held is None or not _fresh(held[1], now, ttl_s):
            self._counts["memory_misses"] += counted
            return None
        if key in self._memory:
            self._memory.move_to_end(key)
        self._counts["memory_hits"] += counted
        return held[0]

    def _remember(self, key: str, text: str, created: float) -> None:
        before = self._memory.pop(key, None)
        if before is not None:
            self._memory_bytes -= len(before[0])
        self._memory[key] = (text, created)
        self._memory_bytes += len(text)
        while self._memory and (
            len(self._memory) > self._memory_items or self._memory_bytes > self._memory_limit_bytes
        ):
            _, (dropped, _) = self._memory.popitem(last=False)
            self._memory_bytes -= len(dropped)

    def _forget(self) -> None:
        self._memory.clear()
        self._memory_bytes = 0

    # ---------------------------------------------------------------- the disk tier

    def _texts(
        self, keys: Iterable[str], ttl_s: float | None, *, asked_memory: bool = False
    ) -> dict[str, str | None]:
        now = self._now()
        texts: dict[str, str | None] = dict.fromkeys(keys)
        missing = list(texts)
        if not asked_memory:
            with self._own_lock():
                missing = [key for key in texts if (self._look(texts, key, now, ttl_s)) is None]
        for start in range(0, len(missing), LOOKUP_ITEMS):
            self._read_rows(missing[start : start + LOOKUP_ITEMS], texts, now, ttl_s)
        return texts

    def _look(self, texts: dict[str, str | None], key: str, now: float, ttl_s: float | None) -> str | None:
        texts[key] = found = self._recall(key, now, ttl_s)
        return found

    def _read_rows(
        self, keys: list[str], texts: dict[str, str | None], now: float, ttl_s: float | None
    ) -> None:
        marks = ", ".join("?" * len(keys))
        select = f"SELECT rowid, key, value, digest, created FROM answers WHERE key IN ({marks})"  # noqa: S608 (marks only)
        rows = self._database.read(lambda c: c.execute(select, keys).fetchall())
        damaged = []
        good: list[tuple[str, str, float]] = []
        for rowid, key, text, digest, created in rows:
            if key not in texts or not isinstance(text, str) or checksum(key, created, text) != digest:
                damaged.append(rowid)
            elif _fresh(created, now, ttl_s):
                good.append((key, text, created))
        with self._own_lock():
            for key, text, created in good:
                texts[key] = text
                self._remember(key, text, created)
            self._counts["disk_hits"] += len(good)
            self._counts["disk_misses"] += len(keys) - len(good)
        if damaged:
            self._put_aside(damaged)

    def _put_aside(self, rowids: list[int]) -> None:
        found = self._now()

        def move(connection: sqlite3.Connection) -> None:
            for rowid in rowids:
                connection.execute(
                    "INSERT INTO quarantine SELECT key, value, digest, created, ? FROM answers WHERE rowid=?",
                    (found, rowid),
                )
                connection.execute("DELETE FROM answers WHERE rowid=?", (rowid,))

        self._database.write(move)
        warnings.warn(
            f"{len(rowids)} stored answers in {self.path} were damaged and have been put aside; "
            "they are asked again.",
            StoreDamaged,
            stacklevel=5,
        )

    def _read_group(self, asked: list[tuple[str, float | None]]) -> Sequence[str | None]:
        by_ttl: dict[float | None, list[str]] = {}
        for key, ttl_s in asked:
            by_ttl.setdefault(ttl_s, []).append(key)
        found = {ttl_s: self._texts(keys, ttl_s, asked_memory=True) for ttl_s, keys in by_ttl.items()}
        return [found[ttl_s][key] for key, ttl_s in asked]

    def _stored(self, connection: sqlite3.Connection, asked: Sequence[tuple[str, float | None]]) -> set[str]:
        """Which of these keys have an answer on disk that is young enough; not a hit and not a miss."""
        if not asked:
            return set()
        keys, now = dict(asked), self._now()
        created = connection.execute(
            "SELECT key, created FROM answers WHERE key IN (SELECT value FROM json_each(?))",
            (json.dumps(list(keys)),),
        ).fetchall()
        return {key for key, at in created if key in keys and _fresh(at, now, keys[key])}

    def _row(self, key: str, value: dict[str, Any]) -> _Row:
        if not isinstance(value, dict):
            raise TypeError(f"An answer is kept as a dict, not as {type(value).__name__}.")
        return _row(key, json_text(value), float(self._now()))

    def _commit(self, rows: Sequence[_Row]) -> list[None]:
        """Write the rows, and those that an earlier failure left behind, in one transaction."""
        with self._own_lock():
            waiting = {**self._unsaved, **{row.key: row for row in rows}}
        try:
            if waiting:
                values = list(waiting.values())
                self._database.write(lambda c: self._write_rows(c, values))
                self.claims.ended(waiting)
        except ConfigError as error:
            with self._own_lock():
                self._unsaved.update((row.key, row) for row in rows)
                error.unsaved = len(self._unsaved)  # type: ignore[attr-defined]
            raise
        with self._own_lock():
            for row in waiting.values():
                if self._unsaved.get(row.key) is row:
                    del self._unsaved[row.key]
                self._remember(row.key, row.text, row.created)
        return [None] * len(rows)

    def _write_rows(self, connection: sqlite3.Connection, rows: list[_Row]) -> None:
        connection.executemany(_UPSERT, rows)
        self.claims.end_with(connection, [row.key for row in rows])

    # ---------------------------------------------------------------- flights

    async def _fly(
        self,
        key: str,
        make: Callable[[], Awaitable[dict[str, Any]]],
        flight: Future[_Outcome],
        ttl_s: float | None,
        lease_s: float | None,
    ) -> tuple[dict[str, Any], bool]:
        outcome = _Outcome()
        try:
            if lease_s is None:
                value, shared = await make(), False
            else:
                value, shared = await self._fly_alone(key, make, ttl_s, lease_s)
            outcome = _Outcome(value=value)
        except Exception as error:
            if getattr(error, "retryable", None) is False:
                outcome = _Outcome(error=error)
            raise
        finally:
            with self._own_lock():
                if self._flights.get(key) is flight:
                    del self._flights[key]
            flight.set_result(outcome)
        return value, shared

    async def _fly_alone(
        self, key: str, make: Callable[[], Awaitable[dict[str, Any]]], ttl_s: float | None, lease_s: float
    ) -> tuple[dict[str, Any], bool]:
        """Run ``make`` under a claim, or take what another process stored meanwhile."""
        try:
            await self.my_turn(key, ttl_s, lease_s)
            if (there := await self.aget(key, ttl_s)) is not None:
                return there, True
            return await make(), False
        finally:
            self.let_go(key)

    def let_go(self, key: str) -> None:
        """The end of :meth:`my_turn`: give the key back, without waiting for it."""
        self.claims.let_go(key)
        if self._shared is not None:
            self._shared.let_go(key)

    async def take_now(self, keys: Sequence[str], ttl_s: float | None = None) -> set[str]:
        """Those of ``keys`` that are now this process's to ask and, at that very moment, not answered.

        One transaction in another thread, and one round trip to the shared tier; :meth:`let_go` of each
        follows. The others are answered, asked elsewhere, or could not be claimed: :meth:`my_turn` tells.
        """
        mine = await asyncio.to_thread(self.claims.take_now, keys, ttl_s=ttl_s)
        if self._shared is None or not mine:
            return mine
        taken = await self._shared.claim_many(mine, ttl_s)
        for key in mine - taken:
            self.claims.let_go(key)
        return taken

    async def my_turn(self, key: str, ttl_s: float | None = None, lease_s: float = CLAIM_S) -> None:
        """Wait while another process asks ``key``: until it is stored, or this process's to ask.

        Looks every 50 to 500 ms; over at once where the key is free. Look the key up afterwards, and call
        :meth:`let_go` at the end, also where this was cancelled.
        """
        with self._own_lock():
            there = self._recall(key, self._now(), ttl_s, counted=False)
        wait_s, again = LOOK_AGAIN_S[0], False
        while there is None and not await self.claims.take(key, lease_s, ttl_s=ttl_s, again=again):
            await asyncio.sleep(wait_s)
            wait_s, again = min(wait_s * 1.5, LOOK_AGAIN_S[1]), True
        shared, wait_s = self._shared, LOOK_AGAIN_S[0]
        if shared is None or there is not None:
            return
        while not await shared.claim(key):
            await asyncio.sleep(wait_s)
            if await self._find_shared(shared, key, ttl_s) is not None:
                return
            wait_s = min(wait_s * 1.5, LOOK_AGAIN_S[1])


def _row(key: str, text: str, created: float) -> _Row:
    return _Row(key, text, checksum(key, created, text), created, len(text.encode()))


def _in_both(shared: SharedTier, row: _Row, writing: Committing[None]) -> Committing[None]:
    """An answer goes to both tiers, and is kept when the file has it."""
    both: Committing[None] = Committing()

    def end(_: object) -> None:
        error = writing.exception()
        if error is None:
            both.set_result(None)
        else:
            both.set_exception(error)

    sharing = asyncio.ensure_future(shared.put(row.key, row.text, row.created))
    sharing.add_done_callback(lambda _: writing.add_done_callback(end))
    return both


def store_file(path: str | Path) -> Path:
    """The file for ``path``: itself, or ``answers.db`` in it where it is a directory or has no ending."""
    path = Path(path).expanduser()
    return path / STORE_FILE if path.is_dir() or not (path.suffix or path.is_file()) else path


def json_text(value: Any) -> str:
    """Compact JSON that UTF-8 can hold (half a surrogate pair is escaped). Raises TypeError: not JSON."""
    text = _compact.encode(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(value, separators=(",", ":"))
    return text


_compact = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def checksum(key: str, created: float, text: str) -> str:
    """What a row must still give when it is read: key, time and text belong together. 2 us for 1 kB."""
    digest = blake2b(f"{key}\n{created!r}\n".encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _fresh(created: float, now: float, ttl_s: float | None) -> bool:
    return ttl_s is None or max(0.0, now - created) < ttl_s
