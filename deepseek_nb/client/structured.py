"""Answers in a shape: from a pydantic model, a JSON Schema or a table of columns to a checked value."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from functools import cached_property
from hashlib import blake2b
from typing import Any, get_args, get_origin

import fastjsonschema
import pydantic

from deepseek_nb.client.json_text import Mend, read_json
from deepseek_nb.client.schema_checks import at_the_top, unmeetable, without_titles
from deepseek_nb.client.schema_columns import Column, Nested, columns_of
from deepseek_nb.client.schema_strict import strict_schema
from deepseek_nb.core.chat import Answer, canonical_json
from deepseek_nb.core.copies import changed
from deepseek_nb.core.errors import SchemaError, SchemaMismatch
from deepseek_nb.core.form import AnswerForm, Way, json_instruction

__all__ = ["Schema"]

LIST_FIELD = "rows"
_JSON_SCHEMA_WORDS = frozenset({"$schema", "$ref", "$defs", "type", "properties", "anyOf", "oneOf", "allOf"})


class Schema:
    """The shape an answer must have: what is told to the model, and the check of what comes back.

    Make one with :meth:`of`. ``value`` of an answer is an instance of the pydantic model, or a
    ``dict`` for a JSON Schema; for ``list[Model]`` it is a list of instances, and :attr:`item` the
    model. ``columns`` are the names of the fields: of those inside models, too, with ``nested="flatten"``.

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
        *,
        nested: Nested = "object",
    ) -> None:
        json_schema = at_the_top(json_schema)
        self.name = name
        self.item = item
        """The model of each, where the answer is a list of them; None otherwise."""
        self.json_schema = json_schema
        self.model = model
        self._adapter = pydantic.TypeAdapter(model) if model and _is_usual(model) else None
        """Has the model's own validator and serializer without what wraps them: half the time of a row."""
        self.nested: Nested = nested
        """What becomes of a model inside the model, as columns: its own ones, or one of objects."""
        reason = unmeetable(json_schema, json_schema)
        if reason:
            raise SchemaError(
                f"No answer can meet the schema {name}: {reason}.",
                hint="Correct the schema; nothing was sent.",
            )
        fields = json_schema.get("properties")
        if json_schema.get("type") != "object" or not fields or not isinstance(fields, Mapping):
            raise SchemaError(
                f"The schema {name} is not an object with named fields.",
                hint="Give a pydantic model, an object JSON Schema with properties, or {column: type}.",
            )
        try:
            self._check = None if model else fastjsonschema.compile(json_schema, _NOT_FETCHED)
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
    def of(cls, shape: Any, *, nested: Nested | None = None) -> Schema:
        """The schema of a pydantic model, a list of them, a JSON Schema (dict), or ``{column: type}``.

        A column's type is anything pydantic takes: ``int``, ``date``, ``str | None``, ``list[str]``, a
        ``Literal``, an ``Enum``, another model, ``Annotated[int, Field(ge=1)]``, or a dict of columns again.
        ``nested`` says what a model inside is as columns (see :class:`Schema`); None: one column.
        """
        schema = shape if isinstance(shape, Schema) else cls._read(shape)
        if nested is None or nested == schema.nested:
            return schema
        other = copy.copy(schema)
        other.nested = nested
        other.__dict__.pop("fields", None)
        return other

    @classmethod
    def _read(cls, shape: Any) -> Schema:
        if isinstance(shape, type) and issubclass(shape, pydantic.BaseModel):
            return cls._of_model(shape)
        if get_origin(shape) is list and (items := _models(get_args(shape))):
            return cls._of_list(items[0])
        if isinstance(shape, Mapping):
            if not shape:
                raise SchemaError(
                    "The schema is empty.", hint="Name at least one field, such as {'label': str}."
                )
            if _JSON_SCHEMA_WORDS & shape.keys() and all(map(_is_json, shape.values())):
                return cls(str(shape.get("title", "answer")), dict(shape), None)
            return cls._of_model(_model_of(shape, "Answer"))
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
        except pydantic.errors.PydanticUserError as why:
            reason = str(why).partition("\n")[0].rstrip(".")
            raise SchemaError(
                f"The model {model.__name__} has no JSON Schema: {reason}.",
                hint="Use types that JSON has, and define them before the model.",
            ) from None
        return cls(model.__name__, without_titles(told), model)

    @cached_property
    def fields(self) -> tuple[Column, ...]:
        """The columns an answer has, with what each of them holds."""
        held = None
        if self.model is not None:  # the same fields by the names that the parsed model gives them
            held = at_the_top(self.model.model_json_schema(by_alias=False))
        return columns_of(self.json_schema, held, nested=self.nested)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of an answer's columns, in order."""
        return tuple(column.name for column in self.fields)

    @property
    def digest(self) -> str:
        """Names the shape in fingerprints: another shape is another question."""
        return blake2b(canonical_json(self.json_schema).encode(), digest_size=8).hexdigest()

    def instruction(self) -> str:
        """What the system message says about the shape: stable to the byte, for the prefix cache.

        Fields stand in the order they were given: a reason asked for before a score is written before it.
        """
        return json_instruction(_told(self.json_schema))

    def form(self, way: Way = "tool") -> AnswerForm:
        """The shape as the server is told it apart from the messages.

        As a strict function; raises SchemaError for what strict functions do not support. Or, with
        "responses", as the format of the answer, for which no subset is documented: as it is.
        """
        schema = self.json_schema if way == "responses" else strict_schema(self.json_schema)
        return AnswerForm("answer", _told(schema), way)

    def parse(self, answer: Answer) -> Any:
        """The checked value of an answer.

        Raises :class:`SchemaMismatch`, which carries the answer, where it is not JSON or not of this shape.
        """
        return self.checked(answer).value

    def checked(self, answer: Answer) -> Answer:
        """The answer with its ``value``, and with what was mended in its text (``mends``).

        Raises as :meth:`parse` does. Fences, prose around the object and commas too many are mended; the
        text stays as it came.
        """
        try:
            value, mends = self.read(answer.text)
        except ValueError as why:
            raise SchemaMismatch(str(why), answer=answer) from None
        return changed(answer, value=value, mends=mends)

    def read(self, text: str) -> tuple[Any, tuple[Mend, ...]]:
        """The checked value of a text, and what was mended to read it. Raises ValueError."""
        try:
            raw, mends = read_json(text)
        except ValueError as why:
            raise ValueError(f"The answer is not JSON ({why}).") from None
        try:
            if self.model is not None:
                value: Any = self._validated(raw)
                return (getattr(value, LIST_FIELD) if self.item else value), mends
            assert self._check is not None  # noqa: S101 (made where there is no model)
            return self._check(raw), mends
        except pydantic.ValidationError as why:
            told = "; ".join(
                f"{'.'.join(map(str, e['loc'])) or 'answer'}: {e['msg']}" for e in why.errors()[:3]
            )
        except fastjsonschema.JsonSchemaValueException as why:
            told = str(why.message).removeprefix("data.")
        except Exception as why:  # noqa: BLE001 (a validator of the caller's own may raise anything)
            told = f"a check of its own raised {type(why).__name__}: {why}"
        raise ValueError(f"The answer does not fit {self.name}: {told}.")

    def _validated(self, raw: Any) -> Any:
        """The model of a value that JSON had. Raises pydantic's ValidationError."""
        assert self.model is not None  # noqa: S101 (asked before)
        if self._adapter is None:
            return self.model.model_validate(raw)
        try:
            return self._adapter.validator.validate_python(raw)
        except pydantic.ValidationError:  # strict models take a text for a date only from JSON itself
            return self._adapter.validator.validate_json(json.dumps(raw))

    def row(self, value: Any) -> dict[str, Any]:
        """A parsed value as ``{column: plain value}``, in the order of ``columns``."""
        plain = self.plain(value)
        return {column.name: column.of(plain) for column in self.fields}

    def plain(self, value: Any) -> dict[str, Any]:
        """A parsed value as JSON has it: dicts, lists, texts and numbers."""
        if self.item is not None:
            return {LIST_FIELD: [one.model_dump(mode="json", by_alias=False) for one in value]}
        if isinstance(value, pydantic.BaseModel):
            if self._adapter is not None and type(value) is self.model:
                return self._adapter.serializer.to_python(value, mode="json", by_alias=False)  # type: ignore[no-any-return]
            return value.model_dump(mode="json", by_alias=False)
        return dict(value)

    def __repr__(self) -> str:
        return f"Schema({self.name}: {', '.join(self.columns)})"


def _not_fetched(address: str) -> Any:
    raise ValueError(f"it points to {address}, and nothing is fetched")


_NOT_FETCHED = dict.fromkeys(("http", "https", "file", "ftp"), _not_fetched)


def _told(schema: Mapping[str, Any]) -> str:
    return json.dumps(schema, ensure_ascii=False, separators=(",", ":"))


def _models(kinds: tuple[Any, ...]) -> list[type[pydantic.BaseModel]]:
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, pydantic.BaseModel)]


def _is_usual(model: type[pydantic.BaseModel]) -> bool:
    """Whether the model is read and written as all are: it may have methods of its own for that."""
    base = pydantic.BaseModel
    reads: Any = model.model_validate
    return model.model_dump is base.model_dump and reads.__func__ is base.model_validate.__func__  # type: ignore[attr-defined]


def _is_json(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_is_json, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, str | int | float)


def _model_of(shape: Mapping[Any, Any], name: str) -> type[pydantic.BaseModel]:
    """The model of ``{column: type}``; a type may be such a dict itself."""
    if len(set(map(str, shape))) < len(shape):
        raise SchemaError("Two columns have one name, as a text and as another kind.", hint="Rename one.")
    fields: dict[str, Any] = {}
    for given, kind in shape.items():
        column = str(given)
        kind = _model_of(kind, column.title()) if isinstance(kind, Mapping) and kind else kind
        usable = column.isidentifier() and not column.startswith(("_", "model_")) and column not in _TAKEN
        attribute = column if usable else f"column_{len(fields)}"
        while not usable and attribute in shape:
            attribute += "_"
        fields[attribute] = (kind, ... if usable else pydantic.Field(alias=column))
    model = _created(name, fields)
    if model is None:
        raise _no_type(shape)
    return model


def _created(name: str, fields: Mapping[str, Any]) -> type[pydantic.BaseModel] | None:
    """The model; None where a type of it cannot be read."""
    try:
        model: type[pydantic.BaseModel] = pydantic.create_model(name, **fields)
    except (pydantic.errors.PydanticUserError, NameError, SyntaxError, TypeError):
        return None
    return model if model.__pydantic_complete__ else None


def _no_type(shape: Mapping[Any, Any]) -> SchemaError:
    """The error for the first column whose type cannot be read."""
    unread = (pair for pair in shape.items() if _created("One", {"one": (pair[1], ...)}) is None)
    column, kind = next(unread, next(iter(shape.items())))
    hint = "Use str, int, float, bool, date, Literal['yes', 'no'], an Enum, a model or a list of these."
    if isinstance(kind, list) and len(kind) == 1 and isinstance(kind[0], type):
        hint = f"For a list of these write list[{kind[0].__name__}]."
    elif isinstance(kind, list | tuple) and kind:
        hint = f"For one of these values write Literal[{', '.join(map(repr, kind))}]."
    elif isinstance(kind, set | frozenset) and kind:
        hint = f"For one of these values write Literal[{', '.join(sorted(map(repr, kind)))}]."
    return SchemaError(f"The column {str(column)!r} cannot have the type {kind!r}.", hint=hint)


_TAKEN = frozenset(dir(pydantic.BaseModel))
"""Names that pydantic's models have already: a column of that name is held under another one."""
