"""``benchmarks/busy.py`` runs without the peers installed, and its figures add up."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_the_benchmark_runs_and_its_figures_add_up(tmp_path):
    busy = Path(__file__).parents[2] / "benchmarks" / "busy.py"
    figures = tmp_path / "figures.json"
    arguments = [
        "--clients",
        "deepseek_nb,guide",
        "--rows",
        "60",
        "--scenarios",
        "flat:20:25:9",
        "--seeds",
        "5",
    ]
    patient = ["--scale", "20", "--halvings", "0", "--stop-after", "60"]  # of a machine with other work
    done = subprocess.run(
        [sys.executable, str(busy), *arguments, *patient, "--json", str(figures)],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "|deepseek_nb|" in done.stdout
    results = {r["client"]: r for r in json.loads(figures.read_text())["results"]}
    assert list(results) == ["unloaded", "deepseek_nb", "guide"]
    ours, guide = results["deepseek_nb"], results["guide"]
    assert (ours["lost_share"], ours["empty"], ours["wrong"], ours["stopped"]) == (0.0, 0, 0, False)
    assert guide["lost_share"] > 0  # 64 workers, 25 places
    for result in (ours, guide):
        assert 0 < result["goodput"] <= 1.1
        assert result["answered_share"] == 1.0
        assert result["requests_per_row"] >= result["paid_per_row"] >= 1.0
