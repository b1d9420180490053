"""Answers that are calls of a function: their bytes as documented, and what is refused."""

from __future__ import annotations

import json
import re

import fastjsonschema
import pytest
from raw_client import ask

from deepseek_nb.sandbox import Call, Completion
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
    body = completion_body(HEAD, '{"a":1}', Bill(8, 0, 1).text(), finish_reason="tool_calls", calls=(CALL,))
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
    work = Work(HEAD, Draft(('{"a"', ":1}"), None), Bill(8, 0, 2), stream=True, calls=(CALL,))
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


# --------------------------------------------------------- functions that the model is free to call

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FREE = [
    tool(name="get_weather", description="Tell how the sky will be.", parameters=CITY, strict=False),
    tool(name="get_time", description="Tell the hour in a town.", parameters=CITY, strict=False),
    tool(name="noon", description="Look whether somebody eats dinner.", parameters=None, strict=False),
]
RESULT = {"role": "tool", "content": "22 C and dry", "tool_call_id": "call_00_x"}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": "call_00_x", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    ],
}


def put_together(said, *, stream):
    """The calls of an answer: number to name and arguments."""
    calls: dict[int, list[str]] = {}
    for piece in calls_in(said, stream=stream):
        function = piece["function"]
        if "id" in piece:
            assert re.fullmatch(r"call_\d\d_[A-Za-z0-9]{24}", piece["id"])
            calls[piece["index"]] = [function["name"], function["arguments"]]
        else:
            calls[piece["index"]][1] += function["arguments"]
    return {index: (name, json.loads(arguments)) for index, (name, arguments) in calls.items()}


@pytest.mark.parametrize("thinking", [OFF, None], ids=["thinking off", "thinking"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("question", "names"),
    [
        ("What is the weather in Rome?", ["get_weather"]),
        ("Tell me the time in Oslo and the weather there.", ["get_weather", "get_time"]),
        ("Will the sky over Rome be blue?", []),
        ("Will somebody have eaten my dinner?", ["noon"]),
    ],
)
def test_functions_that_the_question_speaks_of_are_called(sandbox, question, names, stream, thinking):
    """Each by its number, with arguments that fit its schema, and the reasoning before them."""
    said = ask(sandbox, question, tools=FREE, stream=stream, thinking=thinking)
    finish = said.events[-2]["choices"][0] if stream else said.json["choices"][0]
    assert finish["finish_reason"] == ("tool_calls" if names else "stop")
    if not names:
        assert said.text.startswith("[simulated] ")
        return
    calls = put_together(said, stream=stream)
    assert [calls[index][0] for index in range(len(names))] == names
    for name, arguments in calls.values():
        fastjsonschema.validate(CITY if name != "noon" else {"type": "object", "maxProperties": 0}, arguments)
    assert (said.text or "") == ""
    assert sandbox.log[-1].usable
    assert (b"reasoning_content" in said.body) is (thinking is None)


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("required", "get_time"),
        ({"type": "function", "function": {"name": "noon"}}, "noon"),
        ("none", None),
        ("auto", "get_time"),
    ],
)
def test_the_choice_is_respected(sandbox, choice, name):
    said = ask(sandbox, "What time is it in Oslo?", tools=FREE, tool_choice=choice)
    message = said.json["choices"][0]["message"]
    assert [call["function"]["name"] for call in message.get("tool_calls", [])] == [name] * bool(name)


@pytest.mark.parametrize("stream", [True, False])
def test_after_the_results_it_answers_with_what_they_say(sandbox, stream):
    turns = [{"role": "user", "content": "What is the weather in Rome?"}, CALLED, RESULT]
    said = ask(sandbox, tools=FREE, messages=turns, stream=stream)
    assert said.text == "[simulated] 22 C and dry"
    again = [*turns, {"role": "assistant", "content": "Dry."}, {"role": "user", "content": "And the time?"}]
    assert put_together(ask(sandbox, tools=FREE, messages=again), stream=False)[0][0] == "get_time"


def test_one_that_has_to_call_goes_on_to_the_next_function(sandbox):
    """As agents have it that end with a call of their own: first one function, then the other."""
    turns = [{"role": "user", "content": "What is the weather in Rome?"}, CALLED, RESULT]
    for sent, name in ((turns[:1], "get_weather"), (turns, "noon")):
        said = ask(sandbox, messages=sent, tools=[FREE[2], FREE[0]], tool_choice="required")
        assert put_together(said, stream=False)[0][0] == name


def test_calls_and_results_are_billed(sandbox):
    turns = [{"role": "user", "content": "What is the weather in Rome?"}, CALLED, RESULT]
    long = json.loads(json.dumps(turns))
    long[1]["tool_calls"][0]["function"]["arguments"] = json.dumps({"city": "Rome " * 50})
    usage = [ask(sandbox, messages=one).json["usage"]["prompt_tokens"] for one in (turns, long)]
    assert usage[1] > usage[0] + 40


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([CALLED, {"role": "user", "content": "x"}], "insufficient tool messages"),
        ([{"role": "user", "content": "x"}, RESULT], "must be a response to a preceding message"),
        ([CALLED, {**RESULT, "tool_call_id": "other"}], "must be a response to a preceding message"),
        ([{**CALLED, "tool_calls": "x"}, RESULT], "Invalid tool_calls"),
        ([{**CALLED, "tool_calls": [{"id": "call_00_x"}]}, RESULT], "Invalid tool_calls"),
    ],
)
def test_turns_that_do_not_follow_one_another_are_refused(sandbox, turns, words):
    said = ask(sandbox, messages=turns, tools=FREE)
    assert said.status == 400
    assert words in said.message
    assert sandbox.log.cost_usd == 0


def test_a_choice_there_is_none_of_is_refused(sandbox):
    assert "tool_choice" in ask(sandbox, tools=FREE, tool_choice="any").message


def test_an_engine_of_ones_own_may_call(make):
    """Two calls, whose borders fall inside a token."""
    calls = (Call("one", '{"a":1}'), Call("two", '{"b":2}'), Call("three", "{}"))
    server = make(engine=lambda _: Completion("", calls=calls), count="estimate")
    for stream in (True, False):
        said = ask(server, tools=FREE, stream=stream)
        assert put_together(said, stream=stream) == {
            0: ("one", {"a": 1}),
            1: ("two", {"b": 2}),
            2: ("three", {}),
        }
