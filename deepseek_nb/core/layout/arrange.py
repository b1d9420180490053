"""The order in which a job's rows are sent: equal beginnings side by side, their leaders first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from deepseek_nb.core.layout.estimate import led_tokens, sampled
from deepseek_nb.core.layout.groups import Groups
from deepseek_nb.core.layout.order import first_orders, shared_fields
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
REACHES = 16
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
    order_tokens: int = 0,
    block: int = BLOCK_TOKENS,
) -> Arrangement:
    """Find the order for distinct rows, given as columns of the texts that are sent.

    ``extra_chars`` is what else a row has for each field, ``prefix_tokens`` the static beginning before it
    is filled up, and ``order_tokens`` what that has more where the fields are not sent as they are given.
    The rows stay as they are where what they share would not fill blocks of the server's cache. What an
    order of fields is worth, and where a block ends best, before the row or some way into it, is judged by
    the tokens that are paid then.
    """
    count = len(columns[0]) if columns else 0
    plain = as_given(count, len(columns))
    if count < FEWEST_ROWS or len(columns) < 2 or not block:
        return plain
    mean_chars = sum(sum(map(len, column)) for column in columns) / count + sum(extra_chars)
    if mean_chars < block:
        return plain

    def statics(order: Sequence[int]) -> dict[int, int]:
        """The tokens of the static beginning by how far a block reaches into the row."""
        tokens = prefix_tokens + (0 if tuple(order) == plain.fields else order_tokens)
        return {
            reach: _static_tokens(tokens, reach, block) for reach in range(0, block, max(1, block // REACHES))
        }

    orders = first_orders(columns, extra_chars)
    weights = _tokens_a_char(columns, extra_chars, count_heads, orders[-1])
    groups = Groups(columns, extra_chars, weights)
    orders.append(groups.better(max(orders, key=groups.repeated_tokens)))
    paid_for = {order: _paid_in_groups(groups, order, statics(order).values(), block) for order in orders}
    order = min(orders, key=paid_for.__getitem__)

    rows, shared = shared_fields(columns, order)
    tokens = _shared_tokens(columns, extra_chars, weights, order, rows, shared)
    step = max(1, count // WINDOW_ROWS // WINDOWS) * WINDOW_ROWS
    windows = [tokens[start : start + WINDOW_ROWS] for start in range(0, count, step)]
    static_at = statics(order)
    paid_at = {reach: _paid_in_windows(windows, static, block) for reach, static in static_at.items()}
    reach = min(paid_at, key=paid_at.__getitem__)
    if paid_at[reach] > statics(plain.fields)[0] * (1 - CACHED_SAVES) - LEAST_TOKENS:
        return plain
    blocks = _blocks(tokens, static_at[reach], block)
    return Arrangement(order, rows, blocks, waves(blocks), reach)


def _paid_in_groups(groups: Groups, order: Sequence[int], statics: Iterable[int], block: int) -> float:
    """What a row pays in the mean, in uncached tokens, behind the best of these static beginnings."""
    statics = list(statics)
    firsts = [block - static % block + SAFE_TOKENS for static in statics]
    hits = groups.block_hits(order, firsts, block)
    return min(_paid(static, more, block) for static, more in zip(statics, hits, strict=True))


def _paid_in_windows(windows: Sequence[Sequence[float]], static: int, block: int) -> float:
    """The same for one static beginning, by the tokens that rows share with the one before, side by side."""
    blocks = [_blocks(window, static, block) for window in windows]
    hits = sum(led_tokens(window, prefix_tokens=0, block=block) for window in blocks) / block
    return _paid(static, hits / sum(map(len, windows)), block)


def _paid(static: int, more_blocks: float, block: int) -> float:
    """The static beginning without what the cache has of it, and of ``more_blocks`` behind it."""
    return static - (static // block + more_blocks) * block * CACHED_SAVES


def _shared_tokens(
    columns: Sequence[Sequence[str]],
    extra_chars: Sequence[int],
    weights: Sequence[float],
    order: Sequence[int],
    rows: Sequence[int],
    shared: Sequence[int],
) -> list[float]:
    """For each row in order, the tokens that it certainly has in common with the one before."""
    sent = [(columns[field], extra_chars[field], weights[field]) for field in order]
    found: list[float] = []
    heads = [0.0]  # tokens of the row up to each field, as far as it shares them with the one before
    before = rows[0]
    for row, fields in zip(rows, shared, strict=True):
        del heads[fields + 1 :]
        for column, extra, weight in sent[len(heads) - 1 : fields]:
            heads.append(heads[-1] + (len(column[row]) + extra) * weight)
        alike = 0.0
        if fields < len(sent):  # the name of the first field that differs, and how its value begins
            column, extra, weight = sent[fields]
            alike = (extra + _alike(column[before], column[row])) * weight
        found.append(max(0.0, heads[fields] + alike - SAFE_TOKENS))
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
    """For each field the tokens of one of its characters, as it is sent in that order."""
    chars, tokens = [0] * len(order), [0] * len(order)
    for row in sampled(len(columns[0]), MEASURED_ROWS):
        before = 0
        for field, head in zip(order, count_heads(row, order), strict=True):
            chars[field] += len(columns[field][row]) + extra_chars[field]
            tokens[field] += head - before
            before = head
    return [count / max(1, many) for count, many in zip(tokens, chars, strict=True)]
