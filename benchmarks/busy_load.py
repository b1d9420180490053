"""What is asked of the busy server, how long each answer takes and what goes wrong; and the server's process.

Rows, lengths and fates follow from the seed alone and are the ones of the simulation in
``tests/sim`` (lengths rounded to whole events), so that all clients meet the same work and the same
bad luck: try n of a row has the same fate whoever asks.
"""

from __future__ import annotations

import json
import math
import random
import re
import sys
import time
from collections import Counter
from hashlib import blake2b
from typing import Any

import numpy as np

from deepseek_nb.core.chat import canonical_json
from deepseek_nb.sandbox import Ask, Completion, Fault, ParsedRequest, Sandbox

FIRST_TOKEN_S = 0.4
TOKEN_S = 0.025
EVENT_TOKENS = 20
HANG_S = 900.0
"""A silent connection is reset at last by something in between."""
FATES = (("hang", 0.002), ("empty", 0.005), ("reset", 0.003), ("error_500", 0.002))
TRIES = 8
CALLS = 4000
NAME = re.compile(r"(Row|Call) (\d{6})")


def prompt(kind: str, number: int) -> str:
    """The question of one row (``Row``) or interactive call (``Call``)."""
    return f"{kind} {number:06d}: what does this customer want? My card {number % 97} is lost, please help."


def _whole_events(tokens: float) -> int:
    return EVENT_TOKENS * max(1, round(tokens / EVENT_TOKENS))


def _fate(u: float) -> str | None:
    edge = 0.0
    for name, share in FATES:
        edge += share
        if u < edge:
            return name
    return None


class Load:
    """The rows and calls of one seed: tokens of each answer, fates of each try, times of the calls."""

    def __init__(self, rows: int, seed: int, calls_per_s: float) -> None:
        rng = np.random.default_rng((seed, 11))
        drawn = np.minimum(np.exp(rng.normal(math.log(180), 0.7, rows)), 2000)
        self.rows = rows
        self.tokens = {("Row", n): _whole_events(t) for n, t in enumerate(drawn.tolist())}
        self.fates = {
            ("Row", n): [_fate(u) for u in draws]
            for n, draws in enumerate(rng.random((rows, TRIES)).tolist())
        }
        lengths, luck = random.Random(seed + 99), random.Random(seed + 98)
        self.calls_s, now = [], 0.0
        for n in range(CALLS):
            now += lengths.expovariate(calls_per_s)
            self.calls_s.append(now)
            tokens = min(600.0, math.exp(lengths.gauss(math.log(60), 0.5)))
            self.tokens["Call", n] = _whole_events(tokens)
            self.fates["Call", n] = [_fate(luck.random()) for _ in range(TRIES)]

    def service_s(self) -> list[float]:
        """How long each row's answer takes."""
        return [FIRST_TOKEN_S + TOKEN_S * self.tokens["Row", n] for n in range(self.rows)]

    def text(self, kind: str, number: int) -> str:
        """The answer: four characters a token; the first seven say whose it is."""
        return (f"{kind[0]}{number:06d} is lost. " + "abc " * self.tokens[kind, number])[
            : 4 * self.tokens[kind, number]
        ]


class Rule:
    """The fault script, keyed by row and try; it notes which prompt belongs to which row."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.tries: Counter[tuple[str, int]] = Counter()
        self.names = {
            _hash(prompt(kind, n)): (kind, n)
            for kind, count in (("Row", load.rows), ("Call", CALLS))
            for n in range(count)
        }

    def __call__(self, ask: Ask) -> Fault | None:
        """The fate of this try."""
        name = name_of(ask.text)
        self.names[ask.prompt_hash] = name  # a question that was changed for another try keeps its row
        nth, self.tries[name] = self.tries[name], self.tries[name] + 1
        match self.load.fates[name][min(nth, TRIES - 1)]:
            case "hang":
                return Fault("hang", reset_s=HANG_S, slot=False)
            case "empty":
                return Fault("spaces_json")
            case "reset":
                return Fault("cut_rst", after_tokens=max(1, self.load.tokens[name] // EVENT_TOKENS // 2))
            case "error_500":
                return Fault("html_500")
        return None

    def answer(self, request: ParsedRequest) -> Completion:
        """The engine: an answer of this row's length."""
        return Completion(self.load.text(*name_of("\n".join(m["content"] for m in request.messages))))


def name_of(text: str) -> tuple[str, int]:
    """The row or call that a question belongs to."""
    found = NAME.search(text)
    assert found is not None
    return found[1], int(found[2])


def _hash(text: str) -> str:
    messages = [{"content": text, "role": "user"}]
    return blake2b(canonical_json(messages).encode(), digest_size=16).hexdigest()


def summary(sandbox: Sandbox, rule: Rule) -> dict[str, Any]:
    """What the server saw, bulk and interactive apart. Times are server seconds."""
    told: dict[str, Any] = {}
    chats = [(rule.names.get(r.prompt_hash or "", ("Row", -1)), r) for r in sandbox.log.chats]
    for kind in ("Row", "Call"):
        records = [record for (of, _), record in chats if of == kind]
        told[kind] = {
            "sent": len(records),
            "paid": sum(record.cost_usd > 0 for record in records),
            "usable": sum(record.usable for record in records),
            "aborted": sum(record.aborted for record in records),
            "status": dict(Counter(str(record.status) for record in records)),
            "begins_s": min((record.arrived_s for record in records), default=0.0),
            "ends_s": max((record.ended_s for record in records), default=0.0),
        }
    told["answered_rows"] = len({n for (kind, n), r in chats if kind == "Row" and r.usable})
    return told


def main() -> None:
    """Serve until the standard input ends, then tell what was seen."""
    given = json.loads(sys.argv[1])
    load = Load(given["rows"], given["seed"], given["calls_per_s"])
    rule = Rule(load)
    sandbox = Sandbox(
        weather=given["scenario"],
        seed=given["seed"],
        faults=rule,
        engine=rule.answer,
        balance_usd=None,
        count="estimate",
        first_token_s=FIRST_TOKEN_S,
        token_s=TOKEN_S,
        tokens_per_event=EVENT_TOKENS,
        time_scale=given["scale"],
    )
    with sandbox:
        print(json.dumps({"base_url": sandbox.base_url, "api_key": sandbox.api_key}), flush=True)
        start_cpu_s = time.process_time()
        sys.stdin.read()
        cpu_s = time.process_time() - start_cpu_s
        told = summary(sandbox, rule)
        if given.get("records"):
            with open(given["records"], "w") as file:  # noqa: PTH123  (a path given by the user)
                for record in sandbox.log:
                    named = rule.names.get(record.prompt_hash or "", ("Row", -1))
                    file.write(json.dumps({"name": named, **record.to_json()}) + "\n")
    print(json.dumps({**told, "cpu_s": cpu_s}), flush=True)


if __name__ == "__main__":
    main()
