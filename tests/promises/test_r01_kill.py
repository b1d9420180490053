"""R1: kill -9 at any moment takes back no acknowledged answer, and little is paid twice.

The whole thing by hand, 100 kills in a job of 2,000 rows (about two minutes):

    PROMISE_KILLS=100 PROMISE_ROWS=2000 python -m pytest tests/promises/test_r01_kill.py -s
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from workers import Worker, run_job, told

from deepseek_nb.adapters.journal import Journal
from deepseek_nb.adapters.store import AnswerStore
from deepseek_nb.sandbox import RequestLog

KILLS = int(os.environ.get("PROMISE_KILLS", "15"))
ROWS = int(os.environ.get("PROMISE_ROWS", "300"))
IN_FLIGHT = 16
KEY = "sk-sandbox-0000000000000000"


@pytest.fixture
def server(tmp_path):
    """The address of a sandbox in a process of its own, and its log."""
    log = tmp_path / "requests.jsonl"
    command = [sys.executable, "-m", "deepseek_nb.cli", "sandbox", "--log", str(log), "--first-token", "0.2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())  # it says where it listens
        assert found
        yield found.group(), log
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)


class Acknowledged:
    """What the job's process said is safe, in a file that outlives it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()
        self.seen = 0

    @property
    def count(self) -> int:
        return self.path.read_bytes().count(b"\n")

    def new(self) -> dict[str, list[str]]:
        """The keys said since the last look, by "store" and "job"."""
        lines = self.path.read_text(encoding="utf-8").splitlines()[self.seen :]
        self.seen += len(lines)
        kinds: dict[str, list[str]] = {"store": [], "job": []}
        for line in lines:
            kind, key = line.split(" ")
            kinds[kind].append(key)
        return kinds


def are_there(keys: dict[str, list[str]], folder: Path) -> None:
    """Every one of these keys is in the store, and done in the journal."""
    if not (folder / "jobs.db").exists():
        return
    with AnswerStore(folder) as store, Journal(folder) as journal:
        assert store.get_many(keys["store"]).keys() == set(keys["store"])
        if keys["job"]:
            assert journal.states("killed", keys["job"]) == dict.fromkeys(keys["job"], "d")


@pytest.mark.slow
@pytest.mark.timeout(240 + 10 * KILLS)
def test_no_acknowledged_answer_is_lost_and_little_is_paid_twice(server, tmp_path):
    """Killed at random moments, from the start of the process to the last row, and resumed each time.

    Bound of what is paid twice: kills x rows in flight, since each of these may have been answered when
    its process ended, and DeepSeek has no idempotency key.
    """
    base_url, log = server
    folder, acknowledged = tmp_path / "data", Acknowledged(tmp_path / "acknowledged")
    chance = random.Random(KILLS)
    job = (told(base_url, KEY, folder, IN_FLIGHT), ROWS, "killed", None, acknowledged.path)
    for kill in range(KILLS):
        process = Worker(run_job, *job)
        if kill % 2:  # by the clock: while it starts, leases, sends the first row alone
            time.sleep(chance.uniform(0, 0.5))
        else:  # by what it has done: two lines a row, store and journal
            enough = acknowledged.count + chance.uniform(0, 2 * ROWS / KILLS)
            while acknowledged.count < enough and process.running:
                time.sleep(0.002)
        assert process.running, "the job was done before it could be killed"
        process.kill()
        are_there(acknowledged.new(), folder)
    last = Worker(run_job, *job).result(120 + 5 * KILLS)
    assert last == {"said": "ok", "done": ROWS, "rows": ROWS}
    lines = Acknowledged(acknowledged.path).new()
    are_there(lines, folder)
    charged = Counter(record.question_hash for record in RequestLog.read(log).chats if record.cost_usd > 0)
    twice = sum(charged.values()) - len(charged)
    print(
        f"{KILLS} kills, {ROWS} rows, {len(lines['store']) + len(lines['job'])} acknowledgements, 0 lost; "
        f"{twice} paid twice, bound {KILLS * IN_FLIGHT}"
    )
    assert lines["store"], "the store's answers were not looked up"
    assert len(charged) == ROWS
    assert twice <= KILLS * IN_FLIGHT
    requests = len(RequestLog.read(log))
    assert Worker(run_job, *job).result()["done"] == ROWS
    assert len(RequestLog.read(log)) == requests
