"""The one road every request takes: carries out what ``core.call`` decides, with the adapters.

Everything here runs in one event loop. At risk while it runs: the requests in flight. An answer is
committed to disk before it is handed over, so a process killed at any moment loses no answer it has
shown; what was in flight, and what had arrived but not been committed, is asked and paid again.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from deepseek_nb.adapters.store import AnswerStore
from deepseek_nb.adapters.transport import Transport
from deepseek_nb.client.gate import Gate
from deepseek_nb.client.watchdog import Limits, Watchdog
from deepseek_nb.core.admission import Ticket
from deepseek_nb.core.budget import Budget, worst_case_usd
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
    Overloaded,
    RateLimited,
    StoreFailed,
)
from deepseek_nb.core.metrics import CallEvent
from deepseek_nb.core.prices import Price, PriceTable
from deepseek_nb.core.retry import RetryPolicy
from deepseek_nb.core.secret import Secret
from deepseek_nb.core.tokens import estimate_request_tokens
from deepseek_nb.core.wire import AnswerDecoder, Delta, error_from_reply, request_body

__all__ = ["Errand", "Road"]

ERROR_BODY_BYTES = 64 * 1024
AFTER_DONE_S = 1.0
"""How long the end of the body may take once the stream said it is done."""


@dataclass(frozen=True, slots=True)
class Errand:
    """One request and how it is to be done."""

    request: ChatRequest
    key: str
    lane: int
    policy: RetryPolicy
    budget: Budget
    limits: Limits = field(default_factory=Limits)
    look_up: bool = True
    """Whether the store is asked first; one who has looked already says False."""
    keep: bool = True
    """Whether the answer is kept in the store."""
    ttl_s: float | None = None
    output_tokens: int = 8192
    """What an answer may have at most where the request does not say: for the reservation."""
    check: Callable[[Answer], Any] | None = None
    """Gives the answer's value, or raises an AnswerInvalid."""
    on_delta: Callable[[Delta], None] | None = None
    on_event: Callable[[CallEvent], None] | None = None


class Road:
    """Takes errands to the server. ``listeners`` are told what happens to each."""

    def __init__(
        self,
        *,
        transport: Transport,
        store: AnswerStore | None,
        gate: Gate,
        prices: PriceTable,
        route: str,
        secrets: tuple[Secret, ...] = (),
        rng: Callable[[], float] = random.random,
        now_utc: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.transport = transport
        self.store = store
        self.gate = gate
        self.prices = prices
        self.route = route
        self.secrets = secrets
        self.rng = rng
        self.now_utc = now_utc
        self.listeners: list[Callable[[CallEvent], None]] = []
        self.not_saved: StoreFailed | None = None
        """Why answers that were paid for could not be written to disk; None while all is well."""
        self._flights: dict[str, asyncio.Future[Answer]] = {}
        self._settled = asyncio.Event()
        self._numbers = itertools.count(1)

    def price(self, model: str) -> Price | None:
        """The price of ``model`` now; None where no price is known."""
        return self.prices.find(model, self.now_utc())

    async def take(self, errand: Errand) -> Answer:
        """Do one errand and give its answer; equal errands under way at the same time are done once.

        Raises what ended it, a :class:`DeepSeekError`.
        """
        if self.store is None:
            errand = replace(errand, look_up=False, keep=False)
        if not errand.look_up:
            return await _Drive(self, errand).run()
        while (flight := self._flights.get(errand.key)) is not None:
            try:
                shared = await asyncio.shield(flight)
            except DeepSeekError as error:
                if not error.retryable:
                    raise
                continue
            except asyncio.CancelledError:
                if flight.cancelled() and not _cancelling():
                    continue  # whoever asked first went away: now it is our turn
                raise
            answer = replace(shared, cached=True)
            answer = _with_value(answer, errand)
            if errand.on_delta:
                errand.on_delta(Delta(answer.text, answer.reasoning))
            return answer
        flight = asyncio.get_running_loop().create_future()
        flight.add_done_callback(_look_away)
        self._flights[errand.key] = flight
        try:
            answer = await _Drive(self, errand).run()
        except DeepSeekError as error:
            flight.set_exception(error)
            raise
        except BaseException:
            flight.cancel()
            raise
        else:
            flight.set_result(answer)
            return answer
        finally:
            del self._flights[errand.key]

    # -- what one drive needs of the road

    def new_reservation(self) -> int:
        """A name for one reservation."""
        return next(self._numbers)

    def announce_settled(self) -> None:
        """Wake those who wait for budget."""
        self._settled.set()
        self._settled = asyncio.Event()

    async def settled(self) -> None:
        """Wait until some reservation has ended."""
        await self._settled.wait()

    def scrub(self, error: DeepSeekError) -> DeepSeekError:
        """``error`` without any of our secrets in its words."""
        for secret in self.secrets:
            error.message = secret.scrub(error.message)
            if error.body:
                error.body = secret.scrub(error.body)
        error.args = (error.message,)
        return error


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _look_away(flight: asyncio.Future[Answer]) -> None:
    """An error nobody shared is not 'never retrieved': its own caller has it."""
    if not flight.cancelled():
        flight.exception()


def _with_value(answer: Answer, errand: Errand) -> Answer:
    return replace(answer, value=errand.check(answer)) if errand.check else answer


class _Drive:
    """One errand under way: the driver of one :class:`Call`."""

    def __init__(self, road: Road, errand: Errand) -> None:
        self.road = road
        self.errand = errand
        self.call = Call(
            errand.request,
            key=errand.key,
            policy=errand.policy,
            rng=road.rng,
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
            self.road.gate.leave(self.ticket)
            self.ticket = None
        if command.error is None:
            return self.cancelled or asyncio.CancelledError()
        error = self.road.scrub(command.error)
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
        store = self.road.store
        assert store is not None  # noqa: S101 (nothing is looked up without one)
        kept = await store.aget(command.key, self.errand.ttl_s)
        if kept is None:
            return Missed()
        try:
            return Hit(_with_value(Answer.from_json(kept), self.errand))
        except (DeepSeekError, TypeError, ValueError, KeyError, AttributeError):
            return Missed()  # kept by another version, or no longer of the asked-for shape

    async def _store(self, command: Store) -> Event:
        store = self.road.store
        assert store is not None  # noqa: S101
        writing = asyncio.ensure_future(store.aput(command.key, command.answer.to_json()))
        while not writing.done():
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError as gone:
                self.cancelled = gone  # a paid answer is written first; then we go
            except StoreFailed as failed:
                self.road.not_saved = failed  # the answer is paid for: it is handed over all the same
        return Done()

    # -- money

    async def _reserve(self, command: Reserve) -> Event:
        request, budget = command.request, self.errand.budget
        price = self.road.price(request.model)
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
            reservation = self.road.new_reservation()
            try:
                budget.reserve(reservation, worst_usd)
            except BudgetExceeded as full:
                if not getattr(full, "fits_later", False):
                    return Denied(full)
                await self.road.settled()
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
            self.road.announce_settled()
        self.cost_usd = None if cost_usd is None or self.cost_usd is None else self.cost_usd + cost_usd
        return Done()

    def _release(self) -> Event:
        if self.reservation is not None:
            self.errand.budget.release(self.reservation)
            self.reservation = None
            self.road.announce_settled()
        return Done()

    # -- the server

    async def _enter(self) -> Ticket:
        held, self.ticket = self.ticket, None
        return await self.road.gate.enter(held, self.errand.lane)

    async def _send(self, command: Send) -> Event:
        assert self.ticket is not None  # noqa: S101 (admitted before)
        self._tell("sent", tries=command.tries)
        decoder = AnswerDecoder(command.request)
        self.in_flight = decoder
        self.first_token_s = None
        try:
            answer = await self._exchange(command.request, decoder)
            if self.errand.check is not None:
                answer = replace(answer, value=self.errand.check(answer))
        except DeepSeekError as error:
            return self._broke(error, decoder)
        except asyncio.CancelledError:
            self.road.gate.leave(self.ticket)
            self.ticket = None
            raise
        self.in_flight = None
        self.road.gate.answered(self.ticket)
        self.ticket = None
        cost_usd = self._cost_usd(answer.usage)
        total_usd = None if cost_usd is None or self.cost_usd is None else self.cost_usd + cost_usd
        return Answered(
            replace(answer, route=self.road.route, first_token_s=self.first_token_s, cost_usd=total_usd)
        )

    async def _exchange(self, request: ChatRequest, decoder: AnswerDecoder) -> Answer:
        trace_id = ""
        try:
            async with (
                Watchdog(self.errand.limits) as watchdog,
                self.road.transport.post("/chat/completions", request_body(request)) as reply,
            ):
                trace_id = reply.trace_id
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
            raise
        came_whole = not decoder.progressed  # a plain JSON body instead of a stream
        answer = decoder.close()
        if came_whole:
            self._show(Delta(answer.text, answer.reasoning))
            self._first_token()
        return replace(answer, trace_id=trace_id)

    def _first_token(self) -> None:
        self.first_token_s = asyncio.get_running_loop().time() - self.started_s
        self.road.gate.first_token()
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
        gate, wait_s = self.road.gate, 0.0
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
        return Failed(error, usage, max(wait_s, error.retry_after_s or 0.0))

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
        if not self.road.listeners and self.errand.on_event is None:
            return
        event = CallEvent(kind, self.errand.lane, asyncio.get_running_loop().time(), **details)
        for listener in self.road.listeners:
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
