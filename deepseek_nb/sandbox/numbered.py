"""Answers by number: where the system message asks for lines with the number of an option, these are written.

The form is read from the message as a model would: ``risk: the number of one of {"1":"good","2":"bad"}``
after "Answer with one line" (or how many lines). Other lines ask for a number or a text; bounds and the like
stand behind, as JSON.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from deepseek_nb.sandbox.filling import fill

__all__ = ["Lines", "find_lines", "told_lines", "write_lines"]

Lines = tuple[tuple[str, dict[str, Any], dict[str, Any] | None], ...]
"""For each line: the field's name, the schema of its value, and the options by number if it has some."""

_ASKED = re.compile(r"^Answer with (?:one line|\d+ lines)\b[^\n]*:\n", re.MULTILINE)
_FIELD = re.compile(r"(.+?): (?:the number of one of (?=\{)|a whole (number)|a (number|text))(.*)")
_KINDS = {"number": "number", "text": "string"}


@lru_cache(maxsize=256)
def find_lines(system: str) -> Lines:
    """What lines a system message asks for; none where it asks for something else."""
    asked = _ASKED.search(system)
    if asked is None:
        return ()
    found: list[tuple[str, dict[str, Any], dict[str, Any] | None]] = []
    for line in system[asked.end() :].split("\n"):
        field = _FIELD.fullmatch(line.strip())
        if field is None:
            break
        name, whole, plain, rest = field.groups()
        if whole or plain:
            kind = {"type": "integer" if whole else _KINDS[plain]}
            found.append((name, kind | (json.loads(rest[2:]) if rest else {}), None))
        else:
            options, _ = json.JSONDecoder().raw_decode(rest)
            found.append((name, {"enum": list(options.values())}, options))
    return tuple(found)


def write_lines(lines: Lines, text: str) -> str:
    """The answer to a text: the values a schema of these fields would be filled with, options by number."""
    schema = {"type": "object", "properties": {name: kind for name, kind, _ in lines}}
    return told_lines(lines, fill(schema, text))


def told_lines(lines: Lines, values: dict[str, Any]) -> str:
    """These values as lines, options by number; nothing where a value is missing or none of the options."""
    told = [_said(values.get(name), options) for name, _, options in lines]
    return "" if None in told else "\n".join(map(str, told))


def _said(value: Any, options: dict[str, Any] | None) -> str | None:
    if options is None:
        return None if value is None else str(value).replace("\n", " ")
    return next((number for number, option in options.items() if option == value), None)
