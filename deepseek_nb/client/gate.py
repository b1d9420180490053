"""Admission with waiting: the pure object's line on an event loop, and a level shared with other kernels."""

from __future__ import annotations

import asyncio
import concurrent.futures
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from deepseek_nb.adapters.owners import owner_may_live, owner_name
from deepseek_nb.core import fleet
from deepseek_nb.core.admission import Admission, Report, Ticket, View
from deepseek_nb.core.errors import ConfigError, StoreFailed

__all__ = ["Gate", "GateState", "NotShared", "Shared"]


MISSED_MOST = 3
"""After so many meetings that failed because the file was busy, a kernel goes on alone."""


class NotShared(UserWarning):
    """The limits of this account could not be shared with other kernels; this one goes on by itself."""


class Shared(Protocol):
    """One account's row in a table that all kernels of this machine see."""

    def exchange(self, work: Callable[[str | None], str]) -> None:
        """Replace the row's text by ``work`` of it, in one transaction; raises StoreFailed."""


@dataclass(frozen=True, slots=True)
class GateState:
    """How things stand, for faces and events."""

    limit: float
    """What the server seems to bear, for all kernels on the account together."""
    held: int
    """Bulk requests of this kernel in flight."""
    waiting: int
    """Requests of this kernel in the line."""
    down_since_s: float | None
    """Since when the server seems to be down (the loop's clock); None while it is up."""
    kernels: int
    """How many share the limit, this one included."""
    recalls: int
    """Rows of this kernel taken back for interactive calls so far."""
    interactive: int
    """Interactive requests of this kernel in flight."""


class Gate:
    """Lets coroutines wait for their place. All verbs run in one event loop.

    ``shared`` is where kernels on one account meet; ``member`` is this one's name there. With
    ``recall``, an interactive call that waits in the server's queue takes our own waiting rows back.
    """

    def __init__(
        self,
        admission: Admission,
        *,
        shared: Shared | None = None,
        member: str | None = None,
        recall: bool = False,
    ) -> None:
        self.admission = admission
        self.recall = recall
        self.member = member or owner_name()
        self._shared = shared
        self._time: Callable[[], float] | None = None
        self._waiting: dict[Ticket, asyncio.Future[None] | None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._take_back: dict[Ticket, Callable[[], None]] = {}
        self._recall_timers: dict[Ticket, asyncio.TimerHandle] = {}
        self._thread: concurrent.futures.ThreadPoolExecutor | None = None
        self._sync_timer: asyncio.TimerHandle | None = None
        self._sync_s = 0.0  # when it goes off; not every loop's timers tell
        self._meeting: asyncio.Future[View] | None = None
        self._missed = 0  # meetings that failed in a row
        self._now_s = 0.0  # when the last meeting began
        self._closed = False
        if shared is not None:
            admission.share()

    def now(self) -> float:
        """The loop's monotonic clock, in seconds."""
        if self._time is None:
            self._time = asyncio.get_running_loop().time
        return self._time()

    # ------------------------------------------------------------------------------------- the line

    async def enter(self, ticket: Ticket | None, lane: int, since_s: float | None = None) -> Ticket:
        """Wait for a place and give the ticket that holds it; a ticket from before goes to the front.

        A new one gets the place in line of who asked at ``since_s``, on the loop's clock; None: now.
        Raises ConfigError where the gate is closed, also for those who wait then.
        """
        now = self.now()
        if ticket is None:
            ticket = self.admission.ask(lane, now, since_s)
        else:
            self.admission.again(ticket, now)
        self._waiting[ticket] = None
        self._pump()
        if ticket.held:  # there was room
            return ticket
        if self._closed:  # no timer would wake it
            del self._waiting[ticket]
            self.admission.leave(ticket, now)
            raise _closed()
        place = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        try:
            await place
        except (asyncio.CancelledError, ConfigError):
            self._waiting.pop(ticket, None)
            self.leave(ticket)
            raise
        return ticket

    def sent(self, ticket: Ticket, take_back: Callable[[], None]) -> None:
        """The holder's request goes on the wire; ``take_back`` hangs it up.

        The holder then says :meth:`recalled` and enters again. With ``recall``, an interactive
        request starts the clock after which waiting rows are taken back for it.
        """
        self.admission.sent(ticket, self.now())
        if not ticket.interactive:
            self._take_back[ticket] = take_back
        elif self.recall:
            self._recall_later(ticket, self.admission.tuning.recall_s, self._recall)

    def byte(self, ticket: Ticket) -> None:
        """The first byte of any kind came for the holder, the status line included."""
        self.admission.byte(ticket, self.now())

    def first_token(self, ticket: Ticket) -> None:
        """A first token came for the holder of ``ticket``."""
        self._take_back.pop(ticket, None)
        self._stop_recall(ticket)
        self.admission.first_token(self.now(), ticket)
        self._pump()

    def came_whole(self, ticket: Ticket) -> None:
        """An answer in one piece came for the holder, who says :meth:`answered` at once."""
        self._take_back.pop(ticket, None)
        self._stop_recall(ticket)
        self.admission.first_token(self.now(), ticket)

    def answered(self, ticket: Ticket) -> None:
        """The holder got an answer, or an error that a living server gives."""
        self._ended(ticket)
        self.admission.answered(ticket, self.now())
        self._pump()

    def refused(self, ticket: Ticket, *, overloaded: bool, named_limit: int | None) -> float:
        """The holder was refused; gives the seconds to wait before it enters again."""
        self._ended(ticket)
        wait_s = self.admission.refused(ticket, self.now(), overloaded=overloaded, named_limit=named_limit)
        self._pump()
        return wait_s

    def faulted(self, ticket: Ticket) -> None:
        """The holder's request broke."""
        self._ended(ticket)
        self.admission.faulted(ticket, self.now())
        self._pump()

    def recalled(self, ticket: Ticket) -> None:
        """The holder hung its waiting request up, as it was asked to; it enters again."""
        self._ended(ticket)
        self.admission.recalled(ticket, self.now())
        self._pump()

    def leave(self, ticket: Ticket) -> None:
        """The holder goes away without having learnt anything."""
        self._ended(ticket)
        self.admission.leave(ticket, self.now())
        self._pump()

    def close(self) -> None:
        """Send away who waits, stop the timers, and leave the shared table (in its thread). Blocks nobody."""
        self._closed = True
        for place in self._waiting.values():
            if place is not None and not place.done():
                place.set_exception(_closed())
        if self._meeting is not None:
            self._meeting.cancel()  # it ends in its thread; nobody listens any more
        timers = (self._timer, self._sync_timer, *self._recall_timers.values())
        for timer in timers:
            if timer is not None:
                timer.cancel()
        self._timer = self._sync_timer = None
        self._recall_timers.clear()
        self._take_back.clear()
        shared, self._shared = self._shared, None
        if shared is None or self._thread is None:
            return
        now, thread = self._now_s, self._thread
        work = partial(_leave, report=self.admission.report(now), name=self.member, now=now)
        try:
            thread.submit(_quietly, shared, work)
        except RuntimeError:  # the interpreter is ending: its threads take no more work
            _quietly(shared, work)
        thread.shutdown(wait=False)
        self._thread = None

    # ------------------------------------------------------------------------------------- questions

    @property
    def at_the_end(self) -> bool:
        """No bulk row waits in the line or is away: who is silent now is worth sending again early."""
        return self.admission.at_the_end

    def repeat_due(self, ticket: Ticket) -> bool:
        """Whether the holder, a row at the job's end without a byte, should be hung up and sent again."""
        return self.admission.repeat_due(ticket, self.now())

    @property
    def hedge_after_s(self) -> float:
        """How long an interactive call may be without a byte before it gets a second copy."""
        return self.admission.hedge_after_s

    def hedge_due(self, ticket: Ticket) -> bool:
        """Whether the holder, an interactive call without a byte, should get a second copy."""
        return self.admission.hedge_due(ticket, self.now())

    def down_s(self, now: float | None = None) -> float | None:
        """For how long the server has seemed down; None while it is up."""
        since_s = self.admission.open_since_s
        return None if since_s is None else max(0.0, (self.now() if now is None else now) - since_s)

    @property
    def closings(self) -> int:
        """How often the server was down and came back."""
        return self.admission.closings

    def may_probe(self, now: float | None = None) -> bool:
        """Whether a caller with another way should try this one now: always while the server is up.

        While it seems down: one at a time, at most five seconds apart.
        """
        return self.admission.may_probe(self.now() if now is None else now)

    def state(self) -> GateState:
        """How things stand now."""
        a = self.admission
        return GateState(a.limit, a.held, a.waiting, a.open_since_s, a.kernels, a.recalls, a.passing)

    # ------------------------------------------------------------------------------------- inside

    def _pump(self) -> None:
        now = self.now()
        for ticket in self.admission.admit(now):
            there = ticket in self._waiting
            place = self._waiting.pop(ticket, None)
            if not there or (place is not None and place.done()):
                self.admission.leave(ticket, now)  # its coroutine went away between two steps of the loop
            elif place is not None:  # or it is asking this very moment
                place.set_result(None)
        wake_at = self.admission.wake_at(now)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake_at is not None and not self._closed:
            self._timer = asyncio.get_running_loop().call_at(wake_at, self._pump)
        if self._shared is not None:
            self._plan_sync(now)

    def _ended(self, ticket: Ticket) -> None:
        self._take_back.pop(ticket, None)
        self._stop_recall(ticket)

    # -- recall

    def _recall_later(self, ticket: Ticket, seconds: float, act: Callable[[Ticket], None]) -> None:
        self._stop_recall(ticket)
        self._recall_timers[ticket] = asyncio.get_running_loop().call_later(seconds, act, ticket)

    def _stop_recall(self, ticket: Ticket) -> None:
        timer = self._recall_timers.pop(ticket, None)
        if timer is not None:
            timer.cancel()

    def _recall(self, call: Ticket) -> None:
        self._hang_up(self.admission.recall(call, self.now()))
        self._recall_later(call, self.admission.tuning.recall_check_s, self._recall_check)
        self._pump()

    def _recall_check(self, call: Ticket) -> None:
        self._stop_recall(call)
        self.admission.recall_helped(call, self.now())
        self._pump()

    def _hang_up(self, rows: list[Ticket]) -> None:
        for row in rows:
            take_back = self._take_back.pop(row, None)
            if take_back is not None:
                take_back()

    # -- the shared table

    def _plan_sync(self, now: float) -> None:
        """See to it that the next meeting comes in time; none while there is nothing to do."""
        if self._meeting or self._shared is None or self._closed:
            return
        due_s = self.admission.meet_at()
        if due_s is None:
            return
        if self._sync_timer is not None:
            if self._sync_s <= due_s:
                return
            self._sync_timer.cancel()
        self._sync_s = max(now, due_s)
        self._sync_timer = asyncio.get_running_loop().call_at(self._sync_s, self._sync)

    def _sync(self) -> None:
        self._sync_timer = None
        shared = self._shared
        if shared is None or self._meeting:
            return
        if self._thread is None:
            self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="deepseek-limits")
        a, now = self.admission, self.now()
        self._now_s = now
        report = a.report(now)
        loop = asyncio.get_running_loop()
        try:
            self._meeting = loop.run_in_executor(self._thread, _meet, shared, report, self.member, now)
        except RuntimeError:  # the interpreter ends and gives no thread work any more
            return
        self._meeting.add_done_callback(partial(self._synced, report))

    def _synced(self, report: Report, meeting: asyncio.Future[View]) -> None:
        self._meeting = None
        if self._closed or meeting.cancelled():
            return
        error = meeting.exception()
        self._missed = self._missed + 1 if error is not None else 0
        if getattr(error, "reason", None) == "busy" and self._missed < MISSED_MOST:
            self.admission.not_reported(report)  # somebody sits on the file: the next meeting tells
        elif error is not None:
            self._go_alone()
        else:
            self.admission.adopt(meeting.result())
            if self.recall:
                self._hang_up(self.admission.to_give_back(self.now()))
        self._pump()
        if error is not None and self._shared is None:
            warnings.warn(
                f"The server's limits are not shared with other kernels. {error}", NotShared, stacklevel=2
            )

    def _go_alone(self) -> None:
        self._shared = None
        self.admission.unshare()
        if self._thread is not None:
            self._thread.shutdown(wait=False)
            self._thread = None


def _closed() -> ConfigError:
    return ConfigError(
        "The client was closed while a request waited for its place.", hint="Make a new client and ask again."
    )


def _meet(shared: Shared, report: Report, name: str, now: float) -> View:
    """One meeting at the table, in the worker thread."""
    views: list[View] = []

    def work(text: str | None) -> str:
        written, view = fleet.sync(text, report, name, now, owner_may_live)
        views.append(view)
        return written

    shared.exchange(work)
    return views[-1]


def _leave(text: str | None, *, report: Report, name: str, now: float) -> str:
    return fleet.leave(text, report, name, now)


def _quietly(shared: Shared, work: Callable[[str | None], str]) -> None:
    """Leave the table; who cannot is dropped by the others in a few seconds."""
    try:
        shared.exchange(work)
    except StoreFailed:
        return
