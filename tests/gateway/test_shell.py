"""``deepseek-nb gateway`` as a person would type it: a process with a file, ended by a signal."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from deepseek_nb.adapters.auth import JWTBearer
from deepseek_nb.sandbox import Sandbox

from .people import SECRETS, UPSTREAM_KEY, chat_body

FILE = """
[gateway]
port = 0

[[upstream]]
name = "sandbox"
base_url = "{base_url}"
key_env = "UP_KEY"

[tenant.desk]
secret_env = "DESK_SECRET"
budget_day_usd = 1
"""


COUNTED = """
import gc, signal
from deepseek_nb.cli import main

def told(*_):
    print(gc.get_freeze_count(), len(gc.get_objects()), flush=True)

signal.signal(signal.SIGUSR1, told)
told()
main(["gateway"])
"""
"""The gateway in a process that tells at a signal how many objects collections leave out, and look at."""


def command(folder: Path, *words: str, **environ: str) -> tuple[list[str], dict[str, str]]:
    told = {
        "UP_KEY": UPSTREAM_KEY,
        "DESK_SECRET": SECRETS["desk"],
        "DEEPSEEK_NB_DATA_DIR": str(folder / "data"),
    }
    return [sys.executable, "-m", "deepseek_nb.cli", "gateway", *words], os.environ | told | environ


def shell(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    line, env = command(folder, *words, **environ)
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=60, check=False, cwd=folder)


@pytest.fixture
def file(tmp_path):
    made = tmp_path / "gateway.toml"
    made.write_text(FILE.format(base_url="http://127.0.0.1:1"))
    return made


def test_help_tells_what_it_is(tmp_path):
    done = shell(tmp_path, "--help")
    assert done.returncode == 0
    for word in ("--config", "--host", "--port", "--check", "docs/gateway.md"):
        assert word in done.stdout


def test_check_tells_what_the_file_means_and_no_secret(file):
    done = shell(file.parent, "--check")
    assert done.returncode == 0, done.stderr
    assert "tenant desk: priority 3 (at most 4), 100 requests/s, 64 at once, $1 a day" in done.stdout
    assert SECRETS["desk"] not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("words", "environ", "says"),
    [
        (["--config", "nothing.toml"], {}, "cannot be read"),
        ([], {"DESK_SECRET": "short"}, "5 bytes; it needs at least 32"),
        ([], {"UP_KEY": ""}, "UP_KEY"),
        (["--port", "70000"], {}, "--port is 0 to 65535"),
        (["--host", "203.0.113.7"], {}, "cannot listen on 203.0.113.7"),
    ],
)
def test_what_keeps_it_from_starting(file, words, environ, says):
    """A sentence and what to do, in at most five lines; exit status 2."""
    done = shell(file.parent, *words, **environ)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())
    assert len(done.stderr.splitlines()) <= 5


def test_a_data_folder_that_cannot_be_used_is_said_and_it_never_says_that_it_listens(file, tmp_path):
    """One sentence and exit status 2 in place of a trace; a byte order mark is no reason."""
    (tmp_path / "taken").write_text("a file")
    file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
    done = shell(file.parent, DEEPSEEK_NB_DATA_DIR=str(tmp_path / "taken"))
    assert done.returncode == 2
    assert "gateway_jobs.db cannot be made: Not a directory" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert "listens" not in done.stdout


def test_a_missing_package_names_the_line_that_installs_it(file, tmp_path):
    (tmp_path / "uvicorn.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'uvicorn'\", name='uvicorn')"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = shell(file.parent, PYTHONPATH=path)
    assert done.returncode == 2
    assert 'pip install "deepseek_nb[gateway]"' in done.stderr


@contextmanager
def started(folder: Path, upstream: Sandbox) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A gateway in a process of its own, and its address."""
    (folder / "gateway.toml").write_text(FILE.format(base_url=upstream.base_url))
    line, env = command(folder)
    with subprocess.Popen(
        line, env=env, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        (base_url,) = re.findall(r"http://[\d.:]+", process.stdout.readline())
        yield process, base_url


@pytest.mark.skipif(sys.platform == "win32", reason="signals are told otherwise there")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_until_a_signal_and_ends_what_is_under_way(tmp_path, number):
    """A signal while an answer is being written: it is written to its end; the log is lines of JSON."""
    with Sandbox(count="estimate", token_s=0.05, api_key=UPSTREAM_KEY) as slow:
        with started(tmp_path, slow) as (process, base_url):
            auth = JWTBearer("desk", SECRETS["desk"])
            with httpx.Client(base_url=base_url, auth=auth, timeout=20, trust_env=False) as client:
                assert client.get("/healthz").json() == {"status": "ok"}
                with client.stream("POST", "/chat/completions", json=chat_body(stream=True)) as reply:
                    lines = reply.iter_lines()
                    next(lines)
                    process.send_signal(number)
                    body = "\n".join(lines)
                assert "[DONE]" in body
            began_s = time.monotonic()
            process.wait(10)
            assert time.monotonic() - began_s < 5
            assert process.returncode == (0 if number == signal.SIGINT else -signal.SIGTERM)
            log = process.stderr.read() if process.stderr else ""
        requests = [json.loads(each) for each in log.splitlines()]
        assert [(one["route"], one["status"]) for one in requests] == [("healthz", 200), ("chat", 200)]
        assert requests[1]["completion_tokens"] > 0
        assert "sky" not in log


@pytest.mark.skipif(sys.platform == "win32", reason="signals are told otherwise there")
def test_what_takes_longer_than_it_waits_is_cut_and_its_line_in_the_log_says_so(tmp_path):
    """Ten seconds after the signal; no line tells of an error that nobody expected."""
    with Sandbox(count="estimate", first_token_s=100, keep_alive_s=1, api_key=UPSTREAM_KEY) as slow:
        with started(tmp_path, slow) as (process, base_url):
            auth = JWTBearer("desk", SECRETS["desk"])
            with httpx.Client(base_url=base_url, auth=auth, timeout=30, trust_env=False) as client:
                ends = threading.Timer(1.0, process.send_signal, (signal.SIGTERM,))
                ends.start()
                reply = client.post("/chat/completions", json=chat_body())
                assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
                assert reply.json()["error"]["code"] == "gateway_ended"
            log = process.communicate(timeout=20)[1]
        lines = [json.loads(each) for each in log.splitlines()]
        (cut,) = (one for one in lines if one.get("event") == "request")
        assert (cut["route"], cut["status"], cut["error"]) == ("chat", 503, "gateway_ended")
        assert not [one for one in lines if "exception" in one], log


@pytest.mark.skipif(sys.platform == "win32", reason="signals are told otherwise there")
def test_collections_leave_out_what_is_loaded_for_good(file):
    """A full one would stop every answer for as long as it takes to look at all modules."""
    _, env = command(file.parent)
    with subprocess.Popen(
        [sys.executable, "-c", COUNTED],
        env=env,
        cwd=file.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            left_out, looked_at = map(int, process.stdout.readline().split())
            assert (left_out, looked_at > 10_000) == (0, True)
            (base_url,) = re.findall(r"http://[\d.:]+", process.stdout.readline())
            assert httpx.get(f"{base_url}/healthz", trust_env=False, timeout=20).status_code == 200
            process.send_signal(signal.SIGUSR1)
            counted = next(line for line in process.stdout if re.fullmatch(r"\d+ \d+\n", line))
        finally:
            process.terminate()
        left_out, looked_at = map(int, counted.split())
        print(f"left out: {left_out:,}, looked at: {looked_at:,}")
        assert left_out > 10 * looked_at


def test_the_base_install_needs_no_web_server():
    """Neither the package nor its shell imports what only the extra brings."""
    code = (
        "import sys, deepseek_nb, deepseek_nb.cli, deepseek_nb.client.sync, deepseek_nb.batch.apply\n"
        "assert not {'starlette', 'uvicorn', 'prometheus_client'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
