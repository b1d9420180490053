"""What ``%load_ext deepseek_nb`` costs: fresh kernels with it against bare ones, medians of seven.

Run it without arguments: ``python benchmarks/load_ext.py``. It exits with 1 if the bar is missed.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import KernelManager

ROUNDS = 7
BAR_S = 0.15
"""Above a bare kernel, from sending the cell to the kernel being idle again."""
READY_S = 60.0
LOADING = "%load_ext deepseek_nb"
BARE = "pass"


class ThisPython(KernelSpecManager):
    """Knows one kernel: the Python that runs this script."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The same for every name."""
        return KernelSpec(
            argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name=kernel_name,
            language="python",
        )


def cell_to_idle_s(cell: str, folder: str) -> tuple[float, float]:
    """In a fresh kernel: what the first cell itself takes, and from sending it until the kernel is idle."""
    manager = KernelManager(kernel_name="this", kernel_spec_manager=ThisPython())
    manager.start_kernel(cwd=folder, stderr=subprocess.DEVNULL)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=READY_S)
        timed = f"import time as _t; _s = _t.perf_counter()\n{cell}\n_took_s = _t.perf_counter() - _s"
        start_s = time.perf_counter()
        client.execute_interactive(timed, timeout=READY_S)
        to_idle_s = time.perf_counter() - start_s
        told: list[str] = []
        client.execute_interactive(
            "print(_took_s)",
            timeout=READY_S,
            output_hook=lambda message: told.append(message["content"].get("text", "")),
        )
        return float("".join(told)), to_idle_s
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def main() -> int:
    """Print the table; 0 if the bar is met."""
    cell_s: dict[str, list[float]] = {BARE: [], LOADING: []}
    idle_s: dict[str, list[float]] = {BARE: [], LOADING: []}
    with tempfile.TemporaryDirectory() as folder:
        for round_number in range(ROUNDS + 1):
            for cell in (BARE, LOADING):
                took_s, to_idle_s = cell_to_idle_s(cell, folder)
                if round_number:  # the first pair fills the file cache and compiles
                    cell_s[cell].append(took_s)
                    idle_s[cell].append(to_idle_s)
    print(f"median of {ROUNDS} fresh kernels, seconds (least to most)\n")
    print(f"{'first cell':<24} {'the cell itself':<26} until idle")
    medians = {}
    for cell in (BARE, LOADING):
        medians[cell] = statistics.median(idle_s[cell])
        columns = [
            f"{statistics.median(times):.4f} ({min(times):.4f} to {max(times):.4f})"
            for times in (cell_s[cell], idle_s[cell])
        ]
        print(f"{cell:<24} {columns[0]:<26} {columns[1]}")
    above_s = medians[LOADING] - medians[BARE]
    met = above_s <= BAR_S
    print(f"\nabove bare, until idle: {above_s:.4f} s; ratio {medians[LOADING] / medians[BARE]:.1f}")
    print(f"bar: at most {BAR_S} s above bare: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
