"""A raw client that shows what was on the wire."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from deepseek_nb.sandbox import Sandbox

KEY = "sk-sandbox-0000000000000000"
QUESTION = {
    "model": "deepseek-flash",
    "messages": [{"role": "user", "content": "Return exactly: OK"}],
    "thinking": {"type": "disabled"},
}


@dataclass
class Heard:
    """What came back on a raw socket."""

    raw: bytes
    ending: str  # "whole", "closed", "reset" or "silent"

    @property
    def head(self) -> str:
        return self.raw.partition(b"\r\n\r\n")[0].decode("latin-1")

    @property
    def status(self) -> int:
        return int(self.raw.split(b" ", 2)[1]) if self.raw else 0

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.split("\r\n")[1:]
        return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}

    @property
    def wire_body(self) -> bytes:
        return self.raw.partition(b"\r\n\r\n")[2]

    @property
    def body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.wire_body
        return b"".join(chunk for chunk in chunks(self.wire_body))

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return self.json["error"]["message"]

    @property
    def events(self) -> list[Any]:
        """The data events of a stream; the last one is "[DONE]"."""
        lines = [line[6:] for line in self.body.decode().split("\n\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    @property
    def text(self) -> str:
        """The answer's text, streamed or not."""
        if self.headers.get("content-type") == "text/event-stream":
            deltas = [choice["delta"] for event in self.events[:-1] for choice in event["choices"]]
            return "".join(delta.get("content") or "" for delta in deltas)
        return self.json["choices"][0]["message"]["content"]


def chunks(wire: bytes) -> Iterator[bytes]:
    while wire:
        size, _, wire = wire.partition(b"\r\n")
        if not size or int(size, 16) == 0:
            return
        yield wire[: int(size, 16)]
        wire = wire[int(size, 16) + 2 :]


def is_whole(raw: bytes) -> bool:
    head, blank, body = raw.partition(b"\r\n\r\n")
    if not blank:
        return False
    if b"transfer-encoding: chunked" in head:
        return body.endswith(b"0\r\n\r\n")
    if b"content-length" not in head.lower():  # the middle of an answer
        return raw.endswith(b"0\r\n\r\n")
    return len(body) >= int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])


def request_bytes(
    body: bytes | dict[str, Any] | None = None,
    *,
    method: str = "POST",
    path: str = "/chat/completions",
    key: str | None = KEY,
    content_type: str | None = "application/json",
) -> bytes:
    data = json.dumps(body).encode() if isinstance(body, dict) else body or b""
    lines = [f"{method} {path} HTTP/1.1", "host: sandbox", f"content-length: {len(data)}"]
    if key is not None:
        lines.append(f"authorization: Bearer {key}")
    if content_type is not None:
        lines.append(f"content-type: {content_type}")
    return "\r\n".join([*lines, "", ""]).encode() + data


def listen(sock: socket.socket, wait_s: float) -> Heard:
    raw = b""
    ends = time.monotonic() + wait_s
    while not is_whole(raw):
        sock.settimeout(max(ends - time.monotonic(), 0.001))
        try:
            data = sock.recv(65536)
        except TimeoutError:
            return Heard(raw, "silent")
        except ConnectionResetError:
            return Heard(raw, "reset")
        if not data:
            return Heard(raw, "closed")
        raw += data
    return Heard(raw, "whole")


Talk = Callable[..., Heard]


def talk(
    sandbox: Sandbox, body: bytes | dict[str, Any] | None = None, *, wait_s: float = 5.0, **how: Any
) -> Heard:
    """Send one request on a new connection, and listen until the answer is whole, broken or late."""
    with socket.create_connection(("127.0.0.1", sandbox.port)) as sock:
        sock.sendall(request_bytes(body, **how))
        return listen(sock, wait_s)


def ask(sandbox: Sandbox, text: str = "Return exactly: OK", *, wait_s: float = 5.0, **fields: Any) -> Heard:
    """Ask one question without thinking; ``fields`` go into the body."""
    body = {**QUESTION, "messages": [{"role": "user", "content": text}], **fields}
    return talk(sandbox, {name: value for name, value in body.items() if value is not None}, wait_s=wait_s)
