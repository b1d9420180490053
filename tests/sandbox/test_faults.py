"""Each fault puts on the wire what its row of the busy server suite says."""

import json
import socket
import time
from itertools import pairwise

import pytest
from raw_client import QUESTION, ask, listen, request_bytes

from deepseek_nb.sandbox import FAULTS, Fault, FaultScript, fault_table
from deepseek_nb.sandbox.plans import PLANS
from deepseek_nb.sandbox.refusals import REFUSALS
from deepseek_nb.sandbox.spoil import SPOILERS

LONG = "Return exactly: one two three four five six seven eight nine ten"
SCHEMA = (
    'Answer with one JSON object that fits this JSON Schema: {"type":"object","properties":'
    '{"risk":{"enum":["low","high"]},"why":{"type":"string"}},"required":["risk","why"]}'
)
BOTH = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])


class Player:
    """Asks once with one fault; server time runs a thousandfold."""

    def __init__(self, make):
        self.make = make

    def __call__(self, fault, *, text=LONG, wait_s=5.0, **fields):
        self.sandbox = self.make(faults=FaultScript.of(fault), time_scale=1000.0)
        return ask(self.sandbox, text, wait_s=wait_s, **fields)


@pytest.fixture
def play(make):
    return Player(make)


def record_of(play):
    """The last request's record, once it has ended."""
    ends = time.monotonic() + 2
    while not len(play.sandbox.log) and time.monotonic() < ends:
        time.sleep(0.002)
    return play.sandbox.log[-1]


def ask_json(play, fault, **fields):
    messages = [{"role": "system", "content": SCHEMA}, {"role": "user", "content": "The risk is high."}]
    return play(fault, messages=messages, response_format={"type": "json_object"}, **fields)


def test_all_rows_of_the_suite_have_a_fault():
    served = {row for spec in FAULTS.values() for row in spec.rows}
    wanted = {str(row) for row in range(1, 29)} - {"4"} | {"4a", "4b", "6b"}
    assert wanted <= served


def test_every_fault_is_played_by_exactly_one_room():
    rooms = [set(REFUSALS), set(SPOILERS), set(PLANS)]
    assert set.union(*rooms) == set(FAULTS)
    assert sum(map(len, rooms)) == len(FAULTS)


def test_the_table_shows_every_fault():
    assert len(fault_table().splitlines()) == len(FAULTS) + 2
    assert "| rate_429 | 2 |" in fault_table()


AT_ONCE = {
    "slow_after": Fault("slow_after", fine=0, calm=0),
    "limit_falls": Fault("limit_falls", limits=(0,)),
}
"""Faults that wait for a condition, so that the first request meets it."""


@pytest.mark.parametrize("name", FAULTS)
@BOTH
def test_every_fault_plays_and_is_recorded(play, name, stream):
    """No fault leaves the sandbox stuck: the next request is answered."""
    fault = AT_ONCE.get(name, Fault(name))
    play(fault, stream=stream, wait_s=0.3 if "hang" in name or "stall" in name else 5.0)
    record = record_of(play)
    assert record.fault == name
    assert record.usable == (FAULTS[name].usable and record.complete)
    assert not (FAULTS[name].charged == "no" and record.cost_usd)
    assert ask(play.sandbox).text == "OK"


@pytest.mark.parametrize("name", [name for name, spec in FAULTS.items() if spec.usable])
@BOTH
def test_usable_faults_leave_the_whole_text(play, name, stream):
    heard = play(name, stream=stream)
    text = heard.body.decode().lstrip()
    if text.startswith("{"):
        content = json.loads(text)["choices"][0]["message"]["content"]
    else:
        data = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        content = "".join(c["delta"].get("content") or "" for event in data for c in event["choices"])
        assert text.endswith("data: [DONE]\n\n")
    assert content == LONG.removeprefix("Return exactly: ")
    assert record_of(play).usable


@BOTH
def test_1_busy(play, stream):
    heard = play("busy_503", stream=stream)
    assert heard.status == 503
    assert heard.json["error"] == {
        "message": "Service is too busy. We advise users to temporarily switch to alternative LLM API "
        "service providers.",
        "type": "service_unavailable_error",
        "param": None,
        "code": "service_unavailable_error",
    }
    assert "retry-after" not in heard.headers


def test_1_busy_may_say_when_to_come_back(play):
    assert play(Fault("busy_503", retry_after_s=7)).headers["retry-after"] == "7"


def test_2_rate_limited_names_the_limit(play):
    heard = play(Fault("rate_429", limit=25))
    assert heard.status == 429
    assert heard.message == (
        "Too many requests. Your current concurrency is 26, which exceeds your concurrency limit of 25 based "
        "on your remaining balance. Please top up your balance to restore your concurrency."
    )
    assert heard.json["error"]["type"] == "rate_limit_error"


def test_2_the_limit_falls_with_what_got_in(make):
    """Three at once, then one at once: the number in the text is the one that holds at that moment."""
    fault = Fault("limit_falls", limits=(3, 1), every=4)
    sandbox = make(faults=FaultScript.always(fault), first_token_s=0.5)
    socks = [socket.create_connection(("127.0.0.1", sandbox.port)) for _ in range(5)]
    try:
        for sock in socks[:4]:
            sock.sendall(request_bytes(QUESTION))
            time.sleep(0.05)
        assert "exceeds your concurrency limit of 3 " in listen(socks[3], 2).message
        assert [listen(sock, 2).text for sock in socks[:3]] == ["OK"] * 3
        assert ask(sandbox).text == "OK"  # the fourth that gets in
        for sock in socks[:2]:
            sock.sendall(request_bytes(QUESTION))
            time.sleep(0.05)
        assert "current concurrency is 2, which exceeds your concurrency limit of 1 " in (
            listen(socks[1], 2).message
        )
    finally:
        for sock in socks:
            sock.close()


@BOTH
def test_3_an_empty_200(play, stream):
    heard = play("empty_200", stream=stream)
    assert (heard.status, heard.headers["content-length"], heard.body) == (200, "0", b"")


def test_3_a_blank_200(play):
    assert play("blank_200").body.strip() == b""


def test_4a_blank_lines_then_the_answer(play):
    heard = play(Fault("keepalive_then_json", lines=4))
    assert heard.body.startswith(b"\n\n\n\n{")
    assert heard.text.startswith("one two")


def test_4a_comments_then_the_events(play):
    heard = play(Fault("keepalive_then_json", lines=2), stream=True)
    assert heard.body.startswith(b": keep-alive\n\n: keep-alive\n\ndata: {")


def test_4a_blank_lines_then_a_whole_answer_though_a_stream_was_asked_for(play):
    heard = play(Fault("keepalive_then_json", lines=2, whole=True), stream=True)
    assert heard.body.startswith(b"\n\n{")
    assert heard.headers["content-type"] == "application/json"


def test_4b_four_blank_lines_and_the_end(play):
    heard = play("keepalive_then_close")
    assert (heard.status, heard.body, heard.ending) == (200, b"\n\n\n\n", "whole")


def test_5_comments_between_all_events(play):
    heard = play("comments", stream=True)
    blocks = heard.body.decode().strip().split("\n\n")
    assert blocks[0] == ": keep-alive"
    assert all(a.startswith(":") or b.startswith(":") for a, b in pairwise(blocks))


def test_6_a_hang_sends_nothing(play):
    heard = play("hang", wait_s=0.3)
    assert (heard.raw, heard.ending) == (b"", "silent")
    assert record_of(play).aborted


def test_6_a_stall_stops_after_some_tokens(play):
    heard = play(Fault("stall", after_tokens=3), stream=True, wait_s=0.3)
    assert heard.ending == "silent"
    assert len(heard.events) == 1 + 3
    record = record_of(play)
    assert (record.completion_tokens, record.aborted, record.complete) == (3, True, False)
    assert record.cost_usd > 0


def test_6_a_stall_inside_a_whole_answer(play):
    heard = play("stall", wait_s=0.3)
    assert heard.ending == "silent"
    assert 0 < len(heard.wire_body) < int(heard.headers["content-length"])


@BOTH
def test_6b_comments_for_ever(play, stream):
    heard = play("stall_with_comments", stream=stream, wait_s=0.5)
    assert heard.ending == "silent"
    assert heard.body.count(b": keep-alive\n\n" if stream else b"\n") >= 5


@BOTH
def test_7_a_reset_half_way(play, stream):
    heard = play("cut_rst", stream=stream)
    assert heard.ending == "reset"
    assert heard.status in (0, 200)
    assert b"[DONE]" not in heard.raw


@BOTH
def test_7_closed_inside_a_chunked_body(play, stream):
    heard = play("cut_incomplete", stream=stream)
    assert heard.ending == "closed"
    assert heard.headers["transfer-encoding"] == "chunked"
    assert not heard.wire_body.endswith(b"0\r\n\r\n")


def test_8_a_clean_end_without_finish(play):
    heard = play("cut_eof", stream=True)
    assert heard.ending == "whole"
    assert heard.body.endswith(b"\n\n")
    assert all(event["choices"][0]["finish_reason"] is None for event in heard.events)


@BOTH
def test_8_a_proxy_adds_its_own_text(play, stream):
    heard = play("proxy_text", stream=stream)
    assert heard.ending == "whole"
    assert heard.body.endswith(b"upstream error: read ECONNRESET")


def test_8_the_end_of_the_stream_is_missing_or_open(play):
    assert play("no_done", stream=True).events[-1]["choices"][0]["finish_reason"] == "stop"
    assert play("done_unclosed", stream=True).body.endswith(b"}\n\ndata: [DONE]")


def test_9_reset_before_headers(play):
    heard = play("reset_before_headers")
    assert (heard.raw, heard.ending) == (b"", "reset")
    assert record_of(play).status == 0


def test_9_the_next_request_on_a_stale_connection_is_reset(make):
    sandbox = make(faults=FaultScript.of("stale_connection"))
    with socket.create_connection(("127.0.0.1", sandbox.port)) as sock:
        sock.sendall(request_bytes(QUESTION))
        assert listen(sock, 2).text == "OK"
        sock.sendall(request_bytes(QUESTION))
        assert listen(sock, 2).ending == "reset"


@pytest.mark.parametrize(
    ("name", "status"), [("html_500", 500), ("html_502", 502), ("html_504", 504), ("html_200", 200)]
)
def test_10_pages(play, name, status):
    heard = play(name)
    assert heard.status == status
    assert heard.body.lstrip().startswith(b"<")
    assert heard.headers["content-type"].startswith("text/html")


def test_10_a_page_may_be_long_and_a_wall_may_have_a_status(play):
    heard = play(Fault("html_502", size_bytes=10_000))
    assert (heard.status, len(heard.body)) == (502, 10_000)
    assert play(Fault("html_200", status=403)).status == 403


@BOTH
def test_11_only_reasoning(play, stream):
    heard = play("reasoning_only", stream=stream)
    assert heard.text == ""
    assert b'"reasoning_content":"' in heard.body
    assert b'"finish_reason":"stop"' in heard.body


@BOTH
def test_12_blank_and_spaces(play, stream):
    assert ask_json(play, "blank_json", stream=stream).text == ""
    heard = ask_json(play, "spaces_json", stream=stream)
    assert heard.text
    assert heard.text.strip(" ") == ""
    assert record_of(play).cost_usd > 0


def test_12_bad_fenced_and_misshapen_json(play):
    with pytest.raises(json.JSONDecodeError):
        json.loads(ask_json(play, "bad_json_answer").text)
    assert ask_json(play, "fenced_json").text.startswith("Here is the JSON:\n```json\n{")
    assert "risk" not in json.loads(ask_json(play, "wrong_shape_json").text)


@BOTH
def test_13_cut_at_the_limit(play, stream):
    heard = ask_json(play, "length_cut", stream=stream)
    assert b'"finish_reason":"length"' in heard.body
    with pytest.raises(json.JSONDecodeError):
        json.loads(heard.text)
    heard = play("reasoning_length", stream=stream, max_tokens=40)
    assert heard.text == ""
    usage = (heard.events[-2] if stream else heard.json)["usage"]
    assert usage["completion_tokens"] == usage["completion_tokens_details"]["reasoning_tokens"] == 40


def test_14_blanks_up_to_the_limit(play):
    heard = ask_json(play, "whitespace_runaway", max_tokens=500)
    assert heard.text.strip() == "{"
    assert heard.json["usage"]["completion_tokens"] == 500
    assert heard.json["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("name", "reason"),
    [("insufficient_resource", "insufficient_system_resource"), ("aborted", "aborted")],
)
@BOTH
def test_15_interrupted_by_the_server(play, name, reason, stream):
    heard = play(name, stream=stream)
    assert f'"finish_reason":"{reason}"'.encode() in heard.body
    assert LONG.removeprefix("Return exactly: ").startswith(heard.text)
    assert record_of(play).cost_usd == 0


@BOTH
def test_16_no_choices(play, stream):
    assert b'"choices":[]' in play("no_choices", stream=stream).body
    assert b'"choices":null' in play("null_choices", stream=stream).body


def test_17_usage_in_every_place(play):
    assert b'"usage"' not in play("usage_missing", stream=True).body
    assert b'"usage"' not in play("usage_missing").body
    assert play("usage_null", stream=True).events[-2]["usage"] is None
    extra = play("usage_extra_chunk", stream=True).events
    assert (extra[-2]["choices"], extra[-2]["usage"]["prompt_tokens"] > 0) == ([], True)
    assert "usage" not in extra[-3]
    assert play("role_null", stream=True).events[-2]["choices"][0]["delta"]["role"] is None


def test_18_errors_inside_a_200(play):
    assert "error" in play("error_in_200").json
    heard = play(Fault("error_in_stream", after_tokens=2), stream=True)
    assert (len(heard.events), "error" in heard.events[-1]) == (1 + 2 + 1, True)


@BOTH
def test_18_an_error_beside_half_an_answer_that_says_stop(play, stream):
    heard = play("error_beside_answer", stream=stream)
    assert 0 < len(heard.text) < len(LONG) - len("Return exactly: ")
    assert b'"finish_reason":"stop"' in heard.body
    assert b'{"error":{"message":"Internal error' in heard.body
    assert not record_of(play).complete


@pytest.mark.parametrize("variant", range(5))
@BOTH
def test_19_tool_markup_in_the_content(play, variant, stream):
    heard = play(Fault("dsml", variant=variant), stream=stream)
    assert "DSML" in heard.text
    if stream:
        deltas = [event["choices"][0]["delta"].get("content", "") for event in heard.events[:-1]]
        assert not any("DSML" in delta for delta in deltas)  # split across events


def test_19_a_dribble_cuts_anywhere(play):
    heard = play(Fault("dribble", piece_bytes=3), text="Return exactly: 中文 😀", stream=True)
    assert heard.text == "中文 😀"
    assert heard.wire_body.startswith(b"3\r\n")


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("reasoning_required_400", 400, "`reasoning_content` in the thinking mode must be passed back"),
        ("content_risk", 400, "Content Exists Risk"),
        ("balance_402", 402, "Insufficient Balance"),
        ("unknown_model", 400, "The supported API model names are"),
        ("reworded_models", 400, "The supported API model names are"),
        ("reworded_request_id", 503, "(request_id: "),
        ("reworded_status", 529, "Something new"),
    ],
)
def test_20_21_22_26_27_refusals(play, name, status, words):
    heard = play(name)
    assert heard.status == status
    assert words in heard.message
    assert record_of(play).cost_usd == 0


def test_20_only_where_reasoning_is_missing(make):
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "Return exactly: three"},
    ]
    sandbox = make(faults=FaultScript.always(Fault("reasoning_required_400", unless_echoed=True)))
    assert ask(sandbox, messages=turns).status == 400
    turns[1]["reasoning_content"] = ""
    assert ask(sandbox, messages=turns).text == "three"
    sandbox.faults = FaultScript.of(Fault("reasoning_required_400", older=True))
    assert ask(sandbox).message.startswith("Missing `reasoning_content` field in the assistant message")


def test_23_governor(play):
    heard = play("governor_401")
    assert (heard.status, heard.body) == (401, b"Authentication Fails (governor)")
    assert "content-type" not in heard.headers


def test_24_fine_at_first_then_silence(make):
    fault = Fault("slow_after", fine=3, calm=0, wait_s=60)
    sandbox = make(faults=FaultScript.always(fault), time_scale=1000.0)
    assert [ask(sandbox).text for _ in range(3)] == ["OK"] * 3
    heard = ask(sandbox)
    assert (heard.raw, heard.ending) == (b"", "closed")
    assert [record.fault for record in sandbox.log] == [None] * 3 + ["slow_after"]


def test_24_a_calm_client_is_served_again(make):
    sandbox = make(faults=FaultScript.always(Fault("slow_after", fine=1, calm=1)))
    assert [ask(sandbox).text for _ in range(4)] == ["OK"] * 4


def test_25_some_hang_very_long(play):
    started = time.monotonic()
    assert play(Fault("bimodal_hang", wait_s=200)).text.startswith("one")
    assert 0.2 <= time.monotonic() - started < 2


def test_27_old_status_for_unreadable_bodies(play):
    heard = play("reworded_422")
    assert heard.status == 422
    assert heard.body.startswith(b"Failed to deserialize the JSON body into the target type")


def test_28_content_types_swapped(play):
    assert play("content_type_swapped", stream=True).headers["content-type"] == "application/json"
    assert play("content_type_swapped").headers["content-type"] == "application/octet-stream"
    heard = play(Fault("content_type_swapped", whole=True), stream=True)
    assert heard.headers["content-type"] == "application/octet-stream"
    assert heard.text.startswith("one two")


def test_a_reset_reaches_the_client_after_what_was_sent(play):
    heard = play(Fault("cut_rst", after_tokens=4), stream=True)
    assert heard.ending == "reset"
    if heard.raw:  # the kernel may drop what was not read yet
        assert len(heard.events) == 1 + 4
