"""``POST /responses``: the address that is told a JSON Schema; its bodies out, its events and answers in.

Documented: the fields of the body (all others are silently ignored), the events' names, the ends
``completed``, ``incomplete`` and ``failed`` with no ``[DONE]``, and the names of ``usage``. Not known: how
strictly the server holds an answer to the schema, and the shape of its errors. So an answer is checked
here like any other, and what fails is told apart as everywhere (see ``core.wire``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import takewhile
from typing import Any

from deepseek_nb.core.chat import ChatRequest, Message
from deepseek_nb.core.errors import RequestInvalid
from deepseek_nb.core.form import json_instruction
from deepseek_nb.core.wire import AnswerDecoder, Delta, compact_json, usage_from

__all__ = [
    "RESPONSES_PATH",
    "ResponsesDecoder",
    "in_json_mode",
    "refuse_what_responses_lack",
    "responses_body",
]

RESPONSES_PATH = "/responses"

_TEXT = "response.output_text.delta"
_REASONING = ("response.reasoning_text.delta", "response.reasoning_summary_text.delta")
_ENDS = ("response.completed", "response.incomplete", "response.failed")
_FINISH = {"completed": "stop", "max_output_tokens": "length"}
"""What ends a response, as the finish reason of a chat; any other word stays as it is."""


# ------------------------------------------------------------------------------ to the server


def refuse_what_responses_lack(request: ChatRequest) -> None:
    """Raise RequestInvalid for what the address would silently leave out, or has no known place for."""
    lacks = (
        ("stop sequences", bool(request.stop)),
        ("the beginning of an answer (prefix)", any(turn.prefix for turn in request.messages)),
        ("messages of the role 'tool'", any(turn.role == "tool" for turn in request.messages)),
    )
    for what, asked in lacks:
        if asked:
            raise RequestInvalid(
                f"structured='responses' uses an address that does not take {what}.",
                hint="Leave it out, or use structured='json'. Nothing was sent.",
            )


def in_json_mode(request: ChatRequest) -> ChatRequest:
    """The same question with the schema in the system message, for a server without this address."""
    if request.form is None:
        return request
    told = json_instruction(request.form.schema_json)
    first, *rest = request.messages
    if first.role == "system":
        messages = (Message("system", f"{first.content}\n\n{told}"), *rest)
    else:
        messages = (Message("system", told), first, *rest)
    return replace(request, messages=messages, json_mode=True, form=None)


def responses_body(request: ChatRequest, *, stream: bool = True) -> bytes:
    """The body: compact JSON, what is told to the model before the parameters.

    The system messages at the beginning are the instructions, and the others the input. Nothing is sent
    that was not asked for. Earlier reasoning is left out: without functions the server passes over it.
    """
    *head, last = request.messages
    before, after = _around(
        *(request.model, tuple(head), stream, request.form),
        *(request.thinking, request.reasoning_effort, request.max_tokens),
        *(request.temperature, request.top_p, request.user_id),
    )
    return f"{before}{_turn(last)}{after}".encode("utf-8", "replace")


def _turn(message: Message) -> str:
    return compact_json({"role": message.role, "content": message.content})


@lru_cache(maxsize=16, typed=True)  # 1 and 1.0 are written differently
def _around(
    model: str, head: tuple[Message, ...], stream: bool, form: Any, *parameters: Any
) -> tuple[str, str]:
    """What stands before the last message and behind it: the same for all rows of a job."""
    thinking, effort, max_tokens, temperature, top_p, user_id = parameters
    system = [turn.content for turn in takewhile(lambda turn: turn.role == "system", head)]
    begun: dict[str, Any] = {"model": model}
    if system:
        begun["instructions"] = "\n\n".join(system)
    behind: dict[str, Any] = {} if form is None else form.fields()
    if thinking is False:
        effort = "none"
    elif thinking and effort is None:
        effort = "high"  # what the server takes by itself
    named = {
        "reasoning": None if effort is None else {"effort": effort},
        "max_output_tokens": max_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "user": user_id,
        "stream": True if stream else None,
    }
    behind.update((name, value) for name, value in named.items() if value is not None)
    turns = "".join(f"{_turn(message)}," for message in head[len(system) :])
    rest = compact_json(behind)
    return f'{compact_json(begun)[:-1]},"input":[{turns}', f"],{rest[1:]}" if behind else "]}"


# ---------------------------------------------------------------------------- from the server


class ResponsesDecoder(AnswerDecoder):
    """As :class:`AnswerDecoder`, for the body of one 200 of ``/responses``, streamed or whole."""

    LAST_EVENT = "its last event"
    HELD_IN = "output"

    def _chunk(self, chunk: Any, part: str) -> Delta | None:
        if not isinstance(chunk, dict):
            raise self._broken("the server sent JSON that is no answer")
        if part == "message":  # the whole of it
            return self._response(chunk, str(chunk.get("status") or "no status"))
        if chunk.get("error"):
            raise self._error_inside(chunk)
        kind = chunk.get("type")
        if kind == "error":
            raise self._error_inside({"error": chunk})
        if kind == _TEXT or kind in _REASONING:
            self._saw_choice = True
            piece = chunk.get("delta")
            text = piece if isinstance(piece, str) else ""
            return self._piece(text, "") if kind == _TEXT else self._piece("", text)
        response = chunk.get("response")
        if not isinstance(response, dict):
            return None
        return self._response(response, kind.removeprefix("response.") if kind in _ENDS else "")

    def _piece(self, text: str, reasoning: str) -> Delta | None:
        if not text and not reasoning:
            return None
        self._take(text, reasoning)
        return Delta(text, reasoning)

    def _response(self, response: Mapping[str, Any], ended: str) -> Delta | None:
        """A response object: what it says of itself and, where it has ``ended``, what no piece held."""
        if (usage := usage_from(response.get("usage"))) is not None:
            self._usage = usage
        self._model = str(response.get("model") or self._model)
        if not ended:
            return None
        output = response.get("output")
        items = [item for item in output if isinstance(item, dict)] if isinstance(output, list) else []
        self._saw_choice = self._saw_choice or bool(items)
        delta = self._piece(
            "" if self._text else _texts(items, "message", "output_text"),
            "" if self._reasoning else _texts(items, "reasoning", "reasoning_text", "summary_text"),
        )
        if response.get("error") or ended == "failed":
            raise self._error_inside({"error": response.get("error") or {"message": "The response failed."}})
        details = response.get("incomplete_details")
        if ended == "incomplete" and isinstance(details, Mapping):
            ended = str(details.get("reason") or ended)
        self._finish = _FINISH.get(ended, ended)
        self._done = True
        return delta


def _texts(items: list[dict[str, Any]], kind: str, *parts: str) -> str:
    """The texts of these parts in the items of a kind."""
    held = [item.get(name) for item in items if item.get("type") == kind for name in ("content", "summary")]
    listed = [part for value in held if isinstance(value, list) for part in value if isinstance(part, dict)]
    texts = [part.get("text") for part in listed if part.get("type") in parts]
    return "".join(text for text in texts if isinstance(text, str))
