"""The address /responses: its body, and its events and answers read like a chat's, however they are cut."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_nb.core.chat import ChatRequest, Message, Usage
from deepseek_nb.core.errors import (
    AnswerEmpty,
    AnswerInvalid,
    AnswerTruncated,
    BalanceExhausted,
    ContentRefused,
    DeepSeekError,
    Overloaded,
    RateLimited,
    RequestInvalid,
    ServerFault,
    StreamBroken,
)
from deepseek_nb.core.form import AnswerForm
from deepseek_nb.core.responses import (
    ResponsesDecoder,
    in_json_mode,
    refuse_what_responses_lack,
    responses_body,
)
from deepseek_nb.core.wire import usage_from

SCHEMA = {"type": "object", "properties": {"a": {"type": ["integer", "null"]}}, "required": ["a"]}
FORM = AnswerForm("answer", json.dumps(SCHEMA, separators=(",", ":")), "responses")
REQUEST = ChatRequest("deepseek-flash", (Message("user", "hello"),), form=FORM)
SYSTEM = (Message("system", "s"), Message("system", "t"))
USAGE = {
    "input_tokens": 8,
    "input_tokens_details": {"cached_tokens": 3},
    "output_tokens": 5,
    "output_tokens_details": {"reasoning_tokens": 2},
    "total_tokens": 13,
}
CUT = {"incomplete_details": {"reason": "max_output_tokens"}}


def event(kind, **fields) -> bytes:
    told = json.dumps({"type": kind, **fields}, ensure_ascii=False)
    return f"event: {kind}\ndata: {told}\n\n".encode()


def delta(text, kind="response.output_text.delta") -> bytes:
    return event(kind, delta=text, sequence_number=1)


def item(text) -> dict:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def response(*texts, status="completed", usage=USAGE, **more) -> dict:
    output = [item("".join(texts))]
    return {
        "object": "response",
        "status": status,
        "model": "served",
        "output": output,
        "usage": usage,
        **more,
    }


def stream(*texts, status="completed", end=True, **more) -> bytes:
    parts = [event("response.created", response={"status": "in_progress", "model": "served", "output": []})]
    parts += [delta(text) for text in texts]
    if end:
        parts.append(event(f"response.{status}", response=response(*texts, status=status, **more)))
    return b"".join(parts)


def whole(*texts, **more) -> bytes:
    return json.dumps(response(*texts, **more)).encode()


def read(body: bytes, size: int | None = None, request: ChatRequest = REQUEST):
    decoder = ResponsesDecoder(request)
    deltas = []
    for start in range(0, len(body), size or max(1, len(body))):
        deltas += decoder.feed(body[start : start + (size or len(body))])
    return decoder.close(), deltas, decoder


# ------------------------------------------------------------------------------------ the body


def test_the_body_has_the_documented_fields_and_no_others():
    request = ChatRequest(
        "m",
        (*SYSTEM, Message("user", "u"), Message("assistant", "a", "r"), Message("user", "v")),
        thinking=False,
        max_tokens=5,
        temperature=0.0,
        top_p=0.5,
        user_id="job",
        form=FORM,
    )
    assert json.loads(responses_body(request)) == {
        "model": "m",
        "instructions": "s\n\nt",
        "input": [
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "v"},
        ],
        "text": {"format": {"type": "json_schema", "name": "answer", "schema": SCHEMA}},
        "reasoning": {"effort": "none"},
        "max_output_tokens": 5,
        "temperature": 0.0,
        "top_p": 0.5,
        "user": "job",
        "stream": True,
    }


def test_nothing_is_sent_that_was_not_asked_for():
    body = json.loads(responses_body(REQUEST, stream=False))
    assert body.keys() == {"model", "input", "text"}
    assert responses_body(REQUEST).startswith(b'{"model":"deepseek-flash","input":[{"role":"user"')


@pytest.mark.parametrize(
    ("thinking", "effort", "sent"),
    [
        (None, None, None),
        (False, None, "none"),
        (True, None, "high"),
        (True, "max", "max"),
        (None, "low", "low"),
        (False, "max", "none"),
    ],
)
def test_thinking_is_told_as_an_effort(thinking, effort, sent):
    request = ChatRequest("m", REQUEST.messages, thinking=thinking, reasoning_effort=effort, form=FORM)
    assert json.loads(responses_body(request)).get("reasoning") == (sent and {"effort": sent})


def test_numbers_that_are_equal_are_written_as_they_are():
    """What stands around a row is kept for the next one, and 1 is not 1.0."""
    written = [responses_body(ChatRequest("m", REQUEST.messages, temperature=t, form=FORM)) for t in (1, 1.0)]
    assert [b'"temperature":1.0' in body for body in written] == [False, True]


@given(st.text(), st.text())
def test_any_text_is_sent_as_it_is(system, text):
    messages = (Message("system", system), Message("user", text))
    body = json.loads(responses_body(ChatRequest("m", messages, form=FORM)))
    assert body["instructions"] == system
    assert body["input"][-1]["content"] == text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stop": ("x",)}, "stop sequences"),
        ({"messages": (Message("user", "u"), Message("assistant", "a", prefix=True))}, "prefix"),
        ({"messages": (Message("user", "u"), Message("tool", "a"))}, "'tool'"),
    ],
)
def test_what_the_address_would_leave_out_is_refused(changes, words):
    refuse_what_responses_lack(REQUEST)
    with pytest.raises(RequestInvalid, match=words):
        refuse_what_responses_lack(ChatRequest(**{"model": "m", "messages": REQUEST.messages, **changes}))


def test_each_way_to_ask_is_a_question_of_its_own():
    tool = ChatRequest("m", REQUEST.messages, form=AnswerForm("answer", FORM.schema_json))
    way = ChatRequest("m", REQUEST.messages, form=FORM)
    keys = {request.fingerprint("r") for request in (tool, way, in_json_mode(way))}
    assert len(keys) == 3
    assert (tool.over_responses, way.over_responses, in_json_mode(way).over_responses) == (False, True, False)


@pytest.mark.parametrize("system", [(), (Message("system", "Be brief."),)])
def test_in_json_mode_the_schema_stands_in_the_system_message(system):
    asked = in_json_mode(ChatRequest("m", (*system, Message("user", "hello")), form=FORM))
    first, last = asked.messages
    assert (first.role, last.content, asked.json_mode) == ("system", "hello", True)
    assert FORM.schema_json in first.content
    assert first.content.startswith("Be brief.\n\n" if system else "Answer with")
    assert in_json_mode(asked) is asked


# ------------------------------------------------------------------------------------ the answer


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, None])
def test_a_stream_reads_the_same_however_it_is_cut(size):
    body = b": keep-alive\n\n" * 2 + stream('{"a":"Grüße', ', 世界"}')
    answer, deltas, decoder = read(body, size)
    assert answer.text == '{"a":"Grüße, 世界"}' == "".join(piece.text for piece in deltas)
    assert answer.usage == Usage(8, 5, 3, 2)
    assert (answer.model, answer.finish_reason, decoder.alive, decoder.done) == ("served", "stop", 2, True)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=8), size=st.integers(1, 60))
def test_any_texts_come_out_as_they_went_in(texts, size):
    """Blank ones are no answer; the whole of it reads as the stream does."""
    try:
        streamed, deltas, _ = read(stream(*texts), size)
    except AnswerEmpty:
        assert not "".join(texts).strip()
        return
    assert streamed.text == "".join(texts) == "".join(piece.text for piece in deltas)
    assert read(whole(*texts), size)[0] == streamed


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=8), cut=st.integers(0, 10_000))
def test_what_is_cut_anywhere_is_never_an_answer(texts, cut):
    for body in (stream(*texts), whole(*texts)):
        with pytest.raises(DeepSeekError):
            read(body[: cut % len(body)])


PIECES = [
    b"data: ",
    b"event: response.completed\n",
    b"\n",
    b"\n\n",
    b": c\n",
    b"data: [DONE]\n\n",
    b"<html>",
    b"{",
    b"\xff",
    delta("x"),
    stream("{}"),
    event("response.completed", response={"output": None}),
    event("response.failed", response={"error": 5}),
    event("response.incomplete", response={"incomplete_details": [], "output": [1, {"content": [2, {}]}]}),
    event("response.completed", response=[]),
    event("error", message=7),
    event("response.output_text.delta", delta=None),
    b'data: {"type":[]}\n\n',
    b'data: {"type":{},"response":{}}\n\n',
]


@settings(max_examples=400, deadline=None)
@given(
    parts=st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=20)), max_size=12),
    size=st.integers(1, 40),
)
def test_any_bytes_end_in_an_answer_or_in_one_of_our_errors(parts, size):
    try:
        answer, _, _ = read(b"".join(parts), size)
    except DeepSeekError:
        return
    assert answer.text.strip()


values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["type", "text", "content", "summary", "output", "usage", "error", "status", "response"]
            ),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(told=values, kind=st.sampled_from(["response.completed", "response.failed", "error", "x"]))
def test_json_of_any_shape_ends_in_an_answer_or_in_one_of_our_errors(told, kind):
    for body in (event(kind, response=told), json.dumps(told).encode()):
        try:
            assert read(body)[0].text.strip()
        except DeepSeekError:
            continue


@pytest.mark.parametrize("name", ["response.reasoning_text.delta", "response.reasoning_summary_text.delta"])
def test_reasoning_comes_by_either_name_and_is_never_the_answer(name):
    answer, deltas, _ = read(delta("hm", name) + stream("{}"))
    assert (answer.reasoning, answer.text, deltas[0].reasoning) == ("hm", "{}", "hm")
    only = event("response.completed", response={"output": [{"type": "reasoning", "summary": []}]})
    with pytest.raises(AnswerEmpty, match="only reasoning"):
        read(delta("hm", name) + only)


@pytest.mark.parametrize("part", [("content", "reasoning_text"), ("summary", "summary_text")])
def test_the_whole_of_it_is_read_item_by_item(part):
    thought = {"type": "reasoning", part[0]: [{"type": part[1], "text": "hm"}]}
    call = {"type": "function_call", "arguments": "{}"}
    body = json.dumps(response() | {"output": [thought, call, item("{}")]}).encode()
    answer, _, _ = read(b"\n\n" + body, 5)
    assert (answer.text, answer.reasoning, answer.usage) == ("{}", "hm", Usage(8, 5, 3, 2))


def test_a_stream_without_pieces_is_read_from_its_last_event():
    answer, deltas, _ = read(event("response.completed", response=response("{}")), 9)
    assert [piece.text for piece in deltas] == [answer.text] == ["{}"]


def test_usage_may_be_missing_or_come_early():
    answer, _, _ = read(stream("{}", usage=None))
    assert answer.usage.estimated
    early = event("response.in_progress", response={"usage": USAGE})
    assert read(early + stream("{}", usage=None))[0].usage == Usage(8, 5, 3, 2)
    assert usage_from({**USAGE, "input_tokens_details": None, "output_tokens_details": 7}) == Usage(8, 5)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", StreamBroken),
        (b"\n\n", StreamBroken),
        (b"<html><title>504 Gateway Time-out</title></html>", ServerFault),
        (b"upstream error: read ECONNRESET", StreamBroken),
        (stream("half", end=False), StreamBroken),
        (stream("half", end=False) + b"data: [DONE]\n\n", StreamBroken),
        (stream("half")[:-2], StreamBroken),
        (stream("half", end=False) + b"upstream error: read ECONNRESET\n", StreamBroken),
        (stream("half", status="incomplete", **CUT), AnswerTruncated),
        (whole("half", status="incomplete", **CUT), AnswerTruncated),
        (stream("x", status="incomplete", incomplete_details={"reason": "content_filter"}), ContentRefused),
        (stream("x", status="incomplete", incomplete_details={"reason": "something_new"}), StreamBroken),
        (stream("x", status="incomplete"), StreamBroken),
        (whole("x", status="in_progress"), StreamBroken),
        (whole("x", status=None), StreamBroken),
        (stream(" ", " "), AnswerEmpty),
        (stream(""), AnswerEmpty),
        (whole("", output=[]), StreamBroken),
        (whole("", output=None), StreamBroken),
        (stream("<｜DSML｜tool", "_calls>"), AnswerInvalid),
        (stream("x", status="failed", error={"code": "server_error", "message": "oops"}), StreamBroken),
        (stream(status="failed", error={"code": "server_error", "message": "oops"}), ServerFault),
        (stream(status="failed"), ServerFault),
        (stream(status="failed", error={"code": "rate_limit_exceeded", "message": "slow"}), RateLimited),
        (stream(status="failed", error={"code": "invalid_prompt", "message": "no"}), RequestInvalid),
        (stream(status="failed", error={"code": "x", "message": "Content Exists Risk"}), ContentRefused),
        (stream("x", status="completed", error={"message": "oops"}), StreamBroken),
        (whole("x", error={"message": "oops"}), StreamBroken),
        (event("error", code="server_error", message="oops"), ServerFault),
        (delta("x") + event("error", code="server_error", message="oops"), StreamBroken),
        (event("error", code=None, message="Insufficient Balance"), BalanceExhausted),
        (b'data: {"error":{"message":"limit","type":"rate_limit_error"}}\n\n', RateLimited),
        (b'{"error":{"message":"busy","type":"service_unavailable_error"}}', Overloaded),
        (b"data: not json\n\n", StreamBroken),
        (b"data: [1,2]\n\n", StreamBroken),
        (b"[1,2]", StreamBroken),
    ],
)
@pytest.mark.parametrize("size", [1, 5, None])
def test_what_is_not_a_whole_answer_is_an_error_of_its_own_class(body, error, size):
    with pytest.raises(error):
        read(body, size)


def test_what_failed_after_its_first_words_may_have_been_charged():
    """Half an answer and its bill are in the error."""
    with pytest.raises(StreamBroken) as caught:
        read(whole("half", status="failed", error={"code": "server_error", "message": "oops"}))
    assert (caught.value.partial, caught.value.usage, caught.value.charged) == (
        "half",
        Usage(8, 5, 3, 2),
        "unknown",
    )


def test_a_run_away_of_blanks_is_hung_up_on():
    decoder = ResponsesDecoder(REQUEST)
    with pytest.raises(AnswerEmpty, match="ran away"):
        all(decoder.feed(delta("  \n")) for _ in range(1000))
    assert decoder.progressed < 400
