"""Warnings that name no file: the place of a cell is a temporary path, and a notebook would save it."""

from __future__ import annotations

import warnings

__all__ = ["warn"]


def warn(message: str, category: type[Warning]) -> None:
    """Warn as ``warnings.warn`` does, with the package's name where the file and line would stand.

    It is shown each time: whoever warns sees to it that it is not too often.
    """
    warnings.warn_explicit(message, category, filename="deepseek_nb", lineno=0, module="deepseek_nb")
