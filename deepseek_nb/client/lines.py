"""The lines that one call waits in at the same time: it takes the place that comes first."""

from __future__ import annotations

import asyncio
from functools import partial

from deepseek_nb.client.gate import Gate
from deepseek_nb.core.admission import Ticket

__all__ = ["Lines"]


class Lines:
    """One call's lines, by leg. In each it stands where somebody does who came at ``since_s``."""

    def __init__(self, lane: int, since_s: float) -> None:
        self._lane = lane
        self._since_s = since_s
        self._gates: dict[int, Gate] = {}
        self._entering: dict[int, asyncio.Task[Ticket]] = {}

    def __contains__(self, leg: int) -> bool:
        """Whether it stands in the line of that leg."""
        return leg in self._entering

    def join(self, leg: int, gate: Gate, held: Ticket | None = None) -> None:
        """Stand in that line, too; ``held`` is a ticket from before."""
        self._gates[leg] = gate
        self._entering[leg] = asyncio.ensure_future(gate.enter(held, self._lane, self._since_s))

    async def first(self, within_s: float) -> int | None:
        """The leg of the first place, the earliest of several; None: none came in ``within_s`` seconds."""
        entering = self._entering
        await asyncio.wait(entering.values(), timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        return min((leg for leg, task in entering.items() if task.done()), default=None)

    def take(self, leg: int) -> Ticket:
        """The ticket of the place that came at that leg."""
        return self._entering.pop(leg).result()

    def leave(self, leg: int) -> None:
        """Leave that line; a place that came there, or comes at the last moment, is given back."""
        task = self._entering.pop(leg)
        task.cancel()
        task.add_done_callback(partial(_give_back, self._gates[leg]))

    def leave_all(self) -> None:
        """Leave all of them."""
        for leg in tuple(self._entering):
            self.leave(leg)


def _give_back(gate: Gate, entered: asyncio.Task[Ticket]) -> None:
    if not entered.cancelled() and entered.exception() is None:
        gate.leave(entered.result())
