"""How many tokens a text takes, estimated from above: what a budget reserves before the server has counted.

Measured tokens per character with DeepSeek's V4 vocabulary: English prose 0.15 to 0.24, Python code
0.25, Chinese 0.60, table rows as JSON 0.26 to 0.32, JSON lists of numbers 0.58, LaTeX 0.5. So the
well-known 0.3 covers letters and blanks, not digits and punctuation, which weigh double here. On
prose, code, JSON and CSV the estimate is 1.1 to 1.5 times the count, on number lists and in other
languages 0.95 to 1.6 times. It is *not* a bound: a sentence of a few words may take a quarter more,
random letters (base64, hexadecimal names) up to twice the estimate, rare Chinese characters three
times. Bills are settled by the ``usage`` that the server sends.
"""

from __future__ import annotations

import string
from functools import lru_cache

from deepseek_nb.core.chat import ChatRequest, Message
from deepseek_nb.core.tools import ToolCall

__all__ = ["MESSAGE_OVERHEAD_TOKENS", "estimate_call_tokens", "estimate_request_tokens", "estimate_tokens"]

MESSAGE_OVERHEAD_TOKENS = 4
"""Tokens around one user message (begin, user, assistant, end of thinking): seen live, twice."""

# Characters are told apart by the first byte of their UTF-8 form, so that counting runs at C speed.
_TENTHS_OF_A_TOKEN = (
    (6, (string.digits + string.punctuation).encode()),
    (5, bytes(range(0xC2, 0xE0))),  # two bytes: Latin with accents, Greek, Cyrillic, Hebrew, Arabic
    (7, bytes(range(0xE0, 0xF0))),  # three bytes: Chinese, Japanese, Korean, Indic, Thai
    (20, bytes(range(0xF0, 0xF5))),  # four bytes: emoji, rare Chinese
)
_LETTER_TENTHS = 3
_CONTINUATION = bytes(range(0x80, 0xC0))


def estimate_tokens(text: str) -> int:
    """Tokens that ``text`` takes, rather too many than too few; 0 for the empty text.

    >>> estimate_tokens("The server is busy, please try again later.")
    14
    """
    raw = text.encode("utf-8", "surrogatepass").translate(None, _CONTINUATION)
    letters, tenths = len(raw), 0
    for weight, leads in _TENTHS_OF_A_TOKEN:
        found = len(raw) - len(raw.translate(None, leads))
        letters -= found
        tenths += weight * found
    return -(-(tenths + _LETTER_TENTHS * letters) // 10)


def estimate_request_tokens(request: ChatRequest) -> int:
    """Prompt tokens of ``request``, rather too many than too few: its texts and what goes around them.

    >>> from deepseek_nb.core.chat import Message
    >>> estimate_request_tokens(ChatRequest("deepseek-flash", (Message("user", "Return exactly: OK"),)))
    10
    """
    *head, last = request.messages
    told = request.form or request.tools
    beside = 0 if told is None else _told_tokens(told.told)
    return beside + sum(map(_known_tokens, head)) + _message_tokens(last)


def _message_tokens(message: Message) -> int:
    reasoning = estimate_tokens(message.reasoning) if message.reasoning else 0
    tokens = MESSAGE_OVERHEAD_TOKENS + estimate_tokens(message.content) + reasoning
    if message.tool_calls:
        tokens += estimate_call_tokens(message.tool_calls)
    return tokens


def estimate_call_tokens(calls: tuple[ToolCall, ...]) -> int:
    """Tokens of calls of functions: their names and arguments."""
    return sum(estimate_tokens(call.name) + estimate_tokens(call.arguments) for call in calls)


_known_tokens = lru_cache(maxsize=16)(_message_tokens)
"""Of what stands before the last message, which is the same for all rows of a job."""
_told_tokens = lru_cache(maxsize=4)(estimate_tokens)
