"""One reply on its way to the client: its head, its framing, its pauses, and how far it got."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Protocol

from deepseek_nb.sandbox.clock import ServerClock
from deepseek_nb.sandbox.steps import Hang, Reply, Send, Wait

__all__ = ["SIGN", "Listener", "Run", "Wire"]

SIGN = b"x-deepseek-nb: simulation\r\n"
"""On every response: this is a simulation."""
_PHRASES = {status.value: status.phrase for status in HTTPStatus}


class Listener(Protocol):
    """Whoever follows one request's fate."""

    def sent(self, tokens: int) -> None:
        """Tell that bytes of the body were handed over, and tokens of the answer in them."""

    def ended(self, run: Run, *, complete: bool) -> None:
        """Tell that this was the end. Called once, in the same breath as the last write."""


class Wire(Protocol):
    """What a reply needs of the connection it leaves on."""

    clock: ServerClock
    lock: Any
    stale: bool
    full: bool
    gone: bool
    next_trace_id: Callable[[], str]

    def write(self, data: bytes) -> None:
        """Hand bytes to the socket."""

    async def drained(self) -> None:
        """Wait until the socket has taken all."""

    def when_drained(self, call: Callable[[], None]) -> None:
        """Call when the socket has taken all; never, if the client goes before."""

    def done(self, *, keep_alive: bool) -> None:
        """Go on to the next request, or close."""

    def close(self) -> None:
        """Close the connection when what was written is out."""

    def reset(self) -> None:
        """Reset the connection."""


class Run:
    """One reply on its way: the head, its framing, and how far it got."""

    def __init__(self, connection: Wire, listener: Listener, keep_alive: bool, head_only: bool) -> None:
        self.connection = connection
        self.listener = listener
        self.status = 0
        self.bytes_sent = 0
        self._keep_alive = keep_alive
        self._head_only = head_only
        self._chunked = False
        self._reply = Reply(())
        self._ended = False

    # ------------------------------------------------------------------------------- at once

    def play(self, reply: Reply) -> bool:
        """Send a reply that waits for nothing, in one write. False if it has to be played slowly."""
        data, tokens = b"", 0
        for step in reply.steps:
            if not isinstance(step, Send):
                return False
            data = step.data if not data else data + step.data
            tokens += step.tokens
        self._begin(reply)
        with self.connection.lock:
            self._write(data, head=self._head_bytes(), last=True)
            self.listener.sent(tokens)
            self._end_after_drain()
        return True

    # --------------------------------------------------------------------------------- slowly

    async def play_slowly(self, reply: Reply) -> None:
        """Send a reply in the order and at the times of its steps."""
        self._begin(reply)
        clock = self.connection.clock
        due_s = clock.now_s()
        pending = bytearray()
        tokens = 0
        for step in reply.steps:
            if isinstance(step, Send):
                pending += step.data
                tokens += step.tokens
                continue
            if isinstance(step, Wait) and step.wait_s > 0 and due_s + step.wait_s <= clock.now_s():
                due_s += step.wait_s  # late already: what follows goes into the same write
                continue
            if pending or tokens:
                self.send(bytes(pending), tokens)
                pending.clear()
                tokens = 0
            if isinstance(step, Wait):
                due_s += step.wait_s
                await self._wait_until(due_s, step)
            elif isinstance(step, Hang):
                await self._wait_until(float("inf"), step)
            else:
                self.break_off(reset=step.reset)
                return
        with self.connection.lock:
            self._write(bytes(pending), head=b"" if self.status else self._head_bytes(), last=True)
            self.listener.sent(tokens)
            self._end_after_drain()

    def open(self, reply: Reply) -> None:
        """Choose the head of a reply that begins with keep-alives, before the answer is known."""
        self._begin(reply)

    def send(self, data: bytes, tokens: int = 0) -> None:
        """Hand over a part of the body, and the head before it if it was not sent yet."""
        with self.connection.lock:
            self._write(data, head=b"" if self.status else self._head_bytes())
            self.listener.sent(tokens)

    def break_off(self, *, reset: bool) -> None:
        """End the connection without ending the answer."""
        with self.connection.lock:
            self._end(complete=False)
            if reset:
                self.connection.reset()
            else:
                self.connection.close()

    def give_up(self) -> None:
        """Close without an answer; a body that was begun ends cleanly."""
        with self.connection.lock:
            if self.status:
                self._write(b"", last=True)
            self._end(complete=False)
            self.connection.close()

    def lost(self) -> None:
        """The client has gone."""
        with self.connection.lock:
            self._end(complete=False)

    # --------------------------------------------------------------------------------- inside

    async def _wait_until(self, due_s: float, step: Wait | Hang) -> None:
        clock, beat = self.connection.clock, step.beat
        await self.connection.drained()
        if beat is None or beat.every_s == float("inf"):
            if due_s == float("inf"):
                await asyncio.get_running_loop().create_future()  # until cancelled
            await asyncio.sleep(max(clock.real_s(due_s - clock.now_s()), 0.0))
            return
        beat_s = clock.now_s() + beat.every_s
        while beat_s < due_s:
            await asyncio.sleep(max(clock.real_s(beat_s - clock.now_s()), 0.0))
            self._reply = _unmeasured(self._reply, started=self.status != 0)
            self.send(beat.data)
            beat_s += beat.every_s
        await asyncio.sleep(max(clock.real_s(due_s - clock.now_s()), 0.0))

    def _begin(self, reply: Reply) -> None:
        self._reply = reply if not self.status else self._reply
        if reply.stale:
            self.connection.stale = True

    def _head_bytes(self) -> bytes:
        reply = self._reply
        self.status = reply.status
        self._chunked = reply.length is None
        lines = [f"HTTP/1.1 {reply.status} {_PHRASES.get(reply.status, 'Unknown')}\r\n"]
        if reply.content_type is not None:
            lines.append(f"content-type: {reply.content_type}\r\n")
        lines.append(
            "transfer-encoding: chunked\r\n" if self._chunked else f"content-length: {reply.length}\r\n"
        )
        lines.extend(f"{name}: {value}\r\n" for name, value in reply.headers)
        if not self._keep_alive:
            lines.append("connection: close\r\n")
        lines.append(f"x-ds-trace-id: {self.connection.next_trace_id()}\r\n")
        return "".join(lines).encode("latin-1", "replace") + SIGN + b"\r\n"

    def _write(self, data: bytes, *, head: bytes = b"", last: bool = False) -> None:
        self.bytes_sent += len(data)
        if self._head_only:
            data = b""
        elif self._chunked:
            if data:
                data = b"%x\r\n%b\r\n" % (len(data), data)
            if last:
                data += b"0\r\n\r\n"
        if head or data:
            self.connection.write(head + data if head else data)

    def _end_after_drain(self) -> None:
        if self.connection.full:
            self.connection.when_drained(self._end_complete)
        else:
            self._end_complete()

    def _end_complete(self) -> None:
        self._end(complete=True)
        self.connection.done(keep_alive=self._keep_alive)

    def _end(self, *, complete: bool) -> None:
        if not self._ended:
            self._ended = True
            self.listener.ended(self, complete=complete)


def _unmeasured(reply: Reply, *, started: bool) -> Reply:
    """The same reply in chunks: a keep-alive goes first, so its length is no longer known."""
    if started or reply.length is None:
        return reply
    return Reply(reply.steps, reply.status, reply.content_type, None, reply.headers, reply.stale)
