"""Job: a handle on rows that are asked in the background; the cell that began it has long returned."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
import time
import weakref
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from deepseek_nb.adapters.journal import ItemRow, Journal
from deepseek_nb.batch.chart import Theme
from deepseek_nb.batch.figures import markdown_of, text_of
from deepseek_nb.batch.frames_io import FrameForm
from deepseek_nb.batch.job_plot import JobPlot
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.queue_run import QueueRun
from deepseek_nb.batch.run import DRAIN_S, JobRun
from deepseek_nb.client.portal import background
from deepseek_nb.client.sync import Client
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.errors import DeepSeekError, NotReady, StoreFailed
from deepseek_nb.core.histogram import Histogram
from deepseek_nb.core.notices import warn

__all__ = ["Job", "JobIncomplete", "JobStatus", "Prepared", "StillRunning", "live_jobs"]

JobStatus = Literal["running", "paused", "cancelling", "done", "stopped", "cancelled"]

LOOK_S = 0.05
"""How often one who waits looks up. An awaiting cell notices an interrupt only when its loop wakes."""
EXIT_DRAIN_S = 1.0
"""How long requests under way may take when the process ends: a kernel is killed soon after."""
EXIT_S = 2.0

_live: list[Job] = []
_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_live.clear)  # they go on in the parent, which ends them


class JobIncomplete(UserWarning):
    """A job was ended before all rows were done: the frame has what is done, the same call goes on."""


class StillRunning(KeyboardInterrupt):
    """The wait for a job was interrupted; the job goes on. In a notebook it takes one line."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A job made ready: everything checked and written down, nothing sent."""

    name: str
    client: Client
    journal: Journal
    run: JobRun | QueueRun
    budget: Budget
    pending: bool
    """Whether anything is left to ask."""
    frame_of: Callable[[Iterable[ItemRow]], pd.DataFrame]
    """Makes the frame of the journal's rows."""
    form: FrameForm
    """How the caller gets it: as a frame of pandas or polars."""
    asked: object
    """Equal for calls that ask for the same."""
    again: Callable[[], Job]
    """The same call once more, for the rows that failed."""


class Job:
    """Rows that are asked in the background: look, wait, pause, cancel. Made by :func:`deepseek_nb.submit`.

    Every method may be called from any thread, at any time, more than once. What is done is on the
    disk: after a crash or the end of the kernel the same call goes on with the rest, and pays
    nothing twice. Dropping the handle does not stop the job; the end of the process does.

    >>> job = ds.submit(df, "Rate the risk of {{purpose}}", schema=Risk, job="risk")   # doctest: +SKIP
    >>> job.progress.done, job.cost_usd                                                # doctest: +SKIP
    >>> scored = await job                       # or job.result()                     # doctest: +SKIP
    """

    def __init__(self, prepared: Prepared) -> None:
        self.name = prepared.name
        self.client = prepared.client
        self.asked = prepared.asked
        self.blocks_a_cell = False
        """Whether the main thread waits in :meth:`result`: a notebook may then hear no clicks."""
        self._prepared = prepared
        self._guard = threading.RLock()
        self._ended = threading.Event()
        self._paused = False
        self._cancelled = False
        self._work: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._result: pd.DataFrame | None = None
        self._booked_usd = self.cost_usd
        weakref.finalize(self, prepared.journal.close)
        if prepared.pending:
            self.client.hold()
            with _lock:
                _live.append(self)
            background.start(self._life)
            _stop_jobs_at_exit()
        else:
            self._close_books()
            self._ended.set()

    # ------------------------------------------------------------------------------------- how it stands

    @property
    def status(self) -> JobStatus:
        """One word.

        "running"; "paused" (what was on the wire may still come in); "cancelling" (waits for what is
        on the wire); then for good "done" (every row is done or failed), "stopped" (``error`` says by
        what) or "cancelled".
        """
        if self._ended.is_set():
            if self.error is not None:
                return "stopped"
            return "done" if not self.progress.pending else "cancelled" if self._cancelled else "stopped"
        return "cancelling" if self._cancelled else "paused" if self._paused else "running"

    @property
    def done(self) -> bool:
        """Whether it has ended, for whatever reason."""
        return self._ended.is_set()

    @property
    def progress(self) -> Progress:
        """Its figures: they move while it runs."""
        return self._prepared.run.progress

    @property
    def error(self) -> BaseException | None:
        """What stopped it; None while it runs, and where nothing did."""
        return self._failure or self._prepared.run.stopped_by

    @property
    def cost_usd(self) -> float:
        """What it has cost, earlier runs and what was perhaps charged included."""
        return self.progress.cost_usd

    @property
    def errors(self) -> pd.DataFrame:
        """The rows that failed, on the caller's index: ``error``, ``attempts``, ``cost_usd``.

        :meth:`retry_failed` asks these rows once more, and no others. In a polars frame, ``row`` says which
        rows they are, from 0.
        """
        frame = self._pandas()
        failed = frame["status"] == "failed"
        return self._prepared.form.native(
            frame.loc[failed, ["error", "attempts", "cost_usd"]], row=np.flatnonzero(failed)
        )

    def frame(self, *, partial: bool = True) -> pd.DataFrame:
        """What there is now, as a frame: rows that are not finished have the status "pending".

        Reads the job's rows from the disk (about 1 s for 100,000), once the job has ended only the first
        time. With ``partial=False`` it raises :class:`NotReady` while the job runs.
        """
        if not self._ended.is_set() and not partial:
            raise self._not_ready()
        return self._prepared.form.native(self._pandas())

    def to_parquet(self, path: Any) -> None:
        """Write what :meth:`frame` gives now to a Parquet file, whole or not at all.

        An index other than 0, 1, 2... becomes columns in front; objects become lists and structs as far as
        the schema tells, else JSON text. Raises :class:`ConfigError`, which names the line that installs it,
        where neither polars nor pyarrow is installed.

        >>> job.to_parquet("risk.parquet")                                   # doctest: +SKIP
        """
        self._prepared.form.write_parquet(self._pandas(), path)

    def plot(self, *, theme: Theme = "light") -> JobPlot:
        """How it has gone up to now: latencies, rows a second, rows at the server and dollars over time.

        A picture in a notebook, text elsewhere; needs no plotting library. Of the run that this handle
        began, and of one size however long it takes; where every row was finished before, there are the
        latencies, read from the disk. ``theme="dark"`` is for a dark page. The figures themselves are
        ``plot().over_time`` and ``plot().latency``, two frames.

        >>> job.plot().save("risk.svg")                                      # doctest: +SKIP
        """
        kept = None if self._prepared.pending else _latencies(self._final())
        return JobPlot(self.name, self.status, self.progress, self.error, latency=kept, theme=theme)

    def wait_until_put(self) -> None:
        """Wait until the rows are in the queue, if they go into one: then they need this process no more.

        An interrupt ends the waiting, not the job.
        """
        run = self._prepared.run
        if isinstance(run, QueueRun):
            while not self._ended.is_set() and not run.put.wait(LOOK_S):
                pass

    def _pandas(self) -> pd.DataFrame:
        return self._final() if self._ended.is_set() else self._build()

    # ------------------------------------------------------------------------------------- what to do with it

    def pause(self) -> None:
        """Send nothing new until :meth:`resume`; what is on the wire comes in. Returns at once.

        The time does not count as patience. Nothing is paid twice.
        """
        self._hold(paused=True)

    def resume(self) -> None:
        """Go on after :meth:`pause`."""
        self._hold(paused=False)

    def _hold(self, *, paused: bool) -> None:
        with self._guard:  # the loop is told in the order in which it was wished for
            if self._ended.is_set() or self._cancelled:
                return
            self._paused = paused
            run = self._prepared.run
            background.call_soon(run.pause if paused else run.resume)

    def cancel(self, *, drain_s: float = DRAIN_S) -> None:
        """End it: nothing more is sent, what is on the wire may finish for ``drain_s`` seconds.

        Returns at once. All that is done is kept, and the same call goes on with the rest. Called again
        with a shorter ``drain_s`` it hangs up sooner; what is cut off may be charged.
        """
        self._end(self._prepared.run.stop, drain_s)

    def leave(self, *, drain_s: float = DRAIN_S) -> None:
        """Stop looking at it: a job in a queue (``queue=``) goes on there, any other is cancelled.

        Returns at once. The same call looks on again.
        """
        self._end(self._prepared.run.leave, drain_s)

    def _end(self, end: Callable[[], None], drain_s: float) -> None:
        with self._guard:
            if self._ended.is_set():
                return
            self._cancelled = True
            background.call_soon(self._stop, end, drain_s)

    def _stop(self, end: Callable[[], None], drain_s: float) -> None:
        """In the background loop."""
        end()
        run = self._prepared.run
        if isinstance(run, QueueRun) and end == run.stop:
            run.hurry(drain_s)  # it takes its rows back first
            return
        if self._work is not None and drain_s < DRAIN_S:
            asyncio.get_running_loop().call_later(drain_s, self._work.cancel)

    def retry_failed(self) -> Job:
        """Ask the rows that failed once more, in the background; gives the handle of that run.

        It is the same call with ``retry_failed=True``: the frame is read again as it is now, and what is done
        is not asked again. Raises :class:`NotReady` while the job runs. Costs one request for each such row.

        >>> scored = job.retry_failed().result()                             # doctest: +SKIP
        """
        if not self._ended.is_set():
            raise self._not_ready()
        return self._prepared.again()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it has ended, at most ``timeout_s`` seconds; whether it has."""
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._ended.is_set():
            left_s = LOOK_S if end_s is None else end_s - time.monotonic()
            if left_s <= 0:
                break
            self._ended.wait(min(left_s, LOOK_S))  # on Windows a longer wait cannot be interrupted
        return self._ended.is_set()

    def result(self, timeout_s: float | None = None) -> pd.DataFrame:
        """Wait for the end and give the frame, as :func:`deepseek_nb.apply` does.

        Raises what stopped the job, with what there is in ``error.frame``, or :class:`NotReady`
        (a TimeoutError) after ``timeout_s`` seconds. A cancelled job gives what there is, with a
        :class:`JobIncomplete` warning. An interrupt ends the waiting, not the job. The cell blocks
        meanwhile: ``await job`` lets buttons and other tasks work.
        """
        main = threading.current_thread() is threading.main_thread()
        try:
            if main:
                self.blocks_a_cell = True
            ended = self.wait(timeout_s)
        except KeyboardInterrupt:
            raise StillRunning(self._goes_on()) from None
        finally:
            if main:
                self.blocks_a_cell = False
        if not ended:
            raise self._not_ready()
        return self._outcome()

    def __await__(self) -> Generator[Any, None, pd.DataFrame]:
        """As :meth:`result`, but the loop goes on meanwhile. Who stops waiting does not stop the job."""
        return self._outcome_async().__await__()

    async def _outcome_async(self) -> pd.DataFrame:
        try:
            while not self._ended.is_set():  # noqa: ASYNC110 (it is the ticker that lets an interrupt in)
                await asyncio.sleep(LOOK_S)
            if self._result is None:
                await asyncio.to_thread(self._final)
        except asyncio.CancelledError as gone:
            line = f"StillRunning: {self._goes_on()}"
            gone._render_traceback_ = lambda: [line]  # type: ignore[attr-defined]
            raise
        return self._outcome()

    # ------------------------------------------------------------------------------------- the inside

    async def _life(self) -> None:
        """From the first row to the closed books, in the background loop."""
        try:
            self._work = asyncio.create_task(self._prepared.run.run())
            await asyncio.wait({self._work})
            if not self._work.cancelled():
                self._failure = self._work.exception()
            await asyncio.to_thread(self._close_books)
        except BaseException as error:
            self._failure = self._failure or error
            raise
        finally:
            self._ended.set()
            with _lock:
                _live.remove(self)
            if self.client.let_go():
                await self.client.aio.aclose()

    def _close_books(self) -> None:
        """Write down what cut-off requests may have cost, give back what is set aside, say how it stands."""
        prepared, figures, stopped_by = self._prepared, self.progress, self._prepared.run.stopped_by
        name, journal = prepared.name, prepared.journal
        shares = prepared.pending and prepared.budget.limit_usd is not None
        if self._failure is not None:
            if shares:  # requests may be under way: what is set aside for them may be spent
                with suppress(StoreFailed):
                    journal.return_share(name, unknown=True)
            return
        try:
            lost_usd = self.cost_usd - self._booked_usd - figures.spent_usd
            if lost_usd > 1e-12:  # requests that were cut off: perhaps charged
                with _unless_stopped_by(stopped_by):
                    journal.add_spend(name, 0.0, unknown_usd=lost_usd)
                figures.spent_usd += lost_usd
            if shares:
                with _unless_stopped_by(stopped_by):
                    journal.return_share(name)
            with _unless_stopped_by(stopped_by):
                journal.set_state(name, "paused" if figures.pending else "done")
        except StoreFailed as error:
            self._failure = error

    def _build(self) -> pd.DataFrame:
        frame = self._prepared.frame_of(self._prepared.run.ledger())
        frame.attrs["deepseek_nb"] = self._about() | frame.attrs
        return frame

    def _final(self) -> pd.DataFrame:
        """The frame of a job that has ended, a copy that costs nothing until it is changed."""
        with self._guard:
            if self._result is None:
                self._result = self._build()
                stopped_by = self._prepared.run.stopped_by
                if stopped_by is None and not self._cancelled and _pending(self._result):
                    self._prepared.journal.check()  # nothing stopped it: the ledger has lost sight of rows
                self._prepared.journal.close()
                if stopped_by is not None:
                    _tell_how_far(stopped_by, self.progress, len(self._prepared.run.unsaved))
                    shown = self._prepared.form.native(self._result.copy(deep=False))
                    stopped_by.frame = shown  # type: ignore[attr-defined]
            return self._result.copy(deep=False)

    def warn_if_needed(self) -> None:
        """Say once, in the calling thread, that 80% of the job's budget, or of one around it, is spent.

        Also that Redis is gone, or is back.
        """
        self.client.aio.warn_if_needed(self._prepared.budget)

    def _outcome(self) -> pd.DataFrame:
        self.warn_if_needed()
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        result = self._final()
        if self._prepared.run.stopped_by is not None:
            raise self._prepared.run.stopped_by.with_traceback(None)
        if self._cancelled and self.progress.pending:
            warn(f"Cancelled: {self._so_far()}", JobIncomplete)
        return self._prepared.form.native(result)

    def _so_far(self) -> str:
        figures = self.progress
        return (
            f"{figures.finished:,} of {figures.total:,} distinct rows are finished and saved. "
            "Run the same call to go on."
        )

    def _goes_on(self) -> str:
        figures = self.progress
        return (
            f"the job {self.name!r} goes on ({figures.finished:,} of {figures.total:,} rows); "
            "job.cancel() ends it."
        )

    def _not_ready(self) -> NotReady:
        figures = self.progress
        return NotReady(
            f"The job {self.name!r} is {self.status}: "
            f"{figures.finished:,} of {figures.total:,} rows are finished."
        )

    def _about(self) -> dict[str, Any]:
        figures, kept = self.progress, self._prepared.journal.job(self.name)
        return {
            "job": self.name,
            "distinct_rows": figures.total,
            "done": figures.done,
            "failed": figures.failed,
            "pending": figures.pending,
            "requests": figures.requests,
            "refusals": figures.refusals,
            "faults": dict(figures.faults),
            "from_store": figures.from_store,
            "already_done": figures.already,
            "run_cost_usd": figures.spent_usd,
            "job_cost_usd": (kept.spent_usd + kept.unknown_usd) if kept else 0.0,
        }

    # ------------------------------------------------------------------------------------- how it looks

    def __repr__(self) -> str:
        return f"<Job {self.name!r}: {text_of(self.status, self.progress, self.error)[0]}>"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002
        """How it stands now, as text. In a notebook its panel is shown, which says the same."""
        status, figures, error = self.status, self.progress, self.error
        return {
            "text/plain": "\n".join([f"Job {self.name!r}", *text_of(status, figures, error)]),
            "text/markdown": markdown_of(self.name, status, figures, error),
        }


def _latencies(frame: pd.DataFrame) -> Histogram:
    """Those of the answers in a job's frame, rows that share one with an earlier row left out."""
    latency = Histogram()
    asked = (frame["status"] == "done") & ~frame["cached"].fillna(value=True).astype(bool)
    for latency_s in frame.loc[asked, "latency_s"]:
        latency.add(latency_s)
    return latency


def live_jobs() -> list[Job]:
    """The jobs of this process that have not ended, in the order in which they were begun."""
    with _lock:
        return list(_live)


def _pending(frame: pd.DataFrame) -> bool:
    """Whether a row has no end yet; not to be seen in a shard's frame, which has no ``status``."""
    return "status" in frame and bool((frame["status"] == "pending").any())


def _tell_how_far(error: DeepSeekError, figures: Progress, unsaved: int) -> None:
    finished = (
        f"{figures.finished:,} of {figures.total:,} distinct rows are finished and saved (error.frame)."
    )
    if unsaved:
        finished += f" {unsaved:,} more came in and are in error.frame only: keep it, or they are paid again."
    error.message = f"{error.message} {finished}"
    error.args = (error.message,)


def _unless_stopped_by(error: DeepSeekError | None) -> AbstractContextManager[None]:
    """Where the disk stopped the job, its last notes may fail too: the frame is handed over all the same."""
    return suppress(StoreFailed) if isinstance(error, StoreFailed) else nullcontext()


_watched = False


def _stop_jobs_at_exit() -> None:
    """See to it that the end of the process ends the jobs first, while threads still take work."""
    global _watched
    with _lock:
        if not _watched:
            _watched = True
            # atexit's own functions run when the thread pools are closed already
            getattr(threading, "_register_atexit", atexit.register)(_stop_jobs)


def _stop_jobs() -> None:
    """Cancel what runs. What is on the disk stays there: the same call goes on in the next process."""
    jobs = live_jobs()
    for job in jobs:
        job.leave(drain_s=EXIT_DRAIN_S)
    end_s = time.monotonic() + EXIT_S
    for job in jobs:
        job.wait(max(0.0, end_s - time.monotonic()))
