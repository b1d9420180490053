"""Limits shared through a real file by real processes."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import time
import warnings
from collections.abc import Callable

import pytest
from children import run_code, start, start_code

from deepseek_nb.adapters.limits import SharedLimits, account_name
from deepseek_nb.core.errors import StoreFailed

PATIENCE_S = 60.0


@pytest.fixture
def limits(tmp_path):
    shared = SharedLimits(tmp_path / "limits.db", "account")
    yield shared
    shared.close()


def read(shared: SharedLimits) -> str | None:
    """The row's text, unchanged."""
    found: list[str | None] = []

    def look(text: str | None) -> str:
        found.append(text)
        return text or ""

    shared.exchange(look)
    return found[-1]


def until(what: Callable[[], bool]) -> float:
    """Wait for ``what``; gives the seconds it took."""
    began = time.monotonic()
    while not what():
        assert time.monotonic() - began < PATIENCE_S, "it never came true"
        time.sleep(0.01)
    return time.monotonic() - began


# ------------------------------------------------------------------------------------------ the file


def test_a_text_is_handed_on(limits, tmp_path):
    assert read(limits) is None
    limits.exchange(lambda text: "one")
    other = SharedLimits(tmp_path / "limits.db", "account")
    other.exchange(lambda text: f"{text} two")
    assert read(limits) == "one two"
    other.close()


def test_accounts_do_not_meet(limits, tmp_path):
    limits.exchange(lambda text: "mine")
    other = SharedLimits(tmp_path / "limits.db", "another")
    assert read(other) is None
    other.close()


def test_work_that_fails_changes_nothing(limits):
    limits.exchange(lambda text: "before")
    with pytest.raises(ZeroDivisionError):
        limits.exchange(lambda text: str(1 / 0))
    assert read(limits) == "before"


def test_the_file_is_private_and_never_waits_for_the_disk(limits, tmp_path):
    limits.exchange(lambda text: "x")
    assert stat.S_IMODE((tmp_path / "limits.db").stat().st_mode) == 0o600
    pragma = limits._database.write(lambda c: c.execute("PRAGMA synchronous").fetchone()[0])
    assert pragma == 0


def test_rows_of_other_boots_are_swept(limits, tmp_path):
    limits.exchange(lambda text: "now")
    with sqlite3.connect(tmp_path / "limits.db") as connection:
        connection.execute("INSERT INTO limits VALUES ('1|another-boot|account', 'long ago')")
    connection.close()
    newcomer = SharedLimits(tmp_path / "limits.db", "third")
    assert read(newcomer) is None
    rows = newcomer._database.read(lambda c: c.execute("SELECT state FROM limits ORDER BY state").fetchall())
    assert rows == [("",), ("now",)]
    newcomer.close()


def test_a_damaged_file_is_replaced_and_work_goes_on(limits, tmp_path):
    limits.exchange(lambda text: "x" * 9000)
    limits.close()
    path = tmp_path / "limits.db"
    for beside in tmp_path.glob("limits.db-*"):
        beside.unlink()
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = SharedLimits(path, "account")
        again.exchange(lambda text: "new")
    assert read(again) == "new"
    again.close()


def test_a_file_that_cannot_be_made_is_refused_in_plain_words(tmp_path):
    (tmp_path / "limits.db").mkdir()
    with pytest.raises(StoreFailed, match="not a file"):
        SharedLimits(tmp_path / "limits.db", "account")


def test_a_file_that_somebody_sits_on_is_busy_within_seconds(limits, tmp_path):
    """Not the answer store's half minute: a kernel would stand still meanwhile."""
    limits.exchange(lambda text: "x")
    sitter = sqlite3.connect(tmp_path / "limits.db", isolation_level=None)
    sitter.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(StoreFailed) as busy:
        limits.exchange(lambda text: "y")
    assert busy.value.reason == "busy"
    assert time.monotonic() - began < 20
    sitter.close()
    assert read(limits) == "x"


def test_a_name_does_not_show_the_key():
    name = account_name("https://api.deepseek.com", "sk-123456")
    assert "123456" not in name
    assert name == account_name("https://api.deepseek.com", "sk-123456")
    assert name != account_name("https://api.deepseek.com", "sk-123457")
    assert name != account_name("https://api.deepseek.co", "msk-123456")


def test_four_processes_lose_no_exchange(tmp_path):
    code = """
        import sys, time
        from deepseek_nb.adapters.limits import SharedLimits
        shared = SharedLimits(sys.argv[1], "account")
        for _ in range(250):
            shared.exchange(lambda text: str(int(text or 0) + 1))
            time.sleep(0.002)  # without any pause, SQLite may leave one process out for seconds
        shared.close()
    """
    children = [start_code(code, tmp_path / "limits.db") for _ in range(4)]
    for child in children:
        _, errors = child.communicate(timeout=100)
        assert child.returncode == 0, errors
    shared = SharedLimits(tmp_path / "limits.db", "account")
    assert read(shared) == "1000"
    shared.close()


def test_a_fork_may_use_it(tmp_path):
    code = """
        import os, sys, warnings
        from deepseek_nb.adapters.limits import SharedLimits
        shared = SharedLimits(sys.argv[1], "account")
        shared.exchange(lambda text: "parent")
        child = os.fork()
        shared.exchange(lambda text: text + " and one more")
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        shared.exchange(lambda text: print(text) or text)
    """
    assert run_code(code, tmp_path / "limits.db") == "parent and one more and one more\n"


# ------------------------------------------------------------------------------------- four kernels


class Kernel:
    """A child with a real gate."""

    def __init__(self, path) -> None:
        self.process = start("share_limits.py", path, stdin=subprocess.PIPE)
        assert self.process.stdout.readline() == "ready\n"

    def say(self, line: str) -> None:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def state(self) -> dict:
        self.say("state")
        return json.loads(self.process.stdout.readline())


@pytest.fixture
def four(tmp_path):
    """Four kernels, the file they share, and each one's name at the table."""
    started = [Kernel(tmp_path / "limits.db") for _ in range(4)]
    yield started
    for kernel in started:
        kernel.process.kill()
        kernel.process.communicate(timeout=30)


def rooms(shared: SharedLimits) -> dict[str, tuple[int, int]]:
    """Room and held of each member."""
    _, _, members = json.loads(read(shared) or "[0, [], {}]")
    return {name: (member[1], member[2]) for name, member in members.items()}


def test_four_kernels_share_one_limit_and_a_killed_one_is_missed(four, limits):
    for kernel in four:
        kernel.say("work 40")
    until(lambda: sorted(room for room, _ in rooms(limits).values()) == [4, 4, 4, 4])
    for _ in range(100):
        seen = rooms(limits)
        assert sum(max(room, held) for room, held in seen.values()) <= 16
        time.sleep(0.005)
    assert all(kernel.state()["kernels"] == 4 for kernel in four)
    four[0].process.kill()
    four[0].process.wait()
    took_s = until(lambda: len(rooms(limits)) == 3 and sum(room for room, _ in rooms(limits).values()) == 16)
    assert took_s < 20
    for kernel in four[1:3]:
        kernel.say("end")
        assert kernel.process.wait(timeout=30) == 0
    until(lambda: [room for room, _ in rooms(limits).values()] == [16])


def test_all_kernels_know_at_once_that_the_server_is_down_and_when_it_is_back(four, limits):
    for kernel in four:
        kernel.say("hold 2")
    until(lambda: [held for _, held in rooms(limits).values()] == [2, 2, 2, 2])
    four[0].say("trip")
    until(lambda: all(kernel.state()["was_down"] for kernel in four))
    four[1].say("work 1")
    until(lambda: not any(kernel.state()["down"] for kernel in four))  # somebody's probe was answered


def test_all_kernels_stand_aside_for_an_interactive_call_of_one(four, limits):
    for kernel in four:
        kernel.say("work 5")
    until(lambda: len(rooms(limits)) == 4)
    four[0].say("refuse")
    until(lambda: all(kernel.state()["aside"] for kernel in four))


def test_an_idle_kernel_leaves_the_file_alone(four, limits):
    four[0].say("work 3")
    until(lambda: any(held for _, held in rooms(limits).values()))
    four[0].say("stop")
    until(lambda: all(room == held == 0 for room, held in rooms(limits).values()))
    before = read(limits)
    time.sleep(1.0)
    assert read(limits) == before
