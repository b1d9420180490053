"""A text as the tokens of DeepSeek's vocabulary, split here so that each word is looked up once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import chain

__all__ = ["Vocabulary"]

_DIGITS = re.compile(r"([0-9]{1,3})")
_PUNCTUATION = r"!-/:-@\[-`{-~"
_WORD = re.compile(
    rf"[{_PUNCTUATION}][A-Za-z]+|[^\r\nA-Za-z{_PUNCTUATION}]?[A-Za-z]+"
    rf"| ?[{_PUNCTUATION}]+[\r\n]*|\s*?[\r\n]+|\s+|."
)


class Vocabulary:
    """Counts by ``encode``, which gives the numbers of a text's tokens.

    The vocabulary's own splitting is slow in Python. ASCII text is split here by the same rules (digits
    by three, then words, marks and blanks).
    """

    def __init__(self, encode: Callable[[str], Iterable[int]]) -> None:
        self._encode = encode
        self._word = lru_cache(maxsize=65536)(self._looked_up)
        self.ids = lru_cache(maxsize=2048)(self._ids)
        """The tokens of a text, by number."""

    def count(self, text: str) -> int:
        """Tokens of a text."""
        return len(self.ids(text))

    def _looked_up(self, text: str) -> tuple[int, ...]:
        return tuple(self._encode(text))

    def _ids(self, text: str) -> tuple[int, ...]:
        if not text.isascii() or "<" in text:
            return self._looked_up(text)
        runs = _DIGITS.split(text)
        words = chain.from_iterable((run,) if run.isdigit() else _WORD.findall(run) for run in runs if run)
        return tuple(chain.from_iterable(map(self._word, words)))
