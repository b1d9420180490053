"""A job's ledger as a frame: one row for each of the caller's, on the caller's index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

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
    columns = frame_columns(schema, into, raw=raw)
    values: dict[str, list[Any]] = {column.name: [None] * len(keys) for column in columns}
    values["status"] = ["pending"] * len(keys)
    place = {key: number for number, key in enumerate(keys)}
    entry_of = _Entries(schema, into, raw=raw)
    for item in ledger:
        number = place.get(item.key)
        if number is not None:
            for name, value in entry_of(item):
                values[name][number] = value
    places = np.asarray(rows.row_prompt, dtype=np.intp)
    series = {
        column.name: scattered(
            typed(values.pop(column.name), column), places
        )  # a list is freed once it is used
        for column in columns
    }
    _tell_of_repeats(series, places)
    _tell_of_problems(series, places, rows.problems)
    frame = pd.DataFrame(series, columns=pd.Index([column.name for column in columns], dtype="str"))
    frame.index = index
    frame.attrs["mended"] = entry_of.mended
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


class _Entries:
    """What one row of the ledger puts into which columns."""

    def __init__(self, schema: Schema | None, into: str | None, *, raw: bool) -> None:
        self._schema = schema
        self._fields = _answer_columns(schema, into)
        self._whole = None if schema is None or into is None else Schema.of(schema, nested="object")
        self._raw = raw
        self.mended = 0
        """How many answers could be read only after a light repair of their text."""

    def __call__(self, item: ItemRow) -> Iterable[tuple[str, Any]]:
        if item.state == "d" and item.answer_json is not None:
            return self._done(jiter.from_json(item.answer_json.encode("utf-8", "replace")))
        if item.state == "f" and item.error_json is not None:
            return self._failed(item, json.loads(item.error_json))
        return ()

    def _done(self, kept: dict[str, Any]) -> Iterable[tuple[str, Any]]:
        text = kept["text"]
        mends: tuple[str, ...] = ()
        answered: Iterable[tuple[str, Any]] = ((self._fields[0].name, text),)
        if self._schema is not None:
            try:
                value, mends = self._schema.read(text)
            except ValueError as why:  # the model's own checks have changed since it was answered
                told = [("status", "failed"), ("error", f"SchemaMismatch: {why}")]
                return [*told, ("attempts", kept.get("attempts", 1)), *(self._words(text, mends))]
            answered = self._spread(self._schema, value)
        cached, usage = bool(kept.get("cached")), kept.get("usage", {})
        return [
            *answered,
            ("status", "done"),
            ("route", origin_of(kept.get("fingerprint", ""), kept.get("route", ""))),
            ("attempts", kept.get("attempts", 1)),
            ("cached", cached),
            ("tokens", usage.get("prompt_tokens", 0) + usage.get("completion_tokens", 0)),
            ("cost_usd", 0.0 if cached else kept.get("cost_usd")),
            ("latency_s", kept.get("latency_s", 0.0)),
            *self._words(text, mends),
        ]

    def _words(self, text: str, mends: tuple[str, ...]) -> Iterable[tuple[str, Any]]:
        self.mended += bool(mends)
        return (("raw", text), ("mends", ", ".join(mends) or None)) if self._raw else ()

    def _spread(self, schema: Schema, value: Any) -> Iterable[tuple[str, Any]]:
        if self._whole is not None:
            return [(self._fields[0].name, self._whole.row(value))]
        plain = schema.plain(value)
        return [(field.name, field.of(plain)) for field in self._fields]

    def _failed(self, item: ItemRow, told: dict[str, Any]) -> Iterable[tuple[str, Any]]:
        words = told.get("raw") or ()
        return [
            ("status", "failed"),
            ("error", f"{told['error']}: {told['message']}"),
            ("attempts", told.get("attempts", item.tries)),
            ("cached", False),
            ("cost_usd", told.get("cost_usd") or 0.0),
            *([("raw", words[-1])] if self._raw and words else ()),
        ]
