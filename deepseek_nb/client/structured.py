"""Answers in a shape: from a pydantic model, a JSON Schema or a table of columns to a checked value."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, get_args, get_origin

import fastjsonschema
import jiter
import pydantic

from deepseek_nb.core.chat import Answer, canonical_json
from deepseek_nb.core.errors import SchemaError, SchemaMismatch

__all__ = ["Schema"]

LIST_FIELD = "rows"
_FENCE = re.compile(r"\A```[a-zA-Z]*\s*\n(.*?)\n?```\Z", re.DOTALL)
_JSON_SCHEMA_WORDS = frozenset({"$schema", "$ref", "$defs", "type", "properties", "anyOf", "oneOf", "allOf"})


class Schema:
    """The shape an answer must have: what is told to the model, and the check of what comes back.

    Make one with :meth:`of`. ``value`` of an answer is an instance of the pydantic model, or a
    ``dict`` for a JSON Schema; for ``list[Model]`` it is a list of instances, and :attr:`item` the
    model. ``columns`` are the names of the top-level fields.

    Raises :class:`SchemaError`, before anything is sent, for a shape no answer can have.

    >>> Schema.of({"label": str, "score": int}).columns
    ('label', 'score')
    """

    def __init__(
        self,
        name: str,
        json_schema: dict[str, Any],
        model: type[pydantic.BaseModel] | None,
        item: type[pydantic.BaseModel] | None = None,
    ) -> None:
        json_schema = _at_the_top(json_schema)
        self.name = name
        self.item = item
        """The model of each, where the answer is a list of them; None otherwise."""
        self.json_schema = json_schema
        self.model = model
        reason = _unmeetable(json_schema, json_schema)
        if reason:
            raise SchemaError(
                f"No answer can meet the schema {name}: {reason}.",
                hint="Correct the schema; nothing was sent.",
            )
        if json_schema.get("type") != "object" or not json_schema.get("properties"):
            raise SchemaError(
                f"The schema {name} is not an object with named fields.",
                hint="Give a pydantic model, an object JSON Schema with properties, or {column: type}.",
            )
        try:
            self._check = None if model else fastjsonschema.compile(json_schema)
        except (
            fastjsonschema.JsonSchemaDefinitionException,
            re.error,
            KeyError,
            TypeError,
            ValueError,
        ) as why:
            raise SchemaError(
                f"The JSON Schema {name} cannot be read: {why}.", hint="Correct the schema; nothing was sent."
            ) from None

    @classmethod
    def of(cls, shape: Any) -> Schema:
        """The schema of a pydantic model, a list of them, a JSON Schema (dict), or ``{column: type}``."""
        if isinstance(shape, Schema):
            return shape
        if isinstance(shape, type) and issubclass(shape, pydantic.BaseModel):
            return cls._of_model(shape)
        if get_origin(shape) is list and (items := _models(get_args(shape))):
            return cls._of_list(items[0])
        if isinstance(shape, Mapping):
            if not shape:
                raise SchemaError(
                    "The schema is empty.", hint="Name at least one field, such as {'label': str}."
                )
            if _JSON_SCHEMA_WORDS & shape.keys() and not all(isinstance(v, type) for v in shape.values()):
                return cls(str(shape.get("title", "answer")), dict(shape), None)
            try:
                fields: dict[str, Any] = {str(name): (kind, ...) for name, kind in shape.items()}
                return cls._of_model(pydantic.create_model("Answer", **fields))
            except (pydantic.errors.PydanticSchemaGenerationError, NameError, TypeError) as why:
                raise SchemaError(
                    f"The columns cannot be read as types: {why}.", hint="Use {'column': str} and the like."
                ) from None
        raise SchemaError(
            f"{shape!r} is not a schema.",
            hint="Give a pydantic model class or a list of one (list[Model]), a JSON Schema (a dict), or a "
            "dict of column: type.",
        )

    @classmethod
    def _of_list(cls, item: type[pydantic.BaseModel]) -> Schema:
        # the server's JSON mode takes objects only, so the list is the one field of one
        wrapper = pydantic.create_model(item.__name__ + "s", **{LIST_FIELD: (list[item], ...)})  # type: ignore[call-overload, valid-type]
        made = cls._of_model(wrapper)
        return cls(f"list[{item.__name__}]", made.json_schema, wrapper, item)

    @classmethod
    def _of_model(cls, model: type[pydantic.BaseModel]) -> Schema:
        try:
            told = model.model_json_schema()
        except pydantic.errors.PydanticInvalidForJsonSchema as why:
            raise SchemaError(
                f"The model {model.__name__} has no JSON Schema: {why}.", hint="Use types that JSON has."
            ) from None
        return cls(model.__name__, _without_titles(told), model)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the top-level fields, in order."""
        return tuple(self.json_schema["properties"])

    @property
    def digest(self) -> str:
        """Names the shape in fingerprints: another shape is another question."""
        return blake2b(canonical_json(self.json_schema).encode(), digest_size=8).hexdigest()

    def instruction(self) -> str:
        """What the system message says about the shape: stable to the byte, for the prefix cache.

        Fields stand in the order they were given: a reason asked for before a score is written before it.
        """
        told = json.dumps(self.json_schema, ensure_ascii=False, separators=(",", ":"))
        return f"Answer with one JSON object that fits this JSON Schema: {told}\nWrite only the JSON object."

    def parse(self, answer: Answer) -> Any:
        """The checked value of an answer.

        Raises :class:`SchemaMismatch`, which carries the answer, where it is not JSON or not of this shape.
        """
        text = answer.text.strip()
        if fenced := _FENCE.match(text):
            text = fenced.group(1)
        try:
            raw = jiter.from_json(text.encode("utf-8", "replace"), allow_inf_nan=False)
        except ValueError as why:
            raise SchemaMismatch(f"The answer is not JSON ({why}).", answer=answer) from None
        try:
            if self.model is not None:
                value = self.model.model_validate(raw)
                return getattr(value, LIST_FIELD) if self.item else value
            assert self._check is not None  # noqa: S101 (made where there is no model)
            return self._check(raw)
        except pydantic.ValidationError as why:
            told = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in why.errors()[:3]
            )
        except fastjsonschema.JsonSchemaValueException as why:
            told = str(why.message).removeprefix("data.")
        raise SchemaMismatch(f"The answer does not fit {self.name}: {told}.", answer=answer)

    def row(self, value: Any) -> dict[str, Any]:
        """A parsed value as ``{column: plain value}``, in the order of ``columns``."""
        if self.item is not None:
            return {LIST_FIELD: [one.model_dump(mode="json") for one in value]}
        plain = value.model_dump(mode="json") if isinstance(value, pydantic.BaseModel) else value
        return {name: plain.get(name) for name in self.columns}

    def __repr__(self) -> str:
        return f"Schema({self.name}: {', '.join(self.columns)})"


def _models(kinds: tuple[Any, ...]) -> list[type[pydantic.BaseModel]]:
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)]


def _at_the_top(schema: dict[str, Any]) -> dict[str, Any]:
    """A recursive model's schema is only a reference to itself: the definition is put in its place."""
    ref, definitions = schema.get("$ref"), schema.get("$defs", {})
    if not isinstance(ref, str) or "properties" in schema:
        return schema
    return {**definitions.get(ref.removeprefix("#/$defs/"), {}), "$defs": definitions}


def _without_titles(schema: Any) -> Any:
    """The schema without pydantic's ``title`` notes: they only cost tokens. Fields named title stay."""
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {}
    for key, value in schema.items():
        if key in ("properties", "$defs"):
            kept[key] = {name: _without_titles(inner) for name, inner in value.items()}
        elif key in ("enum", "const", "default", "examples"):
            kept[key] = value
        elif key != "title":
            kept[key] = _without_titles(value)
    return kept


_BOUNDS = (
    ("minimum", "maximum"),
    ("minLength", "maxLength"),
    ("minItems", "maxItems"),
    ("exclusiveMinimum", "exclusiveMaximum"),
)


def _unmeetable(schema: Any, root: Mapping[str, Any], path: str = "", depth: int = 0) -> str | None:
    """Why no JSON value can meet this schema, where that is plain to see; None otherwise."""
    if depth > 20 or not isinstance(schema, Mapping):
        return f"{path or 'it'} allows nothing (false)" if schema is False else None
    where = path or "it"
    if isinstance(ref := schema.get("$ref"), str) and ref.startswith("#/$defs/"):
        return _unmeetable(root.get("$defs", {}).get(ref.removeprefix("#/$defs/"), {}), root, path, depth + 1)
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
        reasons = [_unmeetable(option, root, path, depth + 1) for option in options]
        if all(reasons):
            return reasons[0]
    fields = schema.get("properties", {})
    required = schema.get("required", [])
    if isinstance(fields, Mapping) and isinstance(required, list):
        for name in required:
            if name in fields:
                reason = _unmeetable(fields[name], root, f"{path}.{name}".lstrip("."), depth + 1)
                if reason:
                    return reason
            elif schema.get("additionalProperties") is False:
                return f"{where} requires {name!r} and does not allow it"
    return None
