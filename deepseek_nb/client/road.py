"""The one road every request takes: equal errands are done once, each by its own drive.

Everything here runs in one event loop. Equal errands of this loop share one drive; those of other
processes with the same store wait for its claim. At risk while it runs: the requests in flight. An answer is
committed to disk before it is handed over, so a process killed at any moment loses no answer it has
shown; what was in flight, and what had arrived but not been committed, is asked and paid again.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from deepseek_nb.adapters.store import AnswerStore
from deepseek_nb.client.drive import Drive
from deepseek_nb.client.errand import Errand
from deepseek_nb.client.means import Means
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.copies import changed
from deepseek_nb.core.errors import AnswerInvalid, BudgetExceeded, Busy, DeepSeekError
from deepseek_nb.core.wire import Delta

__all__ = ["Road"]

CLAIM_WITHIN_S = 2.0
"""Writing down that a question is asked here takes a moment, which no patience is too short for."""


class Road(Means):
    """Takes errands to the server and brings their answers. Made with the arguments of :class:`Means`."""

    def __init__(self, **means: Any) -> None:
        super().__init__(**means)
        self._flights: dict[str, asyncio.Future[Answer]] = {}

    async def take(self, errand: Errand) -> Answer:
        """Do one errand and give its answer; equal errands under way at the same time are done once.

        Also by other processes with the same store. Where one of them is at it, this call looks for the
        answer every 50 to 500 ms, for as long as the errand's patience; where that process ends, it asks.
        Who waited here for another's errand that failed asks with the patience that is left.

        Raises what ended it, a :class:`DeepSeekError`.
        """
        if self.store is None:
            errand = changed(errand, look_up=False, keep=False)
        if errand.claimed and (
            self.store is None or errand.key in self._flights or self.store.holds(errand.key)
        ):
            errand = changed(errand, claimed=False)  # somebody here is asking it too, or has just asked it
        if not errand.look_up:
            return await Drive(self, errand).run()
        now, waited_s, patience_s = asyncio.get_running_loop().time, 0.0, errand.policy.patience_s
        while (flight := self._flights.get(errand.key)) is not None:
            began_s = now()
            await asyncio.wait([flight])
            if flight.cancelled():
                continue  # whoever asked first went away: now it is our turn
            if (error := flight.exception()) is not None:
                waited_s += now() - began_s
                if _for_all(error) or (patience_s is not None and waited_s > patience_s):
                    raise error
                continue
            shared = flight.result()
            if shared.fingerprint not in (errand.key, *(leg.key for leg in errand.fallbacks)):
                continue  # another route answered, which this caller has not allowed
            answer = errand.with_value(changed(shared, cached=True))
            if errand.on_delta:
                errand.on_delta(Delta.of(answer))
            return answer
        if waited_s and patience_s is not None:
            errand = changed(errand, policy=replace(errand.policy, patience_s=patience_s - waited_s))
        flight = asyncio.get_running_loop().create_future()
        self._flights[errand.key] = flight
        try:
            answer = await self._under_claim(errand)
        except DeepSeekError as error:
            flight.set_exception(error)
            flight.exception()  # its own caller has it: where nobody shared it, asyncio is not to complain
            raise
        except BaseException:
            flight.cancel()
            raise
        else:
            flight.set_result(answer)
            return answer
        finally:
            del self._flights[errand.key]

    async def _under_claim(self, errand: Errand) -> Answer:
        """Do the errand while no other process with the same store asks the same."""
        store = self.store
        if store is None or not errand.keep:
            return await Drive(self, errand).run()
        try:
            if not errand.claimed:
                await self._my_turn(store, errand)
            return await Drive(self, errand).run()  # looks first: it may have been stored meanwhile
        finally:
            store.let_go(errand.key)

    async def _my_turn(self, store: AnswerStore, errand: Errand) -> None:
        patience_s = errand.policy.patience_s
        try:
            async with asyncio.timeout(None if patience_s is None else max(patience_s, CLAIM_WITHIN_S)):
                await store.my_turn(errand.key, errand.ttl_s)
        except TimeoutError:
            raise Busy(
                f"Another process has been asking the same question for more than {patience_s:g} s.",
                hint="Nothing was sent from here. Ask again: its answer will be found once it is there.",
            ) from None


def _for_all(error: BaseException) -> bool:
    """Whether those who wait for the same answer need not ask for it themselves.

    A budget is each caller's own, and so is patience with the server. Answers that cannot be used were paid.
    """
    if isinstance(error, BudgetExceeded):
        return False
    return not getattr(error, "retryable", False) or isinstance(error, AnswerInvalid)
