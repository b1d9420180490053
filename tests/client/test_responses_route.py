"""structured="responses": the address that is told the schema, with the checks and promises of JSON mode."""

from __future__ import annotations

import datetime as dt
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Literal

import pydantic
import pytest

from deepseek_nb.batch.apply import apply
from deepseek_nb.batch.submit import submit
from deepseek_nb.client.routes import Route
from deepseek_nb.client.sync import Client
from deepseek_nb.core import errors
from deepseek_nb.sandbox import FAULTS, Fault, FaultScript, Sandbox
from deepseek_nb.sandbox.engine import answer as simulated

LOST = "Sort this ticket: my card is lost"
WHOLE = pytest.mark.parametrize("whole", [False, True], ids=["streamed", "whole"])
QUICK = {"silence_timeout_s": 0.5, "token_timeout_s": 0.5, "max_faults": 4}


class Owner(pydantic.BaseModel):
    name: str = pydantic.Field(min_length=1)


class Ticket(pydantic.BaseModel):
    """With a default, a null and a length, which strict functions do not take."""

    label: Literal["card", "transfer", "cash"]
    urgency: int = pydantic.Field(ge=1, le=5)
    owner: Owner | None = None
    day: dt.date


@pytest.fixture
def bodies() -> list[dict[str, Any]]:
    """What the server was sent."""
    return []


@pytest.fixture
def sandbox(bodies):
    def engine(request):
        bodies.append(request.body)
        return simulated(request)

    with Sandbox(balance_usd="10.00", count="estimate", time_scale=100, engine=engine) as running:
        yield running


@pytest.fixture
def new_client(sandbox, tmp_path):
    made = []

    def start(**settings: Any) -> Client:
        told = {"base_url": sandbox.base_url, "api_key": sandbox.api_key, "data_dir": tmp_path / "data"}
        made.append(Client(**told | {"thinking": False} | settings))
        return made[-1]

    yield start
    for client in made:
        client.close()


@pytest.fixture
def client(new_client) -> Client:
    return new_client(**QUICK)


def ask(client: Client, **options: Any) -> Any:
    return client.ask(LOST, **{"schema": Ticket, "structured": "responses", **options})


def take(client: Client, *, whole: bool, **options: Any) -> Any:
    """Asked for in events, or in one piece as rows are."""
    errand = client.aio.prepare(LOST, schema=Ticket, structured="responses", **options)
    return client.take(replace(errand, whole=errand.limits) if whole else errand)


@WHOLE
def test_an_answer_of_the_address_that_takes_a_schema(client, sandbox, bodies, whole):
    """Checked like any other; the second time it comes out of the store."""
    pieces: list[str] = []
    answer = take(client, whole=whole, on_delta=lambda piece: pieces.append(piece.text))
    assert answer.value.label == "card"
    assert answer.finish_reason == "stop"
    assert "".join(pieces) == ("" if whole else answer.text)
    (seen,) = sandbox.log
    assert (seen.path, seen.stream, seen.usable) == ("/responses", not whole, True)
    assert (seen.prompt_tokens, seen.completion_tokens, seen.cache_hit_tokens) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
        answer.usage.cache_hit_tokens,
    )
    assert not answer.usage.estimated
    assert answer.cost_usd == pytest.approx(sandbox.log.cost_usd)
    told = bodies[0]["text"]["format"]
    assert (told["type"], told["schema"]["required"]) == ("json_schema", ["label", "urgency", "day"])
    assert "instructions" not in bodies[0]
    again = ask(client)
    assert (again.cached, again.value, len(sandbox.log)) == (True, answer.value, 1)


def test_the_system_text_is_the_instructions(client, bodies):
    ask(client, system="Be brief.")
    assert bodies[0]["instructions"] == "Be brief."
    assert bodies[0]["input"] == [{"role": "user", "content": LOST}]


def test_each_way_to_ask_is_asked_for_itself(client, sandbox):
    """No answer of one way poses as that of another."""
    shape = {"label": Literal["card", "cash"]}
    for way in ("responses", "json", "tool", "responses", "json", "tool"):
        assert client.ask(LOST, schema=shape, structured=way).value.label == "card"
    assert [seen.path for seen in sandbox.log] == [
        "/responses",
        "/chat/completions",
        "/beta/chat/completions",
    ]


def test_the_model_may_think(client, sandbox, bodies):
    answer = ask(client, thinking=True, reasoning_effort="low")
    assert answer.reasoning
    assert answer.usage.reasoning_tokens > 0
    assert bodies[0]["reasoning"] == {"effort": "low"}


def test_pieces_come_as_they_are_written(client):
    pieces = list(stream := client.stream(LOST, schema=Ticket, structured="responses"))
    assert len(pieces) > 3
    assert "".join(piece.text for piece in pieces) == stream.answer.text


def test_two_equal_questions_at_once_are_one_request(client, sandbox):
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: ask(client), range(3)))
    assert len({answer.text for answer in answers}) == 1
    assert len(sandbox.log) == 1


def test_a_base_address_with_v1_leads_there_too(new_client, sandbox):
    assert ask(new_client(base_url=f"{sandbox.base_url}/v1")).value.label == "card"
    assert sandbox.log[0].path == "/v1/responses"


# ------------------------------------------------------------------------------------ what goes wrong

FINAL = {
    "content_risk": errors.ContentRefused,
    "content_filter": errors.ContentRefused,
    "balance_402": errors.BalanceExhausted,
    "governor_401": errors.AuthError,
    "unknown_model": errors.ModelUnknown,
    "reworded_models": errors.ModelUnknown,
    "reworded_422": errors.RequestInvalid,
    "reasoning_required_400": errors.RequestInvalid,
}
AT_ONCE = {
    "slow_after": Fault("slow_after", fine=0, calm=0, wait_s=20),
    "limit_falls": Fault("limit_falls", limits=(0,)),
    "keepalive_then_close": Fault("keepalive_then_close", every_s=10, close_s=30),
    "blank_200": Fault("blank_200", wait_s=10),
}
USED = frozenset({"fenced_json"})
"""Spoiled answers that can be mended and used."""


@pytest.mark.parametrize("name", FAULTS)
@WHOLE
def test_every_fault_is_survived_or_raised_and_nothing_is_paid_twice(new_client, sandbox, name, whole):
    """As on the other addresses: what is usable is used, what is broken or refused is asked again."""
    fault = AT_ONCE.get(name, Fault(name))
    sandbox.faults = FaultScript(lambda asked: fault if asked.nth_try == 0 and not sandbox.log else None)
    client = new_client(**QUICK | {"total_timeout_s": 2})
    if name in FINAL:
        with pytest.raises(FINAL[name]):
            take(client, whole=whole)
        assert len(sandbox.log) == 1
        return
    answer = take(client, whole=whole)
    assert answer.value.label == "card"
    tries = list(sandbox.log)
    if name in USED or (tries[0].usable and not tries[0].aborted):
        assert len(tries) == 1
    else:
        assert len(tries) == 2
        assert not tries[0].usable
    paid = sum(seen.cost_usd for seen in tries)
    if tries[0].complete and name not in ("usage_missing", "usage_null", "whitespace_runaway"):  # estimated
        assert answer.cost_usd == pytest.approx(paid)
    assert take(client, whole=whole).cached


@pytest.mark.parametrize(
    "fault", ["bad_json_answer", "wrong_shape_json", "blank_json", "spaces_json", "dsml"]
)
def test_what_cannot_be_used_is_asked_for_again(client, sandbox, fault):
    """Paid, kept and counted, as in JSON mode."""
    sandbox.faults = FaultScript(lambda _: Fault(fault) if not sandbox.log else None)
    answer = ask(client)
    assert answer.value.label == "card"
    assert (answer.repairs, len(answer.raw), len(sandbox.log)) == (1, 1, 2)
    assert {seen.path for seen in sandbox.log} == {"/responses"}
    assert answer.cost_usd == pytest.approx(sandbox.log.cost_usd)


def test_a_cut_answer_is_asked_for_with_more_room(client, sandbox, bodies):
    answer = ask(client, max_tokens=16)
    assert answer.value.label == "card"
    assert answer.repairs >= 1
    assert [body["max_output_tokens"] for body in bodies[:2]] == [16, 32]


def test_a_budget_holds(client, sandbox):
    """The schema in the body is weighed, too."""
    with pytest.raises(errors.BudgetExceeded):
        ask(client, budget_usd=0.0000001)
    assert len(sandbox.log) == 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"stop": "x"}, errors.RequestInvalid, "stop sequences"),
        ({"schema": None}, errors.ConfigError, "'responses' needs a schema"),
        ({"structured": "response"}, errors.ConfigError, "'responses', 'json' or 'tool'"),
        ({"schema": {"type": "object", "properties": {}}}, errors.SchemaError, "named fields"),
    ],
)
def test_what_cannot_be_asked_there_is_refused_before_a_request(client, sandbox, options, error, words):
    with pytest.raises(error, match=words) as caught:
        ask(client, **options)
    assert len(caught.value._render_traceback_()) <= 5
    assert len(sandbox.log) == 0


@pytest.mark.parametrize(
    "turn", [{"role": "assistant", "content": '{"label"', "prefix": True}, {"role": "tool", "content": "x"}]
)
def test_turns_that_have_no_place_there_are_refused(client, sandbox, turn):
    with pytest.raises(errors.RequestInvalid, match="does not take"):
        client.ask([{"role": "user", "content": LOST}, turn], schema=Ticket, structured="responses")
    assert len(sandbox.log) == 0


def test_the_beta_address_of_the_service_does_not_lead_there(tmp_path):
    with (
        Client(base_url="https://api.deepseek.com/beta", api_key="k" * 20, data_dir=tmp_path) as real,
        pytest.raises(errors.ConfigError, match="/beta does not lead"),
    ):
        ask(real)


def test_a_server_without_the_address_says_so(tmp_path):
    """Servers of before August 2026, and proxies: nothing is charged, and the hint names another way."""
    with (
        Sandbox(models_shape="july", count="estimate") as older,
        Client(
            base_url=older.base_url, api_key=older.api_key, data_dir=tmp_path, model="deepseek-v4-flash"
        ) as client,
    ):
        with pytest.raises(errors.EndpointUnknown) as caught:
            ask(client)
        assert "structured='json'" in caught.value.hint
        assert older.log.cost_usd == 0


# ------------------------------------------------------------------------------------- elsewhere


@pytest.mark.parametrize(("dialect", "path"), [("openai", "/chat/completions"), ("deepseek", "/responses")])
def test_another_server_is_asked_as_it_can_be(new_client, sandbox, dialect, path):
    """One that may have no such address gets JSON mode; its answer is checked alike, and kept as its own."""
    sandbox.faults = FaultScript.always("busy_503")
    with Sandbox(count="estimate", time_scale=100) as local:
        route = Route(
            base_url=local.base_url,
            api_key=local.api_key,
            model="deepseek-flash",
            name="local",
            dialect=dialect,
        )
        client = new_client(failover_s=0.3, fallback=[route])
        answer = ask(client, system="Be brief.")
        assert (answer.value.label, answer.route) == ("card", "local")
        assert {seen.path for seen in local.log} == {path}
        assert {seen.path for seen in sandbox.log} == {"/responses"}
        again = ask(client, system="Be brief.")
        assert (again.cached, again.route, len(local.log)) == (True, "local", 1)


# ----------------------------------------------------------------------------------------- frames


def rows(count: int = 8):
    pd = pytest.importorskip("pandas")
    return pd.DataFrame({"text": [f"my {('card', 'cash')[n % 2]} {n} is lost" for n in range(count)]})


def test_a_frame_is_asked_there(client, sandbox, bodies):
    """Rows, columns, repairs and the job's rules as ever; JSON mode is other work under that name."""
    sandbox.faults = FaultScript(
        lambda asked: Fault("wrong_shape_json") if asked.text.endswith('cash 3 is lost"}') else None
    )
    options = {"schema": Ticket, "client": client, "progress": False, "job": "t"}
    out = apply(rows(), "Sort: {{text}}", structured="responses", **options)
    assert out["label"].tolist() == ["card", "cash"] * 4
    assert {seen.path for seen in sandbox.log} == {"/responses"}
    assert len(sandbox.log) == 8 + 1
    assert out["cost_usd"].sum() == pytest.approx(sandbox.log.cost_usd)
    assert len({body["user"] for body in bodies}) == 1
    assert all(body["reasoning"] == {"effort": "none"} for body in bodies)
    apply(rows(), "Sort: {{text}}", structured="responses", **options)
    assert len(sandbox.log) == 9
    with pytest.raises(errors.JobMismatch):
        apply(rows(), "Sort: {{text}}", **options)


def test_a_busy_server_loses_no_row_and_none_is_paid_twice(client, sandbox):
    """A mixture of faults; every usable answer was the last one of its row."""
    names = ("busy_503", "cut_rst", "no_done", "error_in_stream", "empty_200", "dribble", "comments")
    sandbox.faults = FaultScript.weights(dict.fromkeys(names, 0.07), seed=3, max_per_prompt=2)
    job = submit(rows(40), "Sort: {{text}}", schema=Ticket, structured="responses", client=client, job="busy")
    out = job.result(120)
    assert out["status"].eq("done").all()
    assert out["label"].tolist() == ["card", "cash"] * 20
    usable = [seen.prompt_hash for seen in sandbox.log if seen.usable and not seen.aborted]
    assert len(usable) == len(set(usable)) == 40
    assert len(sandbox.log.faults()) > 5


def test_the_body_is_compact_json(client, bodies):
    """Whole rows of a job share what stands around them: the body is still valid, and says all of it."""
    apply(rows(3), "Sort: {{text}}", schema=Ticket, structured="responses", client=client, progress=False)
    texts = sorted(body["input"][0]["content"] for body in bodies)
    asked = [f"my {kind} {n} is lost" for kind, n in (("card", 0), ("card", 2), ("cash", 1))]
    assert [json.loads(text) for text in texts] == [{"text": text} for text in asked]
    assert all(json.dumps(body["text"]) == json.dumps(bodies[0]["text"]) for body in bodies)
