"""Admission with waiting: the pure object's line, on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from deepseek_nb.core.admission import Admission, Ticket

__all__ = ["Gate"]


class Gate:
    """Lets coroutines wait for their place. All verbs run in one event loop."""

    def __init__(self, admission: Admission, *, recall: bool = False) -> None:
        self.admission = admission
        self.recall = recall
        self._waiting: dict[Ticket, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @staticmethod
    def now() -> float:
        """The loop's monotonic clock, in seconds."""
        return asyncio.get_running_loop().time()

    async def enter(self, ticket: Ticket | None, lane: int) -> Ticket:
        """Wait for a place and give the ticket that holds it; a ticket from before goes to the front."""
        now = self.now()
        if ticket is None:
            ticket = self.admission.ask(lane, now)
        else:
            self.admission.again(ticket)
        place = asyncio.get_running_loop().create_future()
        self._waiting[ticket] = place
        self._pump()
        try:
            await place
        except asyncio.CancelledError:
            self._waiting.pop(ticket, None)
            self.leave(ticket)
            raise
        return ticket

    def first_token(self, ticket: Ticket) -> None:
        """A first token came for the holder of ``ticket``."""
        self.admission.first_token(self.now(), ticket)
        self._pump()

    def answered(self, ticket: Ticket) -> None:
        """The holder got an answer, or an error that a living server gives."""
        self.admission.answered(ticket, self.now())
        self._pump()

    def refused(self, ticket: Ticket, *, overloaded: bool, named_limit: int | None) -> float:
        """The holder was refused; gives the seconds to wait before it enters again."""
        wait_s = self.admission.refused(ticket, self.now(), overloaded=overloaded, named_limit=named_limit)
        self._pump()
        return wait_s

    def faulted(self, ticket: Ticket) -> None:
        """The holder's request broke."""
        self.admission.faulted(ticket, self.now())
        self._pump()

    def leave(self, ticket: Ticket) -> None:
        """The holder goes away without having learnt anything."""
        self.admission.leave(ticket, self.now())
        self._pump()

    def sent(self, ticket: Ticket, take_back: Callable[[], None]) -> None:
        """The holder's request goes on the wire; ``take_back`` hangs it up."""

    def byte(self, ticket: Ticket) -> None:
        """The first byte came."""

    def recalled(self, ticket: Ticket) -> None:
        """The holder's request was taken back."""
        self.leave(ticket)

    @property
    def at_the_end(self) -> bool:
        """Whether no row is left to send."""
        return False

    @property
    def down_s(self) -> float | None:
        """For how long the server has seemed to be down; None: it has not."""
        since_s = self.admission.open_since_s
        return None if since_s is None else self.now() - since_s

    def may_probe(self) -> bool:
        """Whether a server that seems to be down is to be tried now."""
        return False

    def _pump(self) -> None:
        now = self.now()
        for ticket in self.admission.admit(now):
            place = self._waiting.pop(ticket, None)
            if place is not None and not place.done():
                place.set_result(None)
            else:  # its coroutine went away between two steps of the loop
                self.admission.leave(ticket, now)
        wake_at = self.admission.wake_at(now)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if wake_at is not None:
            self._timer = asyncio.get_running_loop().call_at(wake_at, self._pump)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
