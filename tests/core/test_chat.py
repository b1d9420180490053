"""Values and fingerprints: the same question has the same name, another question another one."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.core.chat import Answer, ChatRequest, Message, Usage, canonical_json
from deepseek_nb.core.secret import Secret

BASE = ChatRequest("deepseek-flash", (Message("system", "s"), Message("user", "u")))

CHANGES = [
    {"model": "deepseek-v4-pro"},
    {"messages": (Message("user", "u"),)},
    {"messages": (Message("system", "su"), Message("user", ""))},
    {"thinking": False},
    {"thinking": True},
    {"reasoning_effort": "low"},
    {"json_mode": True},
    {"max_tokens": 10},
    {"temperature": 0.0},
    {"top_p": 0.9},
    {"stop": ("x",)},
    {"schema_digest": "abc"},
]


def test_every_parameter_that_may_change_the_answer_changes_the_fingerprint():
    """All of them give different names, and so does another route."""
    prints = [replace(BASE, **change).fingerprint("r") for change in [{}, *CHANGES]]
    assert len({*prints, BASE.fingerprint("other")}) == len(CHANGES) + 2


def test_what_does_not_change_the_answer_does_not_change_the_fingerprint():
    """``user_id`` only isolates the server's cache."""
    assert replace(BASE, user_id="job-1").fingerprint("r") == BASE.fingerprint("r")


def test_a_fingerprint_is_the_same_in_every_release():
    """The literal name: if this test fails, every answer that was ever paid would be asked again."""
    assert BASE.fingerprint("api.deepseek.com") == (
        "api.deepseek.com/deepseek-flash_c18db97b3fe42f539d690cd0_5bfefbe6eec1a767d4c51cb1"
    )


@given(st.text(), st.text())
def test_any_text_has_a_fingerprint(one, other):
    """Also lone surrogates; and different texts have different ones."""
    name = [BASE.with_messages(Message("user", text)).fingerprint("r") for text in (one, other)]
    assert (name[0] == name[1]) == (one == other)


def test_an_answer_survives_the_store():
    """To JSON and back it is the same, marked as cached, without its value."""
    answer = Answer(
        "text",
        "m",
        "stop",
        Usage(3, 2, 1, 1),
        0.5,
        "because",
        "r",
        2,
        3,
        1,
        0.25,
        0.1,
        raw=("bad",),
        value={"a": 1},
    )
    kept = json.loads(canonical_json(answer.to_json()))
    assert Answer.from_json(kept) == replace(answer, cached=True, value=None)
    assert Answer.from_json(kept | {"field_of_a_later_version": 1}).text == "text"


def test_usage_adds_up():
    """Sums, and an estimate anywhere makes the sum an estimate."""
    total = Usage(10, 5, 4, 1) + Usage(1, 1, 0, 0, estimated=True)
    assert (total.prompt_tokens, total.completion_tokens, total.cache_miss_tokens) == (11, 6, 7)
    assert total.total_tokens == 17
    assert total.estimated


def test_a_secret_does_not_show_itself():
    """repr, str, format, f-strings, containers and tracebacks see the mask; pickling refuses."""
    secret = Secret("sk-canary-0123456789")
    for shown in (
        repr(secret),
        str(secret),
        f"{secret}",
        f"{secret:>30}",
        repr([secret]),
        repr({"k": secret}),
    ):
        assert "canary" not in shown
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(secret)
    assert secret.scrub("key sk-canary-0123456789!") == "key ****6789!"
    assert Secret("short").mask == "****"
    assert Secret(secret) == secret
    assert hash(Secret(secret)) == hash(secret)


@pytest.mark.parametrize("text", ["plain", "```\n<script>\n```", "a ````` b", ""])
def test_an_answer_outside_of_ipython_is_shown_to_the_letter(text):
    """In a block that no fence in it ends."""
    fence, _, rest = Answer(text)._repr_markdown_().partition("\n")
    assert rest == f"{text}\n{fence}"
    assert set(fence) == {"`"}
    assert fence not in text
