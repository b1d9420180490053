"""The screen on virtual time: what it shows when, how often, and how much."""

from __future__ import annotations

from itertools import pairwise

import pytest

from deepseek_nb.core.chat import Answer
from deepseek_nb.core.errors import AnswerEmpty, ConnectionLost, Overloaded, RateLimited, WentSilent
from deepseek_nb.core.events import CallEvent
from deepseek_nb.core.wire import Delta
from deepseek_nb.notebook.display import ENVELOPE_BYTES, Screen


class Watched:
    """A screen, a clock that is set by hand, and all that was published."""

    def __init__(self, *, live: bool = True, view: str = "markdown") -> None:
        self.now_s = 100.0
        self.published: list[tuple[float, dict, dict]] = []
        self.screen = Screen(self.publish, now=lambda: self.now_s, view=view, live=live)

    def publish(self, bundle, metadata) -> None:
        self.published.append((self.now_s, dict(bundle), dict(metadata)))

    def pass_s(self, seconds: float) -> None:
        """Let time pass, refreshing as soon as the screen asks for it."""
        end_s = self.now_s + seconds
        while (due_s := self.screen.wait_s()) is not None and self.now_s + due_s < end_s:
            self.now_s += due_s + 1e-9
            self.screen.refresh()
        self.now_s = max(self.now_s, end_s)

    def write(self, text: str, **more) -> None:
        self.screen.take(Delta(text, **more))
        self.pass_s(0.0001)

    @property
    def lines(self) -> list[str]:
        return [bundle["text/plain"] for _, bundle, _ in self.published]

    @property
    def bytes(self) -> int:
        return sum(ENVELOPE_BYTES + sum(len(v.encode()) for v in b.values()) for _, b, _ in self.published)


def waiting(error, *, wait_s=12.0, left_s=180.0, tries=0, refusals=4, **more) -> CallEvent:
    figures = {"wait_s": wait_s, "left_s": left_s, "tries": tries, "refusals": refusals}
    return CallEvent("waiting", 5, 0.0, error=error, **(figures | more))


def test_the_first_text_is_shown_at_once_and_then_ten_times_a_second():
    """From the first piece to the screen: nothing in between; the rest at most every 0.1 s."""
    watched = Watched()
    for number in range(100):
        watched.screen.take(Delta(f"{number} " * 30))
        watched.pass_s(0.01)
    times_s = [at_s for at_s, _, _ in watched.published]
    assert times_s[0] == pytest.approx(100.0, abs=1e-6)
    gaps = [later - earlier for earlier, later in pairwise(times_s)]
    assert min(gaps) >= 0.1
    assert len(times_s) >= 8


@pytest.mark.parametrize("letter", ["x", "中", "<b>"])
@pytest.mark.parametrize("length", [300, 4_000, 36_000])
def test_the_bytes_sent_stay_in_proportion(length, letter):
    """At 60 tokens a second: at most 40 bytes for each byte of the answer, envelopes and end included."""
    watched = Watched()
    text = letter * (length // len(letter))
    for start in range(0, len(text), 4):
        watched.screen.take(Delta(text[start : start + 4]))
        watched.pass_s(1 / 60)
    watched.screen.finish(Answer(text), simulated=False)
    assert watched.bytes <= 40 * len(text.encode())
    assert len(watched.published) >= 6


def test_a_restart_clears_what_was_shown():
    """A line takes the place of the broken text, and the new text comes at once."""
    watched = Watched()
    watched.write("the first try")
    watched.pass_s(1)
    watched.screen.take(Delta(restart=True))
    watched.pass_s(1)
    assert watched.lines[-1].startswith("the answer broke off")
    watched.write("the second")
    assert watched.published[-1][1]["text/markdown"] == "the second"


def test_thinking_is_one_line():
    """It counts the time, less and less often."""
    watched = Watched()
    watched.screen.take(Delta(reasoning="Let me see."))
    for _ in range(600):
        watched.pass_s(0.1)
        watched.screen.take(Delta(reasoning="more"))
    assert watched.lines[0] == "thinking, 0 s so far"
    assert all(line.startswith("thinking, ") for line in watched.lines)
    assert 5 <= len(watched.lines) <= 15


def test_nothing_is_said_for_a_second():
    """A quick answer needs no announcement; a slow one gets it."""
    watched = Watched()
    watched.pass_s(0.9)
    assert watched.lines == []
    watched.pass_s(0.2)
    assert watched.lines == ["asking, 1 s so far"]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            waiting(Overloaded("server words", status=503)),
            "busy (503), try 4, next in 12 s, 3 min left, nothing charged",
        ),
        (
            waiting(RateLimited("x", status=429), left_s=None),
            "busy (429), try 4, next in 12 s, nothing charged",
        ),
        (
            waiting(ConnectionLost("x"), tries=1, refusals=0, wait_s=0.4),
            "connection lost, try 1, next in 1 s, 3 min left, perhaps charged",
        ),
        (
            waiting(AnswerEmpty("x"), tries=1, refusals=1, left_s=30),
            "the answer could not be used, try 2, next in 12 s, 42 s left, charged",
        ),
        (
            waiting(Overloaded("x", status=503), patience_s=600.0, down_s=34.0),
            "busy (503), try 4, server down for 34 s, next in 12 s, 3 min left of 10 min, nothing charged",
        ),
        (
            waiting(WentSilent("x"), tries=2, refusals=0, charged="unknown", spent_usd=0.0123, down_s=3.0),
            "went silent, try 2, next in 12 s, 3 min left, perhaps charged, $0.0123 so far",
        ),
    ],
)
def test_waiting_says_why_how_often_how_long_and_what_it_cost(event, line):
    """In our own words: what the server said is not shown."""
    watched = Watched()
    watched.screen.take(event)
    watched.pass_s(0.001)
    assert watched.lines == [line]


def test_another_route_is_named_and_so_is_the_way_back():
    """Whoever waits sees whom they wait for."""
    watched = Watched()
    watched.screen.take(CallEvent("fallback", 2, 0.0, error=Overloaded("x", status=503), route="local"))
    watched.pass_s(0.001)
    watched.screen.take(CallEvent("back", 2, 1.0, route="api.deepseek.com"))
    watched.pass_s(0.5)
    told = ["busy (503): asking local now, 0 s so far", "asking api.deepseek.com again, 0 s so far"]
    assert watched.lines == told


def test_a_request_that_the_server_holds_is_told_once():
    """Keep-alives come for minutes: one line that counts, until the next try."""
    watched = Watched()
    for second in range(30):
        watched.screen.take(CallEvent("held", 5, float(second), tries=1))
        watched.pass_s(1)
    assert watched.lines[-1].startswith("the server holds the request, ")
    assert len(watched.lines) < 12
    watched.screen.take(CallEvent("sent", 5, 30.0, tries=2))
    watched.pass_s(2)
    assert watched.lines[-1].startswith("asking again")


def test_what_may_have_been_charged_is_not_forgotten():
    """After one broken answer a later refusal does not say 'nothing charged'."""
    watched = Watched()
    watched.screen.take(waiting(ConnectionLost("x"), tries=1, refusals=0))
    watched.screen.take(waiting(Overloaded("x", status=503), tries=1, refusals=1, charged="unknown"))
    watched.pass_s(0.001)
    assert watched.lines[-1].endswith("perhaps charged")


def test_ten_minutes_of_refusals_do_not_fill_the_wire():
    """A refusal each second: lines come the more seldom the longer it takes."""
    watched = Watched()
    for second in range(600):
        watched.screen.take(waiting(Overloaded("x", status=503), wait_s=1.0, left_s=600.0 - second))
        watched.pass_s(1)
    assert 20 < len(watched.lines) < 150


def test_without_live_updates_there_is_one_output():
    """Nothing before the end."""
    watched = Watched(live=False)
    watched.screen.take(waiting(Overloaded("x", status=503)))
    watched.write("text")
    watched.pass_s(100)
    assert watched.published == []
    watched.screen.finish(Answer("text", model="m"), simulated=True)
    ((_, bundle, metadata),) = watched.published
    assert bundle == {"text/markdown": "text", "text/plain": "text"}
    assert metadata["deepseek_nb"]["simulated"] is True


def test_a_failure_leaves_nothing_that_looks_like_an_answer():
    """And where nothing was shown, nothing is."""
    silent, spoken = Watched(), Watched()
    silent.screen.fail()
    assert silent.published == []
    spoken.write("half an ans")
    spoken.screen.fail()
    assert spoken.lines[-1] == "no answer"


def test_the_views():
    """Text as text, JSON indented in a code block, code without the words around it."""
    for view, text, shown in (
        ("text", "a <b> *c*", None),
        ("json", '{"a":[1]}', '```json\n{\n  "a": [\n    1\n  ]\n}\n```'),
        ("json", '{"a":', '```json\n{"a":\n```'),
        ("code", "Sure!\n```python\nx = 1\n```\nThere.", "```python\nx = 1\n```"),
        ("code", "x = 1", "```\nx = 1\n```"),
        ("markdown", "a <b>", "a &lt;b>"),
    ):
        watched = Watched(view=view)
        watched.write(text[:3])
        watched.screen.finish(Answer(text), simulated=False)
        assert watched.published[-1][1].get("text/markdown") == shown
        assert watched.lines[-1] == text
