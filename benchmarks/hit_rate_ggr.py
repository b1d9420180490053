"""Greedy group recursion (GGR), the method of the paper that is compared with, written from its description.

Liu et al., MLSys 2025, arXiv 2403.05821, section 4.2. At each step the value is taken that would repeat most:
the square of its length, and of the lengths of what depends on it, times the rows that have it but one. It
leads in these rows, with what depends on it; these rows without those fields, and the other rows, are gone
on with in the same way. The recursion is bounded: after ``row_splits`` splits of the rows or
``column_splits`` of the fields, the fields left get one order, by what a value of theirs repeats in the
mean.

``greedy_groups`` is what the paper describes. Its authors' code (the artifact of the paper) does more, which
``greedy_groups_in_parts`` does, too: names count as part of the values, fields that determine each other are
one, a field of nearly as many values as rows comes last, and the rows, sorted, are cut into parts of at most
2,000, each of which is split so and so often for itself; a value that repeats too little ends the splits.

Each row has an order of its own. Which rows stand side by side does not matter to a cache without bounds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

__all__ = ["greedy_groups", "greedy_groups_in_parts"]

Columns = Sequence[Sequence[str]]

ROWS_OF_A_PART = 2_000
MOSTLY_DISTINCT = 0.7
"""A field with more values than this for each row comes last."""
LEAST_WORTH = 100_000
"""Squared characters that a value has to repeat, in a part, to be split by."""


def greedy_groups(
    columns: Columns,
    dependent: Mapping[int, Sequence[int]],
    *,
    row_splits: int = 4,
    column_splits: int = 2,
    least_worth: int = 1,
) -> list[tuple[int, ...]]:
    """The order of fields for each row. ``dependent``: the fields that a field determines.

    >>> greedy_groups([["1", "2", "3"], ["long", "long", "x"]], {}, row_splits=1)
    [(1, 0), (1, 0), (0, 1)]
    """
    found: list[tuple[int, ...]] = [()] * len(columns[0])
    parts = [(list(range(len(columns[0]))), list(range(len(columns))), (), 0, 0)]
    while parts:
        rows, fields, head, row_depth, column_depth = parts.pop()
        stopped = row_depth == row_splits or column_depth == column_splits
        best = None
        if not stopped and len(rows) > 1 and len(fields) > 1:
            best = _best(columns, dependent, rows, fields, least_worth)
        if best is None:
            order = (*head, *_fixed(columns, dependent, rows, fields))
            for row in rows:
                found[row] = order
            continue
        field, value, first = best
        inside = [row for row in rows if columns[field][row] == value]
        outside = [row for row in rows if columns[field][row] != value]
        rest = [other for other in fields if other not in first]
        parts.append((inside, rest, (*head, *first), row_depth, column_depth + 1))
        if outside:
            parts.append((outside, fields, head, row_depth + 1, column_depth))
    return found


def greedy_groups_in_parts(
    columns: Columns, names: Sequence[str], dependent: Mapping[int, Sequence[int]]
) -> list[tuple[int, ...]]:
    """The order of fields for each row, as the code of the paper's authors finds it.

    >>> greedy_groups_in_parts([["1", "2", "3"], ["long", "long", "x"]], ["id", "text"], {})
    [(1, 0), (1, 0), (1, 0)]
    """
    count = len(columns[0])
    groups: list[list[int]] = []  # of the given fields, those that are one
    for field in range(len(columns)):
        if not any(field in group for group in groups):
            groups.append(_with_dependent(field, dependent, range(len(columns))))
    merged = [
        ["".join(f"{names[field]}: {columns[field][row]}" for field in group) for row in range(count)]
        for group in groups
    ]
    every, places = list(range(count)), list(range(len(merged)))
    last = [place for place in places if len(set(merged[place])) > MOSTLY_DISTINCT * count]
    recursed = [place for place in places if place not in last]
    found: list[tuple[int, ...]] = [()] * count
    first = _fixed(merged, {}, every, recursed)
    by_these = sorted(every, key=lambda row: [merged[place][row] for place in first])
    for rows in _halved(by_these):
        part = [[merged[place][row] for row in rows] for place in recursed]
        for row, order in zip(rows, greedy_groups(part, {}, least_worth=LEAST_WORTH), strict=True):
            found[row] = tuple(recursed[place] for place in order)
    tail = _fixed(merged, {}, every, last)
    return [tuple(field for place in (*order, *tail) for field in groups[place]) for order in found]


def _halved(rows: list[int]) -> list[list[int]]:
    if len(rows) <= ROWS_OF_A_PART:
        return [rows]
    middle = len(rows) // 2
    return _halved(rows[:middle]) + _halved(rows[middle:])


def _with_dependent(field: int, dependent: Mapping[int, Sequence[int]], fields: Sequence[int]) -> list[int]:
    return [field, *(other for other in dependent.get(field, ()) if other in fields)]


def _best(
    columns: Columns,
    dependent: Mapping[int, Sequence[int]],
    rows: Sequence[int],
    fields: Sequence[int],
    least_worth: int,
) -> tuple[int, str, list[int]] | None:
    """The field and value that repeat most, and the fields that lead then; None where too little repeats."""
    most, best = least_worth - 1, None
    for field in fields:
        first = _with_dependent(field, dependent, fields)
        counts = Counter(columns[field][row] for row in rows)
        seen = {columns[field][row]: row for row in rows}
        for value, count in counts.items():
            worth = sum(len(columns[one][seen[value]]) ** 2 for one in first) * (count - 1)
            if worth > most:
                most, best = worth, (field, value, first)
    return best


def _fixed(
    columns: Columns, dependent: Mapping[int, Sequence[int]], rows: Sequence[int], fields: Sequence[int]
) -> list[int]:
    """One order for all these rows: by what a value of the field repeats in the mean."""
    worth = {}
    for field in fields:
        values = [columns[field][row] for row in rows]
        worth[field] = (sum(map(len, values)) / len(rows)) ** 2 * (len(rows) / len(set(values)) - 1)
    order: list[int] = []
    for field in sorted(fields, key=lambda one: -worth[one]):
        order += [one for one in _with_dependent(field, dependent, fields) if one not in order]
    return order
