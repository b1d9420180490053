"""What an answer becomes: the value that is bound, and what the cell shows of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, get_args, get_origin

from deepseek_nb.core.chat import Answer
from deepseek_nb.core.errors import SchemaMismatch
from deepseek_nb.notebook.tables import rows_bundle
from deepseek_nb.notebook.views import code_of, final

__all__ = ["Shape"]

ANY_ROWS = {
    "title": "table",
    "type": "object",
    "properties": {
        "rows": {"type": "array", "items": {"type": "object"}, "description": "flat, all with the same keys"}
    },
    "required": ["rows"],
}
"""What ``--as table`` asks for where no schema names the columns."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How one question's answer is checked, bound and shown.

    ``given`` is the schema from the user's namespace (None: none), ``wanted`` the view that was asked
    for ("": whichever fits).
    """

    given: Any = None
    wanted: str = ""

    @property
    def schema(self) -> Any:
        """What the client checks the answer against."""
        return ANY_ROWS if self.given is None and self.wanted == "table" else self.given

    @property
    def view(self) -> str:
        """One of ``VIEWS``."""
        if self.wanted or self.given is None:
            return self.wanted or "markdown"
        return "table" if self._is_list else "json"

    @property
    def _is_list(self) -> bool:
        return get_origin(self.given) is list

    def value(self, answer: Answer) -> Any:
        """What is bound: a checked object; for a list of them or a table a DataFrame; else text.

        Of a code view it is the code, of JSON without a schema what it says. Raises SchemaMismatch where
        that is no JSON.
        """
        if self._is_list:
            return _frame(answer.value, tuple(get_args(self.given)[0].model_fields))
        if self.given is not None:
            return answer.value
        if self.view == "table":
            return _frame(answer.value["rows"])
        if self.view == "json":
            return _parsed(answer)
        return code_of(answer.text, "code")[0].rstrip() if self.view == "code" else answer.text

    def bundle(self, answer: Answer, name: str | None = None) -> Mapping[str, str]:
        """What the cell shows; ``name`` is what the value is bound to."""
        if self.view == "table":
            return rows_bundle(self._rows(answer), name)
        return final(answer.text, self.view)

    def _rows(self, answer: Answer) -> Sequence[Mapping[str, Any]]:
        if self._is_list:
            return [row.model_dump(mode="json") for row in answer.value]
        if self.given is None:
            rows: list[Mapping[str, Any]] = answer.value["rows"]
            return rows
        value = answer.value
        return [value.model_dump(mode="json") if hasattr(value, "model_dump") else value]


def _frame(rows: Sequence[Any], columns: Sequence[str] = ()) -> Any:
    """Rows (dictionaries or pydantic models) as a DataFrame; ``columns`` are there even without a row."""
    pandas = import_module("pandas")
    plain = [row.model_dump(by_alias=False) if hasattr(row, "model_dump") else dict(row) for row in rows]
    return pandas.DataFrame(plain, columns=list(columns) if columns else None)


def _parsed(answer: Answer) -> Any:
    try:
        return json.loads(code_of(answer.text, "json")[0])
    except (ValueError, RecursionError) as why:
        raise SchemaMismatch(
            f"The answer is not JSON ({why}).",
            hint="It is kept in _deepseek.text. With --schema NAME the model is asked again where it fails.",
            answer=answer,
        ) from None
