"""What is asked and what comes back: frozen values, and the fingerprint that names a question."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Literal

from deepseek_nb.core.form import AnswerForm
from deepseek_nb.core.tools import ToolCall, ToolOffer

__all__ = [
    "CACHE_VERSION",
    "REPLAYED",
    "Answer",
    "ChatRequest",
    "Message",
    "Usage",
    "canonical_json",
    "fenced",
    "origin_of",
]

CACHE_VERSION = 1
"""Part of every fingerprint. It is raised when the meaning of a stored answer changes, not with releases."""

REPLAYED = "replayed: "
"""The ``system_fingerprint`` of an answer from a recording: this, and the recording's name."""

DIGEST_BYTES = 12

Role = Literal["system", "user", "assistant", "tool"]


def canonical_json(value: Any) -> str:
    """``value`` as JSON in one fixed form: sorted keys, no spaces, text as it is (UTF-8)."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


_quoted = json.encoder.encode_basestring  # as json.dumps(ensure_ascii=False) writes a text


def _digest(text: str) -> str:
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).hexdigest()


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str
    reasoning: str | None = None
    """An assistant turn's ``reasoning_content``; sent back where the turn had it."""
    prefix: bool = False
    """Beta: the answer continues this assistant text."""
    tool_calls: tuple[ToolCall, ...] = ()
    """An assistant turn's calls of functions."""
    tool_call_id: str | None = None
    """Of a turn of the role "tool": the call that its content is the result of."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """One question, complete: everything that may change the answer, and ``user_id``.

    ``None`` means "the server's default". ``thinking`` is sent only when it is not None.
    ``schema_digest`` names the schema the answer is validated against; it is not sent.
    """

    model: str
    messages: tuple[Message, ...]
    thinking: bool | None = None
    reasoning_effort: str | None = None
    json_mode: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    schema_digest: str | None = None
    form: AnswerForm | None = None
    """The shape of the answer, where the server is told it beside the messages."""
    tools: ToolOffer | None = None
    """Functions that the model may call; not together with ``form``."""
    user_id: str | None = None
    """Isolates the server's prefix cache: one per job, never one per row. Not in the fingerprint."""

    def fingerprint(self, route: str) -> str:
        """The cache key, ``{route}/{model}_{prompt hash}_{parameters hash}``.

        ``route`` names who answers (a simulation's or a local model's answer never poses as the
        real service's). Credentials, ``user_id``, budgets and priorities are not part of it.
        """
        return self._keys(route)(_turn(self.messages[-1]))

    def keys(self, route: str) -> Callable[[str], str]:
        """What gives the fingerprint of this request with another text of the user's at its end, for rows."""
        key = self._keys(route)
        return lambda text: key(f'["user",{_quoted(text)},null,false]')

    def _keys(self, route: str) -> Callable[[str], str]:
        """The same for the last turn as :func:`_turn` writes it."""
        parameters = _parameters(
            *(self.thinking, self.reasoning_effort, self.json_mode, self.max_tokens),
            *(self.temperature, self.top_p, self.stop, self.schema_digest),
            *(() if self.form is None else (self.form.told,)),
            *(() if self.tools is None else ("tools", self.tools.told)),
        )
        before, origin = _begun(self.messages[:-1]), f"{route}/{self.model}"

        def key(turn: str) -> str:
            begun = before.copy()
            begun.update(f"{turn}]".encode("utf-8", "surrogatepass"))
            return f"{origin}_{begun.hexdigest()}_{parameters}"

        return key

    @property
    def wants_json(self) -> bool:
        """Whether only JSON is an answer."""
        return self.json_mode or self.form is not None

    @property
    def over_responses(self) -> bool:
        """Whether it is asked at ``/responses`` (see ``core.responses``) and not at ``/chat/completions``."""
        return self.form is not None and self.form.way == "responses"

    def prompt_chars(self) -> int:
        """Characters of all messages together."""
        return sum(
            len(m.content) + len(m.reasoning or "") + sum(len(call.arguments) for call in m.tool_calls)
            for m in self.messages
        )

    def with_messages(self, *more: Message, **changes: Any) -> ChatRequest:
        """This request with turns appended and fields changed."""
        return replace(self, messages=self.messages + more, **changes)


def _told(messages: tuple[Message, ...]) -> str:
    """As :func:`canonical_json` writes them, one after another."""
    return ",".join(map(_turn, messages))


def _turn(message: Message) -> str:
    reasoning = "null" if message.reasoning is None else _quoted(message.reasoning)
    prefix = "true" if message.prefix else "false"
    called = ""
    if message.tool_calls or message.tool_call_id is not None:
        calls = [[call.id, call.name, call.arguments] for call in message.tool_calls]
        called = f",{canonical_json([calls, message.tool_call_id])}"
    return f"[{_quoted(message.role)},{_quoted(message.content)},{reasoning},{prefix}{called}]"


@lru_cache(maxsize=16)
def _begun(head: tuple[Message, ...]) -> blake2b:
    """The digest of a conversation up to its last message."""
    text = f"[{_told(head)}," if head else "["
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES)


@lru_cache(maxsize=64, typed=True)  # 1 and 1.0 are written differently
def _parameters(*parameters: Any) -> str:
    return _digest(canonical_json([CACHE_VERSION, *parameters]))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as billed. ``estimated`` is True where the server sent no usage and we counted."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    """Includes ``reasoning_tokens``."""
    cache_hit_tokens: int = 0
    """The part of ``prompt_tokens`` found in the server's prefix cache."""
    reasoning_tokens: int = 0
    estimated: bool = False

    @property
    def cache_miss_tokens(self) -> int:
        """The part of ``prompt_tokens`` billed at the full price."""
        return self.prompt_tokens - self.cache_hit_tokens

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cache_hit_tokens + other.cache_hit_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.estimated or other.estimated,
        )


def fenced(text: str) -> str:
    """``text`` to the letter, as a block of Markdown that nothing in it can end."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def origin_of(fingerprint: str, route: str) -> str:
    """Route and model out of the key of a question, or the route alone where there is no key."""
    return fingerprint.rsplit("_", 2)[0] or route


@dataclass(frozen=True, slots=True)
class Answer:
    """One complete answer and what it took to get it.

    ``text`` is what the model wrote; ``value`` is what a schema made of it (None without one).
    ``str(answer)`` is the text.
    """

    text: str
    model: str = ""
    """The model that served it: not always the one asked for."""
    finish_reason: str = "stop"
    usage: Usage = field(default_factory=Usage)
    cost_usd: float | None = None
    """What it cost when it was asked, all its tries together; None where no price is known."""
    reasoning: str = ""
    route: str = ""
    attempts: int = 1
    """Requests the server began to work on for this answer."""
    refusals: int = 0
    """Times the server had no room (429, 503) before it took the request."""
    repairs: int = 0
    """Charged answers that did not fit the schema before this one."""
    latency_s: float = 0.0
    """From the call to the complete answer, waiting included."""
    first_token_s: float | None = None
    cached: bool = False
    fingerprint: str = ""
    system_fingerprint: str = ""
    trace_id: str = ""
    raw: tuple[str, ...] = ()
    """Charged texts that could not be used, in order: paid, so kept."""
    tool_calls: tuple[ToolCall, ...] = ()
    """The calls that the model asks for, where ``tools`` were offered; then there may be no text."""
    value: Any = field(default=None, compare=False)
    mends: tuple[str, ...] = field(default=(), compare=False)
    """What had to be mended in the text before a schema could read it: "fence", "prose", "comma"."""

    def __str__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        """Text and calls to the letter, in a block that nothing in them can end: Markdown may be hostile.

        Where IPython shows it, ``deepseek_nb.notebook`` makes it harmless and shows it as Markdown.
        """
        return fenced("\n".join(part for part in (self.text, *map(str, self.tool_calls)) if part))

    @property
    def origin(self) -> str:
        """Which route and model gave it, such as ``"api.deepseek.com/deepseek-flash"``."""
        return origin_of(self.fingerprint, self.route)

    def to_json(self) -> dict[str, Any]:
        """What the store keeps: plain JSON values, without what is made again of ``text``.

        What is as it is in every answer (an empty reasoning, no refusals) is left out: half the bytes.
        """
        kept: dict[str, Any] = {"text": self.text}
        for name, usual in _KEPT:
            if (value := getattr(self, name)) != usual:
                kept[name] = value
        usage = self.usage
        kept["usage"] = {name: value for name in _COUNTS if (value := getattr(usage, name))}
        if self.raw:
            kept["raw"] = list(self.raw)
        if self.tool_calls:
            kept["tool_calls"] = [[call.id, call.name, call.arguments] for call in self.tool_calls]
        return kept

    @classmethod
    def from_json(cls, kept: dict[str, Any]) -> Answer:
        """The answer the store kept. Unknown fields (of a later version) are passed over."""
        known = {name: kept[name] for name in cls.__dataclass_fields__ if name in kept}
        known["usage"] = Usage(**known.get("usage", {}))
        known["raw"] = tuple(known.get("raw", ()))
        if "tool_calls" in known:
            known["tool_calls"] = tuple(ToolCall(*call) for call in known["tool_calls"])
        known["cached"] = True
        return cls(**known)


_KEPT = tuple(
    (name, told.default)
    for name, told in Answer.__dataclass_fields__.items()
    if name not in ("text", "usage", "raw", "tool_calls", "value", "mends", "cached")
)
_COUNTS = tuple(Usage.__dataclass_fields__)
