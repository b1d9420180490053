"""A JupyterLab of this Python on loopback, and a notebook open in it, driven by hand as a user would."""

from __future__ import annotations

import json
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

STARTING_S = 60.0
READING_S = 0.05
SLOW_PLUGIN = re.compile(r"^Plugin \S+ .*took [\d.]+ms to activate")
WATCH = """number => {
  const cell = document.querySelectorAll(".jp-Notebook .jp-Cell")[number];
  const seen = window.shownTexts = [];
  new MutationObserver(() => {
    const outputs = [...cell.querySelectorAll(".jp-OutputArea-output")];
    const text = outputs.map(output => output.innerText.trim()).join("\\n");
    if (text && text !== seen.at(-1)) seen.push(text);
  }).observe(cell, {childList: true, subtree: true, characterData: true});
}"""
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
QUIET = {
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},  # every cell is in the page
}
"""Settings of JupyterLab's own: ask nothing of other hosts, and no questions."""


@dataclass
class Lab:
    """A running JupyterLab."""

    root: Path
    """Where its notebooks are."""
    address: str
    token: str
    screenshots: Path

    def write(self, name: str, *cells: str) -> Path:
        """A new notebook of these cells."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = KERNEL
        return self.keep(name, notebook)

    def keep(self, name: str, notebook: nbformat.NotebookNode) -> Path:
        path = self.root / f"{name}.ipynb"
        nbformat.write(notebook, path)
        return path

    def url(self, name: str) -> str:
        """A workspace of its own for each notebook, so that none opens the others' tabs again."""
        return f"{self.address}/lab/workspaces/{name}/tree/{name}.ipynb?token={self.token}"


@contextmanager
def running_lab(environment: dict[str, str], folder: Path, screenshots: Path) -> Iterator[Lab]:
    """A JupyterLab with its files in ``folder``; its kernels have ``environment``."""
    root = folder / "root"
    settings = folder / "config" / "lab" / "user-settings" / "@jupyterlab"
    for name, values in QUIET.items():
        file = settings / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps(values))
    for place in (root, screenshots):
        place.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lab = Lab(root, f"http://127.0.0.1:{port}", secrets.token_hex(16), screenshots)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={root}"]
    command += [f"--IdentityProvider.token={lab.token}", "--LabApp.extension_manager=readonly"]
    own = {f"JUPYTER_{kind.upper()}_DIR": str(folder / kind) for kind in ("config", "data", "runtime")}
    with (folder / "lab.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment | own, cwd=root, stdout=log, stderr=log)
        try:
            _wait_for(lab, server)
            yield lab
        finally:
            server.terminate()  # and its kernels with it
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_for(lab: Lab, server: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + STARTING_S
    while True:
        try:
            with urllib.request.urlopen(f"{lab.address}/api?token={lab.token}", timeout=5):
                return
        except OSError:
            assert server.poll() is None, "jupyter lab ended: see lab.log"
            assert time.monotonic() < end_s, "jupyter lab did not come up: see lab.log"
            time.sleep(0.1)


@dataclass
class Notebook:
    """A notebook open in a browser."""

    lab: Lab
    name: str
    page: Any
    """Playwright's; this file works without it, so that a missing one skips the tests."""
    problems: list[str] = field(default_factory=list)
    """Errors and warnings on the browser's console, and uncaught exceptions in the page."""

    @classmethod
    def open(cls, lab: Lab, name: str, page: Any, *, kernel: bool = True) -> Notebook:
        """Open it and wait for its kernel; ``kernel=False`` takes none where JupyterLab asks."""
        notebook = cls(lab, name, page)
        page.on("console", notebook._hear)
        page.on("pageerror", lambda error: notebook.problems.append(str(error)))
        page.goto(lab.url(name))
        if kernel:
            page.get_by_text("(ipykernel) | Idle").wait_for()
            notebook.wait_idle()
        else:
            page.locator(".jp-Dialog .jp-mod-reject").click()
            page.locator(".jp-Dialog").wait_for(state="detached")
        return notebook

    def _hear(self, message: Any) -> None:
        # on a busy machine JupyterLab complains of its own plugins' time
        if message.type in ("error", "warning") and not SLOW_PLUGIN.search(message.text):
            self.problems.append(f"{message.type}: {message.text}")

    # -- what a user does

    def run_all(self) -> None:
        """Run > Run All Cells."""
        self.wait_idle()
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_text("Run All Cells", exact=True).click()

    def run(self, number: int) -> None:
        """Click into a cell and press Shift-Enter; returns at once."""
        self.cell(number).locator(".cm-content").click()
        self.page.keyboard.press("Shift+Enter")

    def stop(self) -> None:
        """The Stop button of the toolbar."""
        self.tool("notebook:interrupt-kernel").click()

    def save(self) -> nbformat.NotebookNode:
        """The Save button; gives what is in the file then."""
        path = self.lab.root / f"{self.name}.ipynb"
        before_ns = path.stat().st_mtime_ns
        self.tool("docmanager:save").click()
        until(lambda: path.stat().st_mtime_ns > before_ns and path.read_text().endswith("}\n"))
        return nbformat.read(path, as_version=4)

    def tool(self, command: str) -> Any:
        return self.page.locator(f'.jp-NotebookPanel-toolbar [data-command="{command}"]')

    # -- what a user sees

    def cell(self, number: int) -> Any:
        return self.page.locator(".jp-Notebook .jp-Cell").nth(number)

    def output(self, number: int) -> Any:
        return self.cell(number).locator(".jp-OutputArea-output")

    def prompt(self, number: int) -> str:
        """``[ ]:`` not run, ``[*]:`` running, ``[3]:`` done."""
        return self.cell(number).locator(".jp-InputPrompt").inner_text()

    def texts(self, number: int) -> list[str]:
        """The outputs of a cell as text, at this moment."""
        return [text.strip() for text in self.output(number).all_inner_texts()]

    def watch(self, number: int) -> None:
        """From now on the page notes each text that the cell's output shows: see :meth:`watched`."""
        self.page.evaluate(WATCH, number)

    def watched(self) -> list[str]:
        """The different texts that the watched output showed, one after the other."""
        return list(self.page.evaluate("window.shownTexts"))

    @property
    def idle(self) -> bool:
        return self.page.locator(".jp-Notebook-ExecutionIndicator").get_attribute("data-status") == "idle"

    def wait_idle(self, within_s: float = 20.0) -> None:
        """Until the kernel has nothing to do."""
        indicator = self.page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")
        indicator.wait_for(timeout=within_s * 1000)

    def screenshot(self, moment: str) -> None:
        """The notebook as it looks now, to be looked at by a person."""
        panel = self.page.locator(".jp-NotebookPanel")
        panel.screenshot(path=self.lab.screenshots / f"{self.name}_{moment}.png")


def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    """Wait until it comes true; a failure if it does not."""
    end_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < end_s, "it did not come true in time"
        time.sleep(READING_S)
