"""Who leads: two requests of each shared beginning go first, then the server's cache has it for the others.

The server keeps a beginning once it has seen two requests that share it, and the third is the first
to pay less. Sent all at once, a group's rows would all leave before that. So the leaders of all groups
go first; when they are back, the rest follows in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

__all__ = ["LEADERS", "leaders", "waves"]

LEADERS = 2
"""Requests that a shared beginning takes before the next one hits it."""


def leaders(shared_blocks: Sequence[int]) -> list[int]:
    """Choose the rows that go first, by place, ascending.

    ``shared_blocks[i]`` is how many whole blocks, behind what all rows share, row ``i`` has in common
    with the one before it. Rows with a common beginning stand side by side. Each beginning that is
    shared by more than two rows gets two leaders that differ right behind it, those of longer beginnings
    counted.

    >>> leaders([0, 0, 0, 0])
    [0, 1]
    >>> leaders([0, 1, 1, 1, 0, 2, 2])
    [0, 1, 4, 5]
    """
    found: list[int] = []
    runs = [(0, len(shared_blocks), 0)] if shared_blocks else []
    upward: list[tuple[int, int, list[tuple[int, int]]]] = []
    while runs:  # a beginning and the longer ones in it, without recursion
        start, end, depth = runs.pop()
        parts = _parts(shared_blocks, start, end, depth + 1)
        while len(parts) == 1 and end - start > 1 and depth < max(shared_blocks[start + 1 : end]):
            depth += 1
            parts = _parts(shared_blocks, start, end, depth + 1)
        upward.append((start, end, parts))
        runs += [(first, last, depth + 1) for first, last in parts if last - first > LEADERS]
    for _, _, parts in reversed(upward):
        led = sum(last - first > LEADERS for first, last in parts)
        alone = [first for first, last in parts if last - first <= LEADERS]
        found += alone[: max(0, LEADERS - led)]
    return sorted(found)


def waves(shared_blocks: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Bring the leaders in waves, each of which is waited for before the next.

    First two that share nothing but what all share, or the leaders behind would all pay for that.

    >>> waves([0, 1, 1, 1, 0, 2, 2])
    ((0, 4), (1, 5))
    """
    lead = leaders(shared_blocks)
    if len(lead) <= LEADERS:
        return (tuple(lead),) if lead else ()
    parts = next((place for place, blocks in enumerate(shared_blocks) if place > lead[0] and not blocks), 0)
    second = next((place for place in lead if place >= parts > 0), lead[1])
    rest = tuple(place for place in lead[1:] if place != second)
    return (lead[0], second), rest


def _parts(shared: Sequence[int], start: int, end: int, depth: int) -> list[tuple[int, int]]:
    """The runs of rows that share ``depth`` blocks, as (first, behind the last)."""
    cuts = [start, *(place for place in range(start + 1, end) if shared[place] < depth), end]
    return list(pairwise(cuts))
