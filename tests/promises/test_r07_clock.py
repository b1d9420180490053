"""R7: a wall clock that jumps a day forward and back expires nothing for good, and nobody waits for it."""

from __future__ import annotations

import time

import pytest
from children import run_code

from deepseek_nb.adapters.journal import Journal
from deepseek_nb.adapters.store import AnswerStore
from deepseek_nb.sandbox import Sandbox

DAY_S = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.at = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
def test_no_answer_is_lost_to_a_jump(tmp_path, jump_s):
    """Without a ttl a jump changes nothing; with one, what looks too old is there again when it is set right.

    An answer from the future counts as new, so that a clock set back makes nobody pay again.
    """
    clock = Clock()
    with AnswerStore(tmp_path, now=clock, memory_items=2) as store:
        answers = {f"k{n}": {"n": n} for n in range(50)}
        store.put_many(answers.items())
        clock.at += jump_s
        assert store.get_many(answers) == answers
        assert store.get_many(answers, ttl_s=1800) == ({} if jump_s > 0 else answers)
        store.put("while it is wrong", {})
        clock.at -= jump_s
        assert store.get_many(answers, ttl_s=1800) == answers
        assert store.get("while it is wrong", ttl_s=1800) == ({} if jump_s > 0 else None)
        assert store.get("while it is wrong") == {}


@pytest.mark.parametrize("jump_s", [DAY_S, -DAY_S])
def test_leases_claims_and_due_times_do_not_go_by_the_wall_clock(tmp_path, jump_s):
    """What one process holds stays its own, whatever day it is."""
    clock = Clock()
    with Journal(tmp_path, now=clock) as journal, Journal(tmp_path, now=clock, owner="other") as other:
        journal.open_job("j", "d", {}, [("a", "", 3), ("b", "", 3)])
        (item,) = journal.lease("j", 1, 60)
        (late,) = journal.lease("j", 1, 60)
        journal.put_back([late], due_in_s=3600)
        clock.at += jump_s
        assert other.reap("j") == 0
        assert other.lease("j", 5, 60) == []
        assert journal.ack_many([(item, "{}", 0.1)]) == 1
        assert journal.jobs()[0].name == "j"
    with AnswerStore(tmp_path, now=clock) as store, AnswerStore(tmp_path, now=clock) as another:
        assert store.claim("k")
        clock.at -= 2 * jump_s
        assert not another.claim("k")


def test_a_job_with_tokens_under_a_clock_that_jumps_every_time(tmp_path):
    """Every look at the wall clock is a day off, forward or back: each row is asked once, at once.

    The credential is a short-lived JWT, renewed by its monotonic age; the server takes any token.
    """
    with Sandbox(api_key=None, count="estimate", time_scale=100) as server:
        started = time.monotonic()
        out = run_code(
            """
            import itertools, sys, time
            real, days = time.time, itertools.cycle([0, 1, 0, -1])
            time.time = lambda: real() + 86_400 * next(days)     # before anything of ours is imported
            import pandas as pd
            import deepseek_nb as ds
            client = ds.Client(
                base_url=sys.argv[1], data_dir=sys.argv[2], thinking=False, concurrency_max=8, api_key=None,
                jwt_client_id="desk", jwt_client_secret="s" * 40,
            )
            frame = pd.DataFrame({"n": range(100)})
            for turn in range(2):
                answers = ds.apply(
                    frame, "Return exactly: answer {{n}}", client=client, progress=False, job=f"j{turn}",
                    max_tokens=50, ttl="60h",  # from a day behind to a day ahead an answer looks two days old
                )
                assert (answers["status"] == "done").all(), answers["error"].dropna().tolist()[:3]
                assert (answers["latency_s"] >= 0).all()
            client.close()
            print("done")
            """,
            server.base_url,
            tmp_path,
        )
        assert out == "done\n"
        assert time.monotonic() - started < 60
        assert len(server.log.complete) == 100
        assert server.log.answered_twice() == {}
