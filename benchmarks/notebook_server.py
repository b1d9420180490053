"""The server of ``notebook_experience.py``: the sandbox, and a wire before it that keeps what went by.

The sandbox is a SIMULATION of the service. Its faults and its speed are set for each measurement; what the
client really sent, when each byte of an answer left and when the client hung up is read off the wire.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from deepseek_nb.sandbox import Completion, FaultScript, ParsedRequest, Sandbox

KEY = "sk-benchmark-5f1d7c0a9b3e"
EMPTY_LINE = b"\r\n\r\n"
CONTENT = re.compile(rb'"content":"(?!")')
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
JSON_ANSWER = '{"level":3,"why":"because"}'


def answer(request: ParsedRequest) -> Completion:
    """``long N`` gives N characters, ``fence`` fenced JSON, ``bad JSON`` none; else an echo."""
    question = request.question
    everything = "\n".join(message["content"] for message in request.messages)
    if wanted := re.search(r"long (\d+)", question):
        return Completion("".join(f"{number:07} " for number in range(int(wanted[1]) // 8)))
    if "fence" in everything:
        fenced = f"```json\n{JSON_ANSWER}\n```"
        return Completion(f"Sure!\n{fenced}\nThere." if "sentences" in everything else fenced)
    if request.json_mode:
        return Completion("no JSON at all" if "bad JSON" in everything else JSON_ANSWER)
    if "script" in question:
        return Completion("Hello <script>alert(1)</script>.")
    return Completion(f"You said: {question}")


@dataclass
class Request:
    """One request on the wire."""

    at_s: float
    path: str
    body: dict[str, Any]
    chunks: list[tuple[float, bytes]] = field(default_factory=list)
    """What was sent back, and when; of a connection that is used again, this request's part."""
    hung_up_s: float | None = None
    """When the client closed the connection."""

    @property
    def prompt(self) -> str:
        """The user's message."""
        return str(self.body["messages"][-1]["content"])

    def first_content_s(self) -> float:
        """When the first byte of the answer's text left."""
        return next(at_s for at_s, data in self.chunks if CONTENT.search(data))


class Wire:
    """Passes every byte between the clients and the sandbox on at once, and keeps it with its time."""

    def __init__(self, port: int) -> None:
        self.requests: list[Request] = []
        self._to_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def chats(self) -> list[Request]:
        """The questions among the requests."""
        return [request for request in self.requests if request.path.endswith("/chat/completions")]

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._to_port))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            mine: list[Request] = []
            threading.Thread(target=self._up, args=(client, server, mine), daemon=True).start()
            threading.Thread(target=self._down, args=(client, server, mine), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket, mine: list[Request]) -> None:
        waiting = b""
        while data := _received(client):
            waiting += data
            while (whole := _whole_request(waiting)) is not None:
                request = Request(time.monotonic(), whole[0], whole[1])
                waiting = waiting[whole[2] :]
                mine.append(request)
                self.requests.append(request)
            with contextlib.suppress(OSError):
                server.sendall(data)
        if mine:
            mine[-1].hung_up_s = time.monotonic()
        _hang_up(server)

    def _down(self, client: socket.socket, server: socket.socket, mine: list[Request]) -> None:
        while data := _received(server):
            if mine:
                mine[-1].chunks.append((time.monotonic(), data))
            try:
                client.sendall(data)
            except OSError:
                break
        _hang_up(client)


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except OSError:
        return b""


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _whole_request(data: bytes) -> tuple[str, dict[str, Any], int] | None:
    """Path, body and length of the first request in ``data``, once all of it is there."""
    head, blank, _ = data.partition(EMPTY_LINE)
    if not blank:
        return None
    length = LENGTH.search(head)
    end = len(head) + len(blank) + (int(length[1]) if length else 0)
    if len(data) < end:
        return None
    body = data[len(head) + len(blank) : end]
    return head.split(b" ")[1].decode(), json.loads(body) if body else {}, end


@dataclass
class Server:
    """A sandbox behind a wire."""

    sandbox: Sandbox
    wire: Wire

    @property
    def base_url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.wire.port}"

    def play(self, faults: FaultScript | None = None) -> Wire:
        """These faults from now on; the wire, with nothing on it yet."""
        self.sandbox.faults = faults
        self.wire.requests.clear()
        return self.wire


@contextmanager
def serving(**setup: Any) -> Iterator[Server]:
    """A sandbox with this setup, behind a wire."""
    with Sandbox(engine=answer, count="estimate", api_key=KEY, **setup) as sandbox:
        wire = Wire(sandbox.port)
        try:
            yield Server(sandbox, wire)
        finally:
            wire.close()
