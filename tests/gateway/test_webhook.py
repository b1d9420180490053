"""Alarms by webhook: each once when it begins and once when it ends, and nothing of what was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deepseek_nb.gateway import webhook
from deepseek_nb.sandbox import Sandbox

from .people import SECRETS, UPSTREAM_KEY, chat_body, new_client


class Receiver:
    """A real HTTP server that keeps what is POSTed to it; it answers ``statuses`` first, then 200."""

    def __init__(self) -> None:
        self.came: list[tuple[str, dict]] = []
        self.statuses: list[int] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.statuses.pop(0) if receiver.statuses else 200
                if status == 200:
                    receiver.came.append((self.path, json.loads(body)))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/hooks/s3cret?to=team"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def wait_for(self, count: int) -> list[dict]:
        until_s = time.monotonic() + 30
        while len(self.came) < count:
            assert time.monotonic() < until_s, self.came
            time.sleep(0.02)
        return [body for _, body in self.came]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def receiver(monkeypatch) -> Iterator[Receiver]:
    monkeypatch.setattr(webhook.Bell.__init__, "__kwdefaults__", {"every_s": 0.1})
    monkeypatch.setattr(webhook, "WAITS_S", (0.1, 0.1, 0.1))
    one = Receiver()
    yield one
    one.close()


def test_an_alarm_rings_once_and_its_end_too(serve, receiver, caplog):
    """The upstream dies and comes back; the address fails twice meanwhile."""
    first = Sandbox(count="estimate", time_scale=100, api_key=UPSTREAM_KEY)
    first.start()
    port = int(first.base_url.rsplit(":", 1)[1])
    alarms = {"webhook": receiver.url, "least_calls": 5, "cache_hit_rate": 0.01, "p99_ms": 1e9}
    gateway = serve(before=first, patience="0.3s", probe_every="0.2s", alarms=alarms)
    secret = "a prompt that nobody else may see"
    with caplog.at_level("INFO", "deepseek_nb.gateway"), new_client(gateway) as client:
        for _ in range(10):
            assert client.post("/chat/completions", json=chat_body(secret)).status_code == 200
        assert not receiver.came
        receiver.statuses = [500, 503]
        first.stop()
        for number in range(8):
            client.post("/chat/completions", json=chat_body(f"{secret} {number}"))
        raised = receiver.wait_for(2)
        assert {one["state"] for one in raised} == {"raised"}
        assert {one["alarm"] for one in raised} == {"error_rate", "upstream_down:deepseek"}
        with Sandbox(count="estimate", time_scale=100, api_key=UPSTREAM_KEY, port=port):
            ended = receiver.wait_for(3)[2]
        assert (ended["alarm"], ended["state"]) == ("upstream_down:deepseek", "ended")
        with new_client(gateway, "boss", scope="metrics") as boss:
            assert 'alarms_posted{result="sent"} 3.0' in boss.get("/metrics").text
    assert {path for path, _ in receiver.came} == {"/hooks/s3cret?to=team"}
    said = json.dumps([body for _, body in receiver.came]) + caplog.text
    assert all(word not in said for word in (secret, UPSTREAM_KEY, *SECRETS.values(), "s3cret"))
    assert all(set(one) == {"source", "state", "alarm", "title", "text", "todo", "at"} for one in raised)


def test_an_address_that_refuses_is_not_asked_again(serve, receiver, upstream):
    """A 404 will not mend: given up at once, told in the figures, and the next one goes out."""
    upstream.stop()
    receiver.statuses = [404]
    alarms = {"webhook": receiver.url, "least_calls": 3, "cache_hit_rate": 1e-6, "p99_ms": 1e9}
    gateway = serve(patience="0.1s", alarms=alarms)
    with new_client(gateway) as client:
        for number in range(4):
            client.post("/chat/completions", json=chat_body(str(number)))
    assert receiver.wait_for(1)
    with new_client(gateway, "boss", scope="metrics") as boss:
        assert 'alarms_posted{result="lost"} 1.0' in boss.get("/metrics").text
