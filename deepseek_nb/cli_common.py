"""What the commands of the shell have in common: entering a room, options of a server, where files are."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["add_data_dir", "add_server", "data_dir", "given", "room"]


def room(name: str) -> Any:
    """A room of the house, entered when its command runs: ``--help`` must not wait a second for pandas."""
    return import_module(f"deepseek_nb.{name}")


def add_server(command: argparse.ArgumentParser, **data_dir: Any) -> None:
    """Add the options that say which server is asked."""
    command.add_argument("--base-url", help="where the server is (default: https://api.deepseek.com)")
    command.add_argument("--api-key", help="the key; better in the environment, as DEEPSEEK_API_KEY")
    add_data_dir(command, **data_dir)


def add_data_dir(command: argparse.ArgumentParser, **more: Any) -> None:
    """Add the option that says where the files are."""
    command.add_argument("--data-dir", metavar="DIR", help="where answers and jobs are kept", **more)


def given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the options that were given."""
    return {name: getattr(options, name) for name in names if getattr(options, name, None) is not None}


def data_dir(options: argparse.Namespace) -> Path:
    """Where answers and jobs are kept."""
    found: Path = room("adapters.settings").load_settings(**given(options, "data_dir")).data_dir
    return found
