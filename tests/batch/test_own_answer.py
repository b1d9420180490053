"""Every row gets exactly its own answer: any frame, order, fault, stop and resume; none is answered twice."""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections import Counter
from itertools import count

import pandas as pd
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from deepseek_nb.batch.job import Job
from deepseek_nb.batch.submit import submit
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import BalanceExhausted, BudgetExceeded
from deepseek_nb.sandbox import Completion, Fault, FaultScript, ParsedRequest, Sandbox

ASK = "Compare these: {{left}} and {{right}}"
TOKEN = re.compile(r"\b(?:left|right)-\d+-end\b")
FAULTS = {"busy_503": 0.15, "reset_before_headers": 0.1, "no_done": 0.1}
"""Refused, broken before and after it was paid for; each row's first try may meet one."""


def echo(request: ParsedRequest) -> Completion:
    """The values of the row that was asked, wherever they stand in the request.

    Of a pack the rows come in another order; the third is left out, the fourth has the fifth's number.
    """
    if '"row":' not in request.question:
        return Completion(own(request.question))
    rows = [json.loads(line) for line in request.question.split("\n")]
    told = [
        {"id": row["id"] + (row["id"] == 4), "answer": own(json.dumps(row["row"]))}
        for row in reversed(rows)
        if row["id"] != 3
    ]
    return Completion(json.dumps({"answers": told}))


def own(text: str) -> str:
    return " ".join(sorted(TOKEN.findall(text)))


@pytest.fixture(scope="module")
def server():
    with Sandbox(engine=echo, count="estimate", balance_usd="1000", first_token_s=0.01) as running:
        yield running


def index_of(kind: str, rows: int) -> pd.Index:
    return {
        "range": lambda: pd.RangeIndex(7, 7 + rows),
        "duplicated": lambda: pd.Index(["same"] * rows, name="left"),
        "times": lambda: pd.DatetimeIndex(["2026-01-01", None] * rows)[:rows],
        "multi": lambda: pd.MultiIndex.from_arrays([["a", "b"] * rows, [1] * 2 * rows])[:rows],
        "category": lambda: pd.CategoricalIndex(["x", "y"] * rows)[:rows],
        "mixed": lambda: pd.Index([1, "a", None, 2.5, (3,)] * rows, dtype=object)[:rows],
    }[kind]()


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    """Up to 24 rows, many alike, some with missing values of every kind."""
    values = st.one_of(st.integers(0, 3), st.sampled_from([None, float("nan"), pd.NA, pd.NaT]))
    pairs = draw(st.lists(st.tuples(st.integers(0, 5), st.one_of(st.integers(0, 3), values)), max_size=24))
    pairs = [*pairs, (0, 0)]  # one at least can be asked
    frame = pd.DataFrame(
        {
            "left": [f"left-{left}-end" for left, _ in pairs],
            "unused": range(len(pairs)),
            "right": pd.Series(
                [right if pd.isna(right) else f"right-{right}-end" for _, right in pairs], dtype=object
            ),
        }
    )
    if draw(st.booleans()):
        frame["left"] = frame["left"].astype("category")
    return frame.set_axis(index_of(draw(st.sampled_from(INDEXES)), len(pairs)))


INDEXES = ["range", "duplicated", "times", "multi", "category", "mixed"]


def faults_of(seed: int, stop_after: int | None) -> FaultScript:
    """Seeded faults on first tries; the account is empty after so many requests."""
    seeded = FaultScript.weights(FAULTS, seed=seed, per_prompt_tries=1)
    numbers = count()

    def rule(ask) -> Fault | None:
        if stop_after is not None and next(numbers) >= stop_after:
            return Fault("balance_402")
        return seeded(ask)

    return FaultScript(rule)


def wait_for_its_end(job: Job, cancel_after: int | None) -> pd.DataFrame:
    """The frame, whatever ended the job."""
    while cancel_after is not None and not job.done:
        if job.progress.finished >= cancel_after:
            job.cancel()
            cancel_after = None
        time.sleep(0.002)
    try:
        return job.result(60)
    except (BalanceExhausted, BudgetExceeded) as stopped:
        return stopped.frame


def has_its_own(out: pd.DataFrame, frame: pd.DataFrame, *, whole: bool) -> int:
    """Check each row against its own values; how many are still pending."""
    assert out.index.equals(frame.index)
    pending = 0
    for left, right, answer, status in zip(
        frame["left"], frame["right"], out["answer"], out["status"], strict=True
    ):
        if pd.isna(right):
            assert (status, pd.isna(answer)) == ("failed", True)
        elif status == "done":
            assert answer == f"{left} {right}"
        else:
            assert (status, pd.isna(answer), whole) == ("pending", True, False)
            pending += 1
    return pending


def stop_and_go_on(
    server: Sandbox, frame: pd.DataFrame, seed: int, stop: str, after: int, together: int
) -> bool:
    """Run a job, stop it, go on with its rows in another order; whether it was stopped before its end."""
    server.log.clear()
    with (
        tempfile.TemporaryDirectory() as folder,
        Client(
            base_url=server.base_url,
            api_key=server.api_key,
            data_dir=folder,
            concurrency_max=3,
            silence_timeout_s=5,
        ) as client,
    ):
        options = {"client": client, "job": "own", "max_tokens": 40, "rows_per_request": together}
        server.faults = faults_of(seed, after if stop == "402" else None)
        first = submit(frame, ASK, **options, budget_usd=1e-5 * (after + 1) if stop == "budget" else None)
        out = wait_for_its_end(first, after if stop == "cancel" else None)
        pending = has_its_own(out, frame, whole=False)
        server.faults = faults_of(seed, None)
        again = frame.sample(frac=1, random_state=seed)
        out = wait_for_its_end(submit(again, ASK, **options), None)
        assert has_its_own(out, again, whole=True) == 0
        requests = len(server.log)
        has_its_own(wait_for_its_end(submit(frame, ASK, **options), None), frame, whole=True)
        assert len(server.log) == requests
    if together > 1:
        return pending > 0
    asked = frame[["left", "right"]].astype(object).dropna().drop_duplicates()
    assert len({record.question_hash for record in server.log.chats if record.usable}) == len(asked)
    assert server.log.answered_twice(by="question_hash") == {}
    charged = Counter(record.question_hash for record in server.log.chats if record.cost_usd > 0)
    broken = Counter(record.question_hash for record in server.log.chats if record.fault == "no_done")
    assert all(times == 1 + broken[asked_for] for asked_for, times in charged.items())
    return pending > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::deepseek_nb.batch.job.JobIncomplete")
@pytest.mark.filterwarnings("ignore::deepseek_nb.core.budget.NearBudget")
def test_every_row_gets_its_own_answer(server):
    """Stopped anywhere and gone on with in another order: all rows are right, each question is paid once."""
    stopped: Counter[str] = Counter()

    @settings(max_examples=25, deadline=None, phases=[Phase.generate])  # as it is found: each takes a second
    @given(
        frame=frames(),
        seed=st.integers(0, 1000),
        stop=st.sampled_from(["402", "cancel", "budget", "nothing"]),
        after=st.integers(0, 8),
        together=st.sampled_from([1, 1, 2, 5]),
    )
    def holds(frame, seed, stop, after, together):
        stopped[stop] += stop_and_go_on(server, frame, seed, stop, after, together)

    holds()
    print(f"stopped in the middle: {dict(stopped)}")
    assert stopped["nothing"] == 0
    assert stopped.total() >= 3, "a job that is never stopped shows little"
