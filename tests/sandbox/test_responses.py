"""The address /responses: its events as documented, the checks and the bill of a chat, and every fault."""

from __future__ import annotations

import json
import time

import pytest
from raw_client import Heard, ask, talk

from deepseek_nb.core.chat import Answer, ChatRequest, Message
from deepseek_nb.core.errors import (
    AnswerEmpty,
    AnswerInvalid,
    AnswerTruncated,
    ContentRefused,
    DeepSeekError,
    ServerFault,
    StreamBroken,
)
from deepseek_nb.core.form import AnswerForm
from deepseek_nb.core.responses import ResponsesDecoder
from deepseek_nb.core.wire import error_from_reply
from deepseek_nb.sandbox import FAULTS, Fault, FaultScript
from deepseek_nb.sandbox.answers import AnswerHead, Bill
from deepseek_nb.sandbox.plans import plan
from deepseek_nb.sandbox.refusals import REFUSALS
from deepseek_nb.sandbox.response_events import ResponsesWork
from deepseek_nb.sandbox.spoil import Draft

SCHEMA = {
    "type": "object",
    "properties": {"risk": {"enum": ["low", "high"]}, "why": {"type": "string"}},
    "required": ["risk", "why"],
}
FORMAT = {"type": "json_schema", "name": "answer", "schema": SCHEMA}
BODY = {
    "model": "deepseek-flash",
    "input": "The risk is high, because the bridge is old.",
    "text": {"format": FORMAT},
    "reasoning": {"effort": "none"},
}
HEAD = AnswerHead("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", 1784792400, "deepseek-v4-flash")
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
AT_ONCE = {
    "slow_after": Fault("slow_after", fine=0, calm=0),
    "limit_falls": Fault("limit_falls", limits=(0,)),
}


def respond(sandbox, *, path="/responses", wait_s=5.0, **fields) -> Heard:
    body = {name: value for name, value in {**BODY, **fields}.items() if value is not None}
    return talk(sandbox, body, path=path, wait_s=wait_s)


def events(body: bytes) -> list[dict]:
    """All events; each names its type twice."""
    found = []
    for block in body.decode().strip("\n").split("\n\n"):
        if block.startswith(":"):
            continue
        named, told = block.split("\n")
        found.append(json.loads(told.removeprefix("data: ")))
        assert named == f"event: {found[-1]['type']}"
    return found


def read(heard: Heard) -> Answer:
    """As a client reads it: raises what a client raises."""
    if heard.status != 200:
        raise error_from_reply(heard.status, heard.body, heard.headers)
    form = AnswerForm("answer", json.dumps(SCHEMA), "responses")
    decoder = ResponsesDecoder(ChatRequest("deepseek-flash", (Message("user", "x"),), form=form))
    decoder.feed(heard.body)
    return decoder.close()


def last(sandbox):
    """The last request's record, once it has ended."""
    ends = time.monotonic() + 2
    while not len(sandbox.log) and time.monotonic() < ends:
        time.sleep(0.002)
    return sandbox.log[-1]


# ------------------------------------------------------------------------------- what is sent


def test_the_events_of_an_answer_in_their_order():
    """Numbered without a gap, with no [DONE]: the last one is the response."""
    work = ResponsesWork(HEAD, Draft(("OK", "."), ("hm",)), Bill(8, 0, 3, 1), stream=True)
    body = b"".join(step.data for step in plan(work).steps)
    told = events(body)
    assert [event["type"].removeprefix("response.") for event in told] == [
        "created",
        "in_progress",
        "output_item.added",
        "reasoning_text.delta",
        "output_item.done",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert b"[DONE]" not in body
    response = told[-1]["response"]
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output"][1]["content"] == [{"type": "output_text", "text": "OK.", "annotations": []}]
    assert response["usage"] == {
        "input_tokens": 8,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 1},
        "total_tokens": 11,
    }
    whole = ResponsesWork(HEAD, Draft(("OK", "."), ("hm",)), Bill(8, 0, 3, 1), stream=False)
    assert json.loads(b"".join(step.data for step in plan(whole).steps if hasattr(step, "data"))) == response


@pytest.mark.parametrize(
    ("finish_reason", "status", "details"),
    [
        ("stop", "completed", None),
        ("length", "incomplete", {"reason": "max_output_tokens"}),
        ("content_filter", "incomplete", {"reason": "content_filter"}),
        ("aborted", "failed", None),
    ],
)
def test_each_end_has_its_status(finish_reason, status, details):
    work = ResponsesWork(HEAD, Draft(("O",), None, finish_reason), Bill(8, 0, 1), stream=True)
    told = events(b"".join(step.data for step in plan(work).steps))[-1]
    assert (told["type"], told["response"]["status"]) == (f"response.{status}", status)
    assert told["response"]["incomplete_details"] == details
    assert (told["response"]["error"] is not None) == (status == "failed")


@pytest.mark.parametrize("path", ["/responses", "/v1/responses"])
@BOTH
def test_the_schema_is_filled_and_the_bill_is_that_of_a_chat(sandbox, path, stream):
    heard = respond(sandbox, path=path, stream=stream)
    answer = read(heard)
    assert json.loads(answer.text)["risk"] == "high"
    assert heard.headers["content-type"].startswith("text/event-stream" if stream else "application/json")
    record = last(sandbox)
    assert (record.path, record.stream, record.usable) == (path, stream, True)
    assert (record.prompt_tokens, record.completion_tokens) == (
        answer.usage.prompt_tokens,
        answer.usage.completion_tokens,
    )
    assert record.cost_usd > 0


def test_the_schema_is_part_of_the_prompt(sandbox):
    with_schema = read(respond(sandbox)).usage.prompt_tokens
    assert with_schema > read(respond(sandbox, text=None)).usage.prompt_tokens + 20


def test_the_prefix_cache_is_the_chats(sandbox):
    told = {"instructions": "Mind every word of it. " * 60, "user": "job"}
    first, again = (read(respond(sandbox, **told)).usage.cache_hit_tokens for _ in range(2))
    assert (first, again > 128) == (0, True)
    assert last(sandbox).user_id == "job"
    assert read(respond(sandbox, **{**told, "user": "other"})).usage.cache_hit_tokens == 0


def test_thinking_is_on_unless_it_is_switched_off(sandbox):
    for effort, thinks in ((None, True), ("low", True), ("none", False)):
        told = None if effort is None else {"effort": effort}
        answer = read(respond(sandbox, reasoning=told, stream=True))
        assert bool(answer.reasoning) == bool(answer.usage.reasoning_tokens) == thinks


def test_what_is_not_documented_is_silently_ignored(sandbox):
    """A stop that would cut, a wrong store, a name of nothing."""
    plain = read(respond(sandbox)).text
    unknown = {"stop": ['"'], "store": 7, "metadata": [], "previous_response_id": "x", "max_tokens": -1}
    assert read(respond(sandbox, **unknown)).text == plain


def test_text_and_json_mode_are_formats_too(sandbox):
    text = respond(sandbox, input="Return exactly: OK", text={"format": {"type": "text"}})
    assert read(text).text == "OK"
    mode = respond(sandbox, input="json please", text={"format": {"type": "json_object"}})
    assert json.loads(read(mode).text)


def test_input_may_be_a_list_of_turns_with_parts(sandbox):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Return exactly: A"}]},
    ]
    assert read(respond(sandbox, input=turns, text=None)).text == "A"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model": None}, "model"),
        ({"model": "nova"}, "The supported API model names"),
        ({"input": None}, "input"),
        ({"input": []}, "Empty input"),
        ({"input": 5}, "input"),
        ({"input": [{"role": "developer", "content": "x"}]}, "input[0]"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "input[0]"),
        ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
        ({"instructions": []}, "instructions"),
        ({"stream": "yes"}, "stream"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"max_output_tokens": 0}, "max_tokens"),
        ({"reasoning": {"effort": "much"}}, "much"),
        ({"reasoning": "high"}, "reasoning"),
        ({"text": {"format": {"type": "xml"}}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "a"}}}, "schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "name"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)
def test_what_is_wrong_is_refused_and_costs_nothing(sandbox, fields, words):
    heard = respond(sandbox, **fields)
    assert heard.status == 400
    assert words in heard.message
    assert sandbox.log.cost_usd == 0


def test_keys_bodies_and_types_are_checked_as_everywhere(sandbox):
    assert talk(sandbox, BODY, path="/responses", key="x").status == 401
    assert talk(sandbox, BODY, path="/responses", content_type="text/plain").status == 415
    assert talk(sandbox, b"{", path="/responses").status == 400
    assert talk(sandbox, method="GET", path="/responses").status == 405


def test_before_august_2026_there_was_no_such_address(make):
    heard = respond(make(models_shape="july"))
    assert (heard.status, heard.body) == (404, b"")


# ------------------------------------------------------------------------------------ faults

BROKEN = {
    "reasoning_only": (AnswerEmpty,),
    "blank_json": (AnswerEmpty,),
    "spaces_json": (AnswerEmpty,),
    "whitespace_runaway": (AnswerTruncated, AnswerEmpty),
    "length_cut": (AnswerTruncated,),
    "reasoning_length": (AnswerTruncated,),
    "content_filter": (ContentRefused,),
    "dsml": (AnswerInvalid,),
    "html_200": (ServerFault,),
    "error_in_200": (ServerFault,),
    "error_in_stream": (StreamBroken, ServerFault),
    "error_beside_answer": (StreamBroken,),
}
"""What a client makes of a fault under a 200; of all others a broken answer, or none."""
MISSHAPEN = ("bad_json_answer", "fenced_json", "wrong_shape_json")
"""Answers that are whole on the wire: what is wrong with them, the schema finds."""


@pytest.mark.parametrize("name", FAULTS)
@BOTH
def test_every_fault_plays_here_too(make, name, stream):
    """A client sees what its name says; it is charged and recorded as the table says; the next one passes."""
    sandbox = make(faults=FaultScript.of(AT_ONCE.get(name, Fault(name))), time_scale=1000.0)
    heard = respond(sandbox, stream=stream, wait_s=0.3 if "hang" in name or "stall" in name else 5.0)
    spec, record = FAULTS[name], last(sandbox)
    if heard.ending == "silent":
        assert name in ("hang", "stall", "stall_with_comments", "bimodal_hang")
    elif not heard.raw:
        assert not spec.usable
    elif spec.usable or name in MISSHAPEN:
        answer = read(heard)
        assert name in MISSHAPEN or json.loads(answer.text)["risk"] == "high"
        assert answer.usage.estimated == (name in ("usage_missing", "usage_null"))
        assert record.complete
    else:
        with pytest.raises(DeepSeekError) as caught:
            read(heard)
        if heard.status == 200:
            assert isinstance(caught.value, BROKEN.get(name, (StreamBroken,)))
        assert (heard.status != 200) == (name in REFUSALS and name != "html_200")
    assert record.fault == name
    assert record.usable == (spec.usable and record.complete)
    assert not (spec.charged == "no" and record.cost_usd)
    assert json.loads(read(respond(sandbox)).text)["risk"] == "high"


@pytest.mark.parametrize(
    "name", ["length_cut", "content_filter", "whitespace_runaway", "dsml", "fenced_json"]
)
def test_a_spoiled_answer_is_billed_as_a_chats_would_be(make, name):
    """The same prompt and the same fault on both addresses: only the prompt of the bill differs."""
    told = f"Answer with one JSON object that fits this JSON Schema: {json.dumps(SCHEMA)}"
    messages = [{"role": "system", "content": told}, {"role": "user", "content": BODY["input"]}]
    sandbox = make(faults=FaultScript.always(name))
    chat = ask(sandbox, messages=messages, response_format={"type": "json_object"}).json["usage"]
    here = respond(sandbox).json["usage"]
    assert here["output_tokens"] == chat["completion_tokens"]
    first, second = sandbox.log
    assert (first.fault, first.usable) == (second.fault, second.usable)


@pytest.mark.parametrize("name", ["no_done", "done_unclosed"])
def test_only_the_last_event_makes_an_answer(make, name):
    """Everything but its end is there."""
    sandbox = make(faults=FaultScript.of(name))
    heard = respond(sandbox, stream=True)
    assert b"response.output_text.done" in heard.body
    assert (b"response.completed" in heard.body) == (name == "done_unclosed")
    with pytest.raises(StreamBroken, match="last event"):
        read(heard)
    assert not last(sandbox).usable
