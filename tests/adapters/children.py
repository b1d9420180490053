"""Real child processes for the tests of what is kept on disk."""

import os
import random
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

# they find the package where this process does
HERE = Path(__file__).parent


def start(script, *arguments, **options):
    """One of the scripts in this folder, its output in pipes; ``options`` are Popen's."""
    return _start([str(HERE / script)], arguments, **options)


def start_code(code, *arguments):
    """Python source as a process, its output in pipes."""
    return _start(["-c", textwrap.dedent(code)], arguments)


def run_code(code, *arguments):
    """Python source as a process; fails with its error output unless it ends well and prints no error."""
    child = start_code(code, *arguments)
    out, errors = child.communicate(timeout=60)
    assert (child.returncode, errors) == (0, ""), errors
    return out


def run_until_killed(script, *arguments, after_s, rng=random):
    """Kill -9 the script some time after its first line; the complete lines it had printed."""
    child = start(script, *arguments)
    first = child.stdout.readline()
    killer = threading.Timer(rng.uniform(0, after_s), child.kill)
    killer.start()
    rest = child.stdout.read()
    child.wait()
    killer.join()
    errors = child.stderr.read()
    child.stdout.close()
    child.stderr.close()
    assert not errors, errors
    lines = (first + rest).split("\n")
    return lines[:-1]  # the last one is not complete


def wait_for(condition, within_s=20.0):
    """Wait until ``condition()`` holds."""
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.01)


def _start(what, arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-W", "error", *what, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        **options,
    )
