"""The sandbox as a server: starting, stopping, keep-alive connections, threads and loops."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from raw_client import KEY, QUESTION, ask, is_whole, listen, request_bytes, talk

from deepseek_nb.sandbox import FaultScript, Sandbox

BEARER = {"authorization": f"Bearer {KEY}"}


def test_it_is_on_loopback_only(sandbox):
    assert sandbox.base_url == f"http://127.0.0.1:{sandbox.port}"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.2", sandbox.port), timeout=0.2)


def test_stop_is_prompt_with_hanging_waiting_and_idle_connections():
    before = set(threading.enumerate())
    sandbox = Sandbox(slots=1, queue=9, faults=FaultScript.of("hang", "hang")).start()
    socks = [socket.create_connection(("127.0.0.1", sandbox.port)) for _ in range(4)]
    for sock in socks[:3]:
        sock.sendall(request_bytes(QUESTION))
    while sandbox.in_flight < 3:
        time.sleep(0.002)
    started = time.monotonic()
    sandbox.stop()
    assert time.monotonic() - started < 1
    for sock in socks:
        assert listen(sock, 1).ending in ("reset", "closed")
        sock.close()
    assert set(threading.enumerate()) <= before, "its thread is gone"
    sandbox.stop()  # twice is fine


def test_a_port_can_be_chosen_and_used_again():
    with Sandbox() as first:
        port = first.port
        with pytest.raises(OSError):
            Sandbox(port=port).start()
        with pytest.raises(RuntimeError):
            first.start()
    with Sandbox(port=port) as second:
        assert second.port == port
        assert ask(second).text == "OK"


def test_an_unknown_option_tells_the_near_one():
    with pytest.raises(ValueError, match="no option 'fault'"):
        Sandbox(fault=None)
    with pytest.raises(ValueError, match="time_scale"):
        Sandbox(time_scale=0)


def test_one_connection_answers_many_requests(sandbox):
    with socket.create_connection(("127.0.0.1", sandbox.port)) as sock:
        for _ in range(3):
            sock.sendall(request_bytes(QUESTION))
            assert listen(sock, 2).text == "OK"


def test_pipelined_requests_are_answered_in_order(make):
    sandbox = make(first_token_s=0.02)
    with socket.create_connection(("127.0.0.1", sandbox.port)) as sock:
        texts = ("first", "second", "third")
        sock.sendall(
            b"".join(
                request_bytes(
                    QUESTION | {"messages": [{"role": "user", "content": f"Return exactly: {text}"}]}
                )
                for text in texts
            )
        )
        raw = b""
        while raw.count(b"HTTP/1.1 200") < 3 or not is_whole(raw[raw.rindex(b"HTTP/1.1 200") :]):
            raw += sock.recv(65536)
    assert [raw.index(f'"content":"{text}"'.encode()) for text in texts] == sorted(
        raw.index(f'"content":"{text}"'.encode()) for text in texts
    )


def test_a_request_in_pieces_and_a_polite_body(sandbox):
    raw = request_bytes(QUESTION)
    with socket.create_connection(("127.0.0.1", sandbox.port)) as sock:
        for at in range(0, len(raw), 50):
            sock.sendall(raw[at : at + 50])
            time.sleep(0.001)
        assert listen(sock, 2).text == "OK"
        head, blank, body = raw.partition(b"\r\n\r\n")
        sock.sendall(head + b"\r\nexpect: 100-continue" + blank)
        assert sock.recv(100).startswith(b"HTTP/1.1 100 Continue")
        sock.sendall(body)
        assert listen(sock, 2).text == "OK"


def test_connection_close_is_obeyed(sandbox):
    raw = request_bytes(QUESTION).replace(b"host:", b"connection: close\r\nhost:")
    with socket.create_connection(("127.0.0.1", sandbox.port)) as sock:
        sock.sendall(raw)
        heard = listen(sock, 2)
        assert heard.headers["connection"] == "close"
        assert sock.recv(10) == b""


def test_what_is_no_http_is_refused(sandbox):
    with socket.create_connection(("127.0.0.1", sandbox.port)) as sock:
        sock.sendall(b"what is this\r\n\r\n")
        assert listen(sock, 2).status == 400


def test_a_body_that_is_too_big_is_refused(sandbox):
    head = request_bytes(b"").replace(b"content-length: 0", b"content-length: %d" % (49 * 1024 * 1024))
    with socket.create_connection(("127.0.0.1", sandbox.port)) as sock:
        sock.sendall(head + b"x" * (49 * 1024 * 1024))
        assert listen(sock, 5).status == 413


def test_a_real_client_library_agrees(sandbox):
    with httpx.Client(base_url=sandbox.base_url, headers=BEARER) as client:
        assert client.post("/chat/completions", json=QUESTION).json()["usage"]["total_tokens"] == 9
        with client.stream("POST", "/chat/completions", json=QUESTION | {"stream": True}) as response:
            assert list(response.iter_lines())[-2:] == ["data: [DONE]", ""]
        assert client.get("/models").json()["object"] == "list"
        assert client.head("/models").content == b""


def test_a_record_is_there_when_the_answer_is(sandbox):
    for count in range(1, 200):
        ask(sandbox)
        assert len(sandbox.log) == count
        assert sandbox.in_flight == 0


def test_it_runs_in_a_loop_of_ones_own():
    async def live():
        async with Sandbox(faults=FaultScript.of("hang")) as sandbox:
            _, writer = await asyncio.open_connection("127.0.0.1", sandbox.port)
            writer.write(request_bytes(QUESTION))
            _, other = await asyncio.open_connection("127.0.0.1", sandbox.port)
            while not sandbox.in_flight:  # noqa: ASYNC110  the sandbox has no such event
                await asyncio.sleep(0.002)
            heard = await asyncio.to_thread(ask, sandbox)
            assert heard.text == "OK"
        for each in (writer, other):
            each.close()
        return sandbox

    sandbox = asyncio.run(live())
    assert len(sandbox.log) == 2


def test_many_clients_at_once(make):
    sandbox = make(count="estimate")
    with ThreadPoolExecutor(20) as pool:
        texts = list(pool.map(lambda n: ask(sandbox, f"Return exactly: {n}").text, range(300)))
    assert texts == [str(n) for n in range(300)]
    assert sandbox.log.answered_twice() == {}
    assert sorted(record.index for record in sandbox.log) == list(range(300))


SERVE = """
import sys
from deepseek_nb.sandbox import Sandbox
sandbox = Sandbox(port=int(sys.argv[1]), log_path=sys.argv[2])
sandbox.serve_forever()
print("ended", len(sandbox.log))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_forever_ends_on_a_signal(tmp_path, number):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "log.jsonl"
    command = [sys.executable, "-W", "error", "-c", SERVE, str(port), str(log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            ends = time.monotonic() + 20
            while time.monotonic() < ends:
                try:
                    assert httpx.get(f"http://127.0.0.1:{port}/models", headers=BEARER).status_code == 200
                    break
                except httpx.ConnectError:
                    time.sleep(0.05)
            os.kill(process.pid, number)
            out, _ = process.communicate(timeout=5)
        finally:
            process.kill()
    assert out == "ended 1\n"
    assert process.returncode == 0
    assert len(log.read_text().splitlines()) == 1


def test_server_seconds_run_faster(make):
    sandbox = make(time_scale=1000.0)
    time.sleep(0.05)
    ask(sandbox)
    assert sandbox.log[0].arrived_s >= 50


def test_the_same_seed_gives_the_same_ids(make):
    bodies = [ask(make(seed=5)).json["id"] for _ in range(2)]
    assert bodies[0] == bodies[1] != ask(make(seed=6)).json["id"]


def test_any_key_by_choice(make):
    assert talk(make(api_key=None), QUESTION, key="sk-whatever").status == 200
