"""``POST /responses`` on its way in: the same question as a chat would ask it.

The fields are the documented ones; all others are silently ignored, as documented. What the real service
says of a field it does not take was never recorded: these refusals are in our words and in the envelope
of the chat's. Functions are offered in vain, for the simulated model calls none here; input that is a call,
or the output of one, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deepseek_nb.sandbox.refusals import refuse
from deepseek_nb.sandbox.serde import describe

__all__ = ["RESPONSES_PATHS", "as_chat"]

RESPONSES_PATHS = frozenset({"/responses", "/v1/responses"})

_ROLES = ("system", "user", "assistant")
_TYPES: dict[str, tuple[type, ...]] = {
    "model": (str,),
    "instructions": (str,),
    "stream": (bool,),
    "temperature": (int, float),
    "top_p": (int, float),
    "user": (str,),
    "reasoning": (dict,),
    "text": (dict,),
}
_NAMES = {
    "model": "model",
    "stream": "stream",
    "temperature": "temperature",
    "top_p": "top_p",
    "max_output_tokens": "max_tokens",
    "user": "user_id",
    "text": "text",
}
"""Fields, and what a chat calls them ("text" is no field of one, and part of what is asked)."""


def as_chat(body: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The body of a chat that asks the same, and the JSON Schema of the answer. Raises ApiError."""
    for name, kinds in _TYPES.items():
        value = body.get(name)
        if value is not None and (not isinstance(value, kinds) or (value is True and bool not in kinds)):
            raise refuse(f"Invalid {name}: invalid type: {describe(value)}")
    if body.get("model") is None:
        raise refuse("Missing required parameter: model")
    choice = body.get("tool_choice")
    if choice == "required" or isinstance(choice, dict):
        raise refuse("This tool_choice is unavailable: the simulation calls no functions at /responses")
    chat = {known: body[name] for name, known in _NAMES.items() if body.get(name) is not None}
    told = body.get("instructions")
    chat["messages"] = [*([{"role": "system", "content": told}] if told else ()), *_turns(body.get("input"))]
    effort = (body.get("reasoning") or {}).get("effort")
    if effort is not None:
        chat["reasoning_effort"] = effort
    wanted = (body.get("text") or {}).get("format") or {}
    kind = wanted.get("type", "text") if isinstance(wanted, dict) else wanted
    if kind == "json_schema":
        return chat, _schema(wanted)
    if kind not in ("text", "json_object"):
        raise refuse(f"Invalid text.format: unknown variant {kind!r}")
    chat["response_format"] = {"type": kind}
    return chat, None


def _schema(wanted: Mapping[str, Any]) -> dict[str, Any]:
    schema = wanted.get("schema")
    if not isinstance(wanted.get("name"), str) or not isinstance(schema, dict):
        raise refuse("Invalid text.format: json_schema needs a name and a schema")
    return schema


def _turns(given: Any) -> list[dict[str, Any]]:
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    if not isinstance(given, list):
        raise refuse(f"Invalid input: invalid type: {describe(given)}, expected a string or a sequence")
    items = [item if isinstance(item, dict) else {} for item in given]
    return [_turn(item, at) for at, item in enumerate(items) if item.get("type") != "reasoning"]


def _turn(item: Mapping[str, Any], at: int) -> dict[str, Any]:
    role, content = item.get("role"), item.get("content")
    if item.get("type", "message") != "message" or role not in _ROLES:
        raise refuse(f"Invalid input[{at}]: expected a message of the role {', '.join(_ROLES)}")
    if isinstance(content, list):
        parts = [part for part in content if isinstance(part, dict)]
        images = any(part.get("type") in ("input_image", "input_file") for part in parts)
        content = "\n".join(str(part.get("text", "")) for part in parts if "text" in part)
        return {"role": role, "content": content, "_images": images}
    if not isinstance(content, str):
        raise refuse(f"Invalid input[{at}].content: invalid type: {describe(content)}")
    return {"role": role, "content": content}
