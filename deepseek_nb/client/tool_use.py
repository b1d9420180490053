"""Calls of functions as a caller gives them: what is offered, and the turns of those made, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepseek_nb.core.chat import Message
from deepseek_nb.core.errors import ConfigError, RequestInvalid
from deepseek_nb.core.tools import (
    CHOICES,
    ToolCall,
    ToolOffer,
    ToolsInvalid,
    check_chain,
    read_tool_calls,
    read_tools,
)

__all__ = ["offer_of", "refuse_broken_chain", "turn_calls"]


def offer_of(tools: Any, choice: Any) -> ToolOffer | None:
    """The functions that the model may call; ``choice`` may be a function's name. Raises ConfigError."""
    if isinstance(tools, ToolOffer) and choice is None:
        return tools
    if isinstance(choice, str) and choice not in CHOICES:
        choice = {"type": "function", "function": {"name": choice}}
    try:
        return read_tools(tools, choice)
    except ToolsInvalid as invalid:
        raise ConfigError(
            str(invalid),
            hint='Such as: tools=[{"type": "function", "function": {"name": ..., "parameters": {...}}}]. '
            "Nothing was sent.",
        ) from None


def turn_calls(turn: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """The calls in a turn of a conversation; only an assistant's has any. Raises RequestInvalid."""
    calls = turn.get("tool_calls")
    if not calls:
        return ()
    if turn.get("role") != "assistant":
        raise RequestInvalid("Only a message of the role 'assistant' has tool_calls.")
    try:
        return read_tool_calls(calls, "tool_calls")
    except ToolsInvalid as invalid:
        raise RequestInvalid(str(invalid), hint="Send answer.tool_calls back as they came.") from None


def refuse_broken_chain(messages: Sequence[Message]) -> None:
    """Raise RequestInvalid where calls and their results do not follow one another."""
    try:
        check_chain(messages)
    except ToolsInvalid as invalid:
        raise RequestInvalid(
            str(invalid), hint="Send a turn with the calls, then a result for each. Nothing was sent."
        ) from None
