"""Finds keys in a text, and masks them: those in use, those in the environment, and what looks like one."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from deepseek_nb.core.secret import Secret
from deepseek_nb.notebook.rooms import room_in_use

__all__ = ["keys_in", "keys_in_use", "scrubbed"]

VARIABLES = ("DEEPSEEK_API_KEY", "DEEPSEEK_NB_API_KEY", "DEEPSEEK_NB_JWT_CLIENT_SECRET")

KEY_CHARS = 20
ENVIRONMENT_CHARS = 12
"""A shorter value is a switch or a name, and masking it would garble a text."""
_KEY = re.compile(r"(?<![\w-])sk-[A-Za-z0-9_-]*[A-Za-z0-9]")
_NO_SECRET = re.compile(r"sk-sandbox-0+")
"""The key of the simulated server."""
_SECRET_NAME = re.compile(r"(?:^|_)(?:KEY|TOKEN|SECRET|PASSWORD|PASSWD)$", re.IGNORECASE)


def keys_in(text: str) -> list[Secret]:
    """What looks like an API key in ``text``: ``sk-``, twenty characters at least, a digit among them.

    >>> keys_in("Client(api_key='sk-0123456789abcdef0123')"), keys_in("task-1, risk-assessment-of-2026-loans")
    ([Secret('****0123')], [])
    """
    return [
        Secret(key)
        for key in dict.fromkeys(_KEY.findall(text))
        if len(key) >= KEY_CHARS and re.search(r"\d", key) and not _NO_SECRET.fullmatch(key)
    ]


def keys_in_use() -> list[Secret]:
    """The default client's key and secret, and those in the environment for the next one."""
    given = [os.environ.get(name, "") for name in VARIABLES]
    session = room_in_use("session")
    client = session.current_client() if session is not None else None
    if client is not None:
        given += [client.settings.api_key or "", client.settings.jwt_client_secret or ""]
    secrets = [Secret(each) for each in given if each]
    return [secret for secret in secrets if not _NO_SECRET.fullmatch(secret.reveal())]


def _passwords_in_use() -> list[Secret]:
    """The address of the default client's Redis, where a password may be in it, and that password."""
    session = room_in_use("session")
    client = session.current_client() if session is not None else None
    url = client.settings.redis_url if client is not None else None
    if url is None or "@" not in url.reveal():
        return []
    return [url, Secret(urlsplit(url.reveal()).password or "")]


def scrubbed(text: str) -> str:
    """``text`` with its secrets masked: keys and passwords in use, and what looks like a key.

    Also what the environment holds under a name such as ``OTHER_API_KEY`` or ``GITHUB_TOKEN``.
    """
    others = [
        Secret(value)
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name) and len(value) >= ENVIRONMENT_CHARS and not value.startswith("/")
    ]
    for secret in [*keys_in_use(), *_passwords_in_use(), *keys_in(text), *others]:
        text = secret.scrub(text)
    return text
