"""A real llama.cpp with a real, tiny model of random weights answers when no server does."""

from __future__ import annotations

import socket
import subprocess
import sys
from urllib.parse import urlsplit

import httpx
import pandas as pd
import pytest
from tiny_gguf import write

from deepseek_nb import LocalModel
from deepseek_nb.batch.apply import apply
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.sandbox import Fault, FaultScript, Sandbox


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "noise-q8.gguf"
    write(path)
    return path


@pytest.fixture
def local(file):
    with LocalModel(file, context_tokens=2048) as running:
        yield running


@pytest.fixture
def down(tmp_path):
    """A client of a server that refuses everything."""
    with (
        Sandbox(faults=FaultScript(lambda _: Fault("busy_503"))) as server,
        Client(base_url=server.base_url, api_key=server.api_key, data_dir=tmp_path) as client,
    ):
        yield client


def test_it_answers_when_the_server_is_down(down, local):
    answer = down.ask("Is the card lost?", fallback=[local.route], max_tokens=16)
    assert (answer.route, answer.model, answer.cost_usd) == ("local", "noise-q8", 0)
    assert answer.usage.completion_tokens > 0


def test_rows_go_there_and_say_so(tmp_path, local):
    frame = pd.DataFrame({"text": [f"ticket {n}" for n in range(12)]})
    ask = "Say a word about {{text}}"
    with Client(base_url="http://127.0.0.1:9", api_key="k" * 20, data_dir=tmp_path, max_faults=1) as nobody:
        out = apply(frame, ask, max_tokens=8, client=nobody, fallback=[local.route], progress=False)
    done = out[out["status"] == "done"]
    assert len(done) == 12, out["error"].tolist()
    assert set(done["route"]) == {"local/noise-q8"}
    assert out["cost_usd"].sum() == 0


def test_nobody_else_on_this_machine_may_ask(local):
    body = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    for headers in ({}, {"Authorization": "Bearer guess"}):
        reply = httpx.post(f"{local.base_url}/chat/completions", json=body, headers=headers)
        assert reply.status_code == 401
    assert "local-" not in repr(local.route)


def test_a_closed_one_listens_no_more_and_starts_again(file):
    local = LocalModel(file)
    assert not local.running
    where = urlsplit(local.base_url)
    local.close()
    local.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((where.hostname, where.port), timeout=5)
    with local:
        assert local.running


def test_it_can_be_closed_at_once(file):
    for _ in range(20):
        LocalModel(file).start().close()


def test_it_keeps_quiet(file, capfd):
    with LocalModel(file) as local:
        httpx.get(f"{local.base_url}/models", headers={"Authorization": "Bearer guess"})
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"", b"GGML" + bytes(64), b"PK\x03\x04"])
def test_another_kind_of_file_is_refused(tmp_path, content):
    (tmp_path / "other.gguf").write_bytes(content)
    with pytest.raises(ConfigError, match="not a GGUF file"):
        LocalModel(tmp_path / "other.gguf").start()


def test_a_missing_or_a_cut_file_is_refused(tmp_path, file, capfd):
    with pytest.raises(ConfigError, match="No such file"):
        LocalModel(tmp_path / "none.gguf").start()
    (tmp_path / "cut.gguf").write_bytes(file.read_bytes()[:200_000])
    with pytest.raises(ConfigError, match=r"cannot load cut\.gguf"):
        LocalModel(tmp_path / "cut.gguf").start()
    assert capfd.readouterr() == ("", "")


def test_without_the_package_the_error_says_what_to_install(file):
    code = (
        "import sys; sys.modules['xllamacpp'] = None\n"
        f"import deepseek_nb as ds\nds.LocalModel({str(file)!r}).start()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "deepseek_nb[local]"' in ended.stderr


def test_the_process_ends_with_one_left_open(file):
    code = f"import deepseek_nb as ds\nlocal = ds.LocalModel({str(file)!r}).start()\nprint(local.running)"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "True\n", "")
