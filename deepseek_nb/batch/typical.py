"""How long an answer will be, and how long it can be: from the schema, where it leaves little open."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from deepseek_nb.batch.numbered import NumberedSchema
from deepseek_nb.client.structured import Schema
from deepseek_nb.core.tokens import estimate_tokens

__all__ = ["answer_tokens", "least_answer", "longest_tokens"]

TEXT_TOKENS = 40
"""What a text in a field is taken to be, within its own bounds."""
FREE_TOKENS = 100
"""What an answer without a schema is taken to be."""
WORD = "a"
"""A value of one token; quotes around nothing are fewer tokens than around something."""
NUMBER_CHARS = 24
"""No number of a checked answer is written longer than this."""
_TEXT = " ".join(["word"] * TEXT_TOKENS)
_DEPTH = 6
_INDENT = "\n" + " " * 8


def answer_tokens(schema: Schema | None, count: Callable[[str], int]) -> float:
    """Tokens of a typical answer; of options all are taken to be as likely."""
    if schema is None:
        return FREE_TOKENS
    root = schema.json_schema
    if isinstance(schema, NumberedSchema):
        lines = [_mean(field, root, count, numbered=True) for field in root["properties"].values()]
        return sum(lines) + len(lines) - 1
    frame = json.dumps(dict.fromkeys(root["properties"], WORD), separators=(",", ":"), ensure_ascii=False)
    values = sum(_mean(field, root, count, numbered=False) for field in root["properties"].values())
    return count(frame) + values


def least_answer(schema: Schema | None) -> str:
    """A short answer that ends as one that fits does: in a text, or not."""
    last: Any = {} if schema is None else list(schema.json_schema["properties"].values())[-1]
    if schema is not None and isinstance(last, Mapping) and isinstance(last.get("$ref"), str):
        last = schema.json_schema.get("$defs", {}).get(last["$ref"].removeprefix("#/$defs/"), {})
    bare = isinstance(last, Mapping) and last.get("type") in ("integer", "number", "boolean")
    return _with(1 if bare else WORD)


def longest_tokens(schema: Schema | None) -> int | None:
    """Tokens of the longest answer that fits, indented, rather too many; None where nothing bounds it.

    >>> from typing import Literal
    >>> from deepseek_nb.client.structured import Schema
    >>> longest_tokens(Schema.of({"mood": Literal["good", "bad"], "score": int}))
    32
    >>> longest_tokens(Schema.of({"mood": str})) is None
    True
    """
    if schema is None:
        return None
    chars = _longest({"type": "object", **schema.json_schema}, schema.json_schema, depth=0)
    return None if chars is None else estimate_tokens(chars)


def _longest(field: Mapping[str, Any], root: Mapping[str, Any], *, depth: int) -> str | None:
    """The longest text that the field's value can be written as; None: nothing bounds it."""
    if not isinstance(field, Mapping):  # true: any value
        return None
    ref = field.get("$ref")
    if isinstance(ref, str):
        field = root.get("$defs", {}).get(ref.removeprefix("#/$defs/"), {})
    options = field.get("enum") or ([field["const"]] if "const" in field else None)
    if options:
        return max((json.dumps(option, indent=4) for option in options), key=estimate_tokens)
    if depth == _DEPTH:
        return None
    kinds = field.get("anyOf") or field.get("oneOf")
    if kinds:
        return _longest_of([_longest(kind, root, depth=depth + 1) for kind in kinds])
    match field.get("type"):
        case "boolean" | "null":
            return "false"
        case "integer" | "number":
            return "9" * NUMBER_CHARS
        case "string" if (most := field.get("maxLength")) is not None:
            return json.dumps("\U0001f600" * most, ensure_ascii=False)
        case "array" if (most := field.get("maxItems")) is not None:
            each = _longest(field.get("items", {}), root, depth=depth + 1)
            return None if each is None else "[" + f"{_INDENT}{each}," * most + "]"
        case "object" if field.get("properties") and not field.get("additionalProperties"):
            values = [_longest(one, root, depth=depth + 1) for one in field["properties"].values()]
            if None in values:
                return None
            names = map(json.dumps, field["properties"])
            lines = (f"{_INDENT}{name}: {value}," for name, value in zip(names, values, strict=True))
            return "{" + "".join(lines) + "\n}"
        case _:
            return None


def _longest_of(texts: list[str | None]) -> str | None:
    known = [text for text in texts if text is not None]
    return max(known, key=estimate_tokens) if len(known) == len(texts) else None


def _mean(
    field: Mapping[str, Any],
    root: Mapping[str, Any],
    count: Callable[[str], int],
    *,
    numbered: bool,
    depth: int = 0,
) -> float:
    """Tokens that the field's value has more than the one word it stands for; by number, all of its own."""
    if not isinstance(field, Mapping):  # true: any value
        return 0.0
    ref = field.get("$ref")
    if isinstance(ref, str):
        field = root.get("$defs", {}).get(ref.removeprefix("#/$defs/"), {})

    def more(value: Any) -> int:
        return count(_with(value)) - count(_with(WORD))

    options = field.get("enum") or ([field["const"]] if "const" in field else None)
    if options:
        if numbered:
            return fmean(count(str(number)) for number in range(1, len(options) + 1))
        return fmean(map(more, options))
    kinds = field.get("anyOf") or field.get("oneOf")
    if kinds and depth < _DEPTH:
        return _mean(kinds[0], root, count, numbered=numbered, depth=depth + 1)
    match field.get("type"):
        case "string":
            most = field.get("maxLength")
            text = _TEXT if most is None else _TEXT[:most]
            return count(text) if numbered else more(text)
        case "object" if depth < _DEPTH:
            inner = field.get("properties", {})
            return more(dict.fromkeys(inner, WORD)) + sum(
                _mean(one, root, count, numbered=False, depth=depth + 1) for one in inner.values()
            )
        case "array" if depth < _DEPTH:
            each = _mean(field.get("items", {}), root, count, numbered=False, depth=depth + 1)
            return more([WORD] * 3) + 3 * each
        case kind:
            value = {"integer": 1, "number": 0.5}.get(str(kind), True)
            return 1.0 if numbered else more(value)


def _with(value: Any) -> str:
    return json.dumps({"a": value}, separators=(",", ":"), ensure_ascii=False)
