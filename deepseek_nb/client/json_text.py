"""The JSON in an answer's text, with light repairs that cannot change what it says."""

from __future__ import annotations

import re
from typing import Any

import jiter

__all__ = ["Mend", "read_json"]

Mend = str
"""What was done to a text before it could be read: "fence", "prose" or "comma"."""

_FENCE = re.compile(r"```[a-zA-Z]*")
_STRING_OR_COMMA = re.compile(r'("(?:[^"\\]|\\.)*")|,(?=\s*[}\]])', re.DOTALL)


def read_json(text: str) -> tuple[Any, tuple[Mend, ...]]:
    r"""The value of a JSON text, and what had to be mended to read it (mostly nothing).

    Mended is only what leaves one reading: a code fence or prose around one object is cut off, and a comma
    before a closing bracket is left out. A text that is cut short, holds two objects or has single quotes
    is not guessed at. Raises ValueError, about the text as it came, where it cannot be read.

    >>> read_json('Here it is:\n```json\n{"risk": "low",}\n```')
    ({'risk': 'low'}, ('fence', 'prose', 'comma'))
    """
    text = text.strip()
    try:
        return _parsed(text), ()
    except ValueError as first:
        inner, mends = _object_in(text)
        try:
            return (_parsed(inner), mends) if mends else _without_commas(text, ())
        except ValueError:
            try:
                return _without_commas(inner, mends)
            except ValueError:
                raise first from None


def _parsed(text: str) -> Any:
    return jiter.from_json(text.encode("utf-8", "replace"), allow_inf_nan=False)


def _object_in(text: str) -> tuple[str, tuple[Mend, ...]]:
    """From the first brace to the last one: with a second object between them it does not parse."""
    start, end = text.find("{"), text.rfind("}") + 1
    before, after = text[:start].rstrip(), text[end:].strip()
    if start < 0 or end <= start or not (before or after) or before.endswith(("[", ",")):
        return text, ()
    around = f"{before}\n{after}"
    fenced = _FENCE.sub("", around)
    mends = ("fence",) if fenced != around else ()
    return text[start:end], (*mends, "prose") if fenced.strip() else mends


def _without_commas(text: str, mends: tuple[Mend, ...]) -> tuple[Any, tuple[Mend, ...]]:
    return _parsed(_STRING_OR_COMMA.sub(r"\1", text)), (*mends, "comma")
