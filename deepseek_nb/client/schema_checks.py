"""What is plain to see about a JSON Schema: its parts, and whether any answer can meet it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["at_the_top", "pointed", "unmeetable", "without_titles"]


def pointed(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """What the ``$ref`` of a schema points to among the root's definitions; the schema itself without one."""
    ref = schema.get("$ref")
    if not isinstance(ref, str):
        return schema
    for words in ("$defs", "definitions"):
        if ref.startswith(f"#/{words}/"):
            return root.get(words, {}).get(ref.removeprefix(f"#/{words}/"), {})
    return {}


def at_the_top(schema: dict[str, Any]) -> dict[str, Any]:
    """A recursive model's schema is only a reference to itself: the definition is put in its place."""
    if not isinstance(schema.get("$ref"), str) or "properties" in schema:
        return schema
    kept = {words: schema[words] for words in ("$defs", "definitions") if words in schema}
    return {**pointed(schema, schema), **kept}


def without_titles(schema: Any) -> Any:
    """The schema without pydantic's ``title`` notes: they only cost tokens. Fields named title stay."""
    if isinstance(schema, list):
        return [without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            kept[key] = {name: without_titles(inner) for name, inner in value.items()}
        elif key in ("enum", "const", "default", "examples"):
            kept[key] = value
        elif key != "title":
            kept[key] = without_titles(value)
    return kept


_BOUNDS = (
    ("minimum", "maximum"),
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("exclusiveMinimum", "exclusiveMaximum"),
)


def unmeetable(schema: Any, root: Mapping[str, Any], path: str = "", depth: int = 0) -> str | None:
    """Why no JSON value can meet this schema, where that is plain to see; None otherwise."""
    if depth > 20 or not isinstance(schema, Mapping):
        return f"{path or 'it'} allows nothing (false)" if schema is False else None
    where = path or "it"
    if isinstance(ref := schema.get("$ref"), str) and ref.startswith("#/$defs/"):
        return unmeetable(pointed(schema, root), root, path, depth + 1)
    if schema.get("enum") == []:
        return f"{where} must be one of no values"
    if "const" in schema and "enum" in schema and schema["const"] not in schema["enum"]:
        return f"{where} must be {schema['const']!r}, which is not among its own values"
    if schema.get("not") == {}:
        return f"{where} allows nothing"
    for low, high in _BOUNDS:
        a, b = schema.get(low), schema.get(high)
        if (
            isinstance(a, int | float)
            and isinstance(b, int | float)
            and (a > b or (a == b and low == "exclusiveMinimum"))
        ):
            return f"{where} has {low} {a:g} over {high} {b:g}"
    options = schema.get("anyOf") or schema.get("oneOf")
    if isinstance(options, list) and options:
        reasons = [unmeetable(option, root, path, depth + 1) for option in options]
        if all(reasons):
            return reasons[0]
    fields = schema.get("properties", {})
    required = schema.get("required", [])
    if isinstance(fields, Mapping) and isinstance(required, list):
        for name in required:
            if name in fields:
                reason = unmeetable(fields[name], root, f"{path}.{name}".lstrip("."), depth + 1)
                if reason:
                    return reason
            elif schema.get("additionalProperties") is False:
                return f"{where} requires {name!r} and does not allow it"
    return None
