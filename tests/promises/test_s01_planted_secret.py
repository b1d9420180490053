"""S1: a secret planted in each place it may come from, and sent back by the server, is found nowhere.

Looked through: outputs, tracebacks with every value, warnings, all logs at DEBUG, the files of answers, jobs
and limits with their write-ahead logs, IPython's history, dumps of all threads. What a user typed into a cell
is by IPython's design in its history, word for word: that one column is left out, and nothing else.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from kernels import Kernel, kernel_environment, running_kernel

from deepseek_nb.sandbox import FaultScript, Sandbox

from .canary import CLIENT_SECRET, KEY, address, echo_server, files_of, find

CELL_KEY = "sk-Canary0cell5f1d7c0a9b3eZqWx"
"""Looks like a key of the service, so that it is warned of."""
INPUT_COLUMNS = ("source", "source_raw")
WAYS = (
    "401 in words",
    "401 in a header",
    "402 in JSON",
    "404 in a URL",
    "422 as basic",
    "429 in hex",
    "500 in a page",
    "503 in pieces",
    "302 in the place",
    "200 a page",
    "200 an error",
    "200 an answer",
)

SETTING_UP = """
import faulthandler, logging, warnings
import pandas as pd
import deepseek_nb as ds
warnings.simplefilter("always")
logging.captureWarnings(True)
logging.basicConfig(level=logging.DEBUG, filename="all.log", force=True)
get_ipython().history_manager.db_log_output = True
get_ipython().history_manager.db_cache_size = 0
%load_ext deepseek_nb
%xmode Verbose
frame = pd.DataFrame({"text": ["a", "b"]})
quick = {"max_faults": 0, "patience_s": 0, "max_repairs": 0}
class Nested(RuntimeError): pass
"""
CELLS = (
    "%deepseek say hello",
    "%%deepseek --no-cache --into answer\nsay it again",
    "%deepseek --model no-such-model hello",
    "frame.deepseek.apply('About {{text}}?', job='a job')",
    "frame.deepseek.apply('About {{missing}}?')",
    "client, client.settings, client.settings.describe(), client.aio, vars(client), vars(client.aio)",
    "_",
    "Out",
    "%whos",
    "%config DeepSeekMagics",
    "client.ask('x', nope=1)",
    "client.ask('x', model='no-such-model')",
    "try:\n    client.ask('x', model='no-such-model')\nexcept Exception as e:\n    raise Nested from e",
    "%tb",
    "%tb",
)
REFUSED = (
    "there = ds.Client(base_url=ECHO.format(way={way!r}), **quick{more})",
    "there.ask('x')",
    "try:\n    there.ask('y')\nexcept Exception as e:\n    raise Nested from e",
    "list(there.stream('z'))",
    "there.models()",
    "frame.deepseek.apply('About {{{{text}}}}?', client=there, job={way!r})",
)
TYPED = (
    f"%env DEEPSEEK_API_KEY={CELL_KEY}",
    f"import os\nos.environ['DEEPSEEK_API_KEY'] = {CELL_KEY!r}\nprint(os.environ['DEEPSEEK_API_KEY'])",
    f"ds.Client(api_key={CELL_KEY!r}, nonsense=1)",
    f"ds.Client(api_key={CELL_KEY!r}).ask('x', nope=1)",
)
"""What people do with a key in a cell."""
AT_LAST = (
    "with open('crash.log', 'w') as file:\n    faulthandler.dump_traceback(file, all_threads=True)",
    "get_ipython().history_manager.writeout_cache()",
)


@dataclass(frozen=True)
class Place:
    """Where a secret comes from."""

    secret: str
    environment: dict[str, str] = field(default_factory=dict)
    argument: str = ""
    """What every client is given in the source of a cell."""
    in_keyring: bool = False


PLACES = {
    "environment": Place(KEY, {"DEEPSEEK_API_KEY": KEY}),
    "keyring": Place(KEY, in_keyring=True),
    "cell": Place(CELL_KEY, argument=f", api_key={CELL_KEY!r}"),
    "token": Place(
        CLIENT_SECRET,
        {"DEEPSEEK_NB_JWT_CLIENT_ID": "desk", "DEEPSEEK_NB_JWT_CLIENT_SECRET": CLIENT_SECRET},
    ),
}


def plant(folder: Path, *origins: str) -> dict[str, str]:
    """Put the key into a keyring of its own in ``folder``; gives the environment that finds it."""
    environment = {
        "PYTHON_KEYRING_BACKEND": "keyrings.alt.file.PlaintextKeyring",
        "XDG_DATA_HOME": str(folder),
    }
    for origin in origins:
        command = f"import keyring; keyring.set_password('deepseek_nb', {origin!r}, {KEY!r})"
        subprocess.run([sys.executable, "-c", command], check=True, env=os.environ | environment)
    assert find(b"".join(files_of(folder).values()).replace(b"\n", b""), KEY), "the keyring's own file has it"
    return environment


def run(kernel: Kernel, cells: list[str], said: dict[str, str]) -> None:
    """Run the cells and keep all that is said of them but the echo of what was typed in."""
    for cell in cells:
        done = kernel.run(cell)
        messages = [message for message in done.messages if message["msg_type"] != "execute_input"]
        said[f"{len(said)}: {cell[:60]}"] = json.dumps([messages, done.reply], default=str)


def history_without_inputs(file: Path) -> str:
    """All that is in IPython's history but the two columns of what was typed in."""
    with closing(sqlite3.connect(file)) as history:
        tables = [name for (name,) in history.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = []
        for table in tables:
            columns = [column for _, column, *_ in history.execute(f"PRAGMA table_info({table})")]
            kept = [column for column in columns if column not in INPUT_COLUMNS]
            rows += history.execute(f"SELECT {', '.join(kept)} FROM {table}").fetchall()
    return json.dumps(rows, default=str)


@pytest.mark.parametrize("place", PLACES)
def test_it_is_found_nowhere(place, tmp_path):
    """It was used and sent back, and stands in no output, traceback, warning, log or file."""
    planted = PLACES[place]
    work, vault = tmp_path / "work", tmp_path / "vault"
    work.mkdir()
    said: dict[str, str] = {}
    accepted = None if place == "token" else planted.secret
    with Sandbox(api_key=accepted, count="estimate", time_scale=100) as sandbox, echo_server() as echo:
        own = planted.environment
        if planted.in_keyring:
            own = plant(vault, sandbox.base_url, address(echo, "").rstrip("/"))
        environment = kernel_environment(sandbox, work, **{"DEEPSEEK_API_KEY": "", "TMPDIR": str(work)} | own)
        environment = {name: value for name, value in environment.items() if value}
        with running_kernel(environment, work) as kernel:
            ready = kernel.run(f"ECHO = {address(echo, 'WAY').replace('WAY', '{way}')!r}\n{SETTING_UP}")
            assert ready.status == "ok", ready.error
            configured = planted.argument.removeprefix(", ")
            run(kernel, [f"ds.configure({configured})\nclient = ds.default_client()"], said)
            sandbox.faults = FaultScript.of(None, None, None, "governor_401", "cut_rst", "html_502")
            run(kernel, list(CELLS), said)
            for way in WAYS:
                quoted = address(echo, way).rpartition("/")[2]
                run(kernel, [cell.format(way=quoted, more=planted.argument) for cell in REFUSED], said)
            run(kernel, list(TYPED if planted.argument else ()) + list(AT_LAST), said)
        assert len([record for record in sandbox.log if record.usable]) >= 3, "it was accepted"
    tokens = set(echo.seen)
    assert tokens, "it was sent to the server that sends it back"
    if place != "token":
        assert tokens == {planted.secret}
    secrets = (planted.secret, planted.secret[:15], planted.secret[-15:], *tokens)

    # what would be looked through in vain
    assert sum("Nested" in text for text in said.values()) >= len(WAYS) / 2
    assert sum("Traceback (most recent call last)" in text for text in said.values()) >= len(WAYS) / 2
    files = files_of(work)
    assert b"DEBUG:" in files[str(work / "all.log")]
    assert b"Thread 0x" in files[str(work / "crash.log")]
    for name in ("answers.db", "jobs.db", "limits.db"):
        assert str(work / "data" / name) in files
    (history,) = [Path(file) for file in files if file.endswith("history.sqlite")]
    assert "hello" in history_without_inputs(history), "outputs are in the history"

    if planted.argument:
        warned = [text for text in said.values() if "this cell has an API key in it (****ZqWx)" in text]
        assert len(warned) >= len(WAYS) + len(TYPED), "it is warned of, and masked"
        assert find(files.pop(str(history)), CELL_KEY), (
            "what was typed in is in the history, and nowhere else"
        )
    everything = said | {"the history": history_without_inputs(history)} | files
    assert {where: found for where, text in everything.items() if (found := find(text, *secrets))} == {}
