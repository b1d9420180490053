"""One request on the wire, once: sent, watched, its answer read to the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial

from deepseek_nb.client.upstreams import Upstream
from deepseek_nb.client.watchdog import Limits, Watchdog
from deepseek_nb.core.admission import Ticket
from deepseek_nb.core.chat import Answer, ChatRequest
from deepseek_nb.core.errors import (
    DeepSeekError,
    Disposition,
    EndpointUnknown,
    NeverConnected,
    Overloaded,
    RateLimited,
    Recalled,
    TransportFailed,
)
from deepseek_nb.core.responses import RESPONSES_PATH, ResponsesDecoder, responses_body
from deepseek_nb.core.wire import AnswerDecoder, Delta, error_from_reply, request_body, request_path

__all__ = ["Exchange"]

ERROR_BODY_BYTES = 64 * 1024
HELD_EVERY_S = 1.0
AFTER_DONE_S = 1.0
"""How long the end of the body may take once the stream said it is done."""


class Exchange:
    """One request sent with the place that ``ticket`` holds. ``await run()`` once, then :meth:`end`.

    ``on_token`` is told when the answer begins; ``on_delta`` gets its pieces; ``on_held`` is told, at
    most once a second, that keep-alives come and no answer yet.
    """

    def __init__(
        self,
        upstream: Upstream,
        request: ChatRequest,
        ticket: Ticket,
        limits: Limits,
        *,
        stream: bool = True,
        on_delta: Callable[[Delta], None] | None = None,
        on_token: Callable[[Exchange], None] | None = None,
        on_held: Callable[[], None] | None = None,
    ) -> None:
        self.upstream = upstream
        self.request = request
        self.ticket = ticket
        self.limits = limits
        self.stream = stream
        decoder = ResponsesDecoder if request.over_responses else AnswerDecoder
        self.decoder: AnswerDecoder = decoder(request, streamed=stream)
        self.spoke = False
        """Whether any byte of a reply came, a status line included."""
        self.began = False
        """Whether the answer began."""
        self.muted = False
        """Whether its pieces are kept from the caller: another exchange's answer is taken."""
        self._gate = upstream.gate(request.model)
        self._on_delta = on_delta
        self._on_token = on_token
        self._on_held = on_held
        self._held_s = float("-inf")
        self._watchdog: Watchdog | None = None

    async def run(self) -> Answer:
        """Send it and read the answer to its end. Raises what ended it, a :class:`DeepSeekError`."""
        decoder = self.decoder
        # silence says nothing about an answer in one piece: it may be written right now, and be charged
        repeats = self.stream and not self.ticket.interactive
        repeat_due = partial(self._gate.repeat_due, self.ticket) if repeats else None
        try:
            async with Watchdog(self.limits, repeat_due) as self._watchdog:
                self._gate.sent(self.ticket, self.take_back)
                path, body = self._told()
                async with self.upstream.transport.post(path, body) as reply:
                    decoder.trace_id = reply.trace_id
                    self._speaks()
                    if reply.status != 200:
                        said = bytearray()
                        async for data in reply.chunks:
                            said += data[: ERROR_BODY_BYTES - len(said)]
                        error = error_from_reply(reply.status, bytes(said), reply.headers)
                        if isinstance(error, EndpointUnknown) and self.request.over_responses:
                            error.hint = "The server may have no /responses: use structured='json'."
                        raise error
                    await self._read(reply.chunks, self._watchdog)
        except DeepSeekError as error:
            if decoder.done:
                return decoder.close()
            error.trace_id = error.trace_id or decoder.trace_id or None
            if isinstance(error, TransportFailed):
                error.partial = decoder.partial().text
            raise
        answer = decoder.close()
        if not self.stream:
            self.began = True
            self._gate.came_whole(self.ticket)
        elif not self.began:  # a plain JSON body instead of a stream
            self._begin()
            self._show(Delta.of(answer))
        return answer

    def _told(self) -> tuple[str, bytes]:
        """The path and the body."""
        request, upstream = self.request, self.upstream
        if request.over_responses:
            return RESPONSES_PATH, responses_body(request, stream=self.stream)
        path = request_path(request, base_path=upstream.base_path, dialect=upstream.dialect)
        return path, request_body(request, stream=self.stream, dialect=upstream.dialect)

    async def _read(self, chunks: AsyncIterator[bytes], watchdog: Watchdog) -> None:
        decoder = self.decoder
        async for data in chunks:
            watchdog.byte()
            before = decoder.progressed
            deltas = list(decoder.feed(data))
            if decoder.progressed != before:
                watchdog.token()
                if not before:
                    self._begin()
            elif not before:
                self._is_held()
            for delta in deltas:
                self._show(delta)
            if decoder.done:
                await _drain(chunks)
                return

    def _speaks(self) -> None:
        self.upstream.reached = self.spoke = True
        if self._watchdog is not None:
            self._watchdog.byte()
        self._gate.byte(self.ticket)

    def _is_held(self) -> None:
        """Bytes came, and none of them was of an answer: the server keeps the request waiting."""
        now = asyncio.get_running_loop().time()
        if self._on_held is not None and self.decoder.alive and now - self._held_s >= HELD_EVERY_S:
            self._held_s = now
            self._on_held()

    def _begin(self) -> None:
        self.began = True
        self._gate.first_token(self.ticket)
        if self._on_token is not None:
            self._on_token(self)

    def _show(self, delta: Delta) -> None:
        if self._on_delta is not None and not self.muted:
            self._on_delta(delta)

    def take_back(self) -> None:
        """Hang up: the place is needed for an interactive call."""
        if self._watchdog is not None:
            self._watchdog.hang_up(Recalled("We hung up, so that an interactive call could pass."))

    def end(self, error: DeepSeekError | None = None) -> tuple[float, bool]:
        """Tell the gate how it ended: with an answer (None), or with ``error``.

        Gives the seconds to wait before the next try (refusals), and whether the fault counts as
        this request's own: not where the server was known to be down.
        """
        gate, ticket, wait_s = self._gate, self.ticket, 0.0
        if error is None:
            gate.answered(ticket)
            return wait_s, True
        unreached = isinstance(error, NeverConnected) and self.upstream.reached
        counted = gate.down_s() is None and not unreached
        if isinstance(error, Recalled):
            gate.recalled(ticket)
        elif isinstance(error, RateLimited):
            wait_s = gate.refused(ticket, overloaded=False, named_limit=error.limit)
        elif isinstance(error, Overloaded):
            wait_s = gate.refused(ticket, overloaded=True, named_limit=None)
        elif error.disposition is Disposition.RETRY:
            gate.faulted(ticket)
        else:
            gate.answered(ticket)
        return wait_s, counted


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read to the end of a body that has said all, so that the connection can be used again."""
    try:
        async with asyncio.timeout(AFTER_DONE_S):
            async for _ in chunks:
                pass
    except (TimeoutError, DeepSeekError):
        return
