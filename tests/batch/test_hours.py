"""``when="offpeak"``: nothing is sent in dear hours; the job goes on by itself. The clock is the tests'."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from deepseek_nb import data
from deepseek_nb.batch.apply import apply
from deepseek_nb.batch.figures import headline, trouble
from deepseek_nb.batch.hours import Hours, with_more_holidays
from deepseek_nb.batch.job import live_jobs
from deepseek_nb.batch.submit import submit
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.prices import PriceTable
from deepseek_nb.sandbox import Sandbox

ASK = "What is it about? {{text}}"
PEAK = datetime(2026, 11, 25, 2, 0, tzinfo=UTC)
"""Ten in the morning of a Wednesday in Beijing; peak until noon."""
NOON = datetime(2026, 11, 25, 4, 0, tzinfo=UTC)


@pytest.fixture(scope="module")
def prices() -> PriceTable:
    return PriceTable.from_data(data.read_json("prices.json"), data.read_json("holidays_cn.json"))


class Clock:
    """What time it is, as the test says."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def slow(tmp_path):
    """A server that takes a fifth of a second, its client, and their clock, at peak."""
    with (
        Sandbox(first_token_s=0.2, count="estimate") as server,
        Client(
            base_url=server.base_url, api_key=server.api_key, data_dir=tmp_path, concurrency_max=4
        ) as client,
    ):
        client.aio.now_utc = clock = Clock(PEAK)
        yield server, client, clock
        for job in live_jobs():
            job.cancel(drain_s=0)
            assert job.wait(10)


def eventually(condition: Callable[[], bool], within_s: float = 10.0) -> bool:
    end_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.01)
    return True


def beijing(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}+08:00").astimezone(UTC)


@pytest.mark.parametrize(
    ("now", "wait"),
    [
        ("2026-11-25T08:00", timedelta()),
        ("2026-11-25T08:58:59", timedelta()),
        ("2026-11-25T08:59:30", timedelta(hours=3, seconds=30)),  # what is sent now would end in peak
        ("2026-11-25T09:00", timedelta(hours=3)),
        ("2026-11-25T11:59:59", timedelta(seconds=1)),
        ("2026-11-25T12:00", timedelta()),
        ("2026-11-25T14:00", timedelta(hours=4)),
        ("2026-11-25T23:00", timedelta()),
        ("2026-11-28T10:00", timedelta()),  # a Saturday
        ("2026-10-01T10:00", timedelta()),  # National Day, a Thursday
        ("2031-10-01T10:00", timedelta(hours=2)),  # a Wednesday in a year whose holidays nobody knows
    ],
)
def test_the_cheap_hours_are_those_of_beijing(prices, now, wait):
    at = beijing(now)
    assert Hours(prices, "deepseek-flash", lambda: at).wait_s() == wait.total_seconds()


def test_a_model_without_peak_prices_is_always_cheap_and_an_unknown_one_goes_by_the_hours(prices):
    flat = next(row for row in prices.rows if row.peak is None)
    dearer_later = replace(prices, rows=(flat,))
    assert Hours(dearer_later, next(iter(flat.names)), lambda: PEAK).wait_s() == 0
    assert Hours(prices, "my-own-model", lambda: PEAK).wait_s() == 2 * 3600


def test_years_that_the_table_does_not_know_come_from_chinesecalendar(prices):
    pytest.importorskip("chinese_calendar")
    without = replace(prices, holidays=frozenset(day for day in prices.holidays if day.year != 2026))
    assert with_more_holidays(without, 2026).holidays == prices.holidays
    assert with_more_holidays(prices, 2026).holidays >= prices.holidays
    assert date(2031, 10, 1) not in with_more_holidays(prices, 2031).holidays


def test_a_job_waits_for_the_cheap_hours_says_so_and_goes_on_by_itself(frame, slow):
    """Waiting is no patience; two hours are told as such."""
    server, client, clock = slow
    job = submit(frame, ASK, client=client, job="night", when="offpeak", patience="1s")
    assert eventually(lambda: job.progress.offpeak_s is not None)
    time.sleep(1.5)
    assert (len(server.log), server.in_flight) == (0, 0), "something was sent at peak"
    assert job.progress.line() == "$0.0000, waits for off-peak, 2 h 0 min"
    assert trouble(job.status, job.progress) == "waits for off-peak, 2 h 0 min"
    assert headline(job.status, job.progress) == "running, 0 of 30 rows (0%)"
    clock.at = PEAK + timedelta(minutes=70)
    assert eventually(lambda: "waits for off-peak, 50 min" in job.progress.line())
    clock.at = NOON
    assert (job.result(60)["status"] == "done").all()
    assert job.progress.offpeak_s is None
    assert job.progress.paused_s > 1


def test_when_peak_begins_nothing_more_is_sent_and_what_is_on_the_wire_comes_in(frame, slow):
    server, client, clock = slow
    clock.at = NOON
    job = submit(frame, ASK, client=client, job="noon", when="offpeak")
    assert eventually(lambda: job.progress.done >= 3)
    clock.at = PEAK
    assert eventually(lambda: job.progress.paused)
    assert eventually(lambda: server.in_flight == 0)
    time.sleep(0.2)
    sent = len(server.log)
    time.sleep(0.8)
    assert len(server.log) == sent < 30
    assert job.progress.done == sent
    clock.at = NOON
    assert (job.result(60)["status"] == "done").all()
    assert len(server.log) == 30
    assert server.log.answered_twice() == {}


def test_what_is_stored_is_given_at_any_hour(frame, slow):
    server, client, clock = slow
    clock.at = NOON
    apply(frame, ASK, client=client, job="first", progress=False)
    clock.at = PEAK
    out = submit(frame, ASK, client=client, job="second", when="offpeak").result(30)
    assert out["cached"].all()
    assert len(server.log) == 30


def test_a_pause_of_the_user_outlasts_the_dear_hours_and_the_other_way_round(frame, slow):
    server, client, clock = slow
    job = submit(frame, ASK, client=client, job="both", when="offpeak")
    assert eventually(lambda: job.progress.offpeak_s is not None)
    job.pause()
    clock.at = NOON
    assert eventually(lambda: job.progress.offpeak_s is None)
    time.sleep(0.3)
    assert (len(server.log), job.status) == (0, "paused")
    clock.at = PEAK
    assert eventually(lambda: job.progress.offpeak_s is not None)
    job.resume()
    time.sleep(0.3)
    assert (len(server.log), job.status) == (0, "running")
    clock.at = NOON
    assert (job.result(60)["status"] == "done").all()


def test_a_job_that_waits_can_be_cancelled(frame, slow):
    server, client, _ = slow
    job = submit(frame, ASK, client=client, job="gone", when="offpeak")
    assert eventually(lambda: job.progress.offpeak_s is not None)
    job.cancel()
    assert job.wait(5)
    assert (job.status, len(server.log)) == ("cancelled", 0)


def test_the_setting_is_the_default_and_other_words_are_refused(frame, slow):
    server, client, _ = slow
    with Client(client.settings, when="offpeak") as careful:
        careful.aio.now_utc = Clock(PEAK)
        job = submit(frame, ASK, client=careful, job="set")
        assert eventually(lambda: job.progress.offpeak_s is not None)
        job.cancel()
        assert job.wait(5)
        out = apply(frame.head(1), ASK, client=careful, job="at once", when="now", progress=False)
        assert out["status"].tolist() == ["done"]
    with pytest.raises(ConfigError, match="'now' or 'offpeak', not 'night'"):
        submit(frame, ASK, client=client, when="night")
    with pytest.raises(ConfigError, match="'now' or 'offpeak'"):
        Client(when="night")
    assert len(server.log) == 1
