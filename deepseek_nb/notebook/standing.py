"""How the default client stands, as a dashboard shows it: the figures, in words, a table and small plots."""

from __future__ import annotations

import asyncio
import html
import itertools
import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from deepseek_nb.client.sync import Client
from deepseek_nb.core.alarms import Alarm, Thresholds
from deepseek_nb.core.errors import StoreFailed
from deepseek_nb.core.events import duration
from deepseek_nb.core.window import Figures
from deepseek_nb.data import read_json
from deepseek_nb.notebook.panel import Twin
from deepseek_nb.notebook.plots import plot, sparkline
from deepseek_nb.notebook.sanitize import safe_markdown, safe_plain
from deepseek_nb.notebook.transcript import FAINT, TROUBLE

__all__ = ["Standing", "alarms_html", "plots_html", "standing_of", "table_html", "twin_of"]

RATE_SPAN_S = 30.0
"""What "now" means for the rate."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The figures of one client at one moment."""

    name: str
    """Which route and model it asks."""
    now_s: float
    """On the clock of its events."""
    figures: Figures
    """Of the window."""
    rate_per_s: float
    """Of the last half minute."""
    series: tuple[Figures, ...]
    """The window bucket by bucket."""
    in_flight: int
    in_flight_most: int
    """What may be in flight: ``concurrency_max``, or what the account allows where that is less."""
    in_flight_share: float
    """Of the model with the least room."""
    borne: int | None
    """How many the server seems to bear now; None before the first request."""
    spent_usd: float
    unknown_usd: float
    budget_usd: float | None
    caps: dict[str, tuple[float, float]] = field(default_factory=dict)
    """By "day" and "month", where there is a limit: what all kernels have spent in it, and the limit."""

    @property
    def budget_share(self) -> float | None:
        """The largest share of a budget that is spent, what may have been charged included; None without."""
        limits = [(self.spent_usd + self.unknown_usd, self.budget_usd), *self.caps.values()]
        shares = [used / limit if limit else 1.0 for used, limit in limits if limit is not None]
        return max(shares, default=None)


async def standing_of(client: Client) -> Standing:
    """Read a client's figures, in the background loop, where they are written. Sends nothing."""
    now_s = asyncio.get_running_loop().time()
    settings, window, budget = client.settings, client.metrics.window, client.budget
    caps: dict[str, tuple[float, float]] = {}
    with suppress(StoreFailed):
        caps = {} if client.aio.caps is None else client.aio.caps.standing()
    lines = client.aio.standing()
    allowed = {model["id"]: int(model["concurrency"]) for model in read_json("models.json")["models"]}
    held = {model: state.held + state.interactive for model, state in lines.items()}
    most = {
        model: min(settings.concurrency_max, allowed.get(model, settings.concurrency_max)) for model in lines
    }
    return Standing(
        name=f"{settings.route_name}/{settings.model}",
        now_s=now_s,
        figures=window.figures(now_s),
        rate_per_s=window.figures(now_s, RATE_SPAN_S).rate_per_s,
        series=tuple(window.series(now_s)),
        in_flight=sum(held.values()),
        in_flight_most=sum(most.values()) or settings.concurrency_max,
        in_flight_share=max((held[model] / most[model] for model in held), default=0.0),
        borne=round(sum(state.limit for state in lines.values())) if lines else None,
        spent_usd=budget.spent_usd,
        unknown_usd=budget.unknown_usd,
        budget_usd=budget.limit_usd,
        caps=caps,
    )


@dataclass(frozen=True, slots=True)
class _Cell:
    """One figure: what it is, its value, what is to be known beside it, and the alarms it may raise."""

    title: str
    value: str
    beside: str
    alarms: tuple[str, ...] = ()


def _cells(now: Standing) -> Iterator[_Cell]:
    seen = now.figures
    yield _Cell("Calls", f"{seen.calls:,}", f"{seen.refusals:,} refusals")
    yield _Cell("Rate", f"{_number(now.rate_per_s)} /s", "last 30 s")
    yield _Cell("P99 latency", _ms(seen.p99_s), f"P50 {_ms(seen.p50_s)}", ("p99_ms",))
    yield _Cell("Errors", _share(seen.error_rate), f"{seen.failed:,} of {seen.calls:,}", ("error_rate",))
    yield _Cell("Cache hits", _share(seen.hit_rate), f"{seen.hits:,} of {seen.calls:,}", ("cache_hit_rate",))
    borne = "" if now.borne is None else f", server bears {now.borne:,}"
    yield _Cell("In flight", f"{now.in_flight:,}", f"of {now.in_flight_most:,}{borne}", ("in_flight",))
    beside = "no budget" if now.budget_usd is None else f"of ${now.budget_usd:,.2f}"
    for span, (used_usd, limit_usd) in now.caps.items():
        beside += f", ${used_usd:,.4f} of ${limit_usd:,.2f} this {span}"
    if now.unknown_usd:
        beside += f", ${now.unknown_usd:.4f} perhaps"
    yield _Cell("Spent", f"${now.spent_usd:,.4f}", beside, ("budget",))


def table_html(now: Standing, alarms: Sequence[Alarm]) -> str:
    """The figures side by side; one with an alarm says so in a word and a colour."""
    raised = {alarm.name for alarm in alarms}
    heads, values = [], []
    cell = "text-align: left; vertical-align: top; padding: 0 16px 0 0; line-height: 1.4"
    name = f"{cell}; font-weight: normal; white-space: nowrap; {FAINT}"
    large = "font-size: 1.4em; white-space: nowrap"
    for one in _cells(now):
        alarm = bool(raised & set(one.alarms))
        colour, word = (f"; {TROUBLE}", " (alarm)") if alarm else ("", "")
        heads.append(f'<th scope="col" style="{name}">{one.title}</th>')
        values.append(
            f'<td style="{cell}{colour}"><span style="{large}">{one.value}</span>{word}'
            f'<br><span style="{FAINT}">{one.beside}</span></td>'
        )
    return f"<table><tr>{''.join(heads)}</tr><tr>{''.join(values)}</tr></table>"


def alarms_html(now: Standing, alarms: Sequence[Alarm]) -> str:
    """What stands, each with what to do."""
    if not alarms:
        return f'<span style="{FAINT}">No alarm.</span>'
    rows = (
        f'<div style="line-height: 1.5"><strong style="{TROUBLE}">Alarm: '
        f"{html.escape(alarm.line(now.now_s))}.</strong> {html.escape(alarm.todo)}</div>"
        for alarm in alarms
    )
    return "".join(rows)


@dataclass(frozen=True, slots=True)
class _Course:
    """How a figure went over the window."""

    title: str
    lines: list[list[float]]
    faint: str = ""
    """What the second line is."""
    threshold: float | None = None


def _courses(now: Standing, thresholds: Thresholds) -> Iterator[_Course]:
    """What is plotted."""
    series = now.series
    p99, p50 = [1000 * one.p99_s for one in series], [1000 * one.p50_s for one in series]
    yield _Course(f"P99 latency{_up_to(p99, ' ms')}", [p99, p50], "faint: P50", thresholds.p99_ms)
    rates = [one.rate_per_s for one in series]
    yield _Course(f"Calls per second{_up_to(rates)}", [rates])
    spent = list(itertools.accumulate(one.spent_usd for one in series))
    yield _Course(f"Spent: ${spent[-1] if spent else 0.0:,.4f}", [spent])


def plots_html(now: Standing, thresholds: Thresholds) -> str:
    """The courses over the window, beside one another."""
    drawn = []
    for one in _courses(now, thresholds):
        title = html.escape(f"{one.title} ({one.faint})" if one.faint else one.title)
        picture = plot(*one.lines, label=one.title, threshold=one.threshold)
        drawn.append(f'<div style="line-height: 1.4"><div style="{FAINT}">{title}</div>{picture}</div>')
    return f'<div style="display: flex; flex-wrap: wrap; gap: 24px">{"".join(drawn)}</div>'


def twin_of(now: Standing, alarms: Sequence[Alarm], thresholds: Thresholds, at: datetime) -> Twin:
    """The same as text: a table, what stands, and lines of blocks for the plots."""
    cells = list(_cells(now))
    span = duration(now.figures.span_s)
    heading = f"Dashboard of {safe_plain(now.name)}, the last {span} until {at:%Y-%m-%d %H:%M:%S} UTC"
    stands = [f"Alarm: {alarm.line(now.now_s)}. {alarm.todo}" for alarm in alarms] or ["No alarm."]
    courses = [(one.title, sparkline(one.lines[0])) for one in _courses(now, thresholds)]
    markdown = [
        safe_markdown(heading),
        "\n".join(
            (
                f"| {' | '.join(one.title for one in cells)} |",
                f"|{'---|' * len(cells)}",
                f"| {' | '.join(f'{one.value} ({one.beside})' for one in cells)} |",
            )
        ),
        *(f"**{line}**" if alarms else line for line in stands),
        *(f"{title}\n`{line}`" for title, line in courses),
    ]
    plain = [
        heading,
        "\n".join(f"{one.title}: {one.value} ({one.beside})" for one in cells),
        *stands,
        *(f"{title}\n{line}" for title, line in courses),
    ]
    # two dollar signs in a line would be a formula, escaped or not
    return Twin("\n\n".join(markdown).replace("$", "USD "), "\n\n".join(plain))


def _ms(seconds: float) -> str:
    if math.isnan(seconds):
        return "none"
    return f"{1000 * seconds:,.0f} ms" if seconds < 10 else f"{seconds:,.1f} s"


def _share(share: float) -> str:
    return "none" if math.isnan(share) else f"{100 * share:.1f}".removesuffix(".0") + " %"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.2f}"


def _up_to(values: Sequence[float], unit: str = "") -> str:
    most = max((value for value in values if not math.isnan(value)), default=0.0)
    return f": up to {_number(most)}{unit}" if most else ""
