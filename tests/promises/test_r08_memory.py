"""R8: a job holds a fixed number of tasks and of rows, however many rows it has."""

from __future__ import annotations

import asyncio

import pytest
from workers import MAX_TOKENS, QUESTION, told

from deepseek_nb.adapters.journal import Journal
from deepseek_nb.batch.intake import CHUNK_ROWS
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.run import JobRun
from deepseek_nb.batch.spec import JobSpec
from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.sandbox import Sandbox

IN_FLIGHT = 8


def most_held(folder, rows: int) -> dict[str, int]:
    """Work off a job of so many rows; the most tasks and leased rows that were there at any look."""

    async def work(server: Sandbox) -> dict[str, int]:
        most = {"tasks": 0, "rows": 0}
        async with AsyncClient(**told(server.base_url, server.api_key, folder, IN_FLIGHT)) as client:
            with Journal(folder) as journal:
                make = JobSpec(QUESTION + "{{n}}", None, max_tokens=MAX_TOKENS).errands(client, user_id="u")
                prompts = [f"{QUESTION}{n}" for n in range(rows)]
                keys = [make(prompt, None).key for prompt in prompts]
                journal.open_job("j", "d", {}, zip(keys, prompts, [2] * rows, strict=True))
                figures = Progress(total=rows)
                run = JobRun(client, journal, "j", keys, make, figures, patience_s=60)
                working = asyncio.create_task(run.run())
                while not working.done():
                    await asyncio.sleep(0.002)
                    most["tasks"] = max(most["tasks"], len(asyncio.all_tasks()))
                    most["rows"] = max(most["rows"], len(run.intake.held))
                working.result()
                assert (figures.done, len(run.intake.held)) == (rows, 0)
        return most

    with Sandbox(count="estimate", time_scale=1000) as server:
        return asyncio.run(work(server))


@pytest.mark.slow
def test_tasks_and_leased_rows_do_not_grow_with_the_job(tmp_path):
    """Five times the rows, no task more; rows are leased in chunks, never all of them."""
    small, large = most_held(tmp_path / "small", 300), most_held(tmp_path / "large", 1500)
    print(f"300 rows: {small}; 1,500 rows: {large}")
    assert large["tasks"] <= max(small["tasks"], 2 * IN_FLIGHT + 20)
    assert large["rows"] <= 2 * CHUNK_ROWS + IN_FLIGHT
