"""R2 and R4: processes with one store ask each question once; a kill costs at most what was in flight."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from children import wait_for
from workers import Worker, ask_each, run_job, told

from deepseek_nb.adapters.store import AnswerStore
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import Busy
from deepseek_nb.sandbox import Sandbox

IN_FLIGHT = 16


def asking(server: Sandbox, folder: Path, name: str, questions: int) -> Worker:
    """A process that asks ``questions`` questions: single ones, or the rows of the job ``name``."""
    settings = told(server.base_url, server.api_key, folder, IN_FLIGHT)
    if name == "single":
        return Worker(ask_each, settings, questions, IN_FLIGHT)
    return Worker(run_job, settings, questions, name, None, None, "inline")


def paid_twice(server: Sandbox) -> int:
    """Requests that were charged beyond the first of each question, in the server's own log."""
    charged = Counter(record.request_hash for record in server.log.chats if record.cost_usd > 0)
    return sum(count - 1 for count in charged.values())


def whole(folder: Path) -> None:
    """Both files pass SQLite's own check."""
    for name in ("answers.db", "jobs.db"):
        if (folder / name).exists():
            with sqlite3.connect(folder / name) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            connection.close()


def test_two_kernels_and_two_jobs_pay_each_question_once(tmp_path):
    """Four processes start with the same questions: none is answered twice, no claim is left."""
    with Sandbox(first_token_s=0.05, count="estimate") as server:
        names = ("single", "single", "one job", "another job")
        for process in [asking(server, tmp_path, name, 150) for name in names]:
            assert process.result()["said"] == "ok"
        assert len({record.request_hash for record in server.log.complete}) == 150
        assert paid_twice(server) == 0
    with AnswerStore(tmp_path) as store:
        assert store.stats()["items"] == 150
    with sqlite3.connect(tmp_path / "answers.db") as connection:
        assert connection.execute("SELECT count(*) FROM claims").fetchone() == (0,)
    connection.close()
    whole(tmp_path)


def settings(server: Sandbox, folder: Path) -> dict[str, Any]:
    return {"base_url": server.base_url, "api_key": server.api_key, "data_dir": folder, "thinking": False}


def test_who_waits_for_another_process_waits_as_long_as_its_patience(tmp_path):
    """Busy, with nothing sent; a claim that has been let go is taken, and no claim is left behind."""
    with (
        Sandbox(count="estimate") as server,
        Client(**settings(server, tmp_path)) as client,
        AnswerStore(tmp_path) as other,
    ):
        key = client.aio.prepare("Why?").key
        assert other.claim(key)
        with pytest.raises(Busy, match="Another process has been asking the same question"):
            client.ask("Why?", patience="0.3s")
        assert len(server.log) == 0
        threading.Timer(0.5, other.release, (key,)).start()
        assert client.ask("Why?", patience="30s").text
        wait_for(lambda: not client.aio.store.claims.held and other.claim(key))
        assert other.release(key)


def test_an_answer_stored_by_the_other_process_ends_the_waiting(tmp_path):
    """What the holder of the claim has stored is handed over as a hit: no request of our own."""
    with (
        Sandbox(count="estimate") as server,
        Client(**settings(server, tmp_path)) as client,
        AnswerStore(tmp_path) as other,
    ):
        answer = client.ask("Who?")
        key = client.aio.prepare("Why?").key
        assert other.claim(key)
        threading.Timer(0.3, other.put, (key, answer.to_json())).start()
        got = client.ask("Why?", patience="30s")
        assert (got.text, got.cached, len(server.log)) == (answer.text, True, 1)


def test_a_file_that_is_kept_busy_stops_no_call(tmp_path):
    """The request goes out although no claim can be written; the answer is stored once that is possible."""
    with (
        Sandbox(count="estimate") as server,
        Client(**settings(server, tmp_path)) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        client.ask("Who?")
        lock = sqlite3.connect(tmp_path / "answers.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        try:
            asked = pool.submit(client.ask, "Why?")
            wait_for(lambda: len(server.log.complete) == 2)
            assert not asked.done()
        finally:
            lock.close()
        assert asked.result(60).text
    with AnswerStore(tmp_path) as store:
        assert store.stats()["items"] == 2


@pytest.mark.slow
def test_four_processes_with_kills_pay_twice_at_most_what_was_in_flight(tmp_path):
    """1,000 questions, four processes, kills at random moments: kills x in flight is the bound."""
    kills, questions = 10, 1000
    chance = random.Random(17)
    with Sandbox(first_token_s=0.25, count="estimate") as server:
        names = ("single", "single", "single", "a job")
        running = [asking(server, tmp_path, name, questions) for name in names]
        killed = 0
        while killed < kills and len(server.log.complete) < questions:
            time.sleep(chance.uniform(0.2, 1.2))
            victim = chance.randrange(len(running))
            if running[victim].running and len(server.log.complete) < questions:
                running[victim].kill()
                killed += 1
                running[victim] = asking(server, tmp_path, names[victim], questions)
        for process in running:
            assert process.result()["said"] == "ok"
        answered = {record.request_hash for record in server.log.complete}
        twice = paid_twice(server)
    print(
        f"{killed} kills of 4 processes, {len(answered)} questions, {twice} paid twice, bound "
        f"{killed * IN_FLIGHT}"
    )
    assert killed >= kills // 2, "the processes were too quick to be killed: slow the server down"
    assert len(answered) == questions
    assert twice <= killed * IN_FLIGHT
    with AnswerStore(tmp_path) as store:
        assert store.stats()["items"] == questions
    whole(tmp_path)
