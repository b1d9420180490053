"""What the server takes and what it refuses: the checks of a request, in the real service's words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from hashlib import blake2b
from typing import Any

from deepseek_nb.core.chat import canonical_json
from deepseek_nb.sandbox.account import Catalogue, Model
from deepseek_nb.sandbox.answers import compact, error_body
from deepseek_nb.sandbox.http import RawRequest
from deepseek_nb.sandbox.questions import ParsedRequest
from deepseek_nb.sandbox.refusals import OCTETS, ApiError, governor, refuse
from deepseek_nb.sandbox.responses import RESPONSES_PATHS, as_chat
from deepseek_nb.sandbox.serde import describe, parse_trouble, position
from deepseek_nb.sandbox.steps import Reply
from deepseek_nb.sandbox.tokens import Counter
from deepseek_nb.sandbox.tools import check_tools

__all__ = ["check_key", "parse_chat"]

ROLES = ("system", "user", "assistant", "tool", "latest_reminder")
EFFORTS = {
    "minimal": "low",
    "low": "low",
    "medium": "high",
    "high": "high",
    "xhigh": "high",
    "max": "max",
    "none": "none",
}
DEFAULT_MAX_TOKENS = {"none": 8192, "low": 65536, "high": 65536, "max": 131072}
_NOT_HASHED = frozenset({"user_id", "stream", "stream_options"})
_NUMBERS = ("temperature", "top_p", "frequency_penalty", "presence_penalty")
_TARGET = "Failed to deserialize the JSON body into the target type: "


def check_key(request: RawRequest, api_key: str | None) -> None:
    """Refuse a missing or a wrong key. With ``api_key`` None every key is good."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    given = given.strip()
    if scheme.lower() != "bearer" or not given:
        raise ApiError(governor())
    if api_key is not None and given != api_key:
        message = f"Authentication Fails, Your api key: ****{given[-4:]} is invalid"
        raise ApiError(Reply.whole(error_body(message, "authentication_error"), 401))


def parse_chat(
    request: RawRequest, path: str, catalogue: Catalogue, counter: Counter, *, status_422: bool = False
) -> tuple[ParsedRequest, Model]:
    """Check a request for an answer; raise :class:`ApiError` for the first thing that is wrong."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        text = b"Expected request with `Content-Type: application/json`"
        raise ApiError(Reply.whole(text, 415, "text/plain; charset=utf-8"))
    checked = _Body(request.body, status_422=status_422)
    body = checked.body
    if path in RESPONSES_PATHS:
        chat, schema = as_chat(body)
        messages = tuple(chat["messages"])
        parsed, model = _meaning(chat, path, messages, chat["model"], catalogue, counter, schema)
        return replace(parsed, body=body), model
    fim = _is_fim(path)
    messages = _messages_of_fim(body) if fim else checked.messages()
    model_name = checked.typed("model", str, "a string")
    for name in _NUMBERS:
        checked.number(name)
    if model_name is None:
        raise checked.error("missing field `model`", (), end=True)
    checked.typed("stream", bool, "a boolean")
    checked.typed("user_id", str, "a string")
    return _meaning(body, path, messages, model_name, catalogue, counter)


class _Body:
    """A body, and errors that name places in it."""

    def __init__(self, raw: bytes, *, status_422: bool) -> None:
        self._raw = raw
        self._status_422 = status_422
        try:
            self.body = json.loads(raw)
        except (ValueError, RecursionError) as error:
            try:
                text = raw.decode()
            except UnicodeDecodeError:
                trouble = "invalid unicode code point at line 1 column 0"
            else:
                trouble = parse_trouble(text) if isinstance(error, ValueError) else "recursion limit exceeded"
            message = f"Failed to parse the request body as JSON: {trouble}"
            raise ApiError(Reply.whole(message.encode(), 422 if status_422 else 400, OCTETS)) from None
        if not isinstance(self.body, dict):
            kind = describe(self.body)
            raise self.error(f"invalid type: {kind}, expected struct ChatCompletionRequest", (), end=False)

    def error(self, trouble: str, path: tuple[str | int, ...], *, end: bool) -> ApiError:
        """A 400 that names the place (or the 422 in plain text of earlier years)."""
        message = f"{_TARGET}{trouble} at {position(self._raw.decode(), path, end=end)}"
        if self._status_422:
            return ApiError(Reply.whole(message.encode(), 422, "text/plain; charset=utf-8"))
        return ApiError(Reply.whole(error_body(message), 400))

    def typed(self, name: str, kind: type, expected: str) -> Any:
        """The value of a field that has to be of this type; None if it is absent or null."""
        value = self.body.get(name)
        if value is None or isinstance(value, kind):
            return value
        end = not isinstance(value, (dict, list))
        raise self.error(f"{name}: invalid type: {describe(value)}, expected {expected}", (name,), end=end)

    def number(self, name: str) -> None:
        """Refuse a field that is not a number."""
        value = self.body.get(name)
        if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
            end = not isinstance(value, (dict, list))
            raise self.error(f"{name}: invalid type: {describe(value)}, expected f32", (name,), end=end)

    def messages(self) -> tuple[dict[str, Any], ...]:
        """The messages, each with a string as its content."""
        messages = self.body.get("messages")
        if messages is None and "messages" not in self.body:
            raise self.error("missing field `messages`", (), end=True)
        if not isinstance(messages, list):
            end = not isinstance(messages, dict)
            raise self.error(
                f"messages: invalid type: {describe(messages)}, expected a sequence", ("messages",), end=end
            )
        return tuple(self._message(at, message) for at, message in enumerate(messages))

    def _message(self, at: int, message: Any) -> dict[str, Any]:
        where = f"messages[{at}]"
        if not isinstance(message, dict):
            end = not isinstance(message, list)
            raise self.error(
                f"{where}: invalid type: {describe(message)}, expected internally tagged enum "
                "ChatCompletionRequestMessage",
                ("messages", at),
                end=end,
            )
        role = message.get("role")
        if role not in ROLES:
            if role is None:
                raise self.error(f"{where}: missing field `role`", ("messages", at), end=True)
            variants = ", ".join(f"`{known}`" for known in ROLES)
            trouble = f"unknown variant `{role}`, expected one of {variants}"
            raise self.error(f"{where}.role: {trouble}", ("messages", at, "role"), end=True)
        content = message.get("content")
        if isinstance(content, str):
            return message
        if content is None:
            if "content" not in message and role != "assistant":
                raise self.error(f"{where}: missing field `content`", ("messages", at), end=True)
            return {**message, "content": ""}
        if not isinstance(content, list):
            raise self.error(
                f"{where}.content: invalid type: {describe(content)}, expected a string or a sequence",
                ("messages", at, "content"),
                end=not isinstance(content, dict),
            )
        parts = [part if isinstance(part, dict) else {} for part in content]
        images = any(part.get("type") in ("image_url", "file") for part in parts)
        text = "\n".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")
        return {**message, "content": text, "_images": images}


def _is_fim(path: str) -> bool:
    return path.endswith("/completions") and not path.endswith("/chat/completions")


def _messages_of_fim(body: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    text = f"{body.get('prompt', '')}{body.get('suffix') or ''}"
    return ({"role": "user", "content": text},)


def _meaning(
    body: dict[str, Any],
    path: str,
    messages: tuple[dict[str, Any], ...],
    model_name: str,
    catalogue: Catalogue,
    counter: Counter,
    schema: dict[str, Any] | None = None,
) -> tuple[ParsedRequest, Model]:
    """The checks of what is well-formed, and the values that count."""
    model = catalogue.find(model_name)
    if model is None:
        raise refuse(catalogue.unknown(model_name))
    if not messages:
        raise refuse("Empty input messages")
    _check_ranges(body)
    stop = _stop(body)
    stream = body.get("stream") is True
    options = body.get("stream_options")
    if options is not None and not stream:
        raise refuse("stream_options should be set along with stream = true")
    user_id = body.get("user_id")
    if user_id is not None and len(user_id) > 512:
        raise refuse(
            "Invalid 'user_id': string too long. Expected a string with maximum length 512, "
            f"but got a string with length {len(user_id)} instead"
        )
    effort = "none" if _is_fim(path) else _effort(body)
    json_mode = _json_mode(body, messages)
    if any(message.get("_images") for message in messages) and not model.images:
        raise refuse("This model does not support image")
    tool, tools, told = check_tools(body, messages, thinking=effort != "none")
    if schema is not None:
        told = compact(schema).decode()
    max_tokens = body.get("max_tokens")
    if max_tokens is None:
        max_tokens = min(DEFAULT_MAX_TOKENS[effort], model.max_output_tokens)
    elif (
        isinstance(max_tokens, bool)
        or not isinstance(max_tokens, int)
        or not (1 <= max_tokens <= model.max_output_tokens)
    ):
        raise refuse(
            f"Invalid max_tokens value, the valid range of max_tokens is [1, {model.max_output_tokens}]"
        )
    turns = tuple((m["role"], _weighed(m)) for m in messages)
    tokens, blocks = counter.measure((("system", told), *turns) if told else turns)
    if tokens + max_tokens > model.context_tokens:
        raise refuse(
            f"This model's maximum context length is {model.context_tokens} tokens. However, you requested "
            f"{tokens + max_tokens} tokens ({tokens} in the messages, {max_tokens} in the completion). "
            "Please reduce the length of the messages or completion."
        )
    asked = {name: value for name, value in body.items() if name not in _NOT_HASHED}
    return (
        ParsedRequest(
            path=path,
            model=model_name,
            served=model.id,
            messages=messages,
            body=body,
            max_tokens=max_tokens,
            thinking=effort != "none",
            effort=effort,
            json_mode=json_mode,
            stop=stop,
            stream=stream,
            tool=tool,
            tools=tools,
            schema=schema,
            include_usage=isinstance(options, dict) and options.get("include_usage") is True,
            user_id=user_id,
            request_hash=_digest(asked),
            prompt_hash=_digest(body.get("messages", messages)),
            question_hash=_digest(_values(next((m for m in reversed(messages) if m["role"] == "user"), {}))),
            prompt_tokens=tokens,
            blocks=blocks,
        ),
        model,
    )


def _weighed(message: Mapping[str, Any]) -> str:
    """What is counted of a message: its text, and its calls of functions."""
    calls = message.get("tool_calls")
    return f"{message['content']}{compact(calls).decode()}" if calls else str(message["content"])


def _digest(value: Any) -> str:
    return blake2b(canonical_json(value).encode("utf-8", "replace"), digest_size=16).hexdigest()


def _values(message: Mapping[str, Any]) -> Any:
    """What a message says: values where it is JSON, else its text."""
    text = message.get("content", "")
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return text


def _check_ranges(body: Mapping[str, Any]) -> None:
    temperature, top_p = body.get("temperature"), body.get("top_p")
    if temperature is not None and not 0 <= temperature <= 2:
        raise refuse("Invalid temperature value, the valid range of temperature is [0, 2]")
    if top_p is not None and not 0 < top_p <= 1:
        raise refuse("Invalid top_p value, the valid range of top_p is (0, 1.0]")
    for name in ("frequency_penalty", "presence_penalty"):
        value = body.get(name)
        if value is not None and not -2 <= value <= 2:
            raise refuse(f"Invalid {name} value, the valid range of {name} is [-2, 2]")


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    if stop is None:
        return ()
    listed = [stop] if isinstance(stop, str) else stop
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        raise refuse("Invalid stop value, expected a string or a list of strings")
    if len(listed) > 16:
        raise refuse(f"Stop string array too long: {len(listed)}")
    return tuple(each for each in listed if each)


def _effort(body: Mapping[str, Any]) -> str:
    """How hard the model thinks; "none" where thinking is off."""
    thinking = body.get("thinking")
    kind = thinking.get("type", "enabled") if isinstance(thinking, dict) else "enabled"
    if kind not in ("adaptive", "enabled", "disabled"):
        raise refuse(f"unknown variant `{kind}`, expected one of `adaptive`, `enabled`, `disabled`")
    effort = body.get("reasoning_effort")
    if effort is not None and effort not in EFFORTS:
        raise refuse(
            f"unknown variant `{effort}`, expected one of {', '.join(f'`{known}`' for known in EFFORTS)}"
        )
    return "none" if kind == "disabled" else EFFORTS[effort or "high"]


def _json_mode(body: Mapping[str, Any], messages: tuple[dict[str, Any], ...]) -> bool:
    wanted = body.get("response_format")
    kind = wanted.get("type", "text") if isinstance(wanted, dict) else "text"
    if kind == "text":
        return False
    if kind != "json_object":
        raise refuse("This response_format type is unavailable now")
    if not any("json" in message["content"].lower() for message in messages):
        raise refuse(
            "Prompt must contain the word 'json' in some form to use 'response_format' of type 'json_object'."
        )
    return True
