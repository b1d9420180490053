"""gateway.toml: what it may say, and how what it may not say is refused."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from deepseek_nb.core.errors import ConfigError
from deepseek_nb.gateway import config as gateway_config
from deepseek_nb.gateway.config import parse_config, read_config

ENVIRON = {
    "UP_KEY": "sk-up-0123456789abcdef",
    "A1": "a" * 32,
    "A2": "b" * 40,
    "B1": "c" * 32,
    "SHORT": "d" * 31,
}
GOOD = """
[gateway]
port = 0
patience = "90s"
model = "deepseek-flash"

[[upstream]]
name = "deepseek"
base_url = "https://api.deepseek.com"
key_env = "UP_KEY"

[[upstream]]
name = "local"
base_url = "http://127.0.0.1:11434/v1"
model = "qwen3:8b"
price_usd = [0, 0, 0]

[tenant.desk]
secret_env = ["A1", "A2"]
priority = 4
priority_max = 5
requests_per_second = 1000
concurrent = 8
budget_day_usd = 2.5
models = ["deepseek-flash"]
ttl = "30min"
scopes = ["compute", "admin"]

[tenant.lab]
secret_env = "B1"
"""


def parsed(text: str):
    return parse_config(tomllib.loads(text), ENVIRON)


def test_a_good_file_is_read(tmp_path):
    file = tmp_path / "gateway.toml"
    file.write_text(GOOD)
    config = read_config(file, ENVIRON)
    assert [upstream.name for upstream in config.upstreams] == ["deepseek", "local"]
    assert (config.settings.patience_s, config.settings.route_name) == (90.0, "deepseek")
    desk, lab = config.tenants["desk"], config.tenants["lab"]
    assert (desk.priority, desk.priority_max, desk.requests_per_second, desk.ttl_s) == (4, 5, 1000.0, 1800.0)
    assert desk.scopes == ("compute", "admin")
    assert desk.may_ask("deepseek-flash")
    assert not desk.may_ask("deepseek-v4-pro")
    assert (lab.priority, lab.priority_max, lab.requests_per_second, lab.budget_day_usd) == (
        3,
        4,
        100.0,
        None,
    )
    assert lab.may_ask("anything")


def test_no_secret_shows():
    shown = repr(parsed(GOOD))
    assert not any(value in shown for value in ENVIRON.values())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("concurrent = 8", "concurent = 8", "Did you mean concurrent"),
        ("port = 0", "prot = 0", "Did you mean port"),
        ("port = 0", "port = 70000", "0 to 65535"),
        ("port = 0", "port = true", "whole number"),
        ("[gateway]", "[gatewya]", "Did you mean gateway"),
        ("key_env", "key", "Did you mean key_env"),
        ('"A1", "A2"', '"A1", "SHORT"', "31 bytes"),
        ('"A1", "A2"', '"A1", "NOT_THERE"', "NOT_THERE"),
        ('"A1", "A2"', '"A1", "A1"', "twice"),
        ('"A1", "A2"', "", "one environment variable"),
        ('"A1", "A2"', '"A1", "A2", "B1"', "two while"),
        ('"A1", "A2"', '"A1", "B1"', "same secret"),
        ('secret_env = "B1"', "", "secret_env in [tenant.lab] is missing"),
        ("requests_per_second = 1000", "requests_per_second = 1001", "0.01 to 1000"),
        ("requests_per_second = 1000", "requests_per_second = 0", "0.01 to 1000"),
        ("requests_per_second = 1000", "requests_per_second = nan", "a number"),
        ("priority_max = 5", "priority_max = 3", "no more than priority_max"),
        ("priority_max = 5", "priority_max = 6", "from 1 to 5"),
        ('ttl = "30min"', 'ttl = "30 minutes"', "a duration"),
        ('"compute", "admin"', '"compute", "admn"', "Did you mean admin"),
        ('model = "qwen3:8b"', "", "needs a model"),
        ('name = "local"', 'name = "deepseek"', "same name"),
        ("[tenant.lab]", '[tenant."La b"]', "not a tenant's name"),
        ("[tenant.lab]", '[tenant."a/b"]', "not a tenant's name"),
        ("price_usd = [0, 0, 0]", "price_usd = [0, 0]", "3 numbers"),
        ("https://api", "http://api", "plain http"),
        ("https://api.deepseek.com", "api.deepseek.com", "base_url (from [[upstream]] number 1)"),
        ('model = "deepseek-flash"', 'model = "two words"', "(from [gateway])"),
        ("http://127.0.0.1:11434/v1", "127.0.0.1:11434", "base_url (from [[upstream]] number 2)"),
        ("http://127.0.0.1:11434/v1", "http://10.0.0.1/v1", "plain http"),
        ("http://127.0.0.1:11434/v1", "https://example.org", "key_env in [[upstream]] number 2 is missing"),
        ("qwen3:8b", "qwen 3", "(from [[upstream]] number 2)"),
        ("port = 0", 'port = 0\nredis_url = "127.0.0.1:6379"', "redis_url in [gateway]"),
        ("[tenant.lab]", '[alarms]\nwebhook = "hooks"\n\n[tenant.lab]', "webhook in [alarms]"),
        ("[tenant.lab]", '[alarms]\nwebhook_env = "A1"\n\n[tenant.lab]', "webhook_env in [alarms]"),
        ('key_env = "UP_KEY"', 'key_env = "UP_KEY"\ndialect = "openai"', "not for the first"),
        ('key_env = "UP_KEY"', "", "needs key_env"),
        ('key_env = "UP_KEY"', 'key_env = "sk-up 0123"', "the name of an environment variable"),
        ("budget_day_usd = 2.5", 'budget_day_usd = "2.5"', "a number"),
        ('patience = "90s"', "patience = -1", "a duration"),
    ],
)
def test_what_is_refused(old, new, says):
    """The message names the place, and no secret."""
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        parsed(GOOD.replace(old, new, 1))
    assert says in str(caught.value)
    assert not any(value in str(caught.value) for value in ENVIRON.values())
    assert len(caught.value._render_traceback_()) <= 5


@pytest.mark.parametrize("gone", ["[[upstream]]", "[tenant"])
def test_a_file_without_them_is_refused(gone):
    kept = [part for part in GOOD.split("\n\n") if not part.startswith(gone)]
    with pytest.raises(ConfigError, match="has no"):
        parsed("\n\n".join(kept))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path / "none.toml", ENVIRON)
    (tmp_path / "bad.toml").write_text("[gateway")
    with pytest.raises(ConfigError, match="not TOML"):
        read_config(tmp_path / "bad.toml", ENVIRON)


def test_the_example_of_the_documentation_is_read():
    """And every key that a file may hold stands in its tables."""
    page = (Path(__file__).parents[2] / "docs" / "gateway.md").read_text(encoding="utf-8")
    example = tomllib.loads(page.split("```toml\n")[1].split("```")[0])
    variables = {name: f"{name:-<40}" for name in re.findall(r"[A-Z]+(?:_[A-Z]+)+", str(example))}
    config = parse_config(example, variables)
    assert list(config.tenants) == ["risk-desk", "lab", "operations"]
    assert config.tenants["lab"].fallback is False
    source = (Path(gateway_config.__file__)).read_text(encoding="utf-8")
    known = set(re.findall(r"\.(?:text|whole|seconds|number|numbers|switch|texts|choice)\(\"(\w+)\"", source))
    assert len(known) > 30
    assert not {key for key in known if f"`{key}`" not in page}
