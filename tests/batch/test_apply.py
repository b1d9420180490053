"""Frame in, frame out: the caller's rows, each with its own answer or the reason why not."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
import time
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest

from deepseek_nb.batch.apply import JobIncomplete, apply
from deepseek_nb.client.sync import Client
from deepseek_nb.core import errors
from deepseek_nb.sandbox import Fault, FaultScript, Sandbox

ASK = "Sort this ticket: {{text}}"


def run(frame, client, **options):
    return apply(frame, ASK, client=client, progress=False, **options)


def test_every_row_gets_its_own_answer_on_the_callers_index(frame, client, ticket, sandbox):
    """Columns of the schema, then what is told about the row; equal rows asked once, paid once."""
    out = run(frame, client, schema=ticket)
    assert list(out.columns) == [
        "label",
        "urgency",
        "status",
        "error",
        "route",
        "attempts",
        "cached",
        "tokens",
        "cost_usd",
        "latency_s",
    ]
    assert set(out.route) == {f"{sandbox.base_url.removeprefix('http://')}/deepseek-flash"}
    assert out.index.equals(frame.index)
    assert (out["status"] == "done").all()
    assert [text.split()[1] for text in frame["text"]] == out["label"].tolist()
    assert len(sandbox.log) == 30
    assert out["cost_usd"].sum() == pytest.approx(sandbox.log.cost_usd)
    assert out["cached"].sum() == 10
    assert out["error"].isna().all()


def test_the_accessor_is_the_same(frame, client, ticket):
    """``df.deepseek.apply`` is ``apply(df, ...)``."""
    by_accessor = frame.deepseek.apply(ASK, schema=ticket, client=client, progress=False)
    pd.testing.assert_frame_equal(by_accessor, run(frame, client, schema=ticket))


def test_run_again_it_sends_nothing_and_gives_the_same_frame(frame, client, ticket, sandbox):
    """The same call, with or without a job name: zero requests, equal frames."""
    first = run(frame, client, schema=ticket, job="tickets")
    again = run(frame, client, schema=ticket, job="tickets")
    pd.testing.assert_frame_equal(first, again)
    assert len(sandbox.log) == 30
    assert again.attrs["deepseek_nb"]["requests"] == 0
    assert again.attrs["deepseek_nb"]["job_cost_usd"] == pytest.approx(sandbox.log.cost_usd)


def test_another_job_takes_its_answers_from_the_store(frame, client, ticket, sandbox):
    """A second job over the same rows pays nothing: every row is marked as cached."""
    run(frame, client, schema=ticket, job="one")
    out = run(frame, client, schema=ticket, job="two")
    assert len(sandbox.log) == 30
    assert out["cached"].all()
    assert out["cost_usd"].sum() == 0


def test_the_ledger_and_the_store_hold_the_same_text(frame, client, ticket, sandbox, tmp_path):
    """Also where an answer had to be asked for again: then the last one counts, for both."""
    sandbox.faults = FaultScript.of(None, None, "empty_200", "bad_json_answer", None, "busy_503")
    out = run(frame, client, schema=ticket, job="both")
    assert (out["status"] == "done").all()
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as jobs:
        written = dict(jobs.execute("SELECT key, answer FROM items WHERE state='d'"))
    with closing(sqlite3.connect(tmp_path / "answers.db")) as answers:
        kept = dict(answers.execute("SELECT key, value FROM answers"))
    assert len(written) == 30
    assert written == {key: kept[key] for key in written}


def test_without_a_schema_the_text_is_the_answer(frame, client):
    """One column of text; ``into`` names it."""
    assert run(frame.head(3), client).columns[0] == "answer"
    assert run(frame.head(3), client, into="reply")["reply"].str.startswith("[simulated]").all()


def test_with_into_the_whole_object_is_one_column(frame, client, ticket):
    """``into`` keeps a structured answer together, as a dict."""
    out = run(frame.head(3), client, schema=ticket, into="verdict")
    assert out["verdict"].iloc[0].keys() == {"label", "urgency"}


@pytest.mark.parametrize(
    "index",
    [
        pd.RangeIndex(5, 45),
        pd.Index(["same"] * 40),
        pd.MultiIndex.from_product([range(8), list("abcde")]),
        pd.date_range("2026-01-01", periods=40, freq="h"),
    ],
    ids=["offset", "duplicated labels", "multi", "dates"],
)
def test_any_index_comes_back(frame, client, ticket, index):
    """Also one whose labels repeat: rows are matched by place."""
    frame.index = index
    out = run(frame, client, schema=ticket)
    assert out.index.equals(index)
    assert [text.split()[1] for text in frame["text"]] == out["label"].tolist()


def test_odd_values_are_text_like_any_other(client, ticket):
    """Numbers, booleans, categories, dates, braces and other templates inside a value."""
    frame = pd.DataFrame(
        {
            "text": pd.Categorical(["card", "cash", "transfer"]),
            "n": [1, 2, 3],
            "x": [0.5, 2.0, 1e-9],
            "b": [True, False, True],
            "d": pd.to_datetime(["2026-01-01"] * 3),
            "v": ["{{text}}", '{"a": 1}', "ends with }}"],
        }
    )
    out = apply(frame, "{{text}} {{n}} {{x}} {{b}} {{d}} {{v}}", schema=ticket, client=client, progress=False)
    assert (out["status"] == "done").all()


@pytest.mark.parametrize("empty", [None, np.nan, pd.NA, pd.NaT], ids=str)
def test_a_row_with_an_empty_value_fails_alone(frame, client, ticket, sandbox, empty):
    """The row says what is missing; the others are answered; nothing is sent for it."""
    frame["text"] = frame["text"].astype(object)
    frame.iloc[3, 0] = empty
    out = run(frame, client, schema=ticket)
    assert out["status"].tolist().count("failed") == 1
    assert "text" in out["error"].iloc[3]
    assert len(sandbox.log) == 30  # its twin in the second part still asks


def test_a_row_that_is_too_long_fails_alone(frame, client, ticket, sandbox):
    """Known before it is sent: the row says that it does not fit, the others are answered."""
    frame.iloc[5, 0] = "card " * 2_000_000
    out = run(frame, client, schema=ticket)
    assert out["status"].tolist().count("failed") == 1
    assert out["error"].iloc[5].startswith("ContextTooLong")
    assert [text.split()[1] for text in frame["text"].drop("t5")] == out["label"].drop("t5").tolist()
    assert len(sandbox.log) == 30  # its twin in the second part still asks


def test_empty_values_can_be_asked_with(frame, client, ticket):
    """``missing="empty"`` puts nothing in the value's place."""
    frame.iloc[3, 0] = None
    assert (run(frame, client, schema=ticket, missing="empty")["status"] == "done").all()


BAD_CALLS = [
    ({"frame": [{"text": "a"}]}, errors.FrameError, "no frame"),
    ({"frame": pd.Series(["a"], name="text")}, errors.FrameError, "no frame"),
    ({"frame": pd.DataFrame({"text": []}), "template": "{{tekst}}"}, errors.TemplateError, "text"),
    ({"template": "{{tekst}}"}, errors.TemplateError, "text"),
    ({"template": "no column"}, errors.TemplateError, "names no column"),
    ({"template": "{{text"}, errors.TemplateError, "line 1"),
    ({"frame": pd.DataFrame({"text": [None, np.nan]})}, errors.FrameError, "No row can be asked"),
    ({"schema": {"status": str}}, errors.FrameError, "into="),
    ({"schema": {"a": 5}}, errors.SchemaError, "cannot have the type 5"),
    ({"job": "bad\nname"}, errors.ConfigError, "job name"),
    ({"budget_usd": 0}, errors.ConfigError, "above 0"),
    ({"budget_usd": 1e-9}, errors.BudgetExceeded, "no room"),
    ({"priority": 6}, errors.RequestInvalid, "1 to 5"),
    ({"ttl": "soon"}, errors.ConfigError, "duration"),
    ({"missing": "drop"}, errors.FrameError, "'fail' or 'empty'"),
    ({"template": "x" * 9_000_000 + "{{text}}"}, errors.ContextTooLong, "context"),
]


@pytest.mark.parametrize(("change", "error", "words"), BAD_CALLS, ids=lambda v: str(v)[:30])
def test_bad_input_is_one_clear_error_before_anything_is_sent(frame, client, sandbox, change, error, words):
    """Each names what to do, in at most five lines; the sandbox has seen nothing."""
    call = {"frame": frame, "template": ASK} | change
    with pytest.raises(error, match=words) as caught:
        apply(call.pop("frame"), call.pop("template"), client=client, progress=False, **call)
    assert len(sandbox.log) == 0
    assert len(caught.value._render_traceback_()) <= 5


def test_a_job_name_of_other_work_is_refused(frame, client, ticket, sandbox):
    """Another template, schema or model under the same name: an error, nothing sent."""
    run(frame.head(3), client, schema=ticket, job="mine")
    with pytest.raises(errors.JobMismatch, match="template"):
        apply(frame.head(3), "Other: {{text}}", schema=ticket, job="mine", client=client, progress=False)
    assert len(sandbox.log) == 3


def test_a_job_grows_with_the_frame_and_asks_only_for_its_rows(frame, client, ticket, sandbox):
    """Ten rows, then forty, then five: what was done stays done, nothing outside the frame is asked."""
    assert len(run(frame.head(10), client, schema=ticket, job="g")) == 10
    assert len(sandbox.log) == 10
    sandbox.faults = FaultScript.always("balance_402")
    with pytest.raises(errors.BalanceExhausted):
        run(frame, client, schema=ticket, job="g")
    sandbox.faults = None
    before = len(sandbox.log)
    assert (run(frame.head(12), client, schema=ticket, job="g")["status"] == "done").all()
    assert len(sandbox.log) == before + 2
    assert (run(frame, client, schema=ticket, job="g")["status"] == "done").all()
    assert sandbox.log.answered_twice() == {}


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("governor_401", errors.AuthError),
        ("unknown_model", errors.ModelUnknown),
        ("balance_402", errors.BalanceExhausted),
    ],
)
def test_what_would_fail_every_row_costs_one_request(frame, client, ticket, sandbox, fault, error):
    """The first row goes alone: a wrong key, model or an empty account stops the job at once."""
    sandbox.faults = FaultScript.always(fault)
    with pytest.raises(error) as caught:
        run(frame, client, schema=ticket, job="stop")
    assert len(sandbox.log) == 1
    assert (caught.value.frame["status"] == "pending").all()
    sandbox.faults = None
    assert (run(frame, client, schema=ticket, job="stop")["status"] == "done").all()


def test_a_schema_the_model_does_not_meet_costs_two_rows(frame, client, ticket, sandbox):
    """Two leaders, two repairs each: six requests, not ninety; the rest stays pending."""
    sandbox.faults = FaultScript.always("wrong_shape_json")
    with pytest.raises(errors.SchemaMismatch, match="finished and saved") as caught:
        run(frame, client, schema=ticket, job="shape")
    assert len(sandbox.log) == 6
    assert "first 2 rows" in caught.value.hint
    assert caught.value.frame["status"].tolist().count("pending") == 36  # two prompts, each there twice


def test_an_empty_account_in_the_middle_pauses_and_resumes(frame, client, ticket, sandbox):
    """402 after some rows: what is done is in error.frame; topped up, the same call pays nothing twice."""
    sandbox.faults = FaultScript(lambda ask: Fault("balance_402") if len(sandbox.log) >= 12 else None)
    with pytest.raises(errors.BalanceExhausted, match="finished and saved") as caught:
        run(frame, client, schema=ticket, job="402")
    partial = caught.value.frame
    assert 5 <= (partial["status"] == "done").sum() < 40
    assert not (partial["status"] == "failed").any()
    sandbox.faults = None
    out = run(frame, client, schema=ticket, job="402")
    assert (out["status"] == "done").all()
    assert sandbox.log.answered_twice() == {}
    assert out["cost_usd"].sum() == pytest.approx(sandbox.log.cost_usd)


def test_a_budget_stops_the_job_before_it_is_passed(frame, client, ticket, sandbox):
    """Never above the cap; raised, the same call goes on."""
    with pytest.raises(errors.BudgetExceeded) as caught:
        run(frame, client, schema=ticket, job="b", budget_usd=0.00033, max_tokens=200)
    assert sandbox.log.cost_usd <= 0.00033  # room for some rows, at peak and off-peak prices
    done = (caught.value.frame["status"] == "done").sum()
    assert 0 < done < 40
    assert (
        run(frame, client, schema=ticket, job="b", budget_usd=1, max_tokens=200)["status"] == "done"
    ).all()
    assert sandbox.log.answered_twice() == {}


def test_one_refused_row_does_not_stop_the_others(frame, client, ticket, sandbox):
    """Moderation refuses three texts: these rows fail with the reason, the others are done."""
    refused = ("number 4 ", "number 11 ", "number 17 ")
    sandbox.faults = FaultScript.by_prompt(dict.fromkeys(refused, "content_risk"))
    out = run(frame, client, schema=ticket)
    failed = out[out["status"] == "failed"]
    assert len(failed) == 4  # number 4 is there twice
    assert failed["error"].str.contains("Content Exists Risk").all()
    assert failed["label"].isna().all(), "an error is never in an answer column"
    assert (out["status"] == "done").sum() == 36


def test_failed_rows_are_asked_again_only_when_told(frame, client, ticket, sandbox):
    """A failed row is final; ``retry_failed=True`` asks it once more."""
    sandbox.faults = FaultScript.by_prompt({"number 4 ": "content_risk"})
    run(frame, client, schema=ticket, job="r")
    sandbox.faults = None
    before = len(sandbox.log)
    assert (run(frame, client, schema=ticket, job="r")["status"] == "failed").sum() == 2
    assert len(sandbox.log) == before
    assert (run(frame, client, schema=ticket, job="r", retry_failed=True)["status"] == "done").all()
    assert len(sandbox.log) == before + 1


def test_a_server_that_gives_nothing_ends_the_patience_not_the_rows(frame, client, ticket, sandbox):
    """Only 503s: the job stops after its patience, every row pending, nothing charged, and resumes."""
    sandbox.faults = FaultScript.always("busy_503")
    with pytest.raises(errors.Busy, match="gave no answer for 1 s"):
        run(frame, client, schema=ticket, job="p", patience="1s")
    assert sandbox.log.cost_usd == 0
    sandbox.faults = None
    assert (run(frame, client, schema=ticket, job="p")["status"] == "done").all()


def test_a_job_that_stopped_sends_no_row_again(frame, tmp_path):
    """A row that is on the wire when the job stops may come back; refused, it is not sent once more."""
    asked_s = []

    class Slow(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            asked_s.append(time.monotonic())
            if len(asked_s) > 1:
                time.sleep(3)  # on the wire when the patience ends
            self.send_error(503)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = {"base_url": f"http://127.0.0.1:{server.server_address[1]}", "api_key": "any-key"}
        with Client(**settings, data_dir=tmp_path, patience_s=1.5) as client, pytest.raises(errors.Busy):
            apply(frame, "Which? {{text}}", client=client, progress=False)
        server.shutdown()
    assert len(asked_s) == 2


def test_an_outage_of_errors_costs_time_and_no_row(frame, client, ticket, sandbox):
    """Five seconds of nothing but 500s in the middle: the breaker waits it out, every row is done."""
    down: list[float] = []

    def rule(ask):
        if len(sandbox.log) < 5:
            return None
        down.append(time.monotonic())
        return Fault("html_500") if down[-1] - down[0] < 5 else None

    sandbox.faults = FaultScript(rule)
    out = run(frame, client, schema=ticket)
    assert (out["status"] == "done").all()
    assert sandbox.log.answered_twice() == {}


def test_a_host_that_is_not_there_leaves_every_row_pending(frame, tmp_path, ticket):
    """Nothing listens: the error names the address, no row is marked failed, nothing was spent."""
    with (
        Client(base_url="http://127.0.0.1:9", api_key="k" * 20, data_dir=tmp_path, max_faults=1) as nobody,
        pytest.raises(errors.NeverConnected, match=r"127\.0\.0\.1:9") as caught,
    ):
        run(frame, nobody, schema=ticket)
    assert (caught.value.frame["status"] == "pending").all()


@pytest.mark.parametrize("seed", range(3))
def test_a_mixture_of_faults_loses_no_row_and_pays_none_twice(frame, client, ticket, sandbox, seed):
    """Refusals, cuts, empties, hangs, odd answers, all at once and by chance."""
    shares = {
        "busy_503": 0.1,
        "rate_429": 0.05,
        "empty_200": 0.05,
        "cut_rst": 0.05,
        "cut_eof": 0.05,
        "hang": 0.02,
        "keepalive_then_json": 0.05,
        "reset_before_headers": 0.05,
        "insufficient_resource": 0.05,
        "bad_json_answer": 0.05,
        "spaces_json": 0.05,
        "reasoning_only": 0.03,
    }
    sandbox.faults = FaultScript.weights(shares, seed=seed, max_per_prompt=3)
    out = run(frame, client, schema=ticket, layout="inline")  # faults are drawn by the prompt's text
    assert (out["status"] == "done").all()
    assert [text.split()[1] for text in frame["text"]] == out["label"].tolist()
    assert sandbox.log.answered_twice() == {}


def test_two_processes_share_one_job(tmp_path, frame, ticket):
    """Two runs of the same job at once: every row is answered, none twice."""
    with Sandbox(first_token_s=0.03) as slow:
        settings = {
            "base_url": slow.base_url,
            "api_key": slow.api_key,
            "data_dir": tmp_path,
            "concurrency_max": 2,
        }
        outs: list[pd.DataFrame] = []

        def work() -> None:
            with Client(**settings) as client:
                outs.append(run(frame, client, schema=ticket, job="shared"))

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(outs) == 2
        assert all((out["status"] == "done").all() for out in outs)
        assert slow.log.answered_twice() == {}


def test_the_first_interrupt_returns_what_there_is(tmp_path, frame, ticket):
    """Stop: nothing more is sent, what is under way is kept, the frame says what is pending."""
    with (
        Sandbox(first_token_s=0.5) as slow,
        Client(base_url=slow.base_url, api_key=slow.api_key, data_dir=tmp_path, concurrency_max=4) as client,
    ):

        def press_stop() -> None:
            while len(slow.log.complete) < 6:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        threading.Thread(target=press_stop).start()
        started = time.monotonic()
        with pytest.warns(JobIncomplete, match="Run the same call to go on"):
            out = run(frame, client, schema=ticket, job="int")
        assert time.monotonic() - started < 5
        counts = out["status"].value_counts()
        assert counts["done"] > 0
        assert counts["pending"] > 0
        out = run(frame, client, schema=ticket, job="int")
        assert (out["status"] == "done").all()
        assert slow.log.answered_twice() == {}


def test_a_bar_shows_the_work(frame, client, ticket, capsys):
    """The progress bar is on by default and ends full."""
    apply(frame, ASK, schema=ticket, client=client, job="bar")
    shown = capsys.readouterr().err
    assert "bar" in shown
    assert "30/30" in shown


def test_a_text_that_is_cut_is_asked_again_unless_the_limit_was_the_callers(client, sandbox):
    """No half of an answer poses as one: by itself a job gives it room, or says that it was cut."""
    frame = pd.DataFrame({"a": ["word " * 3_000, "short"]})
    whole = apply(frame, "Return exactly: {{a}}", client=client, layout="inline", progress=False)
    assert whole["answer"].tolist() == [text.strip() for text in frame["a"]]
    assert whole["attempts"].tolist() == [3, 1]
    assert whole["error"].isna().all()
    cut = apply(frame, "Return exactly: {{a}}", client=client, layout="inline", max_tokens=10, progress=False)
    assert len(cut["answer"][0]) < 100
    assert cut["status"].tolist() == ["done", "done"]
    assert "cut at max_tokens" in cut["error"][0]
    assert pd.isna(cut["error"][1])
