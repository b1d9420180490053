"""The goals of the admission, on a simulated busy server: fixed seeds, the real class.

Measured beside the thresholds: ``python tests/sim``.
"""

from __future__ import annotations

from functools import cache
from statistics import fmean

import pytest
from trial import Trial, job, percentile, unloaded_latencies_s

SEEDS = (1, 2, 3, 4)
CALM, STORMY = ("limit", "queue"), ("storm",)
NOISY = ("noise:0.02", "noise:0.05", "noise:0.2", "noise:0.4", "flat:60:75:40+429:0.2")


@cache
def trials(scenario: str, copies: int = 1, *, recall: bool = False) -> list[Trial]:
    """One run for each seed."""
    return [job(scenario, seed, copies=copies, recall=recall) for seed in SEEDS]


def plain() -> list[Trial]:
    """Every run on a server that refuses only when it is full or down."""
    return [trial for s in CALM + STORMY for copies in (1, 4) for trial in trials(s, copies)]


def interactive_p99_s(scenario: str, *, recall: bool = False) -> float:
    """Of one kernel's calls beside its job."""
    found = [s for trial in trials(scenario, recall=recall) for s in trial.latencies_s]
    return percentile(found, 0.99)


def unloaded_p99_s(scenario: str) -> float:
    """Of the same kind of calls with no job."""
    return percentile([s for seed in SEEDS for s in unloaded_latencies_s(scenario, seed)], 0.99)


@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize(("scenarios", "least"), [(CALM, 0.95), (STORMY, 0.92)])
def test_the_server_is_kept_busy(scenarios: tuple[str, ...], copies: int, least: float) -> None:
    """Nearly as fast as slots that are always full, outages included."""
    assert fmean(t.eff for s in scenarios for t in trials(s, copies)) >= least


def test_no_run_is_far_from_the_mean() -> None:
    """The worst run keeps four fifths of the server busy."""
    assert min(t.eff for t in plain()) >= 0.80


def test_no_row_is_lost() -> None:
    """Neither given up nor forgotten, with noise or without."""
    noisy = [t for s in NOISY for t in trials(s)]
    assert sum(t.lost for t in plain() + noisy) == 0


def test_few_requests_are_wasted() -> None:
    """Refusals, faults and repeats together."""
    requests = [t.requests_per_row for t in plain()]
    assert fmean(requests) <= 1.10
    assert max(requests) <= 1.25


@pytest.mark.parametrize("scenario", CALM + STORMY)
def test_four_kernels_share_fairly(scenario: str) -> None:
    """The slowest of four kernels on one account takes little longer than the fastest."""
    assert fmean(t.unfair for t in trials(scenario, 4)) <= 1.3


@pytest.mark.parametrize(("scenario", "recall"), [("limit", False), ("queue", True)])
def test_interactive_calls_stay_quick(scenario: str, recall: bool) -> None:
    """At most twice as slow beside a job; where the server queues, with the switch for recall on."""
    assert interactive_p99_s(scenario, recall=recall) <= 2 * unloaded_p99_s(scenario)


def test_an_outage_is_no_worse_for_interactive_calls_than_without_a_job() -> None:
    """A server that is down is down."""
    assert interactive_p99_s("storm") <= 1.2 * unloaded_p99_s("storm")


@pytest.mark.parametrize("scenario", NOISY)
def test_random_refusals_are_survived(scenario: str) -> None:
    """Up to two requests in five refused whatever the load: taken for fullness, 0.03 to 0.8 were left."""
    runs = trials(scenario)
    assert fmean(t.eff for t in runs) >= 0.85
    assert min(t.eff for t in runs) >= 0.70
    assert max(t.requests_per_row for t in runs) <= 1.25


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["limit+503:0.2", "noise:0.2"])
@pytest.mark.parametrize("copies", [1, 4])
def test_random_refusals_on_top_of_full_servers(scenario: str, copies: int) -> None:
    """Noise and true fullness at once, alone and with others on the account."""
    runs = trials(scenario, copies)
    assert fmean(t.eff for t in runs) >= 0.85
    assert fmean(t.requests_per_row for t in runs) <= 1.30
    assert sum(t.lost for t in runs) == 0


def test_random_429s_that_name_a_wrong_limit_are_survived() -> None:
    """A number that the server itself does not keep to is not kept to for long."""
    runs = trials("flat:60:75:40+503:0.15+429:0.05+says:5")
    assert fmean(t.eff for t in runs) >= 0.85


def test_one_outage_costs_little() -> None:
    """A minute's outage: the breaker opens, few probes are sent, and the job goes on at once."""
    runs = trials("flat:60:75:40:60:120")
    assert fmean(t.eff for t in runs) >= 0.90
    assert max(t.requests_per_row for t in runs) <= 1.15


def test_a_wide_server_is_found() -> None:
    """From 16 in flight to hundreds while the job is still young."""
    assert job("flat:600:500:40", 1, rows=10_000).eff >= 0.75
