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
from deepseek_nb.notebook.options import Line
from deepseek_nb.notebook.rooms import room

__all__ = ["COMMANDS", "Command", "find_command"]

NEAR = 0.8
SWITCHES = ("cache", "thinking")
_HINT = r"--\s+(?P<rest>\S.*)|(?:(?:this|that|the|my)\s+)?(?:last\s+)?error[.!?]*|it|this|that"
_NAME = r"""(?P<rest>"[^"]+"|'[^']+'|\S+)"""


class Command(NamedTuple):
    """One command: where its function is, and what may stand behind it (a pattern; nothing always may)."""

    place: str
    """The file in this room, imported when the command is used."""
    function: str
    """It takes the magics and what stands behind the command; one that asks, also the options for it."""
    takes: str = ""
    words: tuple[str, ...] = ()
    """What TAB offers behind it."""
    asks: bool = False

    def run(self, magics: Any, rest: str, options: Mapping[str, Any]) -> Any:
        """Do it."""
        function = getattr(room(f"notebook.{self.place}"), self.function)
        return function(magics, rest, options) if self.asks else function(magics, rest)


COMMANDS: Mapping[str, Command] = {
    "balance": Command("account", "show_balance"),
    "cache": Command("files", "cache", r"(?P<rest>clear(?:\s+--yes)?)", ("clear",)),
    "cost": Command("bill", "show_bill"),
    "explain": Command("explain", "explain", _HINT, asks=True),
    "fix": Command("explain", "fix", _HINT, asks=True),
    "jobs": Command("files", "jobs", _NAME),
    "key": Command("key", "key", r"(?P<rest>forget)", ("forget",)),
    "models": Command("account", "show_models"),
}

Run = Callable[[Any, Mapping[str, Any]], Any]
"""Takes the magics, and the options of a call for a command that asks."""


def find_command(read: Line) -> Run | None:
    """What runs the command that a line is; None: it is a question.

    Raises ConfigError for a single word that nearly is a command, and for options that a command does
    not take.
    """
    word, _, rest = read.question.partition(" ")
    rest = rest.strip()
    name = word if rest else word.rstrip("?!.").lower()
    command = COMMANDS.get(name)
    if command is None:
        if not rest:
            _refuse_near(word, name)
        return None
    found = re.fullmatch(command.takes, rest, re.IGNORECASE | re.DOTALL) if rest else None
    if rest and found is None:
        return None
    if read.into or (not command.asks and _options_given(read)):
        raise ConfigError(
            f"%deepseek {name} is a command, and takes no such options. Nothing was sent.",
            hint="If it is a question, it goes into a cell: %%deepseek",
        )
    given = (found.groupdict().get("rest") if found else "") or ""
    return lambda magics, options: command.run(magics, given, options)


def _options_given(read: Line) -> bool:
    """Whether the line has any option: those for which False says something are None otherwise."""
    return any(
        value is not None and (value is not False or name in SWITCHES)
        for name, value in vars(read.options).items()
    )


def _refuse_near(word: str, alone: str) -> None:
    near = difflib.get_close_matches(alone, COMMANDS, n=1, cutoff=NEAR)
    if near:
        raise ConfigError(
            f"There is no command {word!r}, and nothing was sent.",
            hint=f"Did you mean %deepseek {near[0]}? A question of one word goes into a cell: %%deepseek",
        )
