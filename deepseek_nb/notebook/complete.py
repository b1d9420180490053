"""TAB behind ``%deepseek``: options, their values, commands; and your variables in the question.

Options come from the magic's own parser, so that a new one is completed by itself. In a question your
variables are offered beside what IPython offers, and alone right behind ``{{``: nothing else fills it.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult

from deepseek_nb.data import read_json
from deepseek_nb.notebook.commands import COMMANDS
from deepseek_nb.notebook.names import UserNames
from deepseek_nb.notebook.rooms import room_in_use

__all__ = ["complete"]

_LINE = re.compile(r"\s*(?:[^\W\d][\w., ]*=\s*)?%deepseek[ \t](?P<rest>.*)")
_CELL = re.compile(r"\s*%%deepseek[ \t](?P<rest>.*)")
_OPTION = re.compile(r"\s*(--?[A-Za-z][\w-]*)")
_VALUE = re.compile(r"""(?:=\s*|\s+)(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[^\s"'=]\S*)(?=\s)""")
_VALUE_BEGUN = re.compile(r"""(?:=\s*|\s+)(?P<begun>[^\s"'=]*)""")
_TO_NAME = re.compile(r"\s*[^\W\d]\w*\s*<<(?=\s)")
_WORD = re.compile(r"(?<![\w.])[^\W\d]\w*$")
_REFERENCE = re.compile(r"\{\{\s*(?P<begun>(?:[^\W\d]\w*)?)$")

Found = tuple[str, Iterable[str], str]
"""What is begun, what it can become, and the kind of thing that is."""


def complete(shell: Any, context: CompletionContext) -> SimpleMatcherResult:
    """What can stand at the cursor."""
    found, only = _find(shell, context)
    if found is None:
        return SimpleMatcherResult(completions=[])
    begun, words, kind = found
    completions = [SimpleCompletion(text=word, type=kind) for word in words if word.startswith(begun)]
    return SimpleMatcherResult(completions=completions, matched_fragment=begun, suppress=only)


def _find(shell: Any, context: CompletionContext) -> tuple[Found | None, bool]:
    """What is to be completed, and whether nothing else is to be offered."""
    lines = context.full_text.split("\n")
    before = context.text_until_cursor
    first = next((number for number, line in enumerate(lines) if line.strip()), 0)
    in_cell = lines[first].lstrip().startswith("%%deepseek")
    on_line = (_CELL if in_cell else _LINE).fullmatch(before)
    if in_cell and context.cursor_line != first:
        on_line = None
    elif on_line is None:
        return None, False
    reference = _REFERENCE.search(before)
    if reference is not None:
        return (reference["begun"], _variables(shell), "variable"), True
    if on_line is None:
        word = _WORD.search(before)
        return (None if word is None else (word[0], _variables(shell), "variable")), False
    return _on_the_line(shell, on_line["rest"], in_cell=in_cell), True


def _on_the_line(shell: Any, rest: str, *, in_cell: bool) -> Found | None:
    """What is begun at the end of ``rest``, the line behind the magic's name."""
    parser = shell.magics_manager.registry["DeepSeekMagics"].deepseek.parser
    options = {name: action for action in parser._actions for name in action.option_strings}  # noqa: SLF001 (argparse lists them nowhere else)
    position, used = 0, set[str]()
    while (option := _OPTION.match(rest, position)) is not None or _TO_NAME.match(rest, position):
        if option is None:
            position = _end(_TO_NAME.match(rest, position))
            continue
        if option.end() == len(rest):
            break
        position = option.end()
        action = options.get(option[1])
        if action is None:
            return None
        used.update(action.option_strings)
        if action.nargs == 0:
            continue
        if (begun := _VALUE_BEGUN.fullmatch(rest, position)) is not None:
            return begun["begun"], _values(shell, action), "value"
        if (value := _VALUE.match(rest, position)) is None:
            return None
        position = value.end()
    word = rest[position:].lstrip()
    left = [name for name in options if name.startswith("--") and name not in used]
    if word.startswith("-"):
        return word, left, "option"
    commands = _commands(word) if not in_cell and not used else None
    if word or commands is None:
        return commands if word else ("", left, "option")
    return "", [*commands[1], *left], "option"


def _commands(text: str) -> Found | None:
    """The commands that ``text`` may be the beginning of, or what may stand behind one."""
    name, blank, rest = text.partition(" ")
    if not blank:
        return text, COMMANDS, "command"
    rest = rest.lstrip()
    words = COMMANDS[name].words if name in COMMANDS else ()
    return (rest, words, "command") if " " not in rest else None


def _values(shell: Any, action: argparse.Action) -> Iterable[str]:
    if action.choices is not None:
        return [str(choice) for choice in action.choices]
    values = VALUES.get(action.option_strings[0])
    return [] if values is None else values(shell)


def _models(_shell: Any) -> Iterator[str]:
    """Names the service takes today: the retired ones are left out."""
    for model in read_json("models.json")["models"]:
        yield model["id"]
        yield from model["aliases"]


def _schemas(shell: Any) -> Iterator[str]:
    """The user's pydantic models and dictionaries."""
    for name, value in list(shell.user_ns.items()):
        if name.startswith("_") or name in shell.user_ns_hidden:
            continue
        if hasattr(value, "model_json_schema") if isinstance(value, type) else isinstance(value, dict):
            yield name


def _variables(shell: Any) -> Iterable[str]:
    return UserNames(shell, None)


def _conversations(_shell: Any) -> Iterable[str]:
    session = room_in_use("session")
    return [] if session is None else session.conversations()


VALUES: dict[str, Callable[[Any], Iterable[str]]] = {
    "--chat": _conversations,
    "--into": _variables,
    "--model": _models,
    "--schema": _schemas,
}
"""Where the values of an option come from that its parser does not list."""


def _end(found: re.Match[str] | None) -> int:
    return found.end() if found else 0
