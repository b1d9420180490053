"""What ``/v1/compute`` is asked, a question or a batch of them, and how an answer is told there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deepseek_nb.core.chat import Answer
from deepseek_nb.gateway.asks import Ask, read_chat
from deepseek_nb.gateway.desk import Call
from deepseek_nb.gateway.refusals import ApiError, bad_request
from deepseek_nb.gateway.replies import usage_fields
from deepseek_nb.gateway.talk import facts_of

__all__ = ["Item", "read_compute", "told_of"]

FORMS = ("query", "prompt", "batch_requests")
OPTIONS = (
    *("max_tokens", "model", "priority", "reasoning_effort", "response_format", "stop", "system"),
    *("temperature", "thinking", "top_p", "user_id"),
)
LONGEST_ID = 200


@dataclass(frozen=True, slots=True)
class Item:
    """One question of a batch; its name comes back with its answer."""

    id: str | int
    ask: Ask | ApiError
    """The question, or why it cannot be asked."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """What :func:`read_compute` makes the question of."""


def read_compute(body: Mapping[str, Any], *, batch_max: int) -> Ask | list[Item]:
    """Read a body: one of ``query``, ``prompt`` and ``batch_requests``, and the options of all.

    Thinking is off unless asked for. Raises ApiError: a 400 that names the field. What is wrong with one
    question of a batch is that question's error alone.
    """
    given = {name: value for name, value in body.items() if value is not None}
    forms = [name for name in FORMS if name in given]
    if len(forms) != 1:
        raise bad_request(f"Give one of {', '.join(FORMS)}.", forms[-1] if forms else "query")
    options = {name: value for name, value in given.items() if name not in FORMS}
    for name in options:
        if name not in OPTIONS:
            raise bad_request(
                f"The parameter {name[:80]!r} is not supported.", name[:80], "unsupported_parameter"
            )
    if forms[0] != "batch_requests":
        return _ask(given[forms[0]], forms[0], options)
    return _items(given["batch_requests"], options, batch_max)


def _ask(prompt: Any, name: str, options: Mapping[str, Any]) -> Ask:
    if not isinstance(prompt, str) or not prompt.strip():
        raise bad_request(f"{name} is a text that is not empty.", name)
    turns = [{"role": "user", "content": prompt}]
    if "system" in options:
        if not isinstance(options["system"], str):
            raise bad_request("system is a text.", "system")
        turns.insert(0, {"role": "system", "content": options["system"]})
    thinking = options.get("thinking", False)
    told = {key: value for key, value in options.items() if key not in ("system", "thinking")}
    if isinstance(thinking, bool):
        thinking = {"type": "enabled" if thinking or "reasoning_effort" in options else "disabled"}
    ask = read_chat({"model": "-", **told, "thinking": thinking, "messages": turns})
    return ask if "model" in options else ask.of_model(None)


def _items(batch: Any, options: Mapping[str, Any], batch_max: int) -> list[Item]:
    if not isinstance(batch, list) or not batch:
        raise bad_request("batch_requests is a list of {id, prompt}.", "batch_requests")
    if len(batch) > batch_max:
        raise bad_request(f"At most {batch_max:,} questions in one request.", "batch_requests")
    items: dict[str | int, Item] = {}
    for number, one in enumerate(batch):
        where = f"batch_requests[{number}]"
        if not isinstance(one, dict):
            raise bad_request(f"{where} is an object with id and prompt.", where)
        name = one.get("id")
        if isinstance(name, bool) or not isinstance(name, str | int) or len(str(name)) > LONGEST_ID:
            raise bad_request(f"{where}.id is a text or a whole number.", f"{where}.id")
        if name in items:
            raise bad_request(f"{where}.id stands twice.", f"{where}.id")
        own = {key: value for key, value in one.items() if key != "id" and value is not None}
        items[name] = Item(name, _item(one, options, where), {**options, **own})
    return list(items.values())


def _item(one: Mapping[str, Any], options: Mapping[str, Any], where: str) -> Ask | ApiError:
    own = {key: value for key, value in one.items() if key not in ("id", "prompt") and value is not None}
    for key in own:
        if key not in OPTIONS:
            return bad_request(f"{where}.{key[:40]} is not supported.", f"{where}.{key[:40]}")
    try:
        return _ask(one.get("prompt"), "prompt", {**options, **own})
    except ApiError as error:
        return error


def told_of(call: Call, answer: Answer) -> dict[str, Any]:
    """An answer, and what the gateway says of it."""
    told: dict[str, Any] = {
        "answer": answer.text,
        "model": answer.model,
        "finish_reason": answer.finish_reason,
        "usage": usage_fields(answer.usage),
        **facts_of(call),
    }
    if answer.reasoning:
        told["reasoning"] = answer.reasoning
    return told
