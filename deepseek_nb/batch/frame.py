"""A job's ledger as a frame: one row for each of the caller's, on the caller's index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, cast

import jiter
import numpy as np
import pandas as pd

from deepseek_nb.adapters.journal import ItemRow
from deepseek_nb.batch.rows import Rows
from deepseek_nb.batch.typed import scattered, typed
from deepseek_nb.client.schema_columns import Column
from deepseek_nb.client.structured import Schema
from deepseek_nb.core.chat import origin_of
from deepseek_nb.core.errors import FrameError

__all__ = ["ABOUT", "RAW", "TEXT_COLUMN", "answer_columns", "build_frame", "frame_columns"]

TEXT_COLUMN = "answer"

_ABOUT = (
    Column("status", (), "string"),  # no category: counts would tell of what is not there
    Column("error", (), "string"),
    Column("route", (), "category"),
    Column("attempts", (), "integer"),
    Column("cached", (), "boolean"),
    Column("tokens", (), "integer"),
    Column("cost_usd", (), "number"),
    Column("latency_s", (), "number"),
)
_RAW = (Column("raw", (), "string"), Column("mends", (), "string"))

ABOUT = tuple(column.name for column in _ABOUT)
"""What is told about every row, after the answer's own columns."""
RAW = tuple(column.name for column in _RAW)
"""What ``raw=True`` adds at the end: the model's own words, and what was mended in them to read them."""


def answer_columns(schema: Schema | None, into: str | None, *, raw: bool = False) -> tuple[str, ...]:
    """The names of the answer's columns: the schema's fields, or the one column ``into``.

    Raises :class:`FrameError` where a name is one of those that tell about the row.
    """
    names = tuple(column.name for column in _answer_columns(schema, into))
    reserved = (*ABOUT, *RAW) if raw else ABOUT
    taken = [name for name in names if name in reserved]
    if taken:
        raise FrameError(
            f"The answer's column {taken[0]!r} has the name of a column that tells about the row.",
            hint="Rename the field, or pass into='some_name' to get the whole answer in one column. "
            f"Taken: {', '.join(reserved)}.",
        )
    return names


def _answer_columns(schema: Schema | None, into: str | None) -> tuple[Column, ...]:
    if schema is None:
        return (Column(into or TEXT_COLUMN, (), "string"),)
    return schema.fields if into is None else (Column(into, (), "object", schema=schema.json_schema),)


def frame_columns(schema: Schema | None, into: str | None, *, raw: bool = False) -> tuple[Column, ...]:
    """All columns of the frame, in order, with what each of them holds."""
    return (*_answer_columns(schema, into), *_ABOUT, *(_RAW if raw else ()))


def build_frame(
    index: pd.Index,
    rows: Rows,
    keys: Sequence[str],
    ledger: Iterable[ItemRow],
    schema: Schema | None,
    into: str | None,
    *,
    raw: bool = False,
) -> pd.DataFrame:
    """The result: answer columns, then those of ``ABOUT``, then, with ``raw``, those of ``RAW``.

    ``status`` is "done", "failed" (final for this row; ``error`` says why) or "pending" (the same
    call goes on with it). ``route`` says who answered. An error is never in an answer column. A row that
    has the same prompt as an earlier one shares its answer: ``cached`` is True and ``cost_usd`` 0, so
    that the column's sum is the job's bill. Dtypes are those of :func:`~deepseek_nb.batch.typed.typed`.
    """
    place = {key: number for number, key in enumerate(keys)}
    table = _Table(len(keys), schema, into, raw=raw)
    for item in ledger:
        number = place.get(item.key)
        if number is not None:
            table.put(number, item)
    places = np.asarray(rows.row_prompt, dtype=np.intp)
    series = {
        column.name: scattered(typed(table.values.pop(column.name), column), places)
        for column in table.columns  # a list is freed once it is used
    }
    _tell_of_repeats(series, places)
    _tell_of_problems(series, places, rows.problems)
    frame = pd.DataFrame(series, columns=pd.Index([column.name for column in table.columns], dtype="str"))
    frame.index = index
    frame.attrs["mended"] = table.mended
    return frame


def _tell_of_repeats(series: dict[str, pd.Series[Any]], places: np.ndarray[Any, Any]) -> None:
    """A row whose prompt was asked for an earlier row cost nothing."""
    repeated = pd.Series(places, dtype="int64").duplicated() & (places >= 0)
    repeated &= series["status"] != "pending"
    if repeated.any():
        series["cached"] = series["cached"].mask(repeated, series["status"] == "done")
        series["cost_usd"] = series["cost_usd"].mask(repeated, 0.0)
        series["tokens"] = series["tokens"].mask(repeated, 0)


def _tell_of_problems(
    series: dict[str, pd.Series[Any]], places: np.ndarray[Any, Any], problems: dict[int, str]
) -> None:
    """A row that could not be asked says why."""
    unasked = np.flatnonzero(places < 0)
    if len(unasked):
        series["status"].iloc[unasked] = "failed"
        series["error"].iloc[unasked] = [problems[int(row)] for row in unasked]
        series["attempts"].iloc[unasked] = 0
        series["cost_usd"].iloc[unasked] = 0.0


CUT = "AnswerTruncated: The text was cut at max_tokens."
"""Beside the text of an answer that took all the tokens the caller gave it."""


def _kept(text: str) -> dict[str, Any]:
    """What the ledger holds, where half a character, which a server may send, becomes a question mark."""
    try:
        kept = jiter.from_json(text.encode("utf-8", "replace"))
    except ValueError:
        kept = json.loads(json.dumps(json.loads(text), ensure_ascii=False).encode("utf-8", "replace"))
    return cast("dict[str, Any]", kept)


class _Table:
    """The columns of the result: one value for each distinct prompt, put in place from the ledger."""

    def __init__(self, count: int, schema: Schema | None, into: str | None, *, raw: bool) -> None:
        self.columns = frame_columns(schema, into, raw=raw)
        self.values: dict[str, list[Any]] = {column.name: [None] * count for column in self.columns}
        self.values["status"] = ["pending"] * count
        self.mended = 0
        """How many answers could be read only after a light repair of their text."""
        self._schema = schema
        self._whole = None if schema is None or into is None else Schema.of(schema, nested="object")
        self._raw = raw
        self._answers = [(self.values[field.name], field) for field in _answer_columns(schema, into)]

    def put(self, number: int, item: ItemRow) -> None:
        """What the ledger says of the prompt at position ``number``."""
        if item.state == "d" and item.answer_json is not None:
            self._done(number, _kept(item.answer_json))
        elif item.state == "f" and item.error_json is not None:
            self._failed(number, item, _kept(item.error_json))

    def _done(self, number: int, kept: dict[str, Any]) -> None:
        values, text = self.values, kept["text"]
        values["attempts"][number] = kept.get("attempts", 1)
        if self._raw:
            values["raw"][number] = text
        if self._schema is None:
            self._answers[0][0][number] = text
            if kept.get("finish_reason") == "length":
                values["error"][number] = CUT
        else:
            try:
                value, mends = self._schema.read(text)
            except ValueError as why:  # the model's own checks have changed since it was answered
                values["status"][number] = "failed"
                values["error"][number] = f"SchemaMismatch: {why}"
                return
            self._spread(number, self._schema, value)
            if mends:
                self.mended += 1
                if self._raw:
                    values["mends"][number] = ", ".join(mends)
        cached, usage = bool(kept.get("cached")), kept.get("usage", {})
        values["status"][number] = "done"
        values["route"][number] = origin_of(kept.get("fingerprint", ""), kept.get("route", ""))
        values["cached"][number] = cached
        values["tokens"][number] = usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)
        values["cost_usd"][number] = 0.0 if cached else kept.get("cost_usd")
        values["latency_s"][number] = kept.get("latency_s", 0.0)

    def _spread(self, number: int, schema: Schema, value: Any) -> None:
        if self._whole is not None:
            self._answers[0][0][number] = self._whole.row(value)
            return
        plain = schema.plain(value)
        for values, field in self._answers:
            path = field.path
            values[number] = plain.get(path[0]) if len(path) == 1 else field.of(plain)

    def _failed(self, number: int, item: ItemRow, told: dict[str, Any]) -> None:
        values, words = self.values, told.get("raw") or ()
        values["status"][number] = "failed"
        values["error"][number] = f"{told['error']}: {told['message']}"
        values["attempts"][number] = told.get("attempts", item.tries)
        values["cached"][number] = False
        values["cost_usd"][number] = told.get("cost_usd") or 0.0
        if self._raw and words:
            values["raw"][number] = words[-1]
