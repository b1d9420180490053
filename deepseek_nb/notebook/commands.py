"""The commands of the line magic: ``%deepseek balance``, ``%deepseek key``, and which lines are none.

A line is a command only if its first word is one and the rest is something that command takes:
``%deepseek models are what exactly?`` is asked. A single word that nearly is a command is refused,
before it costs anything.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deepseek_nb.core.errors import ConfigError
from deepseek_nb.notebook.account import show_balance, show_models
from deepseek_nb.notebook.bill import show_bill
from deepseek_nb.notebook.files import cache, jobs
from deepseek_nb.notebook.key import key
from deepseek_nb.notebook.last_error import explain, fix

__all__ = ["COMMANDS", "COMMANDS_HELP", "Command", "find_command"]

Run = Callable[[Any, str], Any]
"""Takes the magics and what stands behind the command."""

NEAR = 0.8
_HINT = r"--\s+(?P<rest>\S.*)|(?:(?:this|that|the|my)\s+)?(?:last\s+)?error[.!?]*|it|this|that"


@dataclass(frozen=True, slots=True)
class Command:
    """One command: what may stand behind it (a pattern; nothing always may), and what it is for."""

    run: Run
    takes: str
    says: str
    words: tuple[str, ...] = ()
    """What TAB offers behind it."""


COMMANDS: Mapping[str, Command] = {
    "balance": Command(show_balance, "", "the account's balance"),
    "cache": Command(
        cache,
        r"(?P<rest>clear(?:\s+--yes)?)",
        "what the answer store holds; clear empties it",
        ("clear",),
    ),
    "cost": Command(show_bill, "", "what this notebook's questions have cost so far"),
    "explain": Command(explain, _HINT, "explain the last error (-- and a hint may follow)"),
    "fix": Command(fix, _HINT, "put a corrected cell below, to be looked at and run"),
    "jobs": Command(
        jobs, r"""(?P<rest>"[^"]+"|'[^']+'|\S+)""", "the jobs and how far they are; NAME: one of them"
    ),
    "key": Command(key, r"(?P<rest>forget)", "type in the API key, unseen; forget removes it", ("forget",)),
    "models": Command(show_models, "", "the models the server offers"),
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
