"""The panel of a job: how it stands, and the buttons Pause, Resume and Cancel.

It shows where a job is the last line of a cell, or by ``display(job)``. A thread of the panel writes what
has changed twice a second; clicks may come in any thread. When the job has ended, its final figures as
text stand in the panel's place.
"""

from __future__ import annotations

import html
import threading
import time
from contextlib import suppress

import ipywidgets

from deepseek_nb.batch.figures import figures_of, headline, trouble
from deepseek_nb.batch.job import Job
from deepseek_nb.notebook.display import show
from deepseek_nb.notebook.panel import Panel, Ticker, Twin, announce, assign, has_widgets, live_region

__all__ = ["JobPanel", "show_job"]

PERIOD_S = 0.5
READ_OUT_S = 1.5
"""How long the panel stays after the end, so that a screen reader can read its last words."""
INSTEAD = "Where no buttons show, use `job.pause()`, `job.resume()` and `job.cancel()`; `job` shows it anew."
BLOCKED = (
    "A cell waits in job.result(), and may hold the buttons back: use the kernel's stop button, which ends "
    "the waiting and not the job. With <code>await job</code>, or <code>job</code> in a cell of its own, "
    "they always work."
)
BAR_STYLES = {"paused": "warning", "cancelling": "warning", "stopped": "danger", "done": "success"}
PLOT_WIDTH, PLOT_HEIGHT = 240, 40


def show_job(job: Job) -> None:
    """Show ``job`` in the cell that runs: its panel while it runs, its figures as text afterwards.

    With ``DEEPSEEK_NB_STREAM=0``, as in tests of notebooks, they are text at once. Main thread only.
    """
    if job.done or not job.client.settings.stream_display:
        show(_twin_of(job).bundle)
    elif not has_widgets():
        show(_twin_of(job).with_note(INSTEAD.replace("`", "")).bundle)
    else:
        JobPanel(job).show()


def _twin_of(job: Job) -> Twin:
    bundle = job._repr_mimebundle_()
    return Twin(bundle["text/markdown"], bundle["text/plain"])


class JobPanel:
    """The panel that :func:`show_job` shows."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._lock = threading.RLock()
        self._ended_s: float | None = None
        line = {"margin": "0"}
        self._bar = ipywidgets.IntProgress(
            max=max(1, job.progress.total),
            description="Rows",
            tooltip="Rows that are finished",
            layout={"width": "auto"},
        )
        self._figures = ipywidgets.HTML(layout=line)
        self._note = ipywidgets.HTML(layout=line)
        self._region = live_region()
        self._pause = ipywidgets.Button(
            description="Pause", tooltip="Send nothing new until Resume; nothing is paid twice"
        )
        self._cancel = ipywidgets.Button(
            description="Cancel",
            tooltip="End the job; what is done is kept, the same call goes on with the rest",
        )
        self._pause.on_click(lambda _: self._on_pause())
        self._cancel.on_click(lambda _: self._on_cancel())
        row = {"align_items": "center", "grid_gap": "16px", "flex_flow": "row wrap"}
        box = ipywidgets.VBox(
            [
                self._figures,
                self._bar,
                ipywidgets.HBox([self._pause, self._cancel, self._region], layout=row),
                self._note,
            ],
            layout={"max_width": "900px"},
        )
        self._panel = Panel(
            box,
            lambda: _twin_of(job),
            title=f"Job “{job.name}”",
            instead=INSTEAD,
            key=f"job {id(job)}",
        )
        self._ticker = Ticker(self._tick, failed=self._failed, period_s=PERIOD_S)

    def show(self) -> None:
        """Show it in the cell that runs. Main thread only."""
        self._refresh()
        if self._panel.show():
            self._ticker.start()

    # -- clicks: in the main thread, or in a subshell's

    def _on_pause(self) -> None:
        if self.job.status == "paused":
            self.job.resume()
        else:
            self.job.pause()
        self._refresh()

    def _on_cancel(self) -> None:
        self.job.cancel()
        self._refresh()

    # -- the panel's own thread

    def _tick(self) -> None:
        if not self._panel.live:  # shown anew elsewhere
            self._ticker.stop()
            return
        self._refresh()
        if not self.job.done:
            return
        if self._ended_s is None:
            self._ended_s = time.monotonic()
            announce(self._region, f"Job {self.job.name}: {self._told()}.")
        elif time.monotonic() - self._ended_s >= READ_OUT_S:
            self._ticker.stop()
            self._panel.end()

    def _failed(self, _: Exception) -> None:
        with suppress(Exception):  # the browser is gone, or the kernel ends: there is nobody to tell
            self._panel.end()

    def _told(self) -> str:
        return headline(self.job.status, self.job.progress, self.job.error)

    def _refresh(self) -> None:
        """Bring all of it up to date; only what has changed is sent."""
        job, status, figures = self.job, self.job.status, self.job.progress
        rows = {state: f"{number:,}" for state, number in figures.states.items()}
        table = _table({**rows, **figures_of(status, figures)})
        told = f"<strong>Job “{html.escape(job.name)}”</strong>: {html.escape(self._told())}"
        if waits := trouble(status, figures):
            told += f"<br>{html.escape(waits)}"
        with self._lock:
            # in one: each widget that changes is a message of its own
            assign(self._figures, value=told + table + _plot(figures.pace.points))
            assign(self._bar, value=figures.finished, bar_style=BAR_STYLES.get(status, ""))
            assign(self._note, value=BLOCKED if job.blocks_a_cell and not job.done else "")
            assign(
                self._pause,
                description="Resume" if status == "paused" else "Pause",
                disabled=status not in ("running", "paused"),
            )
            assign(self._cancel, disabled=status not in ("running", "paused"))


def _table(told: dict[str, str]) -> str:
    """The figures in rows of five."""
    cells = [
        f"<td style='padding:0 12px 0 0'>{html.escape(name)}<br><strong>{html.escape(value)}</strong></td>"
        for name, value in told.items()
    ]
    rows = [f"<tr>{''.join(cells[first : first + 5])}</tr>" for first in range(0, len(cells), 5)]
    return f"<table aria-label='Figures of the job'>{''.join(rows)}</table>"


def _plot(points: list[tuple[float, float]]) -> str:
    """Rows a second over the time of work, as a line."""
    if len(points) < 2:
        return ""
    begin_s, end_s = points[0][0], points[-1][0]
    most = max(rate for _, rate in points) or 1.0
    line = " ".join(
        f"{PLOT_WIDTH * (at_s - begin_s) / (end_s - begin_s):.0f},{PLOT_HEIGHT * (1 - rate / most) + 1:.1f}"
        for at_s, rate in points
    )
    told = f"Rows a second over time, at most {most:,.1f}"
    return (
        f"<svg role='img' aria-label='{told}' width='{PLOT_WIDTH}' height='{PLOT_HEIGHT + 2}'>"
        f"<title>{told}</title><polyline points='{line}' fill='none' stroke='currentColor'/></svg>"
        f"<div style='opacity: 0.7; line-height: 1.4'>{told}</div>"
    )
