"""What a chat request asks: fields of OpenAI and DeepSeek as the client's own, nothing dropped unsaid.

A field that the client cannot carry is a 400 that names it, unless its value changes nothing
(``HARMLESS`` and ``NEUTRAL``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from deepseek_nb.core.chat import Message
from deepseek_nb.core.tools import ToolsInvalid, check_chain, read_tool_calls, read_tools
from deepseek_nb.gateway.refusals import ApiError, bad_request

__all__ = ["HARMLESS", "NEUTRAL", "Ask", "read_chat", "read_priority"]

T = TypeVar("T")

ROLES = ("system", "user", "assistant", "tool")
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
MESSAGE_FIELDS = {"role", "content", "reasoning_content", "prefix"}
CALL_FIELDS = {"assistant": "tool_calls", "tool": "tool_call_id"}
"""What messages of these roles may have beside the others."""
MOST_STOPS = 16
MOST_TOKENS = 10_000_000

HARMLESS = frozenset({"metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user"})
"""Fields that change no answer: passed over, whatever they say."""

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "top_logprobs": (0,),
}
"""Fields that are taken with these values only, which are the defaults."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One question as a tenant put it, checked."""

    messages: tuple[Message, ...]
    model: str | None = None
    """None: the gateway's own."""
    priority: int | None = None
    user_id: str | None = None
    stream: bool = False
    include_usage: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    """For the client: ``thinking``, ``max_tokens``, ``tools`` and so on."""
    json_mode: bool = False

    def with_priority(self, priority: int | None) -> Ask:
        """The same with another priority."""
        return replace(self, priority=priority)

    def of_model(self, model: str | None) -> Ask:
        """The same, asked of another model."""
        return replace(self, model=model)


def read_chat(body: Mapping[str, Any]) -> Ask:
    """Read the body of ``/chat/completions``. Raises ApiError: a 400 that names the field."""
    given = {name: value for name, value in body.items() if value is not None}  # null is as good as absent
    for name, value in given.items():
        if name in HARMLESS or name in _READERS or name in ("model", "messages", "tools", "tool_choice"):
            continue
        if name not in NEUTRAL:
            raise bad_request(
                f"The parameter {name[:80]!r} is not supported.", name[:80], "unsupported_parameter"
            )
        if not any(
            value == one and isinstance(value, bool) == isinstance(one, bool) for one in NEUTRAL[name]
        ):
            said = (
                "functions is of an earlier API and not supported: use tools." if name == "functions" else ""
            )
            only = " or ".join(json.dumps(one) for one in NEUTRAL[name])
            raise bad_request(said or f"{name} is supported as {only} only.", name, "unsupported_value")
    if "model" not in given:
        raise bad_request("missing field `model`", "model", "missing_required_parameter")
    if "messages" not in given:
        raise bad_request("missing field `messages`", "messages", "missing_required_parameter")
    read = {name: reader(given[name], name) for name, reader in _READERS.items() if name in given}
    if "stream_options" in read and not read.get("stream"):
        raise bad_request("stream_options should be set along with stream = true", "stream_options")
    options = {name: read[name] for name in _OPTIONS if name in read}
    parallel = read.get("parallel_tool_calls", True)
    offer = _checked(read_tools, given.get("tools"), given.get("tool_choice"), parallel=parallel)
    if offer is not None:
        options["tools"] = offer
        if offer.forced:
            _refuse_thinking(options)
    most = read.get("max_completion_tokens")
    if most is not None and options.setdefault("max_tokens", most) != most:
        raise bad_request("max_tokens and max_completion_tokens differ.", "max_completion_tokens")
    messages = _messages(given["messages"])
    json_mode = bool(read.get("response_format"))
    if json_mode and not any("json" in message.content.lower() for message in messages):
        raise bad_request(
            "Prompt must contain the word 'json' in some form to use 'response_format' of type "
            "'json_object'.",
            "messages",
        )
    return Ask(
        messages=messages,
        model=_model(given["model"], "model"),
        priority=read.get("priority"),
        user_id=read.get("user_id"),
        stream=read.get("stream", False),
        include_usage=read.get("stream_options", False),
        options=options,
        json_mode=json_mode,
    )


# ------------------------------------------------------------------------------------- messages


def _messages(value: Any) -> tuple[Message, ...]:
    if not isinstance(value, list):
        raise bad_request("messages is a list.", "messages")
    if not value:
        raise bad_request("Empty input messages", "messages")
    messages = tuple(_message(turn, f"messages[{number}]") for number, turn in enumerate(value))
    _checked(check_chain, messages)
    return messages


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, dict):
        raise bad_request(f"{where} is an object with role and content.", where)
    given = {name: value for name, value in turn.items() if value not in (None, [], {})}
    role = given.get("role")
    if role not in ROLES:
        known = ", ".join(ROLES)
        raise bad_request(f"{where}.role is one of {known}; others are not supported.", f"{where}.role")
    for name in given:
        if name not in MESSAGE_FIELDS and name != CALL_FIELDS.get(role):
            raise bad_request(
                f"{where}.{name[:40]} is not supported.", f"{where}.{name[:40]}", "unsupported_parameter"
            )
    if "content" not in given and role != "assistant":
        raise bad_request(f"{where}: missing field `content`", f"{where}.content")
    reasoning = given.get("reasoning_content")
    prefix = given.get("prefix", False)
    if reasoning is not None and not isinstance(reasoning, str):
        raise bad_request(f"{where}.reasoning_content is a text.", f"{where}.reasoning_content")
    if prefix is not False:
        # it needs the service's beta address, which the client takes for forms only
        raise bad_request(f"{where}.prefix is not supported.", f"{where}.prefix", "unsupported_parameter")
    calls = _checked(read_tool_calls, given.get("tool_calls", []), f"{where}.tool_calls")
    call_id = given.get("tool_call_id")
    if (role == "tool") is not isinstance(call_id, str):
        raise bad_request(f"{where}.tool_call_id is a text.", f"{where}.tool_call_id")
    content = _content(given.get("content", ""), where)
    return Message(role, content, reasoning, tool_calls=calls, tool_call_id=call_id)


def _content(content: Any, where: str) -> str:
    """A text, or text parts, which are joined by line ends."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad_request(f"{where}.content is a text, or a list of text parts.", f"{where}.content")
    texts = []
    for number, part in enumerate(content):
        place = f"{where}.content[{number}]"
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise bad_request(f"{place} is no text part; others are not supported.", place)
        texts.append(part["text"])
    return "\n".join(texts)


# ------------------------------------------------------------------------------------- functions


def _refuse_thinking(options: Mapping[str, Any]) -> None:
    """Where a call is forced: the service does not while the model thinks. The client switches it off."""
    if options.get("thinking") or options.get("reasoning_effort", "none") != "none":
        raise bad_request("Thinking mode does not support this tool_choice", "tool_choice")


def _checked(read: Callable[..., T], *given: Any, **more: Any) -> T:
    """What ``read`` makes of it; what it refuses is a 400 that names the place."""
    try:
        return read(*given, **more)
    except ToolsInvalid as invalid:
        raise bad_request(str(invalid), invalid.where) from None


# ------------------------------------------------------------------------------------- parameters


def _model(value: Any, name: str) -> str:
    """A name: it becomes part of the key that the answer is kept under."""
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{1,200}", value):
        raise bad_request(f"{name} is a name of 1 to 200 plain letters, digits and signs.", name)
    return value


def _switch(value: Any, name: str) -> bool:
    if not isinstance(value, bool):
        raise bad_request(f"{name} is true or false.", name)
    return value


def _number(low: float, high: float, *, open_low: bool = False) -> Callable[[Any, str], float]:
    def read(value: Any, name: str) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or not low <= value <= high or (open_low and value == low):
            bracket = "(" if open_low else "["
            raise bad_request(
                f"Invalid {name} value, the valid range of {name} is {bracket}{low:g}, {high:g}]", name
            )
        return float(value)

    return read


def _whole(low: int, high: int) -> Callable[[Any, str], int]:
    def read(value: Any, name: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise bad_request(f"Invalid {name} value, it is a whole number from {low} to {high}", name)
        return value

    return read


def _stop(value: Any, name: str) -> tuple[str, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise bad_request(f"{name} is a text or a list of texts.", name)
    if len(listed) > MOST_STOPS:
        raise bad_request(f"{name}: at most {MOST_STOPS} texts, not {len(listed)}.", name)
    return tuple(each for each in listed if each)


def _typed(value: Any, name: str, *kinds: str) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in kinds:
        known = ", ".join(kinds)
        raise bad_request(f"{name} is an object with a type, one of {known}.", name, "unsupported_value")
    return str(kind)


def _response_format(value: Any, name: str) -> bool:
    """Whether JSON is asked for."""
    if isinstance(value, dict) and value.get("type") == "json_schema":
        raise bad_request(
            "This response_format type is unavailable now: json_schema. Use json_object, with the schema in "
            "the prompt.",
            name,
            "unsupported_value",
        )
    return _typed(value, name, "text", "json_object") == "json_object"


def _thinking(value: Any, name: str) -> bool:
    return _typed(value, name, "enabled", "disabled") == "enabled"


def _effort(value: Any, name: str) -> str:
    if value not in EFFORTS or not isinstance(value, str):
        raise bad_request(f"{name} is one of {', '.join(EFFORTS)}.", name)
    return value


def _include_usage(value: Any, name: str) -> bool:
    if not isinstance(value, dict) or not isinstance(value.get("include_usage", False), bool):
        raise bad_request(f'{name} is {{"include_usage": true or false}}.', name)
    if strange := [key for key in value if key not in ("include_usage", "include_obfuscation")]:
        raise bad_request(f"{name}.{strange[0][:40]} is not supported.", name, "unsupported_parameter")
    return bool(value.get("include_usage", False))


def _user_id(value: Any, name: str) -> str:
    if not isinstance(value, str) or len(value) > 512:
        raise bad_request(f"{name} is a text of at most 512 characters.", name)
    return value


def read_priority(value: Any, name: str = "priority") -> int:
    """A priority, 1 to 5, as a number or as a header's text. Raises ApiError."""
    if isinstance(value, str) and value.strip() in ("1", "2", "3", "4", "5"):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 5:
        raise ApiError(400, f"{name} is a whole number from 1 to 5; 5 goes first.", param=name)
    return value


_OPTIONS = ("thinking", "reasoning_effort", "max_tokens", "temperature", "top_p", "stop")
_READERS: Mapping[str, Callable[[Any, str], Any]] = {
    "max_completion_tokens": _whole(1, MOST_TOKENS),
    "max_tokens": _whole(1, MOST_TOKENS),
    "parallel_tool_calls": _switch,
    "priority": read_priority,
    "reasoning_effort": _effort,
    "response_format": _response_format,
    "stop": _stop,
    "stream": _switch,
    "stream_options": _include_usage,
    "temperature": _number(0, 2),
    "thinking": _thinking,
    "top_p": _number(0, 1, open_low=True),
    "user_id": _user_id,
}
