"""The log is the proof: what was asked, what was handed over, what it cost, and nothing twice."""

import json
import socket
import time

import pytest
from raw_client import QUESTION, ask, request_bytes, talk

from deepseek_nb.sandbox import Completion, Fault, FaultScript, RequestLog


def wait_for(log, count):
    ends = time.monotonic() + 2
    while len(log) < count and time.monotonic() < ends:
        time.sleep(0.002)
    assert len(log) == count


def test_a_record_tells_everything(make):
    sandbox = make(count="estimate")
    heard = ask(sandbox, "Return exactly: yes", user_id="job-1", stream=True)
    (record,) = sandbox.log
    usage = heard.events[-2]["usage"]
    assert (record.index, record.path, record.status) == (0, "/chat/completions", 200)
    assert (record.model, record.user_id, record.stream) == ("deepseek-flash", "job-1", True)
    assert (record.complete, record.usable, record.aborted, record.fault) == (True, True, False, None)
    assert record.bytes_sent == len(heard.body)
    assert record.prompt_tokens == usage["prompt_tokens"]
    assert record.completion_tokens == usage["completion_tokens"]
    assert record.cost_usd > 0
    assert record.arrived_s <= record.ended_s


def test_the_request_hash_ignores_what_does_not_change_the_question(sandbox):
    ask(sandbox)
    ask(sandbox, user_id="other")
    ask(sandbox, stream=True, stream_options={"include_usage": True})
    ask(sandbox, temperature=0)
    one, two, three, four = (record.request_hash for record in sandbox.log)
    assert one == two == three != four
    assert len({record.prompt_hash for record in sandbox.log}) == 1


def test_answered_twice_counts_usable_answers_only(make):
    sandbox = make(faults=FaultScript.of("spaces_json", "busy_503", "cut_eof", None, None, "usage_null"))
    for _ in range(4):
        ask(sandbox)
    assert sandbox.log.answered_twice() == {}
    ask(sandbox)
    ask(sandbox)
    assert list(sandbox.log.answered_twice().values()) == [3]
    assert sandbox.log.faults() == {"spaces_json": 1, "busy_503": 1, "cut_eof": 1, "usage_null": 1}
    assert [record.complete for record in sandbox.log] == [True, False, False, True, True, True]
    assert len(sandbox.log.complete) == 4


def test_a_client_that_hangs_up_is_an_abort(make):
    sandbox = make(token_s=1.0)
    with socket.create_connection(("127.0.0.1", sandbox.port)) as sock:
        sock.sendall(request_bytes(QUESTION | {"stream": True}))
        sock.recv(100)
    wait_for(sandbox.log, 1)
    (record,) = sandbox.log
    assert (record.aborted, record.complete, record.usable) == (True, False, False)


def test_a_client_that_reads_too_slowly_has_no_complete_answer(make):
    """What is still in our own buffer was not handed over."""
    sandbox = make(engine=lambda _: Completion("\x01" * 1_500_000), count="estimate")
    with socket.create_connection(("127.0.0.1", sandbox.port)) as sock:
        sock.sendall(request_bytes(QUESTION | {"max_tokens": 393_216}))
        sock.recv(100)
        time.sleep(0.1)
        assert len(sandbox.log) == 0
    wait_for(sandbox.log, 1)
    assert (sandbox.log[0].complete, sandbox.log[0].aborted) == (False, True)


def test_other_requests_are_logged_but_are_no_chats(sandbox):
    talk(sandbox, method="GET", path="/models")
    talk(sandbox, b"{}")
    ask(sandbox)
    assert [record.status for record in sandbox.log] == [200, 400, 200]
    assert len(sandbox.log.chats) == len(sandbox.log.complete) == 1


def test_the_file_holds_a_line_for_each_request(make, tmp_path):
    path = tmp_path / "requests.jsonl"
    sandbox = make(log_path=path, faults=FaultScript.of(Fault("stall", after_tokens=1), "busy_503"))
    ask(sandbox, stream=True, wait_s=0.1)
    wait_for(sandbox.log, 1)
    ask(sandbox)
    ask(sandbox)
    ends = time.monotonic() + 2
    while len(path.read_text().splitlines()) < 3 and time.monotonic() < ends:
        time.sleep(0.002)
    with path.open("a") as file:
        file.write('{"index": 3, "half a li')
    read = RequestLog.read(path)
    assert list(read) == list(sandbox.log)
    assert read.cost_usd == sandbox.log.cost_usd
    assert json.loads(path.read_text().splitlines()[1])["fault"] == "busy_503"


def test_the_log_reads_like_a_list(sandbox):
    for _ in range(3):
        ask(sandbox)
    log = sandbox.log
    assert (len(log), log[-1].index, [record.index for record in log[:2]]) == (3, 2, [0, 1])
    assert "3 requests, 3 complete" in repr(log)
    log.clear()
    assert list(log) == []


def test_records_do_not_change(sandbox):
    ask(sandbox)
    with pytest.raises(AttributeError):
        sandbox.log[0].status = 201
