"""Print the table: ``python tests/sim [--seeds 4] [--first 1] [--rows 2000]``.

"shared" is four kernels with one level, as through the SQLite file; "queue, recall" takes waiting rows
back for interactive calls. Seeds from 101 on are none that the constants were tuned on.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from statistics import fmean

from trial import Trial, beside_a_rival, job, percentile

from deepseek_nb.core.admission import Tuning

SCENARIOS = (
    "limit",
    "queue",
    "queue, recall",
    "storm",
    "noise:0.02",
    "noise:0.2",
    "noise:0.4",
    "flat:60:75:40+429:0.2",
    "flat:60:75:40+503:0.15+429:0.05+says:5",
    "limit+503:0.2",
    "queue+503:0.2",
    "storm+503:0.2",
)
BIG = (("flat:600:500:40", 20_000, 0.87), ("flat:5000:2500:40", 100_000, 0.76))
"""Wide servers, rows, and what the study's sketch of the algorithm reached there."""
MODES = (("polite", Tuning()), ("stubborn", Tuning(least=8, hold_s=0.25)))


def line(trials: list[Trial]) -> str:
    """What the runs of one cell came to."""
    effs, requests = [t.eff for t in trials], [t.requests_per_row for t in trials]
    latencies_s = [latency_s for t in trials for latency_s in t.latencies_s]
    return (
        f"{fmean(effs):.3f} ({min(effs):.2f})  {sum(t.lost + t.empty_kept for t in trials)}  "
        f"{fmean(requests):.3f} ({max(requests):.2f})  {fmean(t.recalled_per_row for t in trials):.2f}  "
        f"{percentile(latencies_s, 0.99):5.1f} s  {fmean(t.unfair for t in trials):.2f}"
    )


def run(cell: tuple[str, int, int, bool], seed: int) -> Trial:
    """One run of a cell."""
    name, copies, rows, shared = cell
    scenario, _, recall = name.partition(", ")
    return job(scenario, seed, rows=rows, copies=copies, shared=shared, recall=bool(recall))


def main() -> None:
    """Run all cells and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--rows", type=int, default=2000)
    args = parser.parse_args()
    seeds = range(args.first, args.first + args.seeds)
    print(f"{'':50s}eff (worst)  lost  req/row (worst)  recalled  VIP P99  unfair")
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for copies, shared in ((1, True), (4, False), (4, True)):
            for name in SCENARIOS:
                runs = list(pool.map(partial(run, (name, copies, args.rows, shared)), seeds))
                how = "shared" if shared and copies > 1 else ""
                print(f"{copies} {name:40s}{how:8s}{line(runs)}", flush=True)
        for name, rows, before in BIG:
            print(f"1 {name:40s}{'':8s}{line([run((name, 1, rows, True), args.first)])}  (study: {before})")
        for mode, tuning in MODES:
            times, requests = zip(*pool.map(partial(beside_a_rival, tuning), seeds), strict=True)
            print(
                f"beside 256 hammering workers, {mode}: {fmean(times):.1f} x ideal, {fmean(requests):.1f} req"
            )


if __name__ == "__main__":
    main()
