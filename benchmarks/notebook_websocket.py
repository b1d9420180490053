"""The row that goes through a real Jupyter Server: what the browser's websocket carries for a long answer."""

from __future__ import annotations

import asyncio
import json
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from typing import Any

from notebook_bench import Bench, Result, row
from notebook_kernel import environment
from notebook_server import KEY
from tornado.websocket import websocket_connect

CHARACTERS = 36_000
STARTING_S = 30.0


@row(
    "websocket",
    "Same through a real Jupyter Server, 36 KB at 60 pieces/s",
    "at most 40 bytes for each of the answer",
)
def websocket(bench: Bench) -> Result:
    """Every byte of the websocket's frames, from running the cell until the kernel is idle."""
    folder = bench.folder / "server"
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    own = {f"JUPYTER_{kind.upper()}_DIR": str(folder / kind) for kind in ("config", "data", "runtime")}
    options = [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"]
    server = subprocess.Popen(
        [sys.executable, "-m", "jupyter_server", "--no-browser", "--allow-root", *options],
        cwd=folder,
        env=environment(bench.steady.base_url, folder, DEEPSEEK_API_KEY=KEY) | own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        return asyncio.run(_through(f"127.0.0.1:{port}", token))
    finally:
        server.terminate()
        server.wait(timeout=30)


async def _through(address: str, token: str) -> Result:
    kernel = await _started(f"http://{address}/api/kernels?token={token}")
    channel = await websocket_connect(
        f"ws://{address}/api/kernels/{kernel}/channels?token={token}", max_message_size=2**27
    )
    await _run(channel, "%load_ext deepseek_nb")
    started_s = time.monotonic()
    sent, frames, shown = await _run(
        channel, f"%%deepseek --no-thinking --no-cache --max-tokens 10000\nlong {CHARACTERS}"
    )
    took_s = time.monotonic() - started_s
    channel.close()
    whole = len(shown.strip()) >= CHARACTERS - 8
    return Result(
        f"{sent / 1e6:.2f} MB over the websocket ({sent / CHARACTERS:.0f} times), {frames} frames, "
        f"{took_s:.1f} s, {'nothing dropped' if whole else 'the end is MISSING'}",
        {"bytes": sent, "frames": frames, "took_s": took_s},
        whole and sent <= 40 * CHARACTERS,
    )


async def _started(url: str) -> str:
    """The id of a new kernel, as soon as the server is up."""
    request = urllib.request.Request(url, data=b"{}", headers={"Content-Type": "application/json"})
    end_s = time.monotonic() + STARTING_S
    while True:
        try:
            with await asyncio.to_thread(urllib.request.urlopen, request, timeout=STARTING_S) as reply:
                return str(json.loads(reply.read())["id"])
        except OSError:
            if time.monotonic() > end_s:
                raise
            await asyncio.sleep(0.2)


async def _run(channel: Any, code: str) -> tuple[int, int, str]:
    """Run a cell: the bytes and frames that came, and the last state of the answer's text."""
    message_id = uuid.uuid4().hex
    header = {
        "msg_id": message_id,
        "msg_type": "execute_request",
        "session": "s",
        "username": "",
        "version": "5.3",
    }
    content = {
        "code": code,
        "silent": False,
        "store_history": False,
        "allow_stdin": False,
        "stop_on_error": True,
    }
    await channel.write_message(
        json.dumps(
            {
                "header": header,
                "parent_header": {},
                "metadata": {},
                "content": content,
                "channel": "shell",
                "buffers": [],
            }
        )
    )
    size = frames = 0
    shown = ""
    while True:
        frame = await channel.read_message()
        if frame is None:
            raise ConnectionError("the server closed the websocket")
        size, frames = size + len(frame), frames + 1
        message = json.loads(frame)
        if message["parent_header"].get("msg_id") != message_id:
            continue
        told = message["content"]
        shown = told.get("data", {}).get("text/markdown", shown) if isinstance(told, dict) else shown
        if message["msg_type"] == "status" and told["execution_state"] == "idle":
            return size, frames, shown
