"""The bytes of answers and errors, in the key order and spacing of the real service.

Everything is compact JSON in UTF-8. The shapes are those of July 2026, the last that were recorded
byte for byte: 465 bytes for the plain sample, 1063 for the streamed one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring as quote

__all__ = [
    "DONE",
    "AnswerHead",
    "Bill",
    "StreamText",
    "ToolCall",
    "compact",
    "completion_body",
    "error_body",
    "fim_body",
]

DONE = b"data: [DONE]\n\n"
INVALID = "invalid_request_error"
SAMPLE_FINGERPRINT = "fp_8b330d02d0_prod0820_fp8_kvcache_20260402"


def compact(value: object) -> bytes:
    """``value`` as compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def error_body(message: str, kind: str = INVALID, code: str = INVALID) -> bytes:
    """The error envelope.

    >>> error_body("No", "a", "b")
    b'{"error":{"message":"No","type":"a","param":null,"code":"b"}}'
    """
    return compact({"error": {"message": message, "type": kind, "param": None, "code": code}})


@dataclass(frozen=True, slots=True)
class AnswerHead:
    """What all events of one answer share. ``answer_id`` is a uuid of 36 characters."""

    answer_id: str
    created: int
    model: str
    fingerprint: str = SAMPLE_FINGERPRINT


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the answer consists of. ``call_id`` looks like ``call_00_kw66qNnNto11bSfJVIdlV5Oo``."""

    name: str
    call_id: str
    index: int = 0
    chars: int = 0
    """Characters of its arguments; the last call of an answer has all that are left."""

    def text(self, arguments: str) -> str:
        """The call as JSON text. Key order as documented: index, id, type, function."""
        return (
            f'{{"index":{self.index},"id":"{self.call_id}","type":"function",'
            f'"function":{{"name":{quote(self.name)},"arguments":{quote(arguments)}}}}}'
        )


@dataclass(frozen=True, slots=True)
class Bill:
    """Tokens of one answer. ``reasoning_tokens`` is None where thinking is off."""

    prompt_tokens: int
    hit_tokens: int
    completion_tokens: int
    reasoning_tokens: int | None = None

    def text(self) -> str:
        """The value of ``usage``."""
        reasoning = (
            ""
            if self.reasoning_tokens is None
            else f'"completion_tokens_details":{{"reasoning_tokens":{self.reasoning_tokens}}},'
        )
        return (
            f'{{"prompt_tokens":{self.prompt_tokens},"completion_tokens":{self.completion_tokens},'
            f'"total_tokens":{self.prompt_tokens + self.completion_tokens},'
            f'"prompt_tokens_details":{{"cached_tokens":{self.hit_tokens}}},{reasoning}'
            f'"prompt_cache_hit_tokens":{self.hit_tokens},'
            f'"prompt_cache_miss_tokens":{self.prompt_tokens - self.hit_tokens}}}'
        )


def completion_body(
    head: AnswerHead,
    content: str,
    usage: str | None,
    *,
    reasoning: str | None = None,
    finish_reason: str = "stop",
    choices: str | None = None,
    calls: Sequence[ToolCall] = (),
) -> bytes:
    """A whole answer. ``usage`` is JSON text, or None for no such key; ``choices`` replaces the choices.

    With ``calls`` the content stands in their arguments.
    """
    if choices is None:
        thought = "" if reasoning is None else f',"reasoning_content":{quote(reasoning)}'
        called = ""
        if calls:
            told = ",".join(call.text(arguments) for call, arguments in _Shared(calls).take(content))
            called, content = f',"tool_calls":[{told}]', ""
        choices = (
            f'[{{"index":0,"message":{{"role":"assistant","content":{quote(content)}{thought}{called}}},'
            f'"logprobs":null,"finish_reason":"{finish_reason}"}}]'
        )
    billed = "" if usage is None else f',"usage":{usage}'
    return (
        f'{{"id":"{head.answer_id}","object":"chat.completion","created":{head.created},'
        f'"model":"{head.model}","choices":{choices}{billed},'
        f'"system_fingerprint":"{head.fingerprint}"}}'
    ).encode("utf-8", "replace")


class _Shared:
    """Shares out text, as it comes, among the calls whose arguments it is."""

    def __init__(self, calls: Sequence[ToolCall]) -> None:
        self._calls = list(calls)
        self._left = calls[0].chars if calls else 0

    def take(self, text: str) -> list[tuple[ToolCall, str]]:
        """Whose arguments the next text is, piece by piece."""
        pieces = []
        while len(self._calls) > 1 and len(text) >= self._left:
            pieces.append((self._calls.pop(0), text[: self._left]))
            text, self._left = text[self._left :], self._calls[0].chars
        self._left -= len(text)
        return [*pieces, (self._calls[0], text)]


def fim_body(head: AnswerHead, text: str, usage: str | None, finish_reason: str = "stop") -> bytes:
    """A whole answer of the completions endpoint (fill in the middle)."""
    choices = f'[{{"text":{quote(text)},"index":0,"logprobs":null,"finish_reason":"{finish_reason}"}}]'
    return completion_body(head, "", usage, choices=choices).replace(
        b'"object":"chat.completion"', b'"object":"text_completion"', 1
    )


class StreamText:
    """Writes the events of one streamed answer; the part they share is made once.

    ``usage_null``: the events before the last carry ``"usage":null`` (``include_usage`` was asked
    for). ``thinking``: deltas name both fields, one of them null. ``calls``: the content are the
    arguments of calls, each begun by an event that names it; those after it hold pieces of the arguments.
    """

    def __init__(
        self,
        head: AnswerHead,
        *,
        thinking: bool = False,
        usage_null: bool = False,
        calls: Sequence[ToolCall] = (),
    ) -> None:
        self._head = (
            f'data: {{"id":"{head.answer_id}","object":"chat.completion.chunk","created":{head.created},'
            f'"model":"{head.model}","system_fingerprint":"{head.fingerprint}","choices":'
        )
        self._open = self._head + '[{"index":0,"delta":{'
        tail = ',"usage":null}\n\n' if usage_null else "}\n\n"
        self._close = '},"logprobs":null,"finish_reason":null}]' + tail
        self.thinking = thinking
        self._shared = _Shared(calls) if calls else None
        self._named = set(() if thinking else calls[:1])
        self._first = self._begin(calls[0]) if self._named else b""

    def _delta(self, fields: str) -> bytes:
        return f"{self._open}{fields}{self._close}".encode("utf-8", "replace")

    def role(self) -> bytes:
        """The first event."""
        if self.thinking:
            return self._delta('"role":"assistant","content":null,"reasoning_content":""')
        return self._delta('"role":"assistant","content":""') + self._first

    def reasoning(self, text: str) -> bytes:
        """One token of reasoning."""
        return self._delta(f'"content":null,"reasoning_content":{quote(text)}')

    def content(self, text: str) -> bytes:
        """One token of the answer."""
        if self._shared is not None:
            return b"".join(self._arguments(call, piece) for call, piece in self._shared.take(text))
        rest = ',"reasoning_content":null' if self.thinking else ""
        return self._delta(f'"content":{quote(text)}{rest}')

    def _begin(self, call: ToolCall) -> bytes:
        return self._delta(f'"tool_calls":[{call.text("")}]')

    def _arguments(self, call: ToolCall, text: str) -> bytes:
        begun = b"" if call in self._named else self._begin(call)
        self._named.add(call)
        if not text:
            return begun
        piece = f'{{"index":{call.index},"function":{{"arguments":{quote(text)}}}}}'
        return begun + self._delta(f'"tool_calls":[{piece}]')

    def finish(self, reason: str, usage: str | None, *, role_null: bool = False) -> bytes:
        """The last event; ``usage`` is its JSON text, "null", or None for no such key."""
        rest = ',"role":null' if role_null else ',"reasoning_content":null' if self.thinking else ""
        billed = "" if usage is None else f',"usage":{usage}'
        return (
            f'{self._open}"content":""{rest}}},"logprobs":null,"finish_reason":"{reason}"}}]{billed}}}\n\n'
        ).encode("utf-8", "replace")

    def bare(self, choices: str, usage: str | None = None) -> bytes:
        """An event with these choices (JSON text) and nothing else but ``usage``."""
        billed = "" if usage is None else f',"usage":{usage}'
        return f"{self._head}{choices}{billed}}}\n\n".encode("utf-8", "replace")
