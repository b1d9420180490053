"""Answers that name an option by its number: a token or two in place of a JSON object.

Output costs two hundred times as much as a cached prompt, so the options are numbered once in the
system message and the answer is a line for each field. What comes back is turned into the same
JSON that the schema asks for, and checked by it.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from deepseek_nb.client.json_text import Mend
from deepseek_nb.client.structured import Schema
from deepseek_nb.core.errors import SchemaError
from deepseek_nb.core.form import AnswerForm, Way

__all__ = ["NumberedSchema"]

_TOLD = frozenset({"type", "enum", "const", "title", "default"})
"""What a line says in its own words, or need not say; the rest (bounds, a description) is told as JSON."""
_PLAIN = {"integer": "a whole number", "number": "a number", "string": "a text"}


class NumberedSchema(Schema):
    """A schema whose answers are lines: the number of an option, or a plain value.

    Only a text that is the last field may have more than one line. Raises :class:`SchemaError` for a schema
    with fields of another kind (lists, objects, values that may be missing).
    """

    def __init__(self, base: Schema) -> None:
        self.__dict__.update(vars(base))
        self.base = base
        self._fields: list[tuple[str, list[Any] | None, str]] = []
        self._lines: list[str] = []
        for name, told in base.json_schema["properties"].items():
            field = _resolved(told, base.json_schema)
            options = [field["const"]] if "const" in field else field.get("enum")
            kind = "" if options else str(field.get("type"))
            if kind == "boolean":
                options, kind = [False, True], ""
            if options is None and kind not in _PLAIN:
                raise SchemaError(
                    f"The field {name!r} has no options to number and is no plain value.",
                    hint="Leave answers='numbers' out, or make it an Enum, a Literal, a number or a text.",
                )
            self._fields.append((name, options, kind))
            rest = {word: value for word, value in field.items() if word not in _TOLD}
            self._lines.append(f"{name}: {self._form(options, kind)}{f', {_compact(rest)}' if rest else ''}")

    def instruction(self) -> str:
        """What the system message says about the answer; stable to the byte."""
        number = len(self._lines)
        many = "one line" if number == 1 else f"{number} lines, the values only, in this order"
        return f"Answer with {many}:\n" + "\n".join(self._lines)

    @staticmethod
    def _form(options: list[Any] | None, kind: str) -> str:
        if options is None:
            return _PLAIN[kind]
        return "the number of one of " + _compact(
            {str(number): option for number, option in enumerate(options, 1)}
        )

    @property
    def digest(self) -> str:
        """Names the shape and the way it is asked for: another way is another question."""
        return blake2b(f"numbers {self.base.digest}".encode(), digest_size=8).hexdigest()

    def form(self, way: Way = "tool") -> AnswerForm:
        """There is none: what a server is told of a shape is about JSON. Raises :class:`SchemaError`."""
        raise SchemaError(f"Answers by number are lines: structured={way!r} cannot ask for them.")

    def read(self, text: str) -> tuple[Any, tuple[Mend, ...]]:
        """The checked value of a text; nothing is mended. Raises ValueError for other lines."""
        lines = text.strip().split("\n", len(self._fields) - 1)
        if len(lines) < len(self._fields):
            raise ValueError(f"The answer has {len(lines)} of {len(self._fields)} lines.")
        found = {
            name: _read(line.strip(), options, kind, name)
            for (name, options, kind), line in zip(self._fields, lines, strict=True)
        }
        return self.base.read(json.dumps(found))


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _read(text: str, options: list[Any] | None, kind: str, name: str) -> Any:
    if kind == "string":
        return text
    try:
        if options is None:
            return int(text) if kind == "integer" else float(text)
        return dict(enumerate(options, 1))[int(text)]
    except (ValueError, KeyError):
        wanted = _PLAIN[kind] if options is None else f"a number from 1 to {len(options)}"
        raise ValueError(f"{name} is {wanted}, not {text[:40]!r}.") from None


def _resolved(told: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(told, dict):  # true: any value
        return {}
    ref = told.get("$ref")
    if isinstance(ref, str) and ref.startswith("#/$defs/"):
        found: dict[str, Any] = root.get("$defs", {}).get(ref.removeprefix("#/$defs/"), {})
        return found
    return told
