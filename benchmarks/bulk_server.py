"""The server of the bulk benchmark: DeepSeek's chat endpoint on loopback, as light as asyncio allows.

It answers every row by rule (:func:`answer_of`) after a set time and counts what it answered, so that
the machine is left to the client. Errors, prices and checks are the sandbox's; there are none here.

    python benchmarks/bulk_server.py --latency 0.05        # prints its address; GET /stats, POST /reset
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
from collections import Counter

LABELS = ("card", "transfer", "cash")
ROW = re.compile(rb"ticket number (\d+)")
SPREAD = 0.35
"""Sigma of the lognormal answer times."""


def answer_of(number: int) -> dict[str, object]:
    """The one right answer for the row of that number."""
    return {"label": LABELS[number % 3], "score": number * 7919 % 100}


class Load:
    """What the server does and what it has done."""

    def __init__(self, latency_s: float, seed: int) -> None:
        self.latency_s = latency_s
        self.chance = random.Random(seed)
        self.requests = self.in_flight = self.most_in_flight = self.connections = 0
        self.rows: Counter[int] = Counter()

    def wait_s(self) -> float:
        """How long the next answer takes."""
        return self.latency_s * self.chance.lognormvariate(-SPREAD * SPREAD / 2, SPREAD)

    def stats(self) -> dict[str, int]:
        """Answers so far; ``paid_twice``: those to a row that had been answered before."""
        return {
            "requests": self.requests,
            "rows": len(self.rows),
            "paid_twice": self.rows.total() - len(self.rows),
            "most_in_flight": self.most_in_flight,
            "connections": self.connections,
        }


class Chat(asyncio.Protocol):
    """One connection: requests one after another, each answered when its time has come."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.buffer = b""
        self.need = -1
        self.answering: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self.transport: asyncio.WriteTransport = transport  # type: ignore[assignment]
        self.load.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        """It is gone: what was not answered yet is not charged."""
        if self.answering is not None:
            self.answering.cancel()
            self.load.in_flight -= 1

    def data_received(self, data: bytes) -> None:
        """Collect one request."""
        self.buffer += data
        if self.need < 0:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            self.need = end + 4 + length
        if len(self.buffer) >= self.need:
            request, self.buffer, self.need = self.buffer[: self.need], self.buffer[self.need :], -1
            self.take(request)

    def take(self, request: bytes) -> None:
        """Answer it now, or a row when its time has come."""
        load = self.load
        if request.startswith(b"GET"):
            self.reply(json.dumps(load.stats()).encode())
        elif b"/reset" in request[:40]:
            load.__init__(load.latency_s, load.chance.randrange(1 << 30))  # type: ignore[misc]
            self.reply(b"{}")
        else:
            load.in_flight += 1
            load.most_in_flight = max(load.most_in_flight, load.in_flight)
            self.answering = asyncio.get_running_loop().call_later(load.wait_s(), self.answer, request)

    def answer(self, request: bytes) -> None:
        """The row's answer, as JSON or as events."""
        load, self.answering = self.load, None
        load.in_flight -= 1
        load.requests += 1
        found = ROW.findall(request)
        number = int(found[-1]) if found else -1
        load.rows[number] += 1
        text = json.dumps(answer_of(number), separators=(",", ":"))
        if b'"stream":true' in request or b'"stream": true' in request:
            self.reply(_events(text, number), b"text/event-stream")
        else:
            self.reply(_whole(text, number))

    def reply(self, body: bytes, kind: bytes = b"application/json") -> None:
        """Send it in one piece."""
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n"
            b"x-ds-trace-id: 0123456789abcdef0123456789abcdef\r\n\r\n%b" % (kind, len(body), body)
        )


USAGE = (
    '"usage":{"prompt_tokens":120,"completion_tokens":12,"total_tokens":132,"prompt_tokens_details":'
    '{"cached_tokens":0},"prompt_cache_hit_tokens":0,"prompt_cache_miss_tokens":120}'
)
FINGERPRINT = '"system_fingerprint":"fp_8b330d02d0_prod0820_fp8_kvcache_20260402"'


def _whole(text: str, number: int) -> bytes:
    content = json.dumps(text)
    return (
        f'{{"id":"00000000-0000-4000-8000-{number & 0xFFFFFFFFFFFF:012d}","object":"chat.completion",'
        f'"created":1784792400,"model":"deepseek-v4-flash","choices":[{{"index":0,"message":{{"role":'
        f'"assistant","content":{content}}},"logprobs":null,"finish_reason":"stop"}}],{USAGE},{FINGERPRINT}}}'
    ).encode()


def _events(text: str, number: int) -> bytes:
    """One event a token, of four characters each."""
    head = (
        f'data: {{"id":"00000000-0000-4000-8000-{number & 0xFFFFFFFFFFFF:012d}","object":'
        f'"chat.completion.chunk","created":1784792400,"model":"deepseek-v4-flash",{FINGERPRINT},'
    )
    pieces = [json.dumps(text[at : at + 4]) for at in range(0, len(text), 4)]
    events = [
        f'{head}"choices":[{{"index":0,"delta":{{"content":{piece}}},"logprobs":null,"finish_reason":null}}]'
        f',"usage":null}}\n\n'
        for piece in pieces
    ]
    events.append(
        f'{head}"choices":[{{"index":0,"delta":{{"content":""}},"logprobs":null,"finish_reason":"stop"}}]'
        f",{USAGE}}}\n\ndata: [DONE]\n\n"
    )
    return "".join(events).encode()


async def serve(latency_s: float, seed: int) -> None:
    """Serve until the process ends; the address is the first line."""
    load = Load(latency_s, seed)
    server = await asyncio.get_running_loop().create_server(lambda: Chat(load), "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.05, help="mean seconds an answer takes")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        asyncio.run(serve(options.latency, options.seed))
    except KeyboardInterrupt:
        sys.exit(0)
