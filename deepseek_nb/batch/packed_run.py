"""A run whose rows share requests: several go out together, those that got no answer by it go alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from deepseek_nb.adapters.journal import Item
from deepseek_nb.batch.packs import parts_of, unpacked
from deepseek_nb.batch.run import LEADERS, Hear, JobRun, text_of
from deepseek_nb.client.errand import Errand
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.copies import changed
from deepseek_nb.core.errors import AnswerInvalid, BudgetExceeded, DeepSeekError, StoreFailed

__all__ = ["MakePack", "PackedRun"]

GATHER_S = 0.2
"""How long a request waits for more rows: they may be in another process's hands."""

MakePack = Callable[[Sequence[str], Hear | None], Errand]


class PackedRun(JobRun):
    """Works off a job's rows, ``rows_per_request`` in one request; made and used like :class:`JobRun`.

    The first row goes alone, then two requests one after the other, then the rest. An answer counts for the
    row whose number it bears, and is written down under that row's key with its share of the bill; a row
    without one is asked alone. A request that is refused for what stands in it is split in halves until it
    is known for which row; so is one that the budget has no room for. At risk at any moment are the rows of
    at most ``concurrency_max`` requests.
    """

    def __init__(self, *arguments: Any, rows_per_request: int, make_pack: MakePack, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.rows_per_request = rows_per_request
        self._gathering = asyncio.Lock()  # one worker at a time, or each would wait with a row of its own
        self.make_pack = make_pack

    async def _fan_out(self) -> None:
        if self.progress.pending > LEADERS * self.rows_per_request:
            await self._until_stopped(asyncio.create_task(self._lead_packs()))
        if not self._stopping.is_set():
            await super()._fan_out()

    async def _lead_packs(self) -> None:
        """The server keeps a beginning that two requests have shown it: the others then find it there."""
        for _ in range(LEADERS):
            items = await self._gathered()
            if items and not self._stopping.is_set():
                await self._take_all(items)

    async def _work(self) -> None:
        while not self._stopping.is_set():
            async with self._gathering:
                items = await self._gathered()
            if not items:
                return
            await self._take_all(items)

    async def _gathered(self) -> list[Item]:
        """The rows of the next request; fewer than they might be where no more come for a moment."""
        items: list[Item] = []
        try:
            while len(items) < self.rows_per_request:
                async with asyncio.timeout(GATHER_S if items else None):
                    item = await self.intake.next()
                if item is None:
                    break
                items.append(item)
        except TimeoutError:
            pass
        return items

    async def _take_all(self, items: list[Item]) -> None:
        """Take rows to their end: all in one request, and those that got no answer by it alone."""
        groups = [items]
        while groups and not self._stopping.is_set():
            group = groups.pop(0)
            if len(group) == 1:
                await self._one(group[0])
            else:
                groups = [*await self._through_pauses(partial(self._ask_pack, group)), *groups]

    async def _ask_pack(self, items: list[Item], task: asyncio.Task[Any]) -> list[list[Item]]:
        """Ask about those of the rows that nobody else asks about now; gives the groups still to be asked."""
        mine = await self._claim([item.key for item in items])
        try:
            together = [item for item in items if item.key in mine]
            if len(together) < 2:
                return [[item] for item in items]
            others = [[item] for item in items if item.key not in mine]
            return [*await self._ask_together(together, task), *others]
        finally:
            if (store := self.client.store) is not None:
                for key in mine:
                    store.let_go(key)

    async def _claim(self, keys: list[str]) -> set[str]:
        """Those that are this process's to ask: all, where no other could ask them under these keys."""
        store, probe = self.client.store, self.make_errand("", None)
        if store is None or not (probe.look_up and probe.keep):
            return set(keys)
        mine = self.intake.take_claims(keys)
        left = [key for key in keys if key not in mine]
        if left:
            mine |= await store.take_now(left, probe.ttl_s)
        return mine

    async def _ask_together(self, items: list[Item], task: asyncio.Task[Any]) -> list[list[Item]]:
        """Ask, and write down the answers that came; gives the groups of those without one."""
        halves = [items[: len(items) // 2], items[len(items) // 2 :]]
        bodies = [item.body for item in items]
        try:
            try:
                _, answer = await self._answered(partial(self.make_pack, bodies), task)
            except DeepSeekError as error:
                came = error.answer if isinstance(error, AnswerInvalid) else None
                if came is None:
                    await self._book(getattr(error, "cost_usd", None))
                    if isinstance(error, BudgetExceeded) or not self._everybodys(error):
                        return halves  # what is left of a budget may do for a row
                    self.stop(error)
                    return []
                answer = changed(came, cost_usd=getattr(error, "cost_usd", None))  # it may hold whole rows
            good, bad = self._told_apart(items, answer)
            if good:
                told = [(item, answer, text_of(answer)) for item, answer in good]
                writing = self._hand_in(told)  # before anything is waited for: a stop takes nothing back
                await self._written(told, self._ack_soon(told), task)
                for failed in await asyncio.gather(*writing, return_exceptions=True):
                    if isinstance(failed, StoreFailed):
                        self.stop(failed)  # the journal has them all the same
            else:
                await self._book(answer.cost_usd)
        except StoreFailed as unwritten:
            self.stop(unwritten)
            return []
        return [[item] for item in bad]

    def _told_apart(self, items: list[Item], answer: Answer) -> tuple[list[tuple[Item, Answer]], list[Item]]:
        """The rows with an answer that fits, and those without."""
        fitting = {
            place: text
            for place, text in unpacked(answer.text, len(items)).items()
            if self._is_answer(changed(answer, text=text, value=None))
        }
        parts = parts_of(answer, len(fitting))
        good = [
            (items[place], changed(part, text=text, fingerprint=items[place].key, value=None, raw=()))
            for (place, text), part in zip(fitting.items(), parts, strict=True)
        ]
        return good, [item for place, item in enumerate(items) if place not in fitting]

    def _is_answer(self, answer: Answer) -> bool:
        if not answer.text.strip():
            return False
        try:
            if self.check is not None:
                self.check(answer)
        except AnswerInvalid:
            return False
        return True

    def _hand_in(self, answers: Sequence[tuple[Item, Answer, str]]) -> list[asyncio.Future[None]]:
        """Give each row's answer to the store, where the job keeps answers; the writes under way."""
        store = self.client.store
        if store is None or not self.make_errand("", None).keep:
            return []
        return [store.put_soon(item.key, text) for item, _, text in answers]
