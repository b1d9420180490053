"""The gateway for minutes on end: whether its memory stays flat and its answers stay quick.

A mixture of what a day brings: scores from the cache, new questions, streams, jobs of ten questions,
wrong tokens and bodies that are no JSON, and one client in fifty that hangs up. Its memory is read from
/proc all the while.

    python benchmarks/gateway_soak.py                  # ten minutes, 100 requests a second
    python benchmarks/gateway_soak.py --minutes 60
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import aiohttp
from gateway import HERE, JSON, SECRETS, Server, as_tenants, config_in, quantiles_ms, question, running

CHAT = "/v1/chat/completions"
SHARES = {"kept": 60, "new": 20, "stream": 10, "batch": 4, "hung up": 2, "no token": 2, "no JSON": 2}
"""Of a hundred requests."""
KEPT = 400
"""Questions that come again and again."""
SAMPLE_S = 5.0
WARM = 0.2
"""The part of the run that is not looked at for growth: caches and pools fill up."""


def memory_mb(pid: int) -> float:
    """The memory that a process holds now."""
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


def growth(points: list[tuple[float, float]]) -> float:
    """The slope of the straight line through ``points``, by least squares."""
    mean_x, mean_y = (sum(one[axis] for one in points) / len(points) for axis in (0, 1))
    over = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return over / (sum((x - mean_x) ** 2 for x, _ in points) or 1.0)


class Soak:
    """One run: what is sent, and what became of it."""

    def __init__(self, server: Server, session: aiohttp.ClientSession) -> None:
        self.server = server
        self.session = session
        self.seen: Counter[str] = Counter()
        self.took: list[tuple[float, float]] = []
        """When a good answer was due, and how long it took, in seconds."""
        self._headers = as_tenants(**JSON)

    async def one(self, kind: str, number: int, due_s: float) -> None:
        """Send one request of that kind."""
        headers, path, body = self._headers(number), CHAT, question(1_000_000 + number)
        match kind:
            case "kept":
                body = question(number % KEPT)
            case "stream" | "hung up":
                body = json.dumps({**json.loads(body), "stream": True}).encode()
            case "batch":
                asked = [{"id": str(n), "prompt": f"{number} {n}"} for n in range(10)]
                path, body = "/v1/compute", json.dumps({"batch_requests": asked}).encode()
            case "no token":
                headers = {**JSON, "authorization": "Bearer no.such.token"}
            case "no JSON":
                body = body[:-9]
        try:
            async with self.session.post(self.server.url + path, data=body, headers=headers) as reply:
                if kind != "hung up":
                    await reply.read()
                    self.seen[f"{kind}: {reply.status}"] += 1
        except aiohttp.ClientError as error:
            self.seen[f"{kind}: {type(error).__name__}"] += 1
        if kind in ("kept", "new"):
            self.took.append((due_s, time.perf_counter() - due_s))


async def soak(server: Server, minutes: float, rate: float) -> list[str]:
    """Keep up the load; the lines of the report."""
    chance, began_s = random.Random(1), time.perf_counter()
    kinds = chance.choices(list(SHARES), list(SHARES.values()), k=round(60 * minutes * rate))
    memory: list[tuple[float, float]] = []

    async def look() -> None:
        while True:
            memory.append(((time.perf_counter() - began_s) / 60, memory_mb(server.pid)))
            await asyncio.sleep(SAMPLE_S)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        run, looking = Soak(server, session), asyncio.create_task(look())
        async with asyncio.TaskGroup() as group:
            for number, kind in enumerate(kinds):
                due_s = began_s + number / rate
                if (early_s := due_s - time.perf_counter()) > 0:
                    await asyncio.sleep(early_s)
                group.create_task(run.one(kind, number, due_s))
        looking.cancel()
    warm = [point for point in memory if point[0] >= WARM * minutes]
    lines = ["| minute | memory MB | P50 ms | P99 ms |", "|-|-|-|-|"]
    for part in range(5):
        first, last = (began_s + 60 * minutes * edge / 5 for edge in (part, part + 1))
        p50, p99 = quantiles_ms([took for due_s, took in run.took if first <= due_s < last])
        at = minutes * (part + 1) / 5
        held = min(memory, key=lambda point, at=at: abs(point[0] - at))[1]
        lines.append(f"| {at:g} | {held:.1f} | {p50:.1f} | {p99:.1f} |")
    slope = growth(warm)
    lines.append(
        f"\n{len(kinds):,} requests. From minute {WARM * minutes:g} on: {slope:+.2f} MB a minute, "
        f"{1000 * slope / (60 * rate):+.2f} KB a request."
    )
    lines.append("; ".join(f"{what} {count:,}" for what, count in sorted(run.seen.items())))
    return lines


def main() -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        upstream = running([sys.executable, str(HERE / "bulk_server.py"), "--latency", "0.02"])
        with upstream as server:
            command = [sys.executable, "-m", "deepseek_nb.cli", "gateway", "--config"]
            environ = {f"S_{name}": secret for name, secret in SECRETS.items()} | {"BENCH_KEY": "unused"}
            with running([*command, config_in(Path(folder), "soak", server.url)], **environ) as gateway:
                print(f"{platform.python_version()}, {options.rate:g} requests/s\n", flush=True)
                print("\n".join(asyncio.run(soak(gateway, options.minutes, options.rate))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
