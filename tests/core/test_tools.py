"""Calls of functions: what is offered and refused, how a call is sent, read and kept, however it is cut."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.core.chat import Answer, ChatRequest, Message
from deepseek_nb.core.errors import AnswerEmpty, AnswerInvalid, AnswerTruncated
from deepseek_nb.core.retry import repaired
from deepseek_nb.core.tokens import estimate_request_tokens
from deepseek_nb.core.tools import (
    CallReader,
    ToolCall,
    ToolCallPiece,
    ToolsInvalid,
    check_chain,
    read_tool_calls,
    read_tools,
)
from deepseek_nb.core.wire import Delta, request_body, request_path

from .test_wire import event, read

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "Tell the weather.", "parameters": SCHEMA}
NAMED = {"type": "function", "function": {"name": "weather"}}


def tool(**changes):
    return {"type": "function", "function": WEATHER | changes}


OFFER = read_tools([tool()])
ASKED = ChatRequest("deepseek-flash", (Message("user", "Rome?"),), tools=OFFER)
CALL = ToolCall("call_00_x", "weather", '{"city":"Rome"}')
TURNS = (
    Message("user", "Rome?"),
    Message("assistant", "", tool_calls=(CALL,)),
    Message("tool", "22 C", tool_call_id="call_00_x"),
)


def piece(index=0, arguments="", **more):
    function = {"arguments": arguments} | ({"name": more.pop("name")} if "name" in more else {})
    return {"tool_calls": [{"index": index, "function": function, **more}]}


def stream(*deltas, finish="tool_calls"):
    parts = [event({"role": "assistant", "content": ""}), *map(event, deltas)]
    return b"".join([*parts, event({"content": ""}, finish), b"data: [DONE]\n\n"])


# ------------------------------------------------------------------------------------- what is offered


@pytest.mark.parametrize(
    ("choice", "told", "forced"),
    [
        (None, None, False),
        ("auto", None, False),
        ("none", "none", False),
        ("required", "required", True),
        (NAMED, NAMED, True),
    ],
)
def test_what_is_offered_is_sent_as_it_was_given(choice, told, forced):
    """Nothing is sent that was not asked for: "auto" is what the server does by itself."""
    request = replace(ASKED, tools=read_tools([tool(strict=None)], choice))
    body = json.loads(request_body(request, stream=False))
    assert body.pop("tools") == [tool()]
    assert body.pop("tool_choice", None) == told
    assert sorted(body) == ["messages", "model"]
    assert request.tools.forced is forced


@pytest.mark.parametrize("none", [None, []])
def test_no_function_is_no_offer(none):
    assert read_tools(none, "auto") is None
    with pytest.raises(ToolsInvalid) as caught:
        read_tools(none, "required")
    assert caught.value.where == "tool_choice"


@pytest.mark.parametrize(
    ("tools", "choice", "where"),
    [
        ("weather", None, "tools"),
        ({"weather": {}}, None, "tools"),
        ([tool(name=f"f{n}") for n in range(129)], None, "tools"),
        (["weather"], None, "tools[0]"),
        ([{"type": "custom", "custom": {}}], None, "tools[0].type"),
        ([{"function": WEATHER}], None, "tools[0].type"),
        ([{**tool(), "cache_control": {}}], None, "tools[0].cache_control"),
        ([{"type": "function"}], None, "tools[0].function"),
        ([tool(), {"type": "function", "function": {}}], None, "tools[1].function.name"),
        ([tool(name="a b")], None, "tools[0].function.name"),
        ([tool(name="x" * 129)], None, "tools[0].function.name"),
        ([tool(name=7)], None, "tools[0].function.name"),
        ([tool(), tool()], None, "tools[1].function.name"),
        ([tool(description=7)], None, "tools[0].function.description"),
        ([tool(parameters="city")], None, "tools[0].function.parameters"),
        ([tool(parameters={"minimum": float("nan")})], None, "tools"),
        ([tool(parameters={"enum": {1, 2}})], None, "tools"),
        ([tool(strict="yes")], None, "tools[0].function.strict"),
        ([tool(defer=True)], None, "tools[0].function.defer"),
        ([tool()], "any", "tool_choice"),
        ([tool()], 7, "tool_choice"),
        ([tool()], {"type": "allowed_tools"}, "tool_choice.type"),
        ([tool()], {"type": "function"}, "tool_choice.function"),
        ([tool()], {"type": "function", "function": {"name": "time"}}, "tool_choice.function.name"),
        ([tool()], {"type": "function", "function": {"name": ["weather"]}}, "tool_choice.function.name"),
    ],
)
def test_what_is_no_function_is_refused_with_its_place(tools, choice, where):
    with pytest.raises(ToolsInvalid) as caught:
        read_tools(tools, choice)
    assert caught.value.where == where
    assert where.split("[")[0].split(".")[0] in str(caught.value)


def test_a_schema_without_end_is_refused():
    deep: dict = {}
    for _ in range(100_000):
        deep = {"items": deep}
    with pytest.raises(ToolsInvalid, match="nested too deeply"):
        read_tools([tool(parameters=deep)])


def test_strict_functions_go_to_the_beta_address():
    """Where all of them are strict, as documented, and to no other server's."""
    strict, loose = tool(strict=True), tool(name="time")
    assert request_path(replace(ASKED, tools=read_tools([strict]))).startswith("/beta/")
    assert request_path(replace(ASKED, tools=read_tools([strict])), dialect="openai") == "/chat/completions"
    assert request_path(replace(ASKED, tools=read_tools([strict, loose]))) == "/chat/completions"
    assert request_path(ASKED) == "/chat/completions"


# ------------------------------------------------------------------------------------- names and weights


def test_functions_and_their_turns_are_part_of_the_fingerprint():
    """Another function, choice, call or result is another question."""
    plain = replace(ASKED, tools=None)
    asked = [
        plain,
        ASKED,
        replace(ASKED, tools=read_tools([tool(description="Other.")])),
        replace(ASKED, tools=read_tools([tool()], "required")),
        replace(ASKED, tools=read_tools([tool()], "none")),
        replace(ASKED, tools=read_tools([tool()], NAMED)),
        replace(ASKED, tools=read_tools([tool()], parallel=False)),
        replace(ASKED, messages=TURNS),
        replace(plain, messages=TURNS),
        replace(ASKED, messages=(*TURNS[:2], replace(TURNS[2], tool_call_id="other"))),
        replace(ASKED, messages=(*TURNS[:2], replace(TURNS[2], content="23 C"))),
        replace(ASKED, messages=(TURNS[0], replace(TURNS[1], tool_calls=()), TURNS[2])),
        *(
            replace(
                ASKED, messages=(TURNS[0], replace(TURNS[1], tool_calls=(replace(CALL, **one),)), TURNS[2])
            )
            for one in ({"id": "other"}, {"name": "other"}, {"arguments": "{}"})
        ),
    ]
    assert len({request.fingerprint("r") for request in asked}) == len(asked)
    assert ASKED.fingerprint("r") == replace(ASKED, tools=read_tools([tool()], "auto")).fingerprint("r")


def test_functions_calls_and_results_weigh():
    """A budget reserves for them."""
    plain = replace(ASKED, tools=None)
    weights = [estimate_request_tokens(one) for one in (plain, ASKED, replace(ASKED, messages=TURNS))]
    assert weights[1] > weights[0] + 20
    assert weights[2] > weights[1] + 10


# ------------------------------------------------------------------------------------- turns


def test_turns_are_sent_as_the_service_reads_them():
    """An empty reasoning stands where there is none: while it thinks, the service refuses its absence."""
    told = json.loads(request_body(replace(ASKED, messages=TURNS)))["messages"]
    assert told[1]["tool_calls"] == [
        {
            "id": "call_00_x",
            "type": "function",
            "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
        }
    ]
    assert told[1]["reasoning_content"] == ""
    assert told[2] == {"role": "tool", "content": "22 C", "tool_call_id": "call_00_x"}
    thought = replace(ASKED, messages=(TURNS[0], replace(TURNS[1], reasoning="hm"), TURNS[2]))
    assert json.loads(request_body(thought))["messages"][1]["reasoning_content"] == "hm"
    elsewhere = json.loads(request_body(thought, dialect="openai"))["messages"]
    assert "reasoning_content" not in elsewhere[1]
    assert elsewhere[1]["tool_calls"] == told[1]["tool_calls"]


def test_a_request_that_ends_in_calls_tells_them():
    last = json.loads(request_body(replace(ASKED, messages=TURNS[:2])))["messages"][-1]
    assert last["tool_calls"][0]["id"] == "call_00_x"


def test_calls_read_back_are_the_calls_that_were_told():
    assert read_tool_calls([{"index": 0, **CALL.told()}], "x") == (CALL,)
    assert read_tool_calls([CALL], "x") == (CALL,)


@pytest.mark.parametrize(
    ("calls", "where"),
    [
        ("call", "w"),
        ({"id": "1"}, "w"),
        (["call"], "w[0]"),
        ([{"function": {"name": "f", "arguments": "{}"}}], "w[0].id"),
        ([{"id": "", "function": {"name": "f", "arguments": "{}"}}], "w[0].id"),
        ([{"id": 1, "function": {"name": "f", "arguments": "{}"}}], "w[0].id"),
        ([{"id": "1"}], "w[0].function"),
        ([{"id": "1", "function": {"arguments": "{}"}}], "w[0].function.name"),
        ([{"id": "1", "function": {"name": "f", "arguments": {}}}], "w[0].function.arguments"),
        ([{"id": "1", "function": {"name": "f", "arguments": "", "x": 1}}], "w[0].function.x"),
        ([{"id": "1", "type": "custom", "function": {"name": "f", "arguments": ""}}], "w[0].type"),
        ([CALL, CALL], "w[1].id"),
    ],
)
def test_what_is_no_call_is_refused_with_its_place(calls, where):
    with pytest.raises(ToolsInvalid) as caught:
        read_tool_calls(calls, "w")
    assert caught.value.where == where


@pytest.mark.parametrize(
    ("turns", "where"),
    [
        (TURNS[2:], "messages[0].tool_call_id"),
        ((TURNS[0], TURNS[2]), "messages[1].tool_call_id"),
        (TURNS[:2], "messages[1]"),
        ((*TURNS[:2], TURNS[0]), "messages[2]"),
        ((*TURNS, TURNS[2]), "messages[3].tool_call_id"),
        ((*TURNS[:2], replace(TURNS[2], tool_call_id="y")), "messages[2].tool_call_id"),
        ((*TURNS[:2], replace(TURNS[2], tool_call_id=None)), "messages[2].tool_call_id"),
    ],
)
def test_a_broken_chain_is_refused_with_its_place(turns, where):
    with pytest.raises(ToolsInvalid, match="'tool_calls'") as caught:
        check_chain(turns)
    assert caught.value.where == where
    check_chain((*TURNS, Message("assistant", "Warm."), *TURNS))


# ------------------------------------------------------------------------------------- what is called


@pytest.mark.parametrize("size", [1, 3, 50, None])
def test_calls_are_put_together_from_their_pieces(size):
    """Two calls, mixed; they are told as they come, the name once, and there need be no text."""
    body = stream(
        piece(0, name="weather", id="a", type="function"),
        piece(0, '{"city":'),
        piece(1, name="weather", id="b", type="function"),
        piece(1, "{}"),
        piece(0, '"Rome"}'),
    )
    answer, deltas, decoder = read(body, ASKED, size=size)
    assert answer.tool_calls == (ToolCall("a", "weather", '{"city":"Rome"}'), ToolCall("b", "weather", "{}"))
    assert (answer.text, answer.finish_reason) == ("", "tool_calls")
    pieces = [one for delta in deltas for one in delta.tool_calls]
    assert [one.name for one in pieces if one.name] == ["weather", "weather"]
    assert "".join(one.arguments for one in pieces if one.index == 0) == '{"city":"Rome"}'
    assert decoder.progressed == 5
    assert answer.usage.completion_tokens > 5  # estimated: none was told


def test_a_whole_message_with_calls_is_an_answer():
    """With text beside them, and without numbers, as other servers send it."""
    message = {"content": "I look.", "tool_calls": [CALL.told(), {**CALL.told(), "id": "b"}]}
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    answer, _, _ = read(json.dumps(body).encode(), ASKED)
    assert (answer.text, answer.tool_calls) == ("I look.", (CALL, replace(CALL, id="b")))


@pytest.mark.parametrize(
    "pieces",
    [
        [{"tool_calls": [{"function": {"name": "weather", "arguments": '{"city":'}}]},
         {"tool_calls": [{"function": {"arguments": '"Rome"}'}}]}],
        [piece(3, '{"city":', name="weather"), piece(3, '"Rome"}', name="weather")],
        [piece(0, '{"city":'), piece(0, '"Rome"}', name="weather")],
        [piece(0, '{"city":', name="weather", id=None), {"tool_calls": [None, 7]},
         piece(0, '"Rome"}', id="late")],
    ],
    ids=["no number", "the name in each piece", "the name late", "no id and what is no call"],
)  # fmt: skip
def test_what_other_servers_leave_out_is_mended(pieces):
    answer, deltas, _ = read(stream(*pieces), ASKED)
    assert answer.tool_calls == (ToolCall("call_00", "weather", '{"city":"Rome"}'),)
    begun, *rest = [one for delta in deltas for one in delta.tool_calls]
    assert (begun.index, begun.id, begun.name) == (0, "call_00", "weather")
    assert begun.arguments + "".join(one.arguments for one in rest) == '{"city":"Rome"}'


def test_calls_after_the_first_are_left_out_where_one_was_asked_for():
    one = replace(ASKED, tools=read_tools([tool()], parallel=False))
    body = stream(
        piece(0, "{}", name="weather", id="a"), piece(1, "{}", name="weather", id="b"), piece(1, " ")
    )
    answer, deltas, _ = read(body, one)
    assert answer.tool_calls == (ToolCall("a", "weather", "{}"),)
    assert {call.index for delta in deltas for call in delta.tool_calls} == {0}


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (stream(), AnswerEmpty),
        (stream({"tool_calls": "none"}), AnswerEmpty),
        (stream(piece(0, '{"city":"Ro', name="weather", id="a"), finish="length"), AnswerTruncated),
        (stream(piece(0, "{}", id="a")), AnswerInvalid),
        (stream({"content": "<｜DSML｜tool_calls>"}), AnswerInvalid),
    ],
)
def test_what_is_no_whole_call_is_no_answer(body, error):
    """It was charged, and is kept and asked again as other answers are; a call may be the second answer."""
    with pytest.raises(AnswerInvalid) as caught:
        read(body, ASKED)
    assert type(caught.value) is error
    again = repaired(ASKED, caught.value, 1)
    assert again.tools == OFFER
    assert again.messages[: len(ASKED.messages)] == ASKED.messages


def test_calls_that_nobody_offered_are_not_an_answer():
    with pytest.raises(AnswerEmpty):
        read(stream(piece(0, "{}", name="weather", id="a")))


@given(
    st.lists(
        st.recursive(
            st.none() | st.integers() | st.text(),
            lambda x: (
                st.lists(x)
                | st.dictionaries(
                    st.sampled_from(["index", "id", "function", "name", "arguments", "tool_calls"]), x
                )
            ),
            max_leaves=20,
        )
    )
)
def test_any_calls_are_read_without_a_fault(values):
    """Whatever stands there, the answer's calls are what its pieces told, one after another."""
    reader = CallReader()
    told = [one for value in values for one in reader.take({"tool_calls": value})]
    for place, call in enumerate(reader.calls):
        mine = [one for one in told if one.index == place]
        assert not call.name or "".join(one.arguments for one in mine) == call.arguments
        assert [one.name for one in mine if one.name] == [call.name][: bool(call.name)]


# ------------------------------------------------------------------------------------- kept answers


def test_an_answer_with_calls_survives_the_store():
    answer = Answer("", finish_reason="tool_calls", tool_calls=(CALL, replace(CALL, id="b")))
    kept = json.loads(json.dumps(answer.to_json()))
    assert Answer.from_json(kept) == replace(answer, cached=True)
    assert "tool_calls" not in Answer("text").to_json()


def test_a_kept_answer_is_told_in_one_piece():
    delta = Delta.of(Answer("I look.", reasoning="hm", tool_calls=(CALL,)))
    assert delta.tool_calls == (ToolCallPiece(0, CALL.id, CALL.name, CALL.arguments),)
    assert (delta.text, delta.reasoning, delta.restart) == ("I look.", "hm", False)


def test_calls_are_shown_to_the_letter():
    """Outside of IPython: below the text, in one block."""
    assert Answer("", tool_calls=(CALL,))._repr_markdown_() == '```\nweather({"city":"Rome"})\n```'
    evil = replace(CALL, arguments='{"city":"```"}')
    assert Answer("x", tool_calls=(evil,))._repr_markdown_() == '````\nx\nweather({"city":"```"})\n````'
