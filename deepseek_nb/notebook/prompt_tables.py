"""What ``{{df}}`` puts into a prompt: a table as CSV, and a line on how much of it was sent.

A table goes into a prompt as CSV: the column names once, then a line for each row. It goes whole or
not at all; ``--sample N`` sends N rows of it, evenly spaced, and the output says so.
"""

from __future__ import annotations

import csv
import io
import numbers
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

from deepseek_nb.core.errors import TemplateError

__all__ = ["PromptTables", "cell_text", "is_table"]

_FRAME_LIBRARIES = ("pandas", "polars")
_FRAME_KINDS = ("DataFrame", "LazyFrame", "Series")
LOOKED_AT = 100
"""Rows that tell how long a table will be, so that a huge one is not written out to be refused."""


def is_table(value: Any) -> bool:
    """Whether it is a frame or a series of pandas or polars. Imports neither."""
    return any(
        kind.__module__.partition(".")[0] in _FRAME_LIBRARIES and kind.__name__ in _FRAME_KINDS
        for kind in type(value).__mro__
    )


class PromptTables:
    """Writes the tables of one prompt, and keeps what to tell about them in :attr:`notes`.

    ``most_chars`` bounds each table, ``sample`` is how many of its rows go. Call it with a value and
    the name it has in the prompt: the text, or None where the value is no table. Raises TemplateError
    for a table that is too long.
    """

    def __init__(self, *, most_chars: int, sample: int | None = None) -> None:
        self.notes: list[str] = []
        self._most_chars = most_chars
        self._sample = sample

    def __call__(self, value: Any, name: str) -> str | None:
        """The table as text; None where ``value`` is none."""
        if not is_table(value):
            return None
        columns, rows, count = _read(value)
        places = _spread(count, self._sample)
        text = _csv(columns, rows([places[place] for place in _spread(len(places), LOOKED_AT)]))
        size_chars = len(text) * len(places) // max(1, min(len(places), LOOKED_AT))
        if size_chars <= 2 * self._most_chars:  # worth writing out, to know
            text = _csv(columns, rows(places))
            size_chars = len(text)
        if size_chars > self._most_chars:
            raise self._too_long(name, count, len(places), len(columns), size_chars)
        spaced = ", evenly spaced" if len(places) < count else ""
        note = (
            f"{name}: {len(places):,} of {count:,} rows{spaced}, "
            f"{len(columns):,} of {len(columns):,} columns sent"
        )
        if note not in self.notes:
            self.notes.append(note)
        return text

    def _too_long(self, name: str, count: int, sent: int, columns: int, size_chars: int) -> TemplateError:
        fitting = max(1, int(0.9 * sent * self._most_chars / size_chars))
        of = f" of {count:,}" if sent < count else ""
        return TemplateError(
            f"{{{{{name}}}}} is {sent:,}{of} rows x {columns:,} columns, about {size_chars:,} characters: "
            f"a table in a prompt may have {self._most_chars:,}.",
            hint=f"Send some of its rows with --sample {fitting}, or fewer columns; df.deepseek.apply(...) "
            "asks about each row. %config DeepSeekMagics.table_chars is the bound. Nothing was sent.",
        )


def _spread(count: int, wanted: int | None) -> Sequence[int]:
    """Places of ``wanted`` of ``count`` rows, evenly spaced; all where there are not more."""
    if wanted is None or wanted >= count:
        return range(count)
    return [number * count // wanted for number in range(wanted)]


def _read(value: Any) -> tuple[list[str], Any, int]:
    """Column names, a function that gives the rows at some places, and how many rows there are."""
    narwhals = import_module("narwhals")
    frame = narwhals.from_native(_with_index(value), allow_series=True)
    if isinstance(frame, narwhals.LazyFrame):
        frame = frame.collect()
    if isinstance(frame, narwhals.Series):
        frame = frame.rename(str(frame.name or "value")).to_frame()
    return [str(name) for name in frame.columns], lambda places: frame[list(places)].iter_rows(), len(frame)


def _with_index(value: Any) -> Any:
    """A pandas frame whose index says something (it has a name, or is not only numbers) has it as columns."""
    index = getattr(value, "index", None)
    if index is None or callable(index) or not hasattr(index, "names"):
        return value
    if hasattr(value, "to_frame"):  # a series
        value = value.to_frame(name="value" if value.name is None else str(value.name))
    telling = [name for name in index.names if name is not None]
    if index.nlevels == 1 and not telling and getattr(index.dtype, "kind", "O") in "iu":
        value = value.reset_index(drop=True)
    else:
        value = value.reset_index(allow_duplicates=True)
    value.columns = _distinct([_label(name) for name in value.columns])
    return value


def _label(name: Any) -> str:
    return " ".join(str(part) for part in name if str(part)) if isinstance(name, tuple) else str(name)


def _distinct(names: list[str]) -> list[str]:
    seen: dict[str, int] = {}
    made = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        made.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return made


def _csv(columns: list[str], rows: Iterable[Sequence[Any]]) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell_text(value) for value in row] for row in rows)
    return file.getvalue().rstrip("\n")


def cell_text(value: Any) -> str:
    """One value as a cell: gaps are empty, whole numbers have no trailing ``.0``."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return ""
    if isinstance(value, numbers.Number) and value != value:
        return ""
    if isinstance(value, float):
        return repr(float(value)).removesuffix(".0")
    return str(value).replace("\r\n", "\n").replace("\r", "\n")
