"""structured="tool": a strict function on the beta address, with the checks and promises of JSON mode."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any, Literal

import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.batch.apply import apply
from deepseek_nb.client.schema_strict import strict_schema
from deepseek_nb.client.structured import Schema
from deepseek_nb.client.sync import Client
from deepseek_nb.core import errors
from deepseek_nb.core.chat import ChatRequest, Message
from deepseek_nb.core.wire import AnswerDecoder, request_body, request_path
from deepseek_nb.sandbox import Fault, FaultScript

LOST = "Sort this ticket: my card is lost"


class Owner(pydantic.BaseModel):
    name: str


class Ticket(pydantic.BaseModel):
    label: Literal["card", "transfer", "cash"]
    urgency: int = pydantic.Field(ge=1, le=5, description="5 is urgent")
    owner: Owner
    tags: list[str] = []


class Tree(pydantic.BaseModel):
    name: str
    children: list[Tree]


def ask(client: Client, **options: Any) -> Any:
    return client.ask(LOST, schema=Ticket, structured="tool", **options)


def test_the_body_is_one_strict_function_and_the_choice_of_it():
    form = Schema.of(Ticket).form()
    request = ChatRequest("deepseek-flash", (Message("user", LOST),), thinking=False, form=form)
    body = json.loads(request_body(request))
    assert request_path(request) == "/beta/chat/completions"
    assert request_path(request, base_path="/beta") == "/chat/completions"
    assert request_path(request, dialect="openai") == "/chat/completions"
    assert "response_format" not in body
    assert body["tool_choice"] == {"type": "function", "function": {"name": "answer"}}
    (tool,) = body["tools"]
    assert (tool["type"], tool["function"]["strict"]) == ("function", True)
    assert tool["function"]["parameters"] == {
        "type": "object",
        "properties": {
            "label": {"type": "string", "enum": ["card", "transfer", "cash"]},
            "urgency": {"type": "integer", "minimum": 1, "maximum": 5, "description": "5 is urgent"},
            "owner": {
                "type": "object",
                "properties": {"name": {"type": "string"}},
                "required": ["name"],
                "additionalProperties": False,
            },
            "tags": {"type": "array", "items": {"type": "string"}},
        },
        "required": ["label", "urgency", "owner", "tags"],
        "additionalProperties": False,
    }


def test_another_way_to_ask_is_another_question_and_json_mode_keeps_its_key():
    plain = ChatRequest("deepseek-flash", (Message("user", LOST),), json_mode=True, schema_digest="d")
    assert plain.fingerprint("r") == "r/deepseek-flash_797324bd0c47e22c06342858_990702bbe35663205f0ec5d6"
    form = Schema.of(Ticket).form()
    assert ChatRequest("deepseek-flash", plain.messages, form=form).fingerprint("r") != plain.fingerprint("r")


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "callback"])
def test_an_answer_is_the_arguments_of_the_call(client, sandbox, stream):
    """Checked like any other; the second time it comes out of the store."""
    pieces: list[str] = []
    answer = ask(client, on_delta=(lambda piece: pieces.append(piece.text)) if stream else None)
    assert answer.value.label == "card"
    assert answer.value.owner.name
    assert answer.finish_reason == "tool_calls"
    assert json.loads(answer.text)["label"] == "card"
    assert not stream or "".join(pieces) == answer.text
    (seen,) = sandbox.log
    assert seen.path == "/beta/chat/completions"
    assert (seen.completion_tokens, seen.prompt_tokens) == (
        answer.usage.completion_tokens,
        answer.usage.prompt_tokens,
    )
    assert answer.cost_usd == pytest.approx(sandbox.log.cost_usd)
    again = ask(client)
    assert (again.cached, again.value, len(sandbox.log)) == (True, answer.value, 1)


@pytest.mark.parametrize(
    "fault", ["bad_json_answer", "wrong_shape_json", "blank_json", "spaces_json", "dsml"]
)
def test_what_cannot_be_used_is_asked_for_again(client, sandbox, fault):
    """Paid, kept and counted, as in JSON mode."""
    sandbox.faults = FaultScript(
        lambda request: Fault(fault) if request.nth_try == 0 and not sandbox.log else None
    )
    answer = ask(client)
    assert answer.value.label == "card"
    assert (answer.repairs, len(sandbox.log)) == (1, 2)
    assert answer.cost_usd == pytest.approx(sandbox.log.cost_usd)


def test_cut_arguments_are_no_answer(client, sandbox):
    """``length``: asked again with more room, never parsed and guessed."""
    answer = ask(client, max_tokens=16)
    assert answer.value.label == "card"
    assert answer.repairs >= 1
    assert [seen.usable for seen in sandbox.log][:1] == [False]


@pytest.mark.parametrize("fault", ["cut_rst", "cut_eof", "busy_503", "empty_200", "hang"])
def test_a_busy_server_is_waited_out(client, sandbox, fault):
    sandbox.faults = FaultScript(lambda request: Fault(fault) if request.nth_try == 0 else None)
    assert client.ask(LOST, schema=Ticket, structured="tool").value.label == "card"


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ({"a": int | None}, "a: the type 'null'"),
        ({"a": dict[str, int]}, "a: an object with free keys"),
        ({"a": dt.date}, "a: the format 'date'"),
        ({"a": {"b": pydantic.constr(min_length=1)}}, r"a\.b: 'minLength'"),
        ({"a": pydantic.conlist(int, max_length=2)}, "a: 'maxItems'"),
        ({"a": Any}, "a: no type"),
        ({"a": tuple[int, str]}, "a: 'maxItems'"),
        ({"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}]}}}, "a: 'oneOf'"),
        ({"type": "object", "properties": {"a": True}}, "a: a schema of true"),
    ],
)
def test_what_strict_functions_do_not_support_is_refused_before_a_request(client, sandbox, shape, words):
    """In words that name the field; JSON mode takes the same schema."""
    with pytest.raises(errors.SchemaError, match=words) as caught:
        client.ask(LOST, schema=shape, structured="tool")
    assert "structured='json'" in caught.value.hint
    assert len(caught.value._render_traceback_()) <= 5
    assert len(sandbox.log) == 0


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"thinking": True}, errors.RequestInvalid, "thinks"),
        ({"reasoning_effort": "high"}, errors.RequestInvalid, "thinks"),
        ({"structured": "xml"}, errors.ConfigError, "'json' or 'tool'"),
        ({"schema": None}, errors.ConfigError, "needs a schema"),
    ],
)
def test_what_cannot_go_together_is_refused_before_a_request(client, sandbox, options, error, words):
    with pytest.raises(error, match=words):
        client.ask(LOST, **{"schema": Ticket, "structured": "tool", **options})
    assert len(sandbox.log) == 0


def test_the_address_of_v1_leads_to_no_beta(tmp_path):
    with (
        Client(base_url="https://api.deepseek.com/v1", api_key="k" * 20, data_dir=tmp_path) as real,
        pytest.raises(errors.ConfigError, match="beta"),
    ):
        real.ask(LOST, schema=Ticket, structured="tool")


def test_a_model_that_holds_itself_stays_a_reference(client):
    """The documented way: ``$def``."""
    told = strict_schema(Schema.of(Tree).json_schema)
    assert told["properties"]["children"]["items"] == {"$ref": "#/$def/Tree"} or "$def" in told
    assert client.ask("Name the tree", schema=Tree, structured="tool").value.name


@given(
    st.lists(
        st.sampled_from([str, int, float, bool, Literal["a", "b"], list[str], Owner]), min_size=1, max_size=5
    )
)
def test_what_meets_the_strict_schema_meets_the_schema(kinds):
    """Every object in it requires all fields and allows no others; told twice it is the same."""
    schema = Schema.of({f"f{number}": kind for number, kind in enumerate(kinds)})
    strict = strict_schema(schema.json_schema)
    assert strict_schema(strict) == strict
    assert strict["required"] == list(schema.columns)
    assert Schema.of(strict).columns == schema.columns


@given(st.integers(1, 40))
def test_a_call_is_read_from_any_pieces(size):
    """Deltas of a stream, cut anywhere; a second call, and what the server adds, are passed over."""
    form = Schema.of(Ticket).form()
    text = '{"label":"card","urgency":3}'
    head = b'data: {"choices":[{"index":0,"delta":%s,"finish_reason":null}]}\n\n'
    first = {
        "index": 0,
        "id": "call_00_x",
        "type": "function",
        "function": {"name": "answer", "arguments": ""},
    }
    deltas = [{"role": "assistant", "content": ""}, {"tool_calls": [first]}]
    deltas += [
        {"tool_calls": [{"index": 0, "function": {"arguments": text[at : at + 5]}}]}
        for at in range(0, len(text), 5)
    ]
    deltas.append({"tool_calls": [{"index": 1, "function": {"arguments": "second"}}]})
    stream = b"".join(head % json.dumps(delta).encode() for delta in deltas)
    stream += b'data: {"choices":[{"index":0,"delta":{"content":""},"finish_reason":"tool_calls"}]}\n\n'
    stream += b"data: [DONE]\n\n"
    decoder = AnswerDecoder(ChatRequest("m", (Message("user", "x"),), form=form))
    for at in range(0, len(stream), size):
        decoder.feed(stream[at : at + size])
    assert decoder.close().text == text


def test_a_frame_is_asked_by_functions(client, sandbox):
    """Rows, columns, repairs and the job's rules as ever; JSON mode is other work under that name."""
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"text": [f"my {kind} {n} is lost" for n in range(4) for kind in ("card", "cash")]})
    options = {"schema": Ticket, "client": client, "progress": False, "job": "t"}
    out = apply(frame, "Sort: {{text}}", structured="tool", **options)
    assert out["label"].tolist() == ["card", "cash"] * 4
    assert {seen.path for seen in sandbox.log} == {"/beta/chat/completions"}
    assert len(sandbox.log) == 8
    assert out["cost_usd"].sum() == pytest.approx(sandbox.log.cost_usd)
    apply(frame, "Sort: {{text}}", structured="tool", **options)
    assert len(sandbox.log) == 8
    with pytest.raises(errors.JobMismatch):
        apply(frame, "Sort: {{text}}", **options)
