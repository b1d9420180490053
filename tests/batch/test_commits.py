"""An answer goes to the store and to the ledger at the same time, and whoever leaves waits for both."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path

import pytest

from deepseek_nb.adapters.journal import Journal
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.run import JobRun
from deepseek_nb.batch.spec import JobSpec
from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.core.errors import StoreFailed
from deepseek_nb.sandbox import Sandbox

PROMPT = "Rate ticket 1"


@pytest.fixture
def slow():
    """A server whose answers take long enough to lock a file meanwhile."""
    with Sandbox(count="estimate", first_token_s=0.3) as running:
        yield running


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else can write into that file."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")


@asynccontextmanager
async def one_row(server: Sandbox, folder: Path) -> AsyncIterator[tuple[JobRun, Journal]]:
    """The run of a job of one row, not yet begun."""
    settings = {"base_url": server.base_url, "api_key": server.api_key, "data_dir": folder}
    async with AsyncClient(**settings) as client:
        with Journal(folder) as journal:
            make = JobSpec("Rate {{n}}", None).errands(client, user_id="u")
            key = make(PROMPT, None).key
            journal.open_job("j", "d", {}, [(key, PROMPT, 2)])
            yield JobRun(client, journal, "j", [key], make, Progress(total=1), patience_s=60), journal


async def until(what) -> None:
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 (a file and a server have no events)
            await asyncio.sleep(0.01)


def test_the_ledger_does_not_wait_for_the_store(slow, tmp_path):
    """While somebody else holds the store's file, the ledger has the answer already; the row ends later."""

    async def work() -> None:
        async with one_row(slow, tmp_path) as (run, journal):
            working = asyncio.create_task(run.run())
            await until(lambda: slow.in_flight)
            with locked(tmp_path / "answers.db"):
                await until(lambda: journal.counts("j")["d"] == 1)
                assert run.progress.done == 0, "it is done when both have it"
            await working
            assert run.progress.done == 1
            assert run.client.store is not None
            assert await run.client.store.aget(next(journal.rows("j")).key) is not None

    asyncio.run(work())


def test_a_run_that_is_cancelled_waits_for_the_ledger(slow, tmp_path):
    """Its answer is paid for: the ledger has it and its price when the run has ended."""

    async def work() -> None:
        async with one_row(slow, tmp_path) as (run, journal):
            working = asyncio.create_task(run.run())
            await until(lambda: slow.in_flight)
            assert run.client.store is not None
            with locked(tmp_path / "jobs.db"):
                await until(lambda: run.client.store.holds(next(iter(run.ledger())).key))
                working.cancel()
                await asyncio.sleep(0.2)
                assert not working.done()
            with pytest.raises(asyncio.CancelledError):
                await working
            assert run.progress.done == 1
            assert journal.counts("j")["d"] == 1
            assert journal.job("j").spent_usd == pytest.approx(slow.log.cost_usd)

    asyncio.run(work())
    assert len(slow.log.complete) == 1


def test_a_run_that_is_cancelled_keeps_what_the_ledger_could_not_take(slow, tmp_path):
    """Somebody holds the ledger for too long: the answer is at hand, and the run ends as cancelled."""

    async def work() -> None:
        async with one_row(slow, tmp_path) as (run, journal):
            journal._database._writing().execute("PRAGMA busy_timeout=300")
            working = asyncio.create_task(run.run())
            await until(lambda: slow.in_flight)
            key = next(iter(run.ledger())).key
            with locked(tmp_path / "jobs.db"):
                await until(lambda: run.client.store.holds(key))
                working.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await working
            assert isinstance(run.stopped_by, StoreFailed)
            assert list(run.unsaved) == [key]
            assert [row.state for row in run.ledger()] == ["d"]
            assert run.progress.done == 0

    asyncio.run(work())
    assert len(slow.log.complete) == 1
