"""The planner: rows keep their answers, orders share beginnings, padding ends at a block, waves lead."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepseek_nb.core.layout.arrange import arrange, as_given
from deepseek_nb.core.layout.estimate import cached_tokens, led_tokens, sampled, scale_of
from deepseek_nb.core.layout.field_tokens import COUNTED, FieldTokens
from deepseek_nb.core.layout.groups import Groups
from deepseek_nb.core.layout.order import (
    distinct,
    first_orders,
    length_per_bit,
    scatter,
    shared_fields,
    statistics_order,
)
from deepseek_nb.core.layout.prefix import BEFORE_THE_ROW_TOKENS, BLOCK_TOKENS, filler, padded
from deepseek_nb.core.layout.waves import leaders, waves
from deepseek_nb.core.tokens import estimate_tokens
from deepseek_nb.sandbox.prefix_cache import PrefixCache
from deepseek_nb.sandbox.tokens import make_counter

tables = st.integers(1, 4).flatmap(
    lambda fields: st.lists(
        st.tuples(*[st.sampled_from(["", "a", "a long text " * 30, "b", "another text " * 25])] * fields),
        min_size=1,
        max_size=120,
    )
)


def not_asked(field: int, text: object) -> float:
    raise AssertionError("not asked here")


def texts(names, weights):
    """The tokens of fields with names of so many characters, so many tokens each."""
    return [
        FieldTokens(lambda text, name=name, weight=weight: (name + len(text or "")) * weight, name)
        for name, weight in zip(names, weights, strict=False)
    ]


def quarters(field, text):
    """Four characters are a token."""
    return len(text or "") // 4


@given(st.lists(st.text(max_size=2)))
def test_equal_rows_are_one_and_every_row_finds_its_own(rows):
    """What is distinct, scattered back, is the rows."""
    firsts, which = distinct(rows)
    assert len({rows[first] for first in firsts}) == len(firsts)
    assert firsts == sorted(firsts)
    assert scatter([rows[first] for first in firsts], which) == rows


@given(tables)
def test_an_arrangement_sends_every_row_once(rows):
    """Whatever the order of fields and rows, and whoever leads: each row is sent, and none twice."""
    firsts, _ = distinct(rows)
    columns = [list(column) for column in zip(*(rows[first] for first in firsts), strict=True)]

    found = arrange(columns, [1] * len(columns), lambda _, text: len(text or "") + 1)
    assert sorted(found.sent) == list(range(len(firsts)))
    assert sorted(found.fields) == list(range(len(columns)))
    assert found.blocks[0] == 0
    led = [place for wave in found.waves for place in wave]
    assert found.sent[: len(led)] == [found.rows[place] for place in led]
    assert len(led) == len(set(led))
    sent = ["\n".join(columns[field][row] for field in found.fields) for row in found.rows]
    for (before, after), blocks in zip(pairwise(sent), list(found.blocks)[1:], strict=True):
        assert before[: blocks * BLOCK_TOKENS] == after[: blocks * BLOCK_TOKENS]


@given(tables)
def test_orders_are_orders_of_the_fields(rows):
    """Each method gives every field once; equal beginnings then stand side by side."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    names = [5] * len(columns)
    better = Groups(columns, texts(names, [0.25] * 4)).better(range(len(columns)))
    for order in (statistics_order(columns, names), length_per_bit(columns, names), better):
        assert sorted(order) == list(range(len(columns)))
    assert set(first_orders(columns, names)) >= {tuple(range(len(columns))), length_per_bit(columns, names)}
    order = better
    places, shared = shared_fields(columns, order)
    assert sorted(places) == list(range(len(rows)))
    seen = set()
    for place, count in zip(places, shared, strict=True):
        heads = [tuple(rows[place][field] for field in order[:upto]) for upto in range(1, len(order) + 1)]
        assert sum(head in seen for head in heads) == count, (
            "what was seen before is shared with the row before"
        )
        seen.update(heads)


def test_length_per_bit_puts_long_and_certain_fields_first():
    """A constant, then what follows from others, then what is new in every row."""
    number = [str(row) for row in range(200)]
    city = ["a city by the sea" if row % 2 else "a town in the hills" for row in range(200)]
    state = ["State" if row % 2 else "Other" for row in range(200)]
    constant = ["x"] * 200
    order = length_per_bit([number, state, constant, city], [0] * 4)
    assert order[0] == 2
    assert order[-1] == 0
    assert order.index(3) < order.index(1)


def had_tokens(rows, order, names, weights, tokens_of):
    """What the cache has of these rows, counted one by one, where so many tokens come to ``tokens_of``."""
    had = 0.0
    many = [
        Counter(tuple(row[field] for field in order[:upto]) for row in rows) for upto in range(len(order))
    ]
    for row in rows:
        shared = 0.0
        for upto, field in enumerate(order):
            before = shared
            shared += names[field] * weights[field]
            if upto:
                shared += len(row[order[upto - 1]]) * weights[order[upto - 1]]
            sharers = many[upto][tuple(row[field] for field in order[:upto])]
            had += (tokens_of(shared) - tokens_of(before)) * max(0.0, 1 - 2 / sharers)
    return had / len(rows)


different_rows = tables.map(lambda rows: list(dict.fromkeys(rows)))
weighed = st.lists(st.sampled_from([0.0, 0.2, 0.25, 1.0]), min_size=4, max_size=4)


@given(different_rows, weighed, st.lists(st.integers(0, 12), min_size=4, max_size=4), st.data())
def test_groups_have_what_all_their_rows_but_two_share(rows, weights, names, data):
    """Token by token and block by block, as counted row by row, whatever the order of fields."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    order = data.draw(st.permutations(range(len(columns))))
    groups = Groups(columns, texts(names, weights[: len(columns)]))
    told = groups.repeated_tokens(order)
    assert told == pytest.approx(had_tokens(rows, order, names, weights, float))
    firsts = [20.0, 100.0, 128.0]
    told = groups.block_hits(order, firsts, BLOCK_TOKENS)
    for first, hits in zip(firsts, told, strict=True):
        counted = had_tokens(
            rows,
            order,
            names,
            weights,
            lambda tokens, first=first: max(0, (tokens - first) // BLOCK_TOKENS + 1),
        )
        assert hits == pytest.approx(counted)


@given(different_rows, weighed, st.data())
def test_a_field_is_moved_only_to_where_more_is_had(rows, weights, data):
    """No order is made worse."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    order = data.draw(st.permutations(range(len(columns))))
    groups = Groups(columns, texts([7] * 4, weights[: len(columns)]))
    found = groups.better(order)
    assert groups.repeated_tokens(found) >= groups.repeated_tokens(order) - 1e-9


def test_what_all_rows_share_is_moved_to_the_front_and_what_none_shares_to_the_end():
    """Also where the gain is small: a field of two values halves groups of thousands."""
    rows = [
        ("yes" if row % 2 else "no", f"house {row}", "a long text that is the same") for row in range(3_000)
    ]
    columns = [list(column) for column in zip(*rows, strict=True)]
    groups = Groups(columns, texts([4, 4, 4], [1.0, 1.0, 1.0]))
    assert groups.better((0, 1, 2)) == groups.better((1, 0, 2)) == (2, 0, 1)


def test_the_texts_of_a_field_are_counted_as_long_as_they_are_few():
    """Each one once; a column that is new in every row is told by the length of what was counted."""
    counted = []

    def count(text):
        counted.append(text)
        return 3 if text is None else 3 + 2 * len(text)

    tokens = FieldTokens(count, 4)
    few = [str(row % 10) for row in range(1_000)]
    assert {tokens[text] for text in few} == {5}
    assert sorted(counted[1:]) == sorted(set(few))
    many = [f"{row:06d}" for row in range(5_000)]
    assert all(tokens[text] == pytest.approx(15, rel=0.1) for text in many)
    assert len(counted) == 1 + COUNTED
    assert tokens.begun("000001", 3) == 3 + 6
    counted.clear()
    long = FieldTokens(count, 4)
    assert long["a" * 99_999] + long["b" * 10] + long["c" * 20] > 200_000
    assert len(counted) == 2, "the name and the long text, which is enough"


def test_groups_are_foretold_from_a_part_of_the_rows():
    """A large table is looked at in part: what that says is near what all of it does."""
    rows = [(f"a town {row % 7}", f"street {row * row % 301}", f"house {row}") for row in range(6_000)]
    columns = [list(column) for column in zip(*rows, strict=True)]
    names, weights = [4, 4, 4], [1.0, 1.0, 1.0]
    exact = Groups(columns, texts(names, weights), bits=1 << 40)
    part = Groups(columns, texts(names, weights), among_rows=1_000, bits=1 << 20)
    for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0)):
        assert part.repeated_tokens(order) == pytest.approx(exact.repeated_tokens(order), rel=0.1)
    assert had_tokens(rows, (1, 0, 2), names, weights, float) == pytest.approx(
        exact.repeated_tokens((1, 0, 2)), rel=0.02
    )


def test_what_is_paid_decides_and_not_what_neighbours_share():
    """Pairs with a long text in common share the most characters; the cache has it for the third row only."""
    pair = [f"case {row // 2:03d}: " + "in the words of the one who wrote " * 30 for row in range(400)]
    branch = [f"branch {row % 8} of the bank: " + "deposits, loans and cards " * 16 for row in range(400)]
    number = [f"{row * 7919 % 400:03d}" for row in range(400)]
    columns, names = [pair, number, branch], [0, 0, 0]

    def shared_chars(order):
        places, shared = shared_fields(columns, order)
        return sum(
            len(columns[field][row])
            for row, fields in zip(places, shared, strict=True)
            for field in order[:fields]
        )

    found = arrange(columns, names, quarters, prefix_tokens=100)
    assert found.fields[0] == 2
    pairs_first = (0, 2, 1)
    assert shared_chars(pairs_first) > shared_chars(found.fields)
    cached = cached_tokens(
        found.blocks, prefix_tokens=BLOCK_TOKENS, waves=found.waves, in_flight=64, block=BLOCK_TOKENS
    )
    blocks = [2 * fields for fields in shared_fields(columns, pairs_first)[1]]
    assert cached > 1.5 * cached_tokens(
        blocks, prefix_tokens=BLOCK_TOKENS, waves=waves(blocks), in_flight=64, block=BLOCK_TOKENS
    )


def test_an_order_is_worth_what_it_adds_to_the_static_beginning():
    """Where the names have to be listed for it, they are weighed against what the rows then share."""
    place = [
        "a place of some length, in the north of the country"
        if row % 2
        else "the other one of these places, which is in the south"
        for row in range(300)
    ]
    columns = [[f"{row:03d}" + " and a text that is its own" * 16 for row in range(300)], place]

    assert arrange(columns, [1, 1], quarters, prefix_tokens=122).fields == (1, 0)
    assert arrange(columns, [1, 1], quarters, prefix_tokens=122, order_tokens=300) == as_given(300, 2)


def test_a_small_table_stays_as_it_is():
    """Nothing is gained, so nothing is moved."""
    assert arrange([["a"] * 10, ["b"] * 10], [0, 0], not_asked) == as_given(10, 2)
    assert arrange([["a"] * 1000, ["b"] * 1000], [0, 0], not_asked) == as_given(1000, 2)
    assert as_given(3, 1).waves == ((0, 1),)
    assert as_given(1, 1).waves == ((0,),)


@pytest.mark.parametrize("rule", ["vocabulary", "estimate"])
@pytest.mark.parametrize("block", [64, 128])
@settings(deadline=None)  # the vocabulary is read once
@given(text=st.text(max_size=400), scale=st.sampled_from([1.0, 0.8]))
def test_padding_ends_at_a_block_by_the_count_it_is_given(rule, block, text, scale):
    """The row begins where a block of the cache does, and the filler is shorter than a block."""
    count = make_counter(rule).count
    prefix = padded(text, count, block=block, scale=scale)
    assert prefix.text.startswith(text)
    counted = round(count(prefix.text) * scale) + BEFORE_THE_ROW_TOKENS
    assert prefix.tokens == counted
    slack = 1 if rule == "vocabulary" and scale == 1.0 else 4
    assert prefix.tokens % block < 3 + slack or prefix.tokens % block > block - slack
    assert prefix.tokens - count(text) * scale < block + slack + BEFORE_THE_ROW_TOKENS


def test_the_sandbox_counts_a_padded_prefix_as_the_planner_does():
    """The row's first token is the first of a block: one row more or less changes nothing before it."""
    counter = make_counter("vocabulary")
    prefix = padded("Rate the risk of {{purpose}}.", counter.count)
    assert prefix.tokens == prefix.cached_tokens == 128
    for row in ("a new car", '{"purpose":"x"}', "7"):
        tokens, blocks = counter.measure((("system", prefix.text), ("user", row)))
        assert tokens == prefix.tokens + counter.count(row) + 2
        assert blocks == counter.measure((("system", prefix.text), ("user", "other words")))[1]


def test_filler_says_what_it_is_where_there_is_room():
    """A model is told that it means nothing."""
    assert "filler" in filler(60, estimate_tokens, "Rate it.")
    assert filler(0, estimate_tokens) == ""
    assert filler(3, make_counter("vocabulary").count, "Rate it.") == "\n\n . . ."


@given(st.lists(st.integers(0, 3), max_size=60))
def test_every_shared_beginning_has_two_leaders_that_part_behind_it(blocks):
    """After the leaders alone, the server has each beginning that three rows or more share."""
    blocks = [0, *blocks[1:]] if blocks else []
    found = leaders(blocks)
    assert found == sorted(set(found))
    rows = [tokens_of(path) for path in paths_of(blocks)]
    cache = PrefixCache("strict")
    for place in found:
        store(cache, rows[place])
    led = set(found)
    for place, row in enumerate(rows):
        alike = [sum(row[: (depth + 1)] == other[: (depth + 1)] for other in rows) for depth in range(4)]
        deepest = max((depth for depth in range(4) if alike[depth] > 2), default=None)
        if place in led or deepest is None:
            continue
        assert hit(cache, row) >= (deepest + 1) * BLOCK_TOKENS


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_leaders_of_a_longer_beginning_have_the_shorter_one_already(blocks):
    """Waited for wave by wave, two rows of each beginning pay for it, and no third one does."""
    blocks = [0, *blocks[1:]]
    lead = waves(blocks, least=1)
    assert sorted(place for wave in lead for place in wave) == leaders(blocks)
    hits = cached_tokens(
        blocks, prefix_tokens=2 * BLOCK_TOKENS, waves=lead, in_flight=len(blocks), block=BLOCK_TOKENS
    )
    expected = 0
    for depth in range(5):
        beginnings = Counter(path[depth] for path in paths_of(blocks))
        shared = [path[depth] for path in paths_of(blocks) if beginnings[path[depth]] > 2]
        expected += (len(shared) - 2 * len(set(shared))) * (BLOCK_TOKENS if depth else 2 * BLOCK_TOKENS)
    assert hits == expected
    assert hits == led_tokens(blocks, prefix_tokens=2 * BLOCK_TOKENS, block=BLOCK_TOKENS)


def test_leaders_are_not_those_who_may_share_more_than_they_are_known_to():
    """Neighbours are the most alike: were they to lead, the server would keep a longer beginning."""
    blocks = [0] * 9
    paths = [[("static",), ("more", place // 3), (place, 2), (place, 3)] for place in range(9)]
    rows = [tokens_of(path) for path in paths]
    cache = PrefixCache("strict")
    for place in waves(blocks)[0]:
        store(cache, rows[place])
    assert hit(cache, rows[4]) == BLOCK_TOKENS


def test_a_small_wave_is_not_waited_for_on_its_own():
    """From the third wave on: a handful of leaders goes with those before, many wait for them."""
    branch = [0, 3, 3, 2, 1, 1]  # three rows share three blocks, four two, all six one
    few, many = waves(branch * 20), waves(branch * 100)
    assert list(map(len, few)) == [2, 78]
    assert list(map(len, many)) == [2, 198, 100, 100]
    assert waves(branch * 20, least=1) != few


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(1, 8), st.booleans())
def test_hits_are_foretold_as_the_sandbox_gives_them(blocks, in_flight, lead):
    """The planner's model of the cache and the sandbox's, for any order, lag and leaders."""
    blocks = [0, *blocks[1:]]
    lead = waves(blocks) if lead else ()
    assert sorted(place for wave in lead for place in wave) == (leaders(blocks) if lead else [])
    told = cached_tokens(
        blocks, prefix_tokens=BLOCK_TOKENS, waves=lead, in_flight=in_flight, block=BLOCK_TOKENS
    )
    rows = [tokens_of(path) for path in paths_of(blocks)]
    cache, seen, under_way = PrefixCache("strict"), 0, []
    led = {place for wave in lead for place in wave}
    for wave in (*lead, [place for place in range(len(rows)) if place not in led]):
        for row in under_way:
            store(cache, row)
        under_way = []
        for place in wave:
            if len(under_way) >= in_flight:
                store(cache, under_way.pop(0))
            seen += hit(cache, rows[place])
            under_way.append(rows[place])
    assert told == seen


def paths_of(blocks):
    """For each row, names of its beginnings: the static one, then those it shares, then its own."""
    paths = []
    for place, shared in enumerate(blocks):
        kept = paths[-1][: shared + 1] if paths else [("static",)]
        paths.append([*kept, *[(place, depth) for depth in range(len(kept), 5)]])
    return paths


def tokens_of(path):
    digests, digest = [], 0
    for name in path:
        digest = hash((digest, name))
        digests.append(digest)
    return tuple(digests)


def store(cache, row):
    cache.store(None, len(row) * BLOCK_TOKENS + 20, row, str(row), 0.0)


def hit(cache, row):
    return cache.hit_tokens(None, len(row) * BLOCK_TOKENS + 20, row, str(row), 0.0)


def test_a_sample_is_spread_and_the_scale_is_bounded():
    """Two hundred places over the whole table; one odd answer does not turn the count on its head."""
    places = sampled(100_000)
    assert len(places) == len(set(places)) == 200
    assert places[0] < 500
    assert places[-1] > 99_500
    assert sampled(5) == [0, 1, 2, 3, 4]
    assert (scale_of(110, 100), scale_of(9, 100), scale_of(5, 0)) == (1.1, 0.5, 1.0)
