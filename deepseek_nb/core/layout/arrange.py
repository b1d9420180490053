"""The order in which a job's rows are sent: equal beginnings side by side, their leaders first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from deepseek_nb.core.layout.estimate import led_tokens
from deepseek_nb.core.layout.field_tokens import CountField, FieldTokens
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
REACHES = 16
"""Places in a block where the row may begin."""
REACHES_COUNTED = 4
"""So many of them, the best by what is foretold from some rows, are counted for all rows."""
SAFE_TOKENS = 2
"""What two rows share has to reach this far behind a block, to be sure that it has the whole block."""


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
    count_field: CountField,
    *,
    prefix_tokens: int = 0,
    order_tokens: int = 0,
    block: int = BLOCK_TOKENS,
) -> Arrangement:
    """Find the order for distinct rows, given as columns of the texts that are sent.

    ``extra_chars`` is what else a row has for each field, ``count_field`` counts the tokens of one.
    ``prefix_tokens`` is the static beginning before it is filled up, ``order_tokens`` what that has more
    where the fields are not sent as they are given. The rows stay as they are where what they share would
    not fill blocks of the server's cache. What an order of fields is worth, and where a block ends best,
    before the row or some way into it, is judged by the tokens that are paid then.
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
    texts = [FieldTokens(partial(count_field, field), extra) for field, extra in enumerate(extra_chars)]
    groups = Groups(columns, texts)
    orders.append(groups.better(max(orders, key=groups.repeated_tokens)))
    foretold = {order: _paid_in_groups(groups, order, statics(order), block) for order in orders}
    order = min(orders, key=lambda order: min(foretold[order].values()))

    rows, shared = shared_fields(columns, order)
    tokens = _shared_tokens(columns, texts, order, rows, shared)
    counted: list[tuple[float, int, list[int]]] = []
    for reach in sorted(foretold[order], key=foretold[order].__getitem__)[:REACHES_COUNTED]:
        static = statics(order)[reach]
        blocks = _blocks(tokens, static, block)
        hits = led_tokens(blocks, prefix_tokens=0, block=block) / block
        counted.append((_paid(static, hits / count, block), reach, blocks))
    paid, reach, blocks = min(counted)
    if paid > statics(plain.fields)[0] * (1 - CACHED_SAVES) - LEAST_TOKENS:
        return plain
    return Arrangement(order, rows, blocks, waves(blocks), reach)


def _paid_in_groups(
    groups: Groups, order: Sequence[int], static_at: Mapping[int, int], block: int
) -> dict[int, float]:
    """What a row pays in the mean, in uncached tokens, by how far a block reaches into it."""
    firsts = [block - static % block + SAFE_TOKENS for static in static_at.values()]
    hits = groups.block_hits(order, firsts, block)
    return {
        reach: _paid(static, more, block)
        for (reach, static), more in zip(static_at.items(), hits, strict=True)
    }


def _paid(static: int, more_blocks: float, block: int) -> float:
    """The static beginning without what the cache has of it, and of ``more_blocks`` behind it."""
    return static - (static // block + more_blocks) * block * CACHED_SAVES


def _shared_tokens(
    columns: Sequence[Sequence[str]],
    texts: Sequence[FieldTokens],
    order: Sequence[int],
    rows: Sequence[int],
    shared: Sequence[int],
) -> list[float]:
    """For each row in order, the tokens that it certainly has in common with the one before."""
    sent = [(columns[field], texts[field]) for field in order]
    found: list[float] = []
    heads = [0.0]  # tokens of the row up to each field, as far as it shares them with the one before
    before = rows[0]
    for row, fields in zip(rows, shared, strict=True):
        del heads[fields + 1 :]
        for column, tokens in sent[len(heads) - 1 : fields]:
            heads.append(heads[-1] + tokens[column[row]])
        alike = 0.0
        if fields < len(sent):  # the name of the first field that differs, and how its value begins
            column, tokens = sent[fields]
            alike = tokens.begun(column[row], _alike(column[before], column[row]))
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
    """How many blocks behind the static beginning each row shares with the one before."""
    begun = static % block
    blocks = [int(begun + tokens) // block for tokens in shared_tokens]
    blocks[0] = 0
    return blocks
