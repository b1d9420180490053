"""Take the pictures of the documentation: ``python docs/pictures.py [FOLDER]`` (or ``docs/pictures``).

A real JupyterLab and a real gateway in headless Chromium, driven as the browser tests drive them, against
a simulated server. Needs the test extra and chromium; takes half a minute. No picture shows a path or a key.
"""

from __future__ import annotations

import io
import os
import re
import secrets
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "browser"), str(ROOT / "tests" / "notebook")]

import httpx  # noqa: E402
from kernels import kernel_environment  # noqa: E402
from lab import Lab, Notebook, running_lab, until  # noqa: E402

from deepseek_nb.adapters.auth import JWTBearer  # noqa: E402
from deepseek_nb.gateway.config import parse_config  # noqa: E402
from deepseek_nb.gateway.serve import GatewayServer  # noqa: E402
from deepseek_nb.sandbox import Completion, FaultScript, ParsedRequest, Sandbox  # noqa: E402

MOST_BYTES = 150_000
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]
WIDTH = 860
CALM = f"""
.jp-Notebook .jp-Cell {{ max-width: {WIDTH}px; border-color: transparent !important; outline: none !important;
  box-shadow: none !important }}
.jp-Notebook .jp-Cell::before {{ display: none }}
.jp-cell-toolbar, .jp-Collapser {{ visibility: hidden }}
"""
"""As wide as a page, and without what JupyterLab draws around the cell in use."""
MARGIN = 10
FRAME_S = 0.15
FIRST_FRAME_MS, LAST_FRAME_MS = 1500, 4000
MAGIC_HEIGHT = 385
COLOURS = 48

ANSWER = """\
*[simulated]* Three things stand out:

| | says | weighs |
|---|---|---|
| **Savings** | under 100 DM | much |
| **Duration** | 48 months | much |
| **Employment** | 7 years | *in favour* |

The amount is high **for the time it takes**: ask for a guarantor, or for a shorter term."""


def engine(request: ParsedRequest) -> Completion:
    """One answer in Markdown; in JSON mode the same rating for every row."""
    if request.json_mode:
        risk = ("low", "medium", "high")[len(request.question) % 3]
        return Completion(f'{{"risk":"{risk}","score":{30 + len(request.question) % 50}}}')
    return Completion(ANSWER)


# ------------------------------------------------------------------------------------------ in JupyterLab

LOAD = "%load_ext deepseek_nb\n%config DeepSeekMagics.facts = True"
LOAN = 'loan = "5,950 DM for a television, 48 months, savings under 100 DM, employed for 7 years"'
QUESTION = "%%deepseek --into judgement\nWhat speaks for and against this loan? {{loan}}"
FRAME = """\
from typing import Literal
from pydantic import BaseModel
from deepseek_nb.demo import applicants

class Risk(BaseModel):
    risk: Literal["low", "medium", "high"]
    score: int

loans = applicants()"""
JOB = """\
job = loans.deepseek.submit(
    "Rate a loan of {{credit_amount}} DM for {{purpose}}, {{duration_in_month}} months",
    schema=Risk, job="loans", budget_usd=2,
)
job"""


def magic(lab: Lab, browser: Browser, server: Sandbox, folder: Path) -> None:
    """A cell that meets a busy server, then streams its answer."""
    notebook = opened(lab, browser, "magic", LOAD, LOAN, QUESTION)
    notebook.run(0)
    notebook.run(1)
    notebook.wait_idle()
    server.faults = FaultScript.of("busy_503", "busy_503", "busy_503")
    notebook.cell(2).locator(".cm-content").click()
    shown = region(notebook, 0, 2) | {"height": MAGIC_HEIGHT}
    shots = [(time.monotonic(), notebook.page.screenshot(clip=shown))]
    notebook.page.keyboard.press("Control+Enter")
    end_s = time.monotonic() + 30
    while "deepseek-flash" not in "".join(notebook.texts(2)) and time.monotonic() < end_s:
        shots.append((time.monotonic(), notebook.page.screenshot(clip=shown)))
        time.sleep(FRAME_S)
    notebook.wait_idle()
    shots.append((time.monotonic(), notebook.page.screenshot(clip=shown)))
    keep_gif(folder / "magic.gif", shots)
    notebook.page.close()


def job(lab: Lab, browser: Browser, server: Sandbox, folder: Path) -> None:
    """A job's panel half-way, on a server that refuses some."""
    server.faults, before = None, len(server.log)
    notebook = opened(lab, browser, "job", LOAD, FRAME, JOB, scale=2)
    for number in range(3):
        notebook.cell(number).locator(".cm-content").click()
        notebook.page.keyboard.press("Control+Enter")
    panel = notebook.output(2).first
    panel.get_by_role("button", name="Pause").wait_for()
    until(lambda: len(server.log) > before + 480, within_s=90)
    panel.scroll_into_view_if_needed()
    notebook.page.wait_for_timeout(600)
    keep_png(folder / "job.png", notebook.page.screenshot(clip=region(notebook, 2, 2)))
    panel.get_by_role("button", name="Cancel").click()
    notebook.wait_idle()
    notebook.page.close()


def opened(lab: Lab, browser: Browser, name: str, *cells: str, scale: int = 1) -> Notebook:
    """A notebook of these cells, without the panels around it."""
    lab.write(name, *cells)
    page = browser.new_page(viewport={"width": 1240, "height": 900}, device_scale_factor=scale)
    page.set_default_timeout(20_000)
    notebook = Notebook.open(lab, name, page)
    page.keyboard.press("Control+b")  # the file browser, with its paths, goes
    page.add_style_tag(content=CALM)
    page.wait_for_timeout(500)
    return notebook


def region(notebook: Notebook, first: int, last: int) -> dict[str, float]:
    """Where these cells stand in the page, without the bar at their left."""
    top, bottom = notebook.cell(first).bounding_box(), notebook.cell(last).bounding_box()
    height = bottom["y"] + bottom["height"] - top["y"] + MARGIN
    return {"x": top["x"] + MARGIN, "y": top["y"], "width": top["width"] - MARGIN, "height": height}


# ------------------------------------------------------------------------------------------- the gateway


@contextmanager
def gateway(folder: Path) -> Iterator[tuple[GatewayServer, dict[str, str]]]:
    """A gateway before a simulated server, and its tenants' secrets."""
    tenants = {name: secrets.token_urlsafe(48) for name in ("risk-desk", "support", "lab", "operations")}
    told: dict[str, dict[str, Any]] = {
        "risk-desk": {"priority": 4, "priority_max": 5, "budget_day_usd": 0.02},
        "support": {"budget_day_usd": 0.05},
        "lab": {"requests_per_second": 5.0},
        "operations": {"scopes": ["metrics", "admin"]},
    }
    environ = {f"SECRET_{number}": secret for number, secret in enumerate(tenants.values())}
    for number, table in enumerate(told.values()):
        table["secret_env"] = f"SECRET_{number}"
    with Sandbox(count="estimate", first_token_s=0.05, token_s=0.002, spread=0.6) as server:
        environ["UPSTREAM_KEY"] = server.api_key
        file = {
            "gateway": {"port": 0, "data_dir": os.fspath(folder)},
            "upstream": [{"name": "deepseek", "base_url": server.base_url, "key_env": "UPSTREAM_KEY"}],
            "tenant": told,
        }
        running = GatewayServer(parse_config(file, environ)).start()
        try:
            yield running, tenants
        finally:
            running.stop()


def ask(base_url: str, tenant: str, secret: str, questions: int, distinct: int, pause_s: float) -> None:
    """A tenant that asks some things more than once."""
    auth = JWTBearer(tenant, secret, scope="compute")
    with httpx.Client(base_url=base_url, auth=auth, timeout=30, trust_env=False) as client:
        for number in range(questions):
            client.post(
                "/v1/compute", json={"prompt": f"Question {number % distinct} of {tenant}", "max_tokens": 200}
            )
            time.sleep(pause_s)


def status(browser: Browser, folder: Path) -> None:
    """The status page, as somebody with an admin's token sees it."""
    with tempfile.TemporaryDirectory() as data, gateway(Path(data)) as (running, tenants):
        work = {"risk-desk": (160, 45, 0.08), "support": (120, 30, 0.12), "lab": (200, 200, 0.05)}
        threads = [
            threading.Thread(target=ask, args=(running.base_url, name, tenants[name], *how))
            for name, how in work.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with httpx.Client(base_url=running.base_url, trust_env=False) as client:
            form = {"grant_type": "client_credentials", "scope": "admin"}
            token = client.post("/oauth/token", data=form, auth=("operations", tenants["operations"])).json()
        page = browser.new_page(
            viewport={"width": 1000, "height": 900}, color_scheme="light", device_scale_factor=2
        )
        page.goto(running.base_url)
        page.fill("#token", token["access_token"])
        page.click("button")
        page.wait_for_selector("#tenants tbody tr")
        page.fill("#token", "")
        page.evaluate("document.activeElement.blur()")
        page.wait_for_timeout(300)
        keep_png(folder / "status.png", whole(page))
        page.close()


def whole(page: Page) -> bytes:
    """The page down to the end of what stands on it."""
    height = page.evaluate("document.querySelector('main').getBoundingClientRect().bottom")
    return page.screenshot(clip={"x": 0, "y": 0, "width": 1000, "height": height + MARGIN}, full_page=True)


# ----------------------------------------------------------------------------------------------- keeping


def keep_png(file: Path, shot: bytes) -> None:
    """As small as it looks the same."""
    picture = Image.open(io.BytesIO(shot)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(file, optimize=True)
    told(file)


def keep_gif(file: Path, shots: list[tuple[float, bytes]]) -> None:
    """Frames that differ, each for as long as it stood, the first and the last longer; again and again."""
    palette = Image.open(io.BytesIO(shots[-1][1])).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    frames: list[Image.Image] = []
    since_s: list[float] = []
    for at_s, shot in shots:
        frame = (
            Image.open(io.BytesIO(shot)).convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE)
        )
        if not frames or frames[-1].tobytes() != frame.tobytes():
            frames.append(frame)
            since_s.append(at_s)
    held_ms = [round(1000 * (after - before)) for before, after in pairwise(since_s)]
    held_ms = [FIRST_FRAME_MS, *held_ms[1:], LAST_FRAME_MS]
    frames[0].save(file, save_all=True, append_images=frames[1:], duration=held_ms, loop=0, optimize=True)
    told(file)


def told(file: Path) -> None:
    """Say what it weighs; too heavy is an error."""
    size_bytes = file.stat().st_size
    sys.stdout.write(f"{file.name}: {size_bytes / 1000:.0f} kB\n")
    if size_bytes > MOST_BYTES:
        raise SystemExit(f"{file.name} has more than {MOST_BYTES:,} bytes")


def main(folder: Path) -> None:
    """Take all of them."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("Chromium is needed.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in [name for name in os.environ if re.match("DEEPSEEK", name)]:
        del os.environ[name]
    with sync_playwright() as running, tempfile.TemporaryDirectory() as place:
        browser = running.chromium.launch(executable_path=chromium, args=FLAGS)
        status(browser, folder)
        with Sandbox(
            engine=engine, count="estimate", first_token_s=0.4, token_s=0.06, spread=0.4, slots=40
        ) as server:
            environment = kernel_environment(server, Path(place), PYTHONPATH=str(ROOT))
            with running_lab(environment, Path(place), Path(place) / "shots") as lab:
                magic(lab, browser, server, folder)
                job(lab, browser, server, folder)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "pictures")
