"""A sandbox that answers what it is asked to, a real kernel beside it, and a shell in this process."""

from __future__ import annotations

import atexit
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from kernels import CANARY_KEY, Kernel, kernel_environment, running_kernel
from traitlets.config import Config

from deepseek_nb import session
from deepseek_nb.sandbox import Completion, ParsedRequest, Sandbox

HOSTILE = (
    "Hi <script>alert(1)</script> ![pixel](https://evil.example/p.png) [go](javascript:alert(1)) \x1b[31mred"
)


def answer_text(request: ParsedRequest) -> str:
    """``long N`` is answered with N words, ``hostile`` with an attack, ``give ...`` with that."""
    question = request.question
    if wanted := re.search(r"long (\d+)", question):
        return " ".join(f"word{number}" for number in range(int(wanted[1])))
    if "hostile" in question:
        return HOSTILE
    if question.startswith("give "):
        return question.removeprefix("give ")
    return f"You said: {question}"


def complete(request: ParsedRequest) -> Completion:
    if request.json_mode and '"rows"' in request.messages[0]["content"]:
        return Completion('{"rows":[{"level":3,"why":"because"},{"level":4,"why":"<script>"}]}')
    if request.json_mode:
        return Completion('{"level":3,"why":"because"}', reasoning="Let me see.")
    return Completion(answer_text(request), reasoning="Let me think. " * 20)


@pytest.fixture(scope="session")
def server() -> Iterator[Sandbox]:
    with Sandbox(engine=complete, count="estimate", api_key=CANARY_KEY, token_s=0.002) as running:
        yield running


@pytest.fixture
def sandbox(server) -> Sandbox:
    """A server that behaves, with an empty log."""
    server.faults = None
    server.log.clear()
    return server


@pytest.fixture(scope="session")
def shared_kernel(server, tmp_path_factory) -> Iterator[Kernel]:
    folder = tmp_path_factory.mktemp("kernel")
    with running_kernel(kernel_environment(server, folder), folder) as kernel:
        assert kernel.run("%load_ext deepseek_nb").status == "ok"
        yield kernel


@pytest.fixture
def kernel(shared_kernel, sandbox) -> Kernel:
    """A kernel with the extension loaded, that talks to the sandbox."""
    return shared_kernel


@pytest.fixture
def shell(sandbox, tmp_path, monkeypatch) -> Iterator[Any]:
    """An IPython in this process with the extension loaded and a client of the sandbox."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("DEEPSEEK_NB_PYPROJECT", "off")
    InteractiveShell.clear_instance()
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # the shell puts its own there
    made = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
    session.configure(base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path / "data")
    made.run_line_magic("load_ext", "deepseek_nb")
    yield made
    session.default_client().close()
    monkeypatch.setattr(session, "_client", None)
    atexit.unregister(made.atexit_operations)
    made.atexit_operations()
    InteractiveShell.clear_instance()


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path
