"""A job on a RabbitMQ, as its submitter sees it: rows out, answers into the ledger.

The rows go out under the name of one handing over (``put``). While it is not known that all of them are on
the broker, the ledger says so; a submitter that ends meanwhile takes the rows back when the same call is made
again and puts what is left in anew, so that no row is asked under two names. After that the broker has the
work: answers wait there, in the job's own queue, until somebody who has the ledger takes them.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from deepseek_nb.adapters.journal import Item, Journal
from deepseek_nb.adapters.queued import Queued
from deepseek_nb.adapters.rabbitmq import Broker, BrokerLost, Delivery, Inbox, Parcel, shown_url
from deepseek_nb.adapters.store import json_text
from deepseek_nb.batch.given_up import DELIVERIES, given_up
from deepseek_nb.batch.parcels import Result, Row
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.queue_run import QueueRun, error_of
from deepseek_nb.batch.run import DRAIN_S
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.errors import BudgetExceeded, ConfigError, DeepSeekError
from deepseek_nb.core.secret import Secret

__all__ = ["BrokerRun"]

AT_ONCE = 512
"""Answers that may be on their way into the ledger."""
PUT_AT_ONCE = 256
LEASE_S = 60.0
AGAIN_S = 1.0
UNDER_WAY_S = 3.0
"""After a restart of the broker: how long to wait for workers to come back with what they had under way."""


class BrokerRun(QueueRun):
    """A job whose rows are on a broker; ``row_of`` gives what is sent of a key, for a handing over."""

    def __init__(
        self,
        journal: Journal,
        job: str,
        pending: Sequence[str],
        progress: Progress,
        *,
        url: Secret,
        route: str,
        row_of: Callable[[str, str, float | None], Row],
        options: Mapping[str, Any],
        priority: int,
        worst_usd: Callable[[str], float] | None = None,
    ) -> None:
        limit_usd = options.get("budget_usd")
        super().__init__(journal, job, pending, progress, budget_usd=limit_usd)
        self._worst_usd = worst_usd
        self._purse: Budget | None = None
        if worst_usd is not None and progress.money is not None:
            spent_usd, unknown_usd = progress.money.spent_usd, progress.money.unknown_usd
            self._purse = Budget(
                limit_usd, name="budget of the job", spent_usd=spent_usd, unknown_usd=unknown_usd
            )
        self._set_aside: dict[str, float] = {}  # for rows that are out
        self._begun: Counter[str] = Counter()  # without an end
        self._raised: Counter[str] = Counter()  # what they may cost was too little
        self._todo: deque[str] = deque()
        self._settled = asyncio.Event()
        self._url = url
        self._route = route
        self._row_of = row_of
        self._options = dict(options)
        self._priority = priority
        self._putting: asyncio.Task[None] | None = None
        self._answers = ""
        self._in = False  # put, or being put, by whomever
        self._mine = ""  # what this process is putting

    async def run(self) -> None:
        """Until every row is done or failed, or the job is stopped or left."""
        try:
            while not self._left:
                try:
                    async with Broker.open(self._url) as broker:
                        await self._serve(broker)
                        return
                except BrokerLost as why:
                    await self._without_broker(why)
                    if self._ending is not None:
                        return
        finally:
            self.put.set()
            await self._stop_putting()
            if self._mine:
                await asyncio.to_thread(self.journal.queued.disown, self.job, self._mine)

    async def _stop_putting(self) -> None:
        if self._putting is not None:
            self._putting.cancel()
            await asyncio.gather(self._putting, return_exceptions=True)
            self._putting = None

    async def _without_broker(self, why: BrokerLost) -> None:
        self.progress.waiting = "waits for the RabbitMQ"
        await self.look()
        if self._ending is not None and self.stopped_by is None:
            self.stopped_by = ConfigError(
                f"{why} The job's rows could not be taken back: workers may go on with them.",
                hint="Make the same call again to look on, or cancel it again.",
            )
        self._look_after_s = AGAIN_S
        await self.rest()

    # -- the life of a handing over

    async def _serve(self, broker: Broker) -> None:
        rows = await broker.declare_rows(self._route)
        there = await asyncio.to_thread(self._enter)
        self._answers = await broker.declare_answers(there.answers)
        inbox = await broker.consume(self._answers, at_once=AT_ONCE)
        await self._stop_putting()
        self._in = there.ready or self._mine == there.put or there.owner != self.journal.owner
        lacks = await asyncio.to_thread(self._lacks_rows, there.put)
        if there.ready and (lacks or not await broker.unbroken(there.put)):
            await self._take_back(broker, there)  # after a restart, rows that are done may be in it again
            await self._keep_all(broker, inbox, UNDER_WAY_S)
        while not self._left or self._putting is not None:
            if broker.lost.is_set():
                raise BrokerLost("The connection to the RabbitMQ is lost.")
            there = await asyncio.to_thread(self._there, there)
            wanted = self._wanted and self._ending is None
            if there.ready:
                self.put.set()
            broken = not there.ready and self._mine == there.put and self._putting is None
            if there.half_done or broken:  # its submitter ended in the midst of it, or its connection did
                await self._take_back(broker, there)
                continue
            if wanted and not self._in:
                await self._keep_all(broker, inbox)
                self._in, self._mine = True, there.put
                self._putting = asyncio.create_task(self._put(broker, rows, there))
            elif not wanted and self._in:
                await self._take_back(broker, there)
            if self._ending is None:
                self.note_pause(queued=self._wanted)
            await self._keep(broker, inbox)
            ended = not self.pending or self.drained
            if ended or self.look_is_due:
                await self.look()
                await self._say_why_it_waits(broker, rows)
            if ended:
                await self._finish(broker, there)
                return
            await self._rest(inbox)

    def _enter(self) -> Queued:
        """What the ledger says of it; written down now, if it is new."""
        self.journal.reap(self.job)
        return self.journal.queued.put(
            self.job,
            shown_url(self._url.reveal()),
            priority=self._priority,
            options=self._options,
            put=self._new_put(),
            answers=_new_name(),
            ready=False,
        )

    def _new_put(self) -> str:
        """A name for a handing over, which says how many rows the job has by now."""
        return f"{_new_name()}-{self._rows_of_job()}"

    def _lacks_rows(self, put: str) -> bool:
        """Whether the job has got more rows since that handing over was named."""
        _, _, rows = put.partition("-")
        return rows.isdecimal() and int(rows) < self._rows_of_job()

    def _rows_of_job(self) -> int:
        there = self.journal.job(self.job)
        return 0 if there is None else there.total

    def _there(self, before: Queued) -> Queued:
        return self.journal.queued.get(self.job) or before

    async def _put(self, broker: Broker, queue: str, there: Queued) -> None:
        """Send the rows that are left; then the ledger says that all are there. Raises BrokerLost."""
        await broker.mark(there.put)
        self._todo = deque(self.pending)
        while self._todo or self._set_aside:
            self._settled.clear()
            chunk = [self._todo.popleft() for _ in range(min(PUT_AT_ONCE, len(self._todo)))]
            chunk = [key for key in chunk if key in self.pending]
            affordable = self._afford(chunk)
            self._todo.extendleft(reversed(chunk[len(affordable) :]))
            rows = [self._row_of(key, there.put, self._set_aside.get(key)) for key in affordable]
            await broker.publish(queue, [self._parcel(row) for row in rows])
            if len(affordable) < len(chunk) or not self._todo:
                if self._purse is None or self._ending is not None:
                    break
                self.put.set()  # as much as there is money for
                await self._settled.wait()  # money comes free, or rows come back
        await asyncio.to_thread(self.journal.queued.mark_ready, self.job, there.put)
        self._mine = ""
        self.put.set()

    def _parcel(self, row: Row) -> Parcel:
        attempt = self._begun[row.key] + self._raised[row.key]
        return row.parcel(self._priority, self._answers, attempt)

    def _afford(self, keys: Sequence[str]) -> Sequence[str]:
        """Set aside what these rows may cost; gives the first of them, as far as the budget goes."""
        if self._purse is None or self._worst_usd is None:
            return keys
        for number, key in enumerate(keys):
            limit_usd = self._worst_usd(key) * 2 ** self._raised[key]
            try:
                self._purse.reserve(key, limit_usd)
            except BudgetExceeded as full:
                if not getattr(full, "fits_later", False):
                    self.stop(full)
                return keys[:number]
            self._set_aside[key] = limit_usd
        return keys

    def _settle(self, result: Result) -> None:
        """Book what a row cost that has come back, and put it in again where it is still to be asked."""
        if self._purse is None:
            return
        out = result.put == self._mine and result.key in self._set_aside
        limit_usd = self._set_aside.pop(result.key) if out else 0.0
        if out:
            self._purse.release(result.key)
        unknown_usd = result.unknown_usd + (limit_usd if result.lost is not None else 0.0)
        for usd, certain in ((result.cost_usd, True), (unknown_usd, False)):
            self._purse.reserve("come back", 0.0)
            self._purse.settle("come back", usd, certain=certain)
        if out and result.key in self.pending:
            self._todo.append(result.key)
        self._settled.set()

    async def _take_back(self, broker: Broker, there: Queued) -> None:
        """Rows of that handing over are not wanted any more; answers of those under way still come."""
        await self._stop_putting()
        self._mine = ""
        for key in self._set_aside:  # those of them that are asked all the same are booked when they come
            if self._purse is not None:
                self._purse.release(key)
        self._set_aside.clear()
        put = await asyncio.to_thread(self._new_put)
        mine = await asyncio.to_thread(self.journal.queued.put_again, self.job, there.put, put)
        self._in = not mine  # somebody else was quicker, and puts them in
        await broker.unmark(there.put)

    async def _finish(self, broker: Broker, there: Queued) -> None:
        """Leave nothing of the job on the broker."""
        await broker.stop_consuming()
        await broker.unmark(there.put)
        await broker.delete_queue(self._answers)
        await asyncio.to_thread(self.journal.queued.remove, self.job)

    async def _rest(self, inbox: Inbox) -> None:
        """Until an answer comes, the next look is due, or something was asked for."""
        if inbox:
            return
        waiting = [asyncio.create_task(inbox.arrived.wait()), asyncio.create_task(self.rest())]
        if self._putting is not None and not self._putting.done():
            waiting.append(self._putting)
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting[:2]:
            task.cancel()
        await asyncio.gather(*waiting[:2], return_exceptions=True)
        if self._putting is not None and self._putting.done():
            putting, self._putting = self._putting, None
            putting.result()

    async def _say_why_it_waits(self, broker: Broker, rows: str) -> None:
        _, workers = await broker.standing(rows)
        self.progress.waiting = (
            "" if workers else "waits for a worker (deepseek-nb worker --queue amqp://...)"
        )
        if self._ending is not None and not workers:
            self._ending = 0.0  # nobody has any of them under way

    # -- what comes back

    async def _keep_all(self, broker: Broker, inbox: Inbox, quiet_s: float = 0.0) -> None:
        """Write down all answers that are there: rows that have one are not put in anew.

        Goes on until none came for ``quiet_s`` seconds, but not for longer than ``DRAIN_S`` beyond that.
        """
        began_s = came_s = time.monotonic()
        while True:
            if inbox:
                came_s = time.monotonic()
            await self._keep(broker, inbox)
            left, _ = await broker.standing(self._answers)
            now_s = time.monotonic()
            quiet = now_s - came_s >= quiet_s or now_s - began_s > quiet_s + DRAIN_S
            if not left and not inbox and quiet:
                return
            await asyncio.sleep(0.02)

    async def _keep(self, broker: Broker, inbox: Inbox) -> None:
        """Write into the ledger what has come, and only then have the broker forget it."""
        inbox.arrived.clear()
        while inbox:
            batch = [inbox.popleft() for _ in range(min(len(inbox), AT_ONCE))]
            results, stops = await asyncio.to_thread(self._write_down, batch)
            for result in results:
                self._settle(result)
            for why in stops:
                self.stop(why)
            for delivery in batch:
                await broker.ack(delivery)

    def _write_down(self, batch: Sequence[Delivery]) -> tuple[list[Result], list[DeepSeekError]]:
        """Gives what came for rows, and what stops the job."""
        came: list[Result] = []
        rows: dict[str, tuple[Result, bool]] = {}
        stops: list[Result] = []
        spent_usd = unknown_usd = 0.0
        for delivery in batch:
            try:
                result = Result.of(delivery.told())
            except ValueError:
                continue  # none of ours: nothing is to be lost in it
            came.append(result)
            unknown_usd += self._unknown_usd(result)
            if result.stop is not None:
                spent_usd += result.cost_usd
                stops.append(result)
            elif result.key in rows or self._comes_again(result):
                spent_usd += result.cost_usd  # paid twice: two workers had it
            else:
                rows[result.key] = result, delivery.again
        items = {item.key: item for item in self.journal.lease_among(self.job, list(rows), LEASE_S)}
        acks: list[tuple[Item, str, float | None]] = []
        fails: list[tuple[Item, str]] = []
        for key, (result, again) in rows.items():
            item = items.get(key)
            if item is None:  # it is done already: by the same answer, where that came once before
                spent_usd += 0.0 if again else result.cost_usd
            elif result.answer is not None:
                acks.append((item, json_text(result.answer), result.cost_usd))
            else:
                spent_usd += result.cost_usd
                fails.append((item, json_text(result.error or given_up(self._begun[key]))))
        if spent_usd or unknown_usd:
            self.journal.add_spend(self.job, spent_usd, unknown_usd)
        self.journal.ack_many(acks)
        self.journal.fail_many(fails)
        for key in items:
            self.pending.pop(key, None)
            self.progress.done += rows[key][0].answer is not None
            self.progress.failed += rows[key][0].answer is None
        there = self.journal.queued.get(self.job)
        now = "" if there is None else there.put  # not of a handing over that was taken back
        return came, [error_of(result.stop or {}) for result in stops if result.put == now]

    def _unknown_usd(self, result: Result) -> float:
        lost_usd = self._set_aside.get(result.key, 0.0) if result.lost is not None else 0.0
        return result.unknown_usd + lost_usd

    def _comes_again(self, result: Result) -> bool:
        """Whether the row is to be asked once more: its limit was too low, or its worker was lost."""
        if result.lost is not None:
            self._begun[result.key] += 1
            return self._begun[result.key] < DELIVERIES
        if result.error is not None and result.error.get("error") == BudgetExceeded.__name__:
            self._raised[result.key] += 1
            return True
        return False

    @property
    def drained(self) -> bool:
        """Whether what may be under way has had its time."""
        return self._ending is not None and time.monotonic() >= self._ending


def _new_name() -> str:
    return uuid.uuid4().hex
