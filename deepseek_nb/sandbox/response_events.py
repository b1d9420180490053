"""``POST /responses`` on its way out: the whole object, and its events with their numbers.

The names are those of OpenAI's Responses API, as documented; that reasoning comes as ``reasoning_text``,
which fields are there beside those that are documented, and what stands for an answer the server gave up
(here: ``failed``) is our guess. There is no ``[DONE]``: the last event is the response itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from json.encoder import encode_basestring as quote
from typing import Any

from deepseek_nb.sandbox.answers import compact
from deepseek_nb.sandbox.plans import Work, Writer

__all__ = ["ResponsesWork"]

_ENDS = {"stop": "completed", "length": "incomplete", "content_filter": "incomplete"}
_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}
NO_ERROR = b'"error":null'


@dataclass(frozen=True, slots=True)
class ResponsesWork(Work):
    """One answer to be sent from ``/responses``."""

    @property
    def status(self) -> str:
        """How it ends."""
        return _ENDS.get(self.draft.finish_reason, "failed")

    @property
    def key(self) -> str:
        """What the ids of all its parts end in."""
        return self.head.answer_id.replace("-", "")

    def usage_field(self) -> dict[str, Any]:
        """``usage`` where the answer ends, in the words of this address; empty for no such key."""
        if self.usage_chunk == "none" or (self.usage_chunk == "extra" and self.stream):
            return {}
        return {"usage": None if self.usage_chunk == "null" else self.billed()}

    def billed(self) -> dict[str, Any]:
        """The bill in the words of this address."""
        bill = self.bill
        return {
            "input_tokens": bill.prompt_tokens,
            "input_tokens_details": {"cached_tokens": bill.hit_tokens},
            "output_tokens": bill.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": bill.reasoning_tokens or 0},
            "total_tokens": bill.prompt_tokens + bill.completion_tokens,
        }

    def response(self, status: str, output: Any, **more: Any) -> dict[str, Any]:
        """The response object."""
        reason = self.draft.finish_reason
        failed = {"code": "server_error", "message": f"The answer was given up: {reason}."}
        return {
            "id": f"resp_{self.key}",
            "object": "response",
            "created_at": self.head.created,
            "status": status,
            "error": failed if status == "failed" else None,
            "incomplete_details": {"reason": _REASONS[reason]} if status == "incomplete" else None,
            "model": self.head.model,
            "output": output,
            "parallel_tool_calls": True,
            "tool_choice": "auto",
            "tools": [],
            **more,
        }

    def reasoning_item(self, text: str | None) -> dict[str, Any]:
        """The item of the reasoning; None: it has just begun."""
        content = [] if text is None else [{"type": "reasoning_text", "text": text}]
        return {"id": f"rs_{self.key}", "type": "reasoning", "summary": [], "content": content}

    def message_item(self, text: str | None, *, role: str | None = "assistant") -> dict[str, Any]:
        """The item of the answer; None: it has just begun."""
        return {
            "id": f"msg_{self.key}",
            "type": "message",
            "status": "in_progress"
            if text is None
            else "completed"
            if self.status == "completed"
            else "incomplete",
            "role": role,
            "content": [] if text is None else [text_part(text)],
        }

    def output(self, thoughts: Iterable[str], content: Iterable[str]) -> list[dict[str, Any]]:
        """The items of an answer that has ended: an answer that is all reasoning has no message."""
        thought, text = "".join(thoughts), "".join(content)
        thinks = self.draft.reasoning is not None
        return [
            *([self.reasoning_item(thought)] if thinks else ()),
            *([self.message_item(text)] if text or not thinks else ()),
        ]

    def body(self, choices: str | None = None) -> bytes:
        """The whole answer that is not streamed; ``choices`` (JSON text) replaces its output."""
        output = self.output(self.draft.reasoning or (), self.draft.content)
        shown = output if choices is None else json.loads(choices)
        return compact(self.response(self.status, shown, **self.usage_field()))

    def writer(self) -> Writer:
        """Writes the events of this answer."""
        return _Events(self)

    def nothing(self, choices: str) -> bytes:
        """The events of an answer whose output is this JSON text."""
        write = _Events(self)
        return write.role() + write.event(
            "response.completed", response=self.response("completed", json.loads(choices))
        )

    def beside(self, data: bytes, error: bytes) -> bytes:
        """A body, or the last events, with an error (a member of an object) in the response."""
        before, _, behind = data.rpartition(NO_ERROR)
        return before + error + behind

    def error_event(self, message: str, after_tokens: int) -> bytes:
        """An error in place of the event after so many tokens."""
        write = _Events(self)
        write.number += after_tokens
        return write.event("error", code="internal_error", message=message, param=None)


def text_part(text: str) -> dict[str, Any]:
    """The part of a message that holds its text."""
    return {"type": "output_text", "text": text, "annotations": []}


class _Events:
    """Writes the events of one streamed answer, each with its number: in the order of the calls."""

    def __init__(self, work: ResponsesWork) -> None:
        self.number = 0
        self._work = work
        self._thoughts: list[str] = []
        self._content: list[str] = []
        self._thinks = work.draft.reasoning is not None
        self._at = 0
        """The place of the present item in the output."""
        begun = work.response("in_progress", [])
        self._first = self.event("response.created", response=begun)
        self._first += self.event("response.in_progress", response=begun)
        self._open = not self._thinks
        """Whether the message has begun."""
        if self._thinks:
            self._first += self._item("added", work.reasoning_item(None))
        else:
            self._first += self._begin_message()

    def event(self, kind: str, **fields: Any) -> bytes:
        """One event of this type."""
        told = compact({"type": kind, **fields, "sequence_number": self.number}).decode()
        self.number += 1
        return f"event: {kind}\ndata: {told}\n\n".encode()

    def _delta(self, kind: str, item: str, text: str, more: str = "") -> bytes:
        told = (
            f'event: {kind}\ndata: {{"type":"{kind}","item_id":"{item}_{self._work.key}",'
            f'"output_index":{self._at},"content_index":0,"delta":{quote(text)},{more}'
            f'"sequence_number":{self.number}}}\n\n'
        )
        self.number += 1
        return told.encode("utf-8", "replace")

    def _item(self, what: str, item: dict[str, Any]) -> bytes:
        return self.event(f"response.output_item.{what}", output_index=self._at, item=item)

    def _begin_message(self) -> bytes:
        self._open = True
        return self._item("added", self._work.message_item(None)) + self._part("added", "")

    def _part(self, what: str, text: str) -> bytes:
        return self.event(
            f"response.content_part.{what}",
            item_id=f"msg_{self._work.key}",
            output_index=self._at,
            content_index=0,
            part=text_part(text),
        )

    def _end_reasoning(self) -> bytes:
        ended = self._item("done", self._work.reasoning_item("".join(self._thoughts)))
        self._at += 1
        return ended

    def role(self) -> bytes:
        """The first events."""
        return self._first

    def reasoning(self, text: str) -> bytes:
        """One token of reasoning."""
        self._thoughts.append(text)
        return self._delta("response.reasoning_text.delta", "rs", text)

    def content(self, text: str) -> bytes:
        """One token of the answer."""
        begun = b"" if self._open else self._end_reasoning() + self._begin_message()
        self._content.append(text)
        return begun + self._delta("response.output_text.delta", "msg", text, '"logprobs":[],')

    def ending(self, *, role_null: bool = False) -> list[bytes]:
        """The events after the last token; the last one is the response."""
        work, text = self._work, "".join(self._content)
        output = work.output(self._thoughts, self._content)
        if role_null and self._open:
            output[-1] = work.message_item(text, role=None)
        events = []
        if self._open:
            done = {
                "item_id": f"msg_{work.key}",
                "output_index": self._at,
                "content_index": 0,
                "text": text,
                "logprobs": [],
            }
            events.append(self.event("response.output_text.done", **done))
            events += (self._part("done", text), self._item("done", output[-1]))
        else:
            events.append(self._end_reasoning())
        if work.usage_chunk == "extra":
            told = work.response("in_progress", [], usage=work.billed())
            events.append(self.event("response.in_progress", response=told))
        last = work.response(work.status, output, **work.usage_field())
        return [*events, self.event(f"response.{work.status}", response=last)]
