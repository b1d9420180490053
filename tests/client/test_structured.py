"""Schemas: what is told to the model, what is accepted, what no answer can meet."""

from __future__ import annotations

import json
from typing import Literal

import pydantic
import pytest

from deepseek_nb.client.structured import Schema
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.errors import SchemaError, SchemaMismatch


class Inner(pydantic.BaseModel):
    title: str


class Shape(pydantic.BaseModel):
    """A shape with everything in it."""

    label: Literal["a", "b"]
    score: float = pydantic.Field(ge=0, le=1)
    inner: Inner | None = None
    tags: list[str] = []


def test_the_instruction_is_stable_and_speaks_of_json():
    """JSON mode wants the word; the prefix cache wants the same bytes; titles only cost tokens."""
    told = Schema.of(Shape).instruction()
    assert told == Schema.of(Shape).instruction()
    assert "JSON" in told
    assert told.index('"label"') < told.index('"score"') < told.index('"inner"'), (
        "in the order they were given"
    )
    schema = json.loads(told.split("Schema: ")[1].split("\n")[0])
    assert "title" not in schema
    assert schema["$defs"]["Inner"]["properties"] == {"title": {"type": "string"}}, (
        "a field named title stays"
    )


@pytest.mark.parametrize(
    "text",
    [
        '{"label":"a","score":0.5}',
        '   {"label": "a", "score": 0.5}   ',
        '```json\n{"label":"a","score":0.5}\n```',
        '{"label":"a","score":0.5,"inner":{"title":"x"},"tags":["y"]}',
    ],
)
def test_what_fits_is_a_value(text):
    """Padded with spaces or fenced, it is the same object."""
    schema = Schema.of(Shape)
    value = schema.parse(Answer(text))
    assert isinstance(value, Shape)
    assert list(schema.row(value)) == ["label", "score", "inner", "tags"]


@pytest.mark.parametrize("shape", [Shape, Shape.model_json_schema()], ids=["model", "json schema"])
@pytest.mark.parametrize(
    "text",
    [
        "",
        "prose",
        '{"label":"c","score":0.5}',
        '{"label":"a","score":7}',
        '{"label":"a"}',
        "[1]",
        '{"a":NaN}',
        '{"label":"a","score":0.5',
        '"label"',
        "null",
    ],
)
def test_what_does_not_fit_says_why_and_keeps_the_answer(shape, text):
    """The paid answer is in the error; the words name the field."""
    answer = Answer(text)
    with pytest.raises(SchemaMismatch) as caught:
        Schema.of(shape).parse(answer)
    assert caught.value.answer is answer
    assert caught.value.charged == "yes"


def test_another_shape_is_another_question():
    """The digest follows what is told, not the class's name."""
    narrower = pydantic.create_model("Shape", label=(Literal["a"], ...))
    assert Schema.of(Shape).digest != Schema.of(narrower).digest
    assert Schema.of({"x": int}).digest == Schema.of({"x": int}).digest


class Tree(pydantic.BaseModel):
    name: str
    children: list[Tree] = []


def test_a_recursive_model_is_a_schema_like_any_other():
    """References are followed as far as needed, never for ever."""
    schema = Schema.of(Tree)
    assert schema.columns == ("name", "children")
    assert schema.parse(Answer('{"name":"a","children":[{"name":"b"}]}')).children[0].name == "b"
    assert Schema.of({"tree": Tree}).columns == ("tree",)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}, "cannot be read"),
        (
            {"type": "object", "properties": {"a": {"minLength": 5, "maxLength": 1}}, "required": ["a"]},
            "minLength",
        ),
        ({"type": "object", "properties": {"a": {"const": 1, "enum": [2]}}, "required": ["a"]}, "must be 1"),
        (
            {"type": "object", "properties": {"a": {"anyOf": [{"enum": []}, False]}}, "required": ["a"]},
            "no values",
        ),
        ({"type": "object", "properties": {"a": {"not": {}}}, "required": ["a"]}, "allows nothing"),
        (
            {
                "type": "object",
                "properties": {"a": {"exclusiveMinimum": 1, "exclusiveMaximum": 1}},
                "required": ["a"],
            },
            "exclusiveMinimum",
        ),
        ({"type": "array", "items": {"type": "string"}}, "not an object"),
        ([], "is not a schema"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema, words):
    """Before anything is sent, in words that name the place."""
    with pytest.raises(SchemaError, match=words):
        Schema.of(schema)


def test_an_optional_field_nobody_can_fill_is_no_obstacle():
    """Only what is required must be possible."""
    Schema.of(
        {"type": "object", "properties": {"a": {"enum": []}, "b": {"type": "string"}}, "required": ["b"]}
    )
