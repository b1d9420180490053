"""The columns of an answer: the fields of a JSON Schema, what each holds, how nested ones are named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from deepseek_nb.client.schema_checks import pointed
from deepseek_nb.core.errors import SchemaError

__all__ = ["Column", "Kind", "Nested", "columns_of", "kind_of", "plain_schema"]

Nested = Literal["flatten", "object"]
"""What becomes of a model inside a model: columns of its own (``risk.score``), or one column of objects."""

Kind = Literal["integer", "number", "boolean", "string", "category", "date", "datetime", "object"]
"""What a column holds. "category": text out of a fixed list; "object": anything else that JSON has."""

_KINDS: dict[str, Kind] = {
    "integer": "integer",
    "number": "number",
    "boolean": "boolean",
    "string": "string",
}
_FORMATS: dict[str, Kind] = {"date": "date", "date-time": "datetime"}
_DEEPEST = 20


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its name, where its value stands in the plain answer, and what it holds."""

    name: str
    path: tuple[str, ...]
    kind: Kind = "object"
    choices: tuple[str, ...] = ()
    """The values of a category, in the schema's order."""
    schema: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    """Its values' own schema, without null and references at its top, with the definitions it needs."""

    def of(self, plain: Mapping[str, Any]) -> Any:
        """The column's value in an answer (plain JSON values); None where it is not there."""
        value: Any = plain
        for step in self.path:
            if not isinstance(value, Mapping):
                return None
            value = value.get(step)
        return value


def columns_of(
    told: Mapping[str, Any], held: Mapping[str, Any] | None = None, *, nested: Nested = "object"
) -> tuple[Column, ...]:
    """The columns of a schema, in the order of its fields.

    ``told`` names the fields as the model is told, which are the columns' names; ``held`` is the same schema
    with the names under which a parsed answer holds them, where those differ (aliases).

    With ``nested="flatten"`` an object with named fields, also one that may be null, becomes a column for
    each field, named ``outer.inner``. Lists, objects with free keys and those that hold themselves stay
    one column. Raises :class:`SchemaError` where two columns have one name.

    >>> inner = {"type": "object", "properties": {"score": {"type": "integer"}}}
    >>> columns_of({"properties": {"risk": inner}}, nested="flatten")[0].name
    'risk.score'
    """
    if nested not in get_args(Nested):
        raise SchemaError(f"nested= is 'flatten' or 'object', not {nested!r}.")
    found = tuple(_columns(told, told, held or told, held or told, "", (), nested, 0))
    names = [column.name for column in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise SchemaError(
            f"Two fields would be the column {twice[0]!r}.",
            hint="Rename one of them, or keep nested objects whole: nested='object'.",
        )
    return found


def _columns(
    told: Mapping[str, Any],
    told_root: Mapping[str, Any],
    held: Mapping[str, Any],
    held_root: Mapping[str, Any],
    prefix: str,
    path: tuple[str, ...],
    nested: Nested,
    depth: int,
) -> Iterator[Column]:
    pairs = zip(told["properties"].items(), held["properties"].items(), strict=True)
    for (name, part), (key, held_part) in pairs:
        inner, under = plain_schema(part, told_root), plain_schema(held_part, held_root)
        here, at = f"{prefix}{name}", (*path, key)
        if nested == "flatten" and _has_fields(inner) and not _holds_itself(part, told_root):
            yield from _columns(inner, told_root, under, held_root, f"{here}.", at, nested, depth + 1)
        else:
            kind, choices = kind_of(inner)
            kept = {words: held_root[words] for words in ("$defs", "definitions") if words in held_root}
            yield Column(here, at, kind, choices, {**under, **kept})


def kind_of(schema: Mapping[str, Any]) -> tuple[Kind, tuple[str, ...]]:
    """What a field holds whose plain schema this is, and the choices of a category."""
    options = schema.get("enum")
    if isinstance(options, list):
        return _kind_of_options([option for option in options if option is not None])
    kind = _KINDS.get(str(schema.get("type")), "object")
    return (_FORMATS.get(str(schema.get("format")), kind) if kind == "string" else kind), ()


def _kind_of_options(options: list[Any]) -> tuple[Kind, tuple[str, ...]]:
    if not options:
        return "object", ()
    if all(isinstance(option, str) for option in options):
        return "category", tuple(dict.fromkeys(options))
    if all(isinstance(option, bool) for option in options):
        return "boolean", ()
    if any(isinstance(option, bool) or not isinstance(option, int | float) for option in options):
        return "object", ()
    return ("integer" if all(isinstance(option, int) for option in options) else "number"), ()


def plain_schema(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A field's schema without references, and without null where it is one choice of two.

    Several choices of fixed values become one ``enum``; other choices stay an ``anyOf``.
    """
    for _ in range(_DEEPEST):
        if not isinstance(schema, Mapping):
            return {}
        parts = schema.get("allOf")
        options = schema.get("anyOf") or schema.get("oneOf")
        if "$ref" in schema:
            schema = pointed(schema, root)
        elif isinstance(parts, list) and len(parts) == 1:
            schema = {**{key: value for key, value in schema.items() if key != "allOf"}, **parts[0]}
        elif isinstance(options, list):
            plain = [plain_schema(option, root) for option in options]
            solid = [option for option in plain if option.get("type") != "null"]
            if len(solid) != 1:
                fixed = [value for option in solid for value in option.get("enum", ())]
                return {"enum": fixed} if all("enum" in option for option in solid) else {"anyOf": solid}
            schema = solid[0]
        elif "const" in schema and "enum" not in schema:
            return {**schema, "enum": [schema["const"]]}
        elif isinstance(kinds := schema.get("type"), list):
            solid_kinds = [kind for kind in kinds if kind != "null"]
            return {**schema, "type": solid_kinds[0] if len(solid_kinds) == 1 else solid_kinds}
        else:
            return schema
    return {}


def _has_fields(schema: Mapping[str, Any]) -> bool:
    fields = schema.get("properties")
    return schema.get("type") == "object" and isinstance(fields, Mapping) and bool(fields)


def _holds_itself(schema: Any, root: Mapping[str, Any], above: tuple[str, ...] = ()) -> bool:
    """Whether a reference is found inside what it points to."""
    if isinstance(schema, list):
        return any(_holds_itself(part, root, above) for part in schema)
    if not isinstance(schema, Mapping):
        return False
    ref = schema.get("$ref")
    if isinstance(ref, str):
        return ref in above or _holds_itself(pointed(schema, root), root, (*above, ref))
    return any(_holds_itself(part, root, above) for key, part in schema.items() if key != "$defs")
