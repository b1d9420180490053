"""The blocking face: from scripts, threads and running loops; an interrupt ends the request."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time

import pytest

from deepseek_nb.client.portal import Portal, background
from deepseek_nb.client.sync import Client
from deepseek_nb.core import errors
from deepseek_nb.sandbox import Sandbox


@pytest.fixture
def client(sandbox, tmp_path):
    with Client(
        base_url=sandbox.base_url, api_key=sandbox.api_key, data_dir=tmp_path, thinking=False
    ) as made:
        yield made


def test_ask_and_stream_block(client, sandbox):
    """The same road as the async client: one request for one question."""
    answer = client.ask("The sea is wide.")
    pieces = list(reply := client.stream("The sky is high. Clouds go by."))
    assert answer.text.startswith("[simulated]")
    assert "".join(p.text for p in pieces) == reply.answer.text
    assert len(sandbox.log) == 2
    assert client.metrics.answered == 2
    assert client.budget.spent_usd == pytest.approx(sandbox.log.cost_usd)


def test_it_works_inside_a_running_loop(client):
    """In a notebook a loop is always running: the blocking client brings its own."""

    async def cell() -> str:
        return client.ask("Inside a loop.").text

    assert asyncio.run(cell())


def test_many_threads_share_one_client(client, sandbox):
    """Twenty threads, twenty answers, each its own."""
    texts: dict[int, str] = {}

    def work(n: int) -> None:
        texts[n] = client.ask(f"Return exactly: number {n}").text

    threads = [threading.Thread(target=work, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert texts == {n: f"number {n}" for n in range(20)}


def test_an_interrupt_cancels_the_request_and_books_it(tmp_path):
    """Ctrl-C: KeyboardInterrupt at once, the connection goes, the money is booked as unknown."""
    with (
        Sandbox(token_s=0.05) as slow,
        Client(base_url=slow.base_url, api_key=slow.api_key, data_dir=tmp_path) as client,
    ):
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            client.ask("A long answer. " * 30)
        assert time.monotonic() - started < 1.5
        assert client.budget.unknown_usd > 0, "the books are in order when the interrupt goes on"
        assert client.budget.reserved_usd == 0
        time.sleep(0.2)
        assert slow.log[0].aborted


def test_errors_come_through_as_they_are(client):
    """The class, the hint and the details of the async road."""
    with pytest.raises(errors.ModelUnknown) as caught:
        client.ask("x", model="nope")
    assert caught.value.status == 400


def test_the_account_can_be_looked_at(client):
    """Models and balance cost nothing and come as the server sends them."""
    assert {model["id"] for model in client.models()} >= {"deepseek-flash", "deepseek-v4-pro"}
    assert client.balance()["balance_infos"][0]["total_balance"] == "10.00"
    assert "sk-" not in repr(client)


def test_a_portal_can_be_closed_and_used_again():
    """Closing ends the thread; the next call starts another."""
    portal = Portal()

    async def where() -> str:
        return threading.current_thread().name

    assert portal.run(where) != threading.current_thread().name
    portal.close()
    assert portal.run(where)
    portal.close()
    assert background.run(where)
