"""What Binder would build: its files hold together, its scripts run, and its own tool takes them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from xml.etree import ElementTree

import httpx
import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).parents[2]
BINDER = ROOT / "binder"
BIN = Path(sys.executable).parent
QUIET = ("--ServerApp.port_retries=0", "--IdentityProvider.token=")


@pytest.fixture
def repository(tmp_path) -> Path:
    """A copy of what a build would see, far from this checkout."""
    copy = tmp_path / "repository"
    copy.mkdir()
    for name in ("README.md", "LICENSE", "pyproject.toml"):
        shutil.copy(ROOT / name, copy)
    for name in ("binder", "deepseek_nb", "notebooks"):
        leave = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / name, copy / name, ignore=leave)
    return copy


def _run(repository: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """In an environment with nothing in it but a fresh home and the commands of this one."""
    home = repository.parent / "home"
    home.mkdir(exist_ok=True)
    environment = {"HOME": str(home), "PATH": f"{BIN}:/usr/bin:/bin", "LANG": "C.UTF-8"}
    return subprocess.run(
        command, cwd=repository, env=environment, capture_output=True, text=True, check=False, timeout=100
    )


def test_the_python_it_asks_for_is_one_we_run_on():
    """Without runtime.txt the image would have Python 3.10, and the installation would fail."""
    name, _, version = (BINDER / "runtime.txt").read_text().strip().partition("-")
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert name == "python"
    assert f"{version}.0" in SpecifierSet(wanted)


def test_the_package_is_installed_from_the_repository():
    lines = (BINDER / "requirements.txt").read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == [".[notebooks]"]


def test_the_readme_has_a_badge_that_is_read_without_its_picture():
    """The picture is our own and comes along; a reader that shows none has its words."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    badge = re.search(r"\[!\[([^\]]+)\]\(([^)]+)\)\]\(https://mybinder\.org/\) (.+)", readme)
    assert badge is not None
    words, picture, beside = badge.groups()
    assert words == "Launch Binder"
    assert "the address of this repository" in beside
    drawn = ElementTree.parse(ROOT / picture).getroot()
    assert drawn.tag == "{http://www.w3.org/2000/svg}svg"
    assert drawn.get("aria-label").lower() == words.lower()
    assert "".join(drawn.itertext()).split()[-2:] == words.lower().split()


@pytest.mark.parametrize("script", ["postBuild", "start"])
def test_the_scripts_can_be_executed(script):
    file = BINDER / script
    assert os.access(file, os.X_OK)
    assert file.read_text().startswith("#!/usr/bin/env bash\n")
    assert b"\r" not in file.read_bytes()


def test_post_build_asks_three_rows_and_trusts_the_notebooks(repository):
    done = _run(repository, "./binder/postBuild")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 done, 0 failed, 0 pending" in done.stdout
    assert "00_quickstart.ipynb" in done.stdout
    assert not [path for path in (repository.parent / "home").rglob("*.db") if "deepseek" in str(path)]


def test_a_session_opens_on_the_quickstart(repository):
    """JupyterLab as Binder starts it, after both scripts: who asks for nothing is led there."""
    assert _run(repository, "./binder/postBuild").returncode == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {"HOME": str(repository.parent / "home"), "PATH": f"{BIN}:/usr/bin:/bin", "LANG": "C.UTF-8"}
    served = subprocess.Popen(
        ["./binder/start", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}", *QUIET],
        cwd=repository,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        reply = None
        for _ in range(600):
            with contextlib.suppress(httpx.TransportError):
                reply = httpx.get(f"http://127.0.0.1:{port}/", trust_env=False)
                break
            assert served.poll() is None
            time.sleep(0.1)
        assert reply is not None
        assert reply.headers["location"].rstrip("?") == "/lab/tree/notebooks/00_quickstart.ipynb"
    finally:
        served.terminate()
        served.wait(30)


def test_start_runs_what_it_is_given(repository):
    """Its own words would get into a server's output: it has none. Status and arguments go through."""
    done = _run(repository, "./binder/start", "echo", "hello  there")
    assert (done.returncode, done.stdout, done.stderr) == (0, "hello  there\n", "")
    assert _run(repository, "./binder/start", "bash", "-c", "exit 7").returncode == 7


def test_start_gives_a_session_what_the_shell_needs(repository):
    """Nothing is set that a notebook would refuse, and no key: the sandbox is what answers."""
    done = _run(repository, "./binder/start", "deepseek-nb", "cache")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"No answers in {repository.parent}/home/.deepseek_nb"
    assert "API_KEY" not in _run(repository, "./binder/start", "env").stdout


def test_repo2docker_makes_a_dockerfile_of_it(repository):
    """The tool Binder itself runs; no Docker engine is needed to see what it would build."""
    tool = BIN / "jupyter-repo2docker"
    if not tool.exists():
        pytest.skip("BINDER BUILD NOT TESTED: jupyter-repo2docker is not installed")
    flags = ("--no-build", "--debug", "--user-id", "1000", "--user-name", "jovyan")
    done = _run(repository, str(tool), *flags, ".")
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    python = (BINDER / "runtime.txt").read_text().strip().partition("-")[2].replace(".", r"(\.|-2e)")
    assert re.search(rf"COPY .*environment.*{python}", told)
    install = 'pip install --no-cache-dir -r "binder/requirements.txt"'
    assert told.index("COPY --chown=1000:1000 src/ ") < told.index(install), "'.' is not there yet"
    assert told.index(install) < told.index("RUN ./binder/postBuild")
    assert 'ENV R2D_ENTRYPOINT="${REPO_DIR}/binder/start"' in told
