"""``%deepseek key``: the API key typed in unseen, kept in the keyring or in this kernel; ``key forget``."""

from __future__ import annotations

import getpass
import warnings
from typing import Any

from IPython.core.error import StdinNotImplementedError

from deepseek_nb.adapters.keys import forget_key, keep_key, kept_key
from deepseek_nb.adapters.settings import load_settings
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.secret import Secret
from deepseek_nb.notebook.display import show
from deepseek_nb.notebook.rooms import default_client, room, room_in_use
from deepseek_nb.notebook.tables import line

__all__ = ["key"]


def key(_magics: Any, rest: str) -> None:
    """Ask for the key of the server in use, keep it, and use it from now on; ``forget`` removes it.

    Sends nothing. Raises ConfigError where nobody can be asked, or for what is no key.
    """
    session = room("session")
    settings = default_client().settings
    playground = room_in_use("playground")
    running = None if playground is None else playground.sandbox()
    if running is not None and settings.base_url == running.base_url:
        raise ConfigError(
            "The simulated server is in use, and it needs no key of yours.",
            hint="Leave it with deepseek_nb.configure(), then run %deepseek key again.",
        )
    origin, host = "://".join(settings.origin), settings.origin[1]
    if rest:
        _forget(session, settings, origin, host)
        return
    given = _typed(f"API key for {host} (it is not shown): ")
    if not given:
        show(line("No key was given, and nothing has changed."))
        return
    before = settings.sources.get("api_key", "")
    try:
        settings = settings.replace(api_key=given)
    except ConfigError:
        raise ConfigError(
            "What was typed in is no API key, and nothing has changed.",
            hint="A key has no blanks and no special letters. Copy it again from platform.deepseek.com.",
        ) from None
    session.configure(settings=settings)
    where = keep_key(origin, settings.api_key)
    kept = f"kept in the keyring ({where})" if where else "kept in this kernel only: no keyring works here"
    told = f"The key {given.mask} for {host} is in use, and {kept}."
    if before.isupper():
        told += f" In other kernels the environment variable {before} goes before it."
    show(line(told))


def _forget(session: Any, settings: Any, origin: str, host: str) -> None:
    kept = kept_key(origin)
    try:
        known = forget_key(origin)
    except RuntimeError as error:
        raise ConfigError(str(error), hint="Delete the entry deepseek_nb in your keyring by hand.") from None
    if not known:
        show(line(f"No key is kept for {host}."))
        return
    told = f"The key for {host} is forgotten."
    if settings.api_key == kept:
        other = load_settings(base_url=settings.base_url).api_key
        session.configure(settings=settings.replace(api_key=other))
        if other:
            told += " The one in the environment is in use again."
    show(line(told))


def _typed(prompt: str) -> Secret:
    """What was typed, unseen. Raises ConfigError where the front end cannot ask or would echo it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)
            return Secret(getpass.getpass(prompt).strip())
    except (StdinNotImplementedError, getpass.GetPassWarning, EOFError):
        raise ConfigError(
            "A key cannot be typed in here: this front end takes no hidden input.",
            hint="Set the environment variable DEEPSEEK_API_KEY before the kernel starts.",
        ) from None
