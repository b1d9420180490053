"""Packs: several rows in one request, and each row's answer out of the one that comes back.

A row of a pack is a line ``{"id": 1, "row": ...}``, its answer an element ``{"id": 1, "answer": ...}``. An
answer counts for the row whose number it bears, whatever came of its neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jiter

from deepseek_nb.client.json_text import read_json
from deepseek_nb.client.structured import Schema
from deepseek_nb.core.chat import Answer, Usage

__all__ = ["MOST_ROWS", "PACK_RULE", "pack_answer", "pack_message", "pack_schema", "parts_of", "unpacked"]

MOST_ROWS = 50
ANSWERS = "answers"
PACK_RULE = (
    "The message holds several rows, one on each line: a JSON object with the row's id and the row itself. "
    "Answer for each row on its own, as if it were the only one, and give every answer the id of its row."
)


def pack_schema(schema: Schema | None) -> Schema:
    """The shape of a pack's answer: answers of the row's shape (texts without one), each with its row's id.

    >>> pack_schema(Schema.of({"label": str})).columns
    ('answers',)
    """
    shape: dict[str, Any] = {"type": "string"}
    around: dict[str, Any] = {}
    if schema is not None:
        shape = dict(schema.json_schema)
        around = {word: shape.pop(word) for word in ("$defs", "definitions") if word in shape}
    element = {
        "type": "object",
        "properties": {"id": {"type": "integer"}, "answer": shape},
        "required": ["id", "answer"],
        "additionalProperties": False,
    }
    told = {
        "type": "object",
        "properties": {ANSWERS: {"type": "array", "items": element}},
        "required": [ANSWERS],
        "additionalProperties": False,
    }
    return Schema(f"pack of {schema.name if schema else 'texts'}", {**told, **around}, None)


def pack_message(rows: Sequence[str], *, as_json: bool) -> str:
    """The user message of a pack. ``as_json``: the rows are JSON already.

    >>> pack_message(["Ann is late.", "Bob is not."], as_json=False).splitlines()[1]
    '{"id":2,"row":"Bob is not."}'
    """
    texts = rows if as_json else [json.dumps(row, ensure_ascii=False) for row in rows]
    return "\n".join(f'{{"id":{number},"row":{text}}}' for number, text in enumerate(texts, 1))


def pack_answer(answers: Sequence[str]) -> str:
    """The answer to a pack of rows with these answers, as JSON texts: what :func:`unpacked` reads."""
    elements = (f'{{"id":{number},"answer":{text}}}' for number, text in enumerate(answers, 1))
    return f'{{"{ANSWERS}":[{",".join(elements)}]}}'


def unpacked(text: str, count: int) -> dict[int, str]:
    """The answers in a pack's answer, as each row alone would have been answered, by place (from 0).

    What was cut off in the middle gives the answers that are whole. An id that is none of the pack's, or
    comes twice, gives none: nobody knows which row is meant. Nor does null. Empty where nothing can be read.

    >>> unpacked('{"answers":[{"id":2,"answer":{"a":1}},{"id":7,"answer":{"a":2}},{"id":1,"answer":{"a', 2)
    {1: '{"a":1}'}
    """
    found: dict[int, str] = {}
    twice: set[int] = set()
    for element in _elements(text):
        if not isinstance(element, dict) or element.get("answer") is None:
            continue
        try:
            place = int(element["id"]) - 1
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
        if not 0 <= place < count:
            continue
        if place in found:
            twice.add(place)
        answer = element["answer"]
        told = (
            answer
            if isinstance(answer, str)
            else json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
        )
        found[place] = told
    return {place: told for place, told in sorted(found.items()) if place not in twice}


def parts_of(answer: Answer, count: int) -> list[Answer]:
    """The answer ``count`` times, each with its part of the tokens and of the bill.

    >>> [part.usage.prompt_tokens for part in parts_of(Answer("", usage=Usage(prompt_tokens=7)), 3)]
    [3, 2, 2]
    """
    used = answer.usage
    cost_usd = None if answer.cost_usd is None or not count else answer.cost_usd / count

    def part(tokens: int, place: int) -> int:
        return tokens // count + (place < tokens % count)

    return [
        replace(
            answer,
            cost_usd=cost_usd,
            usage=Usage(
                part(used.prompt_tokens, place),
                part(used.completion_tokens, place),
                part(used.cache_hit_tokens, place),
                part(used.reasoning_tokens, place),
                used.estimated,
            ),
        )
        for place in range(count)
    ]


def _elements(text: str) -> list[Any]:
    cut = False
    try:
        value, _ = read_json(text)
    except ValueError:
        cut = True
        try:
            value = jiter.from_json(text.strip().encode("utf-8", "replace"), partial_mode="on")
        except ValueError:
            return []
    elements = value.get(ANSWERS) if isinstance(value, dict) else value
    if not isinstance(elements, list):
        return []
    return elements[:-1] if cut else elements  # the last one may lack its end
