"""The one way a SQLite file is opened: private, checked, repaired, explained."""

import contextlib
import os
import sqlite3
import stat
import subprocess
import sys
import threading

import pytest
from children import run_code, start_code
from small_disk import small_disk

from deepseek_nb.adapters.database import (
    Database,
    StoreDamaged,
    network_file_system,
    open_database,
)
from deepseek_nb.adapters.owners import owner_may_live, owner_name
from deepseek_nb.core.errors import ConfigError, Disposition

SCHEMA = ["CREATE TABLE t (a INTEGER PRIMARY KEY, b TEXT)"]


@pytest.fixture
def database(tmp_path):
    """A database with one table."""
    with_table = Database(tmp_path / "x.db", SCHEMA, 1)
    yield with_table
    with_table.close()


def fill(database, rows=1000):
    database.write(
        lambda c: c.executemany("INSERT INTO t VALUES (?, ?)", [(n, "b" * 100) for n in range(rows)])
    )


def fill_up(folder):
    """No byte more fits on that disk, until ``filler`` is deleted."""
    with (folder / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass


def count(database):
    return database.read(lambda c: c.execute("SELECT count(*) FROM t").fetchone()[0])


def test_it_opens_as_promised(tmp_path):
    """Private directory and file, write-ahead log, fsync on commit, foreign keys, explicit transactions."""
    path = tmp_path / "deep" / "er" / "x.db"
    connection = open_database(path, SCHEMA, 1)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    pragmas = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 30000,
        "user_version": 1,
    }
    for name, value in pragmas.items():
        assert connection.execute(f"PRAGMA {name}").fetchone()[0] == value
    assert connection.isolation_level is None
    connection.close()
    normal = open_database(path, SCHEMA, 1, synchronous="NORMAL")
    assert normal.execute("PRAGMA synchronous").fetchone()[0] == 1
    normal.close()


def test_an_open_file_mode_is_closed_again(tmp_path):
    """A file that others could read is made private when it is opened."""
    open_database(tmp_path / "x.db", SCHEMA, 1).close()
    (tmp_path / "x.db").chmod(0o644)
    open_database(tmp_path / "x.db", SCHEMA, 1).close()
    assert stat.S_IMODE((tmp_path / "x.db").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("what", ["file", "folder"])
def test_another_users_file_is_refused(tmp_path, what):
    """What somebody else owns could hold anything."""
    folder = tmp_path / "folder"
    open_database(folder / "x.db", SCHEMA, 1).close()
    os.chown(folder / "x.db" if what == "file" else folder, 12345, 12345)
    with pytest.raises(ConfigError, match="belongs to another user") as caught:
        open_database(folder / "x.db", SCHEMA, 1)
    assert "DEEPSEEK_NB_DATA_DIR" in caught.value.hint


def test_a_folder_for_everybody_is_refused(tmp_path):
    """In a directory that everybody may write to, files could be swapped."""
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(ConfigError, match="Everybody may write"):
        open_database(folder / "x.db", SCHEMA, 1)


def test_network_file_systems_are_told_from_the_mount_table(tmp_path):
    """The longest mount point decides, escapes are read, the later mount hides the earlier one."""
    table = tmp_path / "mounts"
    table.write_text(
        "/dev/vda / ext4 rw 0 0\nserver:/a /home nfs4 rw 0 0\n/dev/sdb /home/me ext4 rw 0 0\n"
        "//nas/x /mnt/my\\040nas cifs rw 0 0\ntmpfs /both tmpfs rw 0 0\nserver:/b /both nfs rw 0 0\nbroken\n"
    )
    kinds = {"/home/you/x": "nfs4", "/home/me/x": None, "/mnt/my nas/x": "cifs", "/both": "nfs", "/etc": None}
    assert {path: network_file_system(path, mounts=table) for path in kinds} == kinds


@pytest.mark.parametrize("path", ["/proc/nothing/x.db", "/dev/null/x.db", "/dev"])
def test_what_cannot_be_made_is_a_clear_error(path):
    """No traceback of sqlite3 or of the operating system."""
    with pytest.raises(ConfigError) as caught:
        open_database(path, SCHEMA, 1)
    assert "DEEPSEEK_NB_DATA_DIR" in caught.value.hint


def test_versions(tmp_path):
    """An upgrade runs its steps; a file of a newer release and one of another program are refused."""
    path = tmp_path / "x.db"
    first = open_database(path, SCHEMA, 1)
    first.execute("INSERT INTO t VALUES (1, 'kept')")
    first.close()
    newer = [*SCHEMA, "CREATE TABLE u (c TEXT)"]
    second = open_database(path, newer, 2, upgrades={1: ["CREATE TABLE u (c TEXT)"]})
    assert second.execute("SELECT b FROM t").fetchall() == [("kept",)]
    second.close()
    with pytest.raises(ConfigError, match="another release"):
        open_database(path, SCHEMA, 1)
    other = tmp_path / "other.db"
    foreign = sqlite3.connect(other)
    foreign.execute("CREATE TABLE addresses (a)")
    foreign.close()
    with pytest.raises(ConfigError, match="something else"):
        open_database(other, SCHEMA, 1)


def test_a_failed_write_leaves_nothing(database):
    """A transaction is all or nothing, and the lock is free afterwards."""

    def half(connection):
        connection.execute("INSERT INTO t VALUES (1, 'x')")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        database.write(half)
    assert count(database) == 0
    fill(database)
    assert count(database) == 1000


def test_writes_that_need_not_be_durable_leave_the_setting(database):
    """Only that one commit goes without fsync."""
    database.write(lambda c: c.execute("INSERT INTO t VALUES (1, 'x')"), durable=False)
    assert database.write(lambda c: c.execute("PRAGMA synchronous").fetchone()[0]) == 2


def test_readers_do_not_wait_for_a_writer(database):
    """While one thread writes, another reads what was committed before."""
    fill(database)
    inside, go_on = threading.Event(), threading.Event()

    def slow(connection):
        connection.execute("DELETE FROM t")
        inside.set()
        assert go_on.wait(10)

    thread = threading.Thread(target=database.write, args=(slow,))
    thread.start()
    assert inside.wait(10)
    assert count(database) == 1000
    go_on.set()
    thread.join()
    assert count(database) == 0


def test_eight_processes_make_one_file_at_the_same_time(tmp_path):
    """Nobody sees a half-made file or a locked one."""
    script = f"""
        import sys
        from deepseek_nb.adapters.database import Database
        database = Database(sys.argv[1], {SCHEMA!r}, 1)
        database.write(lambda c: c.execute("INSERT INTO t VALUES (?, 'x')", (int(sys.argv[2]),)))
        database.close()
    """
    children = [start_code(script, tmp_path / "x.db", n) for n in range(8)]
    assert [child.communicate()[1] for child in children] == [""] * 8
    database = Database(tmp_path / "x.db", SCHEMA, 1)
    assert count(database) == 8
    database.close()


def test_a_forked_child_opens_its_own(tmp_path):
    """Parent and child write on after a fork, even while another thread held the locks."""
    script = f"""
        import os, sys, threading, warnings
        from deepseek_nb.adapters.database import Database
        database = Database(sys.argv[1], {SCHEMA!r}, 1)
        database.write(lambda c: c.execute("INSERT INTO t VALUES (0, 'x')"))
        held, free = threading.Event(), threading.Event()
        thread = threading.Thread(target=lambda: database.write(lambda c: (held.set(), free.wait(20))))
        thread.start()
        held.wait(20)
        threading.Timer(0.2, free.set).start()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            assert database.read(lambda c: c.execute("SELECT count(*) FROM t").fetchone()) in [(1,), (101,)]
            put = "INSERT INTO t VALUES (?, 'c')"
            database.write(lambda c: c.executemany(put, [[n] for n in range(1, 100)]))
            database.close()
            sys.exit(0)
        thread.join()
        put = "INSERT INTO t VALUES (?, 'p')"
        database.write(lambda c: c.executemany(put, [[n] for n in range(100, 200)]))
        assert os.waitpid(child, 0)[1] == 0
        assert database.read(lambda c: c.execute("SELECT count(*) FROM t").fetchone()) == (200,)
        assert database.read(lambda c: c.execute("PRAGMA integrity_check").fetchone()) == ("ok",)
        database.close()
    """
    run_code(script, tmp_path / "x.db")


def test_a_deleted_file_is_noticed(database):
    """Somebody deletes the cache under a running kernel: the next write makes a new one."""
    fill(database)
    for name in database.path.parent.iterdir():
        name.unlink()
    assert count(database) == 0
    fill(database, 10)
    assert count(database) == 10
    assert database.path.exists()


def test_a_file_of_garbage_is_moved_aside(tmp_path):
    """One warning, a usable new file, and the old bytes are kept."""
    (tmp_path / "x.db").write_bytes(b"this is no database " * 1000)
    with pytest.warns(StoreDamaged, match=r"x\.db\.corrupt-1") as caught:
        database = Database(tmp_path / "x.db", SCHEMA, 1)
    assert len(caught) == 1
    fill(database)
    assert count(database) == 1000
    assert (tmp_path / "x.db.corrupt-1").read_bytes().startswith(b"this is no database")
    database.scrub()
    assert not (tmp_path / "x.db.corrupt-1").exists()
    database.close()


def test_a_write_that_waited_goes_into_the_file_that_is_there(database):
    """A file is replaced while a write waits for that of another process: it is not lost with the old one."""
    begun = threading.Event()
    database.write(lambda c: c.set_trace_callback(lambda _: begun.set()))
    begun.clear()
    other = sqlite3.connect(database.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    writer = threading.Thread(target=fill, args=(database, 10))
    writer.start()
    assert begun.wait(20)
    for name in database.path.parent.iterdir():
        name.unlink()
    other.close()
    writer.join()
    assert count(database) == 10


def damaged(folder):
    """The path of a file of 2000 rows with a damaged page in its middle."""
    database = Database(folder / "x.db", SCHEMA, 1)
    fill(database, 2000)
    database.close()
    raw = bytearray((folder / "x.db").read_bytes())
    middle = len(raw) // 2 // 4096 * 4096
    raw[middle : middle + 4096] = b"\xff" * 4096
    (folder / "x.db").write_bytes(raw)
    return folder / "x.db"


def test_a_killed_repair_loses_nothing(tmp_path):
    """Nor does whoever looks while it is under way find an empty file: the next one repairs it again."""
    script = f"""
        import os, sys
        from deepseek_nb.adapters import database
        database._insert_readable = lambda *_: os.kill(os.getpid(), 9)
        database.Database(sys.argv[1], {SCHEMA!r}, 1).check()
    """
    with pytest.raises(AssertionError):
        run_code(script, damaged(tmp_path))
    database = Database(tmp_path / "x.db", SCHEMA, 1)
    with pytest.warns(StoreDamaged, match="was damaged"):
        assert 1900 < count(database) < 2000
    database.close()
    assert not list(tmp_path.glob("*half*"))


def test_a_repair_that_does_not_fit_is_made_later(tmp_path):
    """A damaged file on a full disk stays as it is until there is room for what it still holds."""
    with small_disk(tmp_path / "small") as folder:
        database = Database(damaged(folder), SCHEMA, 1)
        fill_up(folder)
        with pytest.raises(ConfigError, match="disk is full"):
            count(database)
        (folder / "filler").unlink()
        with pytest.warns(StoreDamaged, match="was damaged"):
            assert 1900 < count(database) < 2000
        database.close()


def test_a_repair_on_a_read_only_disk_is_a_clear_error(tmp_path):
    """As any other write there."""
    with small_disk(tmp_path / "small") as folder:
        (folder / "x.db").write_bytes(b"this is no database " * 1000)
        (folder / "x.db").chmod(0o600)
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(ConfigError, match="cannot be made: Read-only") as caught:
            Database(folder / "x.db", SCHEMA, 1)
        assert caught.value.reason == "readonly"


def test_readable_rows_are_saved(tmp_path):
    """A damaged page in the middle costs its own rows, not those before and after."""
    database = Database(damaged(tmp_path), SCHEMA, 1)
    with pytest.warns(StoreDamaged, match="was damaged"):
        assert 1900 < count(database) < 2000
    assert database.read(lambda c: c.execute("PRAGMA integrity_check").fetchone()) == ("ok",)
    database.close()


def test_a_write_that_cannot_run_twice_says_so(tmp_path):
    """After a repair it is the caller who runs it again."""
    database = Database(tmp_path / "x.db", SCHEMA, 1)
    fill(database)
    database.close()
    raw = bytearray((tmp_path / "x.db").read_bytes())
    raw[4096:12288] = b"\xff" * 8192
    (tmp_path / "x.db").write_bytes(raw)
    database = Database(tmp_path / "x.db", SCHEMA, 1)
    with pytest.warns(StoreDamaged), pytest.raises(ConfigError, match="repaired"):
        database.write(lambda c: c.execute("DELETE FROM t"), again=False)
    fill(database)
    database.close()


def test_a_full_disk_is_a_clear_error(tmp_path):
    """The error pauses a job; what was there stays readable."""
    with small_disk(tmp_path / "small") as folder:
        database = Database(folder / "x.db", SCHEMA, 1)
        fill(database, 100)
        fill_more = [(n, "b" * 1000) for n in range(1000, 5000)]
        with pytest.raises(ConfigError, match="disk is full") as caught:
            database.write(lambda c: c.executemany("INSERT INTO t VALUES (?, ?)", fill_more))
        assert (caught.value.reason, caught.value.disposition) == ("full", Disposition.PAUSE)
        assert count(database) == 100
        database.close()


def test_opening_on_a_full_disk_says_so(tmp_path):
    """SQLite calls it an I/O error; whoever starts again after the disk was filled has to know why."""
    with small_disk(tmp_path / "small") as folder:
        open_database(folder / "x.db", SCHEMA, 1).close()
        fill_up(folder)
        with pytest.raises(ConfigError, match="disk is full") as caught:
            Database(folder / "x.db", SCHEMA, 1)
        assert caught.value.reason == "full"


def test_the_reserve_stays_until_the_last_one_closes(database):
    """Whoever looks into a store for a moment does not take the space held back for a running job along."""
    fill(database)
    reserve = database.path.with_name("x.db.ballast")
    assert reserve.exists()
    other = Database(database.path, SCHEMA, 1)
    assert count(other) == 1000
    other.close()
    assert reserve.exists()
    database.close()
    assert not reserve.exists()


def test_a_read_only_disk_is_a_clear_error(tmp_path):
    """Named with what to do."""
    with small_disk(tmp_path / "small") as folder:
        open_database(folder / "x.db", SCHEMA, 1).close()
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with pytest.raises(ConfigError, match="cannot be") as caught:
            open_database(folder / "x.db", SCHEMA, 1)
        assert caught.value.reason == "readonly"
        with pytest.raises(ConfigError) as caught:
            open_database(folder / "new.db", SCHEMA, 1)
        assert caught.value.reason == "readonly"


def test_a_closed_database_says_so(database):
    """And closing twice is harmless."""
    database.close()
    database.close()
    assert "closed" in repr(database)
    with pytest.raises(ConfigError, match="is closed"):
        count(database)
    with pytest.raises(ConfigError, match="is closed"):
        fill(database)


def test_owners():
    """Alive: this process. Gone: an ended one, a reborn pid, another boot. Unknown: another container."""
    me = owner_name()
    assert me != owner_name()
    assert owner_may_live(me)
    boot, namespace, pid, started, rest = me.split("|")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not owner_may_live("|".join([boot, namespace, str(ended.pid), "1", rest]))
    assert not owner_may_live("|".join([boot, namespace, pid, "1", rest]))
    assert not owner_may_live("|".join(["another boot", namespace, pid, started, rest]))
    assert owner_may_live("|".join([boot, "another", str(ended.pid), "1", rest]))
    assert owner_may_live("a name of somebody's own")
