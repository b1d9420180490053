"""Plain values to typed columns: whole numbers, dates and categories with empty places, for pandas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from deepseek_nb.client.schema_columns import Column, Kind

__all__ = ["scattered", "typed"]


def typed(values: Sequence[Any], column: Column) -> pd.Series[Any]:
    """``values`` (plain JSON values and None) as a series of the column's dtype.

    "integer" is Int64, "number" Float64, "boolean" boolean, "string" str, "category" a categorical of its
    choices, "date" and "datetime" datetime64 (in UTC where the values have an offset). Where a value does
    not fit, such as a number beyond 64 bits, the column holds the values as they are.

    >>> typed([1, None], Column("n", ("n",), "integer")).dtype
    Int64Dtype()
    """
    make = _MAKERS.get(column.kind)
    if make is not None:
        try:
            return make(values, column)
        except (TypeError, ValueError, OverflowError):
            pass
    return pd.Series(list(values), dtype=object)


def scattered(series: pd.Series[Any], places: npt.NDArray[np.intp]) -> pd.Series[Any]:
    """The series' value for each place, and nothing for the place -1."""
    fill = None if series.dtype == object else getattr(series.dtype, "na_value", pd.NaT)
    taken: Any = pd.api.extensions.take(series.array, places, allow_fill=True, fill_value=fill)
    return pd.Series(taken, dtype=series.dtype)


def _of_dtype(dtype: str, kinds: tuple[type, ...]) -> Callable[[Sequence[Any], Column], pd.Series[Any]]:
    def make(values: Sequence[Any], _: Column) -> pd.Series[Any]:
        # pandas would make text of a number and a number of True: what is of another type stays as it is
        if not all(value is None or type(value) in kinds for value in values):
            raise TypeError(dtype)
        return pd.Series(list(values), dtype=dtype)

    return make


def _whole_numbers(values: Sequence[Any], column: Column) -> pd.Series[Any]:
    """To a JSON Schema 5.0 is a whole number, too."""
    return _INT64([int(v) if type(v) is float and v.is_integer() else v for v in values], column)


_INT64 = _of_dtype("Int64", (int,))


def _categories(values: Sequence[Any], column: Column) -> pd.Series[Any]:
    found = sorted({value for value in values if value is not None} - set(column.choices))
    if not all(isinstance(value, str) for value in found):
        raise TypeError("a category is text")
    categories = pd.Index([*column.choices, *found], dtype="str")
    return pd.Series(pd.Categorical(list(values), categories=categories))


def _dates(values: Sequence[Any], _: Column) -> pd.Series[Any]:
    days = [None if value is None else date.fromisoformat(value) for value in values]
    return pd.Series(np.array(days, dtype="datetime64[D]"), dtype="datetime64[s]")


def _moments(values: Sequence[Any], _: Column) -> pd.Series[Any]:
    moments = [None if value is None else datetime.fromisoformat(value) for value in values]
    offsets = {moment.tzinfo is not None for moment in moments if moment is not None}
    if len(offsets) == 2:
        raise ValueError("some have an offset and some have none")
    if offsets == {True}:
        inside = [None if moment is None else moment.astimezone(UTC) for moment in moments]
        return pd.Series(inside, dtype="datetime64[us, UTC]")
    return pd.Series(np.array(moments, dtype="datetime64[us]"))


_MAKERS: dict[Kind, Callable[[Sequence[Any], Column], pd.Series[Any]]] = {
    "integer": _whole_numbers,
    "number": _of_dtype("Float64", (int, float)),
    "boolean": _of_dtype("boolean", (bool,)),
    "string": _of_dtype("str", (str,)),
    "category": _categories,
    "date": _dates,
    "datetime": _moments,
}
