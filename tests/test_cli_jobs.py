"""``deepseek-nb jobs``, as a person would type it, on jobs that a notebook began."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal

import pandas as pd
import pydantic
import pytest

from deepseek_nb.batch.apply import apply
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import BudgetExceeded, DeepSeekError
from deepseek_nb.sandbox import FaultScript, Sandbox

TEMPLATE = "What is this ticket about?\n{{text}}"


class Ticket(pydantic.BaseModel):
    """What is asked about a row."""

    label: Literal["card", "transfer", "cash"]
    urgency: int = pydantic.Field(ge=1, le=5)


@pytest.fixture
def server():
    with Sandbox(balance_usd=None, count="estimate", time_scale=100) as running:
        yield running


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def environment(server, folder) -> dict[str, str]:
    return {
        "DEEPSEEK_NB_BASE_URL": server.base_url,
        "DEEPSEEK_API_KEY": server.api_key,
        "DEEPSEEK_NB_DATA_DIR": str(folder),
    }


@pytest.fixture
def shell(environment):
    """Run ``deepseek-nb jobs ...`` in a process of its own; gives the finished process."""

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "deepseek_nb.cli", "jobs", *words],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env=os.environ | environment | more,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


def tickets(count: int) -> pd.DataFrame:
    return pd.DataFrame({"text": [f"=My card number {n} is lost" for n in range(count)]})


def begin(server, folder, rows: int, *, stop_after: int | None = None, **options) -> None:
    """A job of a notebook; after ``stop_after`` answers its account is empty."""
    with Client(base_url=server.base_url, api_key=server.api_key, data_dir=folder) as client:
        if stop_after is not None:
            options["client"] = client
            server.faults = FaultScript.of(*[None] * stop_after, *["balance_402"] * 400)
        try:
            apply(tickets(rows), TEMPLATE, job="tickets", **{"client": client, "progress": False, **options})
        except DeepSeekError:
            assert stop_after is not None
        finally:
            server.faults = None


def test_a_job_is_resumed_without_its_frame_and_nothing_is_paid_twice(server, folder, shell):
    """Then the call that began it finds every row done, and gives the frame without a request."""
    begin(server, folder, 30, stop_after=8, schema=Ticket)
    before = len(server.log.complete)
    assert 0 < before < 30
    assert re.search(r"tickets +paused +\d+ +0 +\d+", shell().stdout)
    done = shell("resume", "tickets")
    assert done.returncode == 0, done.stderr
    assert re.search(r"tickets: 30 done, 0 failed, 0 pending; \$\d\.\d{4} this time", done.stdout)
    assert "30/30" in done.stderr, "a progress bar"
    assert server.log.answered_twice() == {}
    sent = len(server.log)
    assert "30 done" in shell("resume", "tickets", "--quiet").stdout
    begin(server, folder, 30, schema=Ticket)
    assert len(server.log) == sent


def test_one_job_is_shown(server, folder, shell):
    begin(server, folder, 3, schema=Ticket, system="Be brief.")
    told = shell("tickets").stdout
    for words in (
        "job       tickets (done)",
        "asks      deepseek-flash at 127.0.0.1",
        "system    Be brief.",
        "template  What is this ticket about? {{text}}",
        "columns   label, urgency",
        "rows      3 done, 0 failed, 0 pending",
    ):
        assert words in told
    assert str(folder) not in told
    assert "Go on with" not in told
    assert shell("show", "tickets").stdout == told == shell("--data-dir", str(folder), "tickets").stdout


def test_failed_rows_are_shown_and_asked_once_more(server, folder, shell):
    """What the moderation refused; by the next time it has changed its mind."""
    server.faults = FaultScript.of(None, "content_risk", "content_risk")
    begin(server, folder, 4)
    shown = shell("tickets").stdout
    assert "rows      2 done, 2 failed, 0 pending" in shown
    assert "failed    2 x ContentRefused: " in shown
    assert "Go on with: deepseek-nb jobs retry 'tickets'" in shown
    sent = len(server.log)
    assert shell("resume", "tickets").returncode == 1, "failed rows are no answers"
    assert len(server.log) == sent
    done = shell("retry", "tickets", "--quiet")
    assert (done.returncode, "4 done, 0 failed" in done.stdout) == (0, True), done.stderr
    assert len(server.log) == sent + 2


def test_answers_are_exported_with_their_prompts_and_without_formulas(server, folder, shell, tmp_path):
    """CSV, JSON lines and Parquet hold the same rows; pending ones are there and say so."""
    begin(server, folder, 12, stop_after=5, schema=Ticket)
    csv, lines, parquet = (tmp_path / f"out.{ending}" for ending in ("csv", "jsonl", "parquet"))
    csv.write_text("old")
    for file in (csv, lines, parquet):
        done = shell("export", "tickets", str(file))
        assert (done.returncode, done.stderr) == (0, "")
        assert re.match(r"12 rows, \d+ of them done", done.stdout)
    frame, told = pd.read_csv(csv), pd.read_json(lines, lines=True)
    assert list(frame.columns)[:4] == ["prompt", "label", "urgency", "status"]
    assert frame["prompt"].str.startswith("What is this").all()
    assert frame["status"].tolist() == told["status"].tolist()
    assert {"done", "pending"} == set(frame["status"])
    polars = pytest.importorskip("polars")
    kept = polars.read_parquet(parquet)
    assert kept["label"].to_list() == [None if pd.isna(each) else each for each in told["label"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "out.csv", "out.jsonl", "out.parquet"]


def test_lists_and_objects_of_answers_are_exported(server, folder, shell, tmp_path):
    """To Parquet as what the schema says they are; what it leaves open is JSON text."""
    begin(server, folder, 3, schema={"tags": list[str], "either": int | str, "free": dict[str, int]})
    done = shell("export", "tickets", str(tmp_path / "out.parquet"))
    assert (done.returncode, done.stderr) == (0, "")
    polars = pytest.importorskip("polars")
    kept = polars.read_parquet(tmp_path / "out.parquet")
    assert kept.schema["tags"] == polars.List(polars.String)
    assert {type(json.loads(text)) for text in kept["free"]} == {dict}


def test_a_job_whose_description_is_damaged_is_not_exported(server, folder, shell, tmp_path):
    """One byte of the ledger was flipped: no file is made, an old one stays, and the way out is told."""
    begin(server, folder, 12, stop_after=5, schema=Ticket)
    ledger, out = folder / "jobs.db", tmp_path / "out.csv"
    content = bytearray(ledger.read_bytes())
    content[content.index(b"What is this ticket")] ^= 1
    ledger.write_bytes(content)
    out.write_text("old")
    for words in (("export", "tickets", str(out)), ("resume", "tickets"), ("retry", "tickets")):
        told = shell(*words)
        assert told.returncode == 2
        said = " ".join(told.stderr.split())
        assert "the job 'tickets' is damaged" in said
        assert "Run the call that began it once more, with job='tickets'" in said
        assert said.endswith("deepseek-nb jobs delete 'tickets'")
    assert out.read_text() == "old"
    shown = shell("tickets")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert re.search(r"asks +damaged in the ledger\n", shown.stdout)
    assert "Go on with: the call that began it" in shown.stdout


def test_a_cell_that_looks_like_a_formula_stays_text(server, folder, shell, tmp_path):
    with Client(base_url=server.base_url, api_key=server.api_key, data_dir=folder) as client:
        frame = pd.DataFrame({"text": ["1+1", "2+2"]})
        apply(frame, "={{text}}", job="sums", client=client, progress=False)
    shell("export", "sums", str(tmp_path / "out.csv"))
    assert pd.read_csv(tmp_path / "out.csv")["prompt"].tolist() == ["'=1+1", "'=2+2"]


def test_ctrl_c_stops_it_and_the_same_command_goes_on(server, folder, environment, shell):
    """What is on the wire comes in; 130, and every answer is kept."""
    with Sandbox(balance_usd=None, count="estimate", first_token_s=0.3) as slow:
        environment |= {"DEEPSEEK_NB_BASE_URL": slow.base_url, "DEEPSEEK_API_KEY": slow.api_key}
        begin(slow, folder, 60, stop_after=2)
        settings = environment | {"DEEPSEEK_NB_CONCURRENCY_MAX": "4"}
        running = subprocess.Popen(
            [sys.executable, "-m", "deepseek_nb.cli", "jobs", "resume", "tickets"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | settings,
        )
        before = len(slow.log.complete)
        end_s = time.monotonic() + 30
        while len(slow.log.complete) < before + 4 and time.monotonic() < end_s:
            time.sleep(0.05)
        running.send_signal(signal.SIGINT)
        out, errors = running.communicate(timeout=30)
        assert running.returncode == 130, errors
        assert "Interrupted" in errors
        assert "Traceback" not in errors
        answered = int(re.search(r"tickets: (\d+) done", out)[1])  # type: ignore[index]
        assert answered == len(slow.log.complete) < 60
        assert "60 done" in shell("resume", "tickets", "--quiet").stdout
        assert slow.log.answered_twice() == {}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nothing",), "There is no job 'nothing'"),
        (("resume", "nothing"), "There is no job 'nothing'"),
        (("retry", "nothing"), "There is no job 'nothing'"),
        (("delete", "nothing"), "There is no job 'nothing'"),
        (("export", "nothing", "x.csv"), "There is no job 'nothing'"),
        (("export", "tickets", "out.xyz"), ".csv, .parquet, .jsonl"),
        (("export", "tickets", "/nowhere/at/all.csv"), "'all.csv' cannot be written"),
        (("resume", "tickets", "--when", "never"), "invalid choice"),
        (("resume", "tickets", "--patience", "soon"), "not a duration"),
        (("resume", "tickets", "--base-url", "https://api.example.com"), "and this would ask"),
    ],
)
def test_wrong_words_get_one_clear_answer(server, folder, shell, words, says):
    """Status 2, at most five lines, no path and no key; nothing was sent."""
    begin(server, folder, 1)
    sent = len(server.log)
    done = shell(*words)
    assert done.returncode == 2
    assert says in re.sub(r"\s+", " ", done.stderr)
    assert len(done.stderr.splitlines()) <= 5
    assert str(folder) not in done.stderr
    assert server.api_key not in done.stderr
    assert len(server.log) == sent


def test_a_budget_stops_it_with_the_reason(server, folder, shell):
    begin(server, folder, 30, stop_after=3)
    done = shell("resume", "tickets", "--budget", "0.0001", "--quiet")
    assert done.returncode == 2
    assert BudgetExceeded.__name__ in done.stderr
    assert len(done.stderr.splitlines()) <= 5


def test_a_job_is_deleted(server, folder, shell):
    begin(server, folder, 2)
    assert shell("delete", "tickets").stdout == "Deleted tickets\n"
    assert "tickets" not in shell().stdout


def test_help_tells_every_command(shell):
    told = shell("--help").stdout
    assert all(f"    {name} " in told for name in ("show", "resume", "retry", "export", "delete"))
    assert "deepseek-nb jobs NAME" in told
    for name in ("resume", "retry"):
        assert all(
            word in shell(name, "--help").stdout for word in ("--budget", "--patience", "--when", "NAME")
        )
    assert "FILE" in shell("export", "--help").stdout
