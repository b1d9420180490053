"""A frame's rows as prompts: read, checked, made distinct and put in order before anything is sent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Literal

import numpy as np
import pandas as pd

from deepseek_nb.batch.form import Form, Layout, compact_json, form_of
from deepseek_nb.core.errors import FrameError, TemplateError
from deepseek_nb.core.layout.arrange import Arrangement, arrange, as_given
from deepseek_nb.core.layout.field_tokens import CountField
from deepseek_nb.core.layout.order import distinct
from deepseek_nb.core.template import Template
from deepseek_nb.core.tokens import estimate_tokens

__all__ = ["Rows", "kept_rows", "read_rows"]

ANY_VALUE = '"a"'
"""A value of one token, the marks around it apart."""
ESTIMATED_AT_ONCE = 10
"""An estimate goes by tenths of a token, rounded up: of so many texts it is exact."""
ONE_TEXT = frozenset({str, int, float, bool, date})
"""Types whose equal values are one text; of others (moments in two time zones, tuples) they may be two."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The prompts of a frame.

    ``prompts`` are distinct, as ``form`` keeps them, in the order they first come; ``row_prompt[i]`` is the
    position of row ``i``'s prompt, or -1 where the row cannot be asked; ``problems[i]`` then says why.
    ``values`` are the same rows as columns of JSON texts, one for each field; none for inline prompts.
    """

    prompts: Sequence[str]
    row_prompt: Sequence[int]
    problems: dict[int, str]
    form: Form
    values: Sequence[Sequence[str]] = field(compare=False, repr=False, default=())

    def without(self, unfit: Mapping[int, str]) -> Rows:
        """The same frame, where the prompts at these positions cannot be asked, for the reason given."""
        if not unfit:
            return self
        kept = [place for place in range(len(self.prompts)) if place not in unfit]
        moved = {place: number for number, place in enumerate(kept)}
        problems = dict(self.problems)
        for row, place in enumerate(self.row_prompt):
            if place in unfit:
                problems[row] = unfit[place]
        return replace(
            self,
            prompts=[self.prompts[place] for place in kept],
            row_prompt=[moved.get(place, -1) for place in self.row_prompt],
            problems=problems,
            values=[[column[place] for place in kept] for column in self.values],
        )

    def arranged(
        self, places: Sequence[int], count: Callable[[str], int], *, prefix_tokens: int, block: int
    ) -> Arrangement:
        """How the prompts at these places are sent, so that the server's cache has the most of them.

        ``count`` tells the tokens of a text, ``prefix_tokens`` is what stands before a row. Positions in
        the arrangement are those in ``places``.
        """
        if not self.values:
            return as_given(len(places), 0)
        columns = self.values
        if len(places) < len(self.prompts):
            columns = [[column[place] for place in places] for column in columns]

        moved = replace(self.form, order=tuple(reversed(self.form.given.order)))
        return arrange(
            columns,
            self.form.extra_chars(),
            self.field_counter(count),
            prefix_tokens=prefix_tokens,
            order_tokens=count(moved.instruction()) - count(self.form.given.instruction()),
            block=block,
        )

    def field_counter(self, count: Callable[[str], int]) -> CountField:
        """What counts the tokens of one field where it stands between two others."""
        before, after = self.form.others
        alone = count(before + after)
        times = ESTIMATED_AT_ONCE if count is estimate_tokens else 1

        def count_field(field: int, text: str | None) -> float:
            value = self.form.field_text(field, ANY_VALUE if text is None else text)
            return (count(before + value * times + after) - alone) / times - (text is None)

        return count_field


def read_rows(
    frame: pd.DataFrame,
    template: str,
    *,
    missing: Literal["fail", "empty"] = "fail",
    layout: Layout = "inline",
) -> Rows:
    """Read what the template names from every row of ``frame``, in the form of ``layout``.

    A row with an empty value (None, NaN, NA, NaT) in a column the template names is not asked
    (``missing="fail"``), or asked with nothing in its place (``"empty"``). Equal prompts are one. A column
    is named without the blanks around its name, and half a character (a lone surrogate) is sent as "?".

    A frame without rows has no prompts. Raises :class:`FrameError` where every row lacks a value, and
    :class:`TemplateError` for a template that cannot be read or names a column that is not there.
    """
    if missing not in ("fail", "empty"):
        raise FrameError(f"missing= is 'fail' or 'empty', not {missing!r}.")
    compiled = Template(template, missing="empty" if missing == "empty" else "error")
    if not compiled.names:
        raise TemplateError(
            "The template names no column, so every row would be asked the same.",
            hint="Name columns in double braces, such as {{purpose}}; for a single question use ask().",
        )
    columns = _names(frame.columns)
    try:
        compiled.check(columns)
    except TemplateError as error:
        lacking = getattr(error, "missing", ())
        if named := [name for name in frame.index.names if str(name) in lacking]:
            error.hint = f"{named[0]!r} is the index: df.reset_index() makes it a column."
        raise
    form = form_of(compiled, columns, layout)
    inline = form.layout == "inline"
    problems: dict[int, TemplateError] = {}
    values = (_filled if inline else _values)(frame, compiled, columns, problems)
    asked: Sequence[int] = range(len(frame))
    if problems:
        asked = [row for row in asked if row not in problems]
        values = [[column[row] for row in asked] for column in values]
    if not asked and len(frame):
        first = next(iter(problems.values()))
        raise FrameError(f"No row can be asked. {_told(first)}", hint=f"{first.hint} Nothing was sent.")
    firsts, which = distinct(values[0] if len(values) == 1 else zip(*values, strict=True))
    values = [[column[row] for row in firsts] for column in values]
    row_prompt = which
    if problems:
        row_prompt = [-1] * len(frame)
        for row, number in zip(asked, which, strict=True):
            row_prompt[row] = number
    told = {row: _told(why) for row, why in problems.items()}
    if inline:
        return Rows(values[0], row_prompt, told, form)
    return Rows(_bodies(values, form), row_prompt, told, form, values)


def kept_rows(prompts: Sequence[str], form: Form) -> Rows:
    """The rows of a job by its own prompts, as they are written down; one row for each."""
    columns: Sequence[Sequence[str]] = ()
    if form.layout != "inline":
        kept = [json.loads(prompt) for prompt in prompts]
        columns = [[compact_json(row[name]) for row in kept] for name in form.fields]
    return Rows(prompts, range(len(prompts)), {}, form, columns)


def _names(columns: pd.Index) -> list[str]:
    """The columns' names, without the blanks around them where that does not make two of them one."""
    names = [str(column) for column in columns]
    bare = Counter(name.strip() for name in names)
    return [name.strip() if bare[name.strip()] == 1 else name for name in names]


def _told(why: TemplateError) -> str:
    return f"TemplateError: {why.message}"


def _filled(
    frame: pd.DataFrame, template: Template, columns: list[str], problems: dict[int, TemplateError]
) -> list[list[str]]:
    """The filled template of every row, as one column."""
    wanted = [
        place for place, column in enumerate(columns) if column in template.names or column in template.fields
    ]
    fill = template.compile([columns[place] for place in wanted])
    prompts: list[str] = []
    values = [_cells(frame.iloc[:, place]) for place in wanted]
    for number, row in enumerate(zip(*values, strict=True)):
        try:
            prompts.append(_whole(fill(row)))
        except TemplateError as why:
            problems[number] = why
            prompts.append("")
    return [prompts]


def _values(
    frame: pd.DataFrame, template: Template, columns: list[str], problems: dict[int, TemplateError]
) -> list[list[str]]:
    """The values of every field as JSON texts, a column for each field."""
    return [_texts(frame.iloc[:, place], read, problems) for place, read in template.readers(columns)]


def _cells(values: Any) -> list[Any]:
    """The values of a column or an array as Python has them.

    Floats of less than 64 bits stay as they are: ``0.1`` would be 0.10000000149011612.
    """
    if values.dtype.kind == "f" and values.dtype.itemsize < 8:
        return list(getattr(values, "array", values))
    cells: list[Any] = values.tolist()
    return list(map(_listed, cells)) if values.dtype == object else cells


def _listed(value: Any) -> Any:
    """What a cell holds, without numpy: it leaves out the middle of an array, and writes np.float64(0.5)."""
    if isinstance(value, np.ndarray):
        return list(map(_listed, value)) if value.dtype == object else value.tolist()
    if type(value) in (list, tuple):
        inside = (each.item() if isinstance(each, np.number | np.bool_) else _listed(each) for each in value)
        return type(value)(inside)
    return value


def _whole(text: str) -> str:
    """The text with "?" for half a character, which cannot be written down: as ``ask`` sends it."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _texts(column: pd.Series, read: Callable[[Any], Any], problems: dict[int, TemplateError]) -> list[str]:
    """A column's values as JSON texts, each distinct value read once."""
    kind = column.dtype
    if not (isinstance(kind, pd.StringDtype | pd.CategoricalDtype) or kind.kind in "biufmM"):
        return _read_each(enumerate(_cells(column)), read, problems)
    codes, values = pd.factorize(column)
    unread: dict[int, TemplateError] = {}  # NaN, where a dtype tells it from NA
    known = [*_read_each(enumerate(_cells(values)), read, unread), ""]
    for code, why in unread.items():
        for number in (codes == code).nonzero()[0].tolist():
            problems.setdefault(number, why)
    texts = [known[code] for code in codes.tolist()]
    empty = (codes < 0).nonzero()[0].tolist()
    for number, text in zip(
        empty, _read_each(((number, column.iloc[number]) for number in empty), read, problems), strict=True
    ):
        texts[number] = text
    return texts


def _read_each(
    values: Iterable[tuple[int, Any]], read: Callable[[Any], Any], problems: dict[int, TemplateError]
) -> list[str]:
    """Each value as JSON text; "null", and a problem of its row, where it cannot be asked."""
    known: dict[Any, str] = {}
    texts: list[str] = []
    for number, value in values:
        kind = type(value)
        name: Any = value if kind is str else (kind, value) if kind in ONE_TEXT else None
        text = None if name is None else known.get(name)
        if text is None:
            try:
                text = _whole(compact_json(read(value)))
            except TemplateError as why:
                problems.setdefault(number, why)
                text = "null"
            if name is not None and number not in problems:
                known[name] = text
        texts.append(text)
    return texts


def _bodies(texts: list[list[str]], form: Form) -> list[str]:
    """Rows as they are kept: compact JSON, the fields in the template's order."""
    names = [compact_json(name).replace("%", "%%") for name in form.fields]
    body = "{" + ",".join(f"{name}:%s" for name in names) + "}"
    return [body % row for row in zip(*texts, strict=True)]
