"""A script that asks and ends: nothing is left open, nothing is printed, and the others know that it left."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys

import pytest

SCRIPT = """
import sys, warnings
import deepseek_nb as ds
client = ds.Client(base_url=sys.argv[1], api_key=sys.argv[2], data_dir=sys.argv[3], thinking=False)
print(client.ask("Return exactly: yes").text)
if len(sys.argv) > 4:
    client.close()
"""


@pytest.mark.parametrize("closes", [[], ["closes"]], ids=["left open", "closed"])
def test_a_script_ends_without_a_word(sandbox, tmp_path, closes):
    """Whether it closes its client or not: the connections are closed and the shared table is left."""
    done = subprocess.run(
        [
            *(sys.executable, "-X", "dev", "-c", SCRIPT),
            *(sandbox.base_url, sandbox.api_key, str(tmp_path / "data"), *closes),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    told = [line for line in done.stderr.splitlines() if not line.startswith("Executing <")]
    assert (done.returncode, done.stdout.strip(), told) == (0, "yes", [])  # but for a slow machine's steps
    connection = sqlite3.connect(tmp_path / "data" / "limits.db")
    [(state,)] = connection.execute("SELECT state FROM limits").fetchall()
    connection.close()
    assert "|" not in json.dumps(json.loads(state)), "no member's name is left in the table"
