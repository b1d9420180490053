"""The gateway under load: what a request costs it, beside a bare pass-through and LiteLLM's proxy.

Each server is a process of its own before the same light upstream (``bulk_server.py``); this one makes the
load. Processor time is the server's own, from /proc, so that the figures hold on a busy machine, too;
requests in a second do not: load, server and upstream share its cores.

Then the load of a risk desk: so many scores a second, with a peak, each customer's score good for half an
hour. Requests go out at their times whether or not others came back, and latency counts from those times.

    python benchmarks/gateway.py                              # a minute and a half
    python benchmarks/gateway.py --litellm-python PYTHON      # beside litellm[proxy], installed there
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import jwt

HERE = Path(__file__).parent
TENANTS = 8
"""A tenant may ask 1,000 times a second at most: the load is divided."""
SECRETS = {f"t{n}": f"secret-{n}-0123456789abcdef-0123456789abcdef" for n in range(TENANTS)}
MASTER_KEY = "sk-bench-0123456789abcdef0123456789abcdef0123456789abcdef"
JSON = {"content-type": "application/json"}
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
CONFIG = """
[gateway]
port = 0
data_dir = "{data}"
model = "deepseek-flash"
concurrency_max = 1000

[[upstream]]
name = "deepseek"
base_url = "{upstream}"
key_env = "BENCH_KEY"

"""
TENANT = """
[tenant.{name}]
secret_env = "S_{name}"
priority = 5
priority_max = 5
requests_per_second = 1000
concurrent = 2000
ttl = "30min"
"""
LITELLM = """
model_list:
  - model_name: deepseek-flash
    litellm_params: {{model: openai/deepseek-flash, api_base: "{upstream}", api_key: unused}}
litellm_settings: {{telemetry: false, drop_params: true}}
"""


@dataclass(frozen=True)
class Server:
    """A process that serves."""

    url: str
    pid: int


@dataclass(frozen=True)
class Ask:
    """One kind of request, over and over."""

    title: str
    method: str
    path: str
    body: Callable[[int], bytes | None]
    headers: Callable[[int], dict[str, str]]


def question(number: int) -> bytes:
    """A question that the upstream answers by rule."""
    turns = [
        {"role": "system", "content": "Score the ticket. Answer as JSON: label, score."},
        {
            "role": "user",
            "content": f"This is ticket number {number}: a card payment of {number % 997} euros.",
        },
    ]
    told = {"model": "deepseek-flash", "messages": turns, "thinking": {"type": "disabled"}, "max_tokens": 60}
    return json.dumps(told).encode()


def cpu_s(pid: int) -> float:
    """Processor time of a process and its children so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(ticks) for ticks in fields[11:15]) / TICKS_PER_S


def peak_mb(pid: int) -> float:
    """The most memory that a process had."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


@contextlib.contextmanager
def running(command: list[str], **environ: str) -> Iterator[Server]:
    """A server whose first line tells its address."""
    process = subprocess.Popen(
        command, env={**os.environ, **environ}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        line = process.stdout.readline()
        yield Server(next(word for word in line.split() if word.startswith("http://")), process.pid)
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def litellm(python: str, upstream: str, folder: Path) -> Iterator[Server]:
    """LiteLLM's proxy, without a database, as its own documentation starts it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "litellm.yaml").write_text(LITELLM.format(upstream=upstream))
    command = [str(Path(python).with_name("litellm")), "--config", str(folder / "litellm.yaml")]
    process = subprocess.Popen(
        [*command, "--port", str(port), "--host", "127.0.0.1", "--num_workers", "1"],
        env={
            **os.environ,
            "LITELLM_LOG": "ERROR",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "LITELLM_MASTER_KEY": MASTER_KEY,
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=folder,
    )
    try:
        until_s = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            if process.poll() is not None or time.monotonic() > until_s:
                raise SystemExit("LiteLLM's proxy did not start.")
            time.sleep(0.2)
        yield Server(f"http://127.0.0.1:{port}", process.pid)
    finally:
        process.terminate()
        process.wait()


async def closed(server: Server, ask: Ask, count: int, at_once: int, first: int = 0) -> list[float]:
    """``count`` requests, ``at_once`` under way; how long each took, in seconds."""
    numbers, took = iter(range(first, first + count)), []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def worker() -> None:
            for number in numbers:
                began_s = time.perf_counter()
                async with session.request(
                    ask.method, server.url + ask.path, data=ask.body(number), headers=ask.headers(number)
                ) as reply:
                    await reply.read()
                    if reply.status != 200:
                        raise RuntimeError(f"{ask.title}: status {reply.status}: {await reply.text()}")
                took.append(time.perf_counter() - began_s)

        await asyncio.gather(*(worker() for _ in range(at_once)))
    return took


def measure(server: Server, ask: Ask, count: int, at_once: int) -> str:
    """A row of the table."""
    asyncio.run(closed(server, ask, max(200, count // 10), at_once, first=10_000_000))  # warm
    cpu_before, began_s = cpu_s(server.pid), time.perf_counter()
    took = asyncio.run(closed(server, ask, count, at_once))
    wall_s, cpu = time.perf_counter() - began_s, cpu_s(server.pid) - cpu_before
    p50, p99 = quantiles_ms(took)
    return (
        f"| {ask.title} | {1e6 * cpu / count:,.0f} | {count / wall_s:,.0f} | {p50:.1f} | {p99:.1f} | "
        f"{peak_mb(server.pid):.0f} |"
    )


def quantiles_ms(took: list[float]) -> tuple[float, float]:
    """P50 and P99, in milliseconds."""
    cuts = statistics.quantiles(took, n=100)
    return 1000 * cuts[49], 1000 * cuts[98]


def as_tenants(**more: str) -> Callable[[int], dict[str, str]]:
    """The headers of request number so and so: each tenant's token in turn."""
    claims = {"exp": int(time.time()) + 3000, "scope": "compute"}
    made = [
        {"authorization": "Bearer " + jwt.encode({**claims, "iss": name}, secret, algorithm="HS256"), **more}
        for name, secret in SECRETS.items()
    ]
    return lambda number: made[number % TENANTS]


def new_token(number: int) -> dict[str, str]:
    """The headers with a token that was never seen before."""
    name = f"t{number % TENANTS}"
    claims = {"exp": int(time.time()) + 3000, "scope": "compute", "iss": name, "jti": str(number)}
    return {"authorization": "Bearer " + jwt.encode(claims, SECRETS[name], algorithm="HS256")}


def config_in(folder: Path, data: str, upstream: str) -> str:
    """The gateway's file, written; its path."""
    tenants = "".join(TENANT.format(name=name) for name in SECRETS)
    path = folder / f"{data}.toml"
    path.write_text(CONFIG.format(data=folder / data, upstream=upstream) + tenants)
    return str(path)


async def risk(server: Server, options: argparse.Namespace) -> list[str]:
    """The load of a risk desk: rows of its table, one for each phase."""
    phases = [
        ("before", options.rate, options.seconds),
        ("peak", options.peak, options.peak_seconds),
        ("after", options.rate, options.seconds),
    ]
    chance, headers_of, rows = random.Random(1), as_tenants(**JSON), []
    weights = [1 / (rank + 20) for rank in range(options.customers)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        for name, rate, seconds in phases:
            took: list[float] = []
            seen: Counter[str] = Counter()

            async def one(customer: int, due_s: float, took=took, seen=seen) -> None:
                headers = headers_of(customer)  # each customer is one tenant's: a score is kept for that one
                try:
                    async with session.post(
                        f"{server.url}/v1/chat/completions", data=question(customer), headers=headers
                    ) as reply:
                        await reply.read()
                        seen[str(reply.status) if reply.status != 200 else reply.headers["x-cache"]] += 1
                except aiohttp.ClientError as error:
                    seen[type(error).__name__] += 1
                took.append(time.perf_counter() - due_s)

            count = round(rate * seconds)
            asked = chance.choices(range(options.customers), weights, k=count)
            cpu_before, began_s = cpu_s(server.pid), time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for number, customer in enumerate(asked):
                    due_s = began_s + number / rate
                    if (early_s := due_s - time.perf_counter()) > 0:
                        await asyncio.sleep(early_s)
                    group.create_task(one(customer, due_s))
            wall_s, cpu = time.perf_counter() - began_s, cpu_s(server.pid) - cpu_before
            p50, p99 = quantiles_ms(took)
            bad = sum(n for status, n in seen.items() if status not in ("hit", "miss"))
            rows.append(
                f"| {name} | {rate:,} | {count / wall_s:,.0f} | {100 * seen['hit'] / count:.1f} % | {bad} | "
                f"{p50:.1f} | {p99:.1f} | {100 * cpu / wall_s:.0f} % |"
            )
    return rows


def main() -> int:
    """Print the tables."""
    options = _parse()
    mine, chat = as_tenants(**JSON), "/v1/chat/completions"
    kinds = [
        Ask("no token: `/healthz`", "GET", "/healthz", lambda _: None, lambda _: {}),
        Ask("a token: `/v1/models`", "GET", "/v1/models", lambda _: None, mine),
        Ask("a new token each: `/v1/models`", "GET", "/v1/models", lambda _: None, new_token),
        Ask("cache hit", "POST", chat, lambda n: question(n % (13 * TENANTS)), mine),
        Ask(
            "pass-through, not kept",
            "POST",
            chat,
            question,
            as_tenants(**JSON, **{"cache-control": "no-store"}),
        ),
        Ask("pass-through, kept on disk", "POST", chat, question, mine),
    ]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        server_file = str(HERE / "bulk_server.py")
        with running([sys.executable, server_file, "--latency", str(options.latency)]) as upstream:
            command = [sys.executable, "-m", "deepseek_nb.cli", "gateway", "--config"]
            environ = {f"S_{name}": secret for name, secret in SECRETS.items()} | {"BENCH_KEY": "unused"}
            print(
                f"{platform.python_version()}, {os.cpu_count()} cores, {options.requests:,} requests, "
                f"{options.at_once} at once, answers after {options.latency:g} s\n"
            )
            print("| | CPU us/request | requests/s | P50 ms | P99 ms | peak MB |\n|-|-|-|-|-|-|", flush=True)
            with running([sys.executable, str(HERE / "gateway_bare.py"), upstream.url]) as bare:
                ask = Ask("**bare Starlette**, pass-through", "POST", chat, question, lambda _: JSON)
                print(measure(bare, ask, options.requests, options.at_once), flush=True)
            serve = running([*command, config_in(folder, "data", upstream.url)], **environ)
            with serve as gateway:
                for ask in kinds:
                    named = Ask(f"**gateway**, {ask.title}", ask.method, ask.path, ask.body, ask.headers)
                    print(measure(gateway, named, options.requests, options.at_once), flush=True)
            if options.litellm_python:
                with litellm(options.litellm_python, upstream.url, folder) as proxy:
                    headers = {**JSON, "authorization": f"Bearer {MASTER_KEY}"}
                    ask = Ask("**LiteLLM's proxy**, pass-through", "POST", chat, question, lambda _: headers)
                    print(measure(proxy, ask, options.requests // 4, options.at_once), flush=True)
            else:
                print("| LiteLLM's proxy | not run: name its Python with --litellm-python |", flush=True)
            print(
                f"\n{options.customers:,} customers, a score kept for 30 minutes\n\n"
                "| | asked/s | done/s | hits | errors | P50 ms | P99 ms | gateway's core |\n|-|-|-|-|-|-|-|-|"
            )
            serve = running([*command, config_in(folder, "risk", upstream.url)], **environ)
            with serve as gateway:
                print("\n".join(asyncio.run(risk(gateway, options))))
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--at-once", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.02, help="mean seconds an answer takes upstream")
    parser.add_argument("--litellm-python", help="a Python that has litellm[proxy]")
    parser.add_argument("--rate", type=int, default=500, help="scores a second")
    parser.add_argument("--peak", type=int, default=1200)
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--peak-seconds", type=float, default=5.0)
    parser.add_argument("--customers", type=int, default=2000)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
