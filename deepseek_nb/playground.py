"""The simulated server of this process: started here, and made the default."""

from __future__ import annotations

import atexit
import threading
from typing import Any

from deepseek_nb.sandbox import Replay, Sandbox
from deepseek_nb.session import REPLAY_ROUTE, SANDBOX_ROUTE, configure

__all__ = ["sandbox", "use_sandbox"]

_lock = threading.RLock()
_sandbox: Sandbox | None = None


def use_sandbox(**options: Any) -> Sandbox:
    """Start a simulated DeepSeek server in this process and make it the default.

    No key, no network, no costs: its answers come from a simple rule engine and are called
    simulated where they show. ``options`` go to :class:`~deepseek_nb.sandbox.Sandbox`; with
    ``engine=Replay(...)`` recorded answers are replayed. Called again without options it gives the one that
    runs; with options it starts another.

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
    engine = running.setup.engine
    replayed = isinstance(engine, Replay) and engine.only_recorded
    route = REPLAY_ROUTE if replayed else SANDBOX_ROUTE
    configure(base_url=running.base_url, api_key=running.api_key, route=route)
    return running


def sandbox() -> Sandbox | None:
    """The simulated server this process started, if any."""
    return _sandbox


def _stop_sandbox() -> None:
    if _sandbox is not None:
        _sandbox.stop()
