"""Functions in a request: the checks of what is offered, and which one the answer has to call.

What the real service says of a function that it does not take was never recorded, but for the sentences
about chains of messages and about thinking: the other refusals are in our words. Strict mode is taken at
the beta address and, as was seen live, at the normal one; it wants every field under ``required``, and
takes a missing ``additionalProperties`` and lengths of texts, which the documents rule out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import chain, takewhile
from typing import Any

from deepseek_nb.sandbox.answers import compact
from deepseek_nb.sandbox.questions import Tool
from deepseek_nb.sandbox.refusals import refuse
from deepseek_nb.sandbox.words import name_stems, stems

__all__ = ["check_tools", "fitting"]

MOST_FUNCTIONS = 128
_COMMON = stems(
    "a about an and are as at be been by can call do does find for from get give has have how if in is it "
    "list make me my no not of on or search set show tell that the this to tool use was what when whether "
    "which who will with you your"
)
"""Words that say nothing of what a function is for."""
_WORDS_OF_DESCRIPTION = 2
_SAYS_NOTHING = {"type", "properties", "required", "title", "description"}
"""A schema of an object with these alone, and no properties, is one of a function without parameters."""
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


def check_tools(
    body: Mapping[str, Any], messages: tuple[dict[str, Any], ...], *, thinking: bool
) -> tuple[Tool | None, tuple[Tool, ...], str]:
    """The function that has to be called, if any, those that may be, and the text they add to the prompt.

    Of several of which one has to be called ("required"), it is one that was not called since the question,
    and that the question speaks of, if there is one. Raises ApiError.
    """
    choice = body.get("tool_choice")
    if thinking and (choice == "required" or isinstance(choice, dict)):
        raise refuse("Thinking mode does not support this tool_choice")
    _check_chain(messages, thinking=thinking)
    offered = body.get("tools")
    if not offered:
        if choice == "required" or isinstance(choice, dict):
            raise refuse("tool_choice is only allowed when tools are specified")
        return None, (), ""
    if not isinstance(offered, list) or len(offered) > MOST_FUNCTIONS:
        raise refuse(f"Invalid tools: expected a list of at most {MOST_FUNCTIONS} functions")
    tools = tuple(_tool(entry) for entry in offered)
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise refuse("Invalid tools: the names of functions must be unique")
    told = compact(offered).decode()
    if choice == "required":
        return _next(tools, messages), (), told
    if choice == "none":
        return None, (), ""
    if choice not in (None, "auto") and not isinstance(choice, dict):
        raise refuse(f"Invalid tool_choice {choice!r}: expected none, auto, required or a function")
    if not isinstance(choice, dict):
        return None, tools, told
    function = choice.get("function")
    wanted = function.get("name") if isinstance(function, dict) else None
    if wanted not in names:
        raise refuse(f"Invalid tool_choice: there is no function {wanted!r}")
    return tools[names.index(wanted)], (), told


def _next(tools: Sequence[Tool], messages: tuple[dict[str, Any], ...]) -> Tool:
    since = list(takewhile(lambda message: message["role"] != "user", reversed(messages)))
    called = {call["function"]["name"] for message in since for call in message.get("tool_calls") or ()}
    said = next((message["content"] for message in reversed(messages) if message["role"] == "user"), "")
    fresh = [tool for tool in tools if tool.name not in called] or tools
    return next(iter(fitting(fresh, said)), fresh[0])


def fitting(tools: Sequence[Tool], question: str) -> list[Tool]:
    """The functions that a question speaks of, by the words of their names; else the one by its description.

    >>> [tool.name for tool in fitting([Tool("get_weather"), Tool("get_time")], "The weather in Rome?")]
    ['get_weather']
    """
    said = stems(question) - _COMMON
    by_name = [tool for tool in tools if (name_stems(tool.name) - _COMMON) & said]
    if by_name:
        return by_name
    shared = [len((stems(tool.description) - _COMMON) & said) for tool in tools]
    most = max(shared, default=0)
    return [tools[shared.index(most)]] if most >= _WORDS_OF_DESCRIPTION else []


def _tool(entry: Any) -> Tool:
    function = entry.get("function") if isinstance(entry, dict) and entry.get("type") == "function" else None
    if not isinstance(function, dict):
        raise refuse("Invalid tools: expected functions")
    name, parameters = function.get("name"), function.get("parameters") or {}
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise refuse(f"Invalid function name {name!r}: expected [a-zA-Z0-9_-], at most 128 characters")
    if not isinstance(parameters, dict):
        raise refuse(f"Invalid parameters of the function {name}: expected a JSON Schema")
    if function.get("strict") is True:
        _check_strict(parameters, name)
    if not parameters.get("properties") and parameters.keys() <= _SAYS_NOTHING:
        parameters = {"type": "object", "additionalProperties": False}
    return Tool(name, parameters, str(function.get("description") or ""))


def _check_strict(schema: Any, name: str) -> None:
    """Every object must require all of its fields."""
    if isinstance(schema, list):
        for part in schema:
            _check_strict(part, name)
    if not isinstance(schema, dict):
        return
    fields = schema.get("properties")
    if schema.get("type") == "object" and isinstance(fields, dict):
        left_out = fields.keys() - set(schema.get("required") or ())
        if left_out:
            raise refuse(
                f"Invalid strict function {name}: all properties must be required, "
                f"{sorted(left_out)[0]!r} is not"
            )
    for key, part in schema.items():
        if key in ("properties", "$def", "$defs") and isinstance(part, dict):
            _check_strict(list(part.values()), name)
        elif key not in ("enum", "const", "default"):
            _check_strict(part, name)


def _check_chain(messages: tuple[dict[str, Any], ...], *, thinking: bool) -> None:
    open_calls: list[str] = []
    for message in messages:
        if message["role"] == "tool":
            if message.get("tool_call_id") not in open_calls:
                raise refuse(
                    "Messages with role 'tool' must be a response to a preceding message with 'tool_calls'"
                )
            open_calls.remove(message["tool_call_id"])
            continue
        _check_answered(open_calls)
        open_calls = _call_ids(message.get("tool_calls") or [])
    _check_answered(open_calls)
    if thinking and messages[-1]["role"] == "tool":
        last_call = next(message for message in reversed(messages) if message.get("tool_calls"))
        if last_call.get("reasoning_content") is None:
            raise refuse("The `reasoning_content` in the thinking mode must be passed back to the API.")


def _call_ids(calls: Any) -> list[str]:
    listed = [call if isinstance(call, dict) else {} for call in calls] if isinstance(calls, list) else [{}]
    functions = [call.get("function") for call in listed]
    members = [
        (function.get("name"), function.get("arguments"))
        for function in functions
        if isinstance(function, dict)
    ]
    ids = [call.get("id") for call in listed]
    if len(members) < len(ids) or not all(isinstance(text, str) for text in (*ids, *chain(*members))):
        raise refuse(
            "Invalid tool_calls: expected a list of calls with id, function.name and function.arguments"
        )
    return [str(one) for one in ids]


def _check_answered(open_calls: list[str]) -> None:
    if open_calls:
        raise refuse(
            "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
            "'tool_call_id'. (insufficient tool messages following tool_calls message)"
        )
