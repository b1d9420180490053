"""The tokens that a field takes in a row: counted for some of its texts, told by length for the others."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["CountField", "FieldTokens"]

COUNTED = 128
COUNTED_CHARS = 100_000
"""Of a field so many texts are counted, or as many as have so many characters: more are mostly of a kind."""
CountField = Callable[[int, str | None], float]
"""Of a field, by position, and a text of its column: the tokens that a row has more with it.

For None: what all texts of the field have before them, its name and marks.
"""


class FieldTokens(dict[str, float]):
    """Tokens of a field by its text; ``name`` are those before any text, which are part of them.

    >>> found = FieldTokens(lambda text: 2 + len(text or "") / 4, 5)
    >>> found["good"], found.name, found.begun("good", 2)
    (3.0, 2.0, 2.5)
    """

    def __init__(self, count: Callable[[str | None], float], extra_chars: int) -> None:
        super().__init__()
        self._count = count
        self._extra_chars = extra_chars
        self._chars = self._tokens = 0.0
        self.name = max(0.0, count(None))

    def __missing__(self, text: str) -> float:
        chars = len(text) + self._extra_chars
        if len(self) < COUNTED and self._chars < COUNTED_CHARS:
            tokens = self._count(text)
            self._chars += chars
            self._tokens += tokens
        else:
            tokens = chars * self._tokens / max(1.0, self._chars)
        self[text] = tokens
        return tokens

    def begun(self, text: str, chars: int) -> float:
        """The tokens of its name and of so many characters of this text."""
        return self.name + max(0.0, self[text] - self.name) * chars / max(1, len(text))
