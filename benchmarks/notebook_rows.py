"""Rows of the peers' first table: loading, streaming, interrupts, the event loop, the saved file."""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import nbformat
from nbclient.exceptions import CellExecutionError
from notebook_bench import Bench, Result, row
from notebook_kernel import wire_bytes

from deepseek_nb.sandbox import FaultScript

FRESH = 5
TIMES = 5
SLOW = "%%deepseek --no-thinking --no-cache\nlong 160"
"""40 tokens at 0.1 s."""
SIZE_18_KB = 18_000
CALL = "await ds.AsyncClient().ask('long 160', thinking=False, cache=False)"


def _spread(values: list[float], digits: int = 2, scale: float = 1.0) -> str:
    middle, least, most = (scale * value for value in (statistics.median(values), min(values), max(values)))
    return f"{middle:.{digits}f} ({least:.{digits}f} to {most:.{digits}f})"


# ------------------------------------------------------------------------------------------ loading


@row("load", "`%load_ext` in a fresh kernel, median of 5 (range)", "at most 0.15 s over a bare kernel")
def load(bench: Bench) -> Result:
    """The cell itself, and until the kernel is idle beside a kernel that runs ``pass``."""
    cell_s, idle_s, bare_s = [], [], []
    timed = "import time as _t; _s = _t.perf_counter()\n{}\n_took_s = _t.perf_counter() - _s"
    for number in range(FRESH + 1):
        for code, taken_s in (("pass", bare_s), ("%load_ext deepseek_nb", idle_s)):
            with bench.fresh(load=False) as running:
                done = running.run(timed.format(code))
                if number:  # the first pair fills the file cache and compiles
                    taken_s.append(done.took_s)
                    if code != "pass":
                        cell_s.append(running.value("_took_s"))
    above_s = statistics.median(idle_s) - statistics.median(bare_s)
    return Result(
        f"{_spread(cell_s, 3)} s; {above_s:.3f} s over a bare kernel, until idle",
        {"cell_s": cell_s, "idle_s": idle_s, "bare_s": bare_s, "above_s": above_s},
        above_s <= 0.15,
    )


@row("first_call", "First call, extra lazy import")
def first_call(bench: Bench) -> Result:
    """The first call of a kernel against its third, to a server that answers at once."""
    extra_s = []
    for _ in range(FRESH):
        with bench.fresh() as running:
            took_s = [running.run(f"%deepseek --no-cache say {number}").took_s for number in range(3)]
            extra_s.append(took_s[0] - took_s[2])
    return Result(f"+{_spread(extra_s)} s", {"extra_s": extra_s})


@row("rss", "Kernel RSS bare / after load / after first call")
def rss(bench: Bench) -> Result:
    """The memory of one kernel."""
    with bench.fresh(load=False) as running:
        bare_mb = running.rss_mb()
        running.run("%load_ext deepseek_nb")
        loaded_mb = running.rss_mb()
        running.run("%deepseek say hello")
        asked_mb = running.rss_mb()
    return Result(
        f"{bare_mb:.0f} / {loaded_mb:.0f} / {asked_mb:.0f} MB",
        {"bare_mb": bare_mb, "loaded_mb": loaded_mb, "asked_mb": asked_mb},
    )


# ---------------------------------------------------------------------------------------- streaming


@row("streams", "Streams into the cell")
def streams(bench: Bench) -> Result:
    """How many states of a 4 s answer were shown."""
    with bench.fresh(bench.slow) as running:
        done = running.run(SLOW)
    states = len(done.answers)
    return Result(
        f"{'yes' if states > 2 else 'no'}, one display, {states} states in {done.took_s:.1f} s",
        {"states": states},
        states > 2,
    )


@row(
    "first_text",
    "First visible text of an answer that takes 4.0 s to generate (40 tokens, 0.1 s each)",
    "at most 50 ms after it left the server",
)
def first_text(bench: Bench) -> Result:
    """From running the cell, and from the moment its first byte left the server."""
    after_cell_s, after_server_s = [], []
    with bench.fresh(bench.slow) as running:
        for _ in range(TIMES):
            wire = bench.slow.play()
            done = running.run(SLOW)
            at_s = done.answers[0][0]
            after_cell_s.append(at_s - done.sent_s)
            after_server_s.append(at_s - wire.chats()[0].first_content_s())
    return Result(
        f"{_spread(after_cell_s, 3)} s, the first of them with the lazy import; "
        f"{_spread(after_server_s, 1, 1000)} ms after the server sent it",
        {"after_cell_s": after_cell_s, "after_server_s": after_server_s},
        max(after_server_s) <= 0.05,
    )


@row("bytes", "IOPub bytes for an 18 KB answer", "at most 40 bytes for each of the answer")
def iopub_bytes(bench: Bench) -> Result:
    """Displays and their envelopes, at 60 pieces a second."""
    with bench.fresh(bench.steady) as running:
        done = running.run(f"%%deepseek --no-thinking --no-cache\nlong {SIZE_18_KB}")
    sent, size, count = done.display_bytes, len(done.answers[-1][1].encode()), len(done.shown)
    everything = sum(wire_bytes(message) for _, message in done.messages)
    return Result(
        f"{sent / 1e6:.2f} MB, {count} messages ({sent / size:.0f} times the answer)",
        {"display_bytes": sent, "all_bytes": everything, "answer_bytes": size, "messages": count},
        sent <= 40 * size,
    )


# ---------------------------------------------------------------------------------------- interrupt


@row("interrupt", "Interrupt at 1.5 s: until kernel idle", "at most 100 ms")
def interrupt(bench: Bench) -> Result:
    """A 4 s answer, stopped; five times in one kernel."""
    idle_s = []
    with bench.fresh(bench.slow) as running:
        running.run("%deepseek --no-cache say hello")
        for _ in range(TIMES):
            done = running.run(SLOW, interrupt_after_s=1.5)
            idle_s.append(done.idle_s - done.interrupted_s)
    return Result(f"{_spread(idle_s, 1, 1000)} ms", {"idle_s": idle_s}, max(idle_s) <= 0.1)


@row("interrupt_lines", "... traceback lines / chars saved in the notebook", "at most 3 lines")
def interrupt_lines(bench: Bench) -> Result:
    """What the notebook keeps of it."""
    with bench.fresh(bench.slow) as running:
        done = running.run(SLOW, interrupt_after_s=1.5)
    lines, chars = len(done.traceback.splitlines()), len(done.traceback)
    return Result(f"{lines} / {chars}", {"lines": lines, "chars": chars, "told": done.traceback}, lines <= 3)


@row("interrupt_partial", "... partial answer", "kept")
def interrupt_partial(bench: Bench) -> Result:
    """On the screen and in the notebook's last answer."""
    with bench.fresh(bench.slow) as running:
        done = running.run(SLOW, interrupt_after_s=1.5)
        kept = running.value("[_deepseek.text, _deepseek.finish_reason]")
    shown = done.answers[-1][1].strip()
    whole = bool(shown) and kept[0].strip() == shown
    text = (
        f"kept on screen **and** in `_deepseek` ({len(kept[0])} characters, {kept[1]})" if whole else "lost"
    )
    return Result(text, {"shown": shown, "kept": kept}, whole)


@row("interrupt_dropped", "... connection dropped at once (billing stops)", "yes")
def interrupt_dropped(bench: Bench) -> Result:
    """When the server's side saw the connection close."""
    with bench.fresh(bench.slow) as running:
        wire = bench.slow.play()
        done = running.run(SLOW, interrupt_after_s=1.5)
        time.sleep(0.5)
        hung_up_s = wire.chats()[0].hung_up_s
    if hung_up_s is None:
        return Result("no", {}, met=False)
    after_s = hung_up_s - done.interrupted_s
    return Result(f"yes, after {1000 * after_s:.0f} ms", {"after_s": after_s}, after_s < 0.2)


# -------------------------------------------------------------------------------- the loop, the file


@row("ticks", "Background asyncio ticks (0.1 s) during a 4.0 s call")
def ticks(bench: Bench) -> Result:
    """In the cell magic, and awaited."""
    counting = (
        "import asyncio\nimport deepseek_nb as ds\nticks = 0\n"
        "async def tick():\n    global ticks\n    while True:\n        ticks += 1; await asyncio.sleep(0.1)\n"
        "task = asyncio.ensure_future(tick())"
    )
    with bench.fresh(bench.slow) as running:
        running.run(counting)
        running.run("before = ticks")
        running.run(SLOW)
        blocking = running.value("ticks - before")
        call = CALL
        if running.value("hasattr(ds, 'aask')"):
            call = "await ds.aask('long 160', thinking=False, cache=False)"
        done = running.run(f"before = ticks\n{call}\nafter = ticks")
        awaited = running.value("after - before")
    name = call.removeprefix("await ").partition("(")[0]
    return Result(
        f"{blocking} in `%%deepseek`, **{awaited}** in `await {name}(...)`",
        {"blocking": blocking, "awaited": awaited, "status": done.status},
        awaited >= 30,
    )


@row("strict", "Strict nbclient run of a notebook with a 503 and a bad-JSON answer", "fails")
def strict(bench: Bench) -> Result:
    """Each by itself; the next cell must not run."""
    outcomes: list[str] = []
    cells = {
        FaultScript.always("busy_503"): "%%deepseek --patience 1s\nsay hello",
        FaultScript(): "shape = {'level': int}\n%deepseek --schema shape bad JSON",
    }
    for faults, cell in cells.items():
        bench.server.play(faults)
        try:
            bench.notebook(cell, "print('went on')")
            outcomes.append("passes")
        except CellExecutionError as error:
            outcomes.append(f"fails ({error.ename})")
    bench.server.play()
    failed = all(outcome.startswith("fails") for outcome in outcomes)
    return Result(" and ".join(outcomes), {"outcomes": outcomes}, failed)


def _outputs(notebook: nbformat.NotebookNode, cell: int) -> list[dict[str, Any]]:
    return [dict(output) for output in notebook.cells[cell].outputs]


@row("saved", "Saved bytes per short answer", "at most 1 KB over the answer")
def saved(bench: Bench) -> Result:
    """All of the cell's outputs as JSON."""
    (output,) = _outputs(bench.notebook("%%deepseek\nsay hello"), 1)
    size, text = len(json.dumps(output).encode()), output["data"]["text/plain"]
    facts = len(json.dumps(output["metadata"]))
    return Result(
        f"{size} (the answer twice, of {len(text)} characters; {facts} of facts)",
        {"bytes": size, "output": output},
        size - len(text.encode()) <= 1024,
    )


@row("identical", "Two runs give identical saved outputs", "yes")
def identical(bench: Bench) -> Result:
    """In two kernels that know nothing of each other, streamed and not."""
    runs = [
        _outputs(bench.notebook("%%deepseek\nlong 400", **more), 1)
        for more in ({}, {"DEEPSEEK_NB_STREAM": "0"}, {})
    ]
    data = all(run[0]["data"] == runs[0][0]["data"] for run in runs)
    facts = [run[0]["metadata"]["deepseek_nb"] for run in runs]
    differing = sorted({name for one in facts for name in one if one[name] != facts[0][name]})
    told = f"; in the facts, {', '.join(differing)} may differ" if differing else ", facts included"
    return Result(("yes" if data else "no") + told, {"facts": facts}, data)


@row("plain", "text/plain of an answer", "the answer")
def plain(bench: Bench) -> Result:
    """What a terminal, a diff and a screen reader get."""
    (output,) = _outputs(bench.notebook("%%deepseek\nsay **hello**"), 1)
    text = output["data"]["text/plain"]
    is_answer = text == "You said: say **hello**"
    return Result("the answer itself" if is_answer else f"`{text[:60]}`", {"text": text}, is_answer)
