"""Typed columns: every JSON value comes back as it was, in the dtype of its kind, with empty places."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.batch.typed import scattered, typed
from deepseek_nb.client.schema_columns import Column

KINDS = {
    "integer": (st.integers(-(2**63), 2**63 - 1), "Int64"),
    "number": (st.floats(allow_nan=False) | st.integers(-(2**53), 2**53), "Float64"),
    "boolean": (st.booleans(), "boolean"),
    "string": (st.text(), "str"),
    "category": (st.sampled_from(["low", "high"]), "category"),
    "date": (st.dates().map(dt.date.isoformat), "datetime64[s]"),
    "datetime": (st.datetimes().map(dt.datetime.isoformat), "datetime64[us]"),
}


def column(kind: str) -> Column:
    return Column("c", ("c",), kind, ("low", "high") if kind == "category" else ())


def plain(series: pd.Series, kind: str) -> list:
    """The values as JSON had them."""
    values = [None if empty else value for value, empty in zip(series.tolist(), series.isna(), strict=True)]
    if kind == "date":
        return [None if value is None else value.date().isoformat() for value in values]
    if kind == "datetime":
        return [None if value is None else value.isoformat() for value in values]
    return values


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
def test_what_goes_in_comes_out_in_its_dtype(kind, data):
    values = data.draw(st.lists(st.none() | KINDS[kind][0], max_size=8))
    series = typed(values, column(kind))
    assert series.dtype == KINDS[kind][1]
    assert plain(series, kind) == values


@pytest.mark.parametrize("kind", [*KINDS, "object"])
@given(data=st.data())
def test_rows_take_their_prompts_value_and_nothing_where_they_have_none(kind, data):
    values = data.draw(st.lists(st.none() | KINDS.get(kind, KINDS["string"])[0], min_size=1, max_size=5))
    places = data.draw(st.lists(st.integers(-1, len(values) - 1), max_size=8))
    series = typed(values, column(kind))
    rows = scattered(series, np.array(places, dtype=np.intp))
    assert rows.dtype == series.dtype
    assert plain(rows, kind) == [None if place < 0 else values[place] for place in places]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("integer", [2**70, None]),
        ("integer", [True, 1]),
        ("integer", [5.5, 1]),
        ("number", [0.5, "much"]),
        ("boolean", [True, 1]),
        ("string", ["a", 1]),
        ("category", ["low", 1]),
        ("date", ["soon", None]),
        ("datetime", ["2026-11-23T10:00:00", "2026-11-23T10:00:00Z"]),
    ],
)
def test_what_does_not_fit_stays_as_it_is(kind, values):
    """Nothing is lost, rounded or made into text."""
    series = typed(values, column(kind))
    assert series.dtype == object
    assert series.tolist() == values
    assert [type(value) for value in series] == [type(value) for value in values]


def test_a_whole_number_may_be_written_with_a_point():
    """As JSON Schema has it: the column stays one of whole numbers."""
    series = typed([5.0, None, 2], column("integer"))
    assert series.dtype == "Int64"
    assert series.dropna().tolist() == [5, 2]


def test_moments_with_an_offset_are_in_utc():
    series = typed(["2026-11-23T10:00:00+08:00", None], column("datetime"))
    assert series.dtype == "datetime64[us, UTC]"
    assert series[0] == pd.Timestamp("2026-11-23T02:00:00Z")
    assert series.isna().tolist() == [False, True]


def test_a_category_keeps_the_schemas_order_and_values_that_are_not_in_it():
    series = typed(["high", None, "odd"], column("category"))
    assert series.cat.categories.tolist() == ["low", "high", "odd"]
    assert series.tolist()[::2] == ["high", "odd"]
