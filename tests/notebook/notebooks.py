"""Whole notebooks, run strictly by nbclient in a kernel of this Python, as CI does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from kernels import ThisPython, kernel_environment
from nbclient import NotebookClient
from traitlets import default

CELL_S = 60


class ThisKernelManager(AsyncKernelManager):
    """nbclient makes it, and so closes all it opened."""

    @default("kernel_spec_manager")
    def _this_python(self) -> ThisPython:
        return ThisPython()


def execute(sandbox: Any, folder: Path, *cells: str, **environment: str) -> nbformat.NotebookNode:
    """Run a notebook of these cells after one that loads the extension; it is saved as it was then.

    An empty value takes a variable out of the environment. Raises CellExecutionError at the first
    cell that fails.
    """
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in ("%load_ext deepseek_nb", *cells)]
    )
    client = NotebookClient(
        notebook,
        timeout=CELL_S,
        kernel_name="this",
        kernel_manager_class=ThisKernelManager,
        resources={"metadata": {"path": str(folder)}},
    )
    variables = kernel_environment(sandbox, folder, **environment)
    try:
        client.execute(env={name: value for name, value in variables.items() if value})
    finally:
        nbformat.write(notebook, folder / "saved.ipynb")
    return notebook
