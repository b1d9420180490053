"""What a job says of itself while it runs: figures from events, and the line at the end of the bar."""

from __future__ import annotations

import re
import threading

import pandas as pd
import pytest

from deepseek_nb.batch.progress import Progress
from deepseek_nb.core.errors import Busy, ConnectionLost, Overloaded
from deepseek_nb.core.events import CallEvent
from deepseek_nb.sandbox import FaultScript


def test_refusals_faults_and_rows_that_went_elsewhere_are_counted_apart():
    """A server known to be down refuses nothing: no request was sent."""
    figures = Progress(total=5)
    for event in (
        CallEvent("sent", 2, 1.0),
        CallEvent("waiting", 2, 1.5, error=Overloaded("x", status=503)),
        CallEvent("fallback", 2, 2.0, error=ConnectionLost("x"), route="local"),
        CallEvent("fallback", 2, 2.5, error=Overloaded("down"), route="local"),
    ):
        figures.hear(event)
    assert (figures.requests, figures.refusals, dict(figures.faults)) == (1, 1, {"ConnectionLost": 1})
    assert (figures.elsewhere, figures.trouble_s) == (2, 1.5)
    figures.hear(CallEvent("back", 2, 2.7, route="api.deepseek.com"))
    assert (figures.elsewhere, figures.trouble_s) == (1, 1.5)
    figures.hear(CallEvent("first_token", 2, 3.0))
    assert (figures.trouble_s, figures.waiting) == (None, "")


def test_the_line_tells_money_trouble_and_how_long_it_goes_on():
    """Short while all is well, all that matters while it is not."""
    figures = Progress(total=5, spent_usd=0.021)
    assert figures.line() == "$0.0210"
    figures.hear(CallEvent("waiting", 2, 1.5, error=Overloaded("x", status=503)))
    figures.in_flight, figures.limit = 12, 16
    assert figures.line() == "$0.0210, busy (503), 12 of 16 in flight"
    figures.down_s, figures.left_s = 34.0, 540.0
    assert figures.line() == "$0.0210, busy (503), 12 of 16 in flight, server down for 34 s, 9 min left"


@pytest.mark.slow
def test_a_progress_is_shown_as_one_line():
    """As the last value of a cell, say: no listing of what it is made of."""
    progress = Progress(total=1_200, done=7, failed=2, spent_usd=0.5, waiting="busy (503)")
    assert repr(progress) == "<Progress: 9 of 1,200 rows, $0.5000, 2 failed, busy (503)>"


def test_a_running_job_shows_that_the_server_is_down(client, sandbox, capfd):
    """The bar itself, while everything is refused: why, since when, and the patience left."""
    frame = pd.DataFrame({"n": range(30)})
    sandbox.faults = FaultScript.of(*[None] * 2, *["busy_503"] * 5000)
    mended = threading.Timer(16.0, lambda: setattr(sandbox, "faults", None))
    mended.start()
    try:
        out = frame.deepseek.apply("Is {{n}} even?", client=client, patience=2)
    finally:
        mended.cancel()
        mended.join()
    assert set(out.status) == {"done"}
    bar = capfd.readouterr().err
    shown = r"busy \(503\), \d+ of \d+ in flight, server down for 1\d s, \d+ (s|min) left"
    assert re.search(shown, bar), bar[-2000:]


def test_the_job_ends_with_its_patience(client, sandbox):
    """Nothing but refusals for the time given: Busy, with every row's place in ``error.frame``."""
    frame = pd.DataFrame({"n": range(5)})
    sandbox.faults = FaultScript.of(None, *["busy_503"] * 5000)
    with pytest.raises(Busy) as raised:
        frame.deepseek.apply("Is {{n}} even?", client=client, progress=False, patience="1s")
    assert list(raised.value.frame.status).count("pending") == 4
    assert "patience=" in raised.value.hint
