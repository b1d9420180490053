"""The door to the rooms below that are slow to import (httpx, aiohttp, pydantic), entered at the first use.

Imported at the top of a file they would make ``%load_ext`` cost 0.3 s instead of the 0.05 s that
``benchmarks/load_ext.py`` measures.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

__all__ = ["default_client", "room", "room_in_use"]


def room(name: str) -> Any:
    """The module ``deepseek_nb.NAME``."""
    return importlib.import_module(f"deepseek_nb.{name}")


def room_in_use(name: str) -> Any:
    """The same if it is imported already, else None: looking costs nothing."""
    return sys.modules.get(f"deepseek_nb.{name}")


def default_client() -> Any:
    """The client that the magics and ``ds.ask`` share."""
    return room("session").default_client()
