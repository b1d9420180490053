"""Chat completions as the official OpenAI client sees them, whole, streamed, and from a bad server."""

from __future__ import annotations

import json
import time

import httpx
import openai
import pytest

from deepseek_nb.gateway import talk
from deepseek_nb.gateway.asks import HARMLESS, NEUTRAL
from deepseek_nb.sandbox import Completion, Fault, FaultScript, Sandbox

from .people import SECRETS, chat_body, new_client

OFF = {"thinking": {"type": "disabled"}}
TURNS = [{"role": "user", "content": "The sky is blue. What is blue?"}]


@pytest.fixture
def ai(gateway):
    """The openai package, as anybody uses it: a base_url and a key."""
    form = {"grant_type": "client_credentials", "client_id": "desk", "client_secret": SECRETS["desk"]}
    token = httpx.post(f"{gateway.base_url}/oauth/token", data=form).json()["access_token"]
    with openai.OpenAI(base_url=f"{gateway.base_url}/v1", api_key=token, max_retries=0, timeout=30) as client:
        yield client


def ask(ai, text: str = TURNS[0]["content"], **more):
    turns = [{"role": "user", "content": text}]
    return ai.chat.completions.create(model="deepseek-flash", messages=turns, extra_body=OFF, **more)


def test_a_whole_answer(ai, upstream):
    answer = ask(ai, max_tokens=100, temperature=0.5, stop=["zzz"], user="u", metadata={"a": "b"}, n=1)
    (choice,) = answer.choices
    assert choice.message.content == "[simulated] The sky is blue. What is blue?"
    assert (choice.finish_reason, choice.message.role, answer.object) == (
        "stop",
        "assistant",
        "chat.completion",
    )
    (seen,) = upstream.log.chats
    assert answer.usage.prompt_tokens == seen.prompt_tokens
    assert answer.usage.total_tokens == seen.prompt_tokens + seen.completion_tokens
    assert answer.usage.prompt_tokens_details.cached_tokens == 0
    assert answer.system_fingerprint.startswith("fp_")


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("include_usage", [True, False])
def test_a_streamed_answer(ai, upstream, thinking, include_usage):
    """Pieces come one by one; the last one carries the usage and what the gateway says of the answer."""
    chunks = list(
        ai.chat.completions.create(
            model="deepseek-flash",
            messages=TURNS,
            stream=True,
            stream_options={"include_usage": include_usage},
            extra_body={} if thinking else OFF,
        )
    )
    deltas = [chunk.choices[0].delta for chunk in chunks]
    text = "".join(delta.content or "" for delta in deltas)
    reasoning = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert text == "[simulated] The sky is blue. What is blue?"
    assert bool(reasoning) is thinking
    assert len(chunks) > 8
    assert deltas[0].role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["stop"]
    assert len({chunk.id for chunk in chunks}) == 1
    (seen,) = upstream.log.chats
    assert chunks[-1].usage.completion_tokens == seen.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].gateway["cost_usd"] == pytest.approx(seen.cost_usd)
    again = list(
        ai.chat.completions.create(
            model="deepseek-flash", messages=TURNS, stream=True, extra_body={} if thinking else OFF
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in again) == text
    assert again[-1].gateway["cached"] is True
    assert len(upstream.log.chats) == 1


def test_the_bytes_of_a_stream(as_tenant):
    """Events of one line each, the usage where DeepSeek has it, [DONE] closed by a blank line."""
    with as_tenant().stream("POST", "/chat/completions", json=chat_body(stream=True)) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert (reply.headers["x-upstream"], reply.headers["x-cache"]) == ("deepseek", "miss")
        body = reply.read().decode()
    assert body.endswith("data: [DONE]\n\n")
    events = [json.loads(event.removeprefix("data: ")) for event in body.split("\n\n")[:-2]]
    assert all("usage" not in event for event in events[:-1])
    assert list(events[0]) == ["id", "object", "created", "model", "choices"]
    assert events[0]["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]


def test_reasoning_and_json_mode_come_through(ai, upstream):
    thought = ai.chat.completions.create(model="deepseek-flash", messages=TURNS, reasoning_effort="low")
    assert thought.choices[0].message.reasoning_content
    assert thought.usage.completion_tokens_details.reasoning_tokens > 0
    told = ask(ai, "Say it as json. The sky is blue.", response_format={"type": "json_object"})
    assert json.loads(told.choices[0].message.content)
    assert (
        ask(ai, "Say it as json. The sky is blue.").choices[0].message.content
        != told.choices[0].message.content
    )


def test_an_earlier_conversation_is_sent_on(ai, upstream):
    """Text parts are joined; an assistant's null fields are passed over."""
    turns = [
        {"role": "system", "content": "Be short."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "Return"}, {"type": "text", "text": "exactly: one"}],
        },
        {
            "role": "assistant",
            "content": "one",
            "reasoning_content": "hm",
            "tool_calls": None,
            "refusal": None,
        },
        {"role": "user", "content": [{"type": "text", "text": "Return exactly: two"}]},
    ]
    answer = ai.chat.completions.create(model="deepseek-flash", messages=turns, extra_body=OFF)
    assert answer.choices[0].message.content == "two"


def test_headers_tell_where_it_came_from_and_what_it_cost(as_tenant, upstream):
    first = as_tenant().post("/chat/completions", json=chat_body(priority=2))
    second = as_tenant().post("/v1/chat/completions", json=chat_body(), headers={"x-priority": "5"})
    assert (first.headers["x-cache"], second.headers["x-cache"]) == ("miss", "hit")
    assert float(first.headers["x-cost-usd"]) == pytest.approx(upstream.log.cost_usd)
    assert float(second.headers["x-cost-usd"]) == 0
    assert (first.headers["x-priority"], second.headers["x-priority"]) == ("2", "5")
    assert first.headers["x-request-id"] != second.headers["x-request-id"]
    assert first.json()["choices"] == second.json()["choices"]


@pytest.mark.parametrize(
    ("control", "asked"), [("", 1), ("no-cache", 2), ("no-store", 2), ("max-age=0", 2), ("max-age=60", 1)]
)
def test_cache_control(as_tenant, upstream, control, asked):
    client = as_tenant()
    client.post("/chat/completions", json=chat_body())
    client.post("/chat/completions", json=chat_body(), headers={"cache-control": control})
    assert len(upstream.log.chats) == asked


def test_no_store_keeps_nothing(as_tenant, upstream):
    for _ in range(2):
        as_tenant().post("/chat/completions", json=chat_body(), headers={"cache-control": "no-store"})
    assert as_tenant().post("/chat/completions", json=chat_body()).headers["x-cache"] == "miss"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"seed": 7}, "seed"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"1": 2}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format"),
        ({"temperature": 3}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_completion_tokens"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"thinking": {"type": "adaptive"}}, "thinking"),
        ({"thinking": True}, "thinking"),
        ({"reasoning_effort": "much"}, "reasoning_effort"),
        ({"priority": 6}, "priority"),
        ({"priority": True}, "priority"),
        ({"model": 7}, "model"),
        ({"model": None}, "model"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"role": "function", "content": "x", "name": "y"}]}, "messages[0].role"),
        ({"messages": [{"role": "developer", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, "messages[0].name"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "function_call": {"name": "f"}}]},
            "messages[0].function_call",
        ),
        ({"response_format": {"type": "json_object"}}, "messages"),
    ],
)
def test_what_cannot_be_carried_is_a_400_that_names_it(as_tenant, upstream, change, param):
    reply = as_tenant().post("/chat/completions", json=chat_body(**change))
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert param.split("[")[0].split(".")[0] in error["message"] or param == "messages"
    assert not upstream.log.chats


def test_values_that_change_nothing_are_taken(as_tenant):
    more = {name: values[0] for name, values in NEUTRAL.items()}
    more |= {name: {"any": "thing"} for name in HARMLESS} | {"seed": None, "max_completion_tokens": 50}
    assert as_tenant().post("/chat/completions", json=chat_body(**more)).status_code == 200


@pytest.mark.parametrize(
    ("fault", "kind", "status"),
    [
        ("busy_503", openai.InternalServerError, 503),
        ("rate_429", openai.InternalServerError, 503),
        ("html_500", openai.InternalServerError, 502),
        ("cut_rst", openai.InternalServerError, 502),
        ("content_risk", openai.BadRequestError, 400),
        ("unknown_model", openai.BadRequestError, 400),
        ("governor_401", openai.InternalServerError, 502),
        ("balance_402", openai.InternalServerError, 502),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_failures_have_a_status_and_tell_nothing_of_the_account(serve, upstream, fault, kind, status, stream):
    """Also of a stream, as long as nothing of it was sent."""
    upstream.faults = FaultScript.of(*[fault] * 400)
    gateway = serve(patience="1s")
    with new_client(gateway) as client:
        reply = client.post("/v1/chat/completions", json=chat_body(stream=stream))
    if fault == "cut_rst" and stream:
        assert reply.status_code == 200
        assert '"code":"upstream_failed"' in reply.text
        return
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert not any(
        word in reply.text.lower() for word in ("balance", "api key", "governor", "sk-", "127.0.0.1")
    )
    with (
        openai.OpenAI(base_url=gateway.base_url, api_key="x" * 8, max_retries=0) as ai,
        pytest.raises(openai.PermissionDeniedError),
    ):
        ask(ai)
    assert issubclass(kind, openai.APIStatusError)


def test_a_stream_that_breaks_goes_on_where_it_stopped(as_tenant, upstream):
    """The second try says the same again: what was sent is not sent twice, and nothing is lost."""
    upstream.faults = FaultScript.of(Fault("cut_rst", after_tokens=5))
    with as_tenant().stream("POST", "/chat/completions", json=chat_body(stream=True)) as reply:
        body = reply.read().decode()
    events = [json.loads(event.removeprefix("data: ")) for event in body.split("\n\n")[:-2]]
    text = "".join(event["choices"][0]["delta"].get("content") or "" for event in events)
    assert text == "[simulated] The sky is blue. What is blue?"
    assert body.endswith("data: [DONE]\n\n")
    assert len(upstream.log.chats) == 2


def test_a_stream_that_begins_anew_differently_ends_with_an_error(serve):
    """It cannot be taken back; the openai package raises."""
    said = iter(["one two three four five six", "seven eight nine ten eleven twelve"] * 2)
    with Sandbox(engine=lambda _: Completion(next(said)), time_scale=100, count="estimate") as other:
        other.faults = FaultScript.of(Fault("cut_rst", after_tokens=3))
        with new_client(serve(before=other)) as client:
            body = client.post("/chat/completions", json=chat_body(stream=True)).text
    assert "[DONE]" not in body
    assert json.loads(body.split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == "stream_broken"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_the_request_upstream(as_tenant, upstream, stream):
    """Nobody waits for it: the bill ends."""
    upstream.faults = FaultScript.of(Fault("hang"))
    client = as_tenant()
    with pytest.raises(httpx.TimeoutException):
        client.post("/chat/completions", json=chat_body(stream=stream), timeout=0.5)
    for _ in range(100):
        if [record for record in upstream.log.chats if record.aborted]:
            break
        time.sleep(0.05)
    assert [record.aborted for record in upstream.log.chats] == [True]


def test_an_answer_that_was_cut_is_given_as_it_came(ai, upstream):
    """``max_tokens`` is the caller's: what was paid is handed over, as the service itself does."""
    cut = ask(ai, max_tokens=3)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 3)
    blank = ai.chat.completions.create(model="deepseek-flash", messages=TURNS, max_tokens=2)
    assert blank.choices[0].finish_reason == "length"
    assert blank.choices[0].message.content == ""
    assert len(upstream.log.chats) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_another_upstream_answers_and_the_answer_says_so(serve, upstream, stream):
    """The first one refuses for ever: the next one answers in seconds, under its own name."""
    with Sandbox(count="estimate", time_scale=100, api_key=None) as local:
        more = [
            {"name": "local", "base_url": local.base_url, "model": "deepseek-v4-pro", "key_env": "UP_KEY"}
        ]
        gateway = serve(
            more=more, failover="0.3s", tenants={"lab": {"fallback": False, "priority": 4}}, patience="1s"
        )
        upstream.faults = FaultScript.of(*["busy_503"] * 400)
        with new_client(gateway) as client:
            began_s = time.monotonic()
            reply = client.post("/chat/completions", json=chat_body(stream=stream))
            assert time.monotonic() - began_s < 5
            assert (reply.headers["x-upstream"], reply.headers["x-degraded"]) == ("local", "true")
            upstream.stop()
            reply = client.post("/chat/completions", json=chat_body("And now?", stream=stream))
            assert reply.headers["x-upstream"] == "local"
        with new_client(gateway, "lab") as client:
            assert client.post("/chat/completions", json=chat_body()).status_code in (502, 503)
        assert len(local.log.chats) == 2


def test_a_silent_upstream_gets_signs_of_life_through(serve, upstream, monkeypatch):
    """The status comes, then comments, then the answer."""
    monkeypatch.setattr(talk, "HELD_S", 0.2)
    monkeypatch.setattr(talk, "ALIVE_EVERY_S", 0.2)
    with Sandbox(count="estimate", first_token_s=1.0) as slow, new_client(serve(before=slow)) as client:
        reply = client.post("/chat/completions", json=chat_body(stream=True))
    assert reply.text.startswith(": keep-alive\n\n")
    assert reply.text.count(": keep-alive") >= 3
    assert reply.text.endswith("data: [DONE]\n\n")
    assert "x-upstream" not in reply.headers
