"""A frame's rows as prompts: rendered, checked and made distinct before anything is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from deepseek_nb.core.errors import FrameError, TemplateError
from deepseek_nb.core.template import Template

__all__ = ["Rows", "read_rows"]


@dataclass(frozen=True, slots=True)
class Rows:
    """The prompts of a frame.

    ``prompts`` are distinct, in the order they first come; ``row_prompt[i]`` is the position of row
    ``i``'s prompt, or -1 where the row cannot be asked; ``problems[i]`` then says why.
    """

    prompts: Sequence[str]
    row_prompt: Sequence[int]
    problems: dict[int, str]

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
        return Rows(
            [self.prompts[place] for place in kept],
            [moved.get(place, -1) for place in self.row_prompt],
            problems,
        )


def read_rows(frame: pd.DataFrame, template: str, *, missing: Literal["fail", "empty"] = "fail") -> Rows:
    """Fill the template from every row of ``frame``.

    A row with an empty value (None, NaN, NA, NaT) in a column the template names is not asked
    (``missing="fail"``), or asked with nothing in its place (``"empty"``). Equal prompts are one.

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
    columns = [str(column) for column in frame.columns]
    compiled.check(columns)
    wanted = [
        place
        for place, column in enumerate(columns)
        if column in compiled.names or _is_root(column, compiled)
    ]
    fill = compiled.compile([columns[place] for place in wanted])
    prompts: dict[str, int] = {}
    row_prompt: list[int] = []
    problems: dict[int, str] = {}
    values = [frame.iloc[:, place].tolist() for place in wanted]
    for number, row in enumerate(zip(*values, strict=True)):
        try:
            prompt = fill(row)
        except TemplateError as why:
            problems[number] = f"TemplateError: {why.message}"
            row_prompt.append(-1)
        else:
            row_prompt.append(prompts.setdefault(prompt, len(prompts)))
    if not prompts and len(frame):
        raise FrameError(
            f"No row can be asked. {next(iter(problems.values()))}",
            hint="Fill the column, or pass missing='empty'. Nothing was sent.",
        )
    return Rows(list(prompts), row_prompt, problems)


def _is_root(column: str, template: Template) -> bool:
    return any(name.split(".")[0].split("[")[0] == column for name in template.names)
