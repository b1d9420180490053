"""Light repairs: what may be mended in an answer's text, and what is never guessed at."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.client.json_text import read_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(), VALUES, max_size=4)
PROSE = st.text(alphabet="Sure, here it is: (see [1]).\n", max_size=40).filter(
    lambda text: not text.rstrip().endswith(("[", ","))
)


@pytest.mark.parametrize(
    ("text", "mends"),
    [
        ('{"a":1}', ()),
        ('  \n{"a":1}  ', ()),
        ('```json\n{"a":1}\n```', ("fence",)),
        ('```\n{"a":1}```', ("fence",)),
        ('Here it is:\n```json\n{"a":1}\n```\nAnything else?', ("fence", "prose")),
        ('The answer is {"a":1}.', ("prose",)),
        ('{"a":1,}', ("comma",)),
        ('```json\n{"a":1,\n}\n```', ("fence", "comma")),
    ],
)
def test_what_leaves_one_reading_is_mended_and_said(text, mends):
    assert read_json(text) == ({"a": 1}, mends)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no object",
        '{"a":1',
        '{"a":{"b":1}',
        '[{"a":1}',
        'first {"a":1}, then {"a":2}',
        "{'a':1}",
        '{"a":1 "b":2}',
        '{"a":,}',
        '{"a":NaN}',
        "}{",
        '{"a":"x\ny"}',
        '{"a": {"b":1}, {"c":2}',
        '[0, {"a":1}',
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text):
    """A text cut short, two objects, single quotes, a list that lost its end."""
    with pytest.raises(ValueError):
        read_json(text)


@given(OBJECTS)
def test_json_is_read_as_it_is(value):
    assert read_json(json.dumps(value)) == (value, ())


@given(OBJECTS, PROSE, PROSE, st.sampled_from(["", "```", "```json"]))
def test_an_object_among_words_is_that_object(value, before, after, fence):
    end = "\n```" if fence else ""
    read, _ = read_json(f"{before}{fence}\n{json.dumps(value)}{end}\n{after}")
    assert read == value


@given(OBJECTS, st.integers(1, 200))
def test_a_text_cut_short_never_becomes_another_answer(value, kept):
    """Any beginning of an object is refused, or it is the whole of it."""
    text = json.dumps(value)
    try:
        read, _ = read_json(text[:kept])
    except ValueError:
        return
    assert read == value


@given(OBJECTS)
def test_commas_too_many_do_not_touch_texts(value):
    """Strings that hold ``,}`` stay as they are."""
    text = json.dumps({"s": ',} ,] "', **value})
    assert read_json(text[:-1] + ",}")[0] == json.loads(text)
