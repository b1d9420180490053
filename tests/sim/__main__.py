"""Print the table: ``python tests/sim [--seeds 4] [--rows 2000]``.

"before" is the same class without pardons and with the constants it had then.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import fmean

from trial import Trial, job, percentile

from deepseek_nb.core.admission import Tuning

BEFORE = Tuning(pardons=0.0, cut_503=0.7, doubling_s=1.0, hold_s=0.5, named_limit_s=60.0)
SCENARIOS = (
    "limit",
    "queue",
    "storm",
    "noise:0.02",
    "noise:0.05",
    "noise:0.2",
    "noise:0.4",
    "flat:60:75:40+429:0.2",
    "flat:60:75:40+503:0.15+429:0.05",
    "flat:60:75:40+503:0.15+429:0.05+says:5",
    "limit+503:0.2",
    "queue+503:0.2",
    "storm+503:0.2",
)
BIG = ("flat:600:500:40", 20_000)


def line(trials: list[Trial]) -> str:
    """What the runs of one cell came to: eff mean (worst), lost, requests per row mean (worst), VIP P99."""
    effs, requests = [t.eff for t in trials], [t.requests_per_row for t in trials]
    latencies_s = [latency_s for t in trials for latency_s in t.latencies_s]
    return (
        f"{fmean(effs):.3f} ({min(effs):.2f})  {sum(t.lost for t in trials)}  "
        f"{fmean(requests):.3f} ({max(requests):.2f})  {percentile(latencies_s, 0.99):5.1f} s  "
        f"{fmean(t.unfair for t in trials):.2f}"
    )


def run(tuning: Tuning | None, cell: tuple[str, int, int, int]) -> Trial:
    """One run of a cell."""
    scenario, copies, rows, seed = cell
    return job(scenario, seed, rows=rows, copies=copies, tuning=tuning)


def main() -> None:
    """Run all cells and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--before", action="store_true", help="print what it was before, too")
    args = parser.parse_args()
    print(
        "copies scenario                                 eff (worst)  lost  req/row (worst)  VIP P99  unfair"
    )
    cells = [(scenario, copies, args.rows, args.seeds) for copies in (1, 4) for scenario in SCENARIOS]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for scenario, copies, rows, seeds in [*cells, (BIG[0], 1, BIG[1], 1)]:
            runs = [(scenario, copies, rows, seed) for seed in range(1, seeds + 1)]
            print(
                f"{copies} {scenario:40s} now     {line(list(pool.map(partial(run, None), runs)))}",
                flush=True,
            )
            if args.before:
                print(f"{'':42s} before  {line(list(pool.map(partial(run, BEFORE), runs)))}", flush=True)


if __name__ == "__main__":
    main()
