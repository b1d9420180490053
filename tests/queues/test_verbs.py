"""The same verbs on both queues: put, work, kill, take back, give up."""

from __future__ import annotations

from typing import Literal

import pandas as pd
import pydantic
import pytest
from queue_bench import check, until

from deepseek_nb.adapters.database import Database
from deepseek_nb.adapters.journal import SCHEMA, Journal
from deepseek_nb.adapters.queued import LEDGER, QUEUED_TABLE
from deepseek_nb.batch.apply import apply
from deepseek_nb.batch.call import user_of
from deepseek_nb.batch.submit import submit
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import BudgetExceeded, ModelUnknown
from deepseek_nb.sandbox import FaultScript, Sandbox


def test_workers_do_what_is_put_in_the_queue(bench):
    """The submitter asks nothing; each row has its own answer, and none was asked twice."""
    job = bench.submit(40)
    assert not bench.asked
    said = bench.worker("--drain").end()
    check(job.result(30), 40)
    assert "40 rows finished" in said
    assert len(bench.asked) == len(set(bench.asked)) == 40
    assert job.cost_usd == pytest.approx(bench.sandbox.log.cost_usd, rel=1e-6)
    assert bench.client.settings.data_dir.joinpath("jobs.db").exists()


def test_a_killed_worker_loses_what_it_had_at_the_server_and_no_more(bench):
    """Kill -9 in the middle; another worker ends it, and at most four rows are paid twice."""
    job = bench.submit(60)
    first = bench.worker()
    until(lambda: len(bench.asked) >= 12)
    first.kill()
    bench.worker("--drain")
    check(job.result(60), 60)
    assert len(set(bench.asked)) == 60
    assert len(bench.asked) - 60 <= 4


def test_a_terminated_worker_gives_back_what_it_has_not_begun(bench):
    job = bench.submit(60)
    first = bench.worker()
    until(lambda: len(bench.asked) >= 8)
    first.terminate()
    before = len(bench.asked)
    assert before < 60
    bench.worker("--drain")
    check(job.result(60), 60)
    assert len(bench.asked) == len(set(bench.asked)) == 60


def test_a_row_that_ends_its_workers_is_given_up_and_says_so(bench):
    """Begun twice, two workers killed over it: the third one gives it up, and --dead lists it."""
    bench.sandbox.faults = FaultScript.weights({"hang": 1.0})
    job = bench.submit(1)
    for _ in range(2):
        worker = bench.worker("--deliveries", "2")
        before = len(bench.sandbox.log)
        until(lambda: bench.sandbox.in_flight, 30)
        worker.kill()
        until(lambda before=before: len(bench.sandbox.log) > before)
    bench.worker("--deliveries", "2", "--drain").end()
    out = job.result(30)
    assert out["status"].tolist() == ["failed"]
    assert out["error"].iloc[0].startswith("GivenUp: Workers began this row 2 times")
    listed = bench.worker("--dead").end()
    assert "began this row 2 times" in listed
    assert '"n":0' in listed
    assert "1 rows were given up" in listed


def test_a_higher_priority_goes_first(bench):
    """Two jobs wait when the worker comes: the later one, of priority 3, is asked before the one of 1."""
    low, high = bench.submit(24, "low", priority=1), bench.submit(24, "high", first=100, priority=3)
    until(lambda: low.progress.waiting and high.progress.waiting)
    bench.worker("--drain", concurrency=2).end()
    check(low.result(30), 24)
    check(high.result(30), 24)
    users = [record.user_id for record in bench.sandbox.log.chats]
    assert len(users) == 48
    assert users[:24].count(user_of("high")) >= 20


def test_cancel_takes_back_what_no_worker_has_begun(bench):
    """A cancelled job leaves the queue; the same call puts the rest in again."""
    job = bench.submit(20)
    until(lambda: job.progress.waiting)
    job.cancel()
    assert job.wait(30)
    assert job.status == "cancelled"
    bench.worker("--drain").end()
    assert not bench.asked
    again = bench.submit(20)
    bench.worker("--drain").end()
    check(again.result(30), 20)


def test_a_paused_job_is_out_of_the_queue_until_it_is_resumed(bench):
    job = bench.submit(20)
    until(lambda: job.progress.waiting)
    job.pause()
    until(lambda: job.progress.paused)
    bench.worker("--drain").end()
    assert not bench.asked
    assert job.status == "paused"
    job.resume()
    until(lambda: not job.progress.paused)
    until(lambda: job.progress.waiting)
    bench.worker("--drain").end()
    check(job.result(30), 20)
    assert len(bench.asked) == 20


def test_the_work_goes_on_when_its_submitter_is_gone(bench):
    """Who left comes back with the same call: the answers wait, and nobody is asked."""
    job = bench.submit(30)
    job.leave()
    assert job.wait(20)
    bench.worker("--drain").end()
    assert len(bench.asked) == 30
    again = bench.submit(30)
    check(again.result(30), 30)
    assert len(bench.asked) == 30


def test_rows_that_are_put_in_while_others_are_under_way_are_asked(bench):
    """Yesterday's rows are still worked on when the same job comes with today's, too."""
    first = bench.submit(40)
    first.leave()
    assert first.wait(20)
    bench.worker(concurrency=2)
    until(lambda: len(bench.asked) >= 2)
    check(bench.submit(60).result(20), 60)
    assert len(bench.asked) == len(set(bench.asked)) == 60


def test_a_wrong_key_ends_the_worker_and_not_the_job(bench):
    job = bench.submit(12)
    said = bench.worker("--drain", key="sk-wrong-0000000000000000").end(code=2)
    assert "AuthError" in said
    bench.worker("--drain").end()
    check(job.result(30), 12)
    assert len(bench.asked) == 12


def test_an_unknown_model_stops_the_job_and_not_the_worker(bench):
    """The worker goes on with other jobs; the submitter hears why."""
    bad, good = bench.submit(8, "bad", model="deepseek-none"), bench.submit(8, "good")
    bench.worker("--drain").end()
    check(good.result(30), 8)
    with pytest.raises(ModelUnknown, match="deepseek-none"):
        bad.result(30)


def test_a_budget_is_kept_by_workers(bench, monkeypatch):
    """Not passed, by the server's own count; the same call with more money does the rest."""
    monkeypatch.setattr("deepseek_nb.batch.queue_run.DRAIN_S", 2.0)
    job = bench.submit(100, budget_usd=0.0003)
    bench.worker()
    with pytest.raises(BudgetExceeded):
        job.result(60)
    assert 0 < bench.sandbox.log.cost_usd <= 0.0003
    done = int((job.frame()["status"] == "done").sum())
    assert 0 < done < 100
    assert job.cost_usd == pytest.approx(bench.sandbox.log.cost_usd, rel=1e-6)
    check(bench.submit(100, budget_usd=0.1).result(60), 100)
    assert len(bench.asked) == len(set(bench.asked)) == 100


class Ticket(pydantic.BaseModel):
    """What is asked about a row."""

    label: Literal["card", "transfer", "cash"]
    urgency: int = pydantic.Field(ge=1, le=5)


def test_the_frame_is_that_of_a_job_that_is_asked_here(bench):
    """A schema, repeated rows and a filled prefix: same index, columns and answers."""
    texts = [f"My {('card', 'transfer', 'cash')[n % 3]} number {n} is lost" for n in range(40)]
    frame = pd.DataFrame({"text": texts + texts[:5]}, index=[f"t{n}" for n in range(45)])
    asked = {"template": "What is this ticket about? {{text}}", "schema": Ticket, "job": "t"}
    job = submit(frame, client=bench.client, queue=bench.queue, **asked)
    bench.worker("--drain").end()
    out = job.result(30)
    assert len(bench.asked) == 40
    with Client(
        base_url=bench.sandbox.base_url, api_key=bench.sandbox.api_key, data_dir=bench.folder / "here"
    ) as client:
        here = apply(frame, client=client, progress=False, **asked)
    assert list(out.columns) == list(here.columns)
    same = ["label", "urgency", "status", "error"]
    pd.testing.assert_frame_equal(out[same], here[same])
    assert out["cost_usd"].sum() == pytest.approx(job.cost_usd, rel=1e-6)


def test_a_worker_for_another_server_leaves_the_job_alone(bench):
    """On the ledger it says so; on a RabbitMQ it never gets the rows."""
    job = bench.submit(8)
    with Sandbox(balance_usd=None) as other:
        said = bench.worker("--drain", base_url=other.base_url).end(code=bench.kind == "ledger")
        assert not len(other.log)
    assert ("left alone for now. JobMismatch" in said) == (bench.kind == "ledger")
    bench.worker("--drain").end()
    check(job.result(30), 8)


def test_a_ledger_of_the_version_before_is_upgraded(tmp_path):
    """Jobs of an older release may be put in the queue, too."""
    before = Database(tmp_path / "jobs.db", [text for text in SCHEMA if text != QUEUED_TABLE], 2)
    before.write(lambda connection: None)
    before.close()
    with Journal(tmp_path / "jobs.db") as journal:
        journal.open_job("old", "digest", {}, [("key", "body", 2)])
        assert journal.queued.put("old", LEDGER, priority=2, options={}).ready
        assert [each.job for each in journal.queued.all(LEDGER)] == ["old"]
        journal.delete("old")
        assert not journal.queued.all(LEDGER)
