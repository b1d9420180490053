"""``tools=``: the client tells the calls that the model asks for, with the promises of every other answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deepseek_nb.client.routes import Route
from deepseek_nb.client.sync import Client
from deepseek_nb.core import errors
from deepseek_nb.core.chat import Message
from deepseek_nb.sandbox import Fault, FaultScript, Sandbox

ROME = "What is the weather in Rome?"
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def tool(name: str = "get_weather", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": CITY, **more}}


TOOLS = [tool(), tool("get_time")]


def test_the_answer_tells_the_calls_and_is_paid_once(client, sandbox):
    """There is no text, which is no fault; the store gives the same calls."""
    answer = client.ask(ROME, tools=TOOLS)
    (call,) = answer.tool_calls
    assert (call.name, list(json.loads(call.arguments))) == ("get_weather", ["city"])
    assert (answer.text, answer.finish_reason, answer.attempts) == ("", "tool_calls", 1)
    again = client.ask(ROME, tools=TOOLS, tool_choice="auto")
    assert (again.cached, again.tool_calls) == (True, answer.tool_calls)
    assert client.ask(ROME).text.startswith("[simulated]")
    assert len(sandbox.log.chats) == 2


@pytest.mark.parametrize("thinking", [None, False])
def test_a_conversation_with_results(client, sandbox, thinking):
    """As messages or as OpenAI writes them, while the model thinks or not: one and the same question."""
    asked = client.ask(ROME, tools=TOOLS, thinking=thinking)
    (call,) = asked.tool_calls
    ours = [
        Message("user", ROME),
        Message("assistant", asked.text, tool_calls=asked.tool_calls),
        Message("tool", "22 C and dry", tool_call_id=call.id),
    ]
    theirs = [
        {"role": "user", "content": ROME},
        {"role": "assistant", "content": None, "tool_calls": [call.told()]},
        {"role": "tool", "content": "22 C and dry", "tool_call_id": call.id},
    ]
    answer = client.ask(ours, tools=TOOLS, thinking=thinking)
    assert (answer.text, answer.tool_calls) == ("[simulated] 22 C and dry", ())
    assert client.ask(theirs, tools=TOOLS, thinking=thinking).cached
    assert len(sandbox.log.chats) == 2


@pytest.mark.parametrize(("choice", "name"), [("required", "get_weather"), ("get_time", "get_time")])
def test_a_forced_call_is_asked_for_without_thinking(client, sandbox, choice, name):
    answer = client.ask("Hello there.", tools=TOOLS, tool_choice=choice)
    assert [call.name for call in answer.tool_calls] == [name]
    assert answer.reasoning == ""
    with pytest.raises(errors.RequestInvalid, match="while the model thinks"):
        client.ask("Hello there.", tools=TOOLS, tool_choice=choice, thinking=True)
    assert client.ask("Hello there.", tools=TOOLS, tool_choice="none").tool_calls == ()


def test_a_stream_tells_the_calls_piece_by_piece(client):
    """Asked and kept: what its pieces say is what the answer holds."""
    for _ in range(2):
        pieces = list(stream := client.stream(ROME, tools=TOOLS, thinking=False))
        called = [call for piece in pieces for call in piece.tool_calls]
        (call,) = stream.answer.tool_calls
        assert (called[0].id, called[0].name) == (call.id, call.name)
        assert "".join(piece.arguments for piece in called) == call.arguments


@pytest.mark.parametrize(
    "fault", ["busy_503", "cut_rst", "aborted", "no_done", "no_choices", Fault("length_cut", share=0.5)]
)
def test_what_fails_is_asked_again(client, sandbox, fault):
    """Also half a call, which is never an answer."""
    sandbox.faults = FaultScript.of(fault)
    (call,) = client.ask(ROME, tools=TOOLS).tool_calls
    assert list(json.loads(call.arguments)) == ["city"]
    assert len(sandbox.log.chats) == 2


@pytest.mark.parametrize("fault", ["dsml", "reasoning_only", "blank_json"])
def test_what_was_paid_and_is_no_call_is_repaired(client, sandbox, fault):
    """The function is still there; the simulated model sees no word of it in the last message."""
    sandbox.faults = FaultScript.of(fault)
    answer = client.ask(ROME, tools=TOOLS)
    assert (answer.repairs, answer.attempts) == (1, 2)
    assert answer.text.startswith("[simulated] ")
    assert sandbox.log.chats[1].prompt_tokens > sandbox.log.chats[0].prompt_tokens


def test_a_budget_reserves_for_the_functions(sandbox, tmp_path):
    """A question that would fit does not with a long function: nothing is sent."""
    long = [tool(description="A city. " * 20_000)]
    with Client(base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path) as client:
        with pytest.raises(errors.BudgetExceeded):
            client.ask(ROME, tools=long, thinking=False, max_tokens=10, budget_usd=0.002)
        assert not sandbox.log.chats
        client.ask(ROME, tools=TOOLS, thinking=False, max_tokens=100, budget_usd=0.002)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"tools": "get_weather"}, errors.ConfigError, "tools is a list"),
        ({"tools": [{"name": "get_weather"}]}, errors.ConfigError, r"tools\[0\]\.type"),
        ({"tools": [tool("a b")]}, errors.ConfigError, r"tools\[0\]\.function\.name"),
        ({"tools": TOOLS, "tool_choice": "get_moon"}, errors.ConfigError, r"tool_choice\.function\.name"),
        ({"tool_choice": "required"}, errors.ConfigError, "only allowed when tools"),
        ({"tools": TOOLS, "schema": {"city": str}}, errors.ConfigError, "exclude each other"),
    ],
)
def test_bad_functions_are_an_error_before_anything_is_sent(client, sandbox, options, error, words):
    with pytest.raises(error, match=words) as caught:
        client.ask(ROME, **options)
    assert len(caught.value._render_traceback_()) <= 5
    assert not sandbox.log.chats


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([{"role": "assistant", "tool_calls": [{"id": "a"}]}], r"tool_calls\[0\]\.function"),
        ([{"role": "user", "content": "x", "tool_calls": [{"id": "a"}]}], "role 'assistant'"),
        ([{"role": "tool", "content": "22 C", "tool_call_id": "a"}], "preceding message"),
        ([Message("tool", "22 C")], "preceding message"),
        ([{"role": "assistant", "content": None}], "A message is"),
    ],
)
def test_bad_turns_are_an_error_before_anything_is_sent(client, sandbox, turns, words):
    with pytest.raises(errors.RequestInvalid, match=words):
        client.ask([{"role": "user", "content": ROME}, *turns], tools=TOOLS)
    assert not sandbox.log.chats


def test_another_server_answers_with_calls_when_the_first_is_busy(sandbox, tmp_path):
    """A server that speaks no more than OpenAI's language."""
    sandbox.faults = FaultScript.always("busy_503")
    with Sandbox(count="estimate", time_scale=100) as other:
        route = Route(base_url=other.base_url, model="deepseek-flash", api_key=other.api_key, name="other")
        with Client(
            base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path, failover_s=0.2
        ) as client:
            answer = client.ask(ROME, tools=TOOLS, fallback=[route])
    assert (answer.route, [call.name for call in answer.tool_calls]) == ("other", ["get_weather"])
