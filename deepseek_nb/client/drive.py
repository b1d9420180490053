"""One errand under way: carries out what ``core.call`` decides, command by command, with the adapters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, ClassVar

from deepseek_nb.adapters.store import json_text
from deepseek_nb.client.errand import Errand
from deepseek_nb.client.exchange import Exchange
from deepseek_nb.client.gate import Gate
from deepseek_nb.client.hedge import Hedge
from deepseek_nb.client.lines import Lines
from deepseek_nb.client.means import Means
from deepseek_nb.client.upstreams import Upstream
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
    FallBack,
    Finish,
    Hit,
    Interrupted,
    Leg,
    LookUp,
    Missed,
    Release,
    Reserve,
    Returned,
    Send,
    Settle,
    Store,
    Wait,
)
from deepseek_nb.core.chat import Answer, ChatRequest, Usage
from deepseek_nb.core.copies import changed
from deepseek_nb.core.errors import (
    BudgetExceeded,
    ConfigError,
    DeepSeekError,
    Overloaded,
    StoreFailed,
)
from deepseek_nb.core.events import CallEvent, Charged
from deepseek_nb.core.prices import Price
from deepseek_nb.core.tokens import estimate_request_tokens
from deepseek_nb.core.wire import Delta

__all__ = ["Drive"]

CHARGED_ORDER: tuple[Charged, ...] = ("no", "unknown", "yes")
LINE_CHECK_S = 0.25
"""How often a row that waits in line looks whether its server is down and another one is not, and at which
earlier leg it could stand in line as well."""


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
            looked=errand.claimed,
            keep=errand.keep,
            failover_s=errand.failover_s if errand.fallbacks else None,
            upstream=errand.upstream,
            fallbacks=errand.fallbacks,
        )
        self.upstream: Upstream = means.upstream(errand.upstream)
        self.ticket: Ticket | None = None
        self.reservation: int | None = None
        self.hedge_reservation: int | None = None
        self.reserved_price: Price | None = None
        self.cost_usd: float | None = 0.0
        self.charged: Charged = "no"
        self.first_token_s: float | None = None
        self.started_s = 0.0
        self.leg_since_s = 0.0
        self.closings: dict[int, int] = {}
        """Of each leg that was left, how often its breaker had closed by then."""
        self.returned = False
        """Whether it went back to an earlier leg: it has waited for that server before."""
        self.shown = False
        self.in_flight: Exchange | None = None
        self.gone: BaseException | None = None
        """What ended it from outside: a cancellation, or what a listener or callback raised."""

    @property
    def leg(self) -> Leg:
        """The leg that is being gone."""
        return self.call.legs[self.call.leg]

    @property
    def gate(self) -> Gate:
        """The admission of the server and model that are asked now."""
        return self.upstream.gate(self.leg.request.model)

    def _gate_of(self, leg: Leg) -> Gate:
        return self.means.upstream(leg.upstream).gate(leg.request.model)

    async def run(self) -> Answer:
        """Live the whole story: gives its answer, or raises the error it ends with."""
        now = asyncio.get_running_loop().time
        self.started_s = self.leg_since_s = now()
        command: Command = self.call.start(now())
        while (obey := self._OBEY.get(type(command))) is not None:
            try:
                event = await obey(self, command)
            except BaseException as gone:  # noqa: BLE001 (raised at the end, once the books are in order)
                self.gone = gone
                event = Interrupted(self._perhaps_charged())
            command = self.call.next(event, now())
        if isinstance(command, Finish):
            return self._finish(command.answer)
        assert isinstance(command, Fail)  # noqa: S101 (the story has no other last word)
        raise self._fail(command)

    def _finish(self, answer: Answer) -> Answer:
        if self.gone is not None:
            raise self.gone
        if self.errand.on_delta and answer.cached:
            self.errand.on_delta(Delta.of(answer))
        self._tell("hit" if answer.cached else "answered", answer=answer)
        return answer

    def _fail(self, command: Fail) -> BaseException:
        self._leave()
        ended_by = command.error or self.gone or asyncio.CancelledError()
        if not isinstance(ended_by, DeepSeekError):
            return ended_by
        error = self.means.scrub(ended_by)
        error.cost_usd = self.cost_usd  # type: ignore[attr-defined]
        self._tell("failed", error=error)
        return error

    def _leave(self) -> None:
        """Give up the place in line, or the one that is held."""
        if self.ticket is not None:
            self.gate.leave(self.ticket)
            self.ticket = None

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
        text = json_text(command.answer.to_json())
        writing = store.put_soon(command.key, text)
        if self.errand.on_kept is not None and command.key == self.call.key:
            self.errand.on_kept(command.answer, text)
        try:
            await writing
        except asyncio.CancelledError as gone:
            self.gone = gone  # this comes when the paid answer is written
        except StoreFailed:
            pass
        failed = writing.exception()
        if isinstance(failed, StoreFailed):
            self.means.not_saved = failed  # the answer is paid for: it is handed over
        elif failed is not None:
            raise failed
        return Done() if self.gone is None else Interrupted()

    # -- money

    async def _reserve(self, command: Reserve) -> Event:
        request, budget = command.request, self.errand.budget
        if not self.leg.upstream:
            try:
                self.means.require_credentials()
            except ConfigError as lacking:
                return Denied(lacking)
        price = self.means.price(self.upstream, request.model)
        self.reserved_price = price
        if price is None and budget.left_usd is not None:
            return Denied(
                ConfigError(
                    f"No price is known for the model {request.model!r}, so a budget cannot be kept.",
                    hint="Leave budget_usd out, or use a model of the price table.",
                )
            )
        worst_usd = self._worst_usd(request, price)
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

    def _reserved_for(self, leg: int) -> bool:
        """Set aside what the call may cost at ``leg`` instead of here; False, changing nothing: no room."""
        request, price = self._asked_at(leg)
        reservation = self.means.new_reservation()
        try:
            self.errand.budget.reserve(reservation, self._worst_usd(request, price))
        except BudgetExceeded:
            return False
        if self.reservation is not None:
            self.errand.budget.release(self.reservation)
            self.means.announce_settled()
        self.reservation, self.reserved_price = reservation, price
        return True

    def _asked_at(self, leg: int) -> tuple[ChatRequest, Price | None]:
        """What is asked there, and its price."""
        there = self.call.legs[leg]
        return there.request, self.means.price(self.means.upstream(there.upstream), there.request.model)

    def _worst_usd(self, request: ChatRequest, price: Price | None) -> float:
        if price is None or not self.errand.budget.limited:
            return 0.0
        longest = request.max_tokens or self.errand.output_tokens
        return worst_case_usd(estimate_request_tokens(request), longest, price)

    def _cost_usd(self, usage: Usage) -> float | None:
        return None if self.reserved_price is None else self.reserved_price.cost_of(usage)

    async def _settle(self, command: Settle) -> Event:
        cost_usd = self._cost_usd(command.usage)
        self._note_charge("yes" if command.certain else "unknown")
        if self.reservation is not None:
            self.errand.budget.settle(self.reservation, cost_usd or 0.0, certain=command.certain)
            self.reservation = None
            self.means.announce_settled()
        self.cost_usd = None if cost_usd is None or self.cost_usd is None else self.cost_usd + cost_usd
        return Done()

    def _note_charge(self, charged: Charged) -> None:
        self.charged = max(self.charged, charged, key=CHARGED_ORDER.index)

    async def _release(self, _: Release) -> Event:
        if self.reservation is not None:
            self.errand.budget.release(self.reservation)
            self.reservation = None
            self.means.announce_settled()
        return Done()

    # -- the server

    async def _fall_back(self, command: FallBack) -> Event:
        """Go on with the leg that the call has turned to. It says so at once: a wait may follow."""
        left = (command.leg or len(self.call.legs)) - 1
        gate = self._gate_of(self.call.legs[left])
        self.closings[left] = gate.closings
        if self.ticket is not None:  # the place was in the line of the leg before
            gate.leave(self.ticket)
            self.ticket = None
        self._turn_to(self.leg)
        self._tell("fallback", error=command.error, tries=self.call.tries, refusals=self.call.refusals)
        return Done()

    def _turn_to(self, leg: Leg) -> None:
        self.upstream = self.means.upstream(leg.upstream)
        self.leg_since_s = asyncio.get_running_loop().time()

    async def _enter(self, command: Admit) -> Event:
        """Wait for a place; where this server is down and another leg's is not, give that up.

        Who waits in line at a later leg stands in line at earlier ones, too, and takes what comes first.
        """
        held, self.ticket = self.ticket, None
        if not self.errand.fallbacks:
            self.ticket = await self.gate.enter(held, self.errand.lane)
            return Admitted()
        if (down := self._down_here()) is not None:
            if held is not None:
                self.gate.leave(held)
            return Failed(down)
        if held is not None and held.interactive:
            self.ticket = await self.gate.enter(held, self.errand.lane)
            return Admitted()
        here, lines = self.call.leg, Lines(self.errand.lane, self.started_s)
        lines.join(here, self.gate, held)
        try:
            while True:
                leg = await lines.first(LINE_CHECK_S)
                if leg == here:
                    self.ticket = lines.take(leg)
                    return Admitted()
                if leg is not None:
                    if self._reserved_for(leg):
                        self._return_to(leg)
                        self.ticket = lines.take(leg)
                        return Returned(leg)
                    lines.leave(leg)
                elif (down := self._down_here()) is not None:
                    return Failed(down)
                else:
                    for earlier in command.earlier:
                        if earlier not in lines and self._comes_back(earlier):
                            lines.join(earlier, self._gate_of(self.call.legs[earlier]))
        finally:
            lines.leave_all()

    def _comes_back(self, leg: int) -> bool:
        """Whether to stand in line for an earlier ``leg``, too: its server was down, and we can pay it.

        While it is down, one at a time gets a place there, as the probe. What is better not late does
        not wait for that.
        """
        gate = self._gate_of(self.call.legs[leg])
        if gate.down_s() is None:
            been_down = gate.closings != self.closings.get(leg)
        else:
            been_down = not (self.errand.interactive or self.errand.swift)
        left_usd = self.errand.budget.left_usd
        return been_down and (left_usd is None or self._worst_usd(*self._asked_at(leg)) <= left_usd)

    def _return_to(self, leg: int) -> None:
        """Go on with an earlier leg, where a place came."""
        self._turn_to(self.call.legs[leg])
        self.returned = True
        self._tell("back", tries=self.call.tries, refusals=self.call.refusals)

    def _down_here(self) -> DeepSeekError | None:
        """Why to go on elsewhere at once; None while this server lives, or is worth a probe."""
        gate, failover_s = self.gate, self.leg.failover_s
        down_s = gate.down_s()
        hasty = self.errand.interactive or self.errand.swift or self.returned
        patient_s = 0.0 if hasty else failover_s
        if down_s is None or patient_s is None or down_s < patient_s or gate.may_probe():
            return None
        others = [self._gate_of(leg) for leg in self.call.legs if leg is not self.leg]
        if all(other.down_s() is not None for other in others):
            return None
        return Overloaded(f"{self.upstream.route} has been down for {down_s:.0f} s.")

    def _exchange(
        self, request: ChatRequest, ticket: Ticket, on_token: Callable[[Exchange], None] | None
    ) -> Exchange:
        whole = self.errand.whole if self.call.tries == 0 else None
        limits = whole or self.errand.limits
        leg = self.leg
        swift = self.errand.interactive or self.errand.swift
        if leg.failover_s is not None and swift and leg is not self.call.legs[-1]:
            now = asyncio.get_running_loop().time()
            left_s = max(leg.failover_s - (now - self.leg_since_s), leg.failover_s / 5)
            if self.errand.interactive:
                limits = changed(limits, first_token_s=min(limits.first_token_s, left_s))
            else:
                limits = changed(limits, first_byte_s=min(limits.first_byte_s, leg.failover_s))

        def begins(exchange: Exchange) -> None:
            self.first_token_s = asyncio.get_running_loop().time() - self.started_s
            if on_token is not None:
                on_token(exchange)
            self._tell("first_token")

        show = None if self.errand.on_delta is None else self._show
        held = partial(self._tell, "held", tries=self.call.tries + 1, refusals=self.call.refusals)
        return Exchange(
            *(self.upstream, request, ticket, limits),
            stream=whole is None,
            on_delta=show,
            on_token=begins,
            on_held=held,
        )

    async def _send(self, command: Send) -> Event:
        assert self.ticket is not None  # noqa: S101 (admitted before)
        self._tell("sent", tries=command.tries, refusals=self.call.refusals)
        self.first_token_s = None
        hedge: Hedge | None = None
        first = self._exchange(command.request, self.ticket, lambda e: hedge.begins(e) if hedge else None)
        self.in_flight = first
        if self.errand.hedged:
            hedge = Hedge(first, self._second(command.request), self.gate, self._lose)
        try:
            answer = await (hedge.run() if hedge else first.run())
            answer = self.errand.with_value(answer)
        except DeepSeekError as error:
            return self._broke(error, hedge.taken if hedge else first)
        except BaseException:
            if hedge is not None:
                self.in_flight, self.ticket = hedge.taken, hedge.taken.ticket
            self._leave()
            raise
        self.in_flight = self.ticket = None
        (hedge.taken if hedge else first).end()
        cost_usd = self._cost_usd(answer.usage)
        total_usd = None if cost_usd is None or self.cost_usd is None else self.cost_usd + cost_usd
        return Answered(
            changed(
                answer,
                route=self.upstream.route,
                first_token_s=self.first_token_s,
                cost_usd=total_usd,
            )
        )

    def _show(self, delta: Delta) -> None:
        assert self.errand.on_delta is not None  # noqa: S101 (only then it is asked for)
        self.shown = True
        self.errand.on_delta(delta)

    def _broke(self, error: DeepSeekError, exchange: Exchange) -> Event:
        """Tell admission what the error shows about the server, and hand it to the story."""
        self.in_flight, self.ticket = exchange, exchange.ticket
        if self.shown and self.errand.on_delta:
            self.shown = False
            self.errand.on_delta(Delta(restart=True))
        self.in_flight = None
        wait_s, counted = exchange.end(error)
        usage = getattr(error, "usage", None)
        if usage is None and isinstance(getattr(error, "answer", None), Answer):
            usage = error.answer.usage  # type: ignore[attr-defined]
        if usage is None and error.charged != "no":
            usage = exchange.decoder.partial().usage
        return Failed(error, usage, max(wait_s, error.retry_after_s or 0.0), counted)

    def _perhaps_charged(self) -> Usage | None:
        """Tokens that may be billed for a request that was under way when the caller went."""
        exchange, self.in_flight = self.in_flight, None
        return None if exchange is None else exchange.decoder.partial().usage

    # -- a second copy

    def _second(self, request: ChatRequest) -> Callable[..., Any]:
        """What makes the second copy of ``request`` ready: with a place and a reservation of its own."""

        async def ready(on_token: Callable[[Exchange], None]) -> Exchange | None:
            reservation = self.means.new_reservation()
            try:
                self.errand.budget.reserve(reservation, self._worst_usd(request, self.reserved_price))
            except BudgetExceeded:
                return None
            ticket: Ticket | None = None
            try:
                ticket = await self.gate.enter(None, self.errand.lane)
                self._tell("sent", tries=self.call.tries + 1, refusals=self.call.refusals)
            except BaseException:  # nothing was sent
                if ticket is not None:
                    self.gate.leave(ticket)
                self.errand.budget.release(reservation)
                self.means.announce_settled()
                raise
            self.hedge_reservation = reservation
            return self._exchange(request, ticket, on_token)

        return ready

    def _lose(self, exchange: Exchange, error: DeepSeekError | None) -> None:
        """Book the copy that was not taken: hung up on, it may have been charged."""
        reservation, self.hedge_reservation = self.hedge_reservation, None
        if error is None:
            exchange.upstream.gate(exchange.request.model).leave(exchange.ticket)
        else:
            exchange.end(error)
        if reservation is None:
            return
        if error is not None and error.charged == "no":
            self.errand.budget.release(reservation)
        else:
            cost_usd = self._cost_usd(exchange.decoder.partial().usage)
            self.errand.budget.settle(reservation, cost_usd or 0.0, certain=False)
            self._note_charge("unknown")
            self.cost_usd = None if cost_usd is None or self.cost_usd is None else self.cost_usd + cost_usd
        self.means.announce_settled()

    # -- waiting, and telling

    async def _wait(self, command: Wait) -> Event:
        self._tell(
            "waiting",
            error=command.error,
            wait_s=command.wait_s,
            tries=command.tries,
            refusals=command.refusals,
            left_s=command.left_s,
            patience_s=self.errand.policy.patience_s,
            down_s=self.gate.down_s(),
            charged=self.charged,
        )
        # also where there is nothing to wait for: whoever was told may have cancelled us, and then
        # nothing may be sent any more
        await asyncio.sleep(command.wait_s)
        return Done()

    def _tell(self, kind: Any, **details: Any) -> None:
        if not self.means.listeners and self.errand.on_event is None:
            return
        event = CallEvent(
            kind,
            self.errand.lane,
            asyncio.get_running_loop().time(),
            route=self.upstream.route,
            spent_usd=self.cost_usd,
            **details,
        )
        for listener in self.means.listeners:
            listener(event)
        if self.errand.on_event is not None:
            self.errand.on_event(event)

    _OBEY: ClassVar[Mapping[type, Callable[[Drive, Any], Coroutine[Any, Any, Event]]]] = {
        LookUp: _look_up,
        Reserve: _reserve,
        Admit: _enter,
        Send: _send,
        Store: _store,
        Settle: _settle,
        Release: _release,
        Wait: _wait,
        FallBack: _fall_back,
    }
    """What carries out each command but the last ones."""
