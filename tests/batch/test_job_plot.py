"""``job.plot()``: what is drawn is what happened, at any moment of a job, with nothing from outside."""

from __future__ import annotations

import re
import time
from itertools import pairwise
from xml.etree import ElementTree

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek_nb.batch.chart import HEAD, THEMES, WIDTH
from deepseek_nb.batch.history import SAMPLES, History, Sample
from deepseek_nb.batch.job import live_jobs
from deepseek_nb.batch.job_plot import JobPlot
from deepseek_nb.batch.progress import Progress
from deepseek_nb.batch.submit import submit
from deepseek_nb.batch.ticks import amounts, counts, durations, logarithmic, rates
from deepseek_nb.client.sync import Client
from deepseek_nb.core.budget import Budget
from deepseek_nb.core.chat import Usage
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.sandbox import Sandbox

ASK = "Sort this ticket: {{text}}"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def slow(tmp_path):
    """A server that takes a fifth of a second, and a client that asks four rows at a time."""
    with (
        Sandbox(first_token_s=0.2, count="estimate", balance_usd="10.00") as server,
        Client(
            base_url=server.base_url, api_key=server.api_key, data_dir=tmp_path, concurrency_max=4
        ) as client,
    ):
        yield server, client
        for job in live_jobs():
            job.cancel(drain_s=0)
            assert job.wait(10)


def words_of(plot: JobPlot) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(plot.svg).iter(f"{SVG}text")]


def numbers(shape: ElementTree.Element, *names: str) -> list[float]:
    return [float(shape.get(name, "nan")) for name in names]


def is_sound(plot: JobPlot) -> None:
    """Well-formed, all of it inside the picture, nothing from outside, and told in words as well."""
    root = ElementTree.fromstring(plot.svg)
    width, height = numbers(root, "width", "height")
    assert width == WIDTH
    for line in root.iter(f"{SVG}polyline"):
        for x, y in (map(float, point.split(",")) for point in line.get("points", "").split()):
            assert 0 <= x <= width
            assert HEAD <= y <= height
    for bar in root.iter(f"{SVG}rect"):
        x, y, wide, high = numbers(bar, "x", "y", "width", "height")
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height
    for text in root.iter(f"{SVG}text"):
        x, y = numbers(text, "x", "y")
        assert 0 <= x <= width
        assert 0 <= y <= height
        assert text.text
    assert re.findall("https?://[^\"']*", plot.svg) == ["http://www.w3.org/2000/svg"]
    assert not re.search("<style|<script|style=|class=|href|url\\(|nan|inf", plot.svg)
    for title in ("Latency", "Throughput", "Concurrency", "Spend"):
        assert f"{title}: " in root.get("aria-label", "")


def test_a_plot_shows_what_happened(frame, slow):
    """Answers, rows, seconds at the server and money: each as the server's log and the frame have them."""
    server, client = slow
    job = submit(frame, ASK, client=client, job="seen", budget_usd=1.0)
    job.result(30)
    plot = job.plot()
    over_time, latency = plot.over_time, plot.latency
    assert over_time["rows"].sum() == 30
    assert latency["answers"].sum() == len(server.log.complete) == 30
    took_s = [record.ended_s - record.arrived_s for record in server.log.complete]
    assert latency["from_s"].iloc[0] < max(took_s) + 0.1
    assert latency["to_s"].iloc[-1] > min(took_s)
    spans = over_time["to_s"] - over_time["from_s"]
    assert (spans > 0).all()
    assert over_time["from_s"].iloc[1:].tolist() == over_time["to_s"].iloc[:-1].tolist()
    assert (over_time["rows_per_s"] * spans).sum() == pytest.approx(30)
    assert over_time["in_flight"].max() == pytest.approx(4, abs=0.01)
    assert (over_time["in_flight"] * spans).sum() == pytest.approx(sum(took_s), rel=0.4)
    assert over_time["cost_usd"].is_monotonic_increasing
    assert over_time["cost_usd"].iloc[-1] == pytest.approx(server.log.cost_usd)
    is_sound(plot)
    words = words_of(plot)
    for title in ("Job “seen”", "Latency", "Throughput", "Concurrency", "Spend"):
        assert title in words, title
    assert any(word.startswith("30 answers, P50 ") for word in words)
    assert any(word.startswith("at most 4 at the server") for word in words)
    assert any(word.endswith("of $1.00") for word in words)


def test_it_is_shown_as_a_picture_and_as_text(frame, slow):
    """The bundle of a notebook, ``print``, the short form; the text has a line for each plot."""
    _, client = slow
    job = submit(frame.head(8), ASK, client=client, job="shown")
    job.result(30)
    plot = job.plot()
    bundle = plot._repr_mimebundle_()
    assert bundle == {"text/plain": str(plot), "image/svg+xml": plot.svg}
    lines = str(plot).splitlines()
    assert lines[0].startswith("Job “shown”: done, 8 of 8 rows (100%), after ")
    assert [line.split()[0] for line in lines[1:]] == ["Latency", "Throughput", "Concurrency", "Spend"]
    assert all(re.search("[▁▂▃▄▅▆▇█]", line) for line in lines[2:])
    assert repr(plot) == f"<JobPlot of {lines[0]}>"


def test_a_plot_while_it_runs_and_while_it_pauses(frame, slow):
    """At once, at work, paused: always a plot; one that was made stays as it was."""
    server, client = slow
    job = submit(frame, ASK, client=client, job="live")
    is_sound(job.plot())
    end_s = time.monotonic() + 10
    while job.progress.done < 6 and time.monotonic() < end_s:
        time.sleep(0.01)
    at_work = job.plot()
    before = str(at_work), at_work.svg
    is_sound(at_work)
    assert 6 <= at_work.over_time["rows"].sum() < 30
    job.pause()
    time.sleep(1.0)
    paused = job.plot()
    assert any("grey: paused" in word for word in words_of(paused))
    assert not any("grey: paused" in word for word in words_of(at_work))
    assert paused.over_time["paused_s"].sum() > 0.7
    job.resume()
    job.result(30)
    after = job.plot()
    assert after.over_time["rows"].sum() == 30
    assert any("grey: paused" in word for word in words_of(after))
    assert (str(at_work), at_work.svg) == before
    assert len(server.log) == 30


def test_where_nothing_was_asked_it_says_so(frame, slow):
    """A job that was finished before has the latencies of its ledger; one without rows has nothing."""
    server, client = slow
    first = submit(frame, ASK, client=client, job="twice")
    first.result(30)
    again = submit(frame, ASK, client=client, job="twice").plot()
    assert len(server.log) == 30
    is_sound(again)
    assert again.latency["answers"].sum() == 30
    assert len(again.over_time) == 0
    assert words_of(again).count("All rows were finished before.") == 3
    assert any(word.startswith("30 answers") for word in words_of(again))
    none = submit(frame.head(0), ASK, client=client).plot()
    is_sound(none)
    assert words_of(none).count("The frame has no rows.") == 4
    assert (len(none.over_time), len(none.latency)) == (0, 0)


def test_one_row_and_rows_from_the_store(frame, slow):
    """One bar; and rows that no server was asked for."""
    server, client = slow
    one = submit(frame.head(1), ASK, client=client, job="one")
    one.result(30)
    is_sound(one.plot())
    assert one.plot().latency["answers"].tolist() == [1]
    kept = submit(frame.head(1), ASK, client=client, job="kept")
    kept.result(30)
    assert len(server.log) == 1
    is_sound(kept.plot())
    assert "No answer came from the server." in words_of(kept.plot())


def test_it_is_saved_whole_or_not_at_all(frame, client, tmp_path):
    """An SVG file; another ending, theme or place is refused in words."""
    job = submit(frame.head(2), ASK, client=client)
    job.result(30)
    job.plot().save(tmp_path / "job.svg")
    assert (tmp_path / "job.svg").read_text(encoding="utf-8") == job.plot().svg
    job.plot(theme="dark").save(str(tmp_path / "job.svg"))
    assert THEMES["dark"][0] in (tmp_path / "job.svg").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match=r"does not end in \.svg"):
        job.plot().save(tmp_path / "job.png")
    (tmp_path / "folder.svg").mkdir()
    for place in ("folder.svg", "nowhere/job.svg"):
        with pytest.raises(ConfigError, match="cannot be written"):
            job.plot().save(tmp_path / place)
    with pytest.raises(ConfigError, match="'light' or 'dark'"):
        job.plot(theme="blue")
    assert not list(tmp_path.glob("**/*.half"))


# ------------------------------------------------------------------------------------ any history there is

TICK = st.tuples(
    st.floats(0.001, 5000),  # seconds since the last tick
    st.integers(0, 5000),  # rows done meanwhile
    st.integers(0, 300),  # at the server
    st.integers(0, 1000),  # the server's limit
    st.floats(0, 50),  # spent meanwhile
    st.booleans(),  # paused
)


@given(
    ticks=st.lists(TICK, max_size=40),
    latencies=st.lists(st.floats(0, 1e5), max_size=40),
    budget=st.one_of(st.none(), st.floats(0.001, 1000)),
    theme=st.sampled_from(sorted(THEMES)),
)
def test_any_history_is_drawn(ticks, latencies, budget, theme):
    """Long or short, all alike or wild: sound, and no row or answer is missing."""
    spent_usd = 0.0
    figures = Progress(total=10**9, money=Budget(budget))
    for passed_s, rows, wire, limit, cost_usd, paused in ticks:
        figures.paused, figures.on_the_wire, figures.limit = paused, wire, limit
        figures.done += rows
        spent_usd += cost_usd
        figures.money = Budget(budget, spent_usd=spent_usd)
        figures.tick(passed_s)
    for latency_s in latencies:
        figures.answered(latency_s, Usage())
    plot = JobPlot("any", "running", figures, theme=theme)
    is_sound(plot)
    assert plot.latency["answers"].sum() == len(latencies)
    kept = plot.over_time["rows"].sum() if len(plot.over_time) else 0
    first = ticks[0][1] if ticks else 0  # came before the first look
    assert kept == figures.done - first


@given(seconds=st.integers(1, 30_000), step_s=st.sampled_from([0.1, 0.13, 1.0]))
def test_a_history_is_of_one_size_and_loses_no_total(seconds, step_s):
    """However long: at most so many samples over the whole time, in order, each as it was."""
    history = History()
    count = min(int(seconds / step_s), 20_000)
    for number in range(count + 1):
        history.note(Sample(number * step_s, 3 * number, 2.0 * number, 7, 0.5 * number, 0.0))
    samples = history.samples
    assert len(samples) < SAMPLES
    assert samples[0].at_s == 0
    gaps = [b.at_s - a.at_s for a, b in pairwise(samples)]
    assert all(gap > 0 for gap in gaps)
    if len(gaps) > 1:
        assert max(gaps) < 2.5 * min(gaps), "as fine at the beginning as at the end"
        assert samples[-1].at_s > count * step_s - 2 * max(gaps)
    assert all(sample.rows == round(3 * sample.at_s / step_s) for sample in samples)


@given(st.floats(0, 1e12))
def test_the_ticks_of_any_axis_are_few_round_and_told_apart(most):
    """From nothing up to trillions: they reach over all there is, and no two say the same."""
    for made in (counts(most), rates(most), amounts(most)):
        places, told = zip(*made.ticks, strict=True)
        assert made.high >= most * 0.999
        assert list(places) == sorted(set(places))
        assert len(set(told)) == len(told) <= 6
        assert all(made.low <= place <= made.high * 1.001 for place in places)


@given(st.floats(0.001, 1e7))
def test_the_ticks_of_time(most_s):
    """Round seconds, minutes, hours or days, within the axis."""
    made = durations(most_s)
    places, told = zip(*made.ticks, strict=True)
    assert len(set(told)) == len(told) <= 19
    assert max(places) <= most_s * 1.001
    made = logarithmic(most_s, 3 * most_s)
    assert 1 <= len(made.ticks) <= 8
    assert len({label for _, label in made.ticks}) == len(made.ticks)


def test_the_frames_have_their_columns_whatever_there_is():
    plot = JobPlot("none", "done", Progress())
    assert list(plot.over_time.columns[:3]) == ["from_s", "to_s", "rows"]
    assert isinstance(plot.latency, pd.DataFrame)
