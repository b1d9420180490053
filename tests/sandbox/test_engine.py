"""The answer engine's rules: deterministic, inside the schema, close to the text, marked as simulated."""

import json
from typing import Annotated, Literal

import fastjsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from raw_client import ask

from deepseek_nb.sandbox import Completion
from deepseek_nb.sandbox.engine import find_schema
from deepseek_nb.sandbox.filling import fill

LINE = "Answer with one JSON object that fits this JSON Schema: "


def ask_schema(sandbox, schema, text, **fields):
    messages = [
        {"role": "system", "content": "Be careful {really}.\n" + LINE + json.dumps(schema) + "\nNo prose."},
        {"role": "user", "content": text},
    ]
    heard = ask(sandbox, messages=messages, response_format={"type": "json_object"}, **fields)
    return json.loads(heard.text)


def test_free_text_is_marked_and_extractive(sandbox):
    text = "The parcel came late. The box was wet. Nobody answered the phone. What should I do?"
    answer = ask(sandbox, text).text
    assert answer.startswith("[simulated] ")
    assert answer.removeprefix("[simulated] ") in text
    assert ask(sandbox, text, stream=True).text == answer


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("Return exactly: OK", "OK"),
        ("Reply with exactly AUTHENTICATED_OK and nothing else.", "AUTHENTICATED_OK"),
        ("Please think. Respond with exactly: 42 apples", "42 apples"),
        ("return exactly: two\nlines", "two\nlines"),
    ],
)
def test_exact_answers(sandbox, prompt, answer):
    assert ask(sandbox, prompt).text == answer


def test_json_without_a_schema(sandbox):
    heard = ask(sandbox, "Say it in JSON. The sky is blue.", response_format={"type": "json_object"})
    assert list(json.loads(heard.text)) == ["answer"]


def test_enums_follow_the_text(sandbox):
    schema = {
        "type": "object",
        "properties": {"topic": {"enum": ["card_arrival", "exchange_rate", "lost_or_stolen_card"]}},
    }
    for text, topic in (
        ("What is the rate when I exchange euros?", "exchange_rate"),
        ("Somebody has stolen my card, or I lost it", "lost_or_stolen_card"),
        ("I am still waiting for the arrival of the card", "card_arrival"),
    ):
        assert ask_schema(sandbox, schema, text) == {"topic": topic}


def test_a_list_of_all_options_in_the_text_does_not_count():
    schema = {"properties": {"topic": {"enum": ["refund", "delivery", "quality"]}}}
    text = "Choose one of refund, delivery, quality. The delivery took three weeks."
    assert fill(schema, text) == {"topic": "delivery"}


def test_moods_decide_where_words_do_not():
    schema = {"properties": {"sentiment": {"enum": ["positive", "neutral", "negative"]}}}
    assert fill(schema, "I love it, great quality and so comfortable!") == {"sentiment": "positive"}
    assert fill(schema, "Terrible. It came broken and nobody would refund it.") == {"sentiment": "negative"}


def test_named_numbers_and_booleans_come_from_the_text():
    schema = {
        "properties": {
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "employed": {"type": "boolean"},
            "telephone": {"type": "boolean"},
        }
    }
    text = "An applicant of age 35, employed for years, with no telephone."
    assert fill(schema, text) == {"age": 35, "employed": True, "telephone": False}


class Item(BaseModel):
    name: str = Field(min_length=1, max_length=12)
    price: float = Field(gt=0, lt=5)


class Tree(BaseModel):
    label: str
    children: list["Tree"] = []


class Everything(BaseModel):
    risk: Literal["low", "medium", "high"]
    score: int = Field(ge=3, le=7)
    ratio: float = Field(ge=0, le=1)
    step: Annotated[int, Field(multiple_of=5, ge=11, le=24)]
    note: str | None
    items: list[Item] = Field(min_length=2, max_length=3)
    tags: set[Literal["a", "b", "c"]]
    pair: tuple[int, str]
    kind: Literal["only"]
    tree: Tree
    maybe: Item | None = None
    code: str = Field(pattern=r"^[A-Z]{3}$")
    either: int | list[str]


@pytest.mark.parametrize(
    "text", ["Short.", "", "A long text about goods. It is good. 17 days late!", "中文。很好。"]
)
def test_a_rich_schema_is_filled_so_that_it_validates(text):
    value = fill(Everything.model_json_schema(), text)
    made = Everything.model_validate_json(json.dumps(value))
    assert made.kind == "only"
    assert fill(Everything.model_json_schema(), text) == value


def test_over_the_socket_in_one_piece(sandbox):
    value = ask_schema(sandbox, Everything.model_json_schema(), "A text about high risk")
    assert Everything.model_validate(value).risk == "high"


SCALARS = st.one_of(
    st.builds(
        lambda low, size: {"type": "integer", "minimum": low, "maximum": low + size},
        st.integers(-1000, 1000),
        st.integers(0, 50),
    ),
    st.builds(
        lambda low, size: {"type": "number", "exclusiveMinimum": low, "maximum": low + size},
        st.integers(-100, 100),
        st.integers(1, 50),
    ),
    st.builds(
        lambda least, more: {"type": "string", "minLength": least, "maxLength": least + more},
        st.integers(0, 40),
        st.integers(0, 40),
    ),
    st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=5, unique=True).map(lambda o: {"enum": o}),
    st.sampled_from([{"type": "boolean"}, {"type": "null"}, {"const": 7}, {"type": ["string", "null"]}]),
)
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from(["age", "note", "x"]), inner, max_size=3).map(
            lambda parts: {"type": "object", "properties": parts, "required": list(parts)}
        ),
        st.builds(
            lambda item, least, more: {
                "type": "array",
                "items": item,
                "minItems": least,
                "maxItems": least + more,
            },
            inner,
            st.integers(0, 4),
            st.integers(0, 3),
        ),
        st.lists(inner, min_size=1, max_size=3).map(lambda choices: {"anyOf": choices}),
    ),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(schema=SCHEMAS, text=st.text(max_size=200))
def test_any_schema_is_filled_with_what_it_allows(schema, text):
    fastjsonschema.compile({"properties": {"it": schema}})(
        {"it": fill({"properties": {"it": schema}}, text)["it"]}
    )


def test_the_schema_is_found_among_other_braces():
    text = 'Use {{name}} and {"a": 1}. {"type":"object","properties":{"b":{}}} and {"properties": {"c": {}}}'
    assert find_schema(text)[0]["properties"] == {"b": {}}
    assert find_schema("no schema {")[0] is None
    assert find_schema('{"properties": 3}')[0] is None


def test_a_schema_in_the_question_is_not_quoted(sandbox):
    schema = json.dumps({"properties": {"why": {"type": "string"}}})
    heard = ask(
        sandbox, f"Fit this JSON: {schema}. The tea is cold.", response_format={"type": "json_object"}
    )
    assert "properties" not in heard.text


def test_a_prefix_is_continued(sandbox):
    question = {"role": "user", "content": "Return exactly: one two three"}
    begun = {"role": "assistant", "content": "one two", "prefix": True}
    assert ask(sandbox, messages=[question, begun]).text == " three"


def test_another_engine_may_answer(make):
    sandbox = make(engine=lambda request: Completion(request.question.upper(), "hm"))
    assert ask(sandbox, "hello").text == "HELLO"
    assert ask(sandbox, "hello", thinking=None).json["choices"][0]["message"]["reasoning_content"] == "hm"
