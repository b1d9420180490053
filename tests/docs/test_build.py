"""The documentation is built offline with warnings as errors, and every link in it leads somewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import deepseek_nb as ds
from deepseek_nb import cli
from deepseek_nb.core import errors

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
BUILD_S = 110
OFFLINE = """
import runpy, sys

def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise RuntimeError(f"the build wants the network: {event} {arguments[1:]}")

sys.addaudithook(refuse)
sys.argv[0] = "sphinx-build"
runpy.run_module("sphinx", run_name="__main__")
"""


def _build(source: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", OFFLINE, "-W", "--keep-going", "-n", "-q"]
    command += ["-d", str(site.with_suffix(".doctrees")), str(source), str(site)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=BUILD_S, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The whole documentation as HTML."""
    pytest.importorskip("furo", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("docs") / "html"
    done = _build(DOCS, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class _Page(HTMLParser):
    """What a page links to and loads, and which places it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.places: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        self.places |= {told[name] for name in ("id", "name") if name in told}
        if tag == "a" and "href" in told:
            self.links.append(told["href"])
        if tag in ("script", "img", "source", "iframe") and "src" in told:
            self.loads.append(told["src"])
        if tag == "link" and told.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(told["href"])


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, _Page]:
    return {path: _Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_every_link_within_it_leads_to_a_place(site, pages):
    broken = []
    for path, page in pages.items():
        for link in page.links + page.loads:
            address = urlsplit(link)
            if address.scheme or address.netloc or link == "#":
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            place = unquote(address.fragment)
            if not target.is_file() or (place and target in pages and place not in pages[target].places):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken, "\n".join(broken)
    assert sum(len(page.links) for page in pages.values()) > 1000, "the search is not blind"


def test_no_page_loads_anything_from_elsewhere(site, pages):
    """It can be read on a machine without a network, and tells nobody that it is read."""
    elsewhere = {load for page in pages.values() for load in page.loads if urlsplit(load).netloc}
    assert elsewhere == set()
    styles = [file for file in site.rglob("*.css") if "url(http" in file.read_text(encoding="utf-8")]
    assert styles == []


def test_no_page_names_a_place_of_this_machine(site, pages):
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert f"{ROOT}/" not in text, path.relative_to(site)


def _documented(site: Path) -> set[str]:
    """The names in the inventory that other projects link by."""
    raw = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split(" ", 1)[0] for line in zlib.decompress(raw).decode().splitlines() if " py:" in line}


def test_every_public_name_has_an_entry(site):
    hooks = {"__version__", "errors", "load_ipython_extension", "unload_ipython_extension"}
    wanted = {f"deepseek_nb.{name}" for name in ds.__all__ if name not in hooks}
    wanted |= {f"deepseek_nb.errors.{name}" for name in errors.__all__}
    assert wanted - {"deepseek_nb.DeepSeekError"} <= _documented(site)


def test_every_command_and_setting_is_told_of(site):
    """The tables come from the code; a page that leaves one out would build, too."""
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for action in cli._parser()._actions:
        for name in action.choices or ():
            assert f"deepseek-nb {name}" in commands
    settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    for name, _, _ in ds.Client(api_key="sk-0123456789abcdef").settings.describe():
        assert name in settings
    magic = (site / "reference" / "magic.html").read_text(encoding="utf-8")
    for option in ("--into", "--schema", "--dry-run", "--background", "--patience"):
        assert option in magic
    alarms = (site / "reference" / "figures.html").read_text(encoding="utf-8")
    for title in ("P99 latency", "Errors", "Cache hits", "Budget", "Requests in flight"):
        assert title in alarms


def test_every_notebook_and_page_is_in_it(site):
    for source in [*(ROOT / "notebooks").glob("*.ipynb"), *DOCS.rglob("*.md")]:
        name = Path("notebooks") / source.name if source.suffix == ".ipynb" else source.relative_to(DOCS)
        assert (site / name).with_suffix(".html").is_file(), name


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("See [this](nowhere.md).", "nowhere.md"),
        ("See {py:class}`deepseek_nb.Nothing`.", "deepseek_nb.Nothing"),
        ("```{from-code} nothing\n```", "no table 'nothing'"),
    ],
)
def test_a_page_that_is_wrong_is_not_built(tmp_path, text, complaint):
    """Otherwise the build would prove nothing."""
    pytest.importorskip("furo", reason="needs the extra docs")
    source = tmp_path / "docs"
    source.mkdir()
    shutil.copytree(DOCS / "extensions", source / "extensions")
    shutil.copytree(DOCS / "_static", source / "_static")
    shutil.copy(DOCS / "conf.py", source)
    (source / "index.md").write_text(f"# Title\n\n{text}\n", encoding="utf-8")
    done = _build(source, tmp_path / "html")
    assert done.returncode == 1
    assert complaint in done.stderr
