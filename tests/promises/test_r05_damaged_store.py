"""R5: a client on a damaged store gives the right answer, asks again, or says what is wrong."""

from __future__ import annotations

import random
import shutil
import warnings
from collections import Counter
from pathlib import Path

import pytest
from workers import MAX_TOKENS, QUESTION, frame_of, told

from deepseek_nb.adapters.database import StoreDamaged
from deepseek_nb.batch.apply import apply
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import StoreFailed
from deepseek_nb.sandbox import Sandbox

ROWS = 12
FLIPS = 20


@pytest.mark.slow
@pytest.mark.parametrize("name", ["answers.db", "jobs.db"])
def test_a_flipped_byte_gives_no_wrong_answer(tmp_path, name):
    """Single calls and the job again, after one byte was changed: never a traceback, never wrong."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    chance = random.Random(name)
    outcomes: Counter[str] = Counter()
    with Sandbox(count="estimate", time_scale=100) as server:
        _work(server, good)
        content = (good / name).read_bytes()
        used = [place for place, byte in enumerate(content) if byte]  # most of a small file is empty
        for place in chance.sample(used, FLIPS):
            shutil.copytree(good, bad)
            flipped = bytearray(content)
            flipped[place] ^= chance.choice([0xFF, 1 << chance.randrange(8)])
            (bad / name).write_bytes(flipped)
            paid = len(server.log)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", StoreDamaged)
                try:
                    _work(server, bad)
                    outcomes["right at once" if len(server.log) == paid else "asked again"] += 1
                except StoreFailed as error:
                    outcomes["clear error" if error.hint else "an error without advice"] += 1
            shutil.rmtree(bad)
    print(f"{name}: {dict(outcomes)}")
    assert outcomes["an error without advice"] == 0
    assert outcomes["right at once"] + outcomes["asked again"] > FLIPS / 2


def _work(server: Sandbox, folder: Path) -> None:
    """Ask all questions, singly and as a job; every answer has to be the right one.

    A row that was damaged in the queue stays pending, with a warning that says to run the call again.
    """
    with Client(**told(server.base_url, server.api_key, folder)) as client:
        for last in (False, True):
            out = apply(
                frame_of(ROWS),
                QUESTION + "{{n}}",
                job="j",
                client=client,
                progress=False,
                max_tokens=MAX_TOKENS,
            )
            done = out["status"] == "done"
            assert (done | (out["status"] == "pending")).all()
            assert done.all() or not last
            assert out.loc[done, "answer"].tolist() == [
                f"answer number {n}" for n in range(ROWS) if done.iloc[n]
            ]
        for n in range(ROWS):
            assert client.ask(f"{QUESTION}{n}", max_tokens=MAX_TOKENS).text == f"answer number {n}"
