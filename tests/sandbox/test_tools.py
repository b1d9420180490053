"""Answers that are calls of a function: their bytes as documented, and what is refused."""

from __future__ import annotations

import json
import re

import pytest
from raw_client import ask

from deepseek_nb.sandbox.answers import AnswerHead, Bill, ToolCall, completion_body
from deepseek_nb.sandbox.plans import Work, plan
from deepseek_nb.sandbox.spoil import Draft

HEAD = AnswerHead("0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", 1784792400, "deepseek-v4-flash")
CALL = ToolCall("answer", "call_00_kw66qNnNto11bSfJVIdlV5Oo")
PARAMETERS = {
    "type": "object",
    "properties": {"label": {"enum": ["card", "cash"]}},
    "required": ["label"],
    "additionalProperties": False,
}
CHOICE = {"type": "function", "function": {"name": "answer"}}
OFF = {"type": "disabled"}
BETA = "/beta/chat/completions"


def tool(**changes):
    function = {"name": "answer", "parameters": PARAMETERS, "strict": True} | changes
    return {"type": "function", "function": function}


def test_a_whole_call_has_the_documented_fields_in_their_order():
    body = completion_body(HEAD, '{"a":1}', Bill(8, 0, 1).text(), finish_reason="tool_calls", call=CALL)
    message = (
        b'"message":{"role":"assistant","content":"","tool_calls":[{"index":0,'
        b'"id":"call_00_kw66qNnNto11bSfJVIdlV5Oo","type":"function",'
        b'"function":{"name":"answer","arguments":"{\\"a\\":1}"}}]},'
        b'"logprobs":null,"finish_reason":"tool_calls"}]'
    )
    assert message in body
    assert body == body.strip()
    assert json.loads(body)["usage"]["total_tokens"] == 9


def test_a_streamed_call_names_the_function_first_and_then_sends_pieces_of_its_arguments():
    work = Work(HEAD, Draft(('{"a"', ":1}"), None), Bill(8, 0, 2), stream=True, call=CALL)
    body = b"".join(step.data for step in plan(work).steps)
    assert body.endswith(b"data: [DONE]\n\n")
    chunks = [json.loads(line[6:]) for line in body.decode().splitlines() if line.startswith("data: {")]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas == [
        {"role": "assistant", "content": ""},
        {
            "tool_calls": [
                {
                    "index": 0,
                    "id": CALL.call_id,
                    "type": "function",
                    "function": {"name": "answer", "arguments": ""},
                }
            ]
        },
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
        {"content": ""},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["tool_calls"]
    assert chunks[-1]["usage"]["completion_tokens"] == 2


def calls_in(said, *, stream):
    if not stream:
        return said.json["choices"][0]["message"]["tool_calls"]
    deltas = [event["choices"][0]["delta"] for event in said.events[:-1]]
    return [call for delta in deltas for call in delta.get("tool_calls", [])]


@pytest.mark.parametrize("path", [BETA, "/chat/completions"])
@pytest.mark.parametrize("choice", [CHOICE, "required"], ids=["named", "required"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_forced_function_is_called_with_arguments_of_its_schema(sandbox, path, choice, stream):
    """At the beta address and, as was seen live, at the normal one."""
    said = ask(
        sandbox, "my card is lost", path=path, tools=[tool()], tool_choice=choice, thinking=OFF, stream=stream
    )
    assert said.status == 200
    assert len(re.findall(rb'"id":"call_00_[A-Za-z0-9]{24}"', said.body)) == 1
    pieces = [piece["function"]["arguments"] for piece in calls_in(said, stream=stream)]
    assert json.loads("".join(pieces)) == {"label": "card"}
    record = sandbox.log[-1]
    assert record.usable
    assert record.completion_tokens > 0


def test_functions_are_part_of_the_prompt_that_is_billed_and_cached(sandbox):
    with_tool = ask(sandbox, "my card is lost", tools=[tool()], tool_choice=CHOICE, thinking=OFF).json[
        "usage"
    ]
    without = ask(sandbox, "my card is lost", thinking=OFF).json["usage"]
    assert with_tool["prompt_tokens"] > without["prompt_tokens"] + 20


@pytest.mark.parametrize("choice", [None, "auto", "none"])
def test_a_model_that_is_free_to_call_answers_in_words(sandbox, choice):
    said = ask(sandbox, "my card is lost", tools=[tool()], tool_choice=choice, thinking=OFF)
    assert said.json["choices"][0]["finish_reason"] == "stop"
    assert "tool_calls" not in said.json["choices"][0]["message"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tools": [tool(parameters={**PARAMETERS, "required": []})]}, "required"),
        ({"tools": [tool(), tool()]}, "unique"),
        ({"tools": [tool(name="an answer")]}, "name"),
        ({"tools": [tool(name="x" * 129)]}, "name"),
        ({"tools": [tool(name=f"t{n}") for n in range(129)]}, "128"),
        ({"tools": [{"type": "retrieval"}]}, "functions"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "other"),
        ({"tools": None}, "tools"),
        ({"thinking": {"type": "enabled"}}, "Thinking mode does not support this tool_choice"),
    ],
)
def test_what_is_no_function_is_refused(sandbox, changes, words):
    """A 400, and nothing is charged."""
    request = {"tools": [tool()], "tool_choice": CHOICE, "thinking": OFF} | changes
    said = ask(sandbox, "my card is lost", path=BETA, **request)
    assert said.status == 400
    assert words in said.message
    assert sandbox.log.cost_usd == 0


def test_what_the_documents_rule_out_and_the_service_takes_is_taken(sandbox):
    """A missing additionalProperties, and a length of a text."""
    loose = {"type": "object", "properties": {"a": {"type": "string", "minLength": 1}}, "required": ["a"]}
    said = ask(
        sandbox, "hello there", path=BETA, tools=[tool(parameters=loose)], tool_choice=CHOICE, thinking=OFF
    )
    assert said.status == 200
