"""Child process of the promises' tests: asks the questions 0 to N-1 and prints "done" at the end.

usage: ask_all.py BASE_URL KEY FOLDER N IN_FLIGHT NAME, NAME: "single" for single questions, else a job's name
"""

from __future__ import annotations

import asyncio
import sys

from deepseek_nb.client.aio import AsyncClient

base_url, api_key, folder, count, in_flight, name = sys.argv[1:]
settings = {
    "base_url": base_url,
    "api_key": api_key,
    "data_dir": folder,
    "concurrency_max": int(in_flight),
    "thinking": False,
}
questions = [f"Return exactly: answer number {number}" for number in range(int(count))]


async def ask_each() -> None:
    async with AsyncClient(**settings) as client:
        numbers = iter(range(len(questions)))

        async def worker() -> None:
            for number in numbers:
                answer = await client.ask(questions[number], max_tokens=1024, priority=2)
                assert answer.text.endswith(f"answer number {number}"), answer.text

        await asyncio.gather(*[worker() for _ in range(int(in_flight))])


def run_job() -> None:
    import pandas as pd

    import deepseek_nb as ds

    with ds.Client(**settings) as client:
        out = ds.apply(
            pd.DataFrame({"q": questions}), "{{q}}", job=name, client=client, progress=False, max_tokens=1024
        )
    assert (out["status"] == "done").all(), out["error"].dropna().tolist()[:3]
    assert [text.rpartition(" ")[2] for text in out["answer"]] == [str(n) for n in range(len(questions))]


if name == "single":
    asyncio.run(ask_each())
else:
    run_job()
print("done", flush=True)
