"""Frames of other libraries, by narwhals: their rows in, results in the caller's own kind, and Parquet."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import narwhals as nw
import pandas as pd

from deepseek_nb.client.schema_columns import Column, Kind, kind_of, plain_schema
from deepseek_nb.core.errors import ConfigError, FrameError

__all__ = ["FrameForm", "as_pandas"]

PARQUET_WRITERS = ("polars", "pyarrow")
_DEEPEST = 8
HINTS = {
    "LazyFrame": "Collect it first: frame.collect().",
    "Series": "Make it one: series.to_frame('text'), and name {{text}} in the template.",
    "list": "Make it one: pd.DataFrame({'text': texts}), and name {{text}} in the template.",
}


def as_pandas(frame: Any, template: str | None = None) -> pd.DataFrame:
    """The caller's frame as pandas has it; a pandas frame is given back itself.

    Of another library's frame only the columns that ``template`` can name are copied, value by value
    (nulls become None); the others are there by name, and empty. Raises :class:`FrameError` for what is no
    frame, or is one that has not been computed yet.
    """
    if isinstance(frame, pd.DataFrame):
        return frame
    try:
        rows: Any = nw.from_native(frame, eager_only=True)
    except TypeError:
        kind = type(frame).__name__
        raise FrameError(
            f"A {kind} is no frame with rows.", hint=HINTS.get(kind, "Give a pandas or polars DataFrame.")
        ) from None
    empty = pd.Series([None] * len(rows), dtype="Int8")
    columns: dict[str, pd.Series[Any]] = {
        name: _copied(rows[name]) if template is None or name.strip() in template else empty
        for name in rows.columns
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(rows)))


def _copied(column: nw.Series[Any]) -> pd.Series[Any]:
    narrow = column.dtype == nw.Float32  # 0.1 would come out as 0.10000000149011612
    return pd.Series(column.to_list(), dtype="float32" if narrow else object)


class FrameForm:
    """The form in which a caller gets results: frames of the library of ``frame``, with these columns."""

    def __init__(self, frame: Any, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._backend = (
            None if isinstance(frame, pd.DataFrame) else nw.from_native(frame, eager_only=True).implementation
        )

    def native(self, result: pd.DataFrame, *, row: Any = None) -> pd.DataFrame:
        """``result``, or some of its columns, as a frame of the caller's library; with pandas it is itself.

        ``row``: where a library without an index finds which rows these are, in a column of that name.

        polars gets typed columns: Int64, Float64, Boolean, String, Enum, Date, Datetime, and List or Struct
        as far as the schema tells; what a schema leaves open is JSON text.
        """
        if self._backend is None:
            return result
        columns = [column for column in self._columns if column.name in result.columns]
        if row is not None:
            result = result.assign(row=pd.array(row, dtype="Int64"))
            columns.insert(0, Column("row", (), "integer"))
        return cast("pd.DataFrame", _built(result, columns, self._backend).to_native())

    def write_parquet(self, result: pd.DataFrame, path: Any) -> None:
        """Write ``result`` to a Parquet file, whole or not at all, with the dtypes that polars gets.

        An index other than 0, 1, 2... becomes columns in front (``index``, or the levels' names). Raises
        :class:`ConfigError`, which names the line that installs it, without polars and pyarrow.
        """
        backend = next((name for name in PARQUET_WRITERS if importlib.util.find_spec(name)), None)
        if backend is None:
            raise ConfigError(
                "Writing Parquet files needs polars, which is not installed.",
                hint="Install it: pip install polars",
            )
        columns = self._columns
        if not result.index.equals(pd.RangeIndex(len(result))) or result.index.name is not None:
            result, columns = _with_index(result, columns)
        made = _built(result, columns, nw.Implementation.from_string(backend))
        path = Path(path)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".parquet", dir=path.parent)
        os.close(handle)
        try:
            made.write_parquet(name)
            Path(name).replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                Path(name).unlink()
            raise


def _with_index(result: pd.DataFrame, columns: Sequence[Column]) -> tuple[pd.DataFrame, Sequence[Column]]:
    """The index as columns: numbers, truths and times as such, anything else as text."""
    taken, levels, told = set(result.columns), {}, []
    several = result.index.nlevels > 1
    for number, given in enumerate(result.index.names):
        name = str(given) if given is not None else f"level_{number}" if several else "index"
        while name in taken:
            name = f"index_{name}"
        taken.add(name)
        levels[name], kind = _level(pd.Series(result.index.get_level_values(number)))
        told.append(Column(name, (), kind))
    return pd.concat([pd.DataFrame(levels), result.reset_index(drop=True)], axis=1), [*told, *columns]


def _level(values: pd.Series[Any]) -> tuple[pd.Series[Any], Kind]:
    types = pd.api.types
    if types.is_bool_dtype(values.dtype):
        return values.astype("boolean"), "boolean"
    if types.is_integer_dtype(values.dtype) and not (values >= 2**63).any():
        return values.astype("Int64"), "integer"
    if types.is_float_dtype(values.dtype):
        return values.astype("Float64"), "number"
    if types.is_datetime64_any_dtype(values.dtype):
        return values, "datetime"
    return values.map(str, na_action="ignore").astype("str"), "string"


def _built(result: pd.DataFrame, columns: Sequence[Column], backend: nw.Implementation) -> nw.DataFrame[Any]:
    data: dict[str, list[Any]] = {}
    dtypes: dict[str, Any] = {}
    for column in columns:
        data[column.name], dtypes[column.name] = _plain(result[column.name], column, backend)
    return nw.from_dict(data, nw.Schema(dtypes), backend=cast("Any", backend))


_DTYPES: dict[str, Any] = {
    "Int64": nw.Int64(),
    "Float64": nw.Float64(),
    "boolean": nw.Boolean(),
    "str": nw.String(),
}


def _plain(series: pd.Series[Any], column: Column, backend: nw.Implementation) -> tuple[list[Any], Any]:
    """A column as Python values, None where there is none, and the dtype they have elsewhere."""
    values = series.astype(object).where(series.notna(), None).tolist()
    if isinstance(series.dtype, pd.CategoricalDtype):
        categories = series.dtype.categories.tolist()
        fixed = backend is nw.Implementation.POLARS and categories == list(column.choices)
        return values, nw.Enum(categories) if fixed else nw.Categorical()
    if column.kind == "date" and series.dtype != object:
        return [None if value is None else value.date() for value in values], nw.Date()
    if isinstance(series.dtype, pd.DatetimeTZDtype) or series.dtype.kind == "M":
        zone = str(series.dt.tz) if isinstance(series.dtype, pd.DatetimeTZDtype) else None
        return [None if value is None else value.to_pydatetime(warn=False) for value in values], nw.Datetime(
            "us", zone
        )
    if (dtype := _DTYPES.get(str(series.dtype))) is not None:
        return values, dtype
    dtype = _inner_dtype(column.schema, column.schema, 0)
    if dtype is not None and all(_fits(value, dtype) for value in values):
        return values, dtype
    return [None if value is None else json.dumps(value, ensure_ascii=False) for value in values], nw.String()


_KINDS: dict[Kind, Any] = {"integer": nw.Int64(), "number": nw.Float64(), "boolean": nw.Boolean()}


def _inner_dtype(schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    """What a value inside an object is; None where the schema leaves it open."""
    schema = plain_schema(schema, root)
    kind, _ = kind_of(schema)
    if kind != "object":
        return _KINDS.get(kind, nw.String())
    if depth == _DEEPEST:
        return None
    if schema.get("type") == "array" and "prefixItems" not in schema:
        inner = _inner_dtype(schema.get("items", {}), root, depth + 1)
        return None if inner is None else nw.List(inner)
    fields = schema.get("properties")
    if schema.get("type") != "object" or not fields:
        return None
    inside = {name: _inner_dtype(part, root, depth + 1) for name, part in fields.items()}
    return None if None in inside.values() else nw.Struct(inside)


def _fits(value: Any, dtype: Any) -> bool:
    """Whether a value goes into that dtype and comes back as it was."""
    if value is None:
        return True
    if isinstance(dtype, nw.List):
        return isinstance(value, list) and all(_fits(each, dtype.inner) for each in value)
    if isinstance(dtype, nw.Struct):
        inside = {field.name: field.dtype for field in dtype.fields}
        return isinstance(value, dict) and all(
            name in inside and _fits(each, inside[name]) for name, each in value.items()
        )
    if dtype == nw.Int64:
        return type(value) is int and -(2**63) <= value < 2**63
    if dtype == nw.Float64:
        return type(value) in (int, float)
    return type(value) is (bool if dtype == nw.Boolean else str)
