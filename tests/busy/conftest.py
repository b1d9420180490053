"""The busy server suite's ground: a sandbox, a question or a job put to it, the pass rule checked on its log.

The rows are those of the table of symptoms (1 to 28, with 4a, 4b and 6b). A test of row 7 is called
``test_row_07_...``; ``test_every_row.py`` sees that each row has its tests and each fault is played by them.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pydantic
import pytest

from deepseek_nb.adapters.journal import Journal
from deepseek_nb.batch.apply import apply
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.rows import read_rows
from deepseek_nb.batch.run import JobRun
from deepseek_nb.batch.spec import JobSpec
from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.client.structured import Schema
from deepseek_nb.client.sync import Client
from deepseek_nb.client.watchdog import Limits
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.errors import DeepSeekError
from deepseek_nb.core.events import CallEvent
from deepseek_nb.core.retry import RetryPolicy
from deepseek_nb.sandbox import FAULTS, Fault, FaultScript, RequestRecord, Sandbox
from deepseek_nb.sandbox.engine import answer as simulated
from deepseek_nb.sandbox.script import Ask

WHOLE = "one two three four five six seven eight nine ten"
QUESTION = f"Return exactly: {WHOLE}"
QUICK = RetryPolicy(wait_initial_s=0.01, wait_max_s=0.05)
"""The usual patience, with short waits between faults."""
REFUSALS = frozenset({"busy_503", "rate_429", "limit_falls", "reworded_request_id"})
"""Faults that are refusals: nothing was begun, so they are no tries."""
KINDS = ("card", "transfer", "cash")
_ROW = re.compile(r"ticket (\d+)\b")


class Ticket(pydantic.BaseModel):
    """What is asked about a row."""

    label: Literal["card", "transfer", "cash"]
    urgency: int = pydantic.Field(ge=1, le=5)


class Heard:
    """The server's answer engine, which also keeps what it was asked."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []

    def __call__(self, request: Any) -> Any:
        self.bodies.append(request.body)
        return simulated(request)


class Watch:
    """A fault script that also knows which request was about which row."""

    def __init__(self, script: Callable[[Ask], Fault | None] | None) -> None:
        self.script = script
        self.row_of: dict[int, int] = {}

    def __call__(self, ask: Ask) -> Fault | None:
        found = _ROW.search(ask.text)
        if found:
            self.row_of[ask.index] = int(found.group(1))
        return None if self.script is None else self.script(ask)


def quiet(sandbox: Sandbox) -> list[RequestRecord]:
    """The log once nothing is under way any more: a record is written when its request has ended."""
    ends = time.monotonic() + 5
    while sandbox.in_flight and time.monotonic() < ends:
        time.sleep(0.005)
    assert not sandbox.in_flight, "a request was never ended"
    return sorted(sandbox.log.snapshot(), key=lambda record: record.index)


def is_try(record: RequestRecord) -> bool:
    """Whether a request counts as a try: the server did more than refuse it."""
    return record.status not in (429, 503) and record.fault not in REFUSALS


# ------------------------------------------------------------------------------------ one question


@dataclass
class Outcome:
    """What became of one question."""

    answer: Answer | None
    error: BaseException | None
    events: list[CallEvent]
    log: list[RequestRecord]
    bodies: list[dict[str, Any]]
    """What the server was asked, in order; refused requests are not among them."""
    kept: dict[str, Answer]
    budget: Budget
    took_s: float
    shown: list[Any] = field(default_factory=list)

    @property
    def waits(self) -> list[CallEvent]:
        """The events that say why it waits."""
        return [event for event in self.events if event.kind == "waiting"]

    @property
    def text(self) -> str:
        """The text of its answer."""
        assert self.answer is not None, self.error
        return self.answer.text


class Talk:
    """Puts one question to a sandbox through the real client, and checks the pass rule each time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.heard = Heard()
        self.sandbox = Sandbox(balance_usd="10.00", count="estimate", time_scale=100, engine=self.heard)
        self._asked = 0

    def ask(
        self,
        *faults: Fault | str | None,
        prompt: Any = QUESTION,
        limits: Limits | None = None,
        settings: dict[str, Any] | None = None,
        cancel_after_s: float | None = None,
        sandbox: Sandbox | None = None,
        **options: Any,
    ) -> Outcome:
        """Ask once, with these faults played in order; ``always=fault`` plays one for ever."""
        server = sandbox or self.sandbox
        if (always := options.pop("always", None)) is not None:
            server.faults = FaultScript.always(always)
        else:
            server.faults = FaultScript.of(*faults)
        return asyncio.run(self._ask(server, prompt, limits, settings or {}, cancel_after_s, options))

    async def _ask(
        self,
        server: Sandbox,
        prompt: Any,
        limits: Limits | None,
        settings: dict[str, Any],
        cancel_after_s: float | None,
        options: dict[str, Any],
    ) -> Outcome:
        self._asked += 1
        given = {
            "base_url": server.base_url,
            "api_key": server.api_key,
            "data_dir": self.folder / f"talk-{self._asked}",
            "thinking": False,
        }
        events: list[CallEvent] = []
        shown: list[Any] = []
        before, heard_before = len(quiet(server)), len(self.heard.bodies)
        async with AsyncClient(**(given | settings)) as client:
            errand = client.prepare(
                prompt,
                **({"policy": QUICK, "on_event": events.append, "on_delta": shown.append} | options),
            )
            if limits is not None:
                errand = replace(errand, limits=limits)
            started = time.monotonic()
            task = asyncio.create_task(client.take(errand))
            if cancel_after_s is not None:
                while not task.done() and not server.in_flight and len(server.log) == before:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)  # until the server, in its own thread, has it
                await asyncio.sleep(cancel_after_s)
                started = time.monotonic()
                task.cancel()
            done = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 30)
            took_s = time.monotonic() - started
            admission = client.road.upstream("").gate(errand.request.model).admission
            assert (admission.held, admission.passing, admission.waiting) == (0, 0, 0), "a place was not left"
            assert client.store is not None
            kept = {key: Answer.from_json(client.store.get(key) or {}) for key in list(client.store.keys())}
            outcome = Outcome(
                done[0] if isinstance(done[0], Answer) else None,
                None if isinstance(done[0], Answer) else done[0],
                events,
                quiet(server)[before:],
                self.heard.bodies[heard_before:],
                kept,
                client.budget,
                took_s,
                shown,
            )
        self.hold_the_rule(outcome, errand.policy, server)
        return outcome

    @staticmethod
    def hold_the_rule(outcome: Outcome, policy: RetryPolicy, server: Sandbox) -> None:
        """The pass rule, for one question."""
        assert server.log.answered_twice() == {}
        usable = [record.index for record in outcome.log if record.usable]
        assert not usable or outcome.log[-1].index == usable[0], "sent again after a complete answer"
        tries = sum(map(is_try, outcome.log))
        assert tries <= 1 + policy.max_faults + policy.max_repairs
        whole = {key: kept for key, kept in outcome.kept.items() if "~" not in key}
        if outcome.answer is None:
            assert whole == {}, "something was kept as the answer of a question that has none"
        else:
            assert [kept.text for kept in whole.values()] == [outcome.answer.text]
            assert outcome.answer.attempts == tries
        assert outcome.budget.reserved_usd == 0
        if outcome.error is not None and not isinstance(outcome.error, asyncio.CancelledError):
            assert isinstance(outcome.error, DeepSeekError), repr(outcome.error)
            assert len(outcome.error._render_traceback_()) <= 5


@pytest.fixture
def talk(tmp_path):
    """One question at a time; the server's waits pass a hundred times faster."""
    made = Talk(tmp_path)
    with made.sandbox:
        yield made


# -------------------------------------------------------------------------------------------- jobs


class Work:
    """Jobs over a frame of tickets against one sandbox, and the pass rule checked on frame and log."""

    def __init__(self, folder: Path, rows: int = 30, **server: Any) -> None:
        self.folder = folder
        self.rows = rows
        self.heard = Heard()
        options = {"balance_usd": "10.00", "count": "estimate", "time_scale": 100, "engine": self.heard}
        self.sandbox = Sandbox(**(options | server))
        self.watch = Watch(None)
        self.error: DeepSeekError | None = None
        """Why the last run stopped; None where it did not."""
        self.told: list[str] = []
        self.frame = pd.DataFrame(
            {"text": [f"ticket {n}: my {KINDS[n % 3]} is lost" for n in range(rows)]},
            index=[f"t{n}" for n in range(rows)],
        )

    def misbehave(self, script: Callable[[Ask], Fault | None] | Fault | str | None) -> None:
        """Set the rule of the next requests; a single fault is played for ever."""
        if isinstance(script, (Fault, str)):
            script = FaultScript.always(script)
        self.watch.script = script
        self.sandbox.faults = self.watch

    def client(self, **settings: Any) -> Client:
        """A client of the sandbox, with its files in this job's folder."""
        given = {
            "base_url": self.sandbox.base_url,
            "api_key": self.sandbox.api_key,
            "data_dir": self.folder,
            "silence_timeout_s": 1,
            "token_timeout_s": 1,
        }
        return Client(**(given | settings))

    def run(self, client: Client, *, rows: int | None = None, **options: Any) -> pd.DataFrame:
        """``df.deepseek.apply`` over the tickets; where the job stops, its frame, and why in ``error``."""
        given = {"schema": Ticket, "job": "tickets", "progress": False}
        if self.sandbox.faults is not self.watch:
            self.misbehave(None)
        try:
            out = apply(
                self.frame.head(rows or self.rows), "Sort: {{text}}", client=client, **(given | options)
            )
            self.error = None
        except DeepSeekError as error:
            out, self.error = error.frame, error  # type: ignore[attr-defined]
            shown = error._render_traceback_()
            self.told.append("\n".join(shown))
        assert all(told.count("\n") < 5 for told in self.told)
        self.hold_the_rule(out, client.settings.max_faults, client.settings.max_repairs)
        return out

    def run_to_the_end(self, client: Client, *, most: int = 40, **options: Any) -> pd.DataFrame:
        """The same call again and again, as a user would after each stop, until nothing is pending."""
        for _ in range(most):
            out = self.run(client, **options)
            if self.error is None:
                break
        assert not (out["status"] == "pending").any(), self.error
        return out

    def by_row(self) -> dict[int, list[RequestRecord]]:
        """The requests about each row, in order of arrival."""
        found: dict[int, list[RequestRecord]] = defaultdict(list)
        for record in quiet(self.sandbox):
            if record.index in self.watch.row_of:
                found[self.watch.row_of[record.index]].append(record)
        return found

    def hold_the_rule(self, out: pd.DataFrame, max_faults: int = 8, max_repairs: int = 2) -> None:
        """The pass rule: one state each, nothing sent after a whole answer, nothing partial, few tries."""
        assert set(out["status"]) <= {"done", "failed", "pending"}
        done, failed = out["status"] == "done", out["status"] == "failed"
        assert (out["label"].notna() == done).all(), (
            "an answer where there is none, or none where there is one"
        )
        assert (out["error"].notna() == failed).all()
        numbers = [int(name.removeprefix("t")) for name in out.index]
        expected = [KINDS[n % 3] for n in numbers]
        assert [a for a, ok in zip(out["label"], done, strict=True) if ok] == [
            e for e, ok in zip(expected, done, strict=True) if ok
        ]
        by_row = self.by_row()
        for number, status in zip(numbers, out["status"], strict=True):
            records = by_row.get(number, [])
            usable = [place for place, record in enumerate(records) if record.usable]
            told = [(r.index, r.status, r.fault, r.usable, r.arrived_s, r.ended_s) for r in records]
            assert not usable or usable[0] == len(records) - 1, f"row {number} after its answer: {told}"
            if usable:
                assert status == "done", f"row {number} was answered and is {status}"
            if status == "done" and not usable:  # the client may use what the sandbox calls spoiled
                assert records[-1].complete
                assert FAULTS[records[-1].fault or ""].charged == "full"
        self.most_tries = max((sum(map(is_try, r)) for r in by_row.values()), default=0)


# ----------------------------------------------------------------------- jobs that can be interrupted


class AsyncWork(Work):
    """The same job in this event loop, to be stopped or cancelled at any moment, with short waits."""

    async def go(
        self, *, stop_after_s: float | None = None, cancel_after_s: float | None = None, **settings: Any
    ) -> tuple[float, DeepSeekError | None]:
        """Run to the end or the interrupt; gives how long the end took, and what stopped the job."""
        given = {
            "base_url": self.sandbox.base_url,
            "api_key": self.sandbox.api_key,
            "data_dir": self.folder,
            "concurrency_max": 8,
        }
        if self.sandbox.faults is not self.watch:
            self.misbehave(None)
        shape = Schema.of(Ticket)
        rows = read_rows(self.frame, "Sort: {{text}}", layout="auto")
        spec, prompts = JobSpec("Sort: {{text}}", shape, form=rows.form), rows.prompts
        limits = Limits(silence_s=0.8, first_token_s=1.6, token_s=0.8, total_s=3.0)
        async with AsyncClient(**(given | settings)) as client:
            usual = spec.errands(client, user_id="job", budget=Budget(None, name="job"))

            def errand(prompt: str, on_event: Any = None) -> Any:
                return replace(usual(prompt, on_event), policy=replace(QUICK, patience_s=None), limits=limits)

            keys = [errand(prompt).key for prompt in prompts]
            with Journal(self.folder / "jobs.db") as journal:
                journal.open_job(
                    "tickets",
                    spec.digest(client),
                    spec.meta(client),
                    zip(keys, prompts, [2] * len(keys), strict=True),
                )
                states = {row.key: row.state for row in journal.rows("tickets")}
                pending = [key for key in keys if states[key] not in ("d", "f")]
                run = JobRun(
                    client,
                    journal,
                    "tickets",
                    pending,
                    errand,
                    Progress(total=len(keys), done=len(keys) - len(pending)),
                    patience_s=30,
                    check=shape.parse,
                )
                started = time.monotonic()
                task = asyncio.create_task(run.run())
                after_s = stop_after_s if stop_after_s is not None else cancel_after_s
                if after_s is not None:
                    await asyncio.wait({task}, timeout=after_s)
                    started = time.monotonic()
                    if stop_after_s is not None:
                        run.stop()
                    else:
                        task.cancel()
                (ended,) = await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 60)
                took_s = time.monotonic() - started
                if ended is not None and not isinstance(ended, asyncio.CancelledError):
                    raise ended
                self.states = {
                    number: {"d": "done", "f": "failed", "q": "pending"}.get(row.state, "leased")
                    for number, row in zip(range(self.rows), self._in_order(journal, keys), strict=True)
                }
        return took_s, run.stopped_by

    @staticmethod
    def _in_order(journal: Journal, keys: list[str]) -> list[Any]:
        found = {row.key: row for row in journal.rows("tickets")}
        assert set(found) == set(keys)
        return [found[key] for key in keys]

    def count(self, state: str) -> int:
        """How many rows are in a state."""
        return sum(each == state for each in self.states.values())


# ------------------------------------------------------------------------------------------- makers


def _maker(kind: type[Work], folder: Path) -> Any:
    made: list[Work] = []

    def start(**options: Any) -> Work:
        made.append(kind(folder / f"work-{len(made)}", **options))
        made[-1].folder.mkdir(parents=True)
        made[-1].sandbox.start()
        return made[-1]

    yield start
    for each in made:
        each.sandbox.stop()


@pytest.fixture
def work(tmp_path):
    """Makes :class:`Work` and starts its sandbox: ``work(rows=100, first_token_s=10)``."""
    yield from _maker(Work, tmp_path)


@pytest.fixture
def make_async(tmp_path):
    """Makes :class:`AsyncWork` and starts its sandbox."""
    yield from _maker(AsyncWork, tmp_path)
