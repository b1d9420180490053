"""A forked child asks over connections of its own, and leaves its parent's alone."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from deepseek_nb.sandbox import Sandbox

SCRIPT = """
import os, signal, sys, threading
import deepseek_nb as ds
client = ds.Client(
    base_url=sys.argv[1], api_key=sys.argv[2], data_dir=sys.argv[3], thinking=False, budget_usd=1, cache=False
)
slow = threading.Thread(target=client.ask, args=("Return exactly: " + "word " * 80,))
slow.start()
while not client.budget.reserved_usd:
    pass
child = os.fork()
if not child:
    signal.alarm(30)  # a child that hangs is killed
    print(client.ask("Return exactly: in the child").text, client.budget.reserved_usd)
    sys.exit(0)
print("the child ended with", os.waitpid(child, 0)[1])
slow.join()
child = os.fork()
if not child:
    sys.exit(0)  # the interpreter's end closes what it finds
os.waitpid(child, 0)
print(client.ask("Return exactly: after").text)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="only where processes fork")
def test_parent_and_child_ask_on(tmp_path):
    """Nobody hangs or is told off, each is billed for its own, and an answer under way comes once."""
    with Sandbox(token_s=0.02, count="estimate") as sandbox:
        done = subprocess.run(
            [sys.executable, "-u", "-c", SCRIPT, sandbox.base_url, sandbox.api_key, str(tmp_path / "data")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    told = ["in the child 0.0", "the child ended with 0", "after"]
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, told, "")
    assert len(sandbox.log) == 3
