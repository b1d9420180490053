"""Several kernels on one account share one :class:`~deepseek_nb.core.level.Level` through a short text.

The text is a table: the level, and a record for each member. Nobody asks it before a request. Each
member acts on its own copy, within its ``room``, and some ten times a second it meets the table in
one short transaction (:func:`sync`): what it saw is replayed on the shared level, which it takes
over, and its room is cut anew.

Rooms are max-min fair shares of the limit over what the members could use; what one cannot use goes
to the others. A room is only given out of what the others neither hold nor have been promised, so
that the rooms together stay within the limit; a kernel that had it all shrinks as its rows end.
While the breaker is closed each that wants has one place at least; while it is open one member at a
time has the right to probe.

>>> from deepseek_nb.core.level import Tuning
>>> def report(want):
...     level = Level(Tuning()).to_list()
...     return Report((), level, 0, 0, want=want, waits=True, yielding=False, probing=False, tuning=Tuning())
>>> text, a = sync(None, report(100), "a", 1.0)
>>> text, b = sync(text, report(4), "b", 1.0)
>>> a.room, b.room                                 # everything was promised to the first
(16, 1)
>>> text, a = sync(text, report(100), "a", 1.1); text, b = sync(text, report(4), "b", 1.1)
>>> a.room, b.room
(12, 4)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from deepseek_nb.core.admission import Report, View
from deepseek_nb.core.level import Level

__all__ = ["FORGOTTEN_S", "LOST_S", "Member", "fair_shares", "leave", "sync"]

LOST_S = 5.0
"""A member that was not seen for so long is gone, or has nothing to do."""
FORGOTTEN_S = 300.0
"""A table that nobody wrote for so long says nothing about the server of now."""

_compact = json.JSONEncoder(separators=(",", ":")).encode


@dataclass(slots=True)
class Member:
    """What one kernel holds, was promised, and wants."""

    seen_s: float
    room: int
    held: int
    passing: int
    want: int
    yielding: bool
    probing: bool

    def to_list(self) -> list[float]:
        """As JSON values."""
        return [self.seen_s, self.room, self.held, self.passing, self.want, self.yielding, self.probing]


def fair_shares(total: int, wants: Mapping[str, int]) -> dict[str, int]:
    """Max-min fair whole shares of ``total``: nobody gets more than wanted, what is left goes round.

    >>> fair_shares(10, {"a": 2, "b": 9, "c": 9})
    {'a': 2, 'b': 4, 'c': 4}
    """
    shares = {}
    left = total
    waiting = sorted(wants, key=lambda name: (wants[name], name))
    for i, name in enumerate(waiting):
        shares[name] = min(wants[name], math.ceil(left / (len(waiting) - i)) if left > 0 else 0)
        left -= shares[name]
    return shares


def sync(
    text: str | None,
    report: Report,
    name: str,
    now: float,
    lives: Callable[[str], bool] = lambda _: True,
) -> tuple[str, View]:
    """The table with what ``name`` reports, and what it says to ``name``.

    ``text`` is the table so far (None, or anything that is none: a new one is begun). ``lives`` tells
    whether the process of another member can still be alive. Costs about 50 us.
    """
    level, others = _replayed(text, report, name, now, lives)
    room = _room(level, report, name, others, now)
    mine = Member(now, room, report.held, report.passing, report.want, report.yielding, report.probing)
    rest = others.values()
    view = View(
        level=level,
        room=room,
        others=len(others),
        others_in_flight=sum(m.held + m.passing for m in rest),
        others_held=sum(m.held for m in rest),
        others_yield=any(m.yielding for m in rest),
        others_probe=level.open and any(m.probing or m.passing for m in rest),
    )
    return _written(level, {**others, name: mine}, now), view


def leave(text: str | None, report: Report, name: str, now: float) -> str:
    """The table without ``name``, with what it saw last."""
    level, others = _replayed(text, report, name, now, lambda _: True)
    return _written(level, others, now)


def _room(level: Level, report: Report, name: str, others: dict[str, Member], now: float) -> int:
    places = level.places(now)
    if not report.want:
        return 0
    if not others:
        return places
    if level.open:
        taken = any(m.room > 0 or m.probing for m in others.values())
        return int((report.waits or report.probing) and not taken)
    wants = {n: m.want for n, m in others.items()} | {name: report.want}
    promised = sum(max(m.room, m.held) for m in others.values())
    return max(1, min(fair_shares(places, wants)[name], places - promised))


def _replayed(
    text: str | None, report: Report, name: str, now: float, lives: Callable[[str], bool]
) -> tuple[Level, dict[str, Member]]:
    """The level with the report's facts, and the other members; without a table, the report's own level."""
    try:
        written_s, values, table = json.loads(text or "")
        of_use = -FORGOTTEN_S <= written_s - now <= LOST_S  # else of long ago, or of another clock
        level = Level.from_list(values, report.tuning)
        others = {str(n): _member(m) for n, m in table.items() if n != name}
    except (ValueError, TypeError, AttributeError, IndexError, RecursionError):
        of_use = False
    if not of_use:
        return Level.from_list(report.level, report.tuning), {}
    others = {n: m for n, m in others.items() if abs(now - m.seen_s) <= LOST_S and lives(n)}
    level.learn(report.facts, sum(m.held for m in others.values()))
    return level, others


def _member(values: list[float]) -> Member:
    seen_s, room, held, passing, want, yielding, probing = values
    return Member(float(seen_s), int(room), int(held), int(passing), int(want), bool(yielding), bool(probing))


def _written(level: Level, members: Mapping[str, Member], now: float) -> str:
    table = {name: member.to_list() for name, member in members.items()}
    return _compact([now, level.to_list(), table])
