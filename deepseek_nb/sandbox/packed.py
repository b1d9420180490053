"""Packs of rows: where a list of answers with ids is asked for, each row is answered as it would be alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from deepseek_nb.core.chat import canonical_json
from deepseek_nb.sandbox.filling import fill

__all__ = ["answer_pack", "as_read", "rows_of"]


def answer_pack(schema: dict[str, Any], question: str, answer_text: Callable[[str], str]) -> Any:
    """The answers to a message of lines ``{"id": 1, "row": ...}``; None where it is no such message.

    ``answer_text`` answers a row of which a text is asked.
    """
    try:
        shape = schema["properties"]["answers"]["items"]["properties"]["answer"]
    except (KeyError, TypeError):
        return None
    rows = rows_of(question)
    if rows is None or not isinstance(shape, dict):
        return None
    whole = {**shape, **{word: schema[word] for word in ("$defs", "definitions") if word in schema}}
    text_asked = shape.get("type") == "string"
    return {
        "answers": [
            {"id": number, "answer": answer_text(row) if text_asked else fill(whole, row)}
            for number, row in rows
        ]
    }


def as_read(text: str) -> str:
    r"""A row that is a JSON object as a person reads it: a line for each field, sorted by name.

    So its answer does not hang on the order of its fields. A single field is its value; other texts stay.

    >>> as_read('{"sum":20,"kind_of_loan":"car"}')
    'Kind of loan: car\nSum: 20'
    """
    if not text.startswith("{"):
        return text
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        return text
    told = {name: value if isinstance(value, str) else canonical_json(value) for name, value in row.items()}
    if len(told) == 1:
        return next(iter(told.values()))
    return "\n".join(f"{name.replace('_', ' ').capitalize()}: {told[name]}" for name in sorted(told))


def rows_of(question: str) -> list[tuple[int, str]] | None:
    """The rows of a pack with their ids; None for a message that is no pack."""
    rows: list[tuple[int, str]] = []
    for line in question.split("\n"):
        try:
            told = json.loads(line)
            row = told["row"]
            rows.append((told["id"], row if isinstance(row, str) else as_read(canonical_json(row))))
        except (ValueError, KeyError, TypeError):
            return None
    return rows
