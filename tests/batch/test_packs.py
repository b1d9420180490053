"""Packs of rows: what is sent, and whose answer is whose in what comes back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.batch.packs import pack_message, pack_schema, unpacked
from deepseek_nb.client.structured import Schema

TEXTS = st.text(max_size=20)
VALUES = TEXTS | st.integers(-5, 5) | st.none() | st.lists(st.integers(), max_size=3)
ANSWERS = TEXTS | st.dictionaries(TEXTS, VALUES, max_size=3)


def told(answers: list[tuple[object, object]]) -> str:
    """A pack's answer with these pairs of id and answer."""
    return json.dumps({"answers": [{"id": number, "answer": answer} for number, answer in answers]})


@given(st.lists(ANSWERS, min_size=1, max_size=8), st.randoms())
def test_every_row_gets_the_answer_that_bears_its_id_in_any_order(answers, chance):
    """An answer goes by its id, not by where it stands."""
    pairs = list(enumerate(answers, 1))
    chance.shuffle(pairs)
    found = unpacked(told(pairs), len(answers))
    assert found.keys() == set(range(len(answers)))
    for place, answer in enumerate(answers):
        assert (found[place] if isinstance(answer, str) else json.loads(found[place])) == answer


@given(st.lists(ANSWERS, min_size=1, max_size=6), st.data())
def test_a_cut_answer_gives_whole_answers_only(answers, data):
    """Cut anywhere: what is given is what the whole text would have given for that row."""
    text = told(list(enumerate(answers, 1)))
    whole = unpacked(text, len(answers))
    cut = unpacked(text[: data.draw(st.integers(0, len(text)))], len(answers))
    assert cut.items() <= whole.items()


@given(st.lists(TEXTS, min_size=1, max_size=8))
def test_a_row_cannot_leave_its_line(rows):
    """Whatever stands in a row, a pack has a line for each."""
    lines = pack_message(rows, as_json=False).split("\n")
    assert [json.loads(line) for line in lines] == [
        {"id": number, "row": row} for number, row in enumerate(rows, 1)
    ]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([(1, "a"), (1, "b"), (2, "c")], {1: "c"}),
        ([(0, "a"), (3, "b"), (-1, "c")], {}),
        ([("2", "a"), (None, "b")], {1: "a"}),
    ],
    ids=["an id twice", "ids of no row", "an id as text"],
)
def test_an_answer_that_is_nobodys_is_nobodys(pairs, expected):
    """Where an id does not name one row, no row gets the answer."""
    assert unpacked(told(pairs), 2) == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "   ",
            "no",
            "[]",
            "{}",
            '{"answers": 3}',
            '{"answers": [1, null, {"id": 1}, {"answer": "a"}]}',
        ),
        '{"answers": [{"id": 1e999, "answer": "a"}, {"id": 2, "answer": null}]}',
    ],
)
def test_what_cannot_be_read_gives_nothing(text):
    """No guess is made."""
    assert unpacked(text, 3) == {}


def test_the_shape_of_a_pack_keeps_the_definitions_of_the_rows_shape():
    """A nested model's ``$defs`` stand where ``$ref`` looks for them."""
    inner = {"$ref": "#/$defs/Part"}
    shape = {
        "type": "object",
        "properties": {"part": inner},
        "required": ["part"],
        "$defs": {"Part": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}},
    }
    packed = pack_schema(Schema.of(shape))
    value, _ = packed.read('{"answers":[{"id":1,"answer":{"part":{"n":3}}}]}')
    assert value["answers"][0]["answer"] == {"part": {"n": 3}}
    with pytest.raises(ValueError, match="does not fit"):
        packed.read('{"answers":[{"id":1,"answer":{"part":{}}}]}')
