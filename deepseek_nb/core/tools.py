"""Functions that the model may call: what is offered, how its calls are read, and what is refused unsent.

Documented: at most 128 functions with names of their own; ``tool_choice`` is "none", "auto", "required" or
one function; a turn with calls is followed by one turn of the role "tool" for each of them; arguments are a
text that need not be JSON. We call nothing: an answer tells the calls, and whoever asked makes them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

__all__ = [
    "CallReader",
    "ToolCall",
    "ToolCallPiece",
    "ToolOffer",
    "ToolsInvalid",
    "call_pieces",
    "check_chain",
    "read_tool_calls",
    "read_tools",
]

MOST_FUNCTIONS = 128
MOST_NESTED = 100
"""Lists and objects inside one another; far more cannot be read and written everywhere on the way."""
CHOICES = ("none", "auto", "required")
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")


class ToolsInvalid(ValueError):
    """What was given is no offer of functions, or no turn of their use; ``where`` names the place in it."""

    def __init__(self, message: str, where: str) -> None:
        super().__init__(message)
        self.where = where


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call that the model asks for. Nothing was called: that is up to whoever asked."""

    id: str
    """What the turn with its result names (``tool_call_id``)."""
    name: str
    arguments: str
    """JSON text, as the model wrote it: it may not parse, and may not fit the function's schema."""

    def told(self) -> dict[str, Any]:
        """It as a turn of a conversation holds it, in the form of OpenAI."""
        function = {"name": self.name, "arguments": self.arguments}
        return {"id": self.id, "type": "function", "function": function}

    def __str__(self) -> str:
        return f"{self.name}({self.arguments})"


@dataclass(frozen=True, slots=True)
class ToolCallPiece:
    """A piece of a call in a stream. The first one of a call names it, the others have arguments only."""

    index: int
    """Which of the answer's calls, from 0."""
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class ToolOffer:
    """Functions that the model may call, as JSON text, and whether it has to."""

    functions_json: str
    choice_json: str = ""
    """``tool_choice`` as JSON text; empty: the model is free to call or to answer in words."""
    parallel: bool = True
    """Whether an answer may hold several calls. The service is not told: the others are left out here."""
    strict: bool = False
    """Whether the server is asked to hold the arguments of every function to its schema."""

    @property
    def told(self) -> str:
        """All of it, as text: part of the question's fingerprint, and of what its prompt weighs."""
        told = f"{self.functions_json}{self.choice_json}"
        return told if self.parallel else f"{told} one"

    @property
    def forced(self) -> bool:
        """Whether the answer has to be a call."""
        return self.choice_json not in ("", '"none"')

    def fields(self) -> dict[str, Any]:
        """What the body of the request says of it."""
        fields = {"tools": json.loads(self.functions_json)}
        return {**fields, "tool_choice": json.loads(self.choice_json)} if self.choice_json else fields


# ------------------------------------------------------------------------------------- what is offered


def read_tools(tools: Any, choice: Any = None, *, parallel: bool = True) -> ToolOffer | None:
    """``tools`` and ``tool_choice`` in the form of OpenAI, checked; None where no function is offered.

    Raises ToolsInvalid.

    >>> read_tools([{"type": "function", "function": {"name": "now"}}], "required").choice_json
    '"required"'
    """
    if tools is not None and not isinstance(tools, list | tuple):
        raise ToolsInvalid("tools is a list of functions.", "tools")
    if not tools:
        if choice not in (None, "none", "auto"):
            raise ToolsInvalid("tool_choice is only allowed when tools are specified.", "tool_choice")
        return None
    if len(tools) > MOST_FUNCTIONS:
        raise ToolsInvalid(f"tools: at most {MOST_FUNCTIONS} functions, not {len(tools)}.", "tools")
    functions: dict[str, dict[str, Any]] = {}
    for number, tool in enumerate(tools):
        where = f"tools[{number}]"
        function = _function(tool, where)
        if function["name"] in functions:
            raise ToolsInvalid(
                f"{where}.function.name stands twice: {function['name']}.", f"{where}.function.name"
            )
        functions[function["name"]] = function
    listed = [{"type": "function", "function": function} for function in functions.values()]
    _refuse_depth(listed)
    try:
        told = json.dumps(listed, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ToolsInvalid(f"tools cannot be written as JSON: {error}.", "tools") from None
    return ToolOffer(
        told,
        _choice(choice, functions),
        parallel,
        all(function.get("strict") is True for function in functions.values()),
    )


def _refuse_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_NESTED):
        inner = [one.values() if isinstance(one, dict) else one for one in level]
        level = [one for held in inner for one in held if isinstance(one, dict | list | tuple)]
        if not level:
            return
    raise ToolsInvalid(f"tools are nested too deeply: at most {MOST_NESTED} levels.", "tools")


def _known(value: Any, where: str, *names: str) -> dict[str, Any]:
    """The members of an object that are not null; only these names may be there."""
    if not isinstance(value, dict):
        raise ToolsInvalid(f"{where} is an object with {' and '.join(names[:2])}.", where)
    given = {name: member for name, member in value.items() if member is not None}
    for name in given:
        if name not in names:
            place = f"{where}.{str(name)[:40]}"
            raise ToolsInvalid(f"{place} is not supported.", place)
    return given


def _function(tool: Any, where: str) -> dict[str, Any]:
    if isinstance(tool, dict) and tool.get("type") != "function":
        raise ToolsInvalid(f"{where}.type is function; others are not supported.", f"{where}.type")
    given = _known(tool, where, "type", "function")
    where = f"{where}.function"
    function = _known(given.get("function"), where, "name", "parameters", "description", "strict")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ToolsInvalid(f"{where}.name is 1 to 128 of the signs a-z, A-Z, 0-9, _ and -.", f"{where}.name")
    if not isinstance(function.get("description", ""), str):
        raise ToolsInvalid(f"{where}.description is a text.", f"{where}.description")
    if not isinstance(function.get("parameters", {}), dict):
        raise ToolsInvalid(f"{where}.parameters is a JSON Schema, an object.", f"{where}.parameters")
    if not isinstance(function.get("strict", False), bool):
        raise ToolsInvalid(f"{where}.strict is true or false.", f"{where}.strict")
    return function


def _choice(choice: Any, names: Mapping[str, Any]) -> str:
    if choice is None or choice == "auto":
        return ""
    if isinstance(choice, str):
        if choice not in CHOICES:
            raise ToolsInvalid(
                f"tool_choice is one of {', '.join(CHOICES)}, or a function that is offered.", "tool_choice"
            )
        return f'"{choice}"'
    if isinstance(choice, dict) and choice.get("type") != "function":
        raise ToolsInvalid("tool_choice.type is function; others are not supported.", "tool_choice.type")
    given = _known(choice, "tool_choice", "type", "function")
    function = _known(given.get("function"), "tool_choice.function", "name")
    name = function.get("name")
    if not isinstance(name, str) or name not in names:
        place = "tool_choice.function.name"
        raise ToolsInvalid(f"{place} is none of the functions in tools.", place)
    return f'{{"type":"function","function":{{"name":"{name}"}}}}'


# ------------------------------------------------------------------------------------- turns


class Turn(Protocol):
    """What :func:`check_chain` looks at: a message."""

    @property
    def role(self) -> str: ...

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]: ...

    @property
    def tool_call_id(self) -> str | None: ...


def read_tool_calls(value: Any, where: str) -> tuple[ToolCall, ...]:
    """The calls of an assistant's turn in the form of OpenAI; ``where`` is its place. Raises ToolsInvalid."""
    if not isinstance(value, list | tuple):
        raise ToolsInvalid(f"{where} is a list of calls.", where)
    calls: dict[str, ToolCall] = {}
    for number, one in enumerate(value):
        call = one if isinstance(one, ToolCall) else _call(one, f"{where}[{number}]")
        if call.id in calls:
            raise ToolsInvalid(f"{where}[{number}].id stands twice.", f"{where}[{number}].id")
        calls[call.id] = call
    return tuple(calls.values())


def _call(one: Any, where: str) -> ToolCall:
    given = _known(one, where, "id", "function", "type", "index")
    if given.get("type", "function") != "function":
        raise ToolsInvalid(f"{where}.type is function; others are not supported.", f"{where}.type")
    if not isinstance(given.get("id"), str) or not given["id"]:
        raise ToolsInvalid(f"{where}.id is a text that is not empty.", f"{where}.id")
    function = _known(given.get("function"), f"{where}.function", "name", "arguments")
    for name in ("name", "arguments"):
        if not isinstance(function.get(name), str):
            place = f"{where}.function.{name}"
            raise ToolsInvalid(f"{place} is a text.", place)
    return ToolCall(given["id"], function["name"], function["arguments"])


def check_chain(turns: Sequence[Turn]) -> None:
    """Whether each call is followed by its result, and each result stands behind its call.

    Raises ToolsInvalid, in the service's own words.
    """
    open_ids: list[str] = []
    for number, turn in enumerate(turns):
        if turn.role == "tool":
            if turn.tool_call_id not in open_ids:
                place = f"messages[{number}].tool_call_id"
                raise ToolsInvalid(
                    f"{place}: Messages with role 'tool' must be a response to a preceding message with "
                    "'tool_calls'.",
                    place,
                )
            open_ids.remove(turn.tool_call_id)
            continue
        _check_answered(open_ids, f"messages[{number}]")
        open_ids = [call.id for call in turn.tool_calls]
    _check_answered(open_ids, f"messages[{len(turns) - 1}]")


def _check_answered(open_ids: Sequence[str], place: str) -> None:
    if open_ids:
        raise ToolsInvalid(
            f"{place}: An assistant message with 'tool_calls' must be followed by tool messages responding "
            f"to each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            f"{', '.join(open_ids)[:200]}.",
            place,
        )


# ------------------------------------------------------------------------------------- what is called


def call_pieces(holder: Mapping[str, Any]) -> list[ToolCallPiece]:
    """The pieces of calls in a message, or in a piece of a streamed one; index -1 where none is told."""
    calls = holder.get("tool_calls")
    return [_piece(call) for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _piece(call: dict[str, Any]) -> ToolCallPiece:
    index, given = call.get("index"), call.get("function")
    function = given if isinstance(given, dict) else {}
    members = (call.get("id"), function.get("name"), function.get("arguments"))
    texts = (member if isinstance(member, str) else "" for member in members)
    return ToolCallPiece(index if isinstance(index, int) and index >= 0 else -1, *texts)


@dataclass(slots=True)
class _Begun:
    place: int
    id: str
    name: str
    arguments: list[str]
    told: bool = False


class CallReader:
    """Puts the calls of one answer together from its pieces, and numbers them in the order they begin.

    Some servers number no calls, name one in each of its pieces, or give it no id: that is mended here.

    >>> reader = CallReader()
    >>> reader.take({"tool_calls": [{"index": 0, "id": "c", "function": {"name": "now", "arguments": ""}}]})
    (ToolCallPiece(index=0, id='c', name='now', arguments=''),)
    >>> reader.take({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]})
    (ToolCallPiece(index=0, id='', name='', arguments='{}'),)
    >>> reader.calls
    (ToolCall(id='c', name='now', arguments='{}'),)
    """

    def __init__(self, *, parallel: bool = True) -> None:
        self._parallel = parallel
        self._begun: dict[int, _Begun] = {}
        self._last = 0

    def take(self, holder: Mapping[str, Any]) -> tuple[ToolCallPiece, ...]:
        """What a message, or a piece of a streamed one, adds."""
        return tuple(new for piece in call_pieces(holder) if (new := self._take(piece)) is not None)

    def _take(self, piece: ToolCallPiece) -> ToolCallPiece | None:
        if piece.index >= 0:
            self._last = piece.index
        elif piece.name and self._begun:
            self._last += 1
        begun = self._begun.get(self._last)
        if begun is None:
            place = len(self._begun)
            if place and not self._parallel:
                return None
            begun = self._begun[self._last] = _Begun(place, piece.id or f"call_{place:02d}", "", [])
        begun.name = begun.name or piece.name
        begun.arguments.append(piece.arguments)
        if begun.told:
            return ToolCallPiece(begun.place, arguments=piece.arguments) if piece.arguments else None
        if not begun.name:  # it is told once it is known what is called
            return None
        begun.told = True
        return ToolCallPiece(begun.place, begun.id, begun.name, "".join(begun.arguments))

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls so far."""
        return tuple(ToolCall(one.id, one.name, "".join(one.arguments)) for one in self._begun.values())
