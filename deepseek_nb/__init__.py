"""DeepSeek in the notebook: cell magics, DataFrame jobs, and a client that gets through a busy server.

>>> import deepseek_nb as ds                                      # doctest: +SKIP
>>> ds.ask("Why is the sky blue?").text                           # doctest: +SKIP
>>> df.deepseek.apply("Rate the risk of {{purpose}}", schema=Risk, job="risk")   # doctest: +SKIP

Importing it imports nothing heavy: each name below brings its own room along when it is first used.
"""

import sys
from importlib import import_module
from typing import Any

from deepseek_nb.batch.accessor import register_with_frames

__version__ = "0.1.0.dev0"

_ROOMS = {
    "Answer": "core.chat",
    "AsyncClient": "client.aio",
    "Client": "client.sync",
    "DeepSeekError": "core.errors",
    "Job": "batch.job",
    "LocalModel": "client.local_model",
    "Plan": "batch.plan",
    "Route": "client.routes",
    "Sandbox": "sandbox",
    "Schema": "client.structured",
    "Secret": "core.secret",
    "Template": "core.template",
    "aask": "session",
    "apply": "batch.apply",
    "ask": "session",
    "chat": "notebook.chat_panel",
    "configure": "session",
    "conversation": "session",
    "dashboard": "notebook.dashboard",
    "default_client": "session",
    "errors": "core.errors",
    "memory": "adapters.joblib_backend",
    "plan": "batch.plan",
    "stream": "session",
    "submit": "batch.submit",
    "use_sandbox": "playground",
}

__all__ = ["__version__", *sorted(_ROOMS), "load_ipython_extension", "unload_ipython_extension"]


register_with_frames()


def _teach_the_shell() -> None:
    """In a notebook answers show as Markdown and jobs as panels, whether the extension is loaded or not."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None and hasattr(ipython, "get_ipython") else None
    if shell is None:
        return

    def show_answer(answer: Any, **_: Any) -> Any:
        return import_module(f"{__name__}.notebook.formats").show_answer(answer)

    def show_job(job: Any) -> None:
        import_module(f"{__name__}.notebook.job_panel").show_job(job)

    formatters = shell.display_formatter
    formatters.mimebundle_formatter.for_type_by_name(f"{__name__}.core.chat", "Answer", show_answer)
    formatters.ipython_display_formatter.for_type_by_name(f"{__name__}.batch.job", "Job", show_job)


_teach_the_shell()


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    room = import_module(f"{__name__}.{_ROOMS[name]}")
    value = room if name == "errors" else getattr(room, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


def load_ipython_extension(shell: Any) -> None:
    """``%load_ext deepseek_nb``: the magics, and ``df.deepseek`` as soon as pandas is there."""
    import_module(f"{__name__}.notebook").load_ipython_extension(shell)


def unload_ipython_extension(shell: Any) -> None:
    """``%unload_ext deepseek_nb``."""
    import_module(f"{__name__}.notebook").unload_ipython_extension(shell)
