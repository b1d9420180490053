"""The magic's defaults: checked as ``%config`` sets them, and read from ``pyproject.toml`` at ``%load_ext``.

``%config`` logs the errors of a setting and goes on, and for a misspelt name it only warns: a budget
that was meant to be set is then none, and Run All goes on with it. Here both end the cell.
"""

from __future__ import annotations

import difflib
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from IPython.core.magic import Magics
from traitlets import Bool, Enum, Float, Int, TraitError, validate
from traitlets.config import Config

from deepseek_nb.adapters.settings import PYPROJECT_VARIABLE, load_table, parse_duration_s
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.notebook.scrub import scrubbed

__all__ = ["CheckedMagics", "DefaultRefused", "set_from_file"]

TABLE = "magics"
OTHER_NAMES = {"as": "view", "no-cache": "cache", "no_cache": "cache", "no-thinking": "thinking"}
"""Options that are called otherwise here."""


class DefaultRefused(BaseException):
    """A default that is not taken. No ``Exception``: %config would log it and let the cell go on."""

    def __init__(self, error: ConfigError) -> None:
        super().__init__(str(error))
        self._lines = error._render_traceback_()

    def _render_traceback_(self) -> list[str]:
        return [self._lines[0].replace(ConfigError.__name__, type(self).__name__, 1), *self._lines[1:]]


class CheckedMagics(Magics):
    """Magics whose traits say in a line or two what they do not take."""

    def update_config(self, config: Config) -> None:
        """Set what ``%config`` gives. Raises DefaultRefused for a name or a value that is not taken."""
        for error in self.set_defaults(config.get(type(self).__name__, {})):
            raise DefaultRefused(error) from None
        super().update_config(config)

    def set_defaults(self, given: Mapping[str, Any]) -> list[ConfigError]:
        """Set these traits; gives the errors of those that are not taken, which stay as they were."""
        errors = []
        for name, value in given.items():
            try:
                self._set(name, value)
            except ConfigError as error:
                errors.append(error)
        return errors

    def _set(self, name: str, value: Any) -> None:
        trait = self.traits(config=True).get(name)
        if trait is None:
            names = sorted(self.trait_names(config=True))
            near = [OTHER_NAMES[name]] if name in OTHER_NAMES else difflib.get_close_matches(name, names, n=1)
            raise ConfigError(
                f"There is no {type(self).__name__}.{name}.",
                hint=f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names)}.",
            )
        try:
            setattr(self, name, value)
        except TraitError:
            raise ConfigError(
                f"{type(self).__name__}.{name} = {scrubbed(repr(value)):.60} is not taken.",
                hint=f"It has to be {_says(name, trait)}.",
            ) from None

    @validate("ttl")
    def _check_ttl(self, proposal: Any) -> Any:
        try:
            if proposal["value"]:
                parse_duration_s(proposal["value"])
        except ConfigError as error:
            raise TraitError(str(error)) from None
        return proposal["value"]


def _says(name: str, trait: Any) -> str:
    """What a trait takes, in words."""
    if name == "ttl":
        says = "a duration such as '30min', or ''"
    elif isinstance(trait, Bool):
        says = "True or False"
    elif isinstance(trait, Enum):
        says = f"one of {', '.join(map(str, trait.values or ()))}"
    elif isinstance(trait, Int | Float):
        says = "a whole number" if isinstance(trait, Int) else "a number"
        least, most = trait.min, trait.max
        if least not in (None, -math.inf):
            says += f", {least:g} or more" if most in (None, math.inf) else f" from {least:g} to {most:g}"
    else:
        says = "a text"
    return says + (", or None" if trait.allow_none else "")


def set_from_file(magics: CheckedMagics) -> None:
    """Take the defaults in ``[tool.deepseek_nb.magics]`` of the project's ``pyproject.toml``.

    What IPython's own configuration sets goes before. What is not taken is said on standard error, a
    line each, and never raised: the extension loads.
    """
    where = f"[tool.deepseek_nb.{TABLE}] in pyproject.toml"
    before = magics.config.get(type(magics).__name__, {})
    try:
        given = load_table(TABLE)
        errors = magics.set_defaults({name: value for name, value in given.items() if name not in before})
    except (ConfigError, OSError) as error:
        errors, where = [_without_folder(error)], "pyproject.toml"
    for refused in errors:
        sys.stderr.write(f"deepseek_nb, {where}: {refused}\n")


def _without_folder(error: Exception) -> ConfigError:
    """The error as it may stand in a notebook: with the name of the file, and not its folders."""
    if not isinstance(error, ConfigError):
        return ConfigError(f"It cannot be looked for: {type(error).__name__}.")
    text = str(error)
    for path in (str(getattr(error, "file", "")), os.environ.get(PYPROJECT_VARIABLE, "")):
        if path:
            text = text.replace(path, Path(path).name)
    return ConfigError(text)
