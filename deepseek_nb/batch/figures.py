"""A job's figures in words: plain text and Markdown, nothing in them that a server or model wrote."""

from __future__ import annotations

from deepseek_nb.batch.progress import Progress
from deepseek_nb.core.events import DOWN_AFTER_S, duration

__all__ = ["GOING", "figures_of", "headline", "markdown_of", "sparkline", "text_of", "trouble"]

UNKNOWN = "–"
GOING = ("running", "paused", "cancelling")
"""The status of a job that has not ended."""
BLOCKS = "▁▂▃▄▅▆▇█"
SPARKS = 40
"""How long a line of blocks may be."""


def headline(status: str, figures: Progress, error: BaseException | None = None) -> str:
    """How it stands in one line: ``running, 34 of 120 rows (28%), about 3 min left``."""
    share = figures.finished / figures.total if figures.total else 1.0
    said = f"{status}, {figures.finished:,} of {figures.total:,} rows ({share:.0%})"
    if error is not None:
        return f"{said}, by {type(error).__name__}: job.result() says more"
    left_s = figures.eta_s
    return f"{said}, about {duration(left_s)} left" if status == "running" and left_s else said


def trouble(status: str, figures: Progress) -> str:
    """Why it waits, and since when; empty while it moves."""
    if status not in GOING:
        return ""
    if not figures.waiting or figures.offpeak_s is not None:
        return figures.waits_for_offpeak
    said = figures.waiting
    if figures.down_s is not None and figures.down_s >= DOWN_AFTER_S:
        said += f", server down for {duration(figures.down_s)}"
    return (
        said if figures.left_s is None else f"{said}, {duration(max(0.0, figures.left_s))} of patience left"
    )


def figures_of(status: str, figures: Progress) -> dict[str, str]:
    """Every figure but the rows by state, with its unit, by name; a dash where nothing is known yet.

    No dollar sign: what stands between two of them is mathematics to a notebook, escaped or not.
    """
    budget, rate, left_s = figures.budget_usd, figures.pace.rate, figures.eta_s
    told = {
        "rate": UNKNOWN if rate is None else f"{rate:,.1f} rows/s",
        "latency P50": _seconds(figures.latency_s(0.50)),
        "latency P99": _seconds(figures.latency_s(0.99)),
        "error rate": _share(figures.error_rate),
        "cache hit rate": _share(figures.hit_rate),
        "prefix cache": _share(figures.prefix_hit_rate),
        "cost": f"USD {figures.cost_usd:.6f}" + ("" if budget is None else f" of {budget:,.2f}"),
        "elapsed": duration(figures.elapsed_s),
    }
    if status in GOING:
        told["left"] = UNKNOWN if left_s is None else duration(left_s)
    return told


def sparkline(points: list[tuple[float, float]]) -> str:
    """Rows a second over time, as a line of blocks; empty before there are two points.

    >>> sparkline([(1, 0.0), (2, 5.0), (3, 10.0)])
    '▁▅█'
    """
    if len(points) < 2:
        return ""
    step = -(-len(points) // SPARKS)
    rates = [max(rate for _, rate in points[first : first + step]) for first in range(0, len(points), step)]
    most = max(rates) or 1.0
    return "".join(BLOCKS[round(rate / most * (len(BLOCKS) - 1))] for rate in rates)


def text_of(status: str, figures: Progress, error: BaseException | None = None) -> list[str]:
    """The lines for a terminal, a diff, a screen reader."""
    rows = ", ".join(f"{number:,} {state}" for state, number in figures.states.items())
    lines = [headline(status, figures, error), rows, _sentence(status, figures)]
    return [*lines, said] if (said := trouble(status, figures)) else lines


def markdown_of(name: str, status: str, figures: Progress, error: BaseException | None = None) -> str:
    """The same with a small table. ``name`` is a job's name: no backtick is in it."""
    states = figures.states
    said = trouble(status, figures)
    head = f"**Job** `{name}`: {headline(status, figures, error)}" + (f"; {said}" if said else "")
    table = [
        f"| {' | '.join(states)} |",
        f"|{'---:|' * len(states)}",
        f"| {' | '.join(f'{number:,}' for number in states.values())} |",
    ]
    return "\n".join([head, "", *table, "", _sentence(status, figures)])


def _sentence(status: str, figures: Progress) -> str:
    told, curve = figures_of(status, figures), sparkline(figures.pace.points)
    if curve:
        told["rows/s over time"] = curve
    return ", ".join(f"{name} {value}" for name, value in told.items())


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1%}"


def _seconds(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
