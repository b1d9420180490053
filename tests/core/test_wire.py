"""Bytes to answers and errors: the real shapes, the broken ones, and any bytes at all."""

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
    AuthError,
    BalanceExhausted,
    ContentRefused,
    ContextTooLong,
    DeepSeekError,
    Disposition,
    EndpointUnknown,
    ModelUnknown,
    Overloaded,
    RateLimited,
    RequestInvalid,
    ServerFault,
    StreamBroken,
)
from deepseek_nb.core.wire import AnswerDecoder, error_from_reply, request_body

REQUEST = ChatRequest("deepseek-flash", (Message("user", "hello"),))
JSON_REQUEST = ChatRequest("deepseek-flash", (Message("user", "json"),), json_mode=True)
USAGE = {
    "prompt_tokens": 8,
    "completion_tokens": 1,
    "total_tokens": 9,
    "prompt_tokens_details": {"cached_tokens": 3},
    "prompt_cache_hit_tokens": 3,
    "prompt_cache_miss_tokens": 5,
}


def event(delta=None, finish=None, **more) -> bytes:
    body = {
        "id": "x",
        "model": "served",
        "system_fingerprint": "fp_1",
        "choices": [{"index": 0, "delta": delta or {}, "logprobs": None, "finish_reason": finish}],
        **more,
    }
    return b"data: " + json.dumps(body, separators=(",", ":")).encode() + b"\n\n"


def stream(*texts: str, finish: str | None = "stop", usage=USAGE, done: bool = True) -> bytes:
    parts = [event({"role": "assistant", "content": ""})]
    parts += [event({"content": text}) for text in texts]
    if finish is not None:
        parts.append(event({"content": ""}, finish, usage=usage))
    if done:
        parts.append(b"data: [DONE]\n\n")
    return b"".join(parts)


def read(body: bytes, request: ChatRequest = REQUEST, size: int | None = None):
    decoder = AnswerDecoder(request)
    deltas = []
    for start in range(0, len(body), size or max(1, len(body))):
        deltas += decoder.feed(body[start : start + (size or len(body))])
    return decoder.close(), deltas, decoder


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, None])
def test_a_stream_reads_the_same_however_it_is_cut(size):
    """Chunk borders fall anywhere, also inside a multi-byte character."""
    answer, deltas, _ = read(b": keep-alive\n\n" * 3 + stream("Grüße", ", 世界"), size=size)
    assert answer.text == "Grüße, 世界"
    assert "".join(d.text for d in deltas) == answer.text
    assert answer.usage == Usage(8, 1, 3, 0)
    assert (answer.model, answer.finish_reason, answer.system_fingerprint) == ("served", "stop", "fp_1")


@pytest.mark.parametrize("newline", [b"\n", b"\r\n"])
def test_keep_alives_are_life_and_not_progress(newline):
    """Comments and blank lines count as alive; progress stays at zero."""
    decoder = AnswerDecoder(REQUEST)
    for _ in range(5):
        assert decoder.feed(b": keep-alive" + newline + newline) == []
    assert decoder.progressed == 0
    assert decoder.alive == 5


def test_blank_lines_before_json_are_an_answer_in_waiting():
    """A non-streaming body after blank lines is a complete answer, whatever its content type said."""
    body = {
        "choices": [{"message": {"role": "assistant", "content": "OK"}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
    answer, _, decoder = read(b"\n\n\n" + json.dumps(body).encode(), size=1)
    assert answer.text == "OK"
    assert decoder.alive == 3


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", StreamBroken),
        (b"\n\n\n\n", StreamBroken),
        (b"   ", StreamBroken),
        (b"<html><title>504 Gateway Time-out</title></html>", ServerFault),
        (b"upstream error: read ECONNRESET", StreamBroken),
        (b'{"choices":[],"usage":null}', StreamBroken),
        (b'{"choices":null}', StreamBroken),
        (b'{"choices":[{"message":{"content":"half', StreamBroken),
        (b'{"error":{"message":"oops","type":"x"}}', ServerFault),
        (b'{"error":{"message":"Service is too busy","type":"service_unavailable_error"}}', Overloaded),
        (b'data: {"error":{"message":"limit","type":"rate_limit_error"}}\n\n', RateLimited),
        (stream("half", finish=None, done=False), StreamBroken),
        (stream("half", done=False), StreamBroken),
        (stream("half", done=False) + b"data: [DONE]\n", StreamBroken),
        (stream("half", finish=None), StreamBroken),
        (stream("half", done=False) + b"upstream error: read ECONNRESET\n", StreamBroken),
        (stream("part", finish="insufficient_system_resource"), StreamBroken),
        (stream("part", finish="aborted"), StreamBroken),
        (stream("part", finish="something_new"), StreamBroken),
        (stream("", finish="content_filter"), ContentRefused),
        (stream(""), AnswerEmpty),
        (stream(" ", "  "), AnswerEmpty),
        (stream("", finish="length"), AnswerTruncated),
        (stream("<｜DSML｜tool", "_calls>"), AnswerInvalid),
        (stream("<｜｜DSM", "L｜｜ calls>"), AnswerInvalid),
        (stream("yes</｜DS", "ML｜parameter>"), AnswerInvalid),
        (stream("half", finish=None, done=False) + event({}, "stop", error={"message": "x"}), StreamBroken),
        (
            b'{"error":{"message":"x"},"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}',
            ServerFault,
        ),
        (b"data: not json\n\n", StreamBroken),
        (b"data: [1,2]\n\n", StreamBroken),
    ],
)
@pytest.mark.parametrize("size", [1, 5, None])
def test_what_is_not_a_whole_answer_is_an_error_of_its_own_class(body, error, size):
    """A 200 is not an answer; and the class does not hang on how the bytes were cut."""
    with pytest.raises(error):
        read(body, size=size)


def test_partial_text_is_kept_with_the_error():
    """What came before a cut is in the error, for whoever wants to see it, and its tokens are estimated."""
    with pytest.raises(StreamBroken) as caught:
        read(stream("half an answer", finish=None, done=False))
    assert caught.value.partial == "half an answer"
    assert caught.value.usage.estimated
    assert caught.value.charged == "unknown"


def test_reasoning_is_never_the_answer():
    """All text in reasoning_content and a normal end is an empty answer."""
    body = (
        event({"reasoning_content": "thinking hard", "content": None})
        + event({}, "stop")
        + b"data: [DONE]\n\n"
    )
    with pytest.raises(AnswerEmpty, match="only reasoning"):
        read(body)


def test_json_cut_at_the_limit_is_truncated_but_prose_is_an_answer():
    """``length`` ends a JSON answer badly; a text the user capped is still their text."""
    with pytest.raises(AnswerTruncated):
        read(stream('{"a": 1', finish="length"), JSON_REQUEST)
    answer, _, _ = read(stream("some prose", finish="length"))
    assert answer.finish_reason == "length"


def test_a_run_away_of_blanks_is_hung_up_on():
    """JSON mode may write spaces to the token limit: the decoder raises while it still streams."""
    decoder = AnswerDecoder(JSON_REQUEST)
    blanks = (event({"content": "  \n"}) for _ in range(1000))
    with pytest.raises(AnswerEmpty, match="ran away"):
        all(decoder.feed(more) for more in blanks)
    assert decoder.progressed < 400


@pytest.mark.parametrize(
    "tail",
    [
        event({"content": ""}, "stop", usage=USAGE),
        event({"content": "", "role": None}, "stop") + event(usage=USAGE, choices=[]),
        event({"content": ""}, "stop", usage=None),
        event({"content": ""}, "stop"),
    ],
    ids=["finish chunk", "extra chunk", "null", "missing"],
)
def test_usage_is_found_wherever_it_stands(tail):
    """On the finish chunk, on one of its own, or estimated and flagged where it is missing."""
    answer, _, _ = read(event({"content": "hi"}) + tail + b"data: [DONE]\n\n")
    assert answer.usage == Usage(8, 1, 3, 0) or answer.usage.estimated


STATUS_TABLE = [
    (400, b"Content Exists Risk", ContentRefused, Disposition.FINAL),
    (400, b'{"error":{"message":"Content Exists Risk"}}', ContentRefused, Disposition.FINAL),
    (
        400,
        b"This model's maximum context length is 1048576 tokens. However",
        ContextTooLong,
        Disposition.FINAL,
    ),
    (
        400,
        b"The supported API model names are deepseek-flash, but you passed X.",
        ModelUnknown,
        Disposition.PAUSE,
    ),
    (400, b"Failed to deserialize the JSON body into the target type", RequestInvalid, Disposition.STOP),
    (400, b"Prompt must contain the word 'json' in some form", RequestInvalid, Disposition.STOP),
    (400, b"Invalid temperature value (request_id: 1-2)", RequestInvalid, Disposition.FINAL),
    (401, b"Authentication Fails (governor)", AuthError, Disposition.PAUSE),
    (402, b'{"error":{"message":"Insufficient Balance"}}', BalanceExhausted, Disposition.PAUSE),
    (403, b"", AuthError, Disposition.PAUSE),
    (403, b"<html><title>Just a moment...</title></html>", ServerFault, Disposition.RETRY),
    (400, b"CONTENT EXISTS RISK", ContentRefused, Disposition.FINAL),
    (400, b"the supported API model names are a, b", ModelUnknown, Disposition.PAUSE),
    (404, b"", EndpointUnknown, Disposition.STOP),
    (405, b"", EndpointUnknown, Disposition.STOP),
    (413, b"", RequestInvalid, Disposition.FINAL),
    (415, b"Expected request with `Content-Type: application/json`", RequestInvalid, Disposition.FINAL),
    (422, b"anything", RequestInvalid, Disposition.FINAL),
    (418, b"", RequestInvalid, Disposition.FINAL),
    (
        429,
        b"Too many requests. Your current concurrency is 26, which exceeds your concurrency limit of 25",
        RateLimited,
        Disposition.REFUSED,
    ),
    (429, b"You exceeded your current quota", BalanceExhausted, Disposition.PAUSE),
    (429, b"", RateLimited, Disposition.REFUSED),
    (500, b"<html>openresty</html>", ServerFault, Disposition.RETRY),
    (502, b"", ServerFault, Disposition.RETRY),
    (503, b'{"error":{"message":"Service is too busy."}}', Overloaded, Disposition.REFUSED),
    (504, b"", ServerFault, Disposition.RETRY),
    (529, b"", ServerFault, Disposition.RETRY),
    (301, b"", EndpointUnknown, Disposition.STOP),
]


@pytest.mark.parametrize(("status", "body", "kind", "disposition"), STATUS_TABLE)
@pytest.mark.parametrize("suffix", [b"", b" (request_id: 0f1e)"])
def test_every_status_has_its_class(status, body, kind, disposition, suffix):
    """By status, then by the beginning of the message; a request id appended changes nothing."""
    error = error_from_reply(status, body + suffix if not body.startswith((b"{", b"<")) else body)
    assert type(error) is kind
    assert error.disposition is disposition
    assert str(status) in error.message


def test_a_refusal_after_the_first_words_may_have_been_charged():
    """Moderation in the middle of a stream: final for this text, and its tokens are booked as unknown."""
    with pytest.raises(ContentRefused) as caught:
        read(
            event({"content": "half"})
            + event(error={"message": "Content Exists Risk", "type": "invalid_request"})
        )
    assert caught.value.charged == "unknown"
    assert caught.value.usage.completion_tokens > 0


def test_missing_reasoning_has_a_hint():
    """A chat that left reasoning_content out is told what to send."""
    error = error_from_reply(
        400, b"The `reasoning_content` in the thinking mode must be passed back to the API."
    )
    assert type(error) is RequestInvalid
    assert "reasoning_content" in error.hint


@pytest.mark.parametrize(("start", "error"), [(b"<html>", ServerFault), (b"upstream ", StreamBroken)])
def test_a_flood_that_is_no_answer_is_given_up_early(start, error):
    """A page or a text without an end under a 200 does not fill the memory."""
    decoder = AnswerDecoder(REQUEST)
    pieces = (decoder.feed(start + b"x" * 1000) for _ in range(1000))
    with pytest.raises(error) as caught:
        list(pieces)
    assert len(caught.value.body or "") <= 500


def test_blanks_in_one_large_piece_are_counted_in_time():
    """Half a million blanks before a letter: the time grows with the size, not with its square."""
    answer, _, _ = read(stream('{"a":1', " " * 500_000 + "}"), JSON_REQUEST)
    assert answer.text.endswith("}")


@given(status=st.integers(300, 599), body=st.binary(max_size=300))
def test_any_status_and_body_give_an_error_of_ours(status, body):
    """Nothing a server can send makes the classifier fail."""
    assert isinstance(error_from_reply(status, body), DeepSeekError)


def test_the_limit_in_a_429_is_read():
    """The number the server names becomes a ceiling for admission."""
    error = error_from_reply(
        429, b"Your current concurrency is 26, which exceeds your concurrency limit of 25 based on"
    )
    assert isinstance(error, RateLimited)
    assert error.limit == 25


PIECES = [
    b"data: ",
    b"data:[DONE]\n\n",
    b"\n",
    b"\n\n",
    b": c\n",
    b"{",
    b"}",
    b"[DONE]",
    b"<html>",
    b'"choices":',
    b"\xff",
    b'data: {"choices":[{"delta":{"content":"x"}}]}\n\n',
    b"event: x\n",
    b" " * 50,
    b"null",
]


@settings(max_examples=300, deadline=None)
@given(
    parts=st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=20)), max_size=12),
    size=st.integers(1, 40),
)
def test_any_bytes_end_in_an_answer_or_in_one_of_our_errors(parts, size):
    """Bytes in: text out, or a DeepSeekError; any other exception is a bug of the decoder."""
    body = b"".join(parts)
    try:
        answer, _, _ = read(body, JSON_REQUEST, size)
    except DeepSeekError:
        return
    assert answer.text.strip()


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=8), cut=st.integers(0, 10_000))
def test_a_stream_cut_anywhere_is_never_an_answer(texts, cut):
    """Whatever prefix of a stream arrives, only the whole of it counts."""
    body = stream(*texts)
    cut %= len(body)
    with pytest.raises(DeepSeekError):
        read(body[:cut])


def test_the_request_is_compact_and_sends_only_what_was_asked():
    """Absent means absent: the server's defaults stay the server's."""
    body = json.loads(request_body(REQUEST))
    assert body == {
        "model": "deepseek-flash",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    assert b": " not in request_body(REQUEST)


def test_the_request_carries_what_was_asked():
    """Every field finds its place on the wire."""
    request = ChatRequest(
        "m",
        (Message("system", "s"), Message("assistant", "a", reasoning="r", prefix=True)),
        thinking=False,
        json_mode=True,
        max_tokens=5,
        temperature=0.0,
        top_p=0.5,
        stop=("x",),
        user_id="u",
        reasoning_effort="low",
    )
    body = json.loads(request_body(request, stream=False))
    assert body["thinking"] == {"type": "disabled"}
    assert body["response_format"] == {"type": "json_object"}
    assert (body["temperature"], body["max_tokens"], body["stop"], body["user_id"]) == (0.0, 5, ["x"], "u")
    assert body["messages"][1] == {
        "role": "assistant",
        "content": "a",
        "reasoning_content": "r",
        "prefix": True,
    }
    assert "stream" not in body
