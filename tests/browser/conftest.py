"""One JupyterLab, one Chromium and one sandbox for all tests of this folder.

``SCREENSHOTS=some/folder pytest tests/browser`` keeps the screenshots there.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kernels import CANARY_KEY, kernel_environment

from deepseek_nb.sandbox import Completion, ParsedRequest, Sandbox

from .lab import Lab, Notebook, running_lab

TOKEN_S = 0.02
SCREENSHOTS = os.environ.get("SCREENSHOTS", "")
HOST = Path(__file__).parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

RENDERED = """\
## Why the sky is blue

Air scatters **short** waves more than *long* ones, with $\\lambda^{-4}$:

| colour | wavelength |
|---|---|
| blue | 450 nm |
| red | 700 nm |

1. Light enters the air.
2. `blue` is scattered most.

```python
def scattered(nm: float) -> float:
    return nm**-4
```

See <script>alert(1)</script> ![pixel](https://evil.example/p.png)."""


def complete(request: ParsedRequest) -> Completion:
    """``long N`` gives N words, ``sky`` some Markdown, JSON mode an object, anything else what was said."""
    if request.json_mode:
        return Completion('{"level":3,"why":"because"}')
    if wanted := re.search(r"long (\d+)", request.question):
        return Completion(" ".join(f"word{number}" for number in range(int(wanted[1]))))
    if "sky" in request.question:
        return Completion(RENDERED, reasoning="Let me think about light. " * 8)
    return Completion(f"You said: {request.question}")


@pytest.fixture(scope="session")
def server() -> Iterator[Sandbox]:
    with Sandbox(engine=complete, count="estimate", api_key=CANARY_KEY, token_s=TOKEN_S) as running:
        yield running


@pytest.fixture
def sandbox(server) -> Sandbox:
    """A server that behaves, with an empty log."""
    server.faults = None
    server.log.clear()
    return server


@pytest.fixture(scope="session")
def lab(server, tmp_path_factory) -> Iterator[Lab]:
    pytest.importorskip("jupyterlab", reason="needs jupyterlab")
    folder = tmp_path_factory.mktemp("lab")
    screenshots = Path(SCREENSHOTS).absolute() if SCREENSHOTS else folder / "screenshots"
    path = os.pathsep.join(filter(None, (str(HOST), os.environ.get("PYTHONPATH"))))
    environment = kernel_environment(server, folder, PYTHONPATH=path)
    with running_lab(environment, folder, screenshots) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    """Chromium; until the module's end, since Playwright keeps an event loop for as long as it runs."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as running:
        launched = running.chromium.launch(executable_path=chromium, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture
def open_notebook(lab, sandbox, browser) -> Iterator[Callable[..., Notebook]]:
    """Open a notebook of these cells, or a saved one without any kernel; at the end none made trouble."""
    opened: list[Notebook] = []

    def open_it(name: str, *cells: str, saved: Any = None) -> Notebook:
        if saved is None:
            lab.write(name, *cells)
        else:
            saved.metadata.clear()  # JupyterLab finds no kernel for it, and asks
            lab.keep(name, saved)
        page = browser.new_page(viewport={"width": 1100, "height": 1100})
        page.set_default_timeout(20_000)
        opened.append(Notebook.open(lab, name, page, kernel=saved is None))
        return opened[-1]

    yield open_it
    for notebook in opened:
        notebook.page.close()
    assert [problem for notebook in opened for problem in notebook.problems] == []
