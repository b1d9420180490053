"""The shell face, as a person would type it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from deepseek_nb.adapters.store import AnswerStore
from deepseek_nb.sandbox import Sandbox


@pytest.fixture
def shell(tmp_path):
    """Run ``deepseek-nb ...`` in a process of its own; gives the finished process."""

    def run(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "deepseek_nb.cli", *words],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
            env=os.environ | {"DEEPSEEK_NB_DATA_DIR": str(tmp_path / "data")} | environment,
        )

    return run


def test_the_demo_loses_no_row_and_sends_nothing_the_second_time(shell):
    """The main job, smaller: faults are met and named, the bill is the server's, and it is kept."""
    first = shell("demo", "--rows", "150")
    assert first.returncode == 0, first.stderr
    assert "150 done, 0 failed, 0 pending" in first.stdout
    assert "0 rows lost" in first.stdout
    assert re.search(r"Survived  .*\d+ x", first.stdout)
    assert "0 questions were answered, and paid, twice" in first.stdout
    assert "SIMULATED" in first.stdout
    assert "150/150" in first.stderr, "a progress bar"
    booked, charged = re.findall(r"\$(\d+\.\d+) this time", first.stdout)
    assert float(booked) >= float(charged) - 1e-4, "what may have been charged is booked"
    second = shell("demo", "--rows", "150")
    assert second.returncode == 0
    assert "0 sent" in second.stdout
    assert "0 rows lost" in second.stdout


def test_the_demo_never_asks_about_protected_attributes(shell, tmp_path):
    """Sex, marital status, age, nationality and the outcome are in no prompt."""
    from deepseek_nb.demo import PROTECTED, applicants, template

    asked = template(applicants())
    assert not any(name in asked for name in (*PROTECTED, "credit_risk", "applicant_id"))
    assert asked.count("{{") == 17


def test_the_demo_runs_on_any_server(shell):
    """``--base-url`` and ``--api-key``: the same job elsewhere."""
    with Sandbox() as server:
        done = shell("demo", "--rows", "20", "--base-url", server.base_url, "--api-key", server.api_key)
        assert done.returncode == 0, done.stderr
        assert len(server.log.complete) == 20


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["demo", "--rows", "0"], "--rows is at least 1"),
        (["demo", "--base-url", "ftp://x", "--api-key", "k" * 20], "base_url"),
        (["demo", "--base-url", "https://api.deepseek.com"], "DEEPSEEK_API_KEY"),
        (["models"], "DEEPSEEK_API_KEY"),
        (["sandbox", "--faults", "busy_504=0.1"], "busy_503"),
        (["sandbox", "--faults", "busy_503"], "NAME=SHARE"),
        (["sandbox", "--port", "70000"], "--port is 0 to 65535"),
        (["sandbox", "--balance", "much"], "balance_usd is 'much'"),
        (["sandbox", "--slots", "-1"], "slots is -1"),
        (["sandbox", "--token", "-0.5"], "token_s is -0.5"),
        (["cache", "--older-than", "30d"], "go with --purge"),
        (["jobs", "--delete", "nothing"], "No jobs"),
        (["cache"], "No answers"),
    ],
)
def test_wrong_words_get_one_clear_answer(shell, words, says):
    """No traceback; what to do instead."""
    done = shell(*words)
    assert says in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 5


def test_a_wrong_key_stops_the_demo_after_one_request(shell):
    """The first row goes alone; everything is pending, nothing lost, and the exit status tells."""
    with Sandbox() as server:
        done = shell(
            "demo", "--rows", "30", "--base-url", server.base_url, "--api-key", "sk-wrong-0123456789"
        )
        assert done.returncode == 2
        assert "AuthError" in done.stderr
        assert "sk-wrong-0123456789" not in done.stderr + done.stdout
        assert len(server.log) == 1


def test_models_balance_jobs_and_cache(shell):
    """What the account and the files hold."""
    with Sandbox(balance_usd="12.34") as server:
        there = {"DEEPSEEK_NB_BASE_URL": server.base_url, "DEEPSEEK_API_KEY": server.api_key}
        assert "deepseek-flash" in shell("models", **there).stdout
        assert "12.34 USD" in shell("balance", **there).stdout
        shell("demo", "--rows", "5", "--job", "mine", **there)
        assert re.search(r"mine +done +5 +0 +0", shell("jobs").stdout)
        assert "5 answers" in shell("cache").stdout
        assert "Deleted mine" in shell("jobs", "--delete", "mine").stdout
        assert "Deleted 5 answers" in shell("cache", "--purge").stdout


def test_the_sandbox_says_where_it_listens_and_ends_on_ctrl_c():
    """Its first lines can be pasted into a shell."""
    server = subprocess.Popen(
        [sys.executable, "-m", "deepseek_nb.cli", "sandbox"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    assert "SIMULATED" in server.stdout.readline()
    assert "export DEEPSEEK_NB_BASE_URL=http://127.0.0.1:" in server.stdout.readline()
    server.send_signal(signal.SIGINT)
    _, complaints = server.communicate(timeout=20)
    assert complaints == ""
    assert server.returncode == 0


def test_a_port_that_is_taken_is_said(shell):
    with Sandbox() as server:
        done = shell("sandbox", "--port", str(server.port))
    assert done.returncode == 2
    assert f"cannot listen on port {server.port}: Address already in use" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_an_age_that_is_empty_deletes_nothing(shell, tmp_path):
    """As it is where a script's variable is not set: the answers are paid for."""
    with AnswerStore(tmp_path / "data" / "answers.db") as store:
        store.put("sandbox/one", {"text": "Yes"})
    done = shell("cache", "--purge", "--older-than", "")
    assert done.returncode == 2
    assert "'' is not a duration" in done.stderr
    assert "1 answers" in shell("cache").stdout


@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise there")
def test_a_reader_that_goes_ends_it_without_a_trace():
    """As with ``deepseek-nb sandbox --list-faults | head -1``."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "deepseek_nb.cli", "sandbox", "--list-faults"],
        stdout=write,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_a_terminal_that_knows_few_letters_is_shown_the_others_by_number(shell, tmp_path):
    """A job's text is cut with an ellipsis, and is Chinese perhaps; both are no reason to fail."""
    with Sandbox() as server:
        there = {"DEEPSEEK_NB_BASE_URL": server.base_url, "DEEPSEEK_API_KEY": server.api_key}
        shell("demo", "--rows", "3", "--job", "mine", **there)
    done = shell("jobs", "mine", PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert "\\u2026" in done.stdout


def test_help_names_every_command(shell):
    """``--help`` and the list of faults."""
    told = shell("--help").stdout
    assert all(name in told for name in ("demo", "sandbox", "models", "balance", "jobs", "cache"))
    assert "busy_503" in shell("sandbox", "--list-faults").stdout
