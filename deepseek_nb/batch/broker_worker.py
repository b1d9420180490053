"""A worker on a RabbitMQ: takes rows, asks, sends the answers back, and only then lets go of the row.

A row is acknowledged once its result is on the broker's disk. So a worker that is killed, or loses the
broker, costs the rows it had at the server and no others: they come to another worker, or back to this one,
which has their answers in its store. A row that was begun too often without an end goes to the dead letters,
and its submitter is told.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from deepseek_nb.adapters.rabbitmq import Broker, BrokerLost, Delivery, Inbox, Parcel, shown_url
from deepseek_nb.adapters.settings import parse_duration_s
from deepseek_nb.adapters.tokenizer import counter
from deepseek_nb.batch.call import user_of
from deepseek_nb.batch.given_up import DELIVERIES, given_up
from deepseek_nb.batch.kept_spec import spec_of
from deepseek_nb.batch.parcels import Result, Row
from deepseek_nb.batch.run import DRAIN_S, LEADERS, error_record
from deepseek_nb.batch.spec import Asking
from deepseek_nb.batch.worker import Tell
from deepseek_nb.client.portal import background
from deepseek_nb.client.sync import Client
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.copies import changed
from deepseek_nb.core.errors import (
    AnswerInvalid,
    AuthError,
    BalanceExhausted,
    BudgetExceeded,
    DeepSeekError,
    Disposition,
    StoreFailed,
)
from deepseek_nb.core.events import CallEvent
from deepseek_nb.core.secret import Secret

__all__ = ["BrokerWorker"]

AGAIN_S = 1.0
"""How long to wait before a lost broker is tried again."""
MARK_S = 1.0
"""How long it is believed that a job is still wanted."""
ABSENT_S = 15.0
"""A submitter that looks on has come back by then, after a restart of the broker."""
LOOK_S = 0.2
PURSE = "budget of the row"
TELL_S = 30.0
KEPT_RESULTS = 1000
KEPT_JOBS = 64
"""Of so many jobs is remembered how their rows are asked."""
EVERYBODYS = (AuthError, BalanceExhausted, StoreFailed)
"""Errors that no row of this worker would escape."""


@dataclass(eq=False, slots=True)
class _Put:
    """What this worker knows of one handing over."""

    asking: Asking
    leading: asyncio.Lock = field(default_factory=asyncio.Lock)
    led: bool = False
    """Its first row came through: the others may follow at once."""
    unusable: int = 0
    """Answers in a row that could not be used, while none could."""
    gone: bool = False
    """Taken back, or stopped: its rows are dropped."""
    seen_s: float = float("-inf")
    """When it was last known to be wanted."""
    sure: bool = False
    """A restart of the broker has no rows in it again that are done, or nobody who would know."""
    checking: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(eq=False, slots=True)
class _Asked:
    """A row that is being asked, or was."""

    task: asyncio.Task[Result | None]
    answers: str
    """The queue that its result goes to."""
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    sent: bool = False


class BrokerWorker:
    """Works off the rows for ``client``'s server on the RabbitMQ at ``url``: ``run()``, in the main thread.

    ``drain``: ends when nothing is left, instead of waiting for more. Rows that were begun ``deliveries``
    times without an end are given up. :meth:`stop` may be called from a signal handler.
    """

    def __init__(
        self, client: Client, url: Secret, tell: Tell, *, drain: bool = False, deliveries: int = DELIVERIES
    ) -> None:
        self.client = client
        self.done = 0
        self._url = url
        self._tell = tell
        self._drain = drain
        self._deliveries = deliveries
        self._asked_to_stop = threading.Event()
        self._ending: asyncio.Event
        self._queue = ""
        self._fatal: DeepSeekError | None = None
        self._puts: OrderedDict[str, _Put] = OrderedDict()
        self._asked: dict[str, _Asked] = {}
        self._refused: set[str] = set()
        self._at_the_server: dict[str, bool] = {}
        self._told_s = time.monotonic()

    def stop(self) -> None:
        """Finish what is at the server and give the rest back."""
        self._asked_to_stop.set()

    def run(self) -> bool:
        """Work until the queue is empty (``drain``) or :meth:`stop`. Raises what ends every row alike."""
        self.client.settings.require_credentials()
        work = background.start(self._life)
        told = False
        while not work.done():
            self.client.warn_if_needed()
            if self._asked_to_stop.wait(LOOK_S) and not told:
                told = True
                background.call_soon(self._end)
            elif told:
                time.sleep(LOOK_S)
        work.result()
        if self._fatal is not None:
            raise self._fatal
        return True

    def _end(self) -> None:
        self._ending.set()

    # -- the connection

    async def _life(self) -> None:
        self._ending = asyncio.Event()
        if self._asked_to_stop.is_set():
            return
        lost = False
        try:
            while True:
                try:
                    async with Broker.open(self._url) as broker:
                        self._tell(f"takes rows from {shown_url(self._url.reveal())}")
                        lost = False
                        await self._serve(broker)
                        return
                except BrokerLost as why:
                    if not lost:
                        self._tell(f"{why} Tried again until it is there; rows at the server go on.")
                    lost = True
                if await _set_within(self._ending, AGAIN_S):
                    return
        finally:
            for asked in self._asked.values():
                asked.task.cancel()
            await asyncio.gather(*(each.task for each in self._asked.values()), return_exceptions=True)

    async def _serve(self, broker: Broker) -> None:
        """Take rows until there are no more, or the worker ends. Raises BrokerLost."""
        self._queue = await broker.declare_rows(self.client.settings.route_name)
        if len(self._asked) > KEPT_RESULTS:  # rows that went to other workers with the last connection
            self._asked = {name: each for name, each in self._asked.items() if not each.sent}
        inbox = await broker.consume(self._queue, at_once=self.client.settings.concurrency_max)
        for put in self._puts.values():
            put.sure, put.seen_s = False, float("-inf")
        # what was under way when the last connection broke
        under_way = {asyncio.create_task(self._send_late(broker, each)) for each in self._asked.values()}
        try:
            while not self._ending.is_set():
                if broker.lost.is_set():
                    raise BrokerLost("The connection to the RabbitMQ is lost.")
                inbox.arrived.clear()
                while inbox:
                    delivery = inbox.popleft()
                    under_way.add(asyncio.create_task(self._one(broker, delivery)))
                if self._drain and not under_way and not (await broker.standing(self._queue))[0]:
                    if not inbox:
                        return
                    continue
                await self._until_something(broker, inbox, under_way)
                self._reap(under_way)
                self._tell_how_it_goes(len(under_way))
            await self._give_back(broker, inbox, under_way)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    async def _until_something(
        self, broker: Broker, inbox: Inbox, under_way: set[asyncio.Task[None]]
    ) -> None:
        """Until a row comes or ends, or the broker or the worker does."""
        events = (inbox.arrived, self._ending, broker.lost)
        others = [asyncio.create_task(event.wait()) for event in events]
        waiting: set[asyncio.Task[Any]] = {*others, *under_way}
        try:
            await asyncio.wait(waiting, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in others:
                task.cancel()

    def _reap(self, under_way: set[asyncio.Task[None]]) -> None:
        for task in [task for task in under_way if task.done()]:
            under_way.discard(task)
            if not task.cancelled():
                task.result()  # BrokerLost, or a bug
        if self._fatal is not None:
            self._ending.set()

    async def _give_back(self, broker: Broker, inbox: Inbox, under_way: set[asyncio.Task[None]]) -> None:
        """Let what is at the server finish for a while; the rest goes back as not begun."""
        await broker.stop_consuming()
        for name, asked in self._asked.items():
            if not self._at_the_server.get(name):
                asked.task.cancel()
        if under_way:
            await asyncio.wait(under_way, timeout=DRAIN_S)
        for asked in self._asked.values():
            asked.task.cancel()
        if under_way:
            await asyncio.wait(under_way, timeout=DRAIN_S)
        for delivery in list(inbox):
            await broker.give_back(self._queue, delivery)

    def _tell_how_it_goes(self, under_way: int) -> None:
        if time.monotonic() - self._told_s >= TELL_S:
            self._told_s = time.monotonic()
            self._tell(f"{self.done:,} rows finished, {under_way:,} under way")

    # -- a row

    async def _one(self, broker: Broker, delivery: Delivery) -> None:
        """Take one row to its end, or give it back. Raises BrokerLost; the row comes again then."""
        try:
            row = Row.of(delivery.told())
        except ValueError as why:
            await self._bury(broker, delivery, f"Unreadable: {why}")
            return
        if delivery.again and delivery.id not in self._asked:
            begun = int(delivery.headers.get("tries", 0)) + 1
            if row.limit_usd is not None:  # its submitter has to set money aside for it anew
                await self._answer(broker, delivery.answers, Result(row.key, row.put, lost={"begun": begun}))
                await broker.ack(delivery)
            elif begun >= self._deliveries:
                error = given_up(begun)
                await self._answer(broker, delivery.answers, Result(row.key, row.put, error=error))
                await self._bury(broker, delivery, error["message"])
            else:
                await broker.give_back(self._queue, delivery, tries=begun)
            return
        try:
            put = self._put(row, delivery.priority)
        except DeepSeekError as error:  # what this worker's client cannot ask
            if row.put not in self._refused:  # told once
                self._refused.add(row.put)
                stop = Result(row.key, row.put, stop=error_record(error))
                await self._answer(broker, delivery.answers, stop)
            await broker.ack(delivery)
            return
        if delivery.id not in self._asked and not await self._wanted(broker, row.put, put):
            await broker.ack(delivery)
            return
        if delivery.id not in self._asked and self._ending.is_set():
            await broker.give_back(self._queue, delivery)
            return
        asked = self._asked.get(delivery.id)
        if asked is None:
            task = asyncio.create_task(self._ask(row, put, delivery))
            asked = self._asked[delivery.id] = _Asked(task, delivery.answers)
        try:
            await self._send(broker, asked)
        except asyncio.CancelledError:
            if asked.task.cancelled() and not _cancelling():
                await broker.give_back(self._queue, delivery)
                self._asked.pop(delivery.id, None)
                return
            raise
        except DeepSeekError as error:
            self._asked.pop(delivery.id, None)
            await broker.give_back(self._queue, delivery)
            if isinstance(error, (*EVERYBODYS, BudgetExceeded)):
                self._fatal = self._fatal or error
            return
        await broker.ack(delivery)
        self._asked.pop(delivery.id, None)

    async def _send(self, broker: Broker, asked: _Asked) -> None:
        """Wait for the result and send it back, once."""
        result = await asyncio.shield(asked.task)
        async with asked.sending:
            if not asked.sent and result is not None:
                await self._answer(broker, asked.answers, result)
                self.done += result.stop is None
            asked.sent = True

    async def _send_late(self, broker: Broker, asked: _Asked) -> None:
        """As :meth:`_send`; what became of a row that failed is seen when it comes again."""
        try:
            await self._send(broker, asked)
        except DeepSeekError:
            return
        except asyncio.CancelledError:
            if _cancelling():
                raise

    async def _answer(self, broker: Broker, answers: str, result: Result) -> None:
        """Send the result back; where nobody waits for it any more, it stays in this worker's store."""
        try:
            await broker.publish(answers, [result.parcel()])
        except LookupError:
            self._tell(f"nobody waits any more for the answer to {result.key}")

    async def _bury(self, broker: Broker, delivery: Delivery, reason: str) -> None:
        """Put it to the dead letters, with the reason."""
        headers = {**delivery.headers, "reason": reason}
        parcel = Parcel(delivery.body, delivery.id, delivery.priority, delivery.answers, headers)
        await broker.publish(f"{self._queue}.dead", [parcel])
        await broker.ack(delivery)
        self._tell(f"gave up {delivery.id or 'a message'}: {reason}")

    async def _wanted(self, broker: Broker, name: str, put: _Put) -> bool:
        """Whether rows of that handing over are to be asked."""
        async with put.checking:
            if not put.gone and time.monotonic() - put.seen_s > MARK_S:
                put.gone = not await broker.marked(name)
                if not put.gone and not put.sure and not await broker.unbroken(name):
                    put.gone = await self._is_taken_back(broker, name)
                    put.sure = not self._ending.is_set()
                put.seen_s = time.monotonic()
        return not put.gone

    async def _is_taken_back(self, broker: Broker, name: str) -> bool:
        """Whether the submitter puts its rows in anew, now that the broker was restarted.

        Rows that are done may be in the queue again, and the submitter knows which. Where nobody does it
        for a while, nobody looks on: then the rows are asked.
        """
        end_s = time.monotonic() + ABSENT_S
        while time.monotonic() < end_s and not self._ending.is_set():
            if not await broker.marked(name):
                return True
            await asyncio.sleep(LOOK_S)
        return False

    def _put(self, row: Row, priority: int) -> _Put:
        """How rows of that handing over are asked. Raises ConfigError and the like where they cannot be."""
        told = json.dumps([row.put, row.job, row.ask, row.options, row.sent_as, priority], sort_keys=True)
        put = self._puts.get(told)
        if put is None:
            put = self._puts[told] = _Put(self._asking(row, priority))
            if len(self._puts) > KEPT_JOBS:
                self._puts.popitem(last=False)
        self._puts.move_to_end(told)
        return put

    def _asking(self, row: Row, priority: int) -> Asking:
        spec, options = spec_of(row.ask), row.options
        ttl = options.get("ttl")
        asking = spec.errands(
            self.client.aio,
            user_id=user_of(row.job),
            priority=min(5, max(1, priority)),
            ttl_s=None if ttl is None else parse_duration_s(ttl),
            cache=options.get("cache"),
            fallback=options.get("fallback"),
        )
        if row.sent_as is not None:
            form = changed(asking.form, order=tuple(row.sent_as["order"]))
            asking.send_as(form, counter(), int(row.sent_as["reach"]))
        return asking

    async def _ask(self, row: Row, put: _Put, delivery: Delivery) -> Result | None:
        """Take the row to the server; None where it is not wanted any more. Raises what ends the worker."""
        if not put.led:
            async with put.leading:  # the first goes alone
                if put.gone:
                    return None
                if not put.led:
                    return await self._asked_now(row, put, delivery)
        return await self._asked_now(row, put, delivery)

    async def _asked_now(self, row: Row, put: _Put, delivery: Delivery) -> Result:
        purse = Budget(row.limit_usd, parent=self.client.budget, name=PURSE)

        def hear(event: CallEvent) -> None:
            if event.kind == "sent":
                self._at_the_server[delivery.id] = True
            elif event.kind in ("waiting", "fallback"):
                self._at_the_server[delivery.id] = False
                if self._ending.is_set():
                    self._asked[delivery.id].task.cancel()

        try:
            errand = put.asking(row.body, hear)
            answer = await self.client.aio.take(changed(errand, budget=purse))
        except DeepSeekError as error:
            return self._failed(row, put, error, purse)
        finally:
            self._at_the_server.pop(delivery.id, None)
        put.led = True
        kept = answer.to_json()
        told = {**kept, "cached": True} if answer.cached else kept
        return Result(row.key, row.put, answer=told, cost_usd=purse.spent_usd, unknown_usd=purse.unknown_usd)

    def _failed(self, row: Row, put: _Put, error: DeepSeekError, purse: Budget) -> Result:
        if isinstance(error, EVERYBODYS):
            raise error
        if isinstance(error, BudgetExceeded) and getattr(error, "cap", None) != PURSE:
            raise error  # this worker's own budget
        told = partial(Result, row.key, row.put, cost_usd=purse.spent_usd, unknown_usd=purse.unknown_usd)
        record = error_record(error)
        if error.disposition in (Disposition.PAUSE, Disposition.STOP) and not isinstance(
            error, BudgetExceeded
        ):
            put.gone = True
            return told(stop=record)
        if isinstance(error, AnswerInvalid) and not put.led:
            put.unusable += 1
            if put.unusable >= LEADERS:
                record["hint"] = (
                    f"The first {LEADERS} rows that a worker asked failed like this: the job was stopped. "
                    "Correct the schema or the template, or raise max_tokens."
                )
                put.gone = True
                return told(stop=record)
        elif not isinstance(error, AnswerInvalid):
            put.led = True
        return told(error=record)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


def _cancelling() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
