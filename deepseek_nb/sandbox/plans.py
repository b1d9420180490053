"""From an answer, and perhaps a fault, to the steps a connection takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Protocol

from deepseek_nb.sandbox.answers import (
    DONE,
    AnswerHead,
    Bill,
    StreamText,
    ToolCall,
    completion_body,
    error_body,
    fim_body,
)
from deepseek_nb.sandbox.faults import Fault
from deepseek_nb.sandbox.spoil import Draft
from deepseek_nb.sandbox.steps import BLANK, COMMENT, Beat, Cut, Hang, Reply, Send, Step, Wait

__all__ = ["PLANS", "Work", "Writer", "plan"]

SSE = "text/event-stream"
_INTERNAL = ("internal_error", "internal_error")


class Writer(Protocol):
    """Writes the events of one answer, in the order of the calls; what comes first may be asked for late."""

    def role(self) -> bytes:
        """The first events."""

    def reasoning(self, text: str) -> bytes:
        """One token of reasoning."""

    def content(self, text: str) -> bytes:
        """One token of the answer."""

    def ending(self, *, role_null: bool = False) -> list[bytes]:
        """The events after the last token; without the last of them the answer is not whole."""


@dataclass(frozen=True, slots=True)
class Work:
    """One answer to be sent, and how long its parts take."""

    head: AnswerHead
    draft: Draft
    bill: Bill
    stream: bool
    include_usage: bool = False
    usage_chunk: str = "finish"
    first_token_s: float = 0.0
    token_s: float = 0.0
    keep_alive_s: float = 15.0
    fim: bool = False
    calls: tuple[ToolCall, ...] = ()

    @property
    def beat(self) -> Beat:
        """The usual keep-alive of this answer."""
        return Beat(COMMENT if self.stream else BLANK, self.keep_alive_s)

    def usage(self) -> str | None:
        """The value of ``usage`` where the answer ends, as JSON text; None for no such key."""
        if self.usage_chunk == "none" or (self.usage_chunk == "extra" and self.stream):
            return None
        return "null" if self.usage_chunk == "null" else self.bill.text()

    @property
    def finish_reason(self) -> str:
        """Why it ends: an answer that is a call and whole ends in "tool_calls"."""
        whole_calls = self.calls and self.draft.finish_reason == "stop"
        return "tool_calls" if whole_calls else self.draft.finish_reason

    def body(self, choices: str | None = None) -> bytes:
        """The whole answer that is not streamed."""
        text, reasoning = "".join(self.draft.content), self.draft.reasoning
        if self.fim:
            return fim_body(self.head, text, self.usage(), self.draft.finish_reason)
        thought = None if reasoning is None else "".join(reasoning)
        return completion_body(
            self.head,
            text,
            self.usage(),
            reasoning=thought,
            finish_reason=self.finish_reason,
            choices=choices,
            calls=self.calls,
        )

    def writer(self) -> Writer:
        """Writes the events of this answer."""
        return _ChatEvents(self)

    def nothing(self, choices: str) -> bytes:
        """The events of an answer whose choices are this JSON text."""
        return _ChatEvents(self).bare(choices) + DONE

    def beside(self, data: bytes, error: bytes) -> bytes:
        """A body, or the last events, with an error (a member of an object) beside the answer."""
        return data.replace(b"{", b"{" + error + b",", 1)

    def error_event(self, message: str, after_tokens: int) -> bytes:
        """An error in place of the event after so many tokens."""
        del after_tokens
        return b"data: " + error_body(message, *_INTERNAL) + b"\n\n"

    def tokens(self, write: Writer) -> list[bytes]:
        """One event for each token."""
        events = [write.reasoning(piece) for piece in self.draft.reasoning or ()]
        return events + [write.content(piece) for piece in self.draft.content]


class _ChatEvents(StreamText):
    """The events of a chat's answer."""

    def __init__(self, work: Work) -> None:
        null = work.include_usage and work.usage_chunk == "finish"
        super().__init__(
            work.head, thinking=work.draft.reasoning is not None, usage_null=null, calls=work.calls
        )
        self._work = work

    def ending(self, *, role_null: bool = False) -> list[bytes]:
        """The events after the last token; the last one is ``[DONE]``."""
        work = self._work
        events = [self.finish(work.finish_reason, work.usage(), role_null=role_null)]
        if work.usage_chunk == "extra":
            events.append(self.bare("[]", work.bill.text()))
        return [*events, DONE]


def plan(work: Work, fault: Fault | None = None) -> Reply:
    """The reply for an answer, spoiled on its way by a fault if there is one."""
    if fault is None or fault.name not in PLANS:
        return _plain(work)
    return PLANS[fault.name](work, fault)


def _plain(work: Work, *, role_null: bool = False) -> Reply:
    if not work.stream:
        return _json_reply(work, work.body())
    write = work.writer()
    steps = _paced(work, write, work.tokens(write))
    steps.append(Send(b"".join(write.ending(role_null=role_null))))
    return Reply(steps, content_type=SSE)


def _json_reply(work: Work, body: bytes, *, length: bool = True) -> Reply:
    steps = [*_thinking_time(work, work.draft.tokens), Send(body, work.draft.tokens)]
    return Reply(steps, length=len(body) if length else None)


def _thinking_time(work: Work, tokens: int) -> list[Step]:
    wait_s = work.first_token_s + work.token_s * tokens
    return [Wait(wait_s, work.beat)] if wait_s > 0 else []


def _paced(work: Work, write: Writer, tokens: Sequence[bytes]) -> list[Step]:
    """The role, then each token when it is ready."""
    steps = _thinking_time(work, 0)
    if work.token_s <= 0:
        steps.append(Send(b"".join([write.role(), *tokens]), len(tokens)))
        return steps
    steps.append(Send(write.role()))
    for event in tokens:
        steps += (Send(event, 1), Wait(work.token_s, work.beat))
    return steps


def _part(work: Work, after_tokens: int) -> tuple[list[Step], int]:
    """The steps up to some tokens, or half of a whole body; and that body's length."""
    if not work.stream:
        body = work.body()
        half = Send(body[: len(body) // 2], work.draft.tokens)
        return [*_thinking_time(work, work.draft.tokens), half], len(body)
    write = work.writer()
    return _paced(work, write, work.tokens(write)[:after_tokens]), 0


def _broken(work: Work, fault: Fault, *ending: Step, declared: bool = False) -> Reply:
    steps, length = _part(work, fault["after_tokens"])
    if not work.stream:
        return Reply([*steps, *ending], length=length if declared else None)
    return Reply([*steps, *ending], content_type=SSE)


def _asked_for(work: Work, fault: Fault) -> Work:
    """The work in the form that was asked for, or as a whole body where the fault says so."""
    return replace(work, stream=work.stream and not fault["whole"])


def _keepalive_then_json(work: Work, fault: Fault) -> Reply:
    work = _asked_for(work, fault)
    beat = _beat_of(work, fault)
    reply = _plain(work)
    waits: list[Step] = []
    for _ in range(fault["lines"]):
        waits += (Wait(beat.every_s), Send(beat.data))
    return replace(reply, steps=[*waits, *reply.steps], length=None)


def _keepalive_then_close(work: Work, fault: Fault) -> Reply:
    work = _asked_for(work, fault)
    lines = max(ceil(fault["close_s"] / fault["every_s"]) - 1, 0)
    steps: list[Step] = []
    for _ in range(lines):
        steps += (Wait(fault["every_s"]), Send(work.beat.data))
    steps.append(Wait(fault["close_s"] - lines * fault["every_s"]))
    return Reply([*steps, Send(b"")], content_type=_type_of(work))


def _beat_of(work: Work, fault: Fault) -> Beat:
    return work.beat if fault["every_s"] is None else Beat(work.beat.data, fault["every_s"])


def _type_of(work: Work) -> str:
    return SSE if work.stream else "application/json"


def _comments(work: Work, _: Fault) -> Reply:
    if not work.stream:
        body = work.body()
        return Reply(
            [Send(BLANK * 3), *_thinking_time(work, work.draft.tokens), Send(body, work.draft.tokens)]
        )
    write = work.writer()
    steps: list[Step] = [Send(COMMENT)]
    for step in _paced(replace(work, token_s=max(work.token_s, 1e-9)), write, work.tokens(write)):
        steps += (step, Send(COMMENT)) if isinstance(step, Send) else (step,)
    steps += (Send(COMMENT + event) for event in write.ending())
    return Reply(steps, content_type=SSE)


def _no_done(*, begun: bool) -> Callable[[Work, Fault], Reply]:
    def reply(work: Work, _: Fault) -> Reply:
        if not work.stream:
            return _json_reply(work, work.body()[:-1], length=False)
        write = work.writer()
        steps = _paced(work, write, work.tokens(write))
        *events, last = write.ending()
        unclosed = last[: -len(b"\n\n")] if begun else b""
        return Reply([*steps, Send(b"".join([*events, unclosed]))], content_type=SSE)

    return reply


def _dribble(work: Work, fault: Fault) -> Reply:
    reply = _plain(work)
    steps: list[Step] = []
    for step in reply.steps:
        if not isinstance(step, Send):
            steps.append(step)
            continue
        for at in range(0, len(step.data), fault["piece_bytes"]):
            steps += (Send(step.data[at : at + fault["piece_bytes"]]), Wait(0.0))
        steps.append(Send(b"", step.tokens))
    return replace(reply, steps=steps)


def _choices(text: str) -> Callable[[Work, Fault], Reply]:
    def reply(work: Work, _: Fault) -> Reply:
        if not work.stream:
            return _json_reply(work, work.body(text))
        return Reply([*_thinking_time(work, 0), Send(work.nothing(text))], content_type=SSE)

    return reply


def _error_in_200(work: Work, fault: Fault) -> Reply:
    del work
    return Reply.whole(error_body(fault["message"], *_INTERNAL))


def _error_in_stream(work: Work, fault: Fault) -> Reply:
    if not work.stream:
        return _error_in_200(work, fault)
    return _broken(work, fault, Send(work.error_event(fault["message"], fault["after_tokens"])))


def _error_beside_answer(work: Work, fault: Fault) -> Reply:
    error = error_body(fault["message"], *_INTERNAL)[1:-1]
    content = work.draft.content
    half = replace(work, draft=replace(work.draft, content=content[: len(content) // 2]))
    if not work.stream:
        return _json_reply(half, half.beside(half.body(), error))
    write = half.writer()
    steps = _paced(half, write, half.tokens(write))
    return Reply([*steps, Send(half.beside(b"".join(write.ending()), error))], content_type=SSE)


def _swapped(work: Work, fault: Fault) -> Reply:
    work = _asked_for(work, fault)
    swapped = "application/json" if work.stream else "application/octet-stream"
    return replace(_plain(work), content_type=swapped)


def _proxy_text(work: Work, fault: Fault) -> Reply:
    return _broken(work, fault, Send(fault["text"].encode()))


def _usage(kind: str) -> Callable[[Work, Fault], Reply]:
    return lambda work, _: _plain(replace(work, usage_chunk=kind))


PLANS: dict[str, Callable[[Work, Fault], Reply]] = {
    "empty_200": lambda work, _: Reply.whole(b"", content_type=_type_of(work)),
    "blank_200": lambda work, fault: Reply(
        [Wait(fault["wait_s"]), Send(b"\n\n")], content_type=_type_of(work)
    ),
    "keepalive_then_json": _keepalive_then_json,
    "keepalive_then_close": _keepalive_then_close,
    "comments": _comments,
    "hang": lambda _, fault: Reply([Hang()] if fault["reset_s"] is None else [Wait(fault["reset_s"]), Cut()]),
    "stall": lambda work, fault: _broken(work, fault, Hang(), declared=True),
    "stall_with_comments": lambda work, fault: _broken(work, fault, Hang(_beat_of(work, fault))),
    "slow_after": lambda _, fault: Reply([Wait(fault["wait_s"]), Cut(reset=False)]),
    "bimodal_hang": lambda work, fault: _plain(
        replace(work, first_token_s=work.first_token_s + fault["wait_s"], keep_alive_s=float("inf"))
    ),
    "cut_rst": lambda work, fault: _broken(work, fault, Wait(0.0), Cut(), declared=True),
    "cut_incomplete": lambda work, fault: _broken(work, fault, Cut(reset=False)),
    "cut_eof": _broken,
    "proxy_text": _proxy_text,
    "no_done": _no_done(begun=False),
    "done_unclosed": _no_done(begun=True),
    "reset_before_headers": lambda *_: Reply([Cut()]),
    "stale_connection": lambda work, _: replace(_plain(work), stale=True),
    "dribble": _dribble,
    "no_choices": _choices("[]"),
    "null_choices": _choices("null"),
    "usage_missing": _usage("none"),
    "usage_extra_chunk": _usage("extra"),
    "usage_null": _usage("null"),
    "role_null": lambda work, _: _plain(work, role_null=True),
    "error_in_200": _error_in_200,
    "error_in_stream": _error_in_stream,
    "error_beside_answer": _error_beside_answer,
    "content_type_swapped": _swapped,
}
"""The faults that change how an answer travels."""
