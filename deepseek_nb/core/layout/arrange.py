"""The order in which a job's rows are sent: equal beginnings side by side, their leaders first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deepseek_nb.core.layout.estimate import led_tokens, sampled
from deepseek_nb.core.layout.order import best_order, shared_fields
from deepseek_nb.core.layout.prefix import BLOCK_TOKENS
from deepseek_nb.core.layout.waves import LEADERS, waves

__all__ = ["Arrangement", "arrange", "as_given"]

FEWEST_ROWS = 64
"""A smaller job is not worth an order."""
LEAST_TOKENS = 2.0
"""Uncached tokens that another order must save a row, in the mean, to be worth it."""
CACHED_SAVES = 0.98
"""The part of a token's price that is saved where the cache has it."""
WINDOWS, WINDOW_ROWS = 8, 500
"""Of a large table so many runs of so many rows are looked at."""
REACHES = 8
"""Places in a block where the row may begin."""
MEASURED_ROWS = 12
"""How many rows are counted field by field: the tokens of a field differ little for their characters."""
SAFE_TOKENS = 2
"""What two rows share has to reach this far behind a block, to be sure that it has the whole block."""

CountHeads = Callable[[int, Sequence[int]], Sequence[int]]
"""Of a row, and an order of fields: the tokens up to the end of the first, second, ... field."""


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How distinct rows are sent.

    ``fields`` is the order of the fields, ``rows`` the places of the rows in which equal beginnings stand
    side by side, ``blocks[i]`` how many blocks of the cache row ``rows[i]`` shares with the one before, and
    ``waves`` which of ``rows`` lead, by position, each wave waited for. The row begins ``reach`` tokens
    before a block of the cache ends: what neighbours share then fills that block.
    """

    fields: tuple[int, ...]
    rows: Sequence[int]
    blocks: Sequence[int]
    waves: tuple[tuple[int, ...], ...]
    reach: int = 0

    @property
    def sent(self) -> list[int]:
        """The places of the rows in the order of sending: leaders, then the others."""
        lead = [place for wave in self.waves for place in wave]
        led = set(lead)
        return [self.rows[place] for place in lead] + [
            row for place, row in enumerate(self.rows) if place not in led
        ]


def as_given(rows: int, fields: int) -> Arrangement:
    """Nothing moved: the first two rows lead."""
    return Arrangement(tuple(range(fields)), range(rows), bytes(rows), (tuple(range(min(LEADERS, rows))),))


def arrange(
    columns: Sequence[Sequence[str]],
    extra_chars: Sequence[int],
    count_heads: CountHeads,
    *,
    prefix_tokens: int = 0,
    block: int = BLOCK_TOKENS,
) -> Arrangement:
    """Find the order for distinct rows, given as columns of the texts that are sent.

    ``extra_chars`` is what else a row has for each field, ``prefix_tokens`` the static beginning before it
    is filled up. The rows stay as they are where what they share would not fill blocks of the server's
    cache. Where a block ends best, before the row or some way into it, is tried on a part of the rows.
    """
    count = len(columns[0]) if columns else 0
    plain = as_given(count, len(columns))
    if count < FEWEST_ROWS or len(columns) < 2 or not block:
        return plain
    mean_chars = sum(sum(map(len, column)) for column in columns) / count + sum(extra_chars)
    if mean_chars < block:
        return plain
    order = best_order(columns, extra_chars).fields
    weights = _tokens_a_char(columns, extra_chars, count_heads, order)
    rows, shared = shared_fields(columns, order)
    tokens = _shared_tokens(columns, extra_chars, weights, order, rows, shared)
    step = max(1, count // WINDOW_ROWS // WINDOWS) * WINDOW_ROWS
    windows = [tokens[start : start + WINDOW_ROWS] for start in range(0, count, step)]
    looked = sum(map(len, windows))

    def paid(reach: int) -> float:
        """What a row pays in the mean, in uncached tokens, without what all ways have in common."""
        static = _static_tokens(prefix_tokens, reach, block)
        own = static // block * block
        hits = sum(
            led_tokens(_blocks(window, static, block), prefix_tokens=own, block=block) for window in windows
        )
        return static - hits / looked * CACHED_SAVES

    static = _static_tokens(prefix_tokens, 0, block)
    paid_at = {reach: paid(reach) for reach in range(0, block, max(1, block // REACHES))}
    reach = min(paid_at, key=paid_at.__getitem__)
    if paid_at[reach] > static * (1 - CACHED_SAVES) - LEAST_TOKENS:
        return plain
    blocks = _blocks(tokens, _static_tokens(prefix_tokens, reach, block), block)
    return Arrangement(order, rows, blocks, waves(blocks), reach)


def _shared_tokens(
    columns: Sequence[Sequence[str]],
    extra_chars: Sequence[int],
    weights: Sequence[float],
    order: Sequence[int],
    rows: Sequence[int],
    shared: Sequence[int],
) -> list[float]:
    """For each row in order, the tokens that it certainly has in common with the one before."""
    sent = [(columns[field], extra_chars[field], weights[place]) for place, field in enumerate(order)]
    found: list[float] = []
    heads = [0.0]  # tokens of the row up to each field; those of shared fields are the row's before
    before = rows[0]
    for row, fields in zip(rows, shared, strict=True):
        alike = 0.0
        if fields < len(sent):  # the name of the first field that differs, and how its value begins
            column, extra, weight = sent[fields]
            alike = (extra + _alike(column[before], column[row])) * weight
        del heads[fields + 1 :]
        found.append(max(0.0, heads[-1] + alike - SAFE_TOKENS))
        for column, extra, weight in sent[fields:]:
            heads.append(heads[-1] + (len(column[row]) + extra) * weight)
        before = row
    found[0] = 0.0
    return found


def _alike(one: str, other: str) -> int:
    """How many characters two texts begin with together."""
    count = 0
    for first, second in zip(one, other, strict=False):
        if first != second:
            break
        count += 1
    return count


def _static_tokens(prefix_tokens: int, reach: int, block: int) -> int:
    """The static beginning, filled up so that a block ends ``reach`` tokens into the row."""
    return prefix_tokens + -(prefix_tokens + reach) % block


def _blocks(shared_tokens: Sequence[float], static: int, block: int) -> list[int]:
    own = static // block
    blocks = [int(static + tokens) // block - own for tokens in shared_tokens]
    blocks[0] = 0
    return blocks


def _tokens_a_char(
    columns: Sequence[Sequence[str]],
    extra_chars: Sequence[int],
    count_heads: CountHeads,
    order: Sequence[int],
) -> list[float]:
    """For each field, in that order, the tokens of one of its characters."""
    chars, tokens = [0] * len(order), [0] * len(order)
    for row in sampled(len(columns[0]), MEASURED_ROWS):
        before = 0
        for place, (field, head) in enumerate(zip(order, count_heads(row, order), strict=True)):
            chars[place] += len(columns[field][row]) + extra_chars[field]
            tokens[place] += head - before
            before = head
    return [count / max(1, many) for count, many in zip(tokens, chars, strict=True)]
