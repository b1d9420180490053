"""Rows of the peers' first table: what failures and waiting look like."""

from __future__ import annotations

import time
from typing import Any

from notebook_bench import Bench, Result, row

from deepseek_nb.sandbox import Fault, FaultScript

PATIENCE = "5s"
ERROR_BAR = "at most 5 lines, status error"


def _failing(
    bench: Bench, faults: FaultScript | None, cell: str, **variables: str | None
) -> tuple[str, dict[str, Any], bool]:
    with bench.fresh(**variables) as running:
        wire = bench.server.play(faults)
        done = running.run(cell)
        requests = len(wire.chats())
    bench.server.play()
    lines = len(done.traceback.splitlines())
    figures = {
        "requests": requests,
        "took_s": done.took_s,
        "lines": lines,
        "status": done.status,
        "ename": done.error.get("ename"),
        "traceback": done.traceback,
        "shown": done.lines,
    }
    counted = "1 request" if requests == 1 else f"{requests} requests"
    return f"{counted}, {done.took_s:.1f} s, {done.failure}", figures, done.status == "error" and lines <= 5


@row("invalid_key", "Invalid key (401): requests / lines / cell status", ERROR_BAR)
def invalid_key(bench: Bench) -> Result:
    """A key the server does not know."""
    cell = "%%deepseek --into x\nsay hello"
    return Result(*_failing(bench, None, cell, DEEPSEEK_API_KEY="sk-wrong-0000000000000000"))


@row("busy_503", '503 "too busy" for ever: requests, give-up time, lines, status', ERROR_BAR)
def busy_503(bench: Bench) -> Result:
    """With five seconds of patience."""
    cell = f"%%deepseek --into x --patience {PATIENCE}\nsay hello"
    text, figures, met = _failing(bench, FaultScript.always("busy_503"), cell)
    return Result(f"{text} (`--patience {PATIENCE}`; 10 min unless said)", figures, met)


@row("rate_429", "429 for ever", ERROR_BAR)
def rate_429(bench: Bench) -> Result:
    """The same."""
    cell = f"%%deepseek --into x --patience {PATIENCE}\nsay hello"
    return Result(*_failing(bench, FaultScript.always("rate_429"), cell))


@row("busy_spell", "A server that says 503 for 20 s, then has room")
def busy_spell(bench: Bench) -> Result:
    """With the patience that is the default."""
    with bench.fresh() as running:
        end_s = time.monotonic() + 20
        wire = bench.server.play(
            FaultScript(lambda _: Fault("busy_503") if time.monotonic() < end_s else None)
        )
        done = running.run("%%deepseek --into x\nsay hello")
        requests = len(wire.chats())
    bench.server.play()
    outcome = "answered" if done.status == "ok" and done.answers else "failed"
    return Result(
        f"{outcome} after {done.took_s:.1f} s, {requests} requests",
        {"took_s": done.took_s, "requests": requests, "shown": done.lines},
    )


@row("retry_shown", "Anything shown while retrying")
def retry_shown(bench: Bench) -> Result:
    """The lines of five seconds of 503."""
    _, figures, _ = _failing(
        bench, FaultScript.always("busy_503"), f"%%deepseek --patience {PATIENCE}\nsay hello"
    )
    told = [line for line in figures["shown"] if line.startswith("busy")]
    return Result(f"yes, such as: {told[-1]}" if told else "nothing", figures, bool(told))


@row("hung", "Hung server")
def hung(bench: Bench) -> Result:
    """No byte for ever, the default timeouts, an interrupt after 8 s."""
    with bench.fresh() as running:
        bench.server.play(FaultScript.always("hang"))
        done = running.run("%%deepseek\nsay hello", interrupt_after_s=8)
    bench.server.play()
    idle_ms = 1000 * (done.idle_s - done.interrupted_s)
    told = [line for line in done.lines if line != "interrupted"]
    return Result(
        f'says "{told[-1] if told else ""}"; interrupt works, {idle_ms:.0f} ms, {done.failure}',
        {"shown": done.lines, "idle_ms": idle_ms},
    )


@row("hung_timeout", "... default timeout; what giving up looks like", ERROR_BAR)
def hung_timeout(bench: Bench) -> Result:
    """The timeouts in force, and a give-up with all of them divided by ten."""
    with bench.fresh() as running:
        names = ("connect_timeout_s", "silence_timeout_s", "token_timeout_s", "total_timeout_s", "max_faults")
        running.run("from deepseek_nb import session")
        chosen = ", ".join(f"session.default_client().settings.{name}" for name in names)
        connect_s, silence_s, token_s, total_s, faults = running.value(f"[{chosen}]")
    text, figures, met = _failing(
        bench,
        FaultScript.always("hang"),
        "%%deepseek --patience 60s\nsay hello",
        DEEPSEEK_NB_SILENCE_TIMEOUT_S="3",
        DEEPSEEK_NB_MAX_FAULTS="2",
    )
    return Result(
        f"{connect_s:g} s to connect, {silence_s:g} s of silence, {token_s:g} s without progress, "
        f"{total_s:g} s in all, {faults} more tries; with 3 s and 2 more tries: {text}",
        figures,
        met,
    )


@row("cut", "Stream cut after 10 of 40 tokens")
def cut(bench: Bench) -> Result:
    """Once, then every time."""
    fault = Fault("cut_incomplete", after_tokens=10)
    with bench.fresh() as running:
        wire = bench.server.play(FaultScript.of(fault))
        once = running.run("%%deepseek --into x --no-thinking\nlong 160")
        requests = len(wire.chats())
        whole = once.status == "ok" and running.value("len(x)") == 160
    text, figures, met = _failing(
        bench, FaultScript.always(fault), f"%%deepseek --no-thinking --patience {PATIENCE}\nlong 160"
    )
    outcome = "asked again, whole answer" if whole else once.failure
    return Result(
        f"once: {outcome} ({requests} requests); every time: {text}",
        figures | {"once": requests},
        met and whole,
    )


@row("no_key", "Missing key", ERROR_BAR)
def no_key(bench: Bench) -> Result:
    """No key anywhere."""
    return Result(*_failing(bench, None, "%%deepseek --into x\nsay hello", DEEPSEEK_API_KEY=None))
