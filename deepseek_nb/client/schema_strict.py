"""A schema as strict functions take it: the documented subset, or an error that names what is not in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseek_nb.client.schema_checks import pointed
from deepseek_nb.core.errors import SchemaError

__all__ = ["strict_schema"]

_NOTES = ("title", "description", "default", "examples", "$schema", "$defs", "definitions", "deprecated")
_FORMATS = ("email", "hostname", "ipv4", "ipv6", "uuid")
_NUMBER = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_WORDS: dict[str, tuple[str, ...]] = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items",),
    "string": ("pattern", "format"),
    "number": _NUMBER,
    "integer": _NUMBER,
    "boolean": (),
}


def strict_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema for ``strict`` functions: every field required, no others allowed, references put in place.

    What an answer must meet is only tightened: a field with a default has to be written, too. Raises
    :class:`SchemaError` for what is not in the documented subset: null, free keys, lengths of texts and
    lists, other formats than email, hostname, ipv4, ipv6 and uuid, ``allOf``, ``oneOf`` and the like.
    """
    writer = _Strict(schema)
    made = writer.value(schema, "", ())
    definitions: dict[str, Any] = {}
    while missing := [ref for ref in writer.recursive if _name(ref) not in definitions]:
        ref = missing[0]  # what holds itself stays a reference
        definitions[_name(ref)] = writer.value(pointed({"$ref": ref}, schema), _name(ref), (ref,))
    return {**made, "$def": definitions} if definitions else made


class _Strict:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root = root
        self.recursive: dict[str, None] = {}

    def value(self, schema: Any, where: str, above: tuple[str, ...]) -> dict[str, Any]:
        """One part of the schema; ``above`` are the references that led here."""
        if not isinstance(schema, Mapping):
            raise _unsupported(where, "a schema of true or false")
        noted = {"description": schema["description"]} if schema.get("description") else {}
        ref = schema.get("$ref")
        if isinstance(ref, str):
            if ref in above:
                self.recursive[ref] = None
                return {"$ref": f"#/$def/{_name(ref)}"}
            return {**self.value(pointed(schema, self.root), where, (*above, ref)), **noted}
        if "anyOf" in schema:
            self._only(schema, ("anyOf",), where)
            options = [self.value(option, where, above) for option in schema["anyOf"]]
            return {"anyOf": options, **noted}
        if "const" in schema or "enum" in schema:
            return {**self._fixed(schema, where), **noted}
        kind = schema.get("type")
        if kind not in _WORDS:
            other = next((repr(word) for word in schema if word not in _NOTES), "no type")
            raise _unsupported(where, other if kind is None else f"the type {kind!r}")
        self._only(schema, ("type", *_WORDS[str(kind)]), where)
        if kind == "object":
            return {**self._object(schema, where, above), **noted}
        if kind == "array":
            return {
                "type": "array",
                "items": self.value(schema.get("items", {}), f"{where}[]", above),
                **noted,
            }
        if kind == "string" and schema.get("format", _FORMATS[0]) not in _FORMATS:
            raise _unsupported(where, f"the format {schema['format']!r}")
        kept = {word: schema[word] for word in _WORDS[str(kind)] if word in schema}
        return {"type": kind, **kept, **noted}

    def _object(self, schema: Mapping[str, Any], where: str, above: tuple[str, ...]) -> dict[str, Any]:
        if schema.get("additionalProperties", False) is not False or not schema.get("properties"):
            raise _unsupported(where, "an object with free keys")
        inside = {
            name: self.value(part, f"{where}.{name}".lstrip("."), above)
            for name, part in schema["properties"].items()
        }
        return {
            "type": "object",
            "properties": inside,
            "required": list(inside),
            "additionalProperties": False,
        }

    def _fixed(self, schema: Mapping[str, Any], where: str) -> dict[str, Any]:
        self._only(schema, ("const", "enum", "type"), where)
        options = list(schema.get("enum", [schema.get("const")]))
        for option in options:
            if option is None or isinstance(option, list | dict):
                raise _unsupported(where, f"the fixed value {option!r}")
        kind = {"type": schema["type"]} if isinstance(schema.get("type"), str) else {}
        return {**kind, "enum": options}

    @staticmethod
    def _only(schema: Mapping[str, Any], words: tuple[str, ...], where: str) -> None:
        for word in schema:
            if word not in words and word not in _NOTES:
                raise _unsupported(where, f"{word!r}")


def _name(ref: str) -> str:
    return ref.rpartition("/")[2]


def _unsupported(where: str, what: str) -> SchemaError:
    return SchemaError(
        f"Strict functions do not support all of this schema. {where or 'The schema'}: {what}.",
        hint="Use structured='json', which takes every schema, or leave it out. Nothing was sent.",
    )
