"""SQLite opened the one safe way: private files, write-ahead log, real commits, errors in plain words.

Shared ground of the answer store and the job journal. What it promises:

* a write is on the disk (``synchronous=FULL``: one fsync a commit, about 0.3 ms on an SSD) when
  :meth:`Database.write` returns; ``kill -9`` or a power cut afterwards loses nothing;
* the directory is made 0700 and the file 0600, both must belong to the user who opens them;
* some space is held back on the disk, and given up where the disk is full, so that the commit in
  hand and those of what is already paid for still fit;
* a damaged file is moved aside as ``name.corrupt-1`` and what can still be read is copied into a
  new one, with one :class:`StoreDamaged` warning; a caller never sees a ``sqlite3`` error, only
  :class:`~deepseek_nb.core.errors.StoreFailed`, with ``reason`` telling which case it is.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from deepseek_nb.adapters.ballast import BALLAST_BYTES, Ballast
from deepseek_nb.core.errors import StoreFailed

if sys.platform != "win32":
    import fcntl

__all__ = [
    "BUSY_TIMEOUT_S",
    "Database",
    "NotSaved",
    "StoreDamaged",
    "network_file_system",
    "open_database",
]

BUSY_TIMEOUT_S = 30.0
"""How long a write waits for another process's write before it fails."""

APPLICATION_ID = 0x64736E62
"""Stands in the header of our files ("dsnb"), so that nobody else's database is taken for ours."""

NO_ROOM = (28, 122)
"""What the system calls a full disk, and a quota that is used up."""
PROBE_BYTES = 64 << 10

NETWORK_FILE_SYSTEMS = frozenset(
    {
        *("9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs"),
        *("nfs", "nfs4", "ocfs2", "smb2", "smb3", "smbfs", "vboxsf"),
        *("fuse.davfs2", "fuse.gcsfuse", "fuse.glusterfs", "fuse.rclone", "fuse.s3fs", "fuse.sshfs"),
    }
)
"""The write-ahead log's shared memory does not reach other machines: two kernels would damage the file."""

Synchronous = Literal["FULL", "NORMAL", "OFF"]
Reason = Literal["full", "busy", "readonly", "damaged", "unusable"]
R = TypeVar("R")

_FAILURES = (sqlite3.Error, UnicodeDecodeError)  # the second: SQLite quotes damaged bytes in its message
_DIRECTORY_HINT = "Set DEEPSEEK_NB_DATA_DIR to a directory of yours on a local disk."
_TEXT = partial(str, encoding="utf-8", errors="replace")  # damaged text must fail its checksum, not the read


class StoreDamaged(UserWarning):
    """Stored rows could not be read. They were put aside, never used; what they held is asked again."""


class NotSaved(UserWarning):
    """A result could not be written to disk. It was returned, but will be paid again next time."""


def open_database(
    path: str | Path,
    schema: Sequence[str],
    version: int,
    *,
    upgrades: Mapping[int, Sequence[str]] | None = None,
    synchronous: Synchronous = "FULL",
    busy_timeout_s: float = BUSY_TIMEOUT_S,
) -> sqlite3.Connection:
    """A connection to the file at ``path``, made if it is not there, checked if it is.

    ``schema`` is the list of CREATE statements (no IF NOT EXISTS) of ``version``; ``upgrades[n]``
    holds the statements that lead from version n to n + 1 and must end in the same CREATE texts.
    Autocommit is on (``isolation_level=None``): open transactions with BEGIN IMMEDIATE. The
    connection may be used from any one thread at a time, and never after a fork.

    With ``synchronous="NORMAL"`` a power cut (not a kill) may lose the commits since the last
    checkpoint, at most about 1000 pages; the file stays sound. With ``"OFF"`` a power cut may damage
    it: for what is worth nothing afterwards. Costs about 1 ms.

    Raises :class:`StoreFailed`: foreign owner, network file system, read-only or full disk, a
    file that is not ours or from a newer release, and ``reason="damaged"`` for a damaged one
    (:class:`Database` repairs that; this function does not).

    >>> import tempfile, pathlib
    >>> folder = tempfile.TemporaryDirectory()
    >>> connection = open_database(pathlib.Path(folder.name) / "x.db", ["CREATE TABLE t (a)"], 1)
    >>> connection.execute("SELECT count(*) FROM t").fetchone()
    (0,)
    >>> connection.close(); folder.cleanup()
    """
    path = Path(path).absolute()
    _prepare(path)
    give_up = time.monotonic() + busy_timeout_s
    while True:
        try:
            connection = sqlite3.connect(
                path, timeout=busy_timeout_s, isolation_level=None, check_same_thread=False
            )
        except _FAILURES as error:
            raise _explained(error, path) from None
        try:
            _configure(connection, synchronous, busy_timeout_s)
            _bring_to(connection, path, tuple(schema), version, upgrades or {})
        except _FAILURES as error:
            connection.close()
            if _code(error) == sqlite3.SQLITE_BUSY and time.monotonic() < give_up:
                time.sleep(0.02)  # switching to the write-ahead log does not wait for others by itself
                continue
            raise _explained(error, path) from None
        except BaseException:
            connection.close()
            raise
        return connection


class Database:
    """One SQLite file, used by any number of threads, loops and processes at once.

    Reads run side by side on their own connections; writes of this process take turns, and wait
    up to 30 s for other processes. Work is handed in as a function of the connection, so that it
    can be run again after a repair. A fork waits for the reads and
    writes under way, and parent and child open connections of their own. A file that was
    deleted or replaced under a running kernel is noticed before the next read or write.

    Example::

        database = Database(path, schema=["CREATE TABLE t (a)"], version=1)
        database.write(lambda c: c.execute("INSERT INTO t VALUES (1)"))   # on the disk now
        database.read(lambda c: c.execute("SELECT a FROM t").fetchall())  # [(1,)]
        database.close()
    """

    def __init__(
        self,
        path: str | Path,
        schema: Sequence[str],
        version: int,
        *,
        upgrades: Mapping[int, Sequence[str]] | None = None,
        synchronous: Synchronous = "FULL",
        busy_timeout_s: float = BUSY_TIMEOUT_S,
        ballast_bytes: int = BALLAST_BYTES,
    ) -> None:
        self.path = Path(path).absolute()
        self._ballast = Ballast(_beside(self.path, ".ballast"), ballast_bytes)
        self._schema = tuple(schema)
        self._version = version
        self._upgrades = dict(upgrades or {})
        self._synchronous: Synchronous = synchronous
        self._busy_timeout_s = busy_timeout_s
        self._closed = False
        self._fresh_locks()
        _watch_forks()
        _DATABASES.add(self)
        with self._write_lock:
            self._repaired(self._writing)

    def read(self, work: Callable[[sqlite3.Connection], R]) -> R:
        """What ``work(connection)`` returns. It must fetch all it needs and write nothing.

        Raises StoreFailed where the file cannot be read. ``work`` may run twice (after a repair).
        """
        return self._repaired(lambda: self._read_once(work))

    def write(
        self, work: Callable[[sqlite3.Connection], R], *, durable: bool = True, again: bool = True
    ) -> R:
        """What ``work(connection)`` returns, committed: everything it wrote, or nothing of it.

        One fsync (about 0.3 ms). ``durable=False`` leaves that out: a power cut may lose this commit,
        a kill may not; for leases, not for answers. ``again=False`` where ``work`` cannot run twice:
        after a repair it then raises. Raises StoreFailed (disk full, read-only, busy for 30 s).

        A durable write that does not fit gets the space held back for it: see :attr:`disk_full`.
        """
        with self._write_lock:
            try:
                result = self._repaired(lambda: self._write_once(work, durable=durable), again=again)
            except StoreFailed as error:
                may_use = durable and again and getattr(error, "reason", None) == "full"
                if not (may_use and self._ballast.give_up()):
                    raise
                result = self._repaired(lambda: self._write_once(work, durable=durable))
            if durable:
                self._ballast.keep()
            return result

    @property
    def disk_full(self) -> StoreFailed | None:
        """Why nothing more should be paid for: a write took the reserve, and no space was freed since."""
        if not self._ballast.spent:
            return None
        return StoreFailed(
            f"The disk of {self.path} is full. What was under way has been saved in space held back for it.",
            hint="Free some space, then run the same call again.",
            reason="full",
        )

    def scrub(self) -> None:
        """Leave no byte of deleted rows: rewrite the file, empty its log, delete damaged copies.

        Costs about one write of the whole file. Where another process reads for more than 30 s,
        bytes may stay in the log until it ends: then this raises StoreFailed (``reason="busy"``).
        """
        with self._write_lock:
            self._repaired(self._scrub_once)
            with _only_one(self.path):  # under both locks: a fork would copy this one
                for left in self._damaged_copies():
                    left.unlink(missing_ok=True)

    def size_bytes(self) -> int:
        """Bytes on disk: the file and its log."""
        sizes = 0
        for name in (self.path, _beside(self.path, "-wal")):
            with contextlib.suppress(FileNotFoundError):
                sizes += name.stat().st_size
        return sizes

    def close(self) -> None:
        """Close every connection. What was committed is on the disk already. May be called twice."""
        with self._write_lock:
            was_open, self._closed = not self._closed, True
            self._drop()
            if was_open and not _beside(self.path, "-wal").exists():  # nobody else has the file open
                self._ballast.drop()

    def __del__(self) -> None:
        if getattr(self, "_write_lock", None) is not None:
            self.close()

    def __repr__(self) -> str:
        return f"Database({str(self.path)!r}{', closed' if self._closed else ''})"

    def _fresh_locks(self) -> None:
        self._write_lock = threading.RLock()
        self._pool = threading.Condition()
        self._writer: sqlite3.Connection | None = None
        self._idle: list[sqlite3.Connection] = []
        self._reading = 0
        self._generation = 0
        self._file: tuple[int, int] | None = None

    def _before_fork(self) -> None:
        """Close every connection, and let nobody open one until the fork is done.

        SQLite keeps the locks of a process in its memory: a child that inherits them believes to
        hold locks it has not, and the file could be damaged.
        """
        self._write_lock.acquire()
        self._pool.acquire()
        while self._reading:
            self._pool.wait()
        self._drop()

    def _after_fork(self) -> None:
        self._pool.release()
        self._write_lock.release()

    def _open(self, path: Path | None = None) -> sqlite3.Connection:
        return open_database(
            path or self.path,
            self._schema,
            self._version,
            upgrades=self._upgrades,
            synchronous=self._synchronous,
            busy_timeout_s=self._busy_timeout_s,
        )

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return (found.st_dev, found.st_ino)

    def check(self) -> None:
        """Look the whole file over, its indexes too, and repair it where something does not hold.

        SQLite sees by itself that a page cannot be read, but not that an index leads astray. Takes about as
        long as reading the file. Warns StoreDamaged, and raises StoreFailed, as any other verb does.
        """

        def look() -> None:
            with self._write_lock:
                found = self._writing().execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise StoreFailed(f"The store at {self.path} is damaged.", reason="damaged")

        self._repaired(look)

    def _writing(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreFailed(
                f"The store at {self.path} is closed.", hint="Open it again.", reason="unusable"
            )
        if self._writer is None or self._file is None or self._identity() != self._file:
            self._drop()
            self._writer = self._open()
            self._file = self._identity()
        return self._writer

    def _drop(self) -> None:
        with self._pool:
            self._generation += 1
            idle, self._idle = self._idle, []
            writer, self._writer = self._writer, None
            self._file = None
        for connection in [*idle, writer]:
            if connection is not None:
                with contextlib.suppress(*_FAILURES):
                    connection.close()

    def _read_once(self, work: Callable[[sqlite3.Connection], R]) -> R:
        if self._closed or self._file is None or self._identity() != self._file:
            with self._write_lock:
                self._writing()
        with self._pool:
            self._reading += 1
            generation = self._generation
            connection = self._idle.pop() if self._idle else None
        keep = False
        try:
            if connection is None:
                connection = self._open()
                connection.execute("PRAGMA query_only=ON")
            result = work(connection)
            keep = True
        finally:
            with self._pool:
                if keep and connection is not None and generation == self._generation and not self._closed:
                    self._idle.append(connection)
                elif connection is not None:
                    connection.close()
                self._reading -= 1
                self._pool.notify_all()
        return result

    def _write_once(self, work: Callable[[sqlite3.Connection], R], *, durable: bool) -> R:
        connection = self._writing()
        durable = durable or self._synchronous != "FULL"
        if not durable:
            connection.execute("PRAGMA synchronous=NORMAL")
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                if self._identity() != self._file:  # replaced while this waited for another's write
                    connection.execute("ROLLBACK")
                    return self._write_once(work, durable=durable)
                result = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    with contextlib.suppress(*_FAILURES):
                        connection.execute("ROLLBACK")
                raise
        finally:
            if not durable:
                with contextlib.suppress(*_FAILURES):
                    connection.execute("PRAGMA synchronous=FULL")
        return result

    def _scrub_once(self) -> None:
        connection = self._writing()
        with self._pool:
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.close()
        connection.execute("VACUUM")
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreFailed(
                f"Another process is reading {self.path}: deleted rows may still stand in its log.",
                hint="Close the other kernel and purge again.",
                reason="busy",
            )

    def _repaired(self, work: Callable[[], R], *, again: bool = True) -> R:
        """``work()``; where the file proves damaged, repair it and, with ``again``, do it once more."""
        try:
            try:
                return work()
            except sqlite3.ProgrammingError:
                raise  # a mistake of ours, not the file's
            except _FAILURES as error:
                raise _explained(error, self.path) from None
        except StoreFailed as error:
            if getattr(error, "reason", None) != "damaged":
                raise
        with self._write_lock:
            self._rescue()
        if not again:
            raise StoreFailed(
                f"The store at {self.path} was damaged and has been repaired; this write was not made.",
                hint="Run the same call again.",
                reason="damaged",
            )
        try:
            return work()
        except _FAILURES as error:
            raise _explained(error, self.path) from None

    def _rescue(self) -> None:
        """Put a new file with all that can be read in the place of the damaged one, which is kept aside.

        The damaged one stays where it is, and its writers wait, until the new one is whole: after a kill or
        on a full disk half-way, the next one repairs it again.
        """
        found = self._file or self._identity()
        try:
            with _only_one(self.path):
                self._drop()
                if self._identity() != found:
                    return  # another process did it meanwhile
                aside = next(name for name in self._names_aside() if not name.exists())
                copied = self._replace_damaged(aside)
        except _FAILURES as error:
            raise _explained(error, self.path) from None
        except OSError as error:
            raise _cannot_be_made(error, self.path) from None
        warnings.warn(
            f"The store at {self.path} was damaged. {copied} rows were saved into a new file, the damaged "
            f"one is kept as {aside.name}.",
            StoreDamaged,
            stacklevel=4,
        )

    def _replace_damaged(self, aside: Path) -> int:
        """How many rows could be saved."""
        half = _beside(self.path, ".corrupt-half")  # deleted with the damaged copies
        _delete(half)
        try:
            with contextlib.closing(self._locked()) as old:
                with contextlib.closing(self._open(half)) as fresh:
                    fresh.execute("PRAGMA journal_mode=DELETE").fetchall()  # all in one file, once
                    copied = _copy_readable(old, fresh)
                if sys.platform == "win32":
                    old.close()  # an open file cannot be renamed there
                _swap(self.path, half, aside)
        finally:
            _delete(half)
        return copied

    def _locked(self) -> sqlite3.Connection:
        """The damaged file, which nobody else writes to where it still can be written to."""
        old = sqlite3.connect(self.path, timeout=self._busy_timeout_s, isolation_level=None)
        old.text_factory = _TEXT
        try:
            old.execute("BEGIN IMMEDIATE")
        except _FAILURES as error:
            if _code(error) == sqlite3.SQLITE_BUSY:
                old.close()
                raise
        return old

    def _names_aside(self) -> Iterator[Path]:
        number = 1
        while True:
            yield _beside(self.path, f".corrupt-{number}")
            number += 1

    def _damaged_copies(self) -> list[Path]:
        return [
            name for name in self.path.parent.iterdir() if name.name.startswith(f"{self.path.name}.corrupt-")
        ]


def network_file_system(path: str | Path, mounts: str | Path = "/proc/mounts") -> str | None:
    """The type of the network file system ``path`` lies on, or None (also where this cannot be told).

    >>> network_file_system("/tmp/x", mounts="/nowhere") is None
    True
    """
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    resolved = Path(path).resolve()
    best, kind = -1, ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\"))
        if len(point.parts) >= best and resolved.is_relative_to(point):  # the later mount hides the earlier
            best, kind = len(point.parts), fields[2]
    return kind if kind in NETWORK_FILE_SYSTEMS else None


def _code(error: Exception) -> int:
    if isinstance(error, UnicodeDecodeError):
        return sqlite3.SQLITE_CORRUPT
    return int(getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF


def _explained(error: Exception, path: Path) -> StoreFailed:
    """The plain words for what SQLite says; ``reason`` is for code, a full disk pauses a job."""
    code = _code(error)
    reason: Reason
    if code == sqlite3.SQLITE_READONLY and os.access(path, os.W_OK) and os.access(path.parent, os.W_OK):
        code = sqlite3.SQLITE_CORRUPT  # nothing but the file's own header says so
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CONSTRAINT):
        reason, what, hint = (
            "damaged",
            "is damaged",
            "Delete it or move it away; its answers are asked again.",
        )
    elif code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _no_room(path.parent)):
        reason, what = "full", "cannot grow: the disk is full"
        hint = "Free some space or set DEEPSEEK_NB_DATA_DIR to another disk, then run the same call again."
    elif code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        reason, what = "busy", "was kept busy by another process for too long"
        hint = "Close the other kernel, or wait for it, and run the same call again."
    elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        reason, what, hint = "readonly", "cannot be written", _DIRECTORY_HINT
    else:
        reason, what, hint = "unusable", f"cannot be used ({error})", _DIRECTORY_HINT
    return StoreFailed(f"The store at {path} {what}.", hint=hint, reason=reason)


def _no_room(folder: Path) -> bool:
    """Whether the disk or the user's quota is full: where a file is opened, SQLite only says "I/O error"."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(bytes(PROBE_BYTES))
    except OSError as error:
        return error.errno in NO_ROOM
    return False


def _prepare(path: Path) -> None:
    """The directory and an empty private file, or a StoreFailed that says why not."""
    folder = path.parent
    try:
        for missing in reversed([p for p in (folder, *folder.parents) if not p.exists()]):
            missing.mkdir(mode=0o700, exist_ok=True)
        kind = network_file_system(folder)
        if kind is not None:
            raise StoreFailed(
                f"{folder} lies on a network file system ({kind}), where SQLite cannot keep a file safe.",
                hint=_DIRECTORY_HINT,
                reason="unusable",
            )
        with contextlib.suppress(FileExistsError):
            # Only a file that was not there may be opened here: closing it would drop SQLite's locks on it.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        if hasattr(os, "geteuid"):
            _check_owner(path, os.geteuid())
    except OSError as error:
        raise _cannot_be_made(error, path) from None


def _cannot_be_made(error: OSError, path: Path) -> StoreFailed:
    full = error.errno in NO_ROOM
    return StoreFailed(
        f"The store at {path} cannot be made: {error.strerror or error}.",
        hint=_DIRECTORY_HINT,
        reason="full" if full else "readonly",
    )


def _check_owner(path: Path, user: int) -> None:
    folder, file = path.parent.stat(), path.stat()
    if not stat.S_ISREG(file.st_mode):
        raise StoreFailed(f"{path} is not a file.", hint=_DIRECTORY_HINT, reason="unusable")
    if file.st_uid != user or folder.st_uid not in (user, 0):
        whose = path if file.st_uid != user else path.parent
        raise StoreFailed(
            f"{whose} belongs to another user: what it holds cannot be trusted.",
            hint=_DIRECTORY_HINT,
            reason="unusable",
        )
    if folder.st_mode & stat.S_IWOTH and not folder.st_mode & stat.S_ISVTX:
        raise StoreFailed(
            f"Everybody may write to {path.parent}: what it holds cannot be trusted.",
            hint=f"chmod o-w {path.parent}, or: {_DIRECTORY_HINT}",
            reason="unusable",
        )
    if stat.S_IMODE(file.st_mode) & 0o077:
        path.chmod(0o600)


def _configure(connection: sqlite3.Connection, synchronous: Synchronous, busy_timeout_s: float) -> None:
    connection.text_factory = _TEXT
    for pragma in (
        f"busy_timeout={int(busy_timeout_s * 1000)}",
        "journal_mode=WAL",
        f"synchronous={synchronous}",
        "foreign_keys=ON",
        "secure_delete=ON",
        "trusted_schema=OFF",
        "cell_size_check=ON",
        "temp_store=MEMORY",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()


def _bring_to(
    connection: sqlite3.Connection,
    path: Path,
    schema: tuple[str, ...],
    version: int,
    upgrades: Mapping[int, Sequence[str]],
) -> None:
    """Create or upgrade the tables; refuse what is not ours; call a changed table damaged."""
    if _standing(connection) != (APPLICATION_ID, version):
        connection.execute("BEGIN IMMEDIATE")
        try:
            _raise_version(connection, path, schema, version, upgrades)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    if _tables(connection) != _expected(schema):
        raise StoreFailed(
            f"The store at {path} is damaged: its tables are not as they were made.", reason="damaged"
        )


def _raise_version(
    connection: sqlite3.Connection,
    path: Path,
    schema: tuple[str, ...],
    version: int,
    upgrades: Mapping[int, Sequence[str]],
) -> None:
    application, found = _standing(connection)
    tables = _tables(connection)
    if not tables and found in (0, version):
        for statement in schema:
            connection.execute(statement)
        found = version
    elif application != APPLICATION_ID:
        raise StoreFailed(f"{path} is a database of something else.", hint=_DIRECTORY_HINT, reason="unusable")
    while found < version and found in upgrades:
        for statement in upgrades[found]:
            connection.execute(statement)
        found += 1
    if found != version:
        raise StoreFailed(
            f"{path} was made by another release (its version is {found}, this release reads {version}).",
            hint="Upgrade deepseek_nb, or set DEEPSEEK_NB_DATA_DIR to another directory.",
            reason="unusable",
        )
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={version:d}")


def _standing(connection: sqlite3.Connection) -> tuple[int, int]:
    return (
        connection.execute("PRAGMA application_id").fetchone()[0],
        connection.execute("PRAGMA user_version").fetchone()[0],
    )


def _tables(connection: sqlite3.Connection) -> dict[str, str]:
    """Name and text of every table and index we made."""
    return dict(
        connection.execute(
            "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
        ).fetchall()
    )


@cache
def _expected(schema: tuple[str, ...]) -> dict[str, str]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as pristine:
        for statement in schema:
            pristine.execute(statement)
        return _tables(pristine)


def _copy_readable(old: sqlite3.Connection, fresh: sqlite3.Connection) -> int:
    """Copy the rows that can be read, from the front and then from the back; how many there were."""
    copied = 0
    names = [
        name
        for (name,) in fresh.execute(
            "SELECT name FROM sqlite_master WHERE type='table' AND name NOT GLOB 'sqlite_*'"
        )
    ]
    fresh.execute("PRAGMA foreign_keys=OFF")
    fresh.execute("BEGIN IMMEDIATE")
    for name in names:
        columns = [row[1] for row in fresh.execute(f"PRAGMA table_info({name})")]
        listed = ", ".join(columns)
        marks = ", ".join("?" * len(columns))
        insert = f"INSERT OR IGNORE INTO {name} ({listed}) VALUES ({marks})"  # noqa: S608 (names of our own tables)
        for order in ("", " ORDER BY rowid DESC"):
            select = f"SELECT {listed} FROM {name} NOT INDEXED{order}"  # noqa: S608 (the same)
            whole, rows = _insert_readable(old, select, fresh, insert)
            copied += rows
            if whole:
                break
    fresh.execute("COMMIT")
    return copied


def _insert_readable(
    old: sqlite3.Connection, select: str, fresh: sqlite3.Connection, insert: str
) -> tuple[bool, int]:
    """Whether the reading came to its end, and how many rows were new."""
    rows = 0
    try:
        cursor: Iterator[tuple[Any, ...]] = old.execute(select)
    except _FAILURES:
        return False, 0
    while True:
        try:
            row = next(cursor, None)
        except _FAILURES:
            return False, rows
        if row is None:
            return True, rows
        with contextlib.suppress(sqlite3.IntegrityError):
            rows += fresh.execute(insert, row).rowcount


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _delete(path: Path) -> None:
    """The file and what SQLite puts beside it."""
    for ending in ("", "-journal", "-wal", "-shm"):
        _beside(path, ending).unlink(missing_ok=True)


def _swap(path: Path, fresh: Path, aside: Path) -> None:
    """``fresh`` takes the place of ``path``, which goes ``aside``, its log first: it fits no other file."""
    with contextlib.suppress(FileNotFoundError):
        _beside(path, "-wal").rename(_beside(aside, "-wal"))
    _beside(path, "-shm").unlink(missing_ok=True)
    try:
        aside.hardlink_to(path)
    except OSError:  # a disk without links
        path.rename(aside)
    fresh.replace(path)


@contextlib.contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """One process at a time repairs ``path``."""
    if sys.platform == "win32":
        yield
        return
    with _beside(path, ".lock").open("wb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


_DATABASES: weakref.WeakSet[Database] = weakref.WeakSet()
_FORKING: list[Database] = []


@cache
def _watch_forks() -> None:
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)


def _before_fork() -> None:
    for database in list(_DATABASES):
        database._before_fork()  # noqa: SLF001 (its own kind)
        _FORKING.append(database)


def _after_fork() -> None:
    while _FORKING:
        _FORKING.pop()._after_fork()  # noqa: SLF001 (its own kind)


def _in_child() -> None:
    while _FORKING:
        _FORKING.pop()._fresh_locks()  # noqa: SLF001 (its own kind)
