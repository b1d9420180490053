"""The clients of ``busy.py``, each in a process of its own: a bulk job with interactive calls beside it.

All of them run as they are shipped, with their own defaults or the settings their documentation
recommends, on an event loop whose clock is scaled (``busy_clock``); no timer of theirs is changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from busy_clock import ScaledPolicy
from busy_load import Load, prompt

from deepseek_nb.sandbox import weather_of

MODEL = "deepseek-flash"
WORKERS = 64
AGAIN_S = 10.0
"""After this long the user runs what was lost once more."""
LAST_CALLS_S = 60.0
"""How long interactive calls may still take once the bulk job is done."""

Ask = Callable[[str], Awaitable[str]]


class Told:
    """Where the client's process tells what happens, line by line: it may be stopped at any moment."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._file = Path(given["out"]).open("a")  # noqa: SIM115  (open until the process ends)
        self._lock = threading.Lock()
        self.given = given
        self.lost = 0
        """Rows lost in the first run so far, for a client that is stopped in it."""

    def say(self, kind: str, **facts: Any) -> None:
        """Write one line."""
        with self._lock:
            self._file.write(json.dumps({"kind": kind, **facts}) + "\n")
            self._file.flush()

    def begin(self) -> None:
        """All is imported: from here on time counts. The process ends when its time is over."""
        self._wall_s, self._cpu_s = time.monotonic(), time.process_time()
        ends = threading.Timer(self.given["limit_s"] / self.given["scale"], self.stop)
        ends.daemon = True
        ends.start()
        self.say("begin")

    def stop(self) -> None:
        """The time is over."""
        self.end(stopped=True)

    def end(self, *, stopped: bool = False) -> None:
        """End the process, whatever still runs in it."""
        wall_s, cpu_s = time.monotonic() - self._wall_s, time.process_time() - self._cpu_s
        self.say("end", stopped=stopped, wall_s=wall_s, cpu_s=cpu_s, lost=self.lost)
        os._exit(0)

    def run(self, number: int, texts: dict[int, str | None]) -> list[int]:
        """Tell how one run of the job went: rows by answer, None where it was lost. Gives the lost rows."""
        answers = {n: text for n, text in texts.items() if text is not None}
        empty = sum(not text.strip() for text in answers.values())
        wrong = sum(bool(text.strip()) and text[:7] != f"R{n:06d}" for n, text in answers.items())
        lost = [n for n, text in texts.items() if text is None]
        self.say("run", number=number, rows=len(texts), lost=len(lost), empty=empty, wrong=wrong)
        return lost


# ----------------------------------------------------------------------- the clients written for a loop


async def in_a_loop(ask: Ask, load: Load, told: Told, workers: int | None) -> None:
    """Work off all rows with ``ask``, ``workers`` at a time (None: all at once), and make the calls."""
    loop = asyncio.get_running_loop()
    told.begin()
    helpers = [asyncio.create_task(_calls(ask, load, told)), asyncio.create_task(watch_lateness(told))]
    rows = list(range(load.rows))
    for number in range(1, 1000):
        rows = told.run(number, await _once(ask, rows, workers, told))
        if not rows:
            break
        await asyncio.sleep(AGAIN_S)
    helpers[0].cancel()
    ends_s = loop.time() + LAST_CALLS_S
    while _open_calls and loop.time() < ends_s:
        await asyncio.wait(set(_open_calls), timeout=ends_s - loop.time())
    for _ in _open_calls:
        told.say("call", latency_s=None, error="never came back")
    told.end()


async def _once(ask: Ask, rows: list[int], workers: int | None, told: Told) -> dict[int, str | None]:
    texts: dict[int, str | None] = {}

    async def one(n: int) -> None:
        try:
            texts[n] = await ask(prompt("Row", n))
        except Exception:  # noqa: BLE001  (whatever a client raises, the row is lost)
            texts[n] = None
            told.lost += 1

    if workers is None:
        await asyncio.gather(*(one(n) for n in rows))
        return texts
    todo = iter(rows)

    async def work() -> None:
        for n in todo:
            await one(n)

    await asyncio.gather(*(work() for _ in range(workers)))
    return texts


_open_calls: set[asyncio.Task[None]] = set()


async def _calls(ask: Ask, load: Load, told: Told) -> None:
    loop = asyncio.get_running_loop()
    begins_s = loop.time()

    async def call(n: int) -> None:
        asked_s = loop.time()
        try:
            await ask(prompt("Call", n))
        except Exception as error:  # noqa: BLE001
            told.say("call", latency_s=None, error=type(error).__name__)
        else:
            told.say("call", latency_s=loop.time() - asked_s)

    for n, at_s in enumerate(load.calls_s):
        await asyncio.sleep(max(0.0, begins_s + at_s - loop.time()))
        task = asyncio.create_task(call(n))
        _open_calls.add(task)
        task.add_done_callback(_open_calls.discard)


async def watch_lateness(told: Told) -> None:
    """Tell every ten scaled seconds how late the loop woke at worst: what the machine adds by itself."""
    loop = asyncio.get_running_loop()
    while True:
        worst_s = 0.0
        for _ in range(10):
            due_s = loop.time() + 1.0
            await asyncio.sleep(1.0)
            worst_s = max(worst_s, loop.time() - due_s)
        told.say("late", worst_s=worst_s)


@contextlib.asynccontextmanager
async def _post(given: dict[str, Any], limits: Any) -> AsyncIterator[Callable[[str], Any]]:
    """A bare POST, as with requests, on aiohttp; ``limits`` is a ClientTimeout."""
    import aiohttp

    headers = {"Authorization": f"Bearer {given['api_key']}"}
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), headers=headers, timeout=limits
    ) as session:

        async def post(text: str) -> str:
            body = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
            async with session.post(given["base_url"] + "/chat/completions", json=body) as reply:
                reply.raise_for_status()
                return (await reply.json())["choices"][0]["message"]["content"] or ""

        yield post


async def guide(given: dict[str, Any], load: Load, told: Told, timeout_s: float | None) -> None:
    """The guide's loop: three tries, ``min(2**n + U(0, 1), 30)`` between them."""
    import aiohttp

    async with _post(given, aiohttp.ClientTimeout(total=timeout_s, sock_connect=None)) as post:

        async def ask(text: str) -> str:
            for n in range(3):
                try:
                    return await post(text)
                except (aiohttp.ClientError, TimeoutError):
                    if n == 2:
                        raise
                    await asyncio.sleep(min(2**n + random.random(), 30.0))
            raise AssertionError

        await in_a_loop(ask, load, told, WORKERS)


async def tenacity(given: dict[str, Any], load: Load, told: Told) -> None:
    """The recipe of its documentation and OpenAI's cookbook, on aiohttp with its default timeout (300 s)."""
    import aiohttp
    from tenacity import AsyncRetrying, stop_after_attempt, wait_random_exponential

    async with _post(given, aiohttp.ClientTimeout(total=300, sock_connect=30)) as post:

        async def ask(text: str) -> str:
            retrying = AsyncRetrying(
                wait=wait_random_exponential(min=1, max=60), stop=stop_after_attempt(6), reraise=True
            )
            return await retrying(post, text)

        await in_a_loop(ask, load, told, WORKERS)


async def openai(given: dict[str, Any], load: Load, told: Told, workers: int | None) -> None:
    """AsyncOpenAI as it comes: two retries, 600 s."""
    from openai import AsyncOpenAI

    async with AsyncOpenAI(base_url=given["base_url"], api_key=given["api_key"]) as client:

        async def ask(text: str) -> str:
            reply = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": text}]
            )
            return reply.choices[0].message.content or ""

        await in_a_loop(ask, load, told, workers)


async def litellm(given: dict[str, Any], load: Load, told: Told) -> None:
    """``acompletion(num_retries=3)``: it chooses the strategy by the error itself."""
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # or it fetches a price list
    import litellm as library

    library.suppress_debug_info = True

    async def ask(text: str) -> str:
        reply = await library.acompletion(
            model=f"deepseek/{MODEL}",
            api_base=given["base_url"],
            api_key=given["api_key"],
            messages=[{"role": "user", "content": text}],
            num_retries=3,
        )
        return reply.choices[0].message.content or ""

    await in_a_loop(ask, load, told, WORKERS)


async def perfect(given: dict[str, Any], load: Load, told: Told) -> None:
    """Knows the weather: always as many in flight as there are slots. What can be reached on this machine."""
    import aiohttp

    weather = weather_of(given["scenario"], given["seed"])
    loop = asyncio.get_running_loop()
    todo, open_rows, pump_soon = deque(range(load.rows)), set[asyncio.Task[None]](), asyncio.Event()
    begins_s = loop.time()

    def room() -> int:
        step = max((s for s in weather if s.since_s <= loop.time() - begins_s), key=lambda s: s.since_s)
        return min(step.slots, step.limit) if step.up else 0

    async with _post(given, aiohttp.ClientTimeout(total=None, sock_read=30)) as post:

        async def ask(text: str) -> str:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    if (answer := await post(text)).strip():
                        return answer
                await asyncio.sleep(0.2)

        async def one(n: int) -> None:
            try:
                texts[n] = await post(prompt("Row", n))
            except (aiohttp.ClientError, TimeoutError):
                texts[n] = ""
                await asyncio.sleep(0.5)  # a moment too early after a change of the weather
            if not texts[n].strip():
                todo.appendleft(n)

        def over(task: asyncio.Task[None]) -> None:
            open_rows.discard(task)
            pump_soon.set()

        texts: dict[int, str] = {}
        told.begin()
        helpers = [asyncio.create_task(_calls(ask, load, told)), asyncio.create_task(watch_lateness(told))]
        begins_s = loop.time()
        while todo or open_rows:
            while todo and len(open_rows) < room():
                task = asyncio.create_task(one(todo.popleft()))
                open_rows.add(task)
                task.add_done_callback(over)
            pump_soon.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(pump_soon.wait(), 0.5)
        told.run(1, dict(texts))
        helpers[0].cancel()
        if _open_calls:
            await asyncio.wait(set(_open_calls), timeout=LAST_CALLS_S)
    told.end()


# --------------------------------------------------------------------------------------- our own


def deepseek_nb(given: dict[str, Any], load: Load, told: Told, *, bulk: bool = True) -> None:
    """``df.deepseek.apply`` with ``ds.ask`` beside it, one default client, as in a notebook."""
    import pandas as pd

    import deepseek_nb as ds
    from deepseek_nb.client.portal import background

    ds.configure(base_url=given["base_url"], api_key=given["api_key"], data_dir=given["data_dir"])
    scale, done = given["scale"], threading.Event()
    frame = pd.DataFrame({"text": [prompt("Row", n) for n in range(load.rows)]})
    told.begin()
    background.start(watch_lateness, told)
    open_calls: set[threading.Thread] = set()

    def call(n: int) -> None:
        asked_s = time.monotonic()
        try:
            ds.ask(prompt("Call", n), priority=5, thinking=False)
        except ds.DeepSeekError as error:
            told.say("call", latency_s=None, error=type(error).__name__)
        else:
            told.say("call", latency_s=(time.monotonic() - asked_s) * scale)

    def calls() -> None:
        begins_s = time.monotonic()
        for n, at_s in enumerate(load.calls_s):
            if done.wait(max(0.0, begins_s + at_s / scale - time.monotonic())):
                return
            thread = threading.Thread(target=call, args=(n,), daemon=True)
            open_calls.add(thread)
            thread.start()

    caller = threading.Thread(target=calls, daemon=True)
    caller.start()
    if not bulk:
        time.sleep(given["lasts_s"] / scale)
    for number in range(1, 1000 if bulk else 0):
        try:
            result = frame.deepseek.apply(
                "{{text}}", into="text", job="busy", progress=False, retry_failed=number > 1
            )
        except ds.DeepSeekError as error:
            result = getattr(error, "frame", None)
            told.say("raised", error=str(error))
            if result is None:
                raise
        texts = {
            n: text if status == "done" else None
            for n, (text, status) in enumerate(zip(result["text"], result["status"], strict=True))
        }
        if not told.run(number, texts):
            break
        time.sleep(AGAIN_S / scale)
    done.set()
    caller.join()
    ends_s = time.monotonic() + LAST_CALLS_S / scale
    for thread in open_calls:
        thread.join(max(0.0, ends_s - time.monotonic()))
        if thread.is_alive():
            told.say("call", latency_s=None, error="never came back")
    told.end()


LOOPS: dict[str, Callable[..., Any]] = {
    "perfect": perfect,
    "guide": lambda *a: guide(*a, timeout_s=None),
    "guide+timeout60": lambda *a: guide(*a, timeout_s=60.0),
    "openai": lambda *a: openai(*a, workers=WORKERS),
    "openai-gather": lambda *a: openai(*a, workers=None),
    "litellm": litellm,
    "tenacity": tenacity,
}
NAMES = ("perfect", "deepseek_nb", *[name for name in LOOPS if name != "perfect"])
NEEDS = {"openai": "openai", "openai-gather": "openai", "litellm": "litellm", "tenacity": "tenacity"}
"""The package a client needs."""


def main() -> None:
    """Run one client, told by a JSON text."""
    given = json.loads(sys.argv[1])
    load, told = Load(given["rows"], given["seed"], given["calls_per_s"]), Told(given)
    asyncio.set_event_loop_policy(ScaledPolicy(given["scale"]))
    if given["client"] in LOOPS:
        asyncio.run(LOOPS[given["client"]](given, load, told))
    else:
        deepseek_nb(given, load, told, bulk=given["client"] == "deepseek_nb")


if __name__ == "__main__":
    main()
