"""Answers as bytes, in the key order and spacing of DeepSeek's own, which OpenAI's clients read."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

from deepseek_nb.core.chat import Answer, Usage
from deepseek_nb.core.tools import ToolCallPiece
from deepseek_nb.core.wire import Delta

__all__ = [
    "DONE",
    "ChunkWriter",
    "Transcript",
    "Transcripts",
    "answer_body",
    "compact",
    "price_text",
    "usage_fields",
]

DONE = b"data: [DONE]\n\n"


def compact(value: Any) -> bytes:
    """``value`` as compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def price_text(cost_usd: float | None) -> str:
    """An amount for a header: ``"0.000123"``, or ``"unknown"``."""
    return "unknown" if cost_usd is None else f"{cost_usd:.9f}".rstrip("0").rstrip(".")


def usage_fields(usage: Usage) -> dict[str, Any]:
    """``usage``, in the order of the service."""
    told: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cache_hit_tokens},
    }
    if usage.reasoning_tokens:
        told["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    told["prompt_cache_hit_tokens"] = usage.cache_hit_tokens
    told["prompt_cache_miss_tokens"] = usage.cache_miss_tokens
    return told


def answer_body(answer: Answer) -> bytes:
    """A whole answer of ``/chat/completions``."""
    message: dict[str, Any] = {"role": "assistant", "content": answer.text}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        calls = enumerate(answer.tool_calls)
        message["tool_calls"] = [{"index": index, **call.told()} for index, call in calls]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
    return compact(
        {
            "id": str(uuid.uuid4()),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": answer.model,
            "choices": [choice],
            "usage": usage_fields(answer.usage),
            **({"system_fingerprint": answer.system_fingerprint} if answer.system_fingerprint else {}),
        }
    )


class ChunkWriter:
    """The events of one streamed answer."""

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._head: dict[str, Any] = {
            "id": str(uuid.uuid4()),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }
        self._usage_null = {"usage": None} if include_usage else {}

    def _event(self, delta: dict[str, Any], finish: str | None, **more: Any) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return b"data: " + compact({**self._head, "choices": [choice], **more}) + b"\n\n"

    def role(self) -> bytes:
        """The first event."""
        return self._event({"role": "assistant", "content": ""}, None, **self._usage_null)

    def piece(self, delta: Delta) -> bytes:
        """New reasoning, new text, pieces of calls, in this order, in events of their own."""
        parts: list[dict[str, Any]] = []
        if delta.reasoning:
            parts.append({"content": None, "reasoning_content": delta.reasoning})
        if delta.text:
            parts.append({"content": delta.text})
        parts += [{"tool_calls": [part]} for piece in delta.tool_calls for part in _call_parts(piece)]
        return b"".join(self._event(part, None, **self._usage_null) for part in parts)

    def finish(self, answer: Answer, gateway: dict[str, Any]) -> bytes:
        """The last event, with the usage and what the gateway says of the answer, and the end."""
        self._head["model"] = answer.model
        if answer.system_fingerprint:
            self._head["system_fingerprint"] = answer.system_fingerprint
        usage = usage_fields(answer.usage)
        return self._event({"content": ""}, answer.finish_reason, usage=usage, gateway=gateway) + DONE


def _call_parts(piece: ToolCallPiece) -> list[dict[str, Any]]:
    """A piece of a call in the form of the service: its name first, then its arguments."""
    parts: list[dict[str, Any]] = []
    if piece.name:
        function = {"name": piece.name, "arguments": ""}
        parts.append({"index": piece.index, "id": piece.id, "type": "function", "function": function})
    if piece.arguments:
        parts.append({"index": piece.index, "function": {"arguments": piece.arguments}})
    return parts


class Transcript:
    """What was sent of an answer, and what a second try adds to it.

    A try may break off when some of it has been sent, which cannot be taken back. The next try's text
    is passed over as far as it says the same again; where it does not, the stream has to end.

    >>> told = Transcript()
    >>> told.add("The sky "), told.again(), told.add("The sky is "), told.add("blue")
    ('The sky ', None, 'is ', 'blue')
    """

    def __init__(self) -> None:
        self._sent: list[str] = []
        self._whole: str | None = None
        self._at = 0

    def again(self) -> None:
        """A new try begins."""
        self._whole, self._at = "".join(self._sent), 0

    def add(self, piece: str) -> str | None:
        """What is new in the next piece of this try; None where it is not what was sent before."""
        if self._whole is not None:
            told = self._whole[self._at : self._at + len(piece)]
            if not piece.startswith(told):
                return None
            self._at += len(piece)
            if self._at >= len(self._whole):
                self._whole = None
            piece = piece[len(told) :]
        if piece:
            self._sent.append(piece)
        return piece

    @property
    def complete(self) -> bool:
        """Whether this try has said again all that was sent."""
        return self._whole is None or self._at >= len(self._whole)


class Transcripts:
    """The same of a whole answer: its text, its reasoning, and the arguments of each of its calls.

    A second try's calls get ids of their own: those that were sent stay.
    """

    def __init__(self) -> None:
        self._text, self._reasoning = Transcript(), Transcript()
        self._calls: dict[int, tuple[str, Transcript]] = {}

    def again(self) -> None:
        """A new try begins."""
        for told in self._all():
            told.again()

    def add(self, delta: Delta) -> Delta | None:
        """What is new in the next piece of this try; None where it is not what was sent before."""
        text, reasoning = self._text.add(delta.text), self._reasoning.add(delta.reasoning)
        calls = [self._call(piece) for piece in delta.tool_calls]
        if text is None or reasoning is None or None in calls:
            return None
        return Delta(text, reasoning, tool_calls=tuple(piece for piece in calls if piece is not None))

    def _call(self, piece: ToolCallPiece) -> ToolCallPiece | None:
        begun = self._calls.get(piece.index)
        if begun is None:
            self._calls[piece.index] = piece.name, (told := Transcript())
            told.add(piece.arguments)
            return piece
        name, told = begun
        arguments = told.add(piece.arguments)
        if arguments is None or piece.name not in ("", name):
            return None
        return ToolCallPiece(piece.index, arguments=arguments)

    def rest(self, answer: Answer) -> Delta | None:
        """What of the whole answer was not sent: something only where no piece of it came.

        None where it is not what was sent.
        """
        self.again()
        rest = self.add(Delta.of(answer))
        return rest if all(told.complete for told in self._all()) else None

    def _all(self) -> list[Transcript]:
        return [self._text, self._reasoning, *(told for _, told in self._calls.values())]
