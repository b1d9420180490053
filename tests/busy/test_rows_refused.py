"""Rows 1, 2, 20 to 23, 26, 27: the server says no at once."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from deepseek_nb.core import errors
from deepseek_nb.core.errors import Disposition
from deepseek_nb.core.wire import error_from_reply
from deepseek_nb.sandbox import Fault, FaultScript, Sandbox

# ------------------------------------------------------------------------------------------- row 1


def test_row_01_busy_is_waited_out_and_costs_nothing(talk):
    """Three 503s, then the answer: one try, three refusals, only the answer is paid, no wait over its cap."""
    got = talk.ask(*["busy_503"] * 3, priority=2)
    assert (got.answer.attempts, got.answer.refusals) == (1, 3)
    assert all(isinstance(event.error, errors.Overloaded) for event in got.waits)
    assert all(0 <= event.wait_s <= 0.5 * 2**n for n, event in enumerate(got.waits))
    assert got.answer.cost_usd == pytest.approx(sum(record.cost_usd for record in got.log))
    assert got.budget.unknown_usd == 0


def test_row_01_a_sane_retry_after_is_honoured(talk):
    """The server names a time: the next try is not before it."""
    got = talk.ask(Fault("busy_503", retry_after_s=0.7))
    assert got.waits[0].wait_s >= 0.7
    assert got.log[1].arrived_s - got.log[0].ended_s >= 0.7 * 100 * 0.99


def test_row_01_all_rows_share_one_breaker(work):
    """Down for five seconds in mid-job: after the breaker opens only probes go out, and no row fails."""
    job = work(rows=60, first_token_s=2)
    down: list[float] = []

    def rule(_):
        if len(job.sandbox.log) < 20:
            return None
        down.append(time.monotonic())
        return Fault("busy_503") if down[-1] - down[0] < 5 else None

    job.misbehave(rule)
    with job.client(concurrency_max=16) as client:
        out = job.run(client)
    assert (out["status"] == "done").all()
    assert (out["attempts"] == 1).all()
    late = [at_s - down[0] for at_s in down if 4 < at_s - down[0] < 5]
    assert len(late) <= 4, "without a breaker sixteen rows would knock in this second"


# ------------------------------------------------------------------------------------------- row 2


def test_row_02_the_number_in_a_429_is_read_and_nothing_is_charged(talk):
    """The limit it names is on the error; the try does not count."""
    got = talk.ask(Fault("rate_429", limit=7), Fault("rate_429", limit=5))
    assert [event.error.limit for event in got.waits] == [7, 5]
    assert (got.answer.attempts, got.answer.refusals) == (1, 2)
    assert got.budget.unknown_usd == 0


def test_row_02_a_job_shrinks_with_a_falling_limit_and_no_row_fails(work):
    """From 40 places to 10 to 4 in mid-job: after each fall few are refused, every row is answered once."""
    job = work(rows=160, first_token_s=10)
    job.misbehave(Fault("limit_falls", limits=(40, 10, 4), every=50))
    with job.client(concurrency_start=32) as client:
        out = job.run(client)
    assert (out["status"] == "done").all()
    assert (out["attempts"] == 1).all()
    refused = [record for record in job.sandbox.log if record.status == 429]
    assert refused
    assert len(refused) <= 80  # what was in flight at each fall, and a probe now and then
    last = max(record.index for record in job.sandbox.log)
    assert sum(record.index > last - 40 for record in refused) <= 15


def test_row_02_a_real_limit_that_falls_with_the_balance(work):
    """The sandbox's own rule: the balance runs low, the limit goes from 200 to 5, the job goes on."""
    job = work(rows=80, first_token_s=5)
    fallen: list[bool] = []

    def rule(_):
        if not fallen and len(job.sandbox.log) >= 30:
            fallen.append(True)
            job.sandbox.balance_usd = "0.04"

    job.misbehave(rule)
    with job.client(concurrency_start=16) as client:
        out = job.run(client)
    assert (out["status"] == "done").all()
    assert (out["attempts"] == 1).all()
    assert 0 < sum(record.status == 429 for record in job.sandbox.log) <= 60


# ------------------------------------------------------------------------------------------ row 20


@pytest.mark.parametrize("older", [False, True])
def test_row_20_missing_reasoning_is_told_once_and_not_retried(older, talk):
    """A 400 about reasoning_content, in either wording: one request, the right class, a hint what to send."""
    got = talk.ask(Fault("reasoning_required_400", older=older))
    assert type(got.error) is errors.RequestInvalid
    assert got.error.disposition is Disposition.FINAL
    assert "reasoning_content" in got.error.hint
    assert len(got.log) == 1


def test_row_20_a_chat_echoes_its_reasoning(talk):
    """An earlier answer goes back with its reasoning, and a server that insists on it takes the chat."""
    insists = Fault("reasoning_required_400", unless_echoed=True)
    first = talk.ask(always=insists, thinking=True)
    assert first.answer.reasoning
    turns = [
        {"role": "user", "content": "Return exactly: one"},
        {"role": "assistant", "content": first.text, "reasoning_content": first.answer.reasoning},
        {"role": "user", "content": "Return exactly: two"},
    ]
    second = talk.ask(always=insists, prompt=turns, thinking=True)
    assert second.text == "two"
    assert second.bodies[-1]["messages"][1]["reasoning_content"] == first.answer.reasoning
    del turns[1]["reasoning_content"]
    assert isinstance(talk.ask(always=insists, prompt=turns, thinking=True).error, errors.RequestInvalid)


# ------------------------------------------------------------------------------------------ row 21


@pytest.mark.parametrize(
    ("fault", "refused"), [("content_risk", 0), ("content_risk", 13), ("content_filter", 13)]
)
def test_row_21_a_refused_text_fails_its_row_once(fault, refused, work):
    """Moderation refuses one row, the first or a later one: sent once, failed, the others are done."""
    job = work(rows=30)
    job.misbehave(FaultScript.by_prompt({f"ticket {refused}:": [fault] * 5}))
    with job.client() as client:
        out = job.run(client)
        assert job.error is None
        assert out["status"].tolist().count("failed") == 1
        assert out["error"].iloc[refused].startswith("ContentRefused")
        job.run(client)
    assert len(job.by_row()[refused]) == 1, "not even the next run of the job asks it again"
    assert len(job.sandbox.log) == 30


# ------------------------------------------------------------------------------------------ row 22


def test_row_22_an_empty_account_pauses_and_a_top_up_goes_on_without_paying_twice(work):
    """The balance really runs out in mid-job; topped up, the same call asks only for what is left."""
    job = work(rows=60, balance_usd="0.0004", first_token_s=2)
    with job.client() as client:
        out = job.run(client)
        assert isinstance(job.error, errors.BalanceExhausted)
        assert "Top up" in job.error.hint
        before = (out["status"] == "done").sum()
        assert 0 < before < 60
        assert (out["status"] == "pending").sum() == 60 - before
        job.sandbox.balance_usd = "10"
        out = job.run(client)
    assert (out["status"] == "done").all()
    assert job.sandbox.log.answered_twice() == {}
    assert out["cost_usd"].sum() == pytest.approx(job.sandbox.log.cost_usd)


def test_row_22_one_402_stops_all_rows(work):
    """A single 402 says it for all: nothing new is sent after it, what is under way comes in."""
    job = work(rows=60, first_token_s=5)
    job.misbehave(lambda ask: Fault("balance_402") if ask.index == 25 else None)
    with job.client(concurrency_max=8) as client:
        out = job.run(client)
        assert isinstance(job.error, errors.BalanceExhausted)
        assert len(job.sandbox.log) <= 25 + 8
        assert not (out["status"] == "failed").any()
        assert (job.run(client)["status"] == "done").all()
    assert job.sandbox.log.answered_twice() == {}


# ------------------------------------------------------------------------------------------ row 23


def test_row_23_a_plain_text_401_is_a_readable_message(talk):
    """No JSON, no content type: one request, what the server said, what to do, no traceback."""
    got = talk.ask("governor_401")
    assert isinstance(got.error, errors.AuthError)
    assert "Authentication Fails (governor)" in got.error.message
    assert "DEEPSEEK_API_KEY" in got.error.hint
    assert not any("Traceback" in line or "File " in line for line in got.error._render_traceback_())
    assert len(got.log) == 1


def test_row_23_a_key_that_dies_in_mid_job_pauses_it(work):
    """401 after some rows: everything is kept, no row has failed, with a good key the same call goes on."""
    job = work(rows=60, first_token_s=2)
    dead = [False]

    def rule(ask):
        dead[0] = dead[0] or ask.index == 20
        return Fault("governor_401") if dead[0] else None

    job.misbehave(rule)
    with job.client() as client:
        out = job.run(client)
        assert isinstance(job.error, errors.AuthError)
        assert (out["status"] == "done").any()
        assert set(out["status"]) == {"done", "pending"}
        job.misbehave(None)
        assert (job.run(client)["status"] == "done").all()
    assert job.sandbox.log.answered_twice() == {}


# ------------------------------------------------------------------------------------------ row 26


@pytest.mark.parametrize("fault", ["unknown_model", "reworded_models"])
def test_row_26_a_renamed_model_costs_one_request_and_shows_the_names(fault, work):
    """The first row finds out; the job pauses with the names the server offers; later it goes on."""
    job = work(rows=30)
    job.misbehave(fault)
    with job.client() as client:
        out = job.run(client)
        error = job.error
        assert isinstance(error, errors.ModelUnknown)
        assert "deepseek-nova" in error.message
        assert "deepseek-v5-pro" in error.message
        assert "deepseek-nb models" in error.hint
        assert len(job.sandbox.log) == 1
        assert (out["status"] == "pending").all()
        job.misbehave(None)
        assert (job.run(client)["status"] == "done").all()


def test_row_26_a_model_that_vanishes_in_mid_job_pauses_it(work):
    """The rename comes after some rows: what is done stays, nothing failed, nothing is paid twice."""
    job = work(rows=60, first_token_s=2)
    job.misbehave(lambda ask: Fault("unknown_model") if ask.index >= 20 else None)
    with job.client() as client:
        out = job.run(client)
        assert isinstance(job.error, errors.ModelUnknown)
        assert (out["status"] == "done").sum() >= 1
        assert set(out["status"]) == {"done", "pending"}
        job.misbehave(None)
        assert (job.run(client)["status"] == "done").all()
    assert job.sandbox.log.answered_twice() == {}


# ------------------------------------------------------------------------------------------ row 27


def test_row_27_a_request_id_in_the_message_changes_nothing(talk):
    """A 503 with an id appended is a 503; with ids in all errors, the sandbox's own 400 keeps its class."""
    got = talk.ask("reworded_request_id")
    assert isinstance(got.waits[0].error, errors.Overloaded)
    assert "request_id" not in got.waits[0].error.message
    with Sandbox(request_id_suffix=True, engine=talk.heard) as server:
        got = talk.ask(sandbox=server, model="deepseek-nope")
    assert isinstance(got.error, errors.ModelUnknown)


@pytest.mark.parametrize(
    ("fault", "error", "sends"),
    [
        (Fault("reworded_422"), errors.RequestInvalid, 1),
        (Fault("reworded_models"), errors.ModelUnknown, 1),
        (Fault("reworded_status", status=418), errors.RequestInvalid, 1),
        (Fault("reworded_status", status=451), errors.RequestInvalid, 1),
        (Fault("reworded_status", status=529), errors.ServerFault, 3),
        (Fault("reworded_status", status=599), errors.ServerFault, 3),
    ],
    ids=str,
)
def test_row_27_an_unknown_4xx_is_final_and_an_unknown_5xx_is_busy(fault, error, sends, talk):
    """What nobody has announced is told by its hundred."""
    got = talk.ask(always=fault, settings={"max_faults": 2}, policy=None)
    assert isinstance(got.error, error)
    assert len(got.log) == sends


def test_row_27_an_unknown_4xx_fails_one_row_and_no_other(work):
    """In a job it is this row's error."""
    job = work(rows=20)
    job.misbehave(FaultScript.by_prompt({"ticket 7:": [Fault("reworded_status", status=418)] * 3}))
    with job.client() as client:
        out = job.run(client)
    assert out["status"].tolist().count("failed") == 1
    assert len(job.by_row()[7]) == 1


SAID = st.sampled_from(
    [
        "Service is too busy.",
        "Too many requests. Your current concurrency is 26, which exceeds your concurrency limit of 25",
        "Content Exists Risk",
        "Authentication Fails (governor)",
        "The supported API model names are a or b, but you passed c.",
        "Something new",
        "",
    ]
)
WRAPS = {
    "envelope": '{{"error":{{"message":"{}","type":"t","param":null,"code":"c"}}}}',
    "plain": "{}",
    "page": "<html><head><title>{}</title></head><body>x</body></html>",
}
BY_STATUS = {
    401: errors.AuthError,
    402: errors.BalanceExhausted,
    404: errors.EndpointUnknown,
    405: errors.EndpointUnknown,
    408: errors.ServerFault,
    429: errors.RateLimited,
    500: errors.ServerFault,
    503: errors.Overloaded,
}


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    status=st.integers(400, 599),
    said=SAID,
    wrap=st.sampled_from(sorted(WRAPS)),
    case=st.sampled_from([str, str.lower, str.upper, str.title]),
    before=st.sampled_from(["", "Error: ", " \n"]),
    suffix=st.sampled_from(["", " (request_id: 0f1e-22)", "."]),
    content_type=st.sampled_from(["", "application/json", "text/html", "text/event-stream", "image/png"]),
)
@example(403, "", "page", str, "", "", "")
def test_row_27_status_decides_and_wording_does_not(status, said, wrap, case, before, suffix, content_type):
    """Suffix, case, words before, envelope, content type: the class is the status's, 400s apart."""
    body = WRAPS[wrap].format(before + case(said) + suffix).encode()
    error = error_from_reply(status, body, {"content-type": content_type} if content_type else None)
    assert type(error) is type(error_from_reply(status, body))
    if status in BY_STATUS:
        assert type(error) is BY_STATUS[status]
    elif status == 403:
        assert type(error) is (errors.ServerFault if wrap == "page" else errors.AuthError)
    elif status >= 500:
        assert type(error) is errors.ServerFault
    else:
        assert isinstance(error, errors.RequestInvalid)
        assert not error.retryable


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    status=st.sampled_from([400, 413, 422, 451]),
    wrap=st.sampled_from(["envelope", "plain"]),
    case=st.sampled_from([str, str.lower, str.upper]),
    suffix=st.text(st.characters(codec="ascii", exclude_characters='"\\{}', exclude_categories=["C"])),
)
def test_row_27_among_400s_the_first_words_decide(status, wrap, case, suffix):
    """Whatever follows the known beginning, in any case: the class stays."""
    for said, kind in (
        ("Content Exists Risk", errors.ContentRefused),
        ("This model's maximum context length", errors.ContextTooLong),
        ("The supported API model names are", errors.ModelUnknown),
        ("Failed to deserialize the JSON body", errors.RequestInvalid),
    ):
        assert type(error_from_reply(status, WRAPS[wrap].format(case(said) + suffix).encode())) is kind
