"""Rows that share requests, from frame to frame: everybody gets the own answer, and the bill adds up."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections import Counter

import pandas as pd
import pytest

import deepseek_nb as ds
from deepseek_nb.adapters.journal import Journal
from deepseek_nb.batch.resume import resume
from deepseek_nb.client.sync import Client
from deepseek_nb.core import errors
from deepseek_nb.sandbox import Completion, Fault, Sandbox
from deepseek_nb.sandbox.engine import answer as engine_answer

ASK = "Sort this ticket: {{text}}"
LAYOUTS, WAYS = ("keyed", "compact", "inline"), ("json", "tool", "responses")
FORMS = [{"layout": layout, "structured": way} for layout in LAYOUTS for way in WAYS]


def answers_of(frame, tmp_path, schema, **options):
    """What the rows are answered alone, by a server and in a folder of their own."""
    with (
        Sandbox(count="estimate", time_scale=100) as alone,
        Client(base_url=alone.base_url, api_key=alone.api_key, data_dir=tmp_path / "alone") as client,
    ):
        return ds.apply(frame, ASK, schema=schema, client=client, progress=False, **options)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: f"{form['layout']}-{form['structured']}")
def test_rows_are_answered_as_they_are_alone_in_a_fraction_of_the_requests(
    frame, client, sandbox, ticket, tmp_path, form
):
    """Thirty distinct rows: the first alone, the others eight at a time; equal rows are asked once."""
    got = ds.apply(frame, ASK, schema=ticket, rows_per_request=8, client=client, progress=False, **form)
    alone = answers_of(frame, tmp_path, ticket, **form)
    pd.testing.assert_frame_equal(got[["label", "urgency", "status"]], alone[["label", "urgency", "status"]])
    assert len(sandbox.log) == 1 + math.ceil(29 / 8)
    before = len(sandbox.log)
    again = ds.apply(frame, ASK, schema=ticket, rows_per_request=8, client=client, progress=False, **form)
    pd.testing.assert_frame_equal(again, got)
    assert len(sandbox.log) == before


def test_an_answer_without_a_schema_is_a_text_of_its_own_row(frame, client, sandbox):
    """Each text speaks of the row it is for."""
    got = ds.apply(frame, ASK, layout="inline", rows_per_request=10, client=client, progress=False)
    for text, answer in zip(frame["text"], got["answer"], strict=True):
        assert text in answer
    assert len(sandbox.log) == 1 + math.ceil(29 / 10)


def test_the_shares_of_the_rows_are_the_bill(frame, client, sandbox, ticket):
    """Costs and tokens of all rows together are what the server took, no more and no less."""
    rows = frame.head(30)
    got = ds.apply(rows, ASK, schema=ticket, rows_per_request=7, client=client, progress=False)
    billed = sum(record.prompt_tokens + record.completion_tokens for record in sandbox.log)
    assert got["tokens"].sum() == billed
    assert got["cost_usd"].sum() == pytest.approx(sandbox.log.cost_usd)


def test_a_refused_text_fails_alone(frame, client, sandbox, ticket):
    """The pack is split until it is known whose text it is; the others get their answers, paid once."""
    sandbox.faults = lambda ask: Fault("content_risk") if "number 17 is" in ask.text else None
    got = ds.apply(frame, ASK, schema=ticket, rows_per_request=10, client=client, progress=False)
    refused = frame["text"].str.contains("number 17 is")
    assert (got.loc[refused, "status"] == "failed").all()
    assert got.loc[refused, "error"].str.contains("ContentRefused").all()
    assert (got.loc[~refused, "status"] == "done").all()
    asked = [record for record in sandbox.log if record.status == 200]
    assert len(asked) <= 1 + 3 + math.ceil(math.log2(10))


def test_rows_behind_a_cut_are_asked_alone_and_those_before_it_are_not(frame, tmp_path, ticket):
    """An answer cut at its limit of tokens has been paid for: what is whole in it counts."""
    cut: list[int] = []

    def engine(request):
        made = engine_answer(request)
        if '"answers"' not in made.text or cut:
            return made
        cut.append(1)
        return Completion(made.text[: len(made.text) // 2], finish_reason="length")

    with (
        Sandbox(count="estimate", time_scale=100, engine=engine) as sandbox,
        Client(
            base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path, max_repairs=0
        ) as client,
    ):
        rows = frame.head(9)
        got = ds.apply(rows, ASK, schema=ticket, rows_per_request=8, client=client, progress=False)
        assert (got["status"] == "done").all()
        alone = len(sandbox.log) - 2  # the leader, and the pack
        assert 1 <= alone < 8
        assert got["cost_usd"].sum() == pytest.approx(sandbox.log.cost_usd)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text.replace('"id":3,', '"id":4,'),
        lambda text: text.replace('"id":3,', '"id":99,'),
        lambda text: text.replace('"urgency":', '"urgent":', 1),
        lambda text: "I would rather not.",
    ],
    ids=["an id twice", "an id of nobody", "a row of another shape", "no JSON"],
)
def test_a_bad_row_is_asked_alone_and_nobody_gets_anothers_answer(frame, tmp_path, ticket, spoil):
    """Whatever is wrong with a pack's answer, each row ends up with the answer it gets alone."""

    def engine(request):
        made = engine_answer(request)
        return Completion(spoil(made.text)) if '"answers"' in made.text else made

    with (
        Sandbox(count="estimate", time_scale=100, engine=engine) as sandbox,
        Client(base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path) as client,
    ):
        got = ds.apply(frame, ASK, schema=ticket, rows_per_request=6, client=client, progress=False)
        spent = sandbox.log.cost_usd
        with Journal(tmp_path / "jobs.db") as journal:
            (job,) = journal.jobs()
            assert job.spent_usd == pytest.approx(spent)
    alone = answers_of(frame, tmp_path, ticket)
    pd.testing.assert_frame_equal(got[["label", "urgency", "status"]], alone[["label", "urgency", "status"]])


def test_an_empty_account_loses_no_row_and_the_job_goes_on_from_its_files(frame, client, sandbox, ticket):
    """It stops as any job does; what is left is asked, in packs, by ``jobs resume``."""
    sandbox.faults = lambda ask: Fault("balance_402") if ask.index >= 3 else None
    with pytest.raises(errors.BalanceExhausted) as stopped:
        ds.apply(frame, ASK, schema=ticket, rows_per_request=5, job="packs", client=client, progress=False)
    done = int((stopped.value.frame["status"] == "done").sum())
    assert 0 < done < len(frame)
    sandbox.faults = None
    paid = [record.prompt_hash for record in sandbox.log if record.complete]
    job = resume("packs", client=client)
    job.result()
    assert (job.frame()["status"] == "done").all()
    later = [record.prompt_hash for record in sandbox.log if record.complete][len(paid) :]
    left = 30 - (1 + 5 * (len(paid) - 1))
    assert len(later) == 1 + math.ceil((left - 1) / 5)  # each run begins with a row alone


@pytest.mark.filterwarnings("ignore::deepseek_nb.core.budget.NearBudget")
@pytest.mark.parametrize("budget_usd", [0.001, 0.005])
def test_a_budget_without_room_for_a_pack_has_room_for_rows(client, sandbox, ticket, budget_usd):
    """The dearest answer to a pack would cost more than there is: it goes in parts, as far as the money."""
    rows = pd.DataFrame({"text": [f"My card number {n} is lost" for n in range(200)]})
    given = {"schema": ticket, "rows_per_request": 40, "client": client, "progress": False}
    try:
        got = ds.apply(rows, ASK, budget_usd=budget_usd, **given)
    except errors.BudgetExceeded as stopped:
        got = stopped.frame
    done = int((got["status"] == "done").sum())
    assert done == 200 if budget_usd == 0.005 else 40 < done < 200
    assert sandbox.log.cost_usd <= budget_usd


def test_the_plan_of_packs_comes_true(ticket, tmp_path):
    """Requests to the number, the bill within five percent."""
    rows = pd.DataFrame(
        {"text": [f"My {('card', 'cash')[n % 2]} number {n} is lost again" for n in range(401)]}
    )
    with (
        Sandbox(cache_rule="strict", count="vocabulary", first_token_s=0.02) as server,
        Client(base_url=server.base_url, api_key=server.api_key, data_dir=tmp_path / "p") as asker,
    ):
        plan = ds.plan(rows, ASK, schema=ticket, rows_per_request=10, client=asker)
        assert len(server.log) == 0
        out = ds.apply(plan, progress=False)
        assert (out["status"] == "done").all()
        log = list(server.log)
        assert abs(len(log) - plan.requests) <= 1  # the first row goes alone
        price = plan.price_off_peak
        billed_usd = price.cost_usd(
            hit_tokens=sum(r.cache_hit_tokens for r in log),
            miss_tokens=sum(r.prompt_tokens - r.cache_hit_tokens for r in log),
            output_tokens=sum(r.completion_tokens for r in log),
        )
        assert plan.cost_off_peak_usd == pytest.approx(billed_usd, rel=0.05)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rows_per_request": 0}, "from 1 to 50"),
        ({"rows_per_request": 51}, "from 1 to 50"),
        ({"rows_per_request": "8"}, "from 1 to 50"),
        ({"rows_per_request": 8, "answers": "numbers"}, "not by number"),
    ],
)
def test_what_cannot_be_packed_is_told_before_anything_is_sent(frame, client, sandbox, ticket, options, said):
    """In one sentence."""
    with pytest.raises(errors.ConfigError, match=said):
        ds.apply(frame, ASK, schema=ticket, client=client, progress=False, **options)
    assert len(sandbox.log) == 0


def test_rows_that_another_process_asks_about_are_left_to_it(frame, client, sandbox, ticket, tmp_path):
    """Two processes with one folder at the same job's rows: no row is answered twice, in packs or alone."""
    script = (
        "import sys, pandas as pd, deepseek_nb as ds\n"
        "from deepseek_nb.client.sync import Client\n"
        "from typing import Literal\n"
        "url, key, folder, job = sys.argv[1:]\n"
        "frame = pd.DataFrame({'text': [f'My card number {n} is lost' for n in range(120)]})\n"
        "with Client(base_url=url, api_key=key, data_dir=folder, concurrency_max=2) as client:\n"
        "    out = ds.apply(frame, 'Sort this ticket: {{text}}', schema={'label': Literal['card', 'cash']},\n"
        "                   job=job, rows_per_request=4, client=client, progress=False)\n"
        "assert (out['status'] == 'done').all()\n"
    )
    with Sandbox(count="estimate", first_token_s=0.05) as server:
        arguments = [sys.executable, "-c", script, server.base_url, server.api_key, str(tmp_path)]
        workers = [subprocess.Popen([*arguments, job]) for job in ("a", "b")]
        assert [worker.wait(60) for worker in workers] == [0, 0]
        with Journal(tmp_path / "jobs.db") as journal:
            spent = sum(job.spent_usd for job in journal.jobs())
        assert spent == pytest.approx(server.log.cost_usd)
        answered = sum(record.completion_tokens for record in server.log)
    with Sandbox(count="estimate") as server:
        arguments = [
            sys.executable,
            "-c",
            script,
            server.base_url,
            server.api_key,
            str(tmp_path / "one"),
            "a",
        ]
        subprocess.run(arguments, check=True, timeout=60)
        alone = sum(record.completion_tokens for record in server.log)
    assert answered < 1.3 * alone  # the tokens of the answers: all rows twice would be twice as many


class Counting:
    """The usual engine, and how often each row was answered."""

    def __init__(self) -> None:
        self.rows: Counter[str] = Counter()

    def __call__(self, request):
        made = engine_answer(request)
        for line in request.question.split("\n"):
            told = json.loads(line)
            self.rows[told["row"]["text"] if "row" in told else told["text"]] += 1
        return made


def test_a_cancelled_job_keeps_all_that_was_under_way(frame, tmp_path, ticket):
    """What the server began is waited for, written down, and not asked again by the next run."""
    counting = Counting()
    with (
        Sandbox(count="estimate", engine=counting, first_token_s=0.3) as sandbox,
        Client(
            base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path, concurrency_max=4
        ) as client,
    ):
        options = {"schema": ticket, "rows_per_request": 3, "job": "cut", "client": client}
        job = ds.submit(frame, ASK, **options)
        while len(counting.rows) < 10:  # the leaders are through, four packs are on the wire
            time.sleep(0.005)
        job.cancel()
        job.wait(30)
        assert len(counting.rows) < 30, "it was through before it was cancelled"
        done = job.frame().loc[lambda out: out["status"] == "done"]
        assert set(frame.loc[frame.index.isin(done.index), "text"]) == set(counting.rows)
        assert (ds.apply(frame, ASK, progress=False, **options)["status"] == "done").all()
    assert set(counting.rows.values()) == {1}
