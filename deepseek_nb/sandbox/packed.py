"""Packs of rows: where a list of answers with ids is asked for, each row is answered as it would be alone."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from deepseek_nb.sandbox.filling import fill

__all__ = ["answer_pack"]


def answer_pack(schema: dict[str, Any], question: str, answer_text: Callable[[str], str]) -> Any:
    """The answers to a message of lines ``{"id": 1, "row": ...}``; None where it is no such message.

    ``answer_text`` answers a row of which a text is asked.
    """
    try:
        shape = schema["properties"]["answers"]["items"]["properties"]["answer"]
    except (KeyError, TypeError):
        return None
    rows = _rows(question)
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


def _rows(question: str) -> list[tuple[int, str]] | None:
    rows: list[tuple[int, str]] = []
    for line in question.split("\n"):
        try:
            told = json.loads(line)
            row = told["row"]
            text = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False, separators=(",", ":"))
            rows.append((told["id"], text))
        except (ValueError, KeyError, TypeError):
            return None
    return rows
