"""How many rows begin alike under an order of fields, and which order is best for that.

A beginning that ``n`` rows share is paid for by two of them; the others, ``1 - 2/n``, have it from the
cache. To halve a group of thousands costs next to nothing, to halve one of four costs all of it. So a
field of two values may well stand first, and what counts is neither bits nor the characters that neighbours
share.

Groups are counted for some rows only, but among all: for each of those rows and each field, a number has
a bit for every row of the same value, and what is left of the numbers of several fields by "and" are
the rows that share all of these.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate
from operator import add, and_, mul

from deepseek_nb.core.layout.estimate import sampled
from deepseek_nb.core.layout.field_tokens import FieldTokens
from deepseek_nb.core.layout.waves import LEADERS

__all__ = ["Groups"]

AMONG_ROWS = 8_192
"""Rows are looked for among so many, evenly spread; where there are more, each stands for several."""
MOST_ROWS = 1_024
BITS = 1 << 26
"""Up to ``MOST_ROWS`` rows are looked at: as many as keep all their numbers together within so many bits."""
FARTHEST = 40
"""Places that a field is moved at the most, or a wide table would take too long."""
LEAST_TOKENS = 1e-3
"""A field is not moved for a smaller gain, in tokens a row."""
FEW = 2e-3
"""A part of the rows: where fewer lack a beginning, or have it, a field is not moved on."""
VALUES_AT_ONCE = 255
"""Values of a column that a byte tells apart, beside all others."""


class Groups:
    """Some rows of a table, and how many others each of them shares its beginnings with.

    ``columns`` are the texts of distinct rows, ``tokens`` what each text comes to in its field.

    >>> tokens = [FieldTokens(lambda text: len(text or ""), 0)] * 2
    >>> groups = Groups([["a", "b", "a", "a"], ["1", "2", "3", "4"]], tokens)
    >>> groups.repeated_tokens((0, 1))  # "a" is had once: two of its three rows lead
    0.25
    """

    def __init__(
        self,
        columns: Sequence[Sequence[str]],
        tokens: Sequence[FieldTokens],
        *,
        among_rows: int = AMONG_ROWS,
        bits: int = BITS,
    ) -> None:
        stands_for = -(-len(columns[0]) // among_rows)
        among = [column[::stands_for] for column in columns]
        many = len(among[0])
        sizes = [1 + (found - 1) * stands_for for found in range(1, many + 1)]
        self._part = [0.0, *(max(0.0, 1 - LEADERS / size) for size in sizes)]
        looked = sampled(many, min(MOST_ROWS, max(1, bits // many // len(columns))))
        self._looked = len(looked)
        self._all = (1 << many) - 1
        self._alike = [_alike(column, looked) for column in among]
        self._names = [texts.name for texts in tokens]
        self._values = [
            [max(0.0, texts[column[row]] - texts.name) for row in looked]
            for column, texts in zip(among, tokens, strict=True)
        ]

    def repeated_tokens(self, order: Sequence[int]) -> float:
        """Tokens of a row, in the mean, that the cache would have if a block of it were a token."""
        _, levels = self._heads(order)
        return sum(map(self._gain, order, levels[1:], levels)) / self._looked

    def block_hits(self, order: Sequence[int], first_tokens: Sequence[float], block: int) -> list[float]:
        """Blocks of a row, in the mean, that the cache has under this order.

        One figure for each of ``first_tokens``: how many tokens rows have to share to have the first block.
        """
        _, levels = self._heads(order)
        hits = [0.0] * len(first_tokens)
        names = [*map(self._names.__getitem__, order), 0.0]
        for row, lengths in enumerate(zip(*(self._values[field] for field in order), strict=True)):
            heads = accumulate(map(add, lengths, names), initial=0.0)
            shared = list(map(add, heads, names))  # with all of these fields the name of the next is shared
            for place, first in enumerate(first_tokens):
                tokens = first
                level = bisect_left(shared, tokens)
                while level < len(order):
                    hits[place] += levels[level][row]
                    tokens += block
                    level = bisect_left(shared, tokens, level)
        return [hit / self._looked for hit in hits]

    def better(self, order: Sequence[int]) -> tuple[int, ...]:
        """Move each field, the last one first, to where the most tokens are repeated."""
        found = list(order)
        heads, levels = self._heads(found)
        for field in reversed(order):
            place = found.index(field)
            best = self._best_place(found, place, heads, levels)
            if best != place:
                found.insert(best, found.pop(place))
                first = min(place, best)
                heads[first:], levels[first:] = self._heads(found[first:], heads[first])
        return tuple(found)

    def _best_place(
        self, order: Sequence[int], place: int, heads: Sequence[list[int]], levels: Sequence[list[float]]
    ) -> int:
        """Where the field at this place is best; ``heads`` and ``levels`` are those of the order."""
        field = order[place]
        gains = list(map(self._gain, order, levels[1:], levels))
        best_gain, best = LEAST_TOKENS * self._looked, place
        most, least = self._looked * (1 - FEW), self._looked * FEW
        behind, moved, stayed = levels[place + 1], 0.0, gains[place]
        for to in range(place - 1, max(-1, place - 1 - FARTHEST), -1):  # the others move behind the field
            level = self._level(map(and_, heads[to], self._alike[field]))
            moved += self._gain(order[to], behind, level)
            stayed += gains[to]
            behind = level
            gain = moved + self._gain(field, level, levels[to]) - stayed
            if gain > best_gain:
                best_gain, best = gain, to
            if sum(level) > most:
                break
        head, before, moved, stayed = heads[place], levels[place], 0.0, gains[place]
        for to in range(place + 1, min(len(order), place + 1 + FARTHEST)):  # ... and here before it
            head = list(map(and_, head, self._alike[order[to]]))
            level = self._level(head)
            moved += self._gain(order[to], level, before)
            stayed += gains[to]
            before = level
            gain = moved + self._gain(field, levels[to + 1], level) - stayed
            if gain > best_gain:
                best_gain, best = gain, to
            if sum(level) < least:
                break
        return best

    def _heads(
        self, order: Sequence[int], head: list[int] | None = None
    ) -> tuple[list[list[int]], list[list[float]]]:
        """For none, the first, the first two, ... of the fields: who shares them, and what part has them."""
        heads = [head or [self._all] * self._looked]
        for field in order:
            heads.append(list(map(and_, heads[-1], self._alike[field])))
        return heads, list(map(self._level, heads))

    def _level(self, head: Iterable[int]) -> list[float]:
        """For each row looked at: of the rows that begin like it, the part that has this from the cache."""
        return list(map(self._part.__getitem__, map(int.bit_count, head)))

    def _gain(self, field: int, level: Sequence[float], before: Sequence[float]) -> float:
        """Tokens had of this field: its name by all that share what stands before it, its value by fewer."""
        values: float = sum(map(mul, self._values[field], level))
        return values + self._names[field] * sum(before)


def _alike(column: Sequence[str], looked: Sequence[int]) -> list[int]:
    """For each row looked at, the rows of the same value as the bits of a number."""
    values = list(dict.fromkeys(column[row] for row in looked))
    bits: dict[str, int] = {}
    for start in range(0, len(values), VALUES_AT_ONCE):
        numbers = {value: number for number, value in enumerate(values[start : start + VALUES_AT_ONCE], 1)}
        number_of = numbers.get
        rows = bytes([number_of(value, 0) for value in column])
        for value, number in numbers.items():
            ones = bytearray(b"0" * 256)
            ones[number] = ord("1")
            bits[value] = int(rows.translate(ones), 2)
    return [bits[column[row]] for row in looked]
