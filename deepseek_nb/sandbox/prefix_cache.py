"""The server's prefix cache: which part of a prompt is cheap because it was there before.

Documented since V4: a prefix is kept as a *unit*, at the end of a prompt and where two requests
are seen to share a beginning, and a hit needs a whole unit. The rule "units" is the one that fits
all 30 published counts of July 2026 (a fit, not documented): each request leaves one unit, the
first ``128 * floor((n - 8) / 128)`` of its n tokens. The rule "strict" takes the guide by its
word: the unit of a request ends with its prompt, so another row behind the same instruction never
hits it, and only the third request of a shared beginning does. Hits are multiples of 128.
``user_id`` isolates. Eviction under load and best-effort misses are not modelled.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from deepseek_nb.sandbox.tokens import BLOCK_TOKENS

__all__ = ["CacheRule", "PrefixCache"]

CacheRule = Literal["units", "strict"]

NOT_IN_THE_UNIT_TOKENS = 8
"""The k of the fit; any value from 5 to 13 fits as well."""
KEPT_UNITS = 200_000
"""Oldest first, what is beyond this is forgotten, so that a long run does not eat the memory."""


class PrefixCache:
    """Units by user, each ready ``settle_s`` after its request, and for ``expiry_s`` from then."""

    def __init__(
        self, rule: CacheRule = "units", *, settle_s: float = 0.0, expiry_s: float = 24 * 3600.0
    ) -> None:
        if rule not in ("units", "strict"):
            raise ValueError(f"cache_rule={rule!r} is unknown: say 'units' or 'strict'.")
        self.rule = rule
        self.settle_s = settle_s
        self.expiry_s = expiry_s
        self._units: OrderedDict[tuple[str | None, int], float] = OrderedDict()  # (user, digest): ready at
        self._whole: OrderedDict[tuple[str | None, int, int], float] = OrderedDict()  # ... and prompt hash
        self._seen: OrderedDict[tuple[str | None, int], None] = OrderedDict()

    def hit_tokens(
        self, user_id: str | None, tokens: int, blocks: tuple[int, ...], prompt_hash: str, now_s: float
    ) -> int:
        """Tokens of this prompt that are in the cache now.

        ``blocks`` digests its first 128, 256, ... tokens.
        """
        if self.rule == "strict" and blocks:
            ready_s = self._whole.get((user_id, blocks[-1], hash(prompt_hash)))
            if ready_s is not None and ready_s <= now_s < ready_s + self.expiry_s:
                return self._cap(len(blocks), tokens)
        for count in range(len(blocks), 0, -1):
            ready_s = self._units.get((user_id, blocks[count - 1]))
            if ready_s is not None and ready_s <= now_s < ready_s + self.expiry_s:
                return self._cap(count, tokens)
        return 0

    def _cap(self, blocks: int, tokens: int) -> int:
        # at least one token has to be computed to answer at all
        return BLOCK_TOKENS * (blocks - 1 if blocks * BLOCK_TOKENS >= tokens else blocks)

    def store(
        self, user_id: str | None, tokens: int, blocks: tuple[int, ...], prompt_hash: str, now_s: float
    ) -> None:
        """Keep what a prompt that was computed leaves behind."""
        ready_s = now_s + self.settle_s
        if self.rule == "units":
            own = (tokens - NOT_IN_THE_UNIT_TOKENS) // BLOCK_TOKENS
            if 0 < own <= len(blocks):
                self._keep((user_id, blocks[own - 1]), ready_s, now_s)
        elif blocks:
            self._whole.setdefault((user_id, blocks[-1], hash(prompt_hash)), ready_s)
            _trim(self._whole)
        for count in range(len(blocks), 0, -1):  # the longest beginning shared with an earlier request
            key = (user_id, blocks[count - 1])
            if key in self._seen:
                self._seen.move_to_end(key)
                if self.rule == "units" or not self._is_repeat(user_id, blocks, prompt_hash, ready_s):
                    self._keep(key, ready_s, now_s)
                break
        for digest in blocks:
            self._seen[(user_id, digest)] = None
        _trim(self._seen)

    def _is_repeat(
        self, user_id: str | None, blocks: tuple[int, ...], prompt_hash: str, ready_s: float
    ) -> bool:
        known_s = self._whole.get((user_id, blocks[-1], hash(prompt_hash)), ready_s)
        return known_s < ready_s

    def _keep(self, key: tuple[str | None, int], ready_s: float, now_s: float) -> None:
        known_s = self._units.get(key)
        if known_s is None or now_s >= known_s + self.expiry_s:
            self._units[key] = ready_s
        _trim(self._units)


def _trim(
    kept: OrderedDict[tuple[str | None, int], float]
    | OrderedDict[tuple[str | None, int, int], float]
    | OrderedDict[tuple[str | None, int], None],
) -> None:
    while len(kept) > KEPT_UNITS:
        kept.popitem(last=False)
