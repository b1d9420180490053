"""Rows 11 to 17, 19, 28: something came to its end, and it may or may not be an answer."""

from __future__ import annotations

from typing import Literal

import pytest

from deepseek_nb.core import errors
from deepseek_nb.core.errors import Disposition
from deepseek_nb.core.retry import RetryPolicy
from deepseek_nb.sandbox import Fault, Sandbox

WHOLE = "one two three four five six seven eight nine ten"
ONE_TRY = RetryPolicy(max_faults=0, wait_initial_s=0.01)
SHAPE = {"label": Literal["card", "cash"], "why": str}
LOST = "I lost my card on the way to the bank"


def paid_usd(got) -> float:
    """What the server charged for all the tries."""
    return sum(record.cost_usd for record in got.log)


def changed(got) -> bool:
    """Whether no two of the questions sent are equal."""
    return len({record.request_hash for record in got.log}) == len(got.log)


# ------------------------------------------------------------------------------------------ row 11


def test_row_11_reasoning_is_never_the_answer_and_thinking_is_off_on_the_next_try(talk):
    """``stop`` with blank content: asked again without thinking; both are paid and both are on the bill."""
    got = talk.ask("reasoning_only", thinking=True, prompt=LOST, schema=SHAPE)
    assert (got.answer.value.label, got.answer.repairs) == ("card", 1)
    assert [body["thinking"]["type"] for body in got.bodies] == ["enabled", "disabled"]
    assert "only reasoning" in got.waits[0].error.message
    assert got.answer.cost_usd == pytest.approx(paid_usd(got))


def test_row_11_three_times_is_an_error_without_an_answer(talk):
    """At most two repairs; the error says so, and the reasoning is nowhere kept as an answer."""
    got = talk.ask(always="reasoning_only", thinking=True)
    assert isinstance(got.error, errors.AnswerEmpty)
    assert len(got.log) == 3
    assert got.error.cost_usd == pytest.approx(paid_usd(got))
    assert len(got.kept) == 3
    assert all(kept.text == "" for kept in got.kept.values())


# ------------------------------------------------------------------------------------------ row 12


@pytest.mark.parametrize("fault", ["blank_json", "spaces_json", "bad_json_answer", "wrong_shape_json"])
def test_row_12_json_that_is_none_is_asked_for_again_in_other_words(fault, talk):
    """Empty, only spaces, cut, misshapen: a changed question, the bill counted."""
    got = talk.ask(fault, prompt=LOST, schema=SHAPE)
    assert got.answer.value.label == "card"
    assert (got.answer.repairs, len(got.log)) == (1, 2)
    assert changed(got)
    assert got.answer.cost_usd == pytest.approx(paid_usd(got))
    assert len(got.answer.raw) == 1


def test_row_12_an_object_behind_a_preface_and_in_a_fence_is_read_as_it_stands(talk):
    """One request and one payment: it is mended here, and the answer says so and keeps the text."""
    got = talk.ask("fenced_json", prompt=LOST, schema=SHAPE)
    assert got.answer.value.label == "card"
    assert (got.answer.repairs, got.answer.raw, len(got.log)) == (0, (), 1)
    assert got.answer.mends == ("fence", "prose")
    assert got.answer.text.startswith("Here is the JSON:\n```json\n{")
    assert got.answer.cost_usd == pytest.approx(paid_usd(got))


@pytest.mark.parametrize("fault", ["blank_json", "spaces_json", "bad_json_answer", "wrong_shape_json"])
def test_row_12_at_most_two_repairs(fault, talk):
    """Three questions, all different, then an error with all three texts; blank ones drop JSON mode."""
    got = talk.ask(always=fault, prompt=LOST, schema=SHAPE)
    assert isinstance(got.error, errors.AnswerInvalid)
    assert len(got.log) == 3
    assert changed(got)
    assert len(got.error.raw) == 3
    assert got.error.cost_usd == pytest.approx(paid_usd(got))
    formats = ["response_format" in body for body in got.bodies]
    assert formats == ([True, True, False] if fault in ("blank_json", "spaces_json") else [True] * 3)


# ------------------------------------------------------------------------------------------ row 13


def test_row_13_a_cut_json_gets_more_room_each_time(talk):
    """Half a JSON is never parsed as it is: the cap doubles, and doubles again."""
    got = talk.ask("length_cut", "length_cut", prompt=LOST, schema=SHAPE, max_tokens=300)
    assert got.answer.value.label == "card"
    assert [body["max_tokens"] for body in got.bodies] == [300, 600, 1200]
    assert all(isinstance(event.error, errors.AnswerTruncated) for event in got.waits)
    assert got.answer.cost_usd == pytest.approx(paid_usd(got))


def test_row_13_without_a_cap_of_ours_the_next_one_is_above_the_servers(talk):
    """The server's own cap without thinking is 8192 tokens: the same again would be cut again."""
    got = talk.ask("length_cut", prompt=LOST, schema=SHAPE)
    assert "max_tokens" not in got.bodies[0]
    assert got.bodies[1]["max_tokens"] > 8192


def test_row_13_reasoning_that_ate_all_of_it_is_switched_off(talk):
    """All tokens were reasoning: more room, and no thinking."""
    got = talk.ask("reasoning_length", thinking=True, max_tokens=64)
    assert got.text == WHOLE
    assert [body["thinking"]["type"] for body in got.bodies] == ["enabled", "disabled"]
    assert got.bodies[1]["max_tokens"] == 128
    assert "all of them reasoning" in got.waits[0].error.message


# ------------------------------------------------------------------------------------------ row 14


def test_row_14_a_run_away_of_blanks_is_hung_up_on_early(talk):
    """4096 blank tokens are on their way: we leave after some hundred, and the server's bill ends there."""
    with Sandbox(token_s=1, time_scale=1000, count="estimate", engine=talk.heard) as server:
        got = talk.ask(
            Fault("whitespace_runaway", tokens=4096),
            sandbox=server,
            prompt=LOST,
            schema=SHAPE,
            max_tokens=4096,
        )
    assert got.answer.value.label == "card"
    assert got.answer.repairs == 1
    assert "ran away into blanks" in got.waits[0].error.message
    assert got.log[0].aborted
    assert got.log[0].completion_tokens < 1500
    assert changed(got)


def test_row_14_blanks_outside_json_mode_are_the_users_own(talk):
    """A text may hold a long run of blanks."""
    text = f"a{' ' * 3000}b"
    assert talk.ask(prompt=f"Return exactly: {text}").text == text


# ------------------------------------------------------------------------------------------ row 15


@pytest.mark.parametrize("fault", ["insufficient_resource", "aborted"])
def test_row_15_an_answer_the_server_gave_up_is_busy(fault, talk):
    """Half an answer under 200 with the server's own reason: retried, never an answer, kept as partial."""
    got = talk.ask(fault)
    assert (got.text, got.answer.attempts, got.answer.repairs) == (WHOLE, 2, 0)
    assert got.waits[0].error.disposition is Disposition.RETRY
    got = talk.ask(fault, policy=ONE_TRY)
    assert isinstance(got.error, errors.StreamBroken)
    assert WHOLE.startswith(got.error.partial)
    assert got.error.partial


# ------------------------------------------------------------------------------------------ row 16


@pytest.mark.parametrize("fault", ["no_choices", "null_choices"])
def test_row_16_no_choices_is_busy_and_no_index_error(fault, talk):
    """``[]`` or ``null``, and then the end: retried."""
    got = talk.ask(fault)
    assert (got.text, got.answer.attempts) == (WHOLE, 2)
    assert isinstance(got.waits[0].error, errors.StreamBroken)


# ------------------------------------------------------------------------------------------ row 17


@pytest.mark.parametrize(
    ("fault", "estimated"),
    [("usage_extra_chunk", False), ("role_null", False), ("usage_null", True), ("usage_missing", True)],
)
def test_row_17_usage_is_taken_where_it_stands_and_estimated_where_it_does_not(fault, estimated, talk):
    """One request whatever the shape; an estimate is flagged, and is not below what was charged by much."""
    got = talk.ask(fault)
    assert (got.text, len(got.log)) == (WHOLE, 1)
    assert got.answer.usage.estimated is estimated
    if estimated:
        assert got.answer.usage.prompt_tokens >= got.log[0].prompt_tokens
        assert got.answer.usage.completion_tokens > 0
        assert got.answer.cost_usd > 0
    else:
        assert got.answer.usage.prompt_tokens == got.log[0].prompt_tokens
        assert got.answer.usage.completion_tokens == got.log[0].completion_tokens


# ------------------------------------------------------------------------------------------ row 19


@pytest.mark.parametrize("variant", range(5))
def test_row_19_tool_markup_is_not_an_answer_however_it_is_spelt_and_cut(variant, talk):
    """Five spellings, each split across events: asked again; three times is an error, no cell holds it."""
    got = talk.ask(Fault("dsml", variant=variant))
    assert got.answer.repairs == 1
    assert "DSML" in got.answer.raw[0]
    assert "DSML｜" not in got.text
    got = talk.ask(Fault("dsml", variant=variant), prompt=LOST, schema=SHAPE)
    assert (got.answer.value.label, got.answer.repairs) == ("card", 1)
    got = talk.ask(always=Fault("dsml", variant=variant))
    assert isinstance(got.error, errors.AnswerInvalid)
    assert len(got.log) == 3
    assert changed(got)


@pytest.mark.parametrize("piece_bytes", [1, 2, 5])
def test_row_19_an_answer_in_any_pieces_is_the_same_answer(piece_bytes, talk):
    """The bytes are cut anywhere, inside characters, too."""
    text = "Grüße, 世界 😀 <｜not markup｜>"
    got = talk.ask(Fault("dribble", piece_bytes=piece_bytes), prompt=f"Return exactly: {text}")
    assert (got.text, len(got.log)) == (text, 1)


# ------------------------------------------------------------------------------------------ row 28


@pytest.mark.parametrize("whole", [False, True], ids=["events as JSON", "JSON as octets"])
def test_row_28_the_bytes_decide_and_not_the_content_type(whole, talk):
    """Events served as application/json, JSON as octet-stream: one request, the whole answer."""
    got = talk.ask(Fault("content_type_swapped", whole=whole))
    assert (got.text, len(got.log)) == (WHOLE, 1)
    assert got.answer.usage.completion_tokens == got.log[0].completion_tokens
