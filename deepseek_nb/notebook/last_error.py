"""Remembers the last cell that failed, for ``%deepseek explain`` and ``%deepseek fix``.

As text: no frame, and none of its variables, is kept alive. Errors of our own are passed over, since
they say themselves what to do, and so is an interrupt: asking about an error may fail, and the error
to ask about is still the one before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from deepseek_nb.core.errors import DeepSeekError
from deepseek_nb.notebook.rooms import room

__all__ = ["Failure", "LastError", "remember_error"]


class Failure(NamedTuple):
    """A cell that failed."""

    number: int | None
    source: str
    kind: str
    message: str
    trace: str


class LastError:
    """Remembers the last failing cell: a ``post_run_cell`` event of IPython."""

    def __init__(self) -> None:
        self.failure: Failure | None = None

    def __call__(self, result: Any) -> None:
        """Take what came of a cell."""
        error = result.error_before_exec or result.error_in_exec
        if not isinstance(error, Exception) or isinstance(error, DeepSeekError):
            return
        self.failure = Failure(
            result.execution_count,
            result.info.raw_cell,
            type(error).__name__,
            str(error),
            room("notebook.tracebacks").traceback_text(error),
        )


remember_error = LastError()
"""The one of this kernel."""
