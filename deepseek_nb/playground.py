"""The simulated server of this process: started here, and made the default."""

from __future__ import annotations

import atexit
import threading
from typing import Any

from deepseek_nb.sandbox import Sandbox
from deepseek_nb.session import SANDBOX_ROUTE, configure

__all__ = ["sandbox", "use_sandbox"]

_lock = threading.RLock()
_sandbox: Sandbox | None = None


def use_sandbox(**options: Any) -> Sandbox:
    """Start a simulated DeepSeek server in this process and make it the default.

    No key, no network, no costs: its answers come from a simple rule engine and are called
    simulated where they show. ``options`` go to :class:`~deepseek_nb.sandbox.Sandbox`. Called again
    without options it gives the one that runs; with options it starts another.

    >>> use_sandbox()                                             # doctest: +SKIP
    """
    global _sandbox
    with _lock:
        if _sandbox is not None and not options:
            running = _sandbox
        else:
            running = Sandbox(**options)
            running.start()
            if _sandbox is not None:
                _sandbox.stop()
            else:
                atexit.register(_stop_sandbox)
            _sandbox = running
    configure(base_url=running.base_url, api_key=running.api_key, route=SANDBOX_ROUTE)
    return running


def sandbox() -> Sandbox | None:
    """The simulated server this process started, if any."""
    return _sandbox


def _stop_sandbox() -> None:
    if _sandbox is not None:
        _sandbox.stop()
