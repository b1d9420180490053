"""R5: a client on a damaged store gives the right answer, asks again, or says what is wrong."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
import warnings
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
from workers import MAX_TOKENS, QUESTION, frame_of, told

from deepseek_nb.adapters.database import StoreDamaged
from deepseek_nb.adapters.journal import Journal
from deepseek_nb.batch.apply import apply
from deepseek_nb.batch.resume import job_frame, resume
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import JobMismatch, StoreFailed
from deepseek_nb.sandbox import Sandbox

ROWS = 12
FLIPS = 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["answers.db", "jobs.db"])
def test_a_flipped_byte_gives_no_wrong_answer(tmp_path, name):
    """Single calls and the job again, after one byte was changed: never a traceback, never wrong."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    chance = random.Random(name)
    outcomes: Counter[str] = Counter()
    with Sandbox(count="estimate", time_scale=100) as server:
        _work(server, good)
        content = (good / name).read_bytes()
        used = [place for place, byte in enumerate(content) if byte]  # most of a small file is empty
        for place in chance.sample(used, FLIPS):
            shutil.copytree(good, bad)
            flipped = bytearray(content)
            flipped[place] ^= chance.choice([0xFF, 1 << chance.randrange(8)])
            (bad / name).write_bytes(flipped)
            paid = len(server.log)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", StoreDamaged)
                try:
                    _work(server, bad)
                    outcomes["right at once" if len(server.log) == paid else "asked again"] += 1
                except (StoreFailed, JobMismatch) as error:  # what tells one job from another was damaged
                    outcomes["clear error" if _tells(error) else f"unclear: {error!r}"] += 1
            shutil.rmtree(bad)
    print(f"{name}: {dict(outcomes)}")
    assert outcomes.keys() <= {"right at once", "asked again", "clear error"}
    assert outcomes["right at once"] + outcomes["asked again"] > FLIPS / 2


@pytest.mark.parametrize(
    "harm",
    [
        "digest = replace(digest, substr(digest, 1, 1), 'x')",
        "meta = replace(meta, '\"model\"', '\"modem\"'), digest = 'other work'",
        "meta = substr(meta, 2), digest = 'other work'",
    ],
)
def test_a_damaged_job_is_not_called_other_work(tmp_path, harm):
    """The error says that it is damaged, and its advice works: under another name nothing is paid again."""
    with Sandbox(count="estimate", time_scale=100) as server:
        _work(server, tmp_path)
        paid = len(server.log)
        _alter(tmp_path, harm)
        with pytest.raises(JobMismatch, match="the job 'j' is damaged") as caught:
            _work(server, tmp_path)
        assert "jobs delete 'j'" in caught.value.hint
        _work(server, tmp_path, job="k")
        assert len(server.log) == paid


def test_a_job_whose_description_is_damaged_goes_on_by_its_own_call(tmp_path):
    """Going on by the name alone says so, and that the call itself is the way."""
    with Sandbox(count="estimate", time_scale=100) as server:
        _work(server, tmp_path)
        paid = len(server.log)
        _alter(tmp_path, "meta = replace(meta, '\"thinking\": false', '\"thinking\": true')")
        with (
            Client(**told(server.base_url, server.api_key, tmp_path)) as client,
            pytest.raises(JobMismatch, match="the job 'j' is damaged") as caught,
        ):
            resume("j", client=client)
        assert "Run the call that began it once more" in caught.value.hint
        _work(server, tmp_path)
        assert len(server.log) == paid
        with Client(**told(server.base_url, server.api_key, tmp_path)) as client:
            job = resume("j", client=client)
            assert job.wait(20)
            assert job.progress.done == ROWS, "that call mended the ledger"
        assert len(server.log) == paid


def test_a_flipped_byte_in_what_a_job_asks_gives_no_other_frame(tmp_path):
    """Read by its name alone: the frame as it was, or the error that says it is damaged and what to do."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    with Sandbox(count="estimate", time_scale=100) as server:
        _work(server, good)
        paid = len(server.log)
        with Journal(good / "jobs.db") as journal:
            whole = job_frame(journal, "j")
        content = (good / "jobs.db").read_bytes()
        places = [
            content.index(word.encode()) + at
            for word, at in [
                ('{"template"', 0),  # no JSON any more
                ('"template": "', 15),
                (QUESTION, 3),
                ("{{n}}", 2),
                ('"model"', 1),
                ('"thinking": false', 13),
                ('"max_tokens": 30', 14),
            ]
        ]
        for place in places:
            shutil.copytree(good, bad)
            flipped = bytearray(content)
            flipped[place] ^= 1
            (bad / "jobs.db").write_bytes(flipped)
            with Journal(bad / "jobs.db") as journal:
                with pytest.raises(JobMismatch, match="the job 'j' is damaged") as caught:
                    job_frame(journal, "j")
                assert "Run the call that began it once more, with job='j'" in caught.value.hint
                assert "jobs delete 'j'" in caught.value.hint
            _work(server, bad)
            with Journal(bad / "jobs.db") as journal:
                pd.testing.assert_frame_equal(job_frame(journal, "j"), whole)
            shutil.rmtree(bad)
        assert len(server.log) == paid


def test_a_row_that_is_left_out_of_a_frame_is_told(tmp_path):
    """Its prompt was damaged: the frame by the job's name says so, and the call that began it has the row."""
    with Sandbox(count="estimate", time_scale=100) as server:
        _work(server, tmp_path)
        paid = len(server.log)
        with contextlib.closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as connection:
            connection.execute("UPDATE items SET body=body || '.' WHERE position=3")
        with Journal(tmp_path / "jobs.db") as journal, pytest.warns(StoreDamaged, match="1 rows of the job"):
            assert len(job_frame(journal, "j")) == ROWS - 1
        _work(server, tmp_path)
        assert len(server.log) == paid


@pytest.mark.slow
@pytest.mark.parametrize("index", ["item_of", "ready", "in_order"])
def test_an_index_that_leads_astray_loses_no_row(tmp_path, index):
    """SQLite reads on as if all was well; the rows that are then missed are found by the next call."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    with Sandbox(count="estimate", time_scale=100) as server:
        _work(server, good)
        connection = sqlite3.connect(good / "jobs.db")
        select = "SELECT rootpage FROM sqlite_master WHERE name=?"
        (page,) = connection.execute(select, (index,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
        connection.close()
        content = (good / "jobs.db").read_bytes()
        for place in range(page * size - 1, page * size - 120, -8):  # the entries stand at a page's end
            shutil.copytree(good, bad)
            flipped = bytearray(content)
            flipped[place] ^= 8
            (bad / "jobs.db").write_bytes(flipped)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", StoreDamaged)
                with contextlib.suppress(StoreFailed):
                    _work(server, bad)
            shutil.rmtree(bad)
        assert server.log.answered_twice() == {}, "the answers were in the store"


def _tells(error: StoreFailed | JobMismatch) -> bool:
    """Whether it says what is wrong, which is no other work of that name, and what to do."""
    return bool(error.hint) and (isinstance(error, StoreFailed) or "is damaged" in error.message)


def _alter(folder: Path, harm: str) -> None:
    connection = sqlite3.connect(folder / "jobs.db")
    with connection:
        connection.execute(f"UPDATE jobs SET {harm}")
    connection.close()


def _work(server: Sandbox, folder: Path, job: str = "j") -> None:
    """Ask all questions, singly and as a job; every answer has to be the right one.

    A row that was damaged in the queue stays pending, with a warning that says to run the call again.
    """
    with Client(**told(server.base_url, server.api_key, folder)) as client:
        for last in (False, True):
            out = apply(
                frame_of(ROWS),
                QUESTION + "{{n}}",
                job=job,
                client=client,
                progress=False,
                max_tokens=MAX_TOKENS,
            )
            done = out["status"] == "done"
            assert (done | (out["status"] == "pending")).all()
            assert done.all() or not last
            assert out.loc[done, "answer"].tolist() == [
                f"answer number {n}" for n in range(ROWS) if done.iloc[n]
            ]
        for n in range(ROWS):
            assert client.ask(f"{QUESTION}{n}", max_tokens=MAX_TOKENS).text == f"answer number {n}"
