"""The static beginning of all requests of a job, filled up to whole blocks of the server's prefix cache.

The server gives its discount in whole blocks (128 tokens, by all counts published since V4). What
stands behind the last whole block of the static beginning is paid in full with every row, so up to
a block of neutral filler, at a fiftieth of the price, saves more than it costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["BLOCK_TOKENS", "Prefix", "filler", "padded"]

BLOCK_TOKENS = 128
BEFORE_THE_ROW_TOKENS = 2
"""Tokens of the static beginning that stand in no text: the begin mark and that of the user's turn."""
LEAST_TAIL_TOKENS = 3
"""A shorter end behind the last whole block costs less than filling up its block."""
UNIT = " ."
"""One token each, however many follow one another: a blank and a mark are split off before merging."""
NOTE = "\n\nWhat follows is filler without meaning:"


@dataclass(frozen=True, slots=True)
class Prefix:
    """A static text and how many tokens of a request stand before the row, by our count."""

    text: str
    tokens: int
    block: int = BLOCK_TOKENS

    @property
    def cached_tokens(self) -> int:
        """How many of them the server's cache can hold."""
        return self.tokens // self.block * self.block if self.block else 0


def filler(tokens: int, count: Callable[[str], int], before: str = "") -> str:
    """A neutral text that adds ``tokens`` tokens to ``before``, as exactly as ``count`` can tell.

    It says what it is where there is room for that.
    """
    if tokens <= 0:
        return ""
    start = count(before)
    for note in (NOTE, "\n\n", ""):
        units = tokens - (count(before + note) - start)
        if units < 0:
            continue
        text = note + UNIT * units
        for _ in range(4):  # an estimate weighs a unit otherwise: corrected by what it says
            off = tokens - (count(before + text) - start)
            if off == 0 or units + off < 0:
                break
            units += off
            text = note + UNIT * units
        return text
    return UNIT * tokens


def padded(
    text: str,
    count: Callable[[str], int],
    *,
    block: int = BLOCK_TOKENS,
    reach: int = 0,
    scale: float = 1.0,
    offset_tokens: int = 0,
    margin_tokens: int = 0,
) -> Prefix:
    """Fill ``text`` up so that the row begins where a block of the cache does, or ``reach`` tokens earlier.

    ``block=0`` leaves it as it is. ``scale`` is how many tokens the server counts for one of ours
    (see :func:`~deepseek_nb.core.layout.estimate.scale_of`), ``margin_tokens`` how far to overshoot where
    the count is an estimate: a few tokens too many cost a few tokens, one too few costs the whole block.
    ``offset_tokens`` is what the server counts beside the text.

    >>> padded("Rate it.", lambda text: len(text.split()), block=0).text
    'Rate it.'
    """

    def billed(more: str) -> int:
        return round(count(more) * scale) + BEFORE_THE_ROW_TOKENS + offset_tokens

    tokens = billed(text)
    tail = (tokens + reach - margin_tokens) % block if block else 0
    if tail < LEAST_TAIL_TOKENS:
        return Prefix(text, tokens, block)
    whole = text + filler(round((block - tail) / scale), count, text)
    return Prefix(whole, billed(whole), block)
