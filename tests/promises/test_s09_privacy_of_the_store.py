"""S9: what is kept lies in one private place, holds no more than it must, and is gone when it is deleted."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import deepseek_nb as ds
from deepseek_nb.adapters.journal import Journal
from deepseek_nb.adapters.store import AnswerStore
from deepseek_nb.sandbox import Completion, ParsedRequest, Sandbox

from .canary import files_of

PROMPT = "PROMPT-CANARY-4711"
ANSWER = "ANSWER-CANARY-0815"
SYSTEM = "SYSTEM-CANARY-2301"


def reply(request: ParsedRequest) -> Completion:
    return Completion(f"{ANSWER} to {len(request.question)} characters", "thoughts")


@pytest.fixture
def sandbox():
    with Sandbox(engine=reply, count="estimate") as running:
        yield running


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def client(sandbox, folder):
    with ds.Client(base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=folder) as made:
        yield made


def found(folder: Path, *words: str) -> dict[str, list[str]]:
    """The words that stand in any file of ``folder``, in UTF-8 or UTF-16."""
    told = {}
    for name, data in files_of(folder).items():
        there = [word for word in words if word.encode() in data or word.encode("utf-16-le") in data]
        if there:
            told[name] = there
    return told


def command(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "deepseek_nb.cli", *words, "--data-dir", str(folder)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=os.environ | {"DEEPSEEK_API_KEY": "sk-not-used-by-these"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_answer_store_keeps_answers_and_the_prompt_as_a_hash_only(client, folder):
    """Nothing of question or system message is on the disk, while the client runs and after."""
    client.ask(f"{PROMPT}?", system=SYSTEM)
    list(client.stream(f"{PROMPT} again?", system=SYSTEM))
    assert found(folder, ANSWER)
    assert found(folder, PROMPT, SYSTEM) == {}
    assert client.ask(f"{PROMPT}?", system=SYSTEM).cached, "and it is found again"
    client.close()
    assert found(folder, PROMPT, SYSTEM) == {}


@pytest.mark.parametrize("kind", ["ask", "apply"])
def test_with_cache_off_no_answer_is_kept_in_the_store(kind, client, folder):
    """cache=False: neither kept nor looked for."""
    if kind == "ask":
        client.ask(PROMPT, cache=False)
        assert found(folder, PROMPT, ANSWER) == {}
    else:
        frame = pd.DataFrame({"text": [PROMPT]})
        frame.deepseek.apply("{{text}}", client=client, cache=False, progress=False)
        assert not any(name.endswith(("answers.db", "answers.db-wal")) for name in found(folder, ANSWER))


def test_purging_leaves_no_byte_of_an_answer(client, folder):
    """Not in the file, its log or its free pages: by pattern, by age, and of all."""
    for n in range(50):
        client.ask(f"{PROMPT} {n}")
    store = client.aio.store
    assert found(folder, ANSWER)
    assert store.purge(match="no-such-route/*") == 0
    assert store.purge(older_than_s=3600) == 0
    assert found(folder, ANSWER)
    assert store.purge(match="127.0.0.1*") == 50
    assert found(folder, ANSWER) == {}
    assert found(folder, "deepseek-flash_") == {}, "nor of its key"


def test_a_deleted_job_leaves_no_byte_of_its_rows(client, folder):
    """Prompts, template, system message, answers and errors of a finished job; other jobs keep theirs."""
    frame = pd.DataFrame({"text": [f"{PROMPT} {n}" for n in range(40)]})
    other = pd.DataFrame({"text": ["OTHER-CANARY"]})
    frame.deepseek.apply("About {{text}}", system=SYSTEM, job="secret", client=client, progress=False)
    other.deepseek.apply("About {{text}}", job="other", client=client, progress=False)
    jobs = {name: words for name, words in found(folder, PROMPT, SYSTEM).items() if "jobs.db" in name}
    assert jobs, "a job's rows are kept: they are its queue"
    with Journal(folder / "jobs.db") as journal:
        assert journal.delete("secret")
        assert [job.name for job in journal.jobs()] == ["other"]
    client.aio.store.purge()
    assert found(folder, PROMPT, SYSTEM) == {}
    assert [set(words) for words in found(folder, "OTHER-CANARY").values()]
    with Journal(folder / "jobs.db") as journal:
        journal.delete("other")
    assert found(folder, "OTHER-CANARY", ANSWER) == {}


def test_the_shell_does_the_same(client, folder):
    """``jobs --delete`` and ``cache --purge``, which also say where things are."""
    frame = pd.DataFrame({"text": [PROMPT]})
    frame.deepseek.apply("About {{text}}", system=SYSTEM, job="secret", client=client, progress=False)
    client.close()
    assert str(folder / "answers.db") in command(folder, "cache")
    assert "secret" in command(folder, "jobs")
    assert found(folder, PROMPT, SYSTEM, ANSWER)
    command(folder, "jobs", "--delete", "secret")
    assert "Deleted 0 answers" in command(folder, "cache", "--purge", "--match", "elsewhere/*")
    assert "Deleted 0 answers" in command(folder, "cache", "--purge", "--older-than", "1h")
    assert found(folder, ANSWER)
    assert "Deleted 1 answers" in command(folder, "cache", "--purge", "--match", "127.*")
    assert found(folder, PROMPT, SYSTEM, ANSWER) == {}


@pytest.mark.skipif(sys.platform == "win32", reason="is not allowed here: Windows has no such modes")
def test_the_place_is_private_to_its_owner(client, folder):
    """Folder 0700, files 0600, write-ahead logs too; nothing outside it."""
    client.ask(PROMPT)
    pd.DataFrame({"text": [PROMPT]}).deepseek.apply("{{text}}", client=client, progress=False)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    modes = {name.name: stat.S_IMODE(name.stat().st_mode) for name in folder.iterdir()}
    assert {"answers.db", "jobs.db"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    assert [name.name for name in folder.parent.iterdir()] == ["data"]


def test_what_a_cached_function_was_called_with_is_not_kept(folder):
    """Joblib's own store writes arguments into metadata.json; ours drops them."""
    cached = ds.memory(folder).cache(chars)
    assert cached(PROMPT) == cached(PROMPT) == len(PROMPT)
    assert found(folder, PROMPT) == {}
    with sqlite3.connect(folder / "answers.db") as database:
        assert database.execute("SELECT count(*) FROM joblib_items").fetchone() == (1,)
    database.close()


def chars(text: str) -> int:
    return len(text)


def test_purging_by_age_goes_by_when_it_was_put(folder):
    """Old answers go, new ones stay."""
    now_s = [time.time() - 100]
    with AnswerStore(folder, now=lambda: now_s[0]) as store:
        store.put("r/old", {"text": f"{ANSWER} old"})
        now_s[0] += 90
        store.put("r/new", {"text": "new"})
        assert store.purge(older_than_s=60) == 1
        assert found(folder, ANSWER) == {}
        assert store.get("r/new") == {"text": "new"}
