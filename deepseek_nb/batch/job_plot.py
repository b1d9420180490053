"""JobPlot: how a job went in four small plots (latency, throughput, concurrency, spend), and as text."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd

from deepseek_nb.batch.chart import THEMES, Anchor, Panel, Theme, chart
from deepseek_nb.batch.figures import GOING, headline, sparkline
from deepseek_nb.batch.history import Sample
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.ticks import amounts, counts, durations, logarithmic, rates, seconds
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.histogram import Histogram

__all__ = ["JobPlot"]

MOST_STEPS = 60
"""Of the curve of throughput: finer than that, it is noise."""
MOST_BARS = 36
IN_REACH = 2.5
"""A budget, or a limit of the server, is drawn up to so many times the highest value."""

_COLUMNS = ("from_s", "to_s", "rows", "rows_per_s", "in_flight", "server_limit", "cost_usd", "paused_s")


class JobPlot:
    """How a job went up to the moment when this was made; made by :meth:`deepseek_nb.Job.plot`.

    In a notebook it shows as a picture, elsewhere as text (``print(job.plot())``). :meth:`save` writes the
    picture to a file. The figures in it are two frames, for a plot of one's own: ``over_time`` (``from_s``,
    ``to_s``, ``rows``, ``rows_per_s``, ``in_flight``, ``server_limit``, ``cost_usd``, ``paused_s``) and
    ``latency`` (``from_s``, ``to_s``, ``answers``).
    """

    def __init__(
        self,
        name: str,
        status: str,
        figures: Progress,
        error: BaseException | None = None,
        *,
        latency: Histogram | None = None,
        theme: Theme = "light",
    ) -> None:
        if theme not in THEMES:
            raise ConfigError(f"theme= is 'light' or 'dark', not {theme!r}.")
        self._theme = theme
        self._title = f"Job “{name}”"
        self._told = headline(status, figures, error).partition(": job.result()")[0]
        if figures.elapsed_s:
            self._told += f", after {seconds(figures.elapsed_s)}"
        samples = _samples(figures)
        latencies = figures.latency if latency is None else latency
        bars = _bars(latencies)
        self.over_time = _frame(samples)
        """What happened between one sample of the run and the next."""
        self.latency = pd.DataFrame(bars, columns=["from_s", "to_s", "answers"])
        """How many answers took from ``from_s`` to ``to_s`` seconds."""
        nothing = _why_nothing(status, figures) if len(samples) < 2 else ""
        self._panels = (
            Panel("Latency", "", empty=nothing)
            if not figures.total
            else _latency(latencies, bars, status, of_run=latency is None),
            Panel("Throughput", "", empty=nothing) if nothing else _throughput(samples),
            Panel("Concurrency", "", empty=nothing) if nothing else _concurrency(samples),
            Panel("Spend", f"${figures.cost_usd:,.6f}" if figures.cost_usd else "", empty=nothing)
            if nothing
            else _spend(samples, figures),
        )
        self._courses = () if nothing else (_steps(samples), _in_flight(samples), _cost(samples))

    @property
    def svg(self) -> str:
        """The picture, a whole SVG file."""
        return chart(self._title, self._told, self._panels, theme=self._theme)

    def save(self, path: Any) -> None:
        """Write the picture to an ``.svg`` file; one that is there is replaced in one step.

        Raises :class:`ConfigError` for another ending, and where it cannot be written.

        >>> job.plot().save("risk.svg")                                      # doctest: +SKIP
        """
        path = Path(path)
        if path.suffix.lower() != ".svg":
            raise ConfigError(
                f"{path.name!r} does not end in .svg, which is what a plot is saved as.",
                hint="Browsers, LaTeX, Inkscape and office programs read SVG and make other formats of it.",
            )
        half = path.with_name(f".{path.name}.half")
        try:
            half.write_text(self.svg, encoding="utf-8")
            half.replace(path)
        except OSError as why:
            raise ConfigError(f"{path.name!r} cannot be written: {why.strerror or why}.") from None
        finally:
            with contextlib.suppress(OSError):
                half.unlink(missing_ok=True)

    def __repr__(self) -> str:
        return f"<JobPlot of {self._title}: {self._told}>"

    def __str__(self) -> str:
        """The same in five lines of text."""
        answers = self.latency["answers"].tolist()
        courses = [sparkline(list(enumerate(answers))), *map(sparkline, self._courses or ([], [], []))]
        lines = [
            f"{panel.title:<13}{'  '.join(filter(None, (course, panel.told, panel.empty)))}"
            for panel, course in zip(self._panels, courses, strict=True)
        ]
        return "\n".join([f"{self._title}: {self._told}", *lines])

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:  # noqa: ARG002
        """The picture, and the text for where there is none."""
        return {"text/plain": str(self), "image/svg+xml": self.svg}


# ------------------------------------------------------------------------------------------ the panels


def _latency(latency: Histogram, bars: list[tuple[float, float, int]], status: str, *, of_run: bool) -> Panel:
    if not bars:
        yet = "No answer has come yet." if status in GOING else "No answer came from the server."
        return Panel("Latency", "", empty=yet)
    x = logarithmic(bars[0][0], bars[-1][1])
    half_s, most_s = latency.quantile(0.50), latency.quantile(0.99)
    marks: list[tuple[float, str, Anchor]] = [
        (math.log10(half_s), "P50", "end"),
        (math.log10(most_s), "P99", "start"),
    ]
    told = (
        f"{latency.count:,} answer{'s' * (latency.count != 1)}, P50 {seconds(half_s)}, P99 {seconds(most_s)}"
    )
    return Panel(
        "Latency",
        told if of_run else f"{told} with waiting",
        "",
        x,
        counts(1.18 * max(number for _, _, number in bars)),
        bars=[(math.log10(since), math.log10(until), number) for since, until, number in bars if number],
        marks=marks if len(bars) > 2 else (),
    )


def _throughput(samples: list[Sample]) -> Panel:
    steps, last = _steps(samples), samples[-1]
    most = max(rate for _, rate in steps)
    worked_s = last.at_s - last.paused_s
    mean = f"{last.rows / worked_s:,.3g}" if worked_s > 0 else "0"
    return Panel(
        "Throughput",
        f"{mean} rows/s on average",
        "grey: paused" if _pauses(samples) else "",
        durations(last.at_s),
        rates(most),
        stairs=steps,
        bands=_pauses(samples),
    )


def _concurrency(samples: list[Sample]) -> Panel:
    course = _in_flight(samples)
    most = max(number for _, number in course)
    limits = [(sample.at_s, float(sample.limit)) for sample in samples if sample.limit]
    shown = bool(limits) and max(limit for _, limit in limits) <= IN_REACH * max(1.0, most)
    return Panel(
        "Concurrency",
        f"at most {most:,.0f} at the server",
        "dashed: its limit" if shown else "",
        durations(samples[-1].at_s),
        counts(max(1.0, most, *(limit for _, limit in limits)) if shown else max(1.0, most)),
        stairs=course,
        dashed=limits if shown else (),
        bands=_pauses(samples),
    )


def _spend(samples: list[Sample], figures: Progress) -> Panel:
    course, budget = _cost(samples), figures.budget_usd
    most = max(cost for _, cost in course)
    shown = budget is not None and budget <= IN_REACH * most
    end_s = samples[-1].at_s
    of = "" if budget is None else f" of ${budget:,.2f}"
    return Panel(
        "Spend",
        f"${figures.cost_usd:,.6f}{of}",
        "dashed: budget" if shown else "",
        durations(end_s),
        amounts(max(most, budget) if shown and budget is not None else most),
        line=course,
        dashed=[(0.0, budget), (end_s, budget)] if shown and budget is not None else (),
        bands=_pauses(samples),
    )


def _why_nothing(status: str, figures: Progress) -> str:
    if not figures.total:
        return "The frame has no rows."
    if status in GOING:
        return "Nothing yet."
    return "All rows were finished before."


# ------------------------------------------------------------------------------------------ the figures


def _samples(figures: Progress) -> list[Sample]:
    """Those of the history, and how it is now."""
    samples, now = list(figures.history.samples), figures.sample()
    if samples and now.at_s <= samples[-1].at_s:
        samples.pop()  # time moves on with the ticks, and the rest with every row
    return [*samples, now] if figures.history.samples else []


def _bars(latency: Histogram) -> list[tuple[float, float, int]]:
    """From, to, how many: bins of the histogram, several to a bar where they lie far apart."""
    bins = dict(latency.bins)
    if not bins:
        return []
    first, last = min(bins), max(bins)
    width = max(2, math.ceil((last - first + 1) / MOST_BARS))
    return [
        (
            latency.begin_s(at),
            latency.begin_s(at + width),
            sum(bins.get(number, 0) for number in range(at, at + width)),
        )
        for at in range(first, last + 1, width)
    ]


def _steps(samples: list[Sample]) -> list[tuple[float, float]]:
    """When each step begins and the rows a second in it; the last point only ends the last step."""
    every = max(1, math.ceil((len(samples) - 1) / MOST_STEPS))
    corners = samples[:-1:every]
    if len(corners) > 2 and samples[-1].at_s - corners[-1].at_s < (corners[-1].at_s - corners[-2].at_s) / 2:
        corners.pop()  # a short last step would only stand out
    return _stairs([*corners, samples[-1]], lambda sample: sample.rows)


def _in_flight(samples: list[Sample]) -> list[tuple[float, float]]:
    """How many rows were at the server, likewise."""
    return _stairs(samples, lambda sample: sample.wire_s)


def _stairs(samples: list[Sample], total: Callable[[Sample], float]) -> list[tuple[float, float]]:
    """How much of ``total`` came in each second."""
    steps = [(a.at_s, (total(b) - total(a)) / (b.at_s - a.at_s)) for a, b in pairwise(samples)]
    return [*steps, (samples[-1].at_s, steps[-1][1])]


def _cost(samples: list[Sample]) -> list[tuple[float, float]]:
    return [(sample.at_s, sample.cost_usd) for sample in samples]


def _pauses(samples: list[Sample]) -> list[tuple[float, float]]:
    """From when to when it was paused."""
    found: list[tuple[float, float]] = []
    for a, b in pairwise(samples):
        if b.paused_s - a.paused_s > (b.at_s - a.at_s) / 2:
            begins_s = found.pop()[0] if found and found[-1][1] == a.at_s else a.at_s
            found.append((begins_s, b.at_s))
    return found


def _frame(samples: Sequence[Sample]) -> pd.DataFrame:
    rows = [
        (
            a.at_s,
            b.at_s,
            b.rows - a.rows,
            (b.rows - a.rows) / (b.at_s - a.at_s),
            (b.wire_s - a.wire_s) / (b.at_s - a.at_s),
            b.limit or None,
            b.cost_usd,
            b.paused_s - a.paused_s,
        )
        for a, b in pairwise(samples)
    ]
    return pd.DataFrame(rows, columns=list(_COLUMNS)).astype({"server_limit": "Int64"})
