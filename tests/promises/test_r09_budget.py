"""R9: processes at work on one job never spend more than its limit together, kills included."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from children import run_code
from hypothesis import given
from hypothesis import strategies as st
from workers import Worker, run_job, told

from deepseek_nb.adapters.database import open_database
from deepseek_nb.adapters.journal import SCHEMA, UPGRADES, VERSION, Journal
from deepseek_nb.core.accounts import Drawn
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.errors import BudgetExceeded
from deepseek_nb.sandbox import Sandbox

IN_FLIGHT = 8
ROWS = 400


def working(server: Sandbox, folder: Path, limit_usd: float | None, rows: int = ROWS) -> Worker:
    """A process at work on the job "shared"."""
    settings = told(server.base_url, server.api_key, folder, IN_FLIGHT)
    return Worker(run_job, settings, rows, "shared", limit_usd)


def owners_of_shares(folder: Path) -> list[int]:
    """The pids of those who have set something aside."""
    try:
        with contextlib.closing(
            sqlite3.connect(f"file:{folder / 'jobs.db'}?mode=ro", uri=True)
        ) as connection:
            rows = connection.execute("SELECT owner FROM allowances WHERE usd > 0").fetchall()
    except sqlite3.OperationalError:
        return []  # not made yet
    return [int(owner.split("|")[2]) for (owner,) in rows]


def row_cost_usd(folder: Path) -> float:
    """What one row of the job is charged."""
    with Sandbox(count="estimate") as server:
        working(server, folder / "one", None, rows=2).result()
        return server.log.cost_usd / 2


@pytest.mark.slow
def test_four_processes_with_kills_never_pass_the_limit(tmp_path):
    """By the server's own account; what a kill left open is counted as spent."""
    limit_usd = 300 * row_cost_usd(tmp_path)
    chance = random.Random(3)
    folder = tmp_path / "data"
    with Sandbox(first_token_s=0.2, count="estimate") as server:
        processes = {
            process.pid: process for process in [working(server, folder, limit_usd) for _ in range(4)]
        }
        killed = 0
        while killed < 3 and any(process.running for process in processes.values()):
            time.sleep(chance.uniform(0, 0.3))
            with_money = [pid for pid in owners_of_shares(folder) if pid in processes]
            if with_money:
                processes.pop(chance.choice(with_money)).kill()
                killed += 1
                process = working(server, folder, limit_usd)
                processes[process.pid] = process
        assert killed == 3
        ends = [process.result() for process in processes.values()]
        assert [end["said"] for end in ends] == ["BudgetExceeded"] * 4
        charged_usd = server.log.cost_usd
        assert charged_usd <= limit_usd
        with Journal(folder) as journal:
            job = journal.job("shared")
        assert job.spent_usd + job.unknown_usd <= limit_usd + 1e-12
        assert charged_usd <= job.spent_usd + job.unknown_usd + 1e-12
        assert job.unknown_usd > 0
        print(
            f"limit ${limit_usd:.6f}, charged ${charged_usd:.6f}, booked ${job.spent_usd:.6f} and "
            f"${job.unknown_usd:.6f} perhaps; {ends[0]['done']} rows done"
        )
        end = working(server, folder, 10 * limit_usd).result()
        assert (end["said"], end["done"]) == ("ok", ROWS)


def test_a_limit_that_fits_is_used_by_all(tmp_path):
    """With enough for every row the job is finished; nothing stays set aside, nothing is unknown."""
    with Sandbox(first_token_s=0.02, count="estimate") as server:
        working_on = [working(server, tmp_path, 1.0, rows=150) for _ in range(4)]
        ends = [process.result() for process in working_on]
        assert [(end["said"], end["done"]) for end in ends] == [("ok", 150)] * 4
        with Journal(tmp_path) as journal:
            job = journal.job("shared")
            assert journal.draw("shared", 1.0, 1.0, 0.0).elsewhere_usd == 0
        assert job.unknown_usd == 0
        assert job.spent_usd == pytest.approx(server.log.cost_usd)


def test_an_empty_account_stops_every_process(tmp_path):
    """402: each process sends nothing after what it had in flight; topped up, the job is finished."""
    with Sandbox(first_token_s=0.05, count="estimate", balance_usd="0.002") as server:
        ends = [process.result() for process in [working(server, tmp_path, None) for _ in range(4)]]
        assert [end["said"] for end in ends] == ["BalanceExhausted"] * 4
        refused = sum(record.status == 402 for record in server.log)
        assert refused <= 4 * IN_FLIGHT
        server.balance_usd = "10"
        end = working(server, tmp_path, None).result()
        assert (end["said"], end["done"]) == ("ok", ROWS)
        assert server.log.answered_twice() == {}


# ---------------------------------------------------------------- the ledger


@pytest.fixture
def journal(tmp_path):
    with Journal(tmp_path) as opened:
        opened.open_job("j", "d", {}, [("k", "{}", 3)])
        yield opened


def test_what_is_set_aside_is_not_there_for_others(journal, tmp_path):
    """Drawn, used up by acks and bookings, returned."""
    with Journal(tmp_path) as other:
        assert journal.draw("j", 1.0, 0.6, 0.1) == Drawn(0.6, 0.0, 0.0, 0.0)
        assert other.draw("j", 1.0, 0.6, 0.5) == Drawn(0.0, 0.0, 0.0, 0.6)
        assert other.draw("j", 1.0, 0.6, 0.1).usd == pytest.approx(0.4)
        (item,) = journal.lease("j", 1, 60)
        journal.ack_many([(item, "{}", 0.25)])
        journal.add_spend("j", 0.1, unknown_usd=0.05)
        ledger_says = other.draw("j", 1.0, 0.6, 0.1)
        assert (ledger_says.usd, ledger_says.spent_usd, ledger_says.unknown_usd) == (0.0, 0.35, 0.05)
        assert ledger_says.elsewhere_usd == pytest.approx(0.2)
        journal.return_share("j")
        assert other.draw("j", 1.0, 0.6, 0.1).usd == pytest.approx(0.2)
        other.return_share("j", unknown=True)
        assert journal.job("j").unknown_usd == pytest.approx(0.65)
        assert journal.draw("j", 1.0, 0.6, 0.1).usd == 0


def test_what_a_dead_process_had_set_aside_may_have_been_spent(journal, tmp_path):
    """It is booked as perhaps charged, once, at the next look; never free again."""
    _die_with_a_share(tmp_path)
    assert journal.draw("j", 1.0, 0.9, 0.8) == Drawn(0.0, 0.0, 0.3, 0.0)
    journal.open_job("j", "d", {}, [])
    assert journal.job("j").unknown_usd == pytest.approx(0.3)
    assert journal.draw("j", 1.0, 0.9, 0.1).usd == pytest.approx(0.7)


def _die_with_a_share(folder: Path) -> None:
    run_code(
        """
        import os, sys
        from deepseek_nb.adapters.journal import Journal
        journal = Journal(sys.argv[1])
        if os.fork() == 0:
            journal.draw("j", 1.0, 0.3, 0.1)
            os.kill(os.getpid(), 9)
        os.wait()
        """,
        folder,
    )


def test_a_journal_of_the_version_before_gets_the_table(tmp_path):
    """Its rows stay."""
    old = [text for text in SCHEMA if text not in UPGRADES[1] + UPGRADES[2]]
    connection = open_database(tmp_path / "jobs.db", old, 1)
    connection.execute("INSERT INTO jobs VALUES (1, 'j', 'd', 0, '{}', 'paused', 0, 0.5, 0, 'b')")
    connection.close()
    with Journal(tmp_path) as journal:
        assert journal.draw("j", 1.0, 0.9, 0.1) == Drawn(0.5, 0.5, 0.0, 0.0)
    assert VERSION == 3


# ---------------------------------------------------------------- the budget that draws


def ledger(limit: list[float]) -> Callable[[float, float], Drawn]:
    """The plainest ledger: gives what is left of ``limit[0]``."""

    def draw(want_usd: float, least_usd: float) -> Drawn:
        given = min(want_usd, limit[0]) if limit[0] >= least_usd else 0.0
        limit[0] -= given
        return Drawn(given, 0.1, 0.0, 0.2)

    return draw


@given(st.lists(st.tuples(st.floats(0.01, 0.3), st.floats(0, 1)), max_size=60))
def test_never_more_is_reserved_than_was_drawn(rows):
    """Whatever the rows cost, two budgets on one ledger stay within its limit together."""
    left = [1.0]
    budgets = [Budget(1.0, draw=ledger(left)), Budget(1.0, draw=ledger(left))]
    for number, (worst_usd, share) in enumerate(rows):
        budget = budgets[number % 2]
        try:
            budget.reserve(number, worst_usd)
        except BudgetExceeded:
            continue
        assert sum(b.spent_usd + b.unknown_usd + b.reserved_usd for b in budgets) <= 1.0 + 1e-9
        if number % 3:
            budget.settle(number, worst_usd * share, certain=number % 3 == 1)


def test_a_refusal_names_what_others_hold_and_a_dry_ledger_is_not_asked_again():
    """Once while nothing changes here, and again after something was settled."""
    asked = []

    def draw(want_usd: float, least_usd: float) -> Drawn:
        asked.append((want_usd, least_usd))
        return Drawn(0.4 if len(asked) == 1 else 0.0, 0.1, 0.0, 0.5)

    budget = Budget(1.0, draw=draw)
    budget.reserve("a", 0.3)
    assert asked == [(pytest.approx(4.8), pytest.approx(0.3))]
    for _ in range(3):
        with pytest.raises(BudgetExceeded, match=r"\$0\.50 set aside by other processes") as caught:
            budget.reserve("b", 0.3)
        assert caught.value.fits_later
    assert len(asked) == 2
    budget.settle("a", 0.2)
    with pytest.raises(BudgetExceeded) as caught:
        budget.reserve("b", 0.3)
    assert not caught.value.fits_later
    assert len(asked) == 3
    budget.reserve("c", 0.2)
