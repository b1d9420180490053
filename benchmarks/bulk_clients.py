"""The clients of the bulk benchmark: each asks about every row of a frame once and gives checked columns.

One client a process (``python bulk_clients.py NAME URL ROWS CONCURRENCY FOLDER``), so that imports, memory
and processor time are its own. It prints one line of JSON. The same question, schema and frame for all;
who has no checked columns of its own gets pydantic and a DataFrame around it, as its user would write it.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pydantic
from bulk_server import answer_of

MODEL = "deepseek-v4-flash"
KEY = "sk-sandbox-0000000000000000"
QUESTION = "Rate this message of a customer: {text}"


class Ticket(pydantic.BaseModel):
    """What is asked about a row."""

    label: Literal["card", "transfer", "cash"]
    score: int = pydantic.Field(ge=0, le=100)


SYSTEM = (
    "Answer with one JSON object that fits this JSON Schema: "
    + json.dumps(Ticket.model_json_schema(), separators=(",", ":"))
    + "\nWrite only the JSON object."
)


def rows_of(count: int) -> pd.DataFrame:
    """That many distinct messages of about 25 words."""
    return pd.DataFrame(
        {
            "text": [
                f"ticket number {n}: my {('card', 'transfer', 'cash')[n % 3]} did not arrive although I was "
                f"told twice on the phone that it would be here by day {n % 28 + 1} of the month"
                for n in range(count)
            ]
        }
    )


def messages_of(text: str) -> list[dict[str, str]]:
    """The conversation for one row."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": QUESTION.format(text=text)},
    ]


def body_of(text: str) -> dict[str, Any]:
    """The request for one row."""
    return {
        "model": MODEL,
        "messages": messages_of(text),
        "response_format": {"type": "json_object"},
        "max_tokens": 1024,
    }


async def pool(texts: list[str], concurrency: int, ask: Callable[[str], Any]) -> list[Ticket | None]:
    """That many workers over all rows: the cheapest loop there is."""
    answers: list[Ticket | None] = [None] * len(texts)
    todo = iter(enumerate(texts))

    async def work() -> None:
        for place, text in todo:
            answers[place] = Ticket.model_validate_json(await ask(text))

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return answers


def framed(frame: pd.DataFrame, answers: list[Ticket | None]) -> pd.DataFrame:
    """The answers on the frame's index."""
    rows = [answer.model_dump() if answer else {} for answer in answers]
    return pd.DataFrame(rows, index=frame.index, columns=["label", "score"])


# ------------------------------------------------------------------------------------- the clients


def aiohttp(url: str, frame: pd.DataFrame, concurrency: int, folder: str) -> pd.DataFrame:  # noqa: ARG001
    """A bare aiohttp loop: no retry, no ledger, no limits."""
    import aiohttp as library

    async def run() -> list[Ticket | None]:
        async with library.ClientSession(connector=library.TCPConnector(limit=0)) as session:

            async def ask(text: str) -> str:
                headers = {"Authorization": f"Bearer {KEY}"}
                address, body = f"{url}/chat/completions", body_of(text)
                async with session.post(address, json=body, headers=headers) as reply:
                    told = json.loads(await reply.read())
                content: str = told["choices"][0]["message"]["content"]
                return content

            return await pool(frame["text"].tolist(), concurrency, ask)

    return framed(frame, asyncio.run(run()))


def httpx(url: str, frame: pd.DataFrame, concurrency: int, folder: str) -> pd.DataFrame:  # noqa: ARG001
    """A bare httpx loop over the aiohttp transport."""
    import aiohttp as sockets
    import httpx as library
    from httpx_aiohttp import AiohttpTransport

    async def run() -> list[Ticket | None]:
        def session() -> Any:
            return sockets.ClientSession(connector=sockets.TCPConnector(limit=0))

        async with library.AsyncClient(transport=AiohttpTransport(client=session), timeout=600) as client:

            async def ask(text: str) -> str:
                headers = {"Authorization": f"Bearer {KEY}"}
                reply = await client.post(f"{url}/chat/completions", json=body_of(text), headers=headers)
                content: str = json.loads(reply.content)["choices"][0]["message"]["content"]
                return content

            return await pool(frame["text"].tolist(), concurrency, ask)

    return framed(frame, asyncio.run(run()))


def openai(url: str, frame: pd.DataFrame, concurrency: int, folder: str) -> pd.DataFrame:  # noqa: ARG001
    """openai-python over aiohttp, its fastest transport."""
    from openai import AsyncOpenAI, DefaultAioHttpClient

    async def run() -> list[Ticket | None]:
        http = DefaultAioHttpClient()
        async with AsyncOpenAI(base_url=url, api_key=KEY, http_client=http) as client:

            async def ask(text: str) -> str:
                reply = await client.chat.completions.create(**body_of(text))
                return reply.choices[0].message.content or ""

            return await pool(frame["text"].tolist(), concurrency, ask)

    return framed(frame, asyncio.run(run()))


def litellm(url: str, frame: pd.DataFrame, concurrency: int, folder: str) -> pd.DataFrame:  # noqa: ARG001
    """LiteLLM's acompletion."""
    import litellm as library

    async def run() -> list[Ticket | None]:
        async def ask(text: str) -> str:
            body = {**body_of(text), "model": f"openai/{MODEL}"}
            reply = await library.acompletion(**body, base_url=url, api_key=KEY)
            content: str = reply.choices[0].message.content
            return content

        return await pool(frame["text"].tolist(), concurrency, ask)

    return framed(frame, asyncio.run(run()))


def langchain(url: str, frame: pd.DataFrame, concurrency: int, folder: str) -> pd.DataFrame:  # noqa: ARG001
    """LangChain's abatch with structured output."""
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(model=MODEL, base_url=url, api_key=KEY, max_tokens=1024)  # type: ignore[arg-type]
    chain = model.with_structured_output(Ticket, method="json_mode")
    asked: list[Any] = [[("system", SYSTEM), ("user", QUESTION.format(text=text))] for text in frame["text"]]
    answers: list[Any] = asyncio.run(chain.abatch(asked, config={"max_concurrency": concurrency}))
    return framed(frame, answers)


def curator(url: str, frame: pd.DataFrame, concurrency: int, folder: str) -> pd.DataFrame:
    """bespokelabs-curator, which keeps its answers on disk."""
    import os

    os.environ.update(CURATOR_CACHE_DIR=folder, OPENAI_API_KEY=KEY)
    os.environ.update(TELEMETRY_ENABLED="0", HOSTED_CURATOR_VIEWER="0")
    if (found := find_spec("litellm")) is not None and found.origin is not None:
        brought = Path(found.origin).parent / "litellm_core_utils" / "tokenizers"
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(brought))  # tiktoken's files, else from the internet
    from bespokelabs import curator as library
    from datasets import Dataset

    class Rate(library.LLM):  # its own response_format refuses a model it does not know
        def prompt(self, row: dict[str, Any]) -> list[dict[str, str]]:
            return messages_of(row["text"])

        def parse(self, row: dict[str, Any], answer: str) -> dict[str, Any]:
            return {"place": row["place"], **Ticket.model_validate_json(answer).model_dump()}

    rate = Rate(
        model_name=MODEL,
        backend="openai",
        backend_params={
            "base_url": url,
            "max_concurrent_requests": concurrency,
            "max_requests_per_minute": 10**9,
            "max_tokens_per_minute": 10**12,
        },
        generation_params={"response_format": {"type": "json_object"}, "max_tokens": 1024},
    )
    told = rate(Dataset.from_dict({"text": frame["text"].tolist(), "place": list(range(len(frame)))}))
    found = getattr(told, "dataset", told).to_pandas().sort_values("place")
    return found.set_index(frame.index)[["label", "score"]]


def deepseek_nb(url: str, frame: pd.DataFrame, concurrency: int, folder: str) -> pd.DataFrame:
    """df.deepseek.apply: checked, committed to the ledger, resumable."""
    from deepseek_nb.batch.apply import apply
    from deepseek_nb.client.sync import Client

    template = QUESTION.replace("{text}", "{{text}}")
    with Client(
        base_url=url, api_key=KEY, data_dir=folder, model=MODEL, concurrency_max=concurrency
    ) as client:
        return apply(frame, template, schema=Ticket, client=client, progress=False)


CLIENTS: dict[str, tuple[Callable[..., pd.DataFrame], tuple[str, ...], tuple[str, ...]]] = {
    "aiohttp": (aiohttp, ("aiohttp",), ("aiohttp",)),
    "httpx": (httpx, ("httpx", "httpx-aiohttp"), ("httpx", "httpx_aiohttp")),
    "deepseek_nb": (deepseek_nb, ("deepseek-nb",), ("deepseek_nb.batch.apply", "deepseek_nb.client.sync")),
    "openai": (openai, ("openai",), ("openai",)),
    "curator": (curator, ("bespokelabs-curator",), ("bespokelabs.curator",)),
    "litellm": (litellm, ("litellm",), ("litellm",)),
    "langchain": (langchain, ("langchain-openai",), ("langchain_openai",)),
}
"""By name: what runs it, the distributions whose versions are told, the modules whose import is timed."""


def cpu_s() -> float:
    """Processor seconds of this process so far, all threads, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def peak_mb() -> float:
    """The most memory this process held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def now_mb() -> float:
    """The memory this process holds, in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    """Import, run, check every row, tell."""
    import importlib

    name, url, rows, concurrency, folder = sys.argv[1:6]
    work, distributions, modules = CLIENTS[name]
    began = time.perf_counter()
    for module in modules:
        importlib.import_module(module)
    import_s = time.perf_counter() - began
    frame = rows_of(int(rows))
    before_mb, before_s, began = now_mb(), cpu_s(), time.perf_counter()
    result = work(url, frame, int(concurrency), folder)
    wall_s, used_s = time.perf_counter() - began, cpu_s() - before_s
    right = [answer_of(n) for n in range(len(frame))]
    wrong = sum(
        (label, score) != (told["label"], told["score"])
        for label, score, told in zip(result["label"], result["score"], right, strict=True)
    )
    print(
        json.dumps(
            {
                "client": name,
                "wall_s": wall_s,
                "cpu_ms": used_s * 1000 / len(frame),
                "peak_mb": peak_mb(),
                "row_bytes": (peak_mb() - before_mb) * 1e6 / len(frame),
                "import_s": import_s,
                "wrong": wrong,
                "versions": [f"{each} {version(each)}" for each in distributions],
            }
        )
    )


if __name__ == "__main__":
    main()
