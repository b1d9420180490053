"""Answers and errors are the real service's, byte for byte, as far as its bytes were recorded."""

import json
from datetime import UTC, datetime
from hashlib import sha256

import pytest
from raw_client import QUESTION, ask, talk

from deepseek_nb.sandbox.answers import AnswerHead, Bill, completion_body
from deepseek_nb.sandbox.plans import Work, plan
from deepseek_nb.sandbox.spoil import Draft

SAMPLE = AnswerHead("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", 1784792400, "deepseek-v4-flash")
JULY = datetime.fromtimestamp(1784792400, UTC)


@pytest.fixture
def july(make):
    return make(models_shape="july", now=lambda: JULY)


def test_the_plain_sample_has_465_bytes():
    body = completion_body(SAMPLE, "OK", Bill(8, 0, 1).text())
    assert len(body) == 465
    assert body.endswith(b'"system_fingerprint":"fp_8b330d02d0_prod0820_fp8_kvcache_20260402"}')


def test_the_streamed_sample_has_1063_bytes():
    reply = plan(Work(SAMPLE, Draft(("OK",), None), Bill(8, 0, 1), stream=True))
    body = b"".join(step.data for step in reply.steps)
    assert len(body) == 1063
    assert body.endswith(b'"prompt_cache_miss_tokens":8}}\n\ndata: [DONE]\n\n')


def test_both_samples_come_over_the_socket_with_these_lengths(july):
    plain = ask(july, model="deepseek-v4-flash")
    assert (len(plain.body), plain.headers["content-type"]) == (465, "application/json")
    assert plain.json["created"] == 1784792400
    streamed = ask(july, model="deepseek-v4-flash", stream=True)
    assert (len(streamed.body), streamed.headers["content-type"]) == (1063, "text/event-stream")
    assert len(streamed.events) == 1 + 3
    assert len(ask(july, model="deepseek-v4-pro").body) == 463


def body_of(**fields):
    return {"model": "deepseek-v4-flash", "messages": [{"role": "user", "content": "Hi"}], **fields}


def tight(value):
    return json.dumps(value, separators=(",", ":")).encode()


OCTETS = "application/octet-stream"
GOLDEN = {
    "no header": ({"body": QUESTION, "key": None}, 401, None, 31, "271d3544"),
    "bad key": ({"body": QUESTION, "key": "sk-wrong-0000"}, 401, "application/json", 153, "a02c08c4"),
    "no body": ({"body": b""}, 400, OCTETS, 86, "40f974c6"),
    "cut JSON": ({"body": b'{"model":'}, 400, OCTETS, 93, "6ed1ae3f"),
    "{}": ({"body": b"{}"}, 400, "application/json", 200, "118db8a2"),
    "messages map": (
        {"body": tight({"model": "deepseek-v4-flash", "messages": {}})},
        400,
        "application/json",
        225,
        "70a35da3",
    ),
    "model": (
        {"body": body_of(model="deepseek-model-does-not-exist")},
        400,
        OCTETS,
        216,
        "a80bd658",
    ),
    "temperature": ({"body": body_of(temperature=3)}, 400, OCTETS, 166, "1c35ff8b"),
    "user_id": ({"body": body_of(user_id="u" * 513)}, 400, OCTETS, 218, "57e3a2cc"),
    "developer": (
        {"body": tight({"model": "deepseek-v4-flash", "messages": [{"role": "developer", "content": "x"}]})},
        400,
        "application/json",
        296,
        "d0f42c17",
    ),
    "415": (
        {"body": QUESTION, "content_type": "text/plain"},
        415,
        "text/plain; charset=utf-8",
        54,
        "c5231a4c",
    ),
    "models": ({"method": "GET", "path": "/models"}, 200, "application/json", 156, "4639cce8"),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bodies(july, name):
    how, status, content_type, length, digest = GOLDEN[name]
    heard = talk(july, **how)
    assert heard.status == status
    assert heard.headers.get("content-type") == content_type
    assert (len(heard.body), sha256(heard.body).hexdigest()[:8]) == (length, digest)


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/nothing", "POST", 404),
        ("/responses/x", "POST", 404),
        ("/anthropic/v1/messages", "POST", 404),
        ("/chat/completions", "GET", 405),
        ("/models", "POST", 405),
    ],
)
def test_unknown_addresses_have_empty_bodies(sandbox, path, method, status):
    heard = talk(sandbox, QUESTION, path=path, method=method)
    assert (heard.status, heard.body, heard.headers.get("content-type")) == (status, b"", None)


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/chat/completions", "/beta/chat/completions"])
def test_chat_answers_under_all_its_addresses(sandbox, path):
    assert talk(sandbox, QUESTION, path=path).text == "OK"


def test_every_response_says_that_it_is_a_simulation(sandbox):
    for heard in (ask(sandbox), talk(sandbox, b""), talk(sandbox, path="/x"), talk(sandbox, key=None)):
        assert heard.headers["x-deepseek-nb"] == "simulation"
        assert len(heard.headers["x-ds-trace-id"]) == 32


def test_fill_in_the_middle_answers_as_text_completion(sandbox):
    body = {"model": "deepseek-flash", "prompt": "Return exactly: ", "suffix": "OK"}
    heard = talk(sandbox, body, path="/beta/completions")
    assert heard.json["object"] == "text_completion"
    assert heard.json["choices"][0]["text"] == "OK"


def test_text_outside_ascii_is_sent_as_it_is(sandbox):
    text = 'Ünïcode 中文 😀 "quoted" \\ back\nline'
    heard = ask(sandbox, f"Return exactly: {text}", stream=True)
    assert heard.text == text
    assert "中".encode() in heard.body
    assert b"\\u" not in heard.body
