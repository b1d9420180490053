"""A key to look for everywhere, the notations to find it in, and a server that sends back what it is sent."""

from __future__ import annotations

import base64
import html
import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

KEY = "sk-Canary/5f1d+7c0a=9b3e-ZqWx"
"""Every notation of it is another text."""
CLIENT_SECRET = "canary-Secret/0f9e+8d7c=6b5a-4f3e2d1c"

Pieces = Iterable[bytes]


def notations(secret: str) -> dict[str, bytes]:
    """How ``secret`` may be written. Of base64, what does not hang on the letters beside it."""
    data = secret.encode()
    whole = {
        f"base64 at {at}": base64.b64encode(b"?" * at + data + b"?" * 3)[4 if at else 0 :][:-8]
        for at in range(3)
    }
    urlsafe = {
        f"{name}, urlsafe": form.translate(bytes.maketrans(b"+/", b"-_")) for name, form in whole.items()
    }
    return (
        whole | urlsafe | {"plain": data, "url": quote(secret, safe="").encode(), "hex": data.hex().encode()}
    )


def find(data: bytes | str, *secrets: str) -> list[str]:
    """The notations in which one of ``secrets`` stands in ``data``, with what stands before it."""
    data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    found = []
    for secret in secrets:
        for name, form in notations(secret).items():
            at = data.lower().find(form.lower())
            if at >= 0:
                found.append(f"{name} after {data[max(0, at - 120) : at]!r}")
    return found


def files_of(*folders: Path) -> dict[str, bytes]:
    """Every byte of every file below ``folders``, write-ahead logs included."""
    return {
        str(file): file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()
    }


# ------------------------------------------------------------------- a server that sends it back


def _reply(status: str, body: bytes | str, headers: str = "") -> bytes:
    body = body.encode() if isinstance(body, str) else body
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n{headers}\r\n"
    return head.encode() + body


def _stream(*events: str, end: str = "") -> bytes:
    lines = "".join(f"data: {event}\n\n" for event in events) + end
    return _reply("200 OK", lines, "Content-Type: text/event-stream\r\n")


def _chunk(text: str, finish: str | None = None, **more: str) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return json.dumps({"id": "1", "model": "deepseek-flash", "choices": [choice]} | more)


def _cut(whole: bytes, token: str) -> Pieces:
    """In two pieces, cut in the middle of the token."""
    at = whole.index(token.encode()) + len(token) // 2
    return whole[:at], whole[at:]


def _code(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _error(message: str) -> str:
    return json.dumps({"error": {"message": message, "type": "x", "param": None, "code": "x"}})


WAYS: dict[str, Callable[[str], Pieces]] = {
    "401 in words": lambda t: [_reply("401 Unauthorized", f"Bearer {t} is not known here")],
    "401 in a header": lambda t: [_reply("401 Unauthorized", "no", f"X-DS-Trace-Id: {t}\r\n")],
    "402 in JSON": lambda t: [_reply("402 Payment Required", _error(f"Insufficient Balance of {t}"))],
    "400 escaped": lambda t: [
        _reply("400 Bad Request", '{"error":"' + "".join(f"\\u{ord(c):04x}" for c in t) + '"}')
    ],
    "400 as PHP writes it": lambda t: [_reply("400 Bad Request", _error(t).replace("/", "\\/"))],
    "404 in a URL": lambda t: [_reply("404 Not Found", f"no /v1?key={quote(t, safe='')}")],
    "422 as basic": lambda t: [_reply("422 Unprocessable", f"Authorization: Basic {_code('user:' + t)}")],
    "429 in hex": lambda t: [_reply("429 Too Many", f"key {t.encode().hex()}")],
    "500 in a page": lambda t: [
        _reply("500 Oops", f"<html><title>Failed for {html.escape(t)}</title><p>{t}</p></html>")
    ],
    "503 at the cut": lambda t: [_reply("503 Busy", "x" * 480 + t)],
    "503 in pieces": lambda t: _cut(_reply("503 Busy", _error(f"too busy for {t}, come again")), t),
    "302 in the place": lambda t: [
        _reply("302 Found", "", f"Location: http://{t.partition('/')[0]}.example/?key={t}\r\n")
    ],
    "200 a page": lambda t: [_reply("200 OK", f"<html><title>{t}</title>{_code('xx' + t)}</html>")],
    "200 words": lambda t: [_reply("200 OK", f"hello {t}")],
    "200 words, the token cut": lambda t: [_reply("200 OK", f"hello {t[: len(t) * 2 // 3]}")],
    "200 no JSON": lambda t: [_stream(f"Bearer {t}")],
    "200 an error": lambda t: [_stream(_error(f"no {_code('x' + t)} {t}"))],
    "200 a late error": lambda t: [_stream(_chunk("He"), _error(f"overloaded by {t}"))],
    "200 a proxy's words": lambda t: [_stream(_chunk("Hello"), end=f"upstream refused {t}\n")],
    "200 an answer": lambda t: [
        _stream(
            _chunk(f"Your key is {t}.", model=t, system_fingerprint=t),
            _chunk("", "stop"),
            "[DONE]",
        )
    ],
    "200 in pieces": lambda t: _cut(
        _reply(
            "200 OK",
            json.dumps(
                {
                    "model": "m",
                    "choices": [{"index": 0, "message": {"content": f"Key: {t}!"}, "finish_reason": "stop"}],
                }
            ),
        ),
        t,
    ),
    "200 finished oddly": lambda t: [_stream(_chunk("x", t), "[DONE]")],
}
"""How a server sends the token back: to ``/WAY/anything`` it answers so."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        self.server.seen.append(token)
        way = unquote(self.path.split("/")[1])
        for number, piece in enumerate(WAYS[way](token)):
            if number:
                threading.Event().wait(0.03)
            self.wfile.write(piece)
            self.wfile.flush()
        self.close_connection = True

    do_GET = do_POST = _answer  # noqa: N815 (http.server's own names)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    """``server`` at work in a thread of its own."""
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def echo_server() -> Iterator[ThreadingHTTPServer]:
    """A server that answers ``/WAY/...`` as WAYS says; ``seen`` are the tokens it was sent."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.seen = []
    with serving(server):
        yield server


def address(server: ThreadingHTTPServer, way: str) -> str:
    """The base_url under which ``server`` answers in that way."""
    return f"http://127.0.0.1:{server.server_address[1]}/{quote(way)}"
