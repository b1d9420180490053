"""A model's file as the last upstream: a real llama.cpp in the gateway, a tiny model of random weights."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

import httpx
import pytest
from tiny_gguf import write

from deepseek_nb.core.errors import ConfigError
from deepseek_nb.gateway.config import parse_config
from deepseek_nb.gateway.serve import summary

from .people import SECRETS, chat_body, new_client


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "noise.gguf"
    write(path)
    return path


def entry(file, **more):
    return {"name": "own", "gguf": os.fspath(file), "context_tokens": 2048, **more}


def test_it_answers_when_the_upstream_is_gone_and_only_then(serve, upstream, file):
    gateway = serve(more=[entry(file)], tenants={"desk": {"models": ["deepseek-flash"]}})
    with new_client(gateway, "desk") as client:
        first = client.post("/chat/completions", json=chat_body("Return exactly: here"))
        assert (first.headers["x-upstream"], "x-degraded" in first.headers) == ("deepseek", False)
        upstream.stop()
        for stream in (False, True):
            body = chat_body(f"Is anybody there? {stream}", max_tokens=12, stream=stream)
            reply = client.post("/chat/completions", json=body)
            assert reply.status_code == 200, reply.text
            assert (reply.headers["x-upstream"], reply.headers["x-degraded"]) == ("own", "true")


def test_it_takes_functions_and_their_results(serve, upstream, file):
    """A real server that knows OpenAI's language only; noise makes no call, so it is told of one."""
    gateway = serve(more=[entry(file)])
    upstream.stop()
    call = {"id": "a", "type": "function", "function": {"name": "paint", "arguments": '{"colour":"red"}'}}
    turns = [
        {"role": "user", "content": "Paint it."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "done", "tool_call_id": "a"},
    ]
    tools = [{"type": "function", "function": {"name": "paint", "parameters": {"type": "object"}}}]
    with new_client(gateway, "desk") as client:
        for sent in (turns[:1], turns):
            body = chat_body(max_tokens=12, tools=tools) | {"messages": sent}
            reply = client.post("/chat/completions", json=body)
            assert (reply.status_code, reply.headers["x-upstream"]) == (200, "own"), reply.text


def test_it_listens_while_the_gateway_does(serve, upstream, file):
    gateway = serve(more=[entry(file)])
    with httpx.Client(base_url=gateway.base_url, trust_env=False) as anybody:
        told = anybody.get("/status.json").json()
    assert [one["name"] for one in told["upstreams"]] == ["deepseek", "own"]
    local = gateway.running_config.upstreams[1]
    where = urlsplit(local.base_url)
    socket.create_connection((where.hostname, where.port), timeout=5).close()
    assert local.key.reveal() not in repr(gateway.running_config)
    gateway.stop()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((where.hostname, where.port), timeout=5)


def read(upstreams, tmp_path):
    told = {
        "gateway": {},
        "upstream": [{"name": "first", "base_url": "https://api.deepseek.com", "key_env": "K"}, *upstreams],
        "tenant": {"desk": {"secret_env": "S"}},
    }
    return parse_config(told, {"K": "k" * 20, "S": SECRETS["desk"]}, folder=tmp_path)


def test_its_place_in_the_file(tmp_path, file):
    """A path begins at the file that names it; the model is called as the file is."""
    write(tmp_path / "near.gguf")
    config = read([{"name": "own", "gguf": "near.gguf"}], tmp_path)
    assert config.upstreams[1].model == "near"
    assert f"upstream own: {tmp_path / 'near.gguf'}, stands in with near" in summary(config)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"base_url": "http://127.0.0.1:1/v1"}, "base_url in .* is not for a file"),
        ({"weight": 1}, "weight in .* is not for a file"),
        ({"gguf": "none.gguf"}, "none.gguf cannot be read"),
        ({"concurrent": 0}, "concurrent in .* is not taken"),
        ({"context": 4096}, "no 'context' .*|There is no 'context'"),
    ],
)
def test_what_is_wrong_with_one_is_said_before_it_starts(tmp_path, file, more, said):
    with pytest.raises(ConfigError, match=said):
        read([entry(file, **more)], tmp_path)


def test_the_first_upstream_is_no_file(tmp_path, file):
    told = {"upstream": [entry(file)], "tenant": {"desk": {"secret_env": "S"}}}
    with pytest.raises(ConfigError, match=r"gguf in .* is not for the first upstream"):
        parse_config(told, {"S": SECRETS["desk"]})
