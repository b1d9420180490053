"""HTTP/1.1 on a bare socket: reads requests, answers each in turn, and can break off anywhere.

One connection answers one request after the other. A reply without waits leaves in one write,
inside the callback that read the request; any other becomes a task.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import httptools

from deepseek_nb.sandbox.clock import ServerClock
from deepseek_nb.sandbox.run import SIGN, Listener, Run
from deepseek_nb.sandbox.steps import Reply

__all__ = ["MAX_BODY_BYTES", "Connection", "RawRequest"]

MAX_BODY_BYTES = 48 * 1024 * 1024
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class RawRequest:
    """A request as it came."""

    __slots__ = ("body", "headers", "keep_alive", "method", "target")

    def __init__(
        self, method: str, target: str, headers: dict[str, str], body: bytes, keep_alive: bool
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Connection(asyncio.Protocol):
    """One client's connection. ``accept(request, connection)`` is called for each request in turn."""

    def __init__(
        self,
        accept: Callable[[RawRequest, Connection], None],
        clock: ServerClock,
        lock: Any,
        opened: set[Connection],
        next_trace_id: Callable[[], str],
    ) -> None:
        self.clock = clock
        self.lock = lock
        self.stale = False
        self.full = False
        self.gone = False
        self.next_trace_id = next_trace_id
        self.run: Run | None = None
        self.task: asyncio.Task[None] | None = None
        self._accept = accept
        self._opened = opened
        self._waiting: deque[RawRequest] = deque()
        self._on_drained: list[Callable[[], None]] = []
        self._busy = False

    # ------------------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a new connection."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  a TCP server makes no other
        self._transport = transport
        transport.set_write_buffer_limits(high=0)
        self._parser = httptools.HttpRequestParser(self)
        self._opened.add(self)

    def data_received(self, data: bytes) -> None:
        """Read what came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.close()
        except httptools.HttpParserError:
            if not self._transport.is_closing():
                self.write(
                    b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n" + SIGN + b"\r\n"
                )
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's signature
        """Note that the client has gone, or that we have."""
        self.gone = True
        self._opened.discard(self)
        self._waiting.clear()
        self._on_drained.clear()
        if self.task is not None:
            self.task.cancel()
        if self.run is not None:
            self.run.lost()
            self.run = None

    def pause_writing(self) -> None:
        """Note that the socket took not all."""
        self.full = True

    def resume_writing(self) -> None:
        """Note that the socket has taken all."""
        self.full = False
        calls, self._on_drained = self._on_drained, []
        with self.lock:
            for call in calls:
                call()

    # ------------------------------------------------------------------------- httptools' calls

    def on_message_begin(self) -> None:
        """Begin a request."""
        if self.stale:
            self.reset()
        self._target = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0

    def on_url(self, url: bytes) -> None:
        """Take (a part of) the target."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Let a client that asked go on to its body."""
        if self._headers.get("expect", "").lower() == "100-continue":
            self.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        """Take a part of the body; beyond the limit it is counted, not kept."""
        self._size += len(body)
        if self._size <= MAX_BODY_BYTES:
            self._body.append(body)

    def on_message_complete(self) -> None:
        """Take the whole request: answer it now, or after the one before."""
        if self.gone or self._transport.is_closing():
            return
        body = b"".join(self._body) if self._size <= MAX_BODY_BYTES else bytes(MAX_BODY_BYTES + 1)
        request = RawRequest(
            self._parser.get_method().decode("latin-1"),
            self._target.decode("latin-1"),
            self._headers,
            body,
            self._parser.should_keep_alive(),
        )
        if self._busy:
            self._waiting.append(request)
        else:
            self._busy = True
            self._accept(request, self)

    # --------------------------------------------------------------------------- for the runs

    def start(self, request: RawRequest, listener: Listener) -> Run:
        """Begin the answer to a request."""
        self.run = Run(self, listener, request.keep_alive, request.method == "HEAD")
        return self.run

    def play(self, run: Run, reply: Reply) -> None:
        """Play a reply: at once if it waits for nothing, else in a task."""
        if not run.play(reply):
            self.spawn(run.play_slowly(reply))

    def spawn(self, work: Any) -> None:
        """Let a task answer, and end when the client goes."""
        self.task = asyncio.get_running_loop().create_task(work)

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket."""
        self._transport.write(data)

    async def drained(self) -> None:
        """Wait until the socket has taken all."""
        if self.full:
            future = asyncio.get_running_loop().create_future()
            self._on_drained.append(lambda: _release(future))
            await future

    def when_drained(self, call: Callable[[], None]) -> None:
        """Call when the socket has taken all; never, if the client goes before."""
        self._on_drained.append(call)

    def done(self, *, keep_alive: bool) -> None:
        """Go on to the next request, or close."""
        self.run = self.task = None
        self._busy = False
        if not keep_alive:
            self.close()
        elif self._waiting:
            self._busy = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        if not self.gone and self._waiting:
            self._accept(self._waiting.popleft(), self)

    def close(self) -> None:
        """Close the connection when what was written is out."""
        self._transport.close()

    def reset(self) -> None:
        """Reset the connection: the client sees ECONNRESET."""
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()
