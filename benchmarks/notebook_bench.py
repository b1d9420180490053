"""What the rows of ``notebook_experience.py`` stand on: results, kernels and notebooks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from notebook_kernel import Kernel, ThisKernelManager, environment, kernel
from notebook_server import KEY, Server

__all__ = ["ROWS", "Bench", "Result", "row"]


@dataclass
class Result:
    """What a row came to: a text for the table, the figures behind it, and whether its bar is met."""

    text: str
    figures: dict[str, Any] = field(default_factory=dict)
    met: bool | None = None


@dataclass
class Bench:
    """What a row may use."""

    server: Server
    """Answers at once."""
    slow: Server
    """40 tokens at 0.1 s each for ``long 160``."""
    steady: Server
    """8 characters 60 times a second."""
    folder: Path
    _kernels: int = 0

    @contextmanager
    def fresh(
        self, server: Server | None = None, *, load: bool = True, **variables: str | None
    ) -> Iterator[Kernel]:
        """A fresh kernel with files of its own, that talks to ``server``."""
        self._kernels += 1
        folder = self.folder / f"kernel-{self._kernels}"
        folder.mkdir()
        base_url = (server or self.server).base_url
        given = environment(base_url, folder, **{"DEEPSEEK_API_KEY": KEY, **variables})
        with kernel(given, folder, load=load) as running:
            yield running

    def notebook(self, *cells: str, **variables: str) -> nbformat.NotebookNode:
        """A notebook of these cells, run strictly by nbclient in a fresh kernel; raises as that does."""
        self._kernels += 1
        folder = self.folder / f"notebook-{self._kernels}"
        folder.mkdir()
        made = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in ("%load_ext deepseek_nb", *cells)]
        )
        runner = NotebookClient(
            made,
            timeout=60,
            kernel_name="this",
            kernel_manager_class=ThisKernelManager,
            resources={"metadata": {"path": str(folder)}},
        )
        given = {"DEEPSEEK_API_KEY": KEY, **variables}
        runner.execute(env=environment(self.server.base_url, folder, **given))
        return made


Measure = Callable[[Bench], Result]
ROWS: dict[str, tuple[str, str, Measure]] = {}
"""Id: title, bar, function."""


def row(name: str, title: str, bar: str = "") -> Callable[[Measure], Measure]:
    """Register a row of the table."""

    def register(measure: Measure) -> Measure:
        ROWS[name] = (title, bar, measure)
        return measure

    return register
