"""Every form in which rows are sent, through all that a job goes through: frames, resuming, retries."""

from __future__ import annotations

import json
from typing import Literal

import pandas as pd
import pydantic
import pytest

import deepseek_nb as ds
from deepseek_nb.adapters.journal import Journal
from deepseek_nb.batch.resume import job_frame, resume
from deepseek_nb.core import errors
from deepseek_nb.sandbox import Completion, FaultScript, Sandbox

ASK = "Sort this ticket: {{text}} ({{n}})"
FORMS = {
    "keyed": {"layout": "keyed"},
    "keyed, by function": {"layout": "keyed", "structured": "tool"},
    "keyed, by /responses": {"layout": "keyed", "structured": "responses"},
    "compact": {"layout": "compact"},
    "compact, by number": {"layout": "compact", "answers": "numbers"},
    "keyed, no filler": {"layout": "keyed", "cache_block": 0},
    "inline": {"layout": "inline"},
    "inline, by number": {"layout": "inline", "answers": "numbers"},
}


class Sorted(pydantic.BaseModel):
    """A category, a truth and a number with bounds."""

    label: Literal["card", "transfer", "cash"]
    lost: bool
    urgency: int = pydantic.Field(ge=1, le=5)


@pytest.fixture(params=FORMS.values(), ids=FORMS)
def form(request):
    return request.param


def run(frame, client, **options):
    return ds.apply(frame, ASK, **{"schema": Sorted, "client": client, "progress": False, **options})


def test_the_frame_is_of_one_kind_in_every_form(frame, client, form):
    """Categories, truths and whole numbers in their dtypes; the words as they came with raw=True."""
    out = run(frame, client, raw=True, **form)
    assert (out["status"] == "done").all(), out["error"].tolist()
    assert out["label"].dtype == pd.CategoricalDtype(["card", "transfer", "cash"])
    assert (str(out["lost"].dtype), str(out["urgency"].dtype)) == ("boolean", "Int64")
    assert out["urgency"].between(1, 5).all()
    for row in out.itertuples():
        if form.get("answers") == "numbers":
            option, truth, number = row.raw.split("\n")
            assert row.label == ["card", "transfer", "cash"][int(option) - 1]
            assert (row.lost, row.urgency) == ([False, True][int(truth) - 1], int(number))
        else:
            assert json.loads(row.raw) == {"label": row.label, "lost": row.lost, "urgency": row.urgency}
    assert out["mends"].isna().all()


def test_polars_frames_go_in_and_out_in_every_form(frame, client, form):
    """With the dtypes that the schema tells."""
    polars = pytest.importorskip("polars")
    out = run(polars.DataFrame(frame.to_dict("list")), client, **form)
    assert out["label"].dtype == polars.Enum(["card", "transfer", "cash"])
    assert out["lost"].dtype == polars.Boolean
    assert set(out["status"]) == {"done"}


def test_a_frame_without_rows_asks_nothing_in_every_form(frame, client, sandbox, form):
    """And has the columns of one with rows."""
    out = run(frame.head(0), client, **form)
    assert (len(out), len(sandbox.log)) == (0, 0)
    assert list(out.columns)[:3] == ["label", "lost", "urgency"]
    assert ds.plan(frame.head(0), ASK, schema=Sorted, client=client, **form).requests == 0


def test_a_job_of_every_form_goes_on_from_its_files(frame, client, sandbox, form):
    """Without its frame; then the call that began it finds all rows done. Nothing is paid twice."""
    sandbox.faults = FaultScript.of(*[None] * 9, *["balance_402"] * 400)
    with pytest.raises(errors.BalanceExhausted) as caught:
        run(frame, client, job="t", **form)
    sandbox.faults = None
    assert set(caught.value.frame["status"]) == {"done", "pending"}
    assert 0 < len(sandbox.log.complete) < 40
    out = resume("t", client=client).result(60)
    assert (out["status"] == "done").all()
    assert (len(sandbox.log.complete), sandbox.log.answered_twice()) == (40, {})
    filled = [f"Sort this ticket: {text} ({n})" for text, n in zip(frame["text"], frame["n"], strict=True)]
    assert out["prompt"].tolist() == filled
    with Journal(client.settings.data_dir / "jobs.db") as journal:
        pd.testing.assert_frame_equal(job_frame(journal, "t"), out)
    mine = run(frame, client, job="t", **form)
    assert len(sandbox.log.complete) == 40
    for column in ("label", "lost", "urgency", "cost_usd"):
        assert mine[column].tolist() == out[column].tolist()


def test_failed_rows_of_every_form_are_asked_once_more(frame, client, sandbox, form):
    """By the handle, by the call and from the files: those rows and no others."""
    sandbox.faults = FaultScript.of(None, *["content_risk"] * 3)
    job = ds.submit(frame, ASK, schema=Sorted, client=client, job="t", **form)
    job.result(60)
    assert len(job.errors) == 3
    sent, sandbox.faults = len(sandbox.log), FaultScript.of("content_risk", "content_risk")
    assert len(job.retry_failed().result(60).query("status == 'failed'")) == 2
    assert len(sandbox.log) == sent + 3
    sandbox.faults = FaultScript.of("content_risk")
    assert (run(frame, client, job="t", retry_failed=True, **form)["status"] == "failed").sum() == 1
    sandbox.faults = None
    assert (resume("t", client=client, retry_failed=True).result(60)["status"] == "done").all()
    assert len(sandbox.log) == sent + 6


def test_answers_by_number_and_functions_do_not_go_together(frame, client, sandbox):
    """Lines are not what a function's arguments are: one clear error, and nothing is sent."""
    for ask in (ds.plan, ds.submit):
        with pytest.raises(errors.ConfigError, match="not both"):
            ask(frame, ASK, schema=Sorted, client=client, answers="numbers", structured="tool")
    assert len(sandbox.log) == 0


def test_a_number_there_is_no_option_for_is_asked_again(frame, tmp_path):
    """The repair says what was wrong; both texts are told, and the row has its answer."""
    asked: list[str] = []

    def engine(request):
        asked.append(request.messages[-1]["content"])
        return Completion("2\n1\n3" if "cannot be used" in asked[-1] else "7\n1\n3")

    with (
        Sandbox(engine=engine, count="estimate") as sandbox,
        ds.Client(base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path) as client,
    ):
        out = run(frame.head(1), client, answers="numbers", raw=True)
    row = out.iloc[0]
    assert (row["label"], row["lost"], row["urgency"]) == ("transfer", False, 3)
    assert (row["raw"], row["attempts"], len(asked)) == ("2\n1\n3", 2, 2)
    assert "label is a number from 1 to 3, not '7'" in asked[1]


def test_the_whole_answer_by_number_stands_in_one_column(frame, client):
    """With into=, as ever."""
    out = run(frame.head(4), client, answers="numbers", into="all")
    assert all(set(each) == {"label", "lost", "urgency"} for each in out["all"])


def test_a_static_beginning_with_a_function_is_filled_up_to_a_block(frame, tmp_path):
    """The function stands before all messages: it counts for where the row begins."""
    with (
        Sandbox(cache_rule="strict", count="vocabulary", first_token_s=0.03) as sandbox,
        ds.Client(base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path) as client,
    ):
        many = pd.concat([frame.assign(n=frame["n"] + 100 * k) for k in range(3)])
        out = run(many, client, structured="tool", layout="keyed")
        assert (out["status"] == "done").all()
        log = list(sandbox.log)
    behind = [seen.prompt_tokens - seen.cache_hit_tokens for seen in log if seen.cache_hit_tokens]
    assert len(behind) > 90
    assert max(behind) < 40, "the row, and nothing of what stands before it"


# ------------------------------------------------------------------- jobs that are older than layouts

OLD = {
    "template": "Sort this ticket: {{text}}",
    "schema": None,
    "model": "deepseek-flash",
    "route": "ROUTE",
    "system": None,
    "thinking": False,
    "temperature": None,
    "max_tokens": None,
}
"""What a job's row in the journal said before there were layouts."""


def test_a_job_older_than_layouts_goes_on_as_it_began(frame, client, sandbox):
    """With layout="inline", as the error says, or from its files; what it had paid for is not asked again."""
    texts = frame["text"].unique().tolist()
    sandbox.faults = FaultScript.of(*[None] * 5, *["balance_402"] * 400)
    ask = {"template": OLD["template"], "job": "old", "client": client, "progress": False}
    with pytest.raises(errors.BalanceExhausted):
        ds.apply(frame, layout="inline", **ask)
    sandbox.faults = None
    with Journal(client.settings.data_dir / "jobs.db") as journal:
        there = journal.job("old")
        assert there.meta == OLD | {"route": client.settings.route_name}
        assert [each.body for each in journal.prompts("old")] == [f"Sort this ticket: {t}" for t in texts]
    sent = len(sandbox.log)
    with pytest.raises(errors.JobMismatch, match="layout") as caught:
        ds.apply(frame, **ask)
    assert caught.value.hint.startswith("To go on with it, pass layout='inline'.")
    assert len(sandbox.log) == sent
    assert (resume("old", client=client).result(60)["status"] == "done").all()
    assert (ds.apply(frame, layout="inline", **ask)["status"] == "done").all()
    assert (len(sandbox.log.complete), sandbox.log.answered_twice()) == (len(texts), {})


@pytest.mark.parametrize(
    ("begun", "hint"),
    [
        ({"layout": "compact"}, "pass layout='compact', cache_block=128."),
        ({"layout": "keyed", "cache_block": 64}, "pass layout='keyed', cache_block=64."),
    ],
)
def test_another_layout_under_a_name_says_how_to_go_on(frame, client, sandbox, begun, hint):
    """What is pasted from the hint works; where more than the layout differs it is other work."""
    run(frame.head(3), client, job="t", **begun)
    with pytest.raises(errors.JobMismatch) as caught:
        run(frame.head(3), client, job="t")
    assert hint in caught.value.hint
    with pytest.raises(errors.JobMismatch) as other:
        run(frame.head(3), client, job="t", system="Be brief.")
    assert "pass" not in other.value.hint
    run(frame.head(3), client, job="t", **begun)
    assert len(sandbox.log) == 3
