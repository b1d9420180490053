"""kill -9 at 50 random moments of a job of 2,000 rows, then resume: rows lost, rows paid twice, the bound.

It runs the test of that promise (tests/promises/test_r01_kill.py) at full size, with real processes and
the sandbox's own log of what was charged. The bound is kills x rows in flight: DeepSeek has no
idempotency key, so each row on the wire may have been answered when its process ended.

    python benchmarks/kill.py                      # about two minutes; needs the test tools
    python benchmarks/kill.py --kills 10 --rows 500
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
TEST = "tests/promises/test_r01_kill.py"


def main() -> int:
    """Run it and print its line; 1 where a promise was broken."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--rows", type=int, default=2000)
    options = parser.parse_args()
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", TEST],
        cwd=ROOT,
        env={**os.environ, "PROMISE_KILLS": str(options.kills), "PROMISE_ROWS": str(options.rows)},
        capture_output=True,
        text=True,
        check=False,
    )
    told = [line for line in done.stdout.splitlines() if "paid twice" in line]
    print("\n".join(told[:1]) if done.returncode == 0 and told else done.stdout + done.stderr)
    return int(done.returncode != 0 or not told)


if __name__ == "__main__":
    raise SystemExit(main())
