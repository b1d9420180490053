"""The default client: made when needed, configured as a whole, on the sandbox with one call."""

from __future__ import annotations

import pytest

import deepseek_nb as ds
from deepseek_nb import playground, session
from deepseek_nb.sandbox import Replay


@pytest.fixture
def clean(tmp_path, monkeypatch):
    """No default client before and after, and a data folder of its own."""
    monkeypatch.setenv("DEEPSEEK_NB_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(session, "_client", None)
    yield
    if session._client is not None:
        session._client.close()
    if playground._sandbox is not None:
        playground._sandbox.stop()
        playground._sandbox = None


def test_the_sandbox_is_one_call_away(clean):
    """``use_sandbox`` starts a server and makes it the default; answers are kept under its own name."""
    sandbox = ds.use_sandbox()
    assert ds.ask("The sky is blue.").route == "sandbox"
    assert ds.use_sandbox() is sandbox
    assert "".join(piece.text for piece in ds.stream("Grass is green.")).startswith("[simulated]")
    assert len(sandbox.log) == 2


def test_a_wrong_setting_leaves_the_old_client_in_place(clean):
    """Configuring is all or nothing, and says the near name."""
    ds.use_sandbox()
    before = ds.default_client()
    with pytest.raises(ds.errors.ConfigError, match="budget_usd"):
        ds.configure(budget_us=1)
    assert ds.default_client() is before


def test_without_a_key_the_error_says_what_to_do(clean):
    """Nothing is sent, three ways are named."""
    with pytest.raises(ds.DeepSeekError, match="DEEPSEEK_API_KEY"):
        ds.ask("x")


def test_simulated_answers_are_found_again_by_another_sandbox(clean):
    """Another port, the same name: a demo run again asks nothing."""
    ds.use_sandbox(seed=1)
    ds.ask("The sky is blue.")
    second = ds.use_sandbox(seed=2)
    assert ds.ask("The sky is blue.").cached
    assert len(second.log) == 0


def test_replayed_answers_are_kept_apart(clean):
    """Under a route of their own where nothing else can come; under the simulated ones' where it can."""
    recorded = [("Where is my card?", "card_arrival", 0.0)]
    answers = []
    for unknown in ("simulate", "refuse"):
        ds.use_sandbox(engine=Replay(recorded, unknown=unknown, recording="one ticket"))
        answers.append(ds.ask("Where is my card?"))
    assert [(answer.route, answer.cached) for answer in answers] == [
        ("sandbox", False),
        ("sandbox-replay", False),
    ]
    again = ds.ask("Where is my card?")
    assert (again.cached, again.system_fingerprint) == (True, "replayed: one ticket")
    with pytest.raises(ds.errors.RequestInvalid, match="none was recorded"):
        ds.ask("Where is my cat?")
