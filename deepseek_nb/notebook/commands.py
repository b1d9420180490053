"""The commands of the line magic: ``%deepseek balance``, ``%deepseek key``, and which lines are none.

A line is a command only if its first word is one and the rest is something that command takes:
``%deepseek models are what exactly?`` is asked. A single word that nearly is a command is refused,
before it costs anything.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from deepseek_nb.core.errors import ConfigError
from deepseek_nb.notebook.rooms import room

__all__ = ["COMMANDS", "COMMANDS_HELP", "Command", "find_command"]

NEAR = 0.8
_HINT = r"--\s+(?P<rest>\S.*)|(?:(?:this|that|the|my)\s+)?(?:last\s+)?error[.!?]*|it|this|that"
_NAME = r"""(?P<rest>"[^"]+"|'[^']+'|\S+)"""


class Command(NamedTuple):
    """One command: where its function is, what may stand behind it (a pattern), and what it is for."""

    place: str
    """The file in this room, imported when the command is used."""
    function: str
    """It takes the magics and what stands behind the command."""
    takes: str
    says: str
    words: tuple[str, ...] = ()
    """What TAB offers behind it."""

    def run(self, magics: Any, rest: str) -> Any:
        """Do it."""
        return getattr(room(f"notebook.{self.place}"), self.function)(magics, rest)


COMMANDS: Mapping[str, Command] = {
    "balance": Command("account", "show_balance", "", "the account's balance"),
    "cache": Command(
        "files",
        "cache",
        r"(?P<rest>clear(?:\s+--yes)?)",
        "what the answer store holds; clear empties it",
        ("clear",),
    ),
    "cost": Command("bill", "show_bill", "", "what this notebook's questions have cost so far"),
    "explain": Command("explain", "explain", _HINT, "explain the last error (-- and a hint may follow)"),
    "fix": Command("explain", "fix", _HINT, "put a corrected cell below, to be looked at and run"),
    "jobs": Command("files", "jobs", _NAME, "the jobs and how far they are; NAME: one of them"),
    "key": Command(
        "key", "key", r"(?P<rest>forget)", "type in the API key, unseen; forget removes it", ("forget",)
    ),
    "models": Command("account", "show_models", "", "the models the server offers"),
}

COMMANDS_HELP = "commands (on the line magic, alone):\n" + "\n".join(
    f"  %deepseek {name:<10} {command.says}" for name, command in COMMANDS.items()
)
"""For the help of the magic."""


def find_command(question: str) -> Callable[[Any], Any] | None:
    """What runs the command that ``question`` is, given the magics; None: it is a question.

    Raises ConfigError for a single word that nearly is a command.
    """
    text = question.strip()
    word, _, rest = text.partition(" ")
    rest = rest.strip()
    alone = word.rstrip("?!.").lower()
    command = COMMANDS.get(word if rest else alone)
    if command is None:
        if not rest:
            _refuse_near(word, alone)
        return None
    if not rest:
        return lambda magics: command.run(magics, "")
    found = re.fullmatch(command.takes, rest, re.IGNORECASE | re.DOTALL)
    if found is None:
        return None
    given = found.groupdict().get("rest") or ""
    return lambda magics: command.run(magics, given)


def _refuse_near(word: str, alone: str) -> None:
    near = difflib.get_close_matches(alone, COMMANDS, n=1, cutoff=NEAR)
    if near:
        raise ConfigError(
            f"There is no command {word!r}, and nothing was sent.",
            hint=f"Did you mean %deepseek {near[0]}? A question of one word goes into a cell: %%deepseek",
        )
