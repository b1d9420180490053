"""Who is asking which question right now, told to the other processes that share the file.

A claim is a row with its owner and the end of its lease; while its owner lives, a thread extends it.
Claims save money, they never stop a call: where they cannot be written (a full disk, a file that
another process keeps busy), :meth:`Claims.take` says "go ahead", and at worst a question is paid twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from deepseek_nb.adapters.database import Database
from deepseek_nb.adapters.group_commit import GroupCommit
from deepseek_nb.adapters.owners import owner_may_live
from deepseek_nb.core.errors import ConfigError

__all__ = ["CLAIMS_TABLE", "CLAIM_S", "Claims", "take_claim"]

CLAIMS_TABLE = (
    "CREATE TABLE claims (key TEXT PRIMARY KEY, owner TEXT NOT NULL, lease REAL NOT NULL) WITHOUT ROWID"
)
"""Stands in the file of the answers: whoever deletes that file deletes the claims on its keys with it."""

CLAIM_S = 60.0
"""How long a claim lasts without being extended; while it is held, it is extended every third of it."""

ANSWER_WITHIN_S = 2.0
"""How long a call waits for the file to say whose a key is, before it goes on without."""

REST_S = 10.0
"""How long no claim is tried after one could not be written."""


class _Step(NamedTuple):
    """What one caller wants: the key for ``lease_s`` seconds, or (None) not any more."""

    key: str
    lease_s: float | None
    ttl_s: float | None = None
    again: bool = False


Stored = Callable[[sqlite3.Connection, Sequence[tuple[str, float | None]]], set[str]]


class Claims:
    """This process's claims in ``database``, which has the table ``claims``. Any thread and loop.

    All that is taken and let go at the same moment is one transaction without an fsync: 100 us for a
    lone question, about 11 us each for 16 and more (take and let go together). ``stored`` tells of
    some ``(key, ttl_s)`` which are answered: for them nothing is written.

    Example::

        claims = Claims(database, lambda: owner_name(mark), time.monotonic, stored)
        if await claims.take(key):       # nobody else with this file is asking it, or it is stored
            try: ...                     # look, ask, and store the answer
            finally: claims.let_go(key)
    """

    def __init__(
        self,
        database: Database,
        owner: Callable[[], str],
        monotonic: Callable[[], float],
        stored: Stored,
    ) -> None:
        self._database = database
        self._owner = owner
        self._monotonic = monotonic
        self._stored = stored
        self._steps: GroupCommit[_Step, bool] = GroupCommit(self._carry_out, name="claims")
        self._rest_until = float("-inf")
        self._fresh()

    async def take(
        self, key: str, lease_s: float = CLAIM_S, *, ttl_s: float | None = None, again: bool = False
    ) -> bool:
        """Whether ``key`` is answered or may be asked now; then look before asking.

        Call :meth:`let_go` afterwards, also when cancelled here. False while another owner holds it, its
        lease (by the monotonic clock of this boot) has not ended and its process may live. ``again``
        says that it was False a moment ago: then the claims are read before anything is written. Never
        raises for the file's sake.
        """
        self._notice_fork()
        if self._monotonic() < self._rest_until:
            return True
        self._asked.add(key)
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                free = await self._steps.run(_Step(key, lease_s, ttl_s, again))
        except (TimeoutError, ConfigError):
            self._rest_until = self._monotonic() + REST_S
            return True
        if key not in self._held:
            self._asked.discard(key)  # answered, or another's: there is nothing to let go
        return free

    def take_now(
        self, keys: Sequence[str], *, ttl_s: float | None = None, lease_s: float = CLAIM_S
    ) -> set[str]:
        """Those of ``keys`` that are now this process's to ask and, at that very moment, not answered.

        Blocks for one transaction, some 6 us a key in groups of 64; :meth:`let_go` of each follows. The
        others are answered, asked elsewhere, or could not be claimed: :meth:`take` tells.
        """
        self._notice_fork()
        if self._monotonic() < self._rest_until:
            return set()
        owner, now = self._owner(), self._monotonic()

        def write(connection: sqlite3.Connection) -> set[str]:
            there = self._stored(connection, [(key, ttl_s) for key in keys])
            return {
                key for key in keys if key not in there and take_claim(connection, key, owner, now, lease_s)
            }

        try:
            mine = self._database.write(write, durable=False)
        except ConfigError:
            return set()
        self._asked |= mine
        self._hold(dict.fromkeys(mine, lease_s))
        return mine

    def let_go(self, key: str) -> None:
        """Give the key back, without waiting for it. Nothing where it was not asked for."""
        if self._pid == os.getpid() and key in self._asked:
            self._asked.discard(key)
            self._steps.submit(_Step(key, None))  # behind a take that is still queued

    def end_with(self, connection: sqlite3.Connection, keys: Iterable[str]) -> None:
        """Inside the write that stores the answers of ``keys``: their claims end in the same commit."""
        held, owner = self.held, self._owner()
        rows = [(key, owner) for key in keys if key in held]
        connection.executemany("DELETE FROM claims WHERE key=? AND owner=?", rows)

    def ended(self, keys: Iterable[str]) -> None:
        """That commit is done."""
        self._notice_fork()
        with self._wake:
            for key in keys:
                if self._held.pop(key, None) is not None:
                    self._asked.discard(key)

    @property
    def held(self) -> frozenset[str]:
        """The keys this process holds now."""
        self._notice_fork()
        with self._wake:
            return frozenset(self._held)

    def close(self) -> None:
        """Write what is queued, give back what is held, stop extending."""
        self._steps.close()
        self._notice_fork()
        with self._wake:
            left = bool(self._held)
            self._held.clear()
            self._wake.notify_all()
            beat = self._beat
        if beat is not None:
            beat.join()
        if left:  # a call was cut off: whoever asks next need not wait for its lease to end
            owner = self._owner()
            with contextlib.suppress(ConfigError):
                self._database.write(
                    lambda c: c.execute("DELETE FROM claims WHERE owner=?", (owner,)), durable=False
                )

    def _notice_fork(self) -> None:
        if self._pid != os.getpid():
            self._fresh()

    def _fresh(self) -> None:
        """Nothing held: at the start, and in a forked child, which has other claims than its parent: none."""
        self._pid = os.getpid()
        self._asked: set[str] = set()
        self._held: dict[str, float] = {}
        self._wake = threading.Condition()
        self._beat: threading.Thread | None = None

    def _hold(self, taken: dict[str, float]) -> None:
        with self._wake:
            self._held.update(taken)
            if self._held and self._beat is None:
                beat = threading.Thread(target=self._keep, name="deepseek_nb claims beat", daemon=True)
                with contextlib.suppress(RuntimeError):  # no more threads: the lease is not extended
                    beat.start()
                    self._beat = beat

    def _carry_out(self, steps: list[_Step]) -> list[bool]:
        asked = [(step.key, step.ttl_s) for step in steps if step.lease_s is not None]
        stored = self._database.read(lambda c: self._stored(c, asked)) if asked else set()
        left = [step for step in steps if step.lease_s is None or step.key not in stored]
        done = self._write(left) if left else {}
        return [step.lease_s is None or step.key in stored or done[step] for step in steps]

    def _write(self, steps: list[_Step]) -> dict[_Step, bool]:
        if all(step.again for step in steps) and self._all_elsewhere(steps):
            return dict.fromkeys(steps, False)
        owner, now = self._owner(), self._monotonic()

        def write(connection: sqlite3.Connection) -> dict[_Step, bool]:
            done = {}
            for step in steps:
                if step.lease_s is None:
                    connection.execute("DELETE FROM claims WHERE key=? AND owner=?", (step.key, owner))
                    done[step] = True
                else:
                    done[step] = take_claim(connection, step.key, owner, now, step.lease_s)
            return done

        done = self._database.write(write, durable=False)
        taken: dict[str, float] = {}
        with self._wake:
            for step in steps:  # in their order: who went away at once has let go in the same group
                if step.lease_s is None:
                    self._held.pop(step.key, None)
                    taken.pop(step.key, None)
                elif done[step]:
                    taken[step.key] = step.lease_s
        self._hold(taken)
        return done

    def _all_elsewhere(self, steps: list[_Step]) -> bool:
        keys, owner, now = json.dumps([step.key for step in steps]), self._owner(), self._monotonic()
        held = self._database.read(
            lambda c: c.execute(
                "SELECT owner, count(*) FROM claims WHERE key IN (SELECT value FROM json_each(?)) "
                "AND owner<>? AND lease>? GROUP BY owner",
                (keys, owner, now),
            ).fetchall()
        )
        living = sum(count for holder, count in held if owner_may_live(holder))
        return bool(living == len({step.key for step in steps}))

    def _keep(self) -> None:
        """Extend what is held until nothing is. A thread: a busy event loop must not lose its claims."""
        while True:
            with self._wake:
                self._wake.wait(min(self._held.values(), default=0.0) / 3)
                held = dict(self._held)
                if not held:
                    self._beat = None
                    return
            now, owner = self._monotonic(), self._owner()
            rows = [(now + lease_s, key, owner) for key, lease_s in held.items()]
            try:
                self._database.write(
                    lambda c, rows=rows: c.executemany(  # type: ignore[misc]
                        "UPDATE claims SET lease=? WHERE key=? AND owner=?", rows
                    ),
                    durable=False,
                )
            except ConfigError:
                continue  # tried again in a third of the lease


def take_claim(connection: sqlite3.Connection, key: str, owner: str, now: float, lease_s: float) -> bool:
    """Inside a write: whether ``key`` is now ``owner``'s until ``now + lease_s``."""
    held = connection.execute("SELECT owner, lease FROM claims WHERE key=?", (key,)).fetchone()
    if held is not None and held[0] != owner and held[1] > now and owner_may_live(held[0]):
        return False
    connection.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?)", (key, owner, now + lease_s))
    return True
