"""S1: whatever is called and whatever fails, the key is in no output, log, traceback, file or message."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernels import kernel_environment, running_kernel

from deepseek_nb.sandbox import FaultScript, Sandbox

from .canary import CLIENT_SECRET, KEY, WAYS, address, echo_server, files_of, find

HERE = Path(__file__).parent


def run(*words: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    """A process of its own in asyncio's debug mode, whose temporary files stand in ``folder``."""
    (folder / "tmp").mkdir(exist_ok=True)
    debug = {"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1", "TMPDIR": str(folder / "tmp")}
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        timeout=110,
        check=False,
        cwd=folder,
        env=os.environ | debug | environment,
    )


def look_through(folder: Path, *outputs: bytes, secrets: tuple[str, ...]) -> list[str]:
    """Where one of ``secrets`` stands: in the outputs, or in any file of ``folder``."""
    everything = {f"output {number}": output for number, output in enumerate(outputs)} | files_of(folder)
    return [f"{where}: {found}" for where, data in everything.items() for found in find(data, *secrets)]


def test_the_search_finds_every_notation():
    """A search that finds nothing would pass too."""
    with echo_server() as server:
        pass
    assert server.seen == []
    for way, reply in WAYS.items():
        sent = b"".join(reply(KEY))
        assert find(sent, KEY) or way in (
            "400 escaped",
            "400 as PHP writes it",
            "200 words, the token cut",
        ), way
    assert find("<" + KEY + ">", KEY)[0].startswith("plain")


SOME_WAYS = [way for way in WAYS if way.startswith(("401", "503", "302", "200 an", "200 a page", "429"))]


@pytest.mark.parametrize("kind", ["key", "token"])
def test_no_call_and_no_failure_shows_it(kind, tmp_path):
    """Every call, to servers that send it back in 22 ways; all that is printed, logged and written."""
    ways = list(WAYS) if kind == "key" else SOME_WAYS
    secrets = {"DEEPSEEK_API_KEY": KEY}
    if kind == "token":
        secrets = {"DEEPSEEK_NB_JWT_CLIENT_ID": "desk", "DEEPSEEK_NB_JWT_CLIENT_SECRET": CLIENT_SECRET}
    with echo_server() as server:
        addresses = [address(server, way) for way in ways]
        done = run(
            str(HERE / "every_call.py"), str(tmp_path), *addresses, folder=tmp_path, environment=secrets
        )
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(server.seen) >= 6 * len(ways)
    tokens = set(server.seen)
    assert tokens == {KEY} if kind == "key" else all(token.startswith("eyJ") for token in tokens)
    assert len(done.stdout) > 200_000
    assert b"DEBUG:asyncio" in done.stderr
    assert (tmp_path / "data" / "answers.db").exists()
    assert (tmp_path / "pickles").exists()
    secrets = (KEY, KEY[:15], KEY[-15:], CLIENT_SECRET, *tokens)
    assert look_through(tmp_path, done.stdout, done.stderr, secrets=secrets) == []


SETTING_UP = """
import asyncio, copy, json, logging, os, pickle, warnings
import pandas as pd
import deepseek_nb as ds
%load_ext deepseek_nb
logging.basicConfig(level=logging.DEBUG)
asyncio.get_running_loop().set_debug(True)
client = ds.default_client()
settings = client.settings
secret = settings.api_key
frame = pd.DataFrame({"text": ["a", "b"]})
def refused(way, **more):
    quick = {"max_faults": 0, "patience_s": 0, "max_repairs": 0}
    return ds.Client(base_url=ECHO.format(way=way), **quick, **more)
class Nested(RuntimeError): pass
"""
CELLS = (
    "%deepseek --no-cache say hello",
    "%%deepseek --into answer\nsay {{frame}}",
    "%deepseek --api-key x hello",
    "%deepseek --model no-such-model hello",
    "frame.deepseek.apply('About {{text}}?', job='a job')",
    "frame.deepseek.apply('About {{missing}}?')",
    "client, settings, secret, client.aio, client.aio.road, client.aio.road.upstream('').transport",
    "settings.describe()",
    "client.aio.road.upstream('').transport.__dict__, client.aio.__dict__, client.__dict__",
    "client?",
    "secret?",
    "settings??",
    "%who",
    "%whos",
    "%config DeepSeekMagics",
    "%config DeepSeekMagics.priority = secret.reveal()",
    "%deepseek balance",
    "%deepseek models",
    "%deepseek cost",
    "%deepseek cache",
    "%deepseek jobs",
    "%deepseek key",
    "raise ValueError('refused: ' + secret.reveal()[:0])",
    "%deepseek explain",
    "%deepseek fix -- quickly",
    "%deepseek key forget",
    "print(settings, secret, f'{secret:>30}', repr(secret), '%s' % secret)",
    "json.dumps({'key': secret})",
    "json.dumps(settings, default=str)",
    "pickle.dumps(client)",
    "pickle.dumps(settings)",
    "copy.deepcopy(settings)",
    "ds.ask('x', nope=1)",
    "ds.ask(7)",
    "client.ask('x', model='no-such-model')",
    "refused('401%20in%20words').ask('x')",
    "refused('500%20in%20a%20page').models()",
    "refused('503%20in%20pieces').balance()",
    "refused('302%20in%20the%20place').ask('x')",
    "refused('200%20an%20answer').ask('x')",
    "frame.deepseek.apply('About {{text}}?', client=refused('429%20in%20hex'))",
    "try:\n    refused('401%20in%20words').ask('x')\nexcept Exception as e:\n    raise Nested from e",
    "try:\n    refused('401', nonsense=1)\nexcept Exception as e:\n    raise Nested from e",
    "try:\n    settings.replace(priority=9)\nexcept Exception as e:\n    raise Nested from e",
    "try:\n    ds.configure(priority=9)\nexcept Exception as e:\n    raise Nested from e",
    "try:\n    ds.Client(api_key=secret.reveal(), model=9)\nexcept Exception as e:\n    raise Nested from e",
    "%tb",
    "async with ds.AsyncClient() as own:\n    print(own, await own.ask('say it'), own.road)",
    "[task for task in asyncio.all_tasks()]",
)


def test_no_cell_shows_it(tmp_path):
    """In a real kernel: magics, jobs, clients, failures, in every ``%xmode``, all loggers at DEBUG."""
    said = {}
    with Sandbox(api_key=KEY, count="estimate", time_scale=100) as sandbox, echo_server() as echo:
        environment = kernel_environment(sandbox, tmp_path, TMPDIR=str(tmp_path))
        with running_kernel(environment, tmp_path) as kernel:
            ready = kernel.run(f"ECHO = {address(echo, 'WAY').replace('WAY', '{way}')!r}\n{SETTING_UP}")
            assert ready.status == "ok", ready.error
            for mode in ("Plain", "Context", "Verbose", "Minimal"):
                kernel.run(f"%xmode {mode}")
                sandbox.faults = FaultScript.of(None, "governor_401", "balance_402", "cut_rst", "html_502")
                for number, cell in enumerate(CELLS if mode != "Plain" else CELLS[::2]):
                    done = kernel.run(cell)
                    said[mode, number] = json.dumps([done.messages, done.reply], default=str)
    assert sum("Nested" in text for text in said.values()) >= 15
    assert sum(len(text) for text in said.values()) > 300_000
    assert any("DEBUG:asyncio" in text for text in said.values())
    assert {where: found for where, text in said.items() if (found := find(text, KEY))} == {}
    assert look_through(tmp_path, secrets=(KEY,)) == []


@pytest.mark.parametrize(
    "words",
    [
        ["models"],
        ["balance"],
        ["jobs"],
        ["cache"],
        ["demo", "--rows", "3"],
        ["models", "--api-key", KEY],
        ["models", "--apikey", KEY],
        ["models", f"--api_key={KEY}"],
        ["models", KEY],
        ["demo", "--rows", KEY],
        [KEY],
    ],
    ids=itertools.count(),
)
def test_no_command_shows_it(words, tmp_path):
    """In the shell, also where the key stands in the wrong place."""
    with Sandbox(api_key=KEY) as sandbox:
        environment = {
            "DEEPSEEK_API_KEY": KEY,
            "DEEPSEEK_NB_BASE_URL": sandbox.base_url,
            "DEEPSEEK_NB_DATA_DIR": str(tmp_path / "data"),
        }
        done = run("-m", "deepseek_nb.cli", *words, folder=tmp_path, environment=environment)
    assert done.stdout or done.stderr
    assert look_through(tmp_path, done.stdout, done.stderr, secrets=(KEY,)) == []
