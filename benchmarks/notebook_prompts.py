"""What the server really received for the cells of the peers' second table: braces, references, options."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

from notebook_bench import Bench, Result, row
from notebook_kernel import Done
from notebook_server import Request

SHOWN = 150
SETTING_UP = """
import pandas as pd
name, m, nothing = "Ann", "deepseek-v4-pro", None
class O: attr = "blue"
o, d, secret = O(), {"k": "value of k"}, "the-secret"
tricky, js = "x {{secret}} {secret}", '{"a": {"b": 1}}'
dd = pd.DataFrame({"text": ["a { brace", "a {{name}}"]})
df = pd.DataFrame({f"column_{n}": range(1000) for n in range(6)})
"""


@dataclass
class Asked:
    """One cell: what came of it, and what reached the server."""

    done: Done
    requests: list[Request]
    figures: dict[str, object] = field(default_factory=dict)

    @property
    def prompt(self) -> str:
        """The one prompt that was sent; empty if none was."""
        return self.requests[-1].prompt if self.requests else ""

    def brief(self) -> str:
        """Requests and outcome."""
        outcome = self.done.failure if self.done.error else "answered"
        return f"{len(self.requests)} requests, {outcome}"

    def told(self) -> str:
        """In words for the table."""
        if not self.requests:
            why = _cut(" ".join(self.done.traceback.split()))
            return f"not sent: {why}" if self.done.error else "not sent"
        text = json.dumps(self.prompt, ensure_ascii=False)[1:-1]
        text = _cut(text)
        failed = f", then {self.done.failure}" if self.done.error else ""
        return f"sent as `{text}`{failed}"


def _cut(text: str) -> str:
    return f"{text[:SHOWN]} …" if len(text) > SHOWN else text


def ask(bench: Bench, cell: str, before: str = "") -> Asked:
    """Run a cell in a fresh kernel with the names above."""
    with bench.fresh() as running:
        running.run(SETTING_UP)
        if before:
            running.run(before)
        wire = bench.server.play()
        done = running.run(cell)
        requests = wire.chats()
        figures = {"cell": cell, "status": done.status, "traceback": done.traceback, "shown": done.lines}
        return Asked(done, requests, figures | {"sent": [request.body for request in requests]})


def unchanged(name: str, title: str, text: str) -> None:
    """A row for a text that must reach the server as it stands."""

    @row(name, title, "sent unchanged")
    def measure(bench: Bench) -> Result:
        asked = ask(bench, f"%%deepseek\n{text}")
        if asked.prompt == text and asked.done.status == "ok":
            return Result("sent unchanged", asked.figures, met=True)
        return Result(asked.told(), asked.figures, met=False)


def judged(
    name: str, title: str, cell: str, bar: str, judge: Callable[[Asked], bool | None], before: str = ""
) -> None:
    """A row that tells what became of ``cell``."""

    @row(name, title, bar)
    def measure(bench: Bench) -> Result:
        asked = ask(bench, cell, before)
        return Result(asked.told(), asked.figures, judge(asked))


def not_sent(asked: Asked) -> bool:
    """An error of few lines, and no request."""
    return not asked.requests and asked.done.status == "error" and len(asked.done.traceback.splitlines()) <= 5


def sends(text: str) -> Callable[[Asked], bool]:
    """Whether this reached the server."""
    return lambda asked: asked.prompt == text and asked.done.status == "ok"


unchanged(
    "json_braces",
    '`Return JSON like {"a": 1, "b": {"c": 2}}`',
    'Return JSON like {"a": 1, "b": {"c": 2}}',
)
unchanged("empty_braces", "`def f(): return {}`", "def f(): return {}")
unchanged("lone_braces", "a lone `{` / a lone `}`", "a lone { and a lone } and }} and more")
judged(
    "undefined",
    "undefined name: `{nope}` there, `{{nope}}` here",
    "%%deepseek\nSummarise {{nope}} please",
    "never sent",
    not_sent,
)
unchanged(
    "single_braces",
    "`{name} {o.attr} {d[k]} {name!r} {name:>8}`",
    "{name} {o.attr} {d[k]} {name!r} {name:>8}",
)
judged(
    "references",
    '`{{name}} {{o.attr}} {{d["k"]}}` (the reference of this package)',
    '%%deepseek\n{{name}} {{o.attr}} {{d["k"]}}',
    "all filled",
    sends("Ann blue value of k"),
)
judged(
    "escape",
    r"literal double braces (`{{name}}` there, `\{{name}}` here)",
    "%%deepseek\nliteral \\{{name}}",
    "sent as {{name}}",
    sends("literal {{name}}"),
)
judged(
    "re_expansion",
    'value `"x {{secret}} {secret}"` by reference',
    "%%deepseek\n{{tricky}}",
    "left alone",
    sends("x {{secret}} {secret}"),
)
judged(
    "json_value",
    "value that is JSON, by reference",
    "%%deepseek\n{{js}}",
    "left alone",
    sends('{"a": {"b": 1}}'),
)
judged(
    "frame_braces",
    "DataFrame cell containing `{`, by reference",
    "%%deepseek\nAbout {{dd}}",
    "sent",
    lambda asked: "a { brace" in asked.prompt and "a {{name}}" in asked.prompt,
)
judged(
    "calls",
    "a call or a sum: `{name.upper()}`, `{1+1}`",
    "%%deepseek\n{{name.upper()}} {{1+1}}",
    "never sent",
    not_sent,
)


@row("frame", "a DataFrame of 1,000 rows by reference", "never cut silently")
def frame(bench: Bench) -> Result:
    """What was sent, and what the output says of it."""
    asked = ask(bench, "%%deepseek\nSummarise {{df}}")
    said = " ".join(asked.done.lines + [text for _, text in asked.done.answers[-1:]] + [asked.done.traceback])
    rows = sum(line[:1].isdigit() or line.startswith("|") for line in asked.prompt.splitlines())
    honest = (not asked.requests and bool(asked.done.error)) or rows >= 1000 or "1,000" in said
    if not asked.requests:
        return Result(asked.told(), asked.figures, honest)
    told = [line for line in asked.done.lines if "row" in line]
    text = f"sent {len(asked.prompt):,} characters, {rows:,} lines of rows"
    return Result(f"{text}; the cell says: {told[-1] if told else 'nothing'}", asked.figures, honest)


@row("sample", "... a sample of it, as asked for")
def sample(bench: Bench) -> Result:
    """Twenty rows, evenly spaced."""
    asked = ask(bench, "%%deepseek --sample 20\nSummarise {{df}}")
    told = [line for line in asked.done.lines if "row" in line] or [
        str(asked.done.printed.strip() or "nothing")
    ]
    if not asked.requests:
        return Result(asked.told(), asked.figures)
    return Result(f"sent {len(asked.prompt):,} characters; the cell says: {told[-1]}", asked.figures)


judged(
    "big_frame",
    "... of 20,000 rows",
    "%%deepseek\nSummarise {{big}}",
    "never cut silently",
    lambda asked: not_sent(asked) and "--sample" in asked.done.traceback,
    before="big = pd.concat([df] * 20)",
)


@row("line_names", "`{m}` / `$m` on the magic line")
def line_names(bench: Bench) -> Result:
    """Whether IPython's own expansion is at work."""
    asked = ask(bench, "%deepseek say {m} and $m")
    if asked.prompt == "say {m} and $m":
        return Result("sent as typed (`{{m}}` is the reference, there too)", asked.figures)
    return Result(asked.told(), asked.figures)


@row("two_spaces", "two spaces before the model name", "works")
def two_spaces(bench: Bench) -> Result:
    """The option is read all the same."""
    asked = ask(bench, "%deepseek --model  deepseek-v4-pro  say hello")
    right = bool(asked.requests) and asked.requests[-1].body["model"] == "deepseek-v4-pro"
    return Result("works" if right and asked.prompt == "say hello" else asked.told(), asked.figures, right)


@row("temperature", "a temperature of 0.1", "reaches the server")
def temperature(bench: Bench) -> Result:
    """``--temperature 0.1``, and a value that is none."""
    asked = ask(bench, "%deepseek --temperature 0.1 --no-thinking say hello")
    wrong = ask(bench, '%deepseek --temperature {"temperature":0.1} say hello')
    right = bool(asked.requests) and asked.requests[-1].body.get("temperature") == 0.1
    text = "`--temperature 0.1` is in the body" if right else asked.told()
    return Result(
        f"{text}; a wrong value: {wrong.done.failure}, {len(wrong.requests)} requests", asked.figures, right
    )


@row("fence", "JSON asked for, the model answers with a ```json fence", "the paid answer is used")
def fence(bench: Bench) -> Result:
    """With a schema; and where sentences stand around the fence."""
    cell, shape = "%%deepseek --schema shape --into x\n{}", "shape = {'level': int, 'why': str}"
    asked = ask(bench, cell.format("fence"), before=shape)
    around = ask(bench, cell.format("fence with sentences"), before=shape)
    used = asked.done.status == "ok" and len(asked.requests) == 1
    sentences = "used too" if around.done.status == "ok" and len(around.requests) == 1 else around.brief()
    text = "parsed, 1 request" if used else asked.brief()
    return Result(f"{text}; with sentences around it: {sentences}", asked.figures, used)


@row("bad_json", "... no JSON at all, also after two repairs", "error; the paid answer is kept")
def bad_json(bench: Bench) -> Result:
    """What is left of what was paid for."""
    with bench.fresh() as running:
        running.run("shape = {'level': int, 'why': str}")
        wire = bench.server.play()
        done = running.run("%%deepseek --schema shape --into x\nbad JSON")
        requests = len(wire.chats())
        kept = running.value("getattr(globals().get('_deepseek'), 'text', None)") == "no JSON at all"
    told = "kept in `_deepseek`" if kept else "lost"
    figures = {"requests": requests, "traceback": done.traceback, "kept": kept}
    met = kept and done.status == "error"
    return Result(f"{requests} requests, {done.failure}; the paid answer is {told}", figures, met)


@row("script", "the model answers with `<script>`", "nothing runs, nothing of it is saved as HTML")
def script(bench: Bench) -> Result:
    """What is in the saved Markdown."""
    asked = ask(bench, "%%deepseek\nscript")
    shown = asked.done.answers[-1][1]
    return Result(f"saved as `{shown}`", asked.figures, "<script" not in shown)


@row("fix", "fix the last error, without naming a model", "works")
def fix(bench: Bench) -> Result:
    """After an error whose text holds braces."""
    asked = ask(bench, "%deepseek fix", before="raise ValueError('braces { and {name} in here')")
    right = "braces { and {name} in here" in json.dumps([request.body for request in asked.requests])
    if not right:
        return Result(asked.told(), asked.figures, met=False)
    return Result(
        f"sent with the error as it is ({len(asked.prompt):,} characters), {asked.done.status}",
        asked.figures,
        met=asked.done.status == "ok",
    )


@row("not_first", "`%%deepseek` not on the first line of the cell", "at most 5 lines")
def not_first(bench: Bench) -> Result:
    """IPython's own business."""
    asked = ask(bench, "x = 1\n%%deepseek\nsay hello")
    printed = asked.done.printed.strip().splitlines()
    text = f"not sent: {asked.done.failure or printed}" if not asked.requests else asked.told()
    lines = len(asked.done.traceback.splitlines()) + len(printed)
    return Result(
        text if asked.done.error else f"{asked.done.status}: {' '.join(printed)}",
        asked.figures,
        not asked.requests and lines <= 5,
    )


@row("dry_run", "see the exact prompt, tokens and price before sending", "nothing sent")
def dry_run(bench: Bench) -> Result:
    """``--dry-run``."""
    asked = ask(bench, "%%deepseek --dry-run\nGreet {{name}}.")
    said = " ".join(data.get("text/plain", "") for _, data in asked.done.shown)
    right = asked.done.status == "ok" and not asked.requests and "Greet Ann." in said
    return Result(f"yes: {' '.join(said.split())[:160]}" if right else asked.told(), asked.figures, right)
