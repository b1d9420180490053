"""Where the ticks of an axis stand and what they say: round numbers, times, money, as few as can be read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Axis", "amounts", "counts", "durations", "logarithmic", "rates", "seconds"]

TIME_STEPS_S = (
    *(0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800),
    *(3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800),
)
MOST_TICKS = 5


@dataclass(frozen=True, slots=True)
class Axis:
    """From where to where, and its ticks: where each stands, and its words."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


def counts(most: float) -> Axis:
    """From 0 up to at least ``most``, in whole numbers.

    >>> counts(37)
    Axis(low=0.0, high=40.0, ticks=((0.0, '0'), (10.0, '10'), (20.0, '20'), (30.0, '30'), (40.0, '40')))
    """
    return _upwards(most, lambda value, _: f"{value:,.0f}", least_step=1.0)


def rates(most: float) -> Axis:
    """From 0 up to at least ``most``, in parts of one where that is little.

    >>> [label for _, label in rates(0.7).ticks]
    ['0', '0.2', '0.4', '0.6', '0.8']
    """
    return _upwards(most, lambda value, step: f"{value:,.{_places(step)}f}" if value else "0")


def amounts(most: float) -> Axis:
    """From 0 up to at least ``most``, in US dollars.

    >>> [label for _, label in amounts(0.0031).ticks]
    ['$0', '$0.001', '$0.002', '$0.003', '$0.004']
    """

    def label(value: float, step: float) -> str:
        places = _places(step)
        return f"${value:,.{2 if places == 1 else places}f}" if value else "$0"  # the cents are whole

    return _upwards(most, label)


def seconds(value_s: float) -> str:
    """A duration in two digits: ``85 ms``, ``1.2 s``, ``34 s``, ``12 min``.

    >>> [seconds(value) for value in (0.0851, 0.999, 1.234, 34.2, 700, 9000)]
    ['85 ms', '1 s', '1.2 s', '34 s', '12 min', '2.5 h']
    """
    rounded_s = float(f"{value_s:.2g}")
    if rounded_s < 1:
        return f"{rounded_s * 1000:g} ms"
    if rounded_s < 60:
        return f"{rounded_s:g} s"
    unit_s, unit = (60, "min") if value_s < 3600 else (3600, "h")
    return f"{float(f'{value_s / unit_s:.2g}'):,g} {unit}"


def durations(most_s: float) -> Axis:
    """From 0 to ``most_s``: seconds, minutes, hours or days, whichever are round.

    >>> [label for _, label in durations(200).ticks]
    ['0', '1 min', '2 min', '3 min']
    """
    step_s = next((step for step in TIME_STEPS_S if most_s / step <= MOST_TICKS), TIME_STEPS_S[-1])
    unit_s, unit = next(
        (unit for unit in ((86400, "d"), (3600, "h"), (60, "min")) if step_s % unit[0] == 0), (1, "s")
    )
    return Axis(
        0.0,
        most_s,
        tuple(
            (step_s * n, f"{step_s * n / unit_s:g} {unit}" if n else "0")
            for n in range(int(most_s / step_s + 1e-9) + 1)
        ),
    )


def logarithmic(least_s: float, most_s: float) -> Axis:
    """An axis of ``log10`` of durations, with a little room on both sides.

    >>> [label for _, label in logarithmic(0.1, 2.0).ticks]
    ['100 ms', '200 ms', '500 ms', '1 s', '2 s']
    """
    room = max(0.06, 0.13 * math.log10(most_s / least_s), 0.5 * (0.5 - math.log10(most_s / least_s)))
    low, high = math.log10(least_s) - room, math.log10(most_s) + room
    told: list[tuple[float, str]] = []
    for parts in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        values = [
            part * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for part in parts
        ]
        told = [(math.log10(value), seconds(value)) for value in values if low <= math.log10(value) <= high]
        if len(told) <= MOST_TICKS + 1:
            break
    return Axis(low, high, tuple(told))


def _upwards(most: float, label: Callable[[float, float], str], least_step: float = 0.0) -> Axis:
    if most < 1e-9:
        return Axis(0.0, 1.0, ((0.0, label(0.0, 1.0)),))
    rough = most / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = max(least_step, next(part * power for part in (1, 2, 2.5, 5, 10) if part * power >= rough * 0.999))
    if least_step and step % 1:
        step = float(math.ceil(step))
    number = max(1, math.ceil(most / step - 1e-9))
    return Axis(0.0, step * number, tuple((step * n, label(step * n, step)) for n in range(number + 1)))


def _places(step: float) -> int:
    """How many decimal places tell multiples of ``step`` apart."""
    places = max(0, -math.floor(math.log10(step)))
    return places if math.isclose(step * 10**places % 1, 0, abs_tol=1e-6) else places + 1
