"""What the server refuses, in its own words and order."""

import pytest
from raw_client import QUESTION, ask, talk

USER = {"role": "user", "content": "Return exactly: OK"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"messages": []}, "Empty input messages"),
        (
            {"model": "gpt-5"},
            "The supported API model names are deepseek-flash, deepseek-v4-pro, but you passed gpt-5.",
        ),
        ({"temperature": 2.1}, "Invalid temperature value, the valid range of temperature is [0, 2]"),
        ({"top_p": 0}, "Invalid top_p value, the valid range of top_p is (0, 1.0]"),
        (
            {"presence_penalty": -3},
            "Invalid presence_penalty value, the valid range of presence_penalty is [-2, 2]",
        ),
        ({"max_tokens": 0}, "Invalid max_tokens value, the valid range of max_tokens is [1, 393216]"),
        ({"max_tokens": 393217}, "Invalid max_tokens value, the valid range of max_tokens is [1, 393216]"),
        ({"stop": ["x"] * 17}, "Stop string array too long: 17"),
        (
            {"stream_options": {"include_usage": True}},
            "stream_options should be set along with stream = true",
        ),
        ({"response_format": {"type": "json_schema"}}, "This response_format type is unavailable now"),
        (
            {"response_format": {"type": "json_object"}},
            "Prompt must contain the word 'json' in some form to use 'response_format' of type "
            "'json_object'.",
        ),
        (
            {"thinking": None, "tool_choice": "required"},
            "Thinking mode does not support this tool_choice",
        ),
        (
            {"messages": [USER, {"role": "tool", "content": "x", "tool_call_id": "c"}]},
            "Messages with role 'tool' must be a response to a preceding message with 'tool_calls'",
        ),
        (
            {
                "model": "deepseek-v4-pro",
                "messages": [
                    {
                        "role": "user",
                        "content": [{"type": "image_url", "image_url": {"url": "data:,"}}],
                    }
                ],
            },
            "This model does not support image",
        ),
    ],
)
def test_refusals_of_what_is_well_formed(sandbox, fields, message):
    heard = ask(sandbox, **fields)
    assert heard.status == 400
    assert heard.message == message
    assert heard.json["error"]["type"] == heard.json["error"]["code"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("body", "trouble"),
    [
        (b'{"messages":[]}', "missing field `model` at line 1 column 15"),
        (b'{"messages":"no","model":"m"}', 'messages: invalid type: string "no", expected a sequence'),
        (b'{"messages":[3],"model":"m"}', "messages[0]: invalid type: integer `3`, expected"),
        (b'{"messages":[{"content":"x"}]}', "messages[0]: missing field `role` at line 1 column 28"),
        (b'{"messages":[{"role":"user"}]}', "messages[0]: missing field `content` at line 1 column 28"),
        (
            b'{"messages":[{"role":"user","content":{}}]}',
            "messages[0].content: invalid type: map, expected a string or a sequence at line 1 column 38",
        ),
        (b'{"messages":[],"model":7}', "model: invalid type: integer `7`, expected a string"),
        (
            b'{"messages":[],\n"model":"m",\n"temperature":"hot"}',
            'temperature: invalid type: string "hot", expected f32 at line 3 column 19',
        ),
        (b"[]", "invalid type: sequence, expected struct"),
    ],
)
def test_bodies_of_the_wrong_shape(sandbox, body, trouble):
    heard = talk(sandbox, body)
    assert heard.status == 400
    assert heard.message.startswith("Failed to deserialize the JSON body into the target type: ")
    assert trouble in heard.message


@pytest.mark.parametrize(
    "body", [b"{", b'{"a":"', b"nonsense", b'{"a":1,}', b"\xff\xfe", b'{"a" 1}', b"[" * 5000]
)
def test_bodies_that_are_no_json(sandbox, body):
    heard = talk(sandbox, body)
    assert heard.status == 400
    assert heard.headers["content-type"] == "application/octet-stream"
    assert heard.body.startswith(b"Failed to parse the request body as JSON: ")


def test_422_and_request_ids_by_switch(make):
    old = make(status_422=True)
    heard = talk(old, b"{}")
    assert (heard.status, heard.headers["content-type"]) == (422, "text/plain; charset=utf-8")
    assert heard.body.endswith(b"missing field `messages` at line 1 column 2")
    new = make(request_id_suffix=True)
    assert ask(new, temperature=9).message.startswith("Invalid temperature value")
    assert ask(new, temperature=9).message.endswith(")")
    assert "(request_id: " in ask(new, temperature=9).message


def test_a_context_that_is_too_long_counts_the_completion_too(make):
    sandbox = make(count="estimate")
    heard = ask(sandbox, "a" * 2_300_000, max_tokens=384_000)
    assert heard.message == (
        "This model's maximum context length is 1048576 tokens. However, you requested 1074004 tokens "
        "(690004 in the messages, 384000 in the completion). Please reduce the length of the messages or "
        "completion."
    )


def test_a_user_id_may_hold_a_space_and_512_characters(sandbox):
    assert ask(sandbox, user_id="a b").status == 200
    assert ask(sandbox, user_id="u" * 512).status == 200


def test_aliases_are_served_under_the_model_id(sandbox):
    for alias in ("deepseek-v4-flash", "deepseek-v4-flash-vision-exp", "deepseek-flash"):
        assert ask(sandbox, model=alias).json["model"] == "deepseek-flash"
    assert ask(sandbox, model="deepseek-chat").status == 400


def test_thinking_is_the_default_and_is_billed(sandbox):
    heard = ask(sandbox, thinking=None)
    message, usage = heard.json["choices"][0]["message"], heard.json["usage"]
    reasoning = usage["completion_tokens_details"]["reasoning_tokens"]
    assert message["reasoning_content"]
    assert usage["completion_tokens"] == reasoning + 1
    for off in ({"thinking": {"type": "disabled"}}, {"thinking": None, "reasoning_effort": "none"}):
        heard = ask(sandbox, **off)
        assert "reasoning_content" not in heard.json["choices"][0]["message"]
        assert "completion_tokens_details" not in heard.json["usage"]
        assert heard.json["usage"]["completion_tokens"] == 1


def test_more_effort_thinks_longer(sandbox):
    tokens = [
        ask(sandbox, thinking=None, reasoning_effort=effort).json["usage"]["completion_tokens"]
        for effort in ("minimal", "low", "medium", "high", "max")
    ]
    assert tokens[0] == tokens[1] < tokens[2] == tokens[3] < tokens[4]


def test_thinking_deltas_name_both_fields(sandbox):
    events = ask(sandbox, thinking=None, stream=True).events
    deltas = [event["choices"][0]["delta"] for event in events[:-1]]
    assert deltas[0] == {"role": "assistant", "content": None, "reasoning_content": ""}
    assert deltas[1]["content"] is None
    assert deltas[-2] == {"content": "OK", "reasoning_content": None}


def test_thinking_counts_inside_max_tokens(sandbox):
    heard = ask(sandbox, thinking=None, max_tokens=7)
    assert heard.json["choices"][0]["finish_reason"] == "length"
    assert heard.text == ""
    assert heard.json["usage"]["completion_tokens"] == 7


def test_max_tokens_and_stop_cut_the_answer(sandbox):
    cut = ask(sandbox, "Return exactly: one two three four five", max_tokens=2)
    assert (cut.text, cut.json["choices"][0]["finish_reason"]) == ("one two", "length")
    stopped = ask(sandbox, "Return exactly: one two three four five", stop=["four", " three"])
    assert (stopped.text, stopped.json["choices"][0]["finish_reason"]) == ("one two", "stop")


def test_events_are_the_completion_tokens_and_two(sandbox):
    heard = ask(sandbox, "Return exactly: " + "word and more " * 10, stream=True)
    assert len(heard.events) - 1 == heard.events[-2]["usage"]["completion_tokens"] + 2
    assert len({event["id"] for event in heard.events[:-1]}) == 1


def test_include_usage_puts_null_on_the_other_events(sandbox):
    events = ask(sandbox, stream=True, stream_options={"include_usage": True}).events
    assert [event["usage"] for event in events[:-2]] == [None, None]
    assert events[-2]["usage"]["completion_tokens"] == 1


def test_usage_chunk_switches(make):
    def last(kind):
        return ask(make(usage_chunk=kind), stream=True, stream_options={"include_usage": True}).events[-2]

    assert last("extra")["choices"] == []
    assert "usage" not in last("none")
    assert last("null")["usage"] is None
    with pytest.raises(ValueError, match="usage_chunk='maybe'"):
        make(usage_chunk="maybe")


def test_tool_chats_have_to_send_reasoning_back(sandbox):
    call = {"id": "call_00_x", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "call_00_x"},
    ]
    heard = ask(sandbox, thinking=None, messages=turns)
    assert heard.message == "The `reasoning_content` in the thinking mode must be passed back to the API."
    assert ask(sandbox, messages=turns).status == 200
    turns[1]["reasoning_content"] = ""
    assert ask(sandbox, thinking=None, messages=turns).status == 200
    assert "insufficient tool messages" in ask(sandbox, messages=turns[:2]).message


def test_the_known_token_counts(make):
    sandbox = make(count="vocabulary")
    assert ask(sandbox).json["usage"]["prompt_tokens"] == 8
    heard = ask(sandbox, "Reply with exactly AUTHENTICATED_OK and nothing else.")
    assert heard.text == "AUTHENTICATED_OK"
    assert (heard.json["usage"]["prompt_tokens"], heard.json["usage"]["completion_tokens"]) == (17, 6)


def test_the_current_model_list_tells_limits(sandbox):
    flash, pro = talk(sandbox, method="GET", path="/v1/models").json["data"]
    assert (flash["id"], pro["id"]) == ("deepseek-flash", "deepseek-v4-pro")
    assert (flash["context_window"], flash["max_output_tokens"]) == (1048576, 393216)
    assert flash["effort"] == {"supported_levels": ["low", "high", "max"], "default_level": "high"}


def test_an_engine_that_fails_is_a_500(make):
    sandbox = make(engine=lambda request: 1 / 0)
    heard = ask(sandbox)
    assert heard.status == 500
    assert "ZeroDivisionError" in heard.message
    assert sandbox.log.cost_usd == 0
    assert sandbox.in_flight == 0


def test_unknown_fields_are_ignored(sandbox):
    assert talk(sandbox, QUESTION | {"seed": 3, "priority": 5, "service_tier": "auto"}).status == 200
