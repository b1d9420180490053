"""R9 by the calendar: kernels never pass the day's or the month's limit together, kills included."""

from __future__ import annotations

import random
import time
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from workers import Worker, ask_each, frame_of, run_job, told

from deepseek_nb.adapters.spending import SPENDING_FILE, Spending
from deepseek_nb.batch.apply import apply
from deepseek_nb.client.sync import Client
from deepseek_nb.client.upstreams import account_of
from deepseek_nb.core.budget import NearBudget
from deepseek_nb.core.errors import BudgetExceeded
from deepseek_nb.sandbox import Sandbox

IN_FLIGHT = 8
ROWS = 400
NIGHT = datetime(2026, 11, 25, 20, tzinfo=UTC)
"""Four in the morning in Beijing, never a peak hour: prices are the same every day."""


def row_cost_usd(folder: Path) -> float:
    """What one row is charged now."""
    with Sandbox(count="estimate") as server:
        Worker(run_job, told(server.base_url, server.api_key, folder), 2, "one").result()
        return server.log.cost_usd / 2


def spent_usd(settings: dict, span: str = "day") -> tuple[float, float]:
    """What the account has spent today (this month): for sure, and perhaps."""
    with Client(**settings) as client:
        ledger = Spending(settings["data_dir"] / SPENDING_FILE, account_of(client.settings))
    today = datetime.now(UTC).astimezone().date()
    return ledger.spent(today.isoformat() if span == "day" else f"{today:%Y-%m}")


@pytest.mark.slow
def test_kernels_with_kills_never_pass_the_day(tmp_path):
    """Three processes, each with a job of its own, one killed: by the server's own account."""
    limit_usd = 300 * row_cost_usd(tmp_path / "one")
    chance = random.Random(9)
    with Sandbox(first_token_s=0.1, count="estimate") as server:
        settings = told(server.base_url, server.api_key, tmp_path / "data", IN_FLIGHT)
        settings["budget_day_usd"] = limit_usd
        names = iter(f"job-{n}" for n in range(9))
        processes = [Worker(run_job, settings | {"route": name}, ROWS, name) for name in _some(names, 3)]
        for _ in range(2):
            time.sleep(chance.uniform(0.5, 1.0))
            processes.pop(0).kill()
            name = next(names)
            processes.append(Worker(run_job, settings | {"route": name}, ROWS, name))
        ends = [process.result() for process in processes]
        charged_usd = server.log.cost_usd
        booked_usd, unknown_usd = spent_usd(settings)
        print(
            f"limit ${limit_usd:.6f}, charged ${charged_usd:.6f}, booked {booked_usd:.6f} + {unknown_usd:.6f}"
        )
        assert [end["said"] for end in ends] == ["BudgetExceeded"] * 3
        assert charged_usd <= limit_usd
        assert charged_usd <= booked_usd + unknown_usd + 1e-12
        assert booked_usd + unknown_usd <= limit_usd + 1e-12
        assert charged_usd > 0.2 * limit_usd, "money was spent, not only set aside"


def _some(names, count):
    return [next(names) for _ in range(count)]


def test_single_questions_of_two_kernels_are_counted_to_the_last_one(tmp_path):
    """Enough for all: what is booked is what the server charged, and nothing stays set aside."""
    with Sandbox(count="estimate") as server:
        settings = told(server.base_url, server.api_key, tmp_path / "data") | {"budget_month_usd": 5.0}
        workers = [Worker(ask_each, settings | {"route": f"r{n}"}, 30, 4) for n in range(2)]
        assert [worker.result()["said"] for worker in workers] == ["ok", "ok"]
        for span in ("day", "month"):
            assert spent_usd(settings, span) == (pytest.approx(server.log.cost_usd), 0.0)


ALIKE = {"layout": "inline", "max_tokens": 30, "progress": False}
"""Every row costs the same: nothing is found in the server's cache."""


def _try(client: Client) -> tuple[BudgetExceeded | None, list[warnings.WarningMessage]]:
    """Ask for all rows; what stopped it, and what was said."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", NearBudget)
        try:
            apply(frame_of(90), "Say {{n}}", job="j", **ALIKE, client=client)
        except BudgetExceeded as error:
            return error, said
    return None, said


def _done(error: BudgetExceeded) -> int:
    return int((error.frame["status"] == "done").sum())


def test_a_day_that_is_used_up_stops_the_job_and_says_when_it_goes_on(tmp_path):
    """The next day the same call goes on, and no row is paid twice; the warning came at 80%."""
    with Sandbox(count="estimate") as server:
        settings = told(server.base_url, server.api_key, tmp_path / "data", 2)
        with Client(**settings) as client:
            client.aio.now_utc = lambda: NIGHT
            apply(frame_of(4), "Count: {{n}}", job="first", **ALIKE, client=client)
            each_usd = client.budget.spent_usd / 4
        with Client(**settings, budget_day_usd=40 * each_usd) as client:
            client.aio.now_utc = lambda: NIGHT
            stopped, said = _try(client)
            assert [warning.category for warning in said] == [NearBudget]
            assert "budget of the day" in str(said[0].message)
            assert "budget of the day" in stopped.message
            assert "starts anew at" in stopped.hint
            done = [_done(stopped)]
            assert 20 < done[0] < 90
            for days in range(1, 5):
                client.aio.now_utc = lambda days=days: NIGHT + timedelta(days=days)
                stopped, _ = _try(client)
                if stopped is None:
                    break
                done.append(_done(stopped))
            assert stopped is None
            assert done == sorted(set(done)), "each day brings some rows"
        assert server.log.answered_twice() == {}
