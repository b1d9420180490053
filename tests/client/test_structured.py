"""Schemas: what is told to the model, what is accepted, what no answer can meet."""

from __future__ import annotations

import datetime
import enum
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
        ({"n": int, "mood": ["good", "bad"]}, r"'mood'.*write Literal\['good', 'bad'\]"),
        ({"mood": {"good", "bad"}}, r"'mood'.*write Literal\['bad', 'good'\]"),
        ({"tags": [str]}, r"'tags'.*write list\[str\]"),
        ({"mood": "good|bad"}, "'mood' cannot have the type 'good|bad'. Use str, int"),
        ({"n": int, "inner": {"mood": len}}, "'mood' cannot have the type <built-in function len>"),
        ({1: int, "1": str}, "Two columns have one name"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused(schema, words):
    """Before anything is sent, in words that name the place."""
    with pytest.raises(SchemaError, match=words):
        Schema.of(schema)


def test_columns_whose_names_are_no_words_of_python_keep_them_beside_any_other():
    """A column is held under another name where a model cannot have its own."""
    schema = Schema.of({"a b": int, "column_0": str, "class": bool, "_z": float})
    assert schema.columns == ("a b", "column_0", "class", "_z")
    value = schema.parse(Answer('{"a b":1,"column_0":"x","class":true,"_z":0.5}'))
    assert schema.row(value) == {"a b": 1, "column_0": "x", "class": True, "_z": 0.5}


def test_an_optional_field_nobody_can_fill_is_no_obstacle():
    """Only what is required must be possible."""
    Schema.of(
        {"type": "object", "properties": {"a": {"enum": []}, "b": {"type": "string"}}, "required": ["b"]}
    )


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


def test_a_dict_of_columns_takes_every_type_there_is():
    """Literals, enums, dates, models and dicts of columns again; each column knows what it holds."""
    schema = Schema.of(
        {
            "label": Literal["a", "b"],
            "mood": Mood,
            "level": Level,
            "score": float,
            "count": int | None,
            "sure": bool,
            "why": str,
            "day": datetime.date,
            "at": datetime.datetime,
            "tags": list[str],
            "inner": Inner,
            "more": {"x": int},
        }
    )
    assert [(column.name, column.kind) for column in schema.fields] == [
        ("label", "category"),
        ("mood", "category"),
        ("level", "integer"),
        ("score", "number"),
        ("count", "integer"),
        ("sure", "boolean"),
        ("why", "string"),
        ("day", "date"),
        ("at", "datetime"),
        ("tags", "object"),
        ("inner", "object"),
        ("more", "object"),
    ]
    assert schema.fields[1].choices == ("good", "bad")


@pytest.mark.parametrize(
    "name",
    ["type", "properties", "schema", "json", "copy", "model_config", "_hidden", "two words", "größe", "a.b"],
)
def test_a_column_may_have_any_name(name):
    """Also one that pydantic or JSON Schema uses itself: told, checked and given under that name."""
    schema = Schema.of({name: Literal["a", "b"]})
    assert schema.columns == (name,)
    assert json.dumps(name, ensure_ascii=False) in schema.instruction()
    value = schema.parse(Answer(json.dumps({name: "b"})))
    assert schema.row(value) == {name: "b"}
    with pytest.raises(SchemaMismatch):
        schema.parse(Answer(json.dumps({name: "c"})))


class Aliased(pydantic.BaseModel):
    risk_level: str = pydantic.Field(alias="riskLevel")
    inner: Inner


def test_an_alias_is_the_columns_name_and_its_value_is_there():
    """The model is told the alias; the parsed value is found under the attribute."""
    schema = Schema.of(Aliased, nested="flatten")
    value = schema.parse(Answer('{"riskLevel":"low","inner":{"title":"x"}}'))
    assert schema.row(value) == {"riskLevel": "low", "inner.title": "x"}


class Deep(pydantic.BaseModel):
    """Three levels, one of which may be missing."""

    risk: Shape
    tree: Tree
    note: str | None = None


def test_nested_models_become_columns_or_stay_objects():
    """Names join with a dot; what may be null is empty columns; what holds itself stays whole."""
    text = '{"risk":{"label":"a","score":0.5},"tree":{"name":"t"}}'
    flat, whole = Schema.of(Deep, nested="flatten"), Schema.of(Deep)
    assert flat.columns == ("risk.label", "risk.score", "risk.inner.title", "risk.tags", "tree", "note")
    assert whole.columns == ("risk", "tree", "note")
    assert flat.row(flat.parse(Answer(text))) == {
        "risk.label": "a",
        "risk.score": 0.5,
        "risk.inner.title": None,
        "risk.tags": [],
        "tree": {"name": "t", "children": []},
        "note": None,
    }
    assert whole.row(whole.parse(Answer(text)))["risk"]["inner"] is None
    assert flat.digest == whole.digest, "the columns are no other question"
    assert Schema.of(flat) is flat
    assert Schema.of(whole, nested="flatten").columns == flat.columns


def test_a_json_schema_flattens_as_a_model_does():
    """References, allOf and optional objects are followed."""
    told = Schema.of(Deep.model_json_schema(), nested="flatten")
    assert told.columns == Schema.of(Deep, nested="flatten").columns
    assert [c.kind for c in told.fields] == [c.kind for c in Schema.of(Deep, nested="flatten").fields]


def test_two_fields_of_one_column_name_are_refused():
    with pytest.raises(SchemaError, match=r"'inner\.title'"):
        _ = Schema.of({"inner.title": str, "inner": Inner}, nested="flatten").columns


def test_what_was_mended_is_said_on_the_answer():
    """The text stays as it came."""
    text = 'Here:\n```json\n{"x":1,}\n```'
    answer = Schema.of({"x": int}).checked(Answer(text))
    assert answer.text == text
    assert answer.value.x == 1
    assert answer.mends == ("fence", "prose", "comma")
    assert Schema.of({"x": int}).checked(Answer('{"x":1}')).mends == ()


def test_a_strict_model_takes_what_json_has_for_its_types():
    """A date is a text in JSON: strict or not, a model reads it from there."""

    class Strict(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(strict=True)
        day: datetime.date
        score: int

    schema = Schema.of(Strict)
    value = schema.parse(Answer('{"day": "2026-11-23", "score": 1}'))
    assert value == Strict(day=datetime.date(2026, 11, 23), score=1)
    with pytest.raises(SchemaMismatch, match="score: Input should be a valid integer"):
        schema.parse(Answer('{"day": "2026-11-23", "score": "1"}'))


def test_definitions_may_have_their_older_name():
    rated = {"type": "object", "properties": {"score": {"type": "integer"}}, "required": ["score"]}
    schema = Schema.of({"$ref": "#/definitions/Rated", "definitions": {"Rated": rated}})
    assert schema.columns == ("score",)
    assert schema.parse(Answer('{"score": 3}')) == {"score": 3}


class Unfinished(pydantic.BaseModel):
    field: Nowhere  # noqa: F821 (that is what is tested)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        (Unfinished, "Nowhere"),
        ({"type": "object", "properties": ["label"]}, "named fields"),
        (
            {"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/a.json"}}},
            "nothing is fetched",
        ),
        ({"type": "object", "properties": {"a": {"$ref": "file:///etc/hostname"}}}, "nothing is fetched"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_shape_that_cannot_be_read_is_one_error(shape, words):
    """Ours, before anything is sent, and without a look at other servers or files."""
    with pytest.raises(SchemaError, match=words):
        Schema.of(shape)


def test_a_check_that_breaks_is_an_answer_that_does_not_fit():
    """Whatever a model's own validator raises: what was paid for is kept on the error."""

    class Split(pydantic.BaseModel):
        why: str

        @pydantic.field_validator("why")
        @classmethod
        def behind_the_colon(cls, why: str) -> str:
            return why.split(":")[1]

    schema = Schema.of(Split)
    assert schema.parse(Answer('{"why": "it: rains"}')).why == " rains"
    with pytest.raises(SchemaMismatch, match="a check of its own raised IndexError") as caught:
        schema.parse(Answer('{"why": "it rains"}'))
    assert caught.value.answer.text == '{"why": "it rains"}'
