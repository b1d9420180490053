"""The notebook face: the magics ``%deepseek`` and ``%%deepseek``."""

from __future__ import annotations

from typing import Any

from IPython.core.completer import context_matcher

from deepseek_nb.notebook.defaults import set_from_file
from deepseek_nb.notebook.key_guard import KeyGuard
from deepseek_nb.notebook.last_error import remember_error
from deepseek_nb.notebook.magics import DeepSeekMagics
from deepseek_nb.notebook.question_marks import let_questions_ask
from deepseek_nb.notebook.rooms import room

__all__ = ["DeepSeekMagics", "load_ipython_extension", "unload_ipython_extension"]

MAGIC_NAME = "deepseek"
TAB = "deepseek_nb.complete"
"""The name that IPython knows our completion by."""

_guard = KeyGuard()
EVENTS = (
    ("pre_run_cell", _guard.before),
    ("post_run_cell", _guard.after),
    ("post_run_cell", remember_error),
)


def load_ipython_extension(shell: Any) -> None:
    """Register the magics; ``%config DeepSeekMagics`` then lists and sets their defaults.

    They begin with those of ``[tool.deepseek_nb.magics]`` in ``pyproject.toml``.
    """
    shell.register_magics(DeepSeekMagics)
    set_from_file(shell.magics_manager.registry[DeepSeekMagics.__name__])
    shell.input_transformers_cleanup.append(let_questions_ask)
    for event, listener in EVENTS:
        shell.events.register(event, listener)
    mark: Any = context_matcher(identifier=TAB)  # IPython gives its decorators no types
    shell.Completer.custom_matchers.append(
        mark(lambda context: room("notebook.complete").complete(shell, context))
    )


def unload_ipython_extension(shell: Any) -> None:
    """Take the magics away again, with their settings."""
    manager = shell.magics_manager
    manager.registry.pop(DeepSeekMagics.__name__, None)
    for kind in ("line", "cell"):
        manager.magics[kind].pop(MAGIC_NAME, None)
    if let_questions_ask in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(let_questions_ask)
    for event, listener in EVENTS:
        if listener in shell.events.callbacks[event]:
            shell.events.unregister(event, listener)
    matchers = shell.Completer.custom_matchers
    matchers[:] = [one for one in matchers if getattr(one, "matcher_identifier", None) != TAB]
    shell.configurables[:] = [one for one in shell.configurables if not isinstance(one, DeepSeekMagics)]
