"""What each account has spent, by day and month, and what its kernels have set aside: one SQLite file.

It lies beside the answers. Spent, perhaps spent and all that is set aside never pass a limit together,
whichever process draws. What a process that is gone had set aside may have been spent: it is booked as
unknown at the next look, and never given out again in that period.
"""

from __future__ import annotations

import os
import sqlite3
import uuid
from pathlib import Path

from deepseek_nb.adapters.database import Database
from deepseek_nb.adapters.owners import owner_may_live, owner_name
from deepseek_nb.core.accounts import Drawn
from deepseek_nb.core.errors import StoreFailed

__all__ = ["SPENDING_FILE", "Spending"]

SPENDING_FILE = "spending.db"
"""In the data directory."""
BUSY_S = 5.0
"""How long a look waits for another process's."""
SCHEMA = (
    "CREATE TABLE periods (account TEXT NOT NULL, period TEXT NOT NULL, spent_usd REAL NOT NULL, "
    "unknown_usd REAL NOT NULL, PRIMARY KEY (account, period)) WITHOUT ROWID",
    "CREATE TABLE allowances (account TEXT NOT NULL, period TEXT NOT NULL, owner TEXT NOT NULL, "
    "usd REAL NOT NULL, PRIMARY KEY (account, period, owner)) WITHOUT ROWID",
    "CREATE TABLE warned (account TEXT NOT NULL, period TEXT NOT NULL, limit_usd REAL NOT NULL, "
    "PRIMARY KEY (account, period, limit_usd)) WITHOUT ROWID",
)
VERSION = 1


class Spending:
    """The spending of one account, in the file at ``path``, which is opened at the first use.

    ``period`` is any name, such as "2026-11-25". Costs of a draw: one fsync (0.3 ms); of a booking: none
    (a power cut that loses it leaves the money set aside by a process that is gone, so it counts).

    :meth:`draw` raises StoreFailed where the file cannot be used.

    Example::

        spending = Spending(data_dir / "spending.db", account_name(origin, key))
        spending.draw("2026-11-25", limit_usd=5.0, want_usd=0.10, least_usd=0.01)   # Drawn(usd=0.1, ...)
        spending.book("2026-11-25", 0.004, 0.0, rest=True)
    """

    def __init__(self, path: str | Path, account: str) -> None:
        self.path = Path(path)
        self.account = account
        self._mark = uuid.uuid4().hex[:12]
        self._own_name = (owner_name(self._mark), os.getpid())
        self._opened: Database | None = None

    @property
    def owner(self) -> str:
        """This process's name on what it has set aside; another one in a forked child."""
        name, pid = self._own_name
        if pid != os.getpid():
            name = owner_name(self._mark)
            self._own_name = (name, os.getpid())
        return name

    def draw(self, period: str, limit_usd: float, want_usd: float, least_usd: float) -> Drawn:
        """Set aside ``want_usd`` of the limit for this process or what is left, at least ``least_usd``."""
        owner = self.owner

        def take(connection: sqlite3.Connection) -> Drawn:
            self._end_allowances(connection, period)
            spent, unknown = self._sums(connection, period)
            aside = dict(
                connection.execute(
                    "SELECT owner, usd FROM allowances WHERE account=? AND period=?", (self.account, period)
                ).fetchall()
            )
            left = limit_usd - spent - unknown - sum(aside.values())
            given = min(want_usd, left) if left >= least_usd else 0.0
            mine = aside.pop(owner, 0.0)
            if given:
                connection.execute(
                    "INSERT OR REPLACE INTO allowances VALUES (?, ?, ?, ?)",
                    (self.account, period, owner, mine + given),
                )
            return Drawn(given, spent, unknown, sum(aside.values()))

        return self._database.write(take)

    def book(self, period: str, spent_usd: float, unknown_usd: float, *, rest: bool) -> bool:
        """Write down what was spent of what is set aside; with ``rest``, set nothing aside any more.

        False where the file cannot be used now: nothing was written, and it stays set aside.
        """
        owner = self.owner

        def keep(connection: sqlite3.Connection) -> None:
            if spent_usd or unknown_usd:
                self._add(connection, period, spent_usd, unknown_usd)
            key = (self.account, period, owner)
            if rest:
                connection.execute("DELETE FROM allowances WHERE account=? AND period=? AND owner=?", key)
            else:
                connection.execute(
                    "UPDATE allowances SET usd=max(0.0, usd-?) WHERE account=? AND period=? AND owner=?",
                    (spent_usd + unknown_usd, *key),
                )

        try:
            self._database.write(keep, durable=False)
        except StoreFailed:
            return False
        return True

    def first_to_warn(self, period: str, limit_usd: float) -> bool:
        """Whether nobody has warned of this limit in this period yet; the next one who asks hears False.

        True, too, where the file cannot be used: rather said twice than never.
        """

        def note(connection: sqlite3.Connection) -> bool:
            row = (self.account, period, limit_usd)
            return connection.execute("INSERT OR IGNORE INTO warned VALUES (?, ?, ?)", row).rowcount == 1

        try:
            return self._database.write(note)
        except StoreFailed:
            return True

    def spent(self, period: str) -> tuple[float, float]:
        """What was spent in that period, and what was perhaps charged, in US dollars."""
        return self._database.read(lambda c: self._sums(c, period))

    def close(self) -> None:
        """Close the file; it is opened again when it is used again."""
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    @property
    def _database(self) -> Database:
        if self._opened is None:
            self._opened = Database(self.path, SCHEMA, VERSION, busy_timeout_s=BUSY_S, ballast_bytes=0)
        return self._opened

    def _sums(self, connection: sqlite3.Connection, period: str) -> tuple[float, float]:
        row = connection.execute(
            "SELECT spent_usd, unknown_usd FROM periods WHERE account=? AND period=?", (self.account, period)
        ).fetchone()
        return (0.0, 0.0) if row is None else (float(row[0]), float(row[1]))

    def _add(self, connection: sqlite3.Connection, period: str, spent_usd: float, unknown_usd: float) -> None:
        connection.execute(
            "INSERT INTO periods VALUES (?, ?, ?, ?) ON CONFLICT (account, period) DO UPDATE SET "
            "spent_usd=spent_usd+excluded.spent_usd, unknown_usd=unknown_usd+excluded.unknown_usd",
            (self.account, period, spent_usd, unknown_usd),
        )

    def _end_allowances(self, connection: sqlite3.Connection, period: str) -> None:
        """What processes that are gone had set aside may have been spent."""
        aside = connection.execute(
            "SELECT owner, usd FROM allowances WHERE account=? AND period=?", (self.account, period)
        ).fetchall()
        for owner, usd in aside:
            if not owner_may_live(owner):
                self._add(connection, period, 0.0, usd)
                connection.execute(
                    "DELETE FROM allowances WHERE account=? AND period=? AND owner=?",
                    (self.account, period, owner),
                )
