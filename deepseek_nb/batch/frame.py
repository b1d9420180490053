"""A job's ledger as a frame: one row for each of the caller's, on the caller's index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from deepseek_nb.adapters.journal import ItemRow
from deepseek_nb.batch.rows import Rows
from deepseek_nb.client.structured import Schema
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.errors import DeepSeekError, FrameError

__all__ = ["ABOUT", "TEXT_COLUMN", "answer_columns", "build_frame"]

TEXT_COLUMN = "answer"
ABOUT = ("status", "error", "route", "attempts", "cached", "tokens", "cost_usd", "latency_s")
"""What is told about every row, after the answer's own columns."""

_DTYPES = {"integer": "Int64", "number": "Float64", "boolean": "boolean", "string": "str"}


def answer_columns(schema: Schema | None, into: str | None) -> tuple[str, ...]:
    """The names of the answer's columns: the schema's fields, or the one column ``into``.

    Raises :class:`FrameError` where a name is one of those that tell about the row.
    """
    names = (into,) if into is not None else schema.columns if schema else (TEXT_COLUMN,)
    taken = [name for name in names if name in ABOUT]
    if taken:
        raise FrameError(
            f"The answer's column {taken[0]!r} has the name of a column that tells about the row.",
            hint="Rename the field, or pass into='some_name' to get the whole answer in one column. "
            f"Taken: {', '.join(ABOUT)}.",
        )
    return names


def build_frame(
    index: pd.Index,
    rows: Rows,
    keys: Sequence[str],
    ledger: Iterable[ItemRow],
    schema: Schema | None,
    into: str | None,
) -> pd.DataFrame:
    """The result: answer columns, then those of ``ABOUT``.

    ``status`` is "done", "failed" (final for this row; ``error`` says why) or "pending" (the same
    call goes on with it). ``route`` says who answered. An error is never in an answer column. A row that
    has the same prompt as an earlier one shares its answer: ``cached`` is True and ``cost_usd`` 0, so
    that the column's sum is the job's bill.
    """
    names = answer_columns(schema, into)
    place = {key: number for number, key in enumerate(keys)}
    found: list[dict[str, Any]] = [{"status": "pending"} for _ in keys]
    for item in ledger:
        number = place.get(item.key)
        if number is not None:
            found[number] = _entry(item, schema, into)
    seen = [False] * len(keys)
    columns: dict[str, list[Any]] = {name: [] for name in (*names, *ABOUT)}
    blank: dict[str, Any] = {}
    entry: dict[str, Any]
    for number, prompt in enumerate(rows.row_prompt):
        if prompt < 0:
            entry = {
                "status": "failed",
                "error": rows.problems[number],
                "attempts": 0,
                "cost_usd": 0.0,
            }
        else:
            entry = found[prompt]
            if seen[prompt] and entry["status"] != "pending":
                entry = {**entry, "cached": entry["status"] == "done", "cost_usd": 0.0, "tokens": 0}
            seen[prompt] = True
        value = entry.get("value", blank)
        for name in names:
            columns[name].append(value.get(name))
        for name in ABOUT:
            columns[name].append(entry.get(name))
    frame = pd.DataFrame({name: _typed(name, values, schema, into) for name, values in columns.items()})
    frame.index = index
    return frame


def _entry(item: ItemRow, schema: Schema | None, into: str | None) -> dict[str, Any]:
    if item.state == "d" and item.answer_json is not None:
        kept = json.loads(item.answer_json)
        answer = Answer.from_json(kept)
        try:
            value = schema.parse(answer) if schema else answer.text
        except DeepSeekError as error:  # the model's own checks have changed since it was answered
            return {
                "status": "failed",
                "error": f"{type(error).__name__}: {error.message}",
                "attempts": answer.attempts,
            }
        cached = bool(kept.get("cached"))
        return {
            "status": "done",
            "value": _spread(value, schema, into),
            "route": answer.origin,
            "attempts": answer.attempts,
            "cached": cached,
            "tokens": answer.usage.total_tokens,
            "cost_usd": 0.0 if cached else answer.cost_usd,
            "latency_s": answer.latency_s,
        }
    if item.state == "f" and item.error_json is not None:
        told = json.loads(item.error_json)
        return {
            "status": "failed",
            "error": f"{told['error']}: {told['message']}",
            "attempts": told.get("attempts", item.tries),
            "cached": False,
            "cost_usd": told.get("cost_usd") or 0.0,
        }
    return {"status": "pending"}


def _spread(value: Any, schema: Schema | None, into: str | None) -> dict[str, Any]:
    if schema is None:
        return {into or TEXT_COLUMN: value}
    plain = schema.row(value)
    return {into: plain} if into is not None else plain


def _typed(name: str, values: list[Any], schema: Schema | None, into: str | None) -> pd.Series[Any]:
    dtypes = {
        "status": "str",
        "error": "str",
        "route": "str",
        "attempts": "Int64",
        "cached": "boolean",
        "tokens": "Int64",
    }
    dtype: str | None = dtypes.get(name) or ("Float64" if name in ABOUT else None)
    if dtype is None and schema is None:
        dtype = "str"
    if dtype is None and into is None and schema is not None:
        dtype = _DTYPES.get(str(schema.json_schema["properties"][name].get("type")))
        choices = schema.json_schema["properties"][name].get("enum")
        if dtype is None and choices and all(isinstance(choice, str) for choice in choices):
            dtype = "str"
    if dtype is None:
        return pd.Series(values, dtype=object)
    try:
        return pd.Series(values, dtype=dtype)
    except (TypeError, ValueError):
        return pd.Series(values, dtype=object)
