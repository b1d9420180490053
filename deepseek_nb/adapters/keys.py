"""Keys that were typed in: kept in the system's keyring where one works, else in this process only.

Each is kept under the origin of the server it was given for, such as ``https://api.deepseek.com``,
and is found for no other. The keyring is an optional library, and its backends may be missing,
locked or broken: whatever fails there counts as no keyring, and no error of a backend goes on from
here, since it might quote the key. A backend that keyring does not recommend, such as a file
without encryption, counts only where the user has named it in keyring's own settings.
"""

from __future__ import annotations

import importlib
from contextlib import suppress
from typing import Any

from deepseek_nb.core.secret import Secret

__all__ = ["forget_key", "keep_key", "kept_key"]

SERVICE = "deepseek_nb"
"""The name of our entries in the keyring; their user name is the origin."""
RECOMMENDED = 1
"""The least priority of the backends that keyring recommends."""

_typed: dict[str, Secret] = {}


def kept_key(origin: str) -> Secret | None:
    """The key kept for that server, or None. Asks the keyring, which is imported at the first use."""
    return _typed.get(origin) or _in_keyring(origin)


def keep_key(origin: str, key: Secret) -> str | None:
    """Keep that server's key; gives the name of the keyring that has it, None where only this process has.

    What the keyring gives back is compared: one that takes a key and loses it does not count.
    """
    _typed[origin] = key
    with suppress(Exception):
        backend = _backend()
        backend.set_password(SERVICE, origin, key.reveal())
        if _in_keyring(origin) == key:
            return type(_first(backend)).__name__
    return None


def forget_key(origin: str) -> bool:
    """Forget that server's key, here and in the keyring; whether there was one.

    Raises RuntimeError if it is in the keyring still.
    """
    known = _typed.pop(origin, None) is not None
    if _in_keyring(origin) is None:
        return known
    with suppress(Exception):
        _backend().delete_password(SERVICE, origin)
    if _in_keyring(origin) is not None:
        raise RuntimeError("The keyring did not delete the key.")
    return True


def _in_keyring(origin: str) -> Secret | None:
    with suppress(Exception):
        key = _backend().get_password(SERVICE, origin)
        return Secret(key) if isinstance(key, str) and key else None
    return None


def _backend() -> Any:
    """The keyring to use. Raises whatever says that there is none."""
    core = importlib.import_module("keyring.core")
    backend = core.get_keyring()
    if _first(backend).priority < RECOMMENDED and not (core.load_env() or core.load_config()):
        raise LookupError("no keyring that is safe")
    return backend


def _first(backend: Any) -> Any:
    """Of a chain of backends the one that takes what is kept."""
    return next(iter(getattr(backend, "backends", ())), backend)
