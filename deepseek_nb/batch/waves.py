"""Leaders first: the rows behind wait until those that fill the server's cache are back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from itertools import accumulate, pairwise

from deepseek_nb.batch.spec import Asking
from deepseek_nb.core.chat import Answer, Usage

__all__ = ["Waves", "waves_of"]

SETTLE_S = 2.0
"""The server takes seconds to keep a beginning it has seen."""
SETTLE_ROWS = 20_000
"""A smaller job would wait longer than the discount of its first rows is worth."""


class Waves:
    """Lets the rows of the first wave pass, those of the next once these are back, and so on to the last.

    ``lead`` are the waves, by key; all other rows are the last one. ``heard`` is told each answer of a
    leader. One event loop; rows come in the order of the waves, so a row that is held knows that nobody
    it waits for is behind it.
    """

    def __init__(
        self,
        lead: Sequence[Collection[str]] = (),
        *,
        settle_s: float = 0.0,
        heard: Callable[[str, Usage], object] | None = None,
    ) -> None:
        self._wave_of = {key: number for number, wave in enumerate(lead) for key in wave}
        self._settle_s = settle_s
        self._heard = heard
        self._last = len(lead)
        self._wave = 0
        self._here: list[set[str]] = [set() for _ in lead]  # of each wave: came for a turn, not back yet
        self._moved = asyncio.Event()

    @property
    def empty(self) -> bool:
        """Whether nobody leads."""
        return not self._wave_of

    async def turn(self, key: str) -> None:
        """Wait until this row may go."""
        if self._wave == self._last:
            return
        mine = self._wave_of.get(key, self._last)
        if mine < self._last:
            self._here[mine].add(key)
        while any(self._here[:mine]):  # who is back takes its next row at once, before those that wait
            await self._moved.wait()
        if self._settle_s and mine > self._wave:
            await asyncio.sleep(self._settle_s)
        self._wave = max(self._wave, mine)

    def back(self, key: str) -> None:
        """This row is done, failed or given back."""
        mine = self._wave_of.get(key)
        if mine is None or key not in self._here[mine]:
            return
        self._here[mine].discard(key)
        if not self._here[mine]:
            self._moved.set()
            self._moved.clear()

    def hear(self, key: str, body: str, answer: Answer) -> None:
        """An answer came in for this row. One that took a repair, or another server, is of other tokens."""
        as_sent = answer.fingerprint == key and not (answer.cached or answer.repairs)
        if self._heard is not None and key in self._wave_of and as_sent:
            self._heard(body, answer.usage)


def waves_of(keys: Sequence[str], sizes: Sequence[int], asking: Asking) -> Waves:
    """The waves of a job with these rows: so many first, then so many, then the rest.

    Nobody leads where nothing is gained: a job too small for a layout, or one whose rows share no block of
    the cache, neither of the static beginning nor, in groups with leaders of their own, behind it.
    """
    if asking.prefix is None or not (asking.prefix.cached_tokens or len(sizes) > 1):
        return Waves()
    ends = list(accumulate(sizes, initial=0))
    lead = [keys[start:end] for start, end in pairwise(ends)]
    return Waves(lead, settle_s=SETTLE_S if len(keys) >= SETTLE_ROWS else 0.0, heard=asking.calibrate)
