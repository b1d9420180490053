"""One run of a job: takes each row that comes in to the server, and writes down what became of it.

What is at risk at any moment: at most ``concurrency_max`` rows, those between sending and the
commit of their answer. A process killed then has lost nothing that was acknowledged; the next run
asks those rows, and no others, again. The store and the journal commit an answer at the same time, each
in its own file: a run goes on from what either of them has.

Short answers are asked for in one piece once the first row, which is always streamed, has shown how
fast the server writes; that is a fifth of the work of a stream. What is given up with it: nobody sees
that an answer moves on, so silence is borne for as long as the longest answer may take; an answer that
breaks off may have been charged to its last token, and is booked so; one that runs away into blanks is
paid up to its ``max_tokens``. A row that broke is streamed the next time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from deepseek_nb.adapters.journal import Item, ItemRow, Journal
from deepseek_nb.adapters.store import json_text
from deepseek_nb.batch.garbage import collected_less
from deepseek_nb.batch.hours import Hours
from deepseek_nb.batch.intake import Intake
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.waves import Waves
from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.client.errand import Errand
from deepseek_nb.client.watchdog import Limits
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.copies import changed
from deepseek_nb.core.errors import AnswerInvalid, Busy, DeepSeekError, Disposition, StoreFailed
from deepseek_nb.core.events import CallEvent

__all__ = ["JobRun", "error_record", "text_of"]

DRAIN_S = 10.0
"""How long requests under way may take to finish once the job stops."""
TICK_S = 0.1
WHOLE_TOKENS = 4096
"""Answers that may be longer are always streamed."""
SLOWER = 4.0
"""So many times as slow as the first row's answer may one be written that comes in one piece."""
LEADERS = 2

Hear = Callable[[CallEvent], None]
MakeErrand = Callable[[str, Hear | None], Errand]
Told = tuple[Item, Answer, str]
"""A row, its answer, and the text of it that the journal keeps."""
Kept = tuple[Told, "asyncio.Future[Any]"]
T = TypeVar("T")


def error_record(error: DeepSeekError) -> dict[str, Any]:
    """What the journal keeps of a row's error: its class, words, hint and every text that was paid for."""
    return {
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "charged": error.charged,
        "status": error.status,
        "trace_id": error.trace_id,
        "attempts": getattr(error, "tries", 1),
        "cost_usd": getattr(error, "cost_usd", None),
        "raw": list(getattr(error, "raw", ())),
    }


def text_of(answer: Answer) -> str:
    """What the journal keeps of an answer, which is what the store keeps, and whether that had it."""
    kept = answer.to_json()
    return json_text({**kept, "cached": True} if answer.cached else kept)


class JobRun:
    """Works off the rows ``keys`` of one job. ``await run()`` once.

    :meth:`pause`, :meth:`resume` and :meth:`stop` are called in the same loop.

    ``stopped_by`` is then the error that paused the job, or None where it ran to its end or was
    stopped by the user.
    """

    def __init__(
        self,
        client: AsyncClient,
        journal: Journal,
        job: str,
        keys: Sequence[str],
        make_errand: MakeErrand,
        progress: Progress,
        *,
        patience_s: float,
        check: Callable[[Answer], Any] | None = None,
        waves: Waves | None = None,
        hours: Hours | None = None,
    ) -> None:
        self.client = client
        self.journal = journal
        self.job = job
        self.make_errand = make_errand
        self.progress = progress
        self.patience_s = patience_s
        self.check = check
        self.waves = waves or Waves()
        self.hours = hours
        self.stopped_by: DeepSeekError | None = None
        self._on_the_wire: dict[asyncio.Task[Any], bool] = {}
        self._stopping = asyncio.Event()
        self._going = asyncio.Event()  # not paused
        self._going.set()
        self._feeding = asyncio.Event()  # not paused by the user: what is stored is given at any hour
        self._feeding.set()
        self.intake = Intake(
            client.store,
            journal,
            job,
            keys,
            progress,
            probe=make_errand("", None),
            check=check,
            going=self._going,
            feeding=self._feeding,
            stopping=self._stopping,
        )
        self._pauses: set[str] = set()
        self._called_back: set[asyncio.Task[Any]] = set()
        self._looked_s = 0.0
        self._last_refusal: DeepSeekError | None = None
        self._leading = True
        self._whole: Limits | None = None  # how long an answer in one piece may take; None: all are streamed
        self.unsaved: dict[str, str] = {}
        """Answers that came in and could not be written, as the journal would hold them, by key."""

    async def run(self) -> None:
        """Work until every row is done or failed, or the job stops."""
        with collected_less():
            await self._run()

    async def _run(self) -> None:
        self._looked_s = asyncio.get_running_loop().time()
        helpers = [asyncio.create_task(self.intake.keep_leases()), asyncio.create_task(self._watch())]
        if self.hours is not None:
            self.hours.look(self)
            helpers.append(asyncio.create_task(self.hours.keep(self)))
        feeder = asyncio.create_task(self._feed())
        try:
            if await self._lead():
                await self._fan_out()
        except asyncio.CancelledError:
            self._stopping.set()
            raise
        finally:
            for task in (*helpers, feeder):
                task.cancel()
            await asyncio.gather(*helpers, feeder, return_exceptions=True)
            self._look()
            await self.intake.give_back()
        if not feeder.cancelled() and feeder.exception() is not None:
            raise feeder.exception()  # type: ignore[misc]

    def stop(self, why: DeepSeekError | None = None) -> None:
        """Send nothing more; what is on the wire may finish for ``DRAIN_S`` seconds. ``why``: the cause."""
        if not self._stopping.is_set():
            self.stopped_by = why
            self._stopping.set()

    def leave(self) -> None:
        """As :meth:`stop`: nobody else works on what this process asks."""
        self.stop()

    def pause(self, why: str = "user") -> None:
        """Send nothing new: what is on the wire finishes, rows that wait for a place leave the line.

        The leases are kept. What has been paid for is kept; nothing is asked twice for it. There may be
        several reasons at a time.
        """
        self._pauses.add(why)
        if why == "user":
            self._feeding.clear()
        if self._going.is_set():
            self._going.clear()
            self.intake.let_go()
            self.progress.paused = True
            for task in self._on_the_wire:
                self._call_back(task)

    def resume(self, why: str = "user") -> None:
        """Go on where :meth:`pause` stopped, once no reason for a pause is left."""
        self._pauses.discard(why)
        if why == "user":
            self._feeding.set()
        if not self._pauses:
            self.progress.paused = False
            self._going.set()

    def _call_back(self, task: asyncio.Task[Any]) -> None:
        """Take a row out of the line, if it is not on the wire; its worker holds it until the job goes on."""
        if self._on_the_wire.get(task) is False and task not in self._called_back:
            self._called_back.add(task)
            task.cancel()

    async def _feed(self) -> None:
        try:
            await self.intake.feed()
        except StoreFailed as error:
            self.stop(error)

    async def _lead(self) -> bool:
        """Send the first row alone: a wrong model, key or schema costs one call, not all of them.

        Where the first answer cannot be used, a second row is tried before the job is stopped.
        """
        failures: list[DeepSeekError] = []
        for _ in range(LEADERS):
            item = await self._next()
            if item is None:
                return False
            work = asyncio.create_task(self._one(item))
            failed = await self._until_stopped(work)
            if self._stopping.is_set():
                return False
            if not isinstance(failed, AnswerInvalid):
                self._leading = False
                return True
            failures.append(failed)
        first = failures[0]
        first.hint = (
            f"The first {LEADERS} rows both failed like this, so the job was stopped before the others "
            "were sent. Correct the schema or the template, or raise max_tokens."
        )
        self.stop(first)
        return False

    async def _until_stopped(self, work: asyncio.Task[T]) -> T | None:
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({work, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                await self._drain({work})
            return None if work.cancelled() else work.result()
        finally:
            stopping.cancel()
            if not work.done():
                work.cancel()
                await asyncio.wait({work})

    async def _next(self) -> Item | None:
        """The next leased row; None when there are no more or the job stops."""
        getting = asyncio.create_task(self.intake.next())
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({getting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if getting.done():
                return getting.result()
            return None
        finally:
            for task in (getting, stopping):
                task.cancel()

    async def _fan_out(self) -> None:
        workers: set[asyncio.Task[None]] = set()
        count = min(self.client.settings.concurrency_max, max(1, self.progress.pending))
        for _ in range(count):
            workers.add(asyncio.create_task(self._work()))
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            left: set[asyncio.Task[Any]] = set(workers)
            while left and not self._stopping.is_set():
                done, left = await asyncio.wait({*left, stopping}, return_when=asyncio.FIRST_COMPLETED)
                left.discard(stopping)
                for task in done - {stopping}:
                    if not task.cancelled():  # it ended itself, since the job stops: the others drain
                        task.result()  # a worker ends without an error, or with a bug
            await self._drain(left)
        finally:
            stopping.cancel()
            for task in workers:
                task.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _drain(self, tasks: set[asyncio.Task[Any]]) -> None:
        """Let what is on the wire finish, for a while; what only waits for a place ends at once."""
        for task in tasks:
            if not self._on_the_wire.get(task):
                task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=DRAIN_S)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)

    async def _work(self) -> None:
        while not self._stopping.is_set():
            item = await self.intake.next()
            if item is None:
                return
            await self._take(item)

    async def _take(self, item: Item) -> None:
        """Take a row to its end, once it is its turn."""
        try:
            await self.waves.turn(item.key)
            await self._one(item)
        finally:
            self.waves.back(item.key)

    async def _one(self, item: Item) -> DeepSeekError | None:
        """Take one row to its end, through pauses; gives the row's error, if any."""
        return await self._through_pauses(partial(self._ask, item))

    async def _through_pauses(self, ask: Callable[[asyncio.Task[Any]], Awaitable[T]]) -> T:
        """Do it in this task; once more, where a pause called it back before anything was sent."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (inside one)
        while True:
            if not self._going.is_set():
                await self._going.wait()
            try:
                return await ask(task)
            except asyncio.CancelledError:
                if task not in self._called_back or task.uncancel():
                    raise  # the job ends, too
            finally:
                self._called_back.discard(task)

    async def _ask(self, item: Item, task: asyncio.Task[Any]) -> DeepSeekError | None:
        """Take one row to the server and write down what became of it; gives the row's error, if any."""
        claimed = bool(self.intake.take_claims((item.key,)))
        kept: list[Kept] = []

        def keep(answer: Answer, text: str) -> None:
            told = (item, answer, text)
            kept.append((told, self._ack_soon([told])))

        def errand_of(hear: Hear) -> Errand:
            errand = self.make_errand(item.body, hear)
            own = claimed and errand.key == item.key
            return changed(errand, whole=self._whole, claimed=own, on_kept=keep)

        try:
            errand, answer = await self._answered(errand_of, task)
        except DeepSeekError as error:
            return await self._row_error(item, error)
        except asyncio.CancelledError:
            for told, writing in kept:
                await self._written([told], writing, task)
            raise
        self.waves.hear(item.key, item.body, answer)
        if self._leading:
            self._whole = self._borne(errand, answer)
        if not kept:  # the store had it, or is not to keep it
            keep(answer, text_of(answer))
        told, writing = kept[-1]
        return await self._written([told], writing, task)

    async def _answered(
        self, errand_of: Callable[[Hear], Errand], task: asyncio.Task[Any]
    ) -> tuple[Errand, Answer]:
        """Take an errand to the server, with an ear for what happens to it; raises what ended it."""
        sent_s = 0.0
        self._on_the_wire[task] = False

        def hear(event: CallEvent) -> None:
            nonlocal sent_s
            self.progress.hear(event)
            if event.kind == "sent":
                sent_s = event.at_s
                self._on_the_wire[task] = True
            elif event.kind == "answered" and event.answer is not None:
                self.progress.answered(event.at_s - sent_s, event.answer.usage)
            elif event.kind in ("waiting", "fallback"):
                self._on_the_wire[task] = False
                self._last_refusal = event.error
                if self._stopping.is_set():
                    task.cancel()  # what was on the wire has come back: it is not sent again
                elif not self._going.is_set():  # likewise, once the call has come to rest
                    asyncio.get_running_loop().call_soon(self._call_back, task)

        errand = errand_of(hear)
        try:
            return errand, await self.client.take(errand)
        finally:
            del self._on_the_wire[task]

    def _ack_soon(self, answers: Sequence[Told]) -> asyncio.Future[Any]:
        """Hand these answers to the journal, with what they cost; the future ends when they are kept."""
        acks = [(item, text, 0.0 if answer.cached else answer.cost_usd) for item, answer, text in answers]
        self.progress.spent_usd += sum(paid_usd or 0.0 for _, _, paid_usd in acks)
        writing = [self.journal.ack_soon(*ack) for ack in acks]
        return writing[0] if len(writing) == 1 else asyncio.gather(*writing)

    async def _written(
        self, answers: Sequence[Told], writing: asyncio.Future[Any], task: asyncio.Task[Any]
    ) -> DeepSeekError | None:
        """Wait until the journal has these answers, also when cancelled; gives what hindered that."""
        gone: asyncio.CancelledError | None = None
        self._on_the_wire[task] = True
        try:
            await writing
        except asyncio.CancelledError as cancelled:
            gone = cancelled  # this comes when all is done
        except StoreFailed:
            pass
        finally:
            del self._on_the_wire[task]
        failed = writing.exception()
        if failed is not None:
            if not isinstance(failed, StoreFailed):
                raise failed
            self.unsaved.update((item.key, text) for item, _, text in answers)
            self.stop(failed)
            if gone is not None:
                raise gone
            return failed
        store = self.client.store
        full = self.client.not_saved or self.journal.disk_full
        if store is not None:
            full = full or store.disk_full
        if full is not None:
            self.stop(full)
        for item, answer, _ in answers:
            self.intake.done(item)
            self.progress.done += 1
            self.progress.from_store += answer.cached
        if gone is not None:
            raise gone
        return None

    def _borne(self, errand: Errand, first: Answer) -> Limits | None:
        """What is borne of an answer in one piece, by the pace of a streamed one; None: not asked for."""
        most, written = errand.request.max_tokens, first.usage.completion_tokens
        fits = most is not None and most <= WHOLE_TOKENS and not errand.request.thinking
        began_s = None if first.cached else first.first_token_s
        if not fits or most is None or began_s is None or not written or self.client.settings.recall:
            return None  # who takes waiting rows back has to see which of them still wait
        longest_s = SLOWER * most * (first.latency_s - began_s) / written  # nothing of what it waited
        return changed(errand.limits, silence_s=errand.limits.silence_s + longest_s)

    async def _row_error(self, item: Item, error: DeepSeekError) -> DeepSeekError:
        everybodys = self._everybodys(error)
        try:
            await self._book(getattr(error, "cost_usd", None))
            if not everybodys:
                await self.journal.afail(item, json.dumps(error_record(error), ensure_ascii=False))
        except StoreFailed as unwritten:
            self.stop(unwritten)
            return error
        if everybodys:
            self.stop(error)  # the row goes back with the others that are held
            return error
        self.intake.done(item)
        self.progress.failed += 1
        return error

    def _everybodys(self, error: DeepSeekError) -> bool:
        """Whether every row would end like this one."""
        if error.disposition in (Disposition.PAUSE, Disposition.STOP):
            return True
        return self._leading and error.disposition is Disposition.RETRY

    async def _book(self, paid_usd: float | None) -> None:
        """Book what was paid for no answer. Raises StoreFailed."""
        if paid_usd:
            self.progress.spent_usd += paid_usd
            await asyncio.to_thread(self.journal.add_spend, self.job, paid_usd)

    # -- around them

    async def _watch(self) -> None:
        """Keep the figures of the server's state, and stop the job when ``patience_s`` is over.

        That is once the server has given nothing but refusals and faults for so long.
        """
        gate = self.client.road.upstream("").gate(self.make_errand("", None).request.model)
        figures = self.progress
        while True:
            await asyncio.sleep(TICK_S)
            now_s = self._look()
            state = gate.state()
            figures.in_flight, figures.limit, figures.kernels = state.held, int(state.limit), state.kernels
            figures.down_s = gate.down_s()
            since_s, figures.left_s = figures.trouble_s, None
            if since_s is not None:
                figures.left_s = self.patience_s - (now_s - since_s)
                if figures.left_s < 0:
                    self.stop(self._out_of_patience())

    def _look(self) -> float:
        """Bring the figures of time up to date; gives the time."""
        before_s, self._looked_s = self._looked_s, asyncio.get_running_loop().time()
        self.progress.on_the_wire = sum(self._on_the_wire.values())
        self.progress.tick(self._looked_s - before_s)
        return self._looked_s

    def _out_of_patience(self) -> DeepSeekError:
        last = self._last_refusal
        said = f" Last: {last.message}" if last is not None else ""
        return Busy(
            f"The server gave no answer for {self.patience_s:g} s; {self.progress.pending:,} rows wait."
            f"{said}",
            hint="Run the same call again later: what is done is kept and not paid again. "
            "patience= sets for how many minutes to try.",
            status=last.status if last is not None else None,
        )

    def ledger(self) -> Iterator[ItemRow]:
        """Every row of the job as the journal has it, with the answers that could not be written in place."""
        for row in self.journal.rows(self.job):
            text = None if row.state == "d" else self.unsaved.get(row.key)
            yield row if text is None else row._replace(state="d", answer_json=text)
