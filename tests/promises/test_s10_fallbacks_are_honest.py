"""S10: an answer says who gave it, in a column of its own and in its key; no other model's poses as it."""

from __future__ import annotations

import sqlite3

import pandas as pd
import pytest

import deepseek_nb as ds
from deepseek_nb.client.routes import Route
from deepseek_nb.sandbox import Completion, Fault, FaultScript, Sandbox

FAULT = Fault("busy_503")


def says(name: str):
    return lambda request: Completion(f"{name}: {request.question}")


@pytest.fixture
def servers():
    with (
        Sandbox(engine=says("first"), count="estimate", time_scale=100) as first,
        Sandbox(engine=says("local"), count="estimate", time_scale=100) as local,
    ):
        yield first, local


def client_of(servers, tmp_path, name: str, **more) -> ds.Client:
    """A client of the first server, called "deepseek", that falls back to the second, called ``name``."""
    first, local = servers
    route = Route(base_url=local.base_url, model="deepseek-v4-pro", name=name, api_key=local.api_key)
    return ds.Client(
        base_url=first.base_url,
        api_key=first.api_key,
        route="deepseek",
        data_dir=tmp_path,
        fallback=route,
        **more,
    )


@pytest.fixture
def client(servers, tmp_path):
    with client_of(servers, tmp_path, "local", failover_s=0.1, patience_s=30) as made:
        yield made


def who(text: str) -> str:
    """The server that really wrote it."""
    return {"first": "deepseek", "local": "local"}[text.partition(":")[0]]


def servers_of(result: pd.DataFrame) -> list[str]:
    """What the route column says, without the model that is named behind a fallback."""
    return [route.partition("/")[0] for route in result["route"]]


def kept(tmp_path) -> list[tuple[str, str]]:
    with sqlite3.connect(tmp_path / "answers.db") as store:
        rows = store.execute("SELECT key, json_extract(value, '$.text') FROM answers").fetchall()
    store.close()
    return rows


def test_in_an_outage_no_row_is_unmarked(servers, client, tmp_path):
    """A server that comes and goes: each row's route is the server that wrote it, and so is its key's."""
    first, _ = servers
    first.faults = FaultScript(lambda ask: FAULT if int(ask.prompt_hash, 16) % 2 else None)
    frame = pd.DataFrame({"text": [f"text {n}" for n in range(40)]})
    result = frame.deepseek.apply("About {{text}}", client=client, progress=False)
    assert result["status"].eq("done").all()
    assert servers_of(result) == [who(text) for text in result["answer"]]
    assert set(servers_of(result)) == {"deepseek", "local"}
    assert {key.partition("/")[0] == who(text) for key, text in kept(tmp_path)} == {True}
    again = frame.deepseek.apply("About {{text}}", client=client, progress=False, job="again")
    assert servers_of(again) == [who(text) for text in again["answer"]], "also from the store"


def test_a_single_answer_says_it_too(servers, client, tmp_path):
    """Answer.route and its key; the local answer is not found under the first server's key."""
    first, _ = servers
    first.faults = FaultScript.always("busy_503")
    answer = client.ask("Who?")
    assert (who(answer.text), answer.route) == ("local", "local")
    assert answer.fingerprint.startswith("local/")
    first.faults = None
    recovered = client.ask("Who?")
    assert (who(recovered.text), recovered.route) == (recovered.route, recovered.route)
    assert {key.partition("/")[0] == who(text) for key, text in kept(tmp_path)} == {True}


def test_a_fallback_cannot_take_the_first_servers_name(servers, tmp_path):
    """Its answers would pose as the other's."""
    with pytest.raises(ds.errors.ConfigError, match="name of your own server"):
        client_of(servers, tmp_path, "deepseek")


def test_simulated_answers_never_pose_as_real_ones(tmp_path, monkeypatch):
    """use_sandbox keeps them under a route of its own: the real service's key finds none."""
    monkeypatch.setenv("DEEPSEEK_NB_DATA_DIR", str(tmp_path))
    with Sandbox(engine=says("first")) as sandbox:
        with ds.Client(base_url=sandbox.base_url, api_key=sandbox.api_key, route="sandbox") as simulated:
            assert simulated.ask("Who?").route == "sandbox"
        with ds.Client(base_url=sandbox.base_url, api_key=sandbox.api_key, route="deepseek") as real:
            assert not real.ask("Who?").cached
