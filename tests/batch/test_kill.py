"""kill -9 the demo at ten random moments: what the server's own log says was paid."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest

from deepseek_nb.sandbox import RequestLog

KILLS = 10
ROWS = 1000
CONCURRENCY = 16


@pytest.fixture
def server(tmp_path):
    """A sandbox in a process of its own, with its log in a file that outlives the demo."""
    log = tmp_path / "requests.jsonl"
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "deepseek_nb.cli",
            "sandbox",
            "--log",
            str(log),
            "--balance",
            "100",
            "--faults",
            "empty_200=0.02,cut_rst=0.02",
            "--first-token",
            "0.12",
            "--seed",
            "3",
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()  # it says where it listens
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line
        yield found.group(), log
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)


@pytest.mark.slow
def test_killed_ten_times_nothing_is_lost_and_little_is_paid_twice(server, tmp_path):
    """A killed demo goes on; prompts answered twice stay within kills x rows in flight.

    The bound: a row is at risk from sending until the commit of its answer, and at most
    ``concurrency_max`` rows are there at any moment. DeepSeek has no idempotency key, so zero is
    not possible; the promise is the bound.
    """
    base_url, log = server
    chance = random.Random(11)
    command = [
        sys.executable,
        "-m",
        "deepseek_nb.cli",
        "demo",
        "--rows",
        str(ROWS),
        "--base-url",
        base_url,
        "--api-key",
        "sk-sandbox-0000000000000000",
        "--data-dir",
        str(tmp_path / "data"),
    ]
    environment = os.environ | {
        "DEEPSEEK_NB_CONCURRENCY_MAX": str(CONCURRENCY),
        "DEEPSEEK_NB_PYPROJECT": "off",
    }
    killed = 0
    for _ in range(KILLS):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(chance.uniform(1.0, 2.2))
        if process.poll() is None:
            process.kill()
            killed += 1
        process.wait()
    last = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert last.returncode == 0, last.stdout + last.stderr
    assert "0 rows lost" in last.stdout
    requests = RequestLog.read(log)
    answered = {record.question_hash for record in requests.chats if record.usable}
    repeated = requests.answered_twice(by="question_hash")  # a row may be sent in another order the next time
    twice = sum(repeated.values()) - len(repeated)
    bound = killed * CONCURRENCY
    print(f"{killed} kills, {len(answered)} prompts answered, {twice} paid twice, bound {bound}")
    assert killed == KILLS, "the demo was too quick to be killed: slow the server down"
    assert len(answered) == ROWS
    assert twice <= bound
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert "0 sent" in again.stdout
    assert len(RequestLog.read(log)) == len(requests)
