"""Who leads: two requests of each shared beginning go first, then the server's cache has it for the others.

The server keeps a beginning once it has seen two requests that share it, and the third is the first
to pay less. Sent all at once, a group's rows would all leave before that. So the leaders of all groups
go first, those of short beginnings before those of the longer ones in them, who then pay for the rest
only; when all are back, the other rows follow in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["LEADERS", "leaders", "waves"]

LEADERS = 2
"""Requests that a shared beginning takes before the next one hits it."""
WAVE_ROWS = 64
"""Fewer leaders are not waited for on their own: it would save about a tenth of a cent."""


def leaders(shared_blocks: Sequence[int]) -> list[int]:
    """Choose the rows that go first, by place, ascending.

    ``shared_blocks[i]`` is how many whole blocks, behind what all rows share, row ``i`` has in common
    with the one before it. Rows with a common beginning stand side by side. Each beginning that is
    shared by more than two rows gets two leaders that differ right behind it, those of longer beginnings
    counted. They stand as far apart as can be: the less two rows have in common beyond whole blocks, the
    surer it is that the server sees where their beginning ends.

    >>> leaders([0, 0, 0, 0])
    [0, 3]
    >>> leaders([0, 1, 1, 1, 0, 2, 2])
    [0, 3, 4, 6]
    """
    return sorted(_levels(shared_blocks))


def waves(shared_blocks: Sequence[int], *, least: int = WAVE_ROWS) -> tuple[tuple[int, ...], ...]:
    """Bring the leaders in waves, each of which is waited for before the next.

    First two that share nothing but what all share, or the leaders behind would all pay for that; then two
    of each beginning next to that, and so on into the longer ones. From the third on, a wave of fewer than
    ``least`` rows goes with the one before.

    >>> waves([0, 1, 1, 1, 0, 2, 2])
    ((0, 4), (3, 6))
    >>> waves([0, 2, 2, 1, 1, 0, 0], least=1)
    ((0, 6), (4,), (2,))
    """
    levels = _levels(shared_blocks)
    found: list[list[int]] = []
    for level in range(max(levels.values(), default=-1) + 1):
        wave = [place for place, own in levels.items() if own == level]
        if len(found) < 2 or len(wave) >= least:
            found.append(wave)
        else:
            found[-1] += wave
    return tuple(tuple(sorted(wave)) for wave in found if wave)


def _levels(shared: Sequence[int]) -> dict[int, int]:
    """The leaders, by place, and how many shared beginnings the one that each is there for lies in."""
    runs = [(0, len(shared), 0)] if shared else []  # those of longer beginnings behind those they lie in
    parts_of: list[list[tuple[int, int]]] = []
    while len(parts_of) < len(runs):
        start, end, level = runs[len(parts_of)]
        parts = _parts(shared, start, end, min(shared[start + 1 : end], default=0))
        parts_of.append(parts)
        runs += [(first, last, level + 1) for first, last in parts if last - first > LEADERS]
    levels: dict[int, int] = {}
    first_of: dict[tuple[int, int], int] = {}  # the leader that each run's own beginning has first
    for (start, end, level), parts in zip(reversed(runs), reversed(parts_of), strict=True):
        longer = [first_of[part] for part in parts if part in first_of]
        alone = [first for first, last in parts if last - first <= LEADERS]
        if len(longer) > 1:
            chosen = [longer[0], longer[-1]]
        elif longer:
            chosen = longer + sorted(alone, key=lambda place: abs(place - longer[0]))[-1:]
        else:
            chosen = alone[:1] + alone[1:][-1:]
        first_of[start, end] = chosen[0]
        levels.update(dict.fromkeys(chosen, level))
    return levels


def _parts(shared: Sequence[int], start: int, end: int, depth: int) -> list[tuple[int, int]]:
    """The runs of rows that share more than ``depth`` blocks, as (first, behind the last)."""
    cuts = [start, *(place for place in range(start + 1, end) if shared[place] <= depth), end]
    return list(pairwise(cuts))
