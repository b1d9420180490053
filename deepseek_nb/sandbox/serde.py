"""Where in a JSON body something is wrong, in the words and columns of the real server's parser."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["describe", "parse_trouble", "position"]

_BLANKS = re.compile(r"[ \t\n\r]*")
_LAST_KEY = re.compile(r'"((?:[^"\\]|\\.)*)"\s*:\s*[^,{}\[\]"]*$')
_DECODER = json.JSONDecoder()


def describe(value: Any) -> str:
    """The kind of a value, as the parser calls it.

    >>> describe({}), describe("a"), describe(3)
    ('map', 'string "a"', 'integer `3`')
    """
    match value:
        case None:
            return "null"
        case bool():
            return f"boolean `{str(value).lower()}`"
        case int():
            return f"integer `{value}`"
        case float():
            return f"floating point `{value}`"
        case str():
            return f"string {json.dumps(value, ensure_ascii=False)}"
        case list():
            return "sequence"
        case _:
            return "map"


def parse_trouble(text: str) -> str:
    """The parser's message for a body that is not JSON.

    >>> parse_trouble('{"model":')
    'model: EOF while parsing a value at line 1 column 9'
    """
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        if error.pos >= len(text.rstrip()) or "Unterminated" in error.msg:
            kind = "a string" if "Unterminated" in error.msg else _unclosed(error.msg)
            line, column = _at(text, len(text))
            key = _LAST_KEY.search(text)
            path = f"{key[1]}: " if key else ""
            return f"{path}EOF while parsing {kind} at line {line} column {column}"
        line, column = _at(text, error.pos + 1)
        return f"expected value at line {line} column {column}"
    return "recursion limit exceeded at line 1 column 128"


def _unclosed(message: str) -> str:
    if "delimiter" in message or "property name" in message:
        return "an object"
    return "a value"


def position(text: str, path: tuple[str | int, ...], *, end: bool) -> str:
    """Where the value at ``path`` stands in a JSON text: before it, or behind it.

    >>> position('{"messages":{}}', ("messages",), end=False)
    'line 1 column 12'
    """
    at = _skip(text, 0)
    for step in path:
        at = _enter(text, at, step)
    if end:
        at = _DECODER.raw_decode(text, at)[1]
    line, column = _at(text, at)
    return f"line {line} column {column}"


def _at(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    line_start = before.rfind("\n") + 1
    return before.count("\n") + 1, len(before[line_start:].encode("utf-8", "replace"))


def _skip(text: str, at: int) -> int:
    blanks = _BLANKS.match(text, at)
    return blanks.end() if blanks else at


def _enter(text: str, at: int, step: str | int) -> int:
    """The offset of a member's or an item's value inside the container that begins at ``at``."""
    at = _skip(text, at + 1)
    seen = 0
    found = at
    while text[at] not in "}]":
        if isinstance(step, str):
            key, at = _DECODER.raw_decode(text, at)
            at = _skip(text, _skip(text, at) + 1)
            if key == step:
                found = at
        elif seen == step:
            return at
        at = _skip(text, _DECODER.raw_decode(text, at)[1])
        if text[at] == ",":
            at = _skip(text, at + 1)
        seen += 1
    return found
