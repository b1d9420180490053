"""Calls of functions through the gateway: OpenAI's package and LangChain as they are, every promise kept."""

from __future__ import annotations

import json
import threading
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepseek_nb.core.chat import Answer
from deepseek_nb.core.tools import ToolCall, ToolCallPiece
from deepseek_nb.core.wire import Delta
from deepseek_nb.gateway.asks import read_chat
from deepseek_nb.gateway.refusals import ApiError
from deepseek_nb.gateway.replies import Transcripts
from deepseek_nb.sandbox import Call, Completion, Fault, FaultScript, Sandbox

from .people import chat_body, new_client
from .test_hostile import token_of

ROME = "What is the weather in Rome?"
BOTH = "Tell me the weather in Rome, and the time."
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
NAMED = {"type": "function", "function": {"name": "get_time"}}


def tool(name: str = "get_weather", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": CITY, **more}}


TOOLS = [tool(), tool("get_time")]
CALL = {"id": "a", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "22 C", "tool_call_id": "a"}


def tool_body(text: str = ROME, **more: Any) -> dict[str, Any]:
    return chat_body(text, **{"tools": TOOLS, **more})


def message_of(reply: httpx.Response) -> dict[str, Any]:
    return reply.json()["choices"][0]["message"]


def events_of(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.text.endswith("data: [DONE]\n\n"), reply.text[-500:]
    events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line.startswith("data: {")]
    return [json.loads(event) for event in events]


def calls_in(reply: httpx.Response) -> list[dict[str, Any]]:
    """The calls of a stream, put together as OpenAI's clients do; each begins with its name alone."""
    calls: dict[int, dict[str, Any]] = {}
    for event in events_of(reply):
        for piece in event["choices"][0]["delta"].get("tool_calls", []):
            if "id" in piece:
                assert (piece["index"] not in calls, piece["type"]) == (True, "function")
                assert piece["function"]["arguments"] == ""
                calls[piece["index"]] = {**piece, "function": dict(piece["function"])}
            else:
                assert sorted(piece) == ["function", "index"]
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    assert list(calls) == list(range(len(calls)))
    return list(calls.values())


@pytest.fixture
def ai(gateway):
    """The openai package, as anybody uses it: a base_url and a key."""
    with openai.OpenAI(
        base_url=f"{gateway.base_url}/v1", api_key=token_of("desk"), max_retries=0, timeout=30
    ) as client:
        yield client


# ------------------------------------------------------------------------------------- OpenAI's package


@pytest.mark.parametrize("extra", [{}, {"thinking": {"type": "disabled"}}], ids=["thinking", "not thinking"])
@pytest.mark.parametrize("stream", [False, True])
def test_openai_talks_in_two_turns(ai, upstream, stream, extra):
    """The message is sent back as it came; the package's own helper puts a stream together."""
    turns: list[Any] = [{"role": "user", "content": BOTH}]
    how = {"model": "deepseek-flash", "tools": TOOLS, "extra_body": extra}

    def say() -> Any:
        if not stream:
            return ai.chat.completions.create(messages=turns, **how)
        with ai.chat.completions.stream(messages=turns, **how) as streamed:
            return streamed.get_final_completion()

    (choice,) = say().choices
    assert (choice.finish_reason, choice.message.content or "") == ("tool_calls", "")
    calls = choice.message.tool_calls
    assert [call.function.name for call in calls] == ["get_weather", "get_time"]
    assert all(list(json.loads(call.function.arguments)) == ["city"] for call in calls)
    assert len({call.id for call in calls}) == 2
    turns.append(choice.message)
    turns += [
        {"role": "tool", "tool_call_id": call.id, "content": f"{call.function.name} says so."}
        for call in calls
    ]
    (choice,) = say().choices
    assert choice.message.content == "[simulated] get_weather says so. get_time says so."
    assert (choice.finish_reason, choice.message.tool_calls or None) == ("stop", None)
    assert len(upstream.log.chats) == 2


def test_the_bytes_of_calls(as_tenant, upstream):
    """In DeepSeek's form, which is OpenAI's: whole, streamed, and from the cache."""
    client = as_tenant()
    whole = client.post("/chat/completions", json=tool_body(BOTH))
    message = message_of(whole)
    assert list(message) == ["role", "content", "tool_calls"]
    assert message["content"] == ""
    assert [list(call) for call in message["tool_calls"]] == [["index", "id", "type", "function"]] * 2
    assert whole.json()["choices"][0]["finish_reason"] == "tool_calls"
    kept = client.post("/chat/completions", json=tool_body(BOTH, stream=True))
    fresh = client.post(
        "/chat/completions", json=tool_body(BOTH, stream=True), headers={"cache-control": "no-store"}
    )
    assert (kept.headers["x-cache"], fresh.headers["x-cache"]) == ("hit", "miss")
    assert calls_in(kept) == message["tool_calls"]
    assert [call["function"] for call in calls_in(fresh)] == [c["function"] for c in message["tool_calls"]]
    assert events_of(fresh)[-1]["choices"][0]["finish_reason"] == "tool_calls"
    assert len(events_of(fresh)) > 12 > len(events_of(kept))
    assert len(upstream.log.chats) == 2


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        (None, ["get_weather"]),
        ("auto", ["get_weather"]),
        ("none", []),
        ("required", ["get_weather"]),
        (NAMED, ["get_time"]),
    ],
)
def test_a_choice_is_respected_also_where_thinking_is_not_named(ai, upstream, choice, names):
    """The service thinks by default and forces no call then: a forced one is asked for without."""
    more = {} if choice is None else {"tool_choice": choice}
    answer = ai.chat.completions.create(
        model="deepseek-flash", messages=[{"role": "user", "content": ROME}], tools=TOOLS, **more
    )
    calls = answer.choices[0].message.tool_calls or []
    assert [call.function.name for call in calls] == names
    assert len(upstream.log.chats) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_one_call_where_one_is_asked_for(as_tenant, upstream, stream):
    client = as_tenant()
    one = client.post("/chat/completions", json=tool_body(BOTH, stream=stream, parallel_tool_calls=False))
    two = client.post("/chat/completions", json=tool_body(BOTH, stream=stream, parallel_tool_calls=True))
    read = calls_in if stream else lambda reply: message_of(reply)["tool_calls"]
    assert (len(read(one)), len(read(two))) == (1, 2)


# ------------------------------------------------------------------------------------- LangChain


@pytest.fixture
def langchain(gateway):
    """LangChain's client of OpenAI, told nothing but the address and a token."""
    chat_models = pytest.importorskip("langchain_openai")
    return chat_models.ChatOpenAI(
        base_url=f"{gateway.base_url}/v1", api_key=token_of("desk"), model="deepseek-flash", max_retries=0
    )


def get_weather(city: str) -> str:
    """Tell the weather."""
    return f"It is 22 C in the place of {len(city)} letters"


def get_time(city: str, digits: int = 2) -> str:
    """Tell the time."""
    return f"It is noon to {digits} digits"


def agent_loop(model: Any, question: str, *, stream: bool) -> tuple[str, list[str]]:
    """The loop that every agent is: ask, call, tell the results, until it answers in words."""
    core = pytest.importorskip("langchain_core")
    assert core
    messages = pytest.importorskip("langchain_core.messages")
    tools = pytest.importorskip("langchain_core.tools")
    known = {made.name: made for made in map(tools.tool, (get_weather, get_time))}
    bound = model.bind_tools(list(known.values()))
    turns: list[Any] = [messages.SystemMessage("Be brief."), messages.HumanMessage(question)]
    called = []
    for _ in range(5):
        if stream:
            said, *rest = bound.stream(turns)
            for piece in rest:
                said += piece
            said = messages.AIMessage(said.content, tool_calls=said.tool_calls)
        else:
            said = bound.invoke(turns)
        assert not said.invalid_tool_calls
        turns.append(said)
        if not said.tool_calls:
            return said.content, called
        called += [call["name"] for call in said.tool_calls]
        turns += [known[call["name"]].invoke(call) for call in said.tool_calls]
    raise AssertionError(turns)


@pytest.mark.parametrize("stream", [False, True])
def test_a_langchain_agent_gets_to_its_answer(langchain, upstream, stream):
    """It sends no reasoning back, while the model thinks: the service would refuse that, and does not."""
    said, called = agent_loop(langchain, BOTH, stream=stream)
    assert called == ["get_weather", "get_time"]
    assert said.startswith("[simulated] It is 22 C in the place of")
    assert "noon" in said
    assert len(upstream.log.chats) == 2
    again = agent_loop(langchain, BOTH, stream=not stream)
    assert again == (said, called)
    assert len(upstream.log.chats) == 2


def test_langchain_reads_a_shape_by_a_forced_call(langchain):
    """The usual way of ``with_structured_output``, strict or not."""
    pydantic = pytest.importorskip("pydantic")
    weather = pydantic.create_model("Weather", city=(str, ...), degrees=(int, ...))
    for strict in (None, True):
        read = langchain.with_structured_output(weather, method="function_calling", strict=strict)
        assert isinstance(read.invoke(f"{ROME} It has 22 degrees."), weather)


# ------------------------------------------------------------------------------------- the promises


@pytest.mark.parametrize("stream", [False, True])
def test_a_killed_upstream_loses_no_call(serve, stream):
    """It dies in the middle of the arguments: another one says the same again, and each id stands once."""
    with (
        Sandbox(count="estimate", token_s=0.05) as first,
        Sandbox(count="estimate", time_scale=100, api_key=None) as second,
    ):
        more = [
            {"name": "second", "base_url": second.base_url, "model": "deepseek-flash", "key_env": "UP_KEY"}
        ]
        gateway = serve(before=first, more=more, failover="2s")
        came: list[httpx.Response] = []

        def ask() -> None:
            with new_client(gateway) as client:
                came.append(client.post("/chat/completions", json=tool_body(BOTH, stream=stream)))

        thread = threading.Thread(target=ask)
        thread.start()
        thread.join(0.6)
        assert thread.is_alive()
        first.stop()
        thread.join(20)
        (reply,) = came
        assert reply.status_code == 200, reply.text
        calls = calls_in(reply) if stream else message_of(reply)["tool_calls"]
        assert [call["function"]["name"] for call in calls] == ["get_weather", "get_time"]
        assert all(list(json.loads(call["function"]["arguments"])) == ["city"] for call in calls)
        if stream:
            assert events_of(reply)[-1]["gateway"]["upstream"] == "second"
        assert len(second.log.chats) == 1


@pytest.mark.parametrize("fault", ["busy_503", "cut_rst", "no_done", Fault("cut_eof", after_tokens=7)])
@pytest.mark.parametrize("stream", [False, True])
def test_what_breaks_is_asked_again(as_tenant, upstream, fault, stream):
    upstream.faults = FaultScript.of(fault)
    reply = as_tenant().post("/chat/completions", json=tool_body(BOTH, stream=stream))
    calls = calls_in(reply) if stream else message_of(reply)["tool_calls"]
    assert [call["function"]["name"] for call in calls] == ["get_weather", "get_time"]
    assert len(upstream.log.chats) == 2


@pytest.mark.parametrize(
    "second", [(Call("get_time", '{"city":"Rome, Italy"}'),), (Call("get_weather", '{"city":"Oslo"}'),), ()]
)
def test_another_call_than_the_one_that_was_begun_ends_the_stream(serve, second):
    """Half of it was sent and cannot be taken back."""
    said = iter([(Call("get_weather", '{"city":"Rome, Italy"}'),), second])
    with Sandbox(
        engine=lambda _: Completion("words", calls=next(said)), time_scale=100, count="estimate"
    ) as other:
        other.faults = FaultScript.of(Fault("cut_rst", after_tokens=5))
        with new_client(serve(before=other)) as client:
            body = client.post("/chat/completions", json=tool_body(stream=True)).text
    assert "[DONE]" not in body
    assert json.loads(body.split("\n\n")[-2].removeprefix("data: "))["error"]["code"] == "stream_broken"


@given(
    calls=st.lists(st.tuples(st.sampled_from(["one", "two"]), st.text("ab{}", max_size=6)), max_size=3),
    text=st.text("xy", max_size=4),
    broke_at=st.integers(0, 30),
    size=st.integers(1, 4),
)
def test_what_is_sent_before_and_after_a_break_is_the_answer_once(calls, text, broke_at, size):
    """Wherever the first try breaks, and however the second one cuts what it says again."""

    def said(ids: str, size: int) -> tuple[Answer, list[Delta]]:
        called = [ToolCall(f"{ids}{at}", name, arguments) for at, (name, arguments) in enumerate(calls)]
        deltas = [Delta(text[at : at + size]) for at in range(0, len(text), size)]
        for at, call in enumerate(called):
            pieces = [ToolCallPiece(at, call.id, call.name)]
            cuts = range(0, len(call.arguments), size)
            pieces += [ToolCallPiece(at, arguments=call.arguments[cut : cut + size]) for cut in cuts]
            deltas += [Delta(tool_calls=(piece,)) for piece in pieces]
        return Answer(text, tool_calls=tuple(called)), deltas

    told, (_, first), (answer, second) = Transcripts(), said("a", 1), said("b", size)
    sent = [told.add(delta) for delta in first[:broke_at]]
    told.again()
    sent += [*(told.add(delta) for delta in second), told.rest(answer)]
    pieces = [piece for delta in sent for piece in delta.tool_calls]
    assert "".join(delta.text for delta in sent) == text
    for at, (name, arguments) in enumerate(calls):
        assert [piece.name for piece in pieces if piece.index == at and piece.name] == [name]
        assert "".join(piece.arguments for piece in pieces if piece.index == at) == arguments


@pytest.mark.parametrize("stream", [False, True])
def test_calls_are_paid_once_and_each_tenant_pays_its_own(as_tenant, upstream, stream):
    """Also the second turn, whose names of calls are those that were kept."""
    for name in ("desk", "lab"):
        seen = []
        for _ in range(2):
            client = as_tenant(name)
            reply = client.post("/chat/completions", json=tool_body(stream=stream))
            calls = calls_in(reply) if stream else message_of(reply)["tool_calls"]
            turns = [
                {"role": "user", "content": ROME},
                {"role": "assistant", "content": "", "tool_calls": calls},
                {"role": "tool", "content": "22 C", "tool_call_id": calls[0]["id"]},
            ]
            second = client.post("/chat/completions", json=tool_body() | {"messages": turns})
            assert message_of(second)["content"] == "[simulated] 22 C"
            seen.append((calls, reply.headers["x-cache"], second.headers["x-cache"]))
        (calls, *first), (same, *then) = seen
        assert calls == same
        assert (first, then) == (["miss", "miss"], ["hit", "hit"])
    assert [record.user_id for record in upstream.log.chats] == ["desk", "desk", "lab", "lab"]


def test_equal_questions_at_the_same_time_are_one(serve):
    with Sandbox(count="estimate", first_token_s=0.4) as slow:
        gateway, said = serve(before=slow), []

        def ask(number: int) -> None:
            with new_client(gateway) as client:
                stream = number % 2 == 0
                reply = client.post("/chat/completions", json=tool_body(stream=stream))
                said.append(calls_in(reply) if stream else message_of(reply)["tool_calls"])

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(slow.log.chats) == 1
        assert all(calls == said[0] for calls in said)


def test_functions_weigh_in_the_budget(serve, upstream):
    """What is set aside covers them: a question that fits does not fit with a long description."""
    with new_client(serve(tenants={"desk": {"budget_day_usd": 0.02}})) as client:
        long = [tool(description="A city. " * 60_000)]
        body = chat_body(ROME, max_tokens=50)
        over = client.post("/chat/completions", json=body | {"tools": long})
        assert (over.status_code, over.json()["error"]["code"]) == (402, "insufficient_quota")
        assert not upstream.log.chats
        assert message_of(client.post("/chat/completions", json=body | {"tools": TOOLS}))["tool_calls"]


def test_an_answer_that_was_cut_in_a_call_is_given_as_it_came(as_tenant, upstream):
    """``max_tokens`` is the caller's: half a call, and it says so."""
    reply = as_tenant().post("/chat/completions", json=tool_body(max_tokens=3))
    assert reply.json()["choices"][0]["finish_reason"] == "length"
    (call,) = message_of(reply)["tool_calls"]
    with pytest.raises(ValueError, match="Unterminated"):
        json.loads(call["function"]["arguments"])
    assert len(upstream.log.chats) == 1


# ------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"tools": "get_weather"}, "tools"),
        ({"tools": {}}, "tools"),
        ({"tools": [tool(f"f{n}") for n in range(129)]}, "tools"),
        ({"tools": ["get_weather"]}, "tools[0]"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [tool(), tool()]}, "tools[1].function.name"),
        ({"tools": [tool("get weather")]}, "tools[0].function.name"),
        ({"tools": [tool(parameters=[])]}, "tools[0].function.parameters"),
        ({"tools": [tool(strict="yes")]}, "tools[0].function.strict"),
        ({"tools": [tool(more=1)]}, "tools[0].function.more"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice.function.name"),
        ({"tool_choice": "required", "thinking": {"type": "enabled"}}, "tool_choice"),
        ({"tool_choice": NAMED, "thinking": None, "reasoning_effort": "high"}, "tool_choice"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"messages": [RESULT]}, "messages[0].tool_call_id"),
        ({"messages": [CALLED]}, "messages[0]"),
        ({"messages": [CALLED, {"role": "user", "content": "x"}]}, "messages[1]"),
        ({"messages": [CALLED, {**RESULT, "tool_call_id": "b"}]}, "messages[1].tool_call_id"),
        ({"messages": [CALLED, {"role": "tool", "content": "x"}]}, "messages[1].tool_call_id"),
        ({"messages": [CALLED, {"role": "tool", "tool_call_id": "a"}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": "x", "tool_calls": [CALL]}]}, "messages[0].tool_calls"),
        ({"messages": [{**CALLED, "tool_call_id": "a"}, RESULT]}, "messages[0].tool_call_id"),
        ({"messages": [{**CALLED, "tool_calls": "a"}, RESULT]}, "messages[0].tool_calls"),
        ({"messages": [{**CALLED, "tool_calls": [{"id": "a"}]}]}, "messages[0].tool_calls[0].function"),
        ({"messages": [{**CALLED, "tool_calls": [CALL, CALL]}]}, "messages[0].tool_calls[1].id"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_function_is_a_400_that_names_the_place(as_tenant, upstream, change, param, stream):
    reply = as_tenant().post("/chat/completions", json=tool_body(stream=stream, **change))
    error = reply.json()["error"]
    assert (reply.status_code, error["param"], error["type"]) == (400, param, "invalid_request_error")
    assert not upstream.log.chats


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda some: (
        st.lists(some, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["type", "function", "name", "parameters", "strict", "id", "arguments", "index", "é"]
            ),
            some | st.sampled_from(["function", "get_weather", "a", {}, "{}"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(tools=JUNK | st.lists(JUNK), choice=JUNK, calls=JUNK, call_id=JUNK)
def test_anything_in_the_place_of_a_function_is_read_or_refused(tools, choice, calls, call_id):
    """And nothing else happens: a 400 with a place, or a question."""
    turns = [
        {"role": "user", "content": "x"},
        {**CALLED, "tool_calls": calls},
        {**RESULT, "tool_call_id": call_id},
    ]
    for change in ({"tools": tools, "tool_choice": choice}, {"messages": turns}):
        refused = None
        try:
            read_chat(tool_body() | change)
        except ApiError as error:
            refused = error
        assert refused is None or (refused.status, bool(refused.told["param"])) == (400, True)


def test_what_is_nested_without_end_is_a_400(as_tenant, upstream):
    """Also near the depth that can be read and not written again."""
    client = as_tenant()
    for depth in (90, 110, 400, *range(860, 1_000, 7), 2_000, 50_000):
        deep = '{"items":' * depth + "{}" + "}" * depth
        body = json.dumps(tool_body()).replace(json.dumps(CITY), deep)
        reply = client.post("/chat/completions", content=body, headers={"content-type": "application/json"})
        assert reply.status_code == (200 if depth < 100 else 400), (depth, reply.text[:300])
