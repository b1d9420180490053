"""The limits that kernels on one account share: a row of text for each account, in a file of its own.

What the text says is :mod:`deepseek_nb.core.fleet`'s business. The file lies beside the answers but
is not theirs: it is written some ten times a second by each kernel with work, it is worth nothing
after a power cut, and it must never wait until another process's answers are on the disk. So
nothing here is ever synced (``synchronous=OFF``); what a crash of the machine leaves of it is made
anew. A meeting costs about 0.1 ms.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

from deepseek_nb.adapters.database import Database
from deepseek_nb.adapters.owners import owner_name

__all__ = ["BUSY_S", "SharedLimits", "account_name"]

BUSY_S = 2.0
"""How long a meeting waits for another process's."""
SCHEMA = ("CREATE TABLE limits (account TEXT PRIMARY KEY, state TEXT NOT NULL) STRICT, WITHOUT ROWID",)
FORM = 1
"""Part of the row's key: kernels of releases that write another text do not meet."""


def account_name(*parts: str) -> str:
    """A name for the account that ``parts`` (origin, key) belong to; it cannot be turned back into them.

    >>> account_name("https://x", "sk-1") == account_name("https://x", "sk-2")
    False
    """
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16, person=b"deepseek_nb.acct").hexdigest()


class SharedLimits:
    """One account's row in the file at ``path``.

    Raises StoreFailed where the file cannot be used: other user's, network file system, read-only, full.

    Example::

        shared = SharedLimits(data_dir / "limits.db", account_name(key, base_url))
        shared.exchange(lambda text: (text or "") + "x")
        shared.close()
    """

    def __init__(self, path: str | Path, account: str) -> None:
        boot = owner_name("").split("|")[0]
        self.row = f"{FORM}|{boot}|{account}"
        self._database = Database(path, SCHEMA, 1, synchronous="OFF", busy_timeout_s=BUSY_S, ballast_bytes=0)

    def exchange(self, work: Callable[[str | None], str]) -> None:
        """Replace the row's text (None: there is none) by ``work`` of it, in one transaction.

        ``work`` may run twice, after a repair of the file. Costs about 0.1 ms; waits up to ``BUSY_S``
        for other processes. Raises StoreFailed.
        """

        def once(connection: sqlite3.Connection) -> None:
            found = connection.execute("SELECT state FROM limits WHERE account = ?", (self.row,)).fetchone()
            state = work(found[0] if found else None)
            if found:
                connection.execute("UPDATE limits SET state = ? WHERE account = ?", (state, self.row))
            else:
                connection.execute("DELETE FROM limits WHERE account NOT LIKE ?", (self._of_this_boot,))
                connection.execute("INSERT INTO limits VALUES (?, ?)", (self.row, state))

        self._database.write(once)

    @property
    def _of_this_boot(self) -> str:
        return self.row.rpartition("|")[0] + "|%"

    def close(self) -> None:
        """Close the file."""
        self._database.close()
