"""R3: after a power cut at any moment, everything that was acknowledged is there, and the file is sound."""

from __future__ import annotations

import random
import shutil
import sqlite3
import textwrap
import warnings
from pathlib import Path

import pytest
from power import Disk, traced

from deepseek_nb.adapters.journal import Journal
from deepseek_nb.adapters.store import AnswerStore

WRITER = """
import asyncio, os, random, sys
from deepseek_nb.adapters.journal import Journal
from deepseek_nb.adapters.store import AnswerStore

folder = sys.argv[1]

def value(key):
    noise = random.Random(key).randbytes(4000).hex()  # two pages of the log, however writes are grouped
    return {"text": f"answer of {key} {noise}"}

async def together(store, keys):
    async def one(key):
        await store.claims.take(key)              # without an fsync, between commits with one
        await store.aput(key, value(key))
        os.write(1, f"store {key}\\n".encode())
    await asyncio.gather(*[one(key) for key in keys])

with AnswerStore(folder) as store, Journal(folder) as journal:
    journal.open_job("j", "d", {}, [(f"row {n}", "{}" * 500, 3) for n in range(400)])
    for group in range(45):
        asyncio.run(together(store, [f"key {group}.{n}" for n in range(16)]))
        items = journal.lease("j", 8, 60)
        journal.ack_many([(item, '{"of": "%s"}' % item.key, 0.001) for item in items])
        for item in items:
            os.write(1, f"job {item.key}\\n".encode())
    os._exit(0)                                   # nothing is put in order at the end
"""

WITHOUT_FSYNC = """
import os, sys
from deepseek_nb.adapters.database import Database
database = Database(sys.argv[1] + "/answers.db", ["CREATE TABLE t (a)"], 1)
database.write(lambda c: c.execute("INSERT INTO t VALUES (0)"))
os.write(1, b"begun\\n")
for n in range(1, 20):
    database.write(lambda c: c.execute("INSERT INTO t VALUES (?)", (n,)), durable=False)
os.write(1, b"said too early\\n")
os._exit(0)
"""


def said_by(text: bytes) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {"store": [], "job": []}
    for line in text.decode().splitlines():
        kind, key = line.split(" ", 1)
        kinds[kind].append(key)
    return kinds


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_power_cut_at_any_moment(tmp_path):
    """Cuts between two system calls; of what was not synced nothing, all, or any sectors are there."""
    folder = tmp_path / "data"
    folder.mkdir()
    events = traced(textwrap.dedent(WRITER), folder)
    assert sum(event.kind == "write" and event.path.endswith("answers.db") for event in events) > 100, (
        "no checkpoint: write more, so that cuts fall into one"
    )
    chance = random.Random(8)
    main = [n for n, event in enumerate(events) if event.kind == "write" and event.path.endswith(".db")]
    cuts = sorted({*chance.sample(range(len(events)), 20), *chance.sample(main, 10), len(events)})
    disk, said, at, checked = Disk(), b"", 0, 0
    for cut in cuts:
        for event in events[at:cut]:
            disk.take(event)
            if event.kind == "said":
                said += event.data
        at = cut
        keys = said_by(said)
        for mode in ("none", "all", "some"):
            there = tmp_path / "after"
            there.mkdir()
            disk.after_a_cut(there, mode, chance)
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # no StoreDamaged: there is nothing to repair
                with AnswerStore(there) as store, Journal(there) as journal:
                    found = store.get_many(keys["store"])
                    assert found.keys() == set(keys["store"]), (cut, mode)
                    for key, kept in found.items():
                        assert kept["text"].startswith(f"answer of {key} ")
                    if keys["job"]:
                        states = journal.states("j", keys["job"])
                        assert states == dict.fromkeys(keys["job"], "d"), (cut, mode)
                    checked += len(keys["store"]) + len(keys["job"])
                    store.put("after the cut", {})
            shutil.rmtree(there)
    print(
        f"{len(events)} system calls, {len(cuts)} cuts in 3 modes, {checked} acknowledged answers looked up"
    )


def test_the_power_cut_of_these_tests_does_lose_what_was_not_synced(tmp_path):
    """Commits without an fsync are gone: the test above can fail."""
    folder = tmp_path / "data"
    folder.mkdir()
    disk = Disk()
    for event in traced(textwrap.dedent(WITHOUT_FSYNC), folder):
        disk.take(event)
    rows = {}
    for mode in ("none", "all"):
        there = tmp_path / mode
        there.mkdir()
        disk.after_a_cut(there, mode, random.Random(1))
        rows[mode] = _count(there / "answers.db")
    assert rows == {"none": 1, "all": 20}


def _count(path: Path) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute("SELECT count(*) FROM t").fetchone()[0])
    finally:
        connection.close()
