"""What passes between the API and the answer engine: a checked request, and a completion or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Call", "Completion", "Engine", "ParsedRequest", "Refused", "Tool"]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function offered to the model."""

    name: str
    parameters: dict[str, Any] = field(default_factory=dict, repr=False)
    description: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function; its arguments are JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request for an answer that passed all checks."""

    path: str
    model: str
    """The name asked for."""
    served: str
    """The id it is served and billed as: an alias is resolved."""
    messages: tuple[dict[str, Any], ...]
    """As sent, but every ``content`` is a string (text parts joined)."""
    body: dict[str, Any] = field(repr=False)
    """The whole body as sent."""
    max_tokens: int
    thinking: bool = True
    effort: str = "high"
    json_mode: bool = False
    stop: tuple[str, ...] = ()
    stream: bool = False
    include_usage: bool = False
    tool: Tool | None = None
    """The function the answer has to call."""
    tools: tuple[Tool, ...] = field(default=(), repr=False)
    """The functions that it may call, where none has to be called."""
    schema: dict[str, Any] | None = field(default=None, repr=False)
    """The JSON Schema the answer has to fit, where the request tells one apart (``/responses``)."""
    user_id: str | None = None
    request_hash: str = ""
    prompt_hash: str = ""
    question_hash: str = ""
    prompt_tokens: int = 0
    blocks: tuple[int, ...] = field(default=(), repr=False)
    """A digest of the first 128, 256, ... tokens."""

    def text_of(self, role: str) -> str:
        """The contents of all messages of that role, joined by line ends."""
        return "\n".join(message["content"] for message in self.messages if message["role"] == role)

    @property
    def question(self) -> str:
        """The last user message."""
        for message in reversed(self.messages):
            if message["role"] == "user":
                return str(message["content"])
        return ""


@dataclass(frozen=True, slots=True)
class Completion:
    """What an engine answers. ``reasoning`` is sent only where thinking is on."""

    text: str
    reasoning: str = ""
    finish_reason: str = "stop"
    wait_s: float | None = None
    """Server seconds to the end of the answer; it then comes at once. None: the server's own times."""
    calls: tuple[Call, ...] = ()
    """Calls of functions, in place of the text. Where one has to be called, the text is its arguments."""
    recording: str = ""
    """Where it was recorded, if it is replayed: a name in printable ASCII without quotes and backslashes."""


class Refused(Exception):
    """An engine raises it for a request it has no answer for: a 400 with its words, which costs nothing."""


Engine = Callable[[ParsedRequest], Completion]
