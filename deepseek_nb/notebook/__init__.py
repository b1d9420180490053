"""The notebook face: the magics ``%deepseek`` and ``%%deepseek``."""

from __future__ import annotations

from typing import Any

from deepseek_nb.notebook.formats import register_formats
from deepseek_nb.notebook.magics import DeepSeekMagics
from deepseek_nb.notebook.question_marks import let_questions_ask

__all__ = ["DeepSeekMagics", "load_ipython_extension", "unload_ipython_extension"]

MAGIC_NAME = "deepseek"


def load_ipython_extension(shell: Any) -> None:
    """Register the magics; ``%config DeepSeekMagics`` then lists and sets their defaults."""
    shell.register_magics(DeepSeekMagics)
    register_formats(shell)
    shell.input_transformers_cleanup.append(let_questions_ask)


def unload_ipython_extension(shell: Any) -> None:
    """Take the magics away again, with their settings."""
    manager = shell.magics_manager
    manager.registry.pop(DeepSeekMagics.__name__, None)
    for kind in ("line", "cell"):
        manager.magics[kind].pop(MAGIC_NAME, None)
    if let_questions_ask in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(let_questions_ask)
    shell.configurables[:] = [one for one in shell.configurables if not isinstance(one, DeepSeekMagics)]
