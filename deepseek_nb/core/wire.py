"""Requests to bytes, and bytes to text, usage and errors: what DeepSeek's wire really carries.

Rules of this room:

* The parser is chosen by the bytes, never by the content type: valid server-sent events come
  as ``application/json`` and JSON as ``octet-stream``.
* A 200 is not an answer. An answer has text or calls, a finish reason and, in a stream, ``data: [DONE]``
  closed by a blank line; anything less is an error of its own class.
* Blank lines and ``:`` comments before and between events say "alive", never "progress".
* Errors are told apart by status, then by the bytes, then by the beginning of the message; never
  by equality: wordings change and get ``(request_id: ...)`` appended.
* Whatever bytes come, only :class:`~deepseek_nb.core.errors.DeepSeekError` is raised.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from deepseek_nb.core.chat import Answer, ChatRequest, Message, Usage
from deepseek_nb.core.errors import (
    AnswerEmpty,
    AnswerInvalid,
    AnswerTruncated,
    AuthError,
    BalanceExhausted,
    ContentRefused,
    ContextTooLong,
    DeepSeekError,
    Disposition,
    EndpointUnknown,
    ModelUnknown,
    Overloaded,
    RateLimited,
    RequestInvalid,
    ServerFault,
    StreamBroken,
)
from deepseek_nb.core.tokens import estimate_call_tokens, estimate_request_tokens, estimate_tokens
from deepseek_nb.core.tools import CallReader, ToolCallPiece

__all__ = [
    "AnswerDecoder",
    "Delta",
    "Dialect",
    "compact_json",
    "error_from_reply",
    "request_body",
    "request_path",
    "usage_from",
]

KEPT_BODY_CHARS = 500
WHITESPACE_RUN_CHARS = 1024
"""A JSON answer with this many blanks in a row is the documented run-away: hang up instead of paying on."""

FOREIGN_BYTES = 64 * 1024
"""So much of a body that is neither events nor JSON is read before it is given up."""

_DSML = re.compile(r"<\s*/?\s*[｜|‖]+\s*DSML\s*[｜|‖]+")
_REQUEST_ID = re.compile(r"\s*\(request_id: [^)]*\)\s*$")
_NAMED_LIMIT = re.compile(r"concurrency limit of (\d+)")


Dialect = Literal["deepseek", "openai"]
"""What a request may hold: all of DeepSeek's fields, or only those that other servers take too."""


# ------------------------------------------------------------------------------ to the server


def request_path(request: ChatRequest, *, base_path: str = "", dialect: Dialect = "deepseek") -> str:
    """The path of a request for an answer, behind a base address whose own path is ``base_path``.

    DeepSeek documents strict functions at its beta address only, where all of them have to be strict. A
    base address with a path of its own is taken at its word: it may be the beta address, or another
    server's.
    """
    strict = request.form is not None or (request.tools is not None and request.tools.strict)
    beta = strict and dialect == "deepseek" and not base_path.strip("/")
    return "/beta/chat/completions" if beta else "/chat/completions"


def request_body(request: ChatRequest, *, stream: bool = True, dialect: Dialect = "deepseek") -> bytes:
    """The body of ``POST /chat/completions``: compact JSON, messages before parameters.

    Nothing is sent that was not asked for, except ``stream``: a field left at None is left to
    the server's default. The dialect "openai" leaves out what only DeepSeek's server knows: other
    servers may refuse a field that they do not know.

    What stands around the last message is made once for all requests that differ in it only, as a
    job's rows do.
    """
    *head, last = request.messages
    before, after = _around(
        *(request.model, tuple(head), stream, dialect),
        *(request.thinking, request.json_mode, request.reasoning_effort, request.max_tokens),
        *(request.temperature, request.top_p, request.user_id, request.stop, request.form or request.tools),
    )
    if last.reasoning is None and not last.prefix and last.tool_call_id is None and not last.tool_calls:
        turn = f'{{"role":{_quoted(last.role)},"content":{_quoted(last.content)}}}'
    else:
        turn = compact_json(_turn(last, dialect))
    text = f"{before}{turn}{after}"
    return text.encode("utf-8", "replace")


_quoted = json.encoder.encode_basestring  # as json.dumps(ensure_ascii=False) writes a text


def compact_json(value: Any) -> str:
    """``value`` as JSON without spaces, text as it is (UTF-8)."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _turn(message: Message, dialect: Dialect) -> dict[str, Any]:
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.reasoning is not None and dialect == "deepseek":
        turn["reasoning_content"] = message.reasoning
    if message.prefix and dialect == "deepseek":
        turn["prefix"] = True
    if message.tool_calls:
        # while it thinks, the service refuses a turn of calls without its reasoning; an empty one is taken
        if dialect == "deepseek":
            turn.setdefault("reasoning_content", "")
        turn["tool_calls"] = [call.told() for call in message.tool_calls]
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    return turn


@lru_cache(maxsize=16, typed=True)  # 1 and 1.0 are written differently
def _around(
    model: str, head: tuple[Message, ...], stream: bool, dialect: Dialect, *parameters: Any
) -> tuple[str, str]:
    """What stands before the last message and behind it."""
    thinking, json_mode, effort, max_tokens, temperature, top_p, user_id, stop, told = parameters
    deepseek = dialect == "deepseek"
    body: dict[str, Any] = {}
    if thinking is not None and deepseek:
        body["thinking"] = {"type": "enabled" if thinking else "disabled"}
    if json_mode:
        body["response_format"] = {"type": "json_object"}
    if told is not None:
        body.update(told.fields())
    named = {
        "reasoning_effort": effort,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "user_id": user_id if deepseek else None,
    }
    body.update((name, value) for name, value in named.items() if value is not None)
    if stop:
        body["stop"] = list(stop)
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    turns = "".join(f"{compact_json(_turn(message, dialect))}," for message in head)
    behind = compact_json(body)
    return f'{{"model":{compact_json(model)},"messages":[{turns}', f"],{behind[1:]}" if body else "]}"


# -------------------------------------------------------------------------- from the server: errors


def _message_of(body: bytes) -> tuple[str, bool]:
    """What the server said in one line, and whether it is an HTML page."""
    text = body[:4096].decode("utf-8", "replace").strip()
    if text.startswith("{"):
        try:
            error = json.loads(body).get("error")
        except (ValueError, AttributeError, RecursionError):
            error = None
        if isinstance(error, Mapping):
            text = str(error.get("message") or error)
        elif isinstance(error, str):
            text = error
    elif text.startswith("<"):
        title = re.search(r"<title>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
        return (title.group(1).strip() if title else "an HTML page"), True
    return _REQUEST_ID.sub("", " ".join(text.split()))[:KEPT_BODY_CHARS], False


def _retry_after_s(headers: Mapping[str, str]) -> float | None:
    try:
        seconds = float(headers.get("retry-after", ""))
    except ValueError:
        return None
    return seconds if 0 <= seconds <= 600 else None


def error_from_reply(status: int, body: bytes, headers: Mapping[str, str] | None = None) -> DeepSeekError:
    """The error a reply with this status and body stands for. Header names are lower-case.

    >>> type(error_from_reply(503, b"")).__name__
    'Overloaded'
    """
    headers = headers or {}
    said, is_page = _message_of(body)
    quoted = f": {said}" if said else ""
    details: dict[str, Any] = {
        "status": status,
        "body": body[:KEPT_BODY_CHARS].decode("utf-8", "replace"),
        "trace_id": headers.get("x-ds-trace-id"),
        "retry_after_s": _retry_after_s(headers),
    }
    if status == 429:
        return _from_429(said, quoted, details)
    if status == 503:
        return Overloaded(f"The server is too busy (503){quoted}.", **details)
    if status >= 500 or (is_page and (status < 300 or status == 403)):  # a bot wall is not about the key
        page = " with an error page" if is_page else ""
        return ServerFault(f"The server failed ({status}){page}{quoted}.", **details)
    if status in (401, 403):
        return AuthError(f"The server does not accept the key ({status}){quoted}.", **details)
    if status == 402 or (status == 400 and _begins(said, "Insufficient Balance")):
        return BalanceExhausted(f"The account is empty ({status}){quoted}.", **details)
    if status in (404, 405):
        return EndpointUnknown(f"The server has no such address ({status}){quoted}.", **details)
    if 300 <= status < 400:
        return EndpointUnknown(
            f"The server redirects elsewhere ({status}); redirects are not followed.", **details
        )
    if status == 408:
        return ServerFault(f"The server gave up waiting ({status}){quoted}.", **details)
    return _from_400(status, said, quoted, details)


def _begins(said: str, *beginnings: str) -> bool:
    """Whether a message begins so, in any case: wordings change behind their first words."""
    return said.casefold().startswith(tuple(beginning.casefold() for beginning in beginnings))


def _from_429(said: str, quoted: str, details: dict[str, Any]) -> DeepSeekError:
    lowered = said.lower()
    if "insufficient balance" in lowered or "exceeded your current quota" in lowered:
        return BalanceExhausted(f"The account is empty or over its quota (429){quoted}.", **details)
    named = _NAMED_LIMIT.search(said)
    limit = int(named.group(1)) if named else None
    return RateLimited(f"Too many requests in flight (429){quoted}.", limit=limit, **details)


def _from_400(status: int, said: str, quoted: str, details: dict[str, Any]) -> DeepSeekError:
    if _begins(said, "Content Exists Risk"):
        return ContentRefused(f"Moderation refused the text ({status}){quoted}.", **details)
    if _begins(said, "This model's maximum context length"):
        return ContextTooLong(f"Too long for the model ({status}){quoted}", **details)
    if _begins(said, "The supported API model names", "Model Not Exist"):
        return ModelUnknown(f"The server does not know this model ({status}){quoted}", **details)
    if _begins(
        said, "Failed to deserialize", "Failed to parse", "Prompt must contain the word", "Empty input"
    ):
        return RequestInvalid(
            f"The server cannot read the request ({status}){quoted}.",
            hint="Every row would fail alike: this is about how the request is made, not about one row.",
            disposition=Disposition.STOP,
            **details,
        )
    hint = None
    if "reasoning_content" in said:
        hint = "Send each earlier answer of the conversation back with its reasoning_content."
    return RequestInvalid(f"The server will not take the request ({status}){quoted}.", hint=hint, **details)


# -------------------------------------------------------------------------- from the server: answers


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer: new text, new reasoning, pieces of calls of functions.

    ``restart``: what came before it belongs to a try that broke; it is not part of the answer.
    """

    text: str = ""
    reasoning: str = ""
    restart: bool = False
    tool_calls: tuple[ToolCallPiece, ...] = ()

    @classmethod
    def of(cls, answer: Answer) -> Delta:
        """All of an answer in one piece."""
        called = enumerate(answer.tool_calls)
        pieces = tuple(ToolCallPiece(at, call.id, call.name, call.arguments) for at, call in called)
        return cls(answer.text, answer.reasoning, tool_calls=pieces)

    def __str__(self) -> str:
        return self.text


def usage_from(raw: Any) -> Usage | None:
    """``usage`` as the server sends it, in any of its shapes; None where it is missing or broken.

    The shape of ``/responses`` calls prompt and completion input and output.
    """
    if not isinstance(raw, dict):
        return None
    read, written = ("prompt", "completion") if "prompt_tokens" in raw else ("input", "output")
    prompt = _count(raw.get(f"{read}_tokens"))
    hit = raw.get("prompt_cache_hit_tokens")
    if hit is None and isinstance(details := raw.get(f"{read}_tokens_details"), dict):
        hit = details.get("cached_tokens")
    details = raw.get(f"{written}_tokens_details")
    reasoning = details.get("reasoning_tokens") if isinstance(details, dict) else 0
    return Usage(prompt, _count(raw.get(f"{written}_tokens")), min(_count(hit), prompt), _count(reasoning))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


class AnswerDecoder:
    """The body of one 200, bytes in, deltas out; :meth:`close` gives the answer or raises why there is none.

    ``progressed`` counts the pieces of text or reasoning so far and ``alive`` the keep-alives:
    a watchdog on progress looks at the first, one on life at the number of bytes. ``streamed`` is
    whether a stream was asked for: of an answer in one piece nothing shows before its end, so that
    what breaks off is taken for as long as it may be.
    """

    LAST_EVENT = "[DONE]"
    HELD_IN = "choices"

    def __init__(self, request: ChatRequest, *, streamed: bool = True) -> None:
        self.request = request
        self.streamed = streamed
        self.trace_id = ""
        """The server's own name for the request: it goes into the answer."""
        self.progressed = 0
        self.alive = 0
        self._buffer = bytearray()
        self._kind = ""  # "", "sse", "json", "other": known at the first byte that is not blank
        self._data: list[bytes] = []
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls = None if request.tools is None else CallReader(parallel=request.tools.parallel)
        self._usage: Usage | None = None
        self._finish: str | None = None
        self._model = ""
        self._system_fingerprint = ""
        self._done = False
        self._saw_choice = False
        self._blanks = 0
        self._foreign = b""

    @property
    def done(self) -> bool:
        """Whether the stream said its last word, ``[DONE]``: nothing of interest can follow."""
        return self._done

    # -- bytes in

    def feed(self, data: bytes) -> list[Delta]:
        """Take bytes as they come; give the new pieces, in order.

        Raises what the bytes already prove: an error object, an HTML page, a run-away of blanks.
        """
        if not self._kind:
            rest = data.lstrip()
            if not rest:
                self.alive += 1
                return []
            data = rest
            self._kind = self._sniff(data)
        self._buffer += data
        if self._kind == "sse":
            return self._lines()
        if self._kind == "other" and len(self._buffer) > FOREIGN_BYTES:
            raise self._foreign_body(bytes(self._buffer))
        return []

    @staticmethod
    def _sniff(start: bytes) -> str:
        if start[:1] == b"{":
            return "json"
        field = re.match(rb":|(data|event|id|retry)\b", start[:8])
        # a field name may arrive in two pieces: "da" + "ta: ..."
        partial = len(start) < 5 and any(
            f.startswith(start) for f in (b"data:", b"event:", b"id:", b"retry:")
        )
        return "sse" if field or partial else "other"

    def _lines(self) -> list[Delta]:
        deltas: list[Delta] = []
        *lines, rest = bytes(self._buffer).split(b"\n")
        self._buffer = bytearray(rest)
        for line in lines:
            line = line.removesuffix(b"\r")
            if line.startswith(b"data:"):
                self._data.append(line[5:].removeprefix(b" "))
            elif not line:
                if self._data:
                    event, self._data = b"\n".join(self._data), []
                    delta = self._event(event)
                    if delta is not None:
                        deltas.append(delta)
            elif line.startswith(b":"):
                self.alive += 1
            elif not line.startswith((b"event:", b"id:", b"retry:")):
                self._foreign = line[:KEPT_BODY_CHARS]  # a proxy's own text inside the stream
        return deltas

    def _event(self, event: bytes) -> Delta | None:
        if event.strip() == b"[DONE]":
            self._done = True
            return None
        try:
            chunk = json.loads(event)
        except (ValueError, RecursionError):
            raise self._broken(
                f"an event of the stream is not JSON: {event[:60].decode('utf-8', 'replace')}"
            ) from None
        return self._chunk(chunk, "delta")

    def _chunk(self, chunk: Any, part: str) -> Delta | None:
        if not isinstance(chunk, dict):
            raise self._broken("the server sent JSON that is no answer")
        if chunk.get("error"):  # whatever stands beside it
            raise self._error_inside(chunk)
        if (usage := usage_from(chunk.get("usage"))) is not None:
            self._usage = usage
        self._model = str(chunk.get("model") or self._model)
        self._system_fingerprint = str(chunk.get("system_fingerprint") or self._system_fingerprint)
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            return None
        self._saw_choice = True
        choice = choices[0]
        if choice.get("finish_reason"):
            self._finish = str(choice["finish_reason"])
        piece = choice.get(part)
        if not isinstance(piece, dict):
            return None
        content, thought = piece.get("content"), piece.get("reasoning_content")
        text = content if isinstance(content, str) else ""
        if self.request.form is not None:
            text += self.request.form.arguments(piece)
        reasoning = thought if isinstance(thought, str) else ""
        if self._calls is not None and (called := self._calls.take(piece)):
            self._take(text, reasoning)
            return Delta(text, reasoning, tool_calls=called)
        if not text and not reasoning:
            return None
        self._take(text, reasoning)
        return Delta(text, reasoning)

    def _take(self, text: str, reasoning: str) -> None:
        self.progressed += 1
        if reasoning:
            self._reasoning.append(reasoning)
        if not text:
            return
        self._text.append(text)
        if self.request.wants_json:
            run = len(text) - len(text.rstrip())
            self._blanks = self._blanks + run if run == len(text) else run
            if self._blanks > WHITESPACE_RUN_CHARS and self._kind == "sse":
                raise AnswerEmpty(
                    f"The answer ran away into blanks (over {WHITESPACE_RUN_CHARS} in a row); we hung up.",
                    answer=self.partial(),
                )

    # -- the answer out

    def partial(self, finish_reason: str = "") -> Answer:
        """What there is so far, as an answer that is not complete. Its usage may be an estimate."""
        text, reasoning = "".join(self._text), "".join(self._reasoning)
        calls = () if self._calls is None else self._calls.calls
        usage = self._usage
        if usage is None:
            thought = estimate_tokens(reasoning)
            written = estimate_tokens(text) + thought + estimate_call_tokens(calls)
            usage = Usage(
                estimate_request_tokens(self.request),
                written if self.streamed else max(written, self.request.max_tokens or 0),
                0,
                thought,
                estimated=True,
            )
        return Answer(
            text=text,
            reasoning=reasoning,
            model=self._model or self.request.model,
            finish_reason=finish_reason,
            usage=usage,
            system_fingerprint=self._system_fingerprint,
            trace_id=self.trace_id,
            tool_calls=calls,
        )

    def close(self) -> Answer:
        """The complete answer, once the body has ended.

        Raises :class:`StreamBroken` where it did not end as an answer ends, :class:`AnswerEmpty`,
        :class:`AnswerTruncated`, :class:`AnswerInvalid` or :class:`ContentRefused` where it did and
        cannot be used, :class:`ServerFault` for an error page, and what an error object inside says.
        """
        if not self._kind:
            raise self._broken("the server closed a 200 without an answer")
        if self._kind == "other":
            raise self._foreign_body(bytes(self._buffer))
        if self._kind == "json":
            self._whole_body(bytes(self._buffer))
        elif not (self._done and self._finish):
            said = f" ({self._foreign.decode('utf-8', 'replace')})" if self._foreign else ""
            missing = "a finish reason" if self._done else self.LAST_EVENT
            raise self._broken(f"the stream ended without {missing}{said}")
        return self._judged()

    def _whole_body(self, body: bytes) -> None:
        try:
            chunk = json.loads(body)
        except (ValueError, RecursionError):
            raise self._broken("the body is cut: it is not complete JSON") from None
        self._chunk(chunk, "message")

    def _judged(self) -> Answer:
        finish = self._finish or ""
        answer = self.partial(finish)
        if not self._saw_choice:
            raise self._broken(f"the server sent no {self.HELD_IN}")
        if finish == "content_filter":
            raise ContentRefused(
                "The server's filter left the answer out (content_filter).",
                charged="unknown",
                usage=answer.usage,
            )
        if finish not in ("stop", "length", "tool_calls"):
            reason = finish or "no finish reason"
            raise self._broken(f"the server gave the answer up ({reason})")
        called = bool(answer.tool_calls)
        blank = not called and not answer.text.strip()
        if finish == "length" and (blank or called or self.request.wants_json):
            spent = f"{answer.usage.completion_tokens} tokens"
            thought = ", all of them reasoning" if blank and answer.reasoning else ""
            raise AnswerTruncated(f"The answer was cut at max_tokens ({spent}{thought}).", answer=answer)
        if blank:
            held = "only reasoning" if answer.reasoning else "only spaces" if answer.text else "empty"
            raise AnswerEmpty(f"The server ended normally, but the answer is {held}.", answer=answer)
        if _DSML.search(answer.text):
            raise AnswerInvalid("The answer is tool-call markup (DSML), not text.", answer=answer)
        if called and not all(call.name for call in answer.tool_calls):
            raise AnswerInvalid("The answer calls a function without naming it.", answer=answer)
        return answer

    # -- errors

    def _broken(self, what: str) -> StreamBroken:
        so_far = self.partial()
        return StreamBroken(
            f"No complete answer: {what}.",
            partial=so_far.text,
            usage=so_far.usage,
            hint="What came was not used; running it again usually works.",
        )

    def _foreign_body(self, body: bytes) -> DeepSeekError:
        if body.lstrip()[:1] == b"<":
            return error_from_reply(200, body)
        return self._broken(f"the server sent text: {body[:120].decode('utf-8', 'replace')}")

    def _error_inside(self, chunk: Mapping[str, Any]) -> DeepSeekError:
        """An error object inside a 200: as if it had come with the status its type stands for."""
        error = chunk.get("error")
        kind = (
            " ".join(str(error.get(k) or "") for k in ("type", "code")) if isinstance(error, Mapping) else ""
        )
        said, _ = _message_of(json.dumps(chunk).encode())
        status = 500
        for word, stands_for in (
            ("rate_limit", 429),
            ("service_unavailable", 503),
            ("authentication", 401),
            ("invalid_request", 400),
            ("invalid_prompt", 400),
        ):
            if word in kind:
                status = stands_for
                break
        if _begins(said, "Insufficient Balance"):
            status = 402
        elif _begins(said, "Content Exists Risk"):
            status = 400
        found = error_from_reply(status, json.dumps({"error": error}).encode())
        if self.progressed and found.retryable:
            return self._broken(f"the server broke off with an error: {said}")
        if self.progressed:
            found.charged, found.usage = "unknown", self.partial().usage  # type: ignore[attr-defined]
        return found
