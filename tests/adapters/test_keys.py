"""Typed-in keys: kept under their server's origin, in a real keyring file or in this process."""

from __future__ import annotations

import sys

import keyring
import pytest
from keyring.backends.fail import Keyring as NoKeyring
from keyrings.alt.file import PlaintextKeyring

from deepseek_nb.adapters import keys
from deepseek_nb.adapters.settings import Settings, load_settings
from deepseek_nb.core.secret import Secret

HOME = "https://api.deepseek.com"
ELSEWHERE = "https://gateway.example:8443"
KEY = Secret("sk-kept-0123456789abcdef")


@pytest.fixture(autouse=True)
def _own_keyring(monkeypatch):
    """What this process has loaded as its keyring, and the keys typed in, are put back."""
    before = keyring.get_keyring()
    monkeypatch.setattr(keys, "_typed", {})
    yield
    keyring.set_keyring(before)


@pytest.fixture
def file_keyring(tmp_path, monkeypatch):
    """A keyring in a file of this test, named by the user as its own."""
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyrings.alt.file.PlaintextKeyring")
    made = PlaintextKeyring()
    made.file_path = str(tmp_path / "keyring.cfg")
    keyring.set_keyring(made)
    return made


def test_a_key_is_found_again_for_its_own_server_only(file_keyring, monkeypatch):
    """By another process, which has nothing typed in, too."""
    assert keys.keep_key(HOME, KEY) == "PlaintextKeyring"
    monkeypatch.setattr(keys, "_typed", {})
    assert keys.kept_key(HOME) == KEY
    for other in (ELSEWHERE, "http://api.deepseek.com", "https://api.deepseek.com:8443", HOME + "/"):
        assert keys.kept_key(other) is None
    assert keys.forget_key(HOME) is True
    assert keys.forget_key(HOME) is False
    assert keys.kept_key(HOME) is None


class Broken(PlaintextKeyring):
    """A backend that breaks, and quotes what it was given."""

    def set_password(self, service, username, password):
        raise OSError(f"cannot keep {password}")

    get_password = delete_password = set_password


class Forgetful(PlaintextKeyring):
    """A backend that takes a key and loses it."""

    def set_password(self, service, username, password):
        pass


@pytest.mark.parametrize("backend", [NoKeyring, Broken, Forgetful])
def test_a_keyring_that_does_not_work_is_none(backend, monkeypatch, tmp_path):
    """The key then lives in this process; no error comes out, and none with the key in it."""
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "some.Backend")
    made = backend()
    made.file_path = str(tmp_path / "keyring.cfg")
    keyring.set_keyring(made)
    assert keys.kept_key(HOME) is None
    assert keys.keep_key(HOME, KEY) is None
    assert keys.kept_key(HOME) == KEY
    assert keys.forget_key(HOME) is True
    assert keys.kept_key(HOME) is None


def test_without_the_library_there_is_no_keyring(monkeypatch):
    monkeypatch.setitem(sys.modules, "keyring.core", None)
    assert keys.keep_key(HOME, KEY) is None
    assert keys.kept_key(HOME) == KEY


def test_a_file_without_encryption_counts_only_where_the_user_names_it(file_keyring, monkeypatch, tmp_path):
    """Not because it happens to be installed."""
    monkeypatch.delenv("PYTHON_KEYRING_BACKEND")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert keys.keep_key(HOME, KEY) is None
    assert not (tmp_path / "keyring.cfg").exists()


def test_settings_look_there_last_and_for_their_own_server(file_keyring):
    """An argument and the environment go first; with a token's credentials nobody looks."""
    asked = []

    def look(origin: str) -> Secret | None:
        asked.append(origin)
        return keys.kept_key(origin)

    keys.keep_key(HOME, KEY)
    off = {"DEEPSEEK_NB_PYPROJECT": "off"}
    found = load_settings(environ=off, kept_key=look)
    assert (found.api_key, found.sources["api_key"]) == (KEY, "%deepseek key")
    assert str(KEY.reveal()) not in repr(found) + str(found.describe())
    assert load_settings(environ=off, kept_key=look, base_url=ELSEWHERE).api_key is None
    assert asked == [HOME, ELSEWHERE]
    given = load_settings(environ=off | {"DEEPSEEK_API_KEY": "sk-environment-01"}, kept_key=look)
    assert given.api_key == Secret("sk-environment-01")
    assert load_settings(environ=off, kept_key=look, api_key="sk-argument-01").api_key == Secret(
        "sk-argument-01"
    )
    assert load_settings(environ=off, kept_key=look, api_key=None).api_key is None
    token = {"jwt_client_id": "desk", "jwt_client_secret": "0123456789abcdef0123456789abcdef"}
    assert load_settings(environ=off, kept_key=look, **token).api_key is None
    assert load_settings(environ=off).api_key is None
    assert len(asked) == 2


def test_a_kept_key_stays_behind_when_the_server_changes(file_keyring):
    """As every key does."""
    keys.keep_key(HOME, KEY)
    settings = load_settings(environ={"DEEPSEEK_NB_PYPROJECT": "off"}, kept_key=keys.kept_key)
    assert settings.replace(priority=4).api_key == KEY
    assert settings.replace(base_url=ELSEWHERE).api_key is None
    assert Settings().api_key is None
