"""The status page in a real browser: figures, tenants for an admin alone, light and dark, no complaint."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from .people import chat_body, new_client

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def page(chromium) -> Iterator[Any]:
    context = chromium.new_context(viewport={"width": 1200, "height": 900}, color_scheme="dark")
    made = context.new_page()
    made.complaints = []
    made.on("console", lambda said: made.complaints.append(said.text))
    made.on("pageerror", lambda error: made.complaints.append(str(error)))
    yield made
    context.close()


def test_the_page(serve, page):
    gateway = serve(tenants={"desk": {"budget_day_usd": 1.0}})
    with new_client(gateway) as client:
        for _ in range(4):
            client.post("/chat/completions", json=chat_body())
        client.get("/nowhere")
    with new_client(gateway, "boss") as boss:
        token = boss.auth._current().reveal()
    page.goto(gateway.base_url)
    page.wait_for_selector("#upstreams .pill.up")
    assert page.inner_text("#state") == "serving"
    assert page.inner_text("#hits") == "75 %"
    assert page.inner_text("#errors") == "0 %"
    assert "ms" in page.inner_text("#p99")
    assert page.locator("#chart rect").count() >= 2
    assert "deepseek-flash" in page.inner_text("#lines")
    assert "desk" not in page.inner_text("main")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.fill("#token", token)
    page.click("button")
    page.wait_for_selector("#tenants tbody tr", timeout=10_000)
    rows = page.locator("#tenants tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["desk", "lab", "boss"]
    assert "of $1.00" in rows[0]
    page.set_viewport_size({"width": 390, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.complaints == []


def test_it_says_when_nobody_answers_and_when_a_token_is_bad(serve, page):
    gateway = serve()
    page.goto(gateway.base_url)
    page.wait_for_selector("#upstreams .pill")
    page.fill("#token", "not-a-token")
    page.click("button")
    page.get_by_text("That token is not taken.").wait_for()
    assert page.locator("#tenants").is_hidden()
    gateway.stop()
    page.wait_for_selector("#state.failing")
    assert page.inner_text("#state") == "no answer"
