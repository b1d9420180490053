"""One errand under way: carries out what ``core.call`` decides, command by command, with the adapters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from deepseek_nb.client.errand import Errand
from deepseek_nb.client.means import Means
from deepseek_nb.client.watchdog import Watchdog
from deepseek_nb.core.admission import Ticket
from deepseek_nb.core.budget import worst_case_usd
from deepseek_nb.core.call import (
    Admit,
    Admitted,
    Answered,
    Call,
    Command,
    Denied,
    Done,
    Event,
    Fail,
    Failed,
    Finish,
    Hit,
    Interrupted,
    LookUp,
    Missed,
    Release,
    Reserve,
    Send,
    Settle,
    Store,
    Wait,
)
from deepseek_nb.core.chat import Answer, ChatRequest, Usage
from deepseek_nb.core.errors import (
    BudgetExceeded,
    ConfigError,
    DeepSeekError,
    Disposition,
    NeverConnected,
    Overloaded,
    RateLimited,
    StoreFailed,
    TransportFailed,
)
from deepseek_nb.core.metrics import CallEvent
from deepseek_nb.core.prices import Price
from deepseek_nb.core.tokens import estimate_request_tokens
from deepseek_nb.core.wire import AnswerDecoder, Delta, error_from_reply, request_body

__all__ = ["Drive"]

ERROR_BODY_BYTES = 64 * 1024
AFTER_DONE_S = 1.0
"""How long the end of the body may take once the stream said it is done."""


class Drive:
    """One errand under way: the driver of one :class:`Call`."""

    def __init__(self, means: Means, errand: Errand) -> None:
        self.means = means
        self.errand = errand
        self.call = Call(
            errand.request,
            key=errand.key,
            policy=errand.policy,
            rng=means.rng,
            look_up=errand.look_up,
            keep=errand.keep,
        )
        self.ticket: Ticket | None = None
        self.reservation: int | None = None
        self.reserved_price: Price | None = None
        self.cost_usd: float | None = 0.0
        self.first_token_s: float | None = None
        self.started_s = 0.0
        self.shown = False
        self.in_flight: AnswerDecoder | None = None
        self.cancelled: asyncio.CancelledError | None = None

    async def run(self) -> Answer:
        """Live the whole story: gives its answer, or raises the error it ends with."""
        now = asyncio.get_running_loop().time
        self.started_s = now()
        command: Command = self.call.start(now())
        while True:
            if isinstance(command, Finish):
                return self._finish(command.answer)
            if isinstance(command, Fail):
                raise self._fail(command)
            try:
                event = await self._obey(command)
            except asyncio.CancelledError as gone:
                self.cancelled = gone
                event = Interrupted(self._perhaps_charged())
            command = self.call.next(event, now())

    def _finish(self, answer: Answer) -> Answer:
        if self.cancelled is not None:
            raise self.cancelled
        if self.errand.on_delta and answer.cached:
            self.errand.on_delta(Delta(answer.text, answer.reasoning))
        self._tell("hit" if answer.cached else "answered", answer=answer)
        return answer

    def _fail(self, command: Fail) -> BaseException:
        if self.ticket is not None:
            self.means.gate.leave(self.ticket)
            self.ticket = None
        if command.error is None:
            return self.cancelled or asyncio.CancelledError()
        error = self.means.scrub(command.error)
        error.cost_usd = self.cost_usd  # type: ignore[attr-defined]
        self._tell("failed", error=error)
        return error

    async def _obey(self, command: Command) -> Event:
        match command:
            case LookUp():
                return await self._look_up(command)
            case Reserve():
                return await self._reserve(command)
            case Admit():
                self.ticket = await self._enter()
                return Admitted()
            case Send():
                return await self._send(command)
            case Store():
                return await self._store(command)
            case Settle():
                return self._settle(command)
            case Release():
                return self._release()
            case Wait():
                return await self._wait(command)
            case _:  # pragma: no cover
                raise AssertionError(f"the story has no {command!r}")

    # -- the store

    async def _look_up(self, command: LookUp) -> Event:
        store = self.means.store
        assert store is not None  # noqa: S101 (nothing is looked up without one)
        kept = await store.aget(command.key, self.errand.ttl_s)
        if kept is None:
            return Missed()
        try:
            return Hit(self.errand.with_value(Answer.from_json(kept)))
        except (DeepSeekError, TypeError, ValueError, KeyError, AttributeError):
            return Missed()  # kept by another version, or no longer of the asked-for shape

    async def _store(self, command: Store) -> Event:
        store = self.means.store
        assert store is not None  # noqa: S101
        writing = asyncio.ensure_future(store.aput(command.key, command.answer.to_json()))
        while not writing.done():
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError as gone:
                self.cancelled = gone  # a paid answer is written first; then we go
            except StoreFailed as failed:
                self.means.not_saved = failed  # the answer is paid for: it is handed over all the same
        return Done()

    # -- money

    async def _reserve(self, command: Reserve) -> Event:
        request, budget = command.request, self.errand.budget
        price = self.means.price(request.model)
        self.reserved_price = price
        if price is None and budget.left_usd is not None:
            return Denied(
                ConfigError(
                    f"No price is known for the model {request.model!r}, so a budget cannot be kept.",
                    hint="Leave budget_usd out, or use a model of the price table.",
                )
            )
        worst_usd = 0.0
        if price is not None:
            worst_usd = worst_case_usd(
                estimate_request_tokens(request), request.max_tokens or self.errand.output_tokens, price
            )
        while True:
            reservation = self.means.new_reservation()
            try:
                budget.reserve(reservation, worst_usd)
            except BudgetExceeded as full:
                if not getattr(full, "fits_later", False):
                    return Denied(full)
                await self.means.settled()
                continue
            self.reservation = reservation
            return Done()

    def _cost_usd(self, usage: Usage) -> float | None:
        return None if self.reserved_price is None else self.reserved_price.cost_of(usage)

    def _settle(self, command: Settle) -> Event:
        cost_usd = self._cost_usd(command.usage)
        if self.reservation is not None:
            self.errand.budget.settle(self.reservation, cost_usd or 0.0, certain=command.certain)
            self.reservation = None
            self.means.announce_settled()
        self.cost_usd = None if cost_usd is None or self.cost_usd is None else self.cost_usd + cost_usd
        return Done()

    def _release(self) -> Event:
        if self.reservation is not None:
            self.errand.budget.release(self.reservation)
            self.reservation = None
            self.means.announce_settled()
        return Done()

    # -- the server

    async def _enter(self) -> Ticket:
        held, self.ticket = self.ticket, None
        return await self.means.gate.enter(held, self.errand.lane)

    async def _send(self, command: Send) -> Event:
        assert self.ticket is not None  # noqa: S101 (admitted before)
        self._tell("sent", tries=command.tries)
        decoder = AnswerDecoder(command.request)
        self.in_flight = decoder
        self.first_token_s = None
        try:
            answer = await self._exchange(command.request, decoder)
            answer = self.errand.with_value(answer)
        except DeepSeekError as error:
            return self._broke(error, decoder)
        except asyncio.CancelledError:
            self.means.gate.leave(self.ticket)
            self.ticket = None
            raise
        self.in_flight = None
        self.means.gate.answered(self.ticket)
        self.ticket = None
        cost_usd = self._cost_usd(answer.usage)
        total_usd = None if cost_usd is None or self.cost_usd is None else self.cost_usd + cost_usd
        return Answered(
            replace(answer, route=self.means.route, first_token_s=self.first_token_s, cost_usd=total_usd)
        )

    async def _exchange(self, request: ChatRequest, decoder: AnswerDecoder) -> Answer:
        trace_id = ""
        try:
            async with (
                Watchdog(self.errand.limits) as watchdog,
                self.means.transport.post("/chat/completions", request_body(request)) as reply,
            ):
                trace_id = reply.trace_id
                self.means.reached = True
                if reply.status != 200:
                    body = bytearray()
                    async for data in reply.chunks:
                        body += data[: ERROR_BODY_BYTES - len(body)]
                    raise error_from_reply(reply.status, bytes(body), reply.headers)
                async for data in reply.chunks:
                    watchdog.byte()
                    before = decoder.progressed
                    for delta in decoder.feed(data):
                        self._show(delta)
                    if decoder.progressed != before:
                        watchdog.token()
                        if not before:
                            self._first_token()
                    if decoder.done:
                        break
                if decoder.done:
                    await _drain(reply.chunks)
        except DeepSeekError as error:
            if decoder.done:
                return replace(decoder.close(), trace_id=trace_id)
            error.trace_id = error.trace_id or trace_id or None
            if isinstance(error, TransportFailed):
                error.partial = decoder.partial().text
            raise
        came_whole = not decoder.progressed  # a plain JSON body instead of a stream
        answer = decoder.close()
        if came_whole:
            self._show(Delta(answer.text, answer.reasoning))
            self._first_token()
        return replace(answer, trace_id=trace_id)

    def _first_token(self) -> None:
        self.first_token_s = asyncio.get_running_loop().time() - self.started_s
        if self.ticket is not None:
            self.means.gate.first_token(self.ticket)
        self._tell("first_token")

    def _show(self, delta: Delta) -> None:
        if self.errand.on_delta is not None:
            self.shown = True
            self.errand.on_delta(delta)

    def _broke(self, error: DeepSeekError, decoder: AnswerDecoder) -> Event:
        """Tell admission what the error shows about the server, and hand it to the story."""
        assert self.ticket is not None  # noqa: S101
        self.in_flight = None
        if self.shown and self.errand.on_delta:
            self.errand.on_delta(Delta(restart=True))
            self.shown = False
        gate, wait_s = self.means.gate, 0.0
        unreached = isinstance(error, NeverConnected) and self.means.reached
        counted = not gate.admission.open and not unreached
        if isinstance(error, RateLimited):
            wait_s = gate.refused(self.ticket, overloaded=False, named_limit=error.limit)
        elif isinstance(error, Overloaded):
            wait_s = gate.refused(self.ticket, overloaded=True, named_limit=None)
        elif error.disposition is Disposition.RETRY:
            gate.faulted(self.ticket)
        else:
            gate.answered(self.ticket)
        usage = getattr(error, "usage", None)
        if usage is None and isinstance(getattr(error, "answer", None), Answer):
            usage = error.answer.usage  # type: ignore[attr-defined]
        if usage is None and error.charged != "no":
            usage = decoder.partial().usage
        return Failed(error, usage, max(wait_s, error.retry_after_s or 0.0), counted)

    def _perhaps_charged(self) -> Usage | None:
        """Tokens that may be billed for a request that was under way when the caller went."""
        decoder, self.in_flight = self.in_flight, None
        return None if decoder is None else decoder.partial().usage

    async def _wait(self, command: Wait) -> Event:
        self._tell(
            "waiting",
            error=command.error,
            wait_s=command.wait_s,
            tries=command.tries,
            refusals=command.refusals,
            left_s=command.left_s,
        )
        if command.wait_s > 0:
            await asyncio.sleep(command.wait_s)
        return Done()

    def _tell(self, kind: Any, **details: Any) -> None:
        if not self.means.listeners and self.errand.on_event is None:
            return
        event = CallEvent(kind, self.errand.lane, asyncio.get_running_loop().time(), **details)
        for listener in self.means.listeners:
            listener(event)
        if self.errand.on_event is not None:
            self.errand.on_event(event)


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Read to the end of a body that has said all, so that the connection can be used again."""
    try:
        async with asyncio.timeout(AFTER_DONE_S):
            async for _ in chunks:
                pass
    except (TimeoutError, DeepSeekError):
        return
