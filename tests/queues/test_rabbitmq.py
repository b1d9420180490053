"""What only a broker can do: go away and come back, hold strange messages, keep secrets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest
from queue_bench import TEMPLATE, check, frame_of, until

from deepseek_nb.adapters.rabbitmq import Broker, Parcel, broker_url, shown_url
from deepseek_nb.batch.apply import apply
from deepseek_nb.batch.resume import resume
from deepseek_nb.batch.submit import submit
from deepseek_nb.client.portal import background
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import ConfigError

SUBMIT = """
import asyncio, os, signal, sys
sys.path[:0] = {path!r}
from queue_bench import TEMPLATE, frame_of
from deepseek_nb.adapters.rabbitmq import Broker
from deepseek_nb.batch.submit import submit
from deepseek_nb.client.sync import Client

publish = Broker.publish

async def publish_and_die(self, queue, parcels):
    await publish(self, queue, parcels[: len(parcels) // 2])
    os.kill(os.getpid(), signal.SIGKILL)

if {half!r}:
    Broker.publish = publish_and_die
client = Client(base_url={base_url!r}, data_dir={folder!r})
submit(frame_of({rows}), TEMPLATE, job="j", queue={queue!r}, client=client, max_tokens=30)
os.kill(os.getpid(), signal.SIGKILL)
"""


def submit_and_die(far, rows: int, *, half: bool) -> None:
    """A submitter that is killed once its rows are put in, or when half of them are."""
    script = SUBMIT.format(
        path=[path for path in sys.path if path],
        base_url=far.sandbox.base_url,
        folder=str(far.folder / "submitter"),
        rows=rows,
        queue=far.queue,
        half=half,
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def look(url: str, queue: str) -> list:
    async def work() -> list:
        async with Broker.open(broker_url(url)) as broker:
            return await broker.look(queue)

    return background.run(work)


def send(url: str, route: str, *parcels: Parcel) -> None:
    async def work() -> None:
        async with Broker.open(broker_url(url)) as broker:
            await broker.publish(await broker.declare_rows(route), list(parcels))

    background.run(work)


def test_a_broker_that_is_killed_and_comes_back_costs_time_and_nothing_else(far, rabbitmq):
    """Both workers and the submitter wait for it; at most what was at the server is asked twice."""
    job = far.submit(80)
    workers = [far.worker(), far.worker()]
    until(lambda: len(far.asked) >= 20)
    rabbitmq.kill()
    until(lambda: job.progress.waiting == "waits for the RabbitMQ")
    rabbitmq.start()
    check(job.result(90), 80)
    assert len(set(far.asked)) == 80
    assert len(far.asked) - 80 <= 8
    for worker in workers:
        assert "Tried again until it is there" in worker.terminate()


def test_a_killed_submitter_finds_its_answers(far):
    """Kill -9 after the rows were put: the work is done without it, and the same call pays nothing."""
    submit_and_die(far, 30, half=False)
    far.worker("--drain").end()
    assert len(far.asked) == 30
    check(far.submit(30).result(30), 30)
    assert len(far.asked) == 30


def test_a_submitter_killed_while_it_puts_rows_in_leaves_none_twice(far):
    """Half the rows are in the queue under the first name: they are dropped, all are put in anew."""
    submit_and_die(far, 20, half=True)
    assert len(look(far.queue, f"deepseek_nb.{far.client.settings.route_name}")) == 10
    again = far.submit(20)
    far.worker("--drain").end()
    check(again.result(30), 20)
    assert len(far.asked) == len(set(far.asked)) == 20


def test_a_message_that_nobody_can_read_goes_to_the_dead_letters(far):
    send(far.queue, far.client.settings.route_name, Parcel(b"\xff not json", "strange", 1))
    said = far.worker("--drain").end()
    assert "gave up strange: Unreadable" in said
    listed = far.worker("--dead").end()
    assert "Unreadable" in listed
    assert "not json" in listed
    assert "1 rows were given up" in listed


def test_no_key_and_no_password_travels_or_is_kept(far, monkeypatch):
    """Neither in the messages, nor in the ledger, nor in what an error says."""
    client = Client(
        base_url=far.sandbox.base_url, api_key="sk-planted-5555555555", data_dir=far.folder / "submitter"
    )
    job = submit(frame_of(3), TEMPLATE, job="j", queue=far.queue, client=client)
    messages = look(far.queue, f"deepseek_nb.{client.settings.route_name}")
    assert len(messages) == 3
    assert set(json.loads(messages[0].body)["options"]) == set()
    kept = b"".join(path.read_bytes() for path in (far.folder / "submitter").glob("jobs.db*"))
    for text in (kept, *(message.body + repr(message).encode() for message in messages)):
        assert b"sk-planted" not in text
        assert b"guest" not in text
    assert shown_url(far.queue).encode() in kept
    job.cancel()
    assert job.wait(30)
    wrong = far.queue.replace("guest:guest", "guest:planted-password")
    with pytest.raises(ConfigError, match="does not take this user") as refused:
        submit(frame_of(3), TEMPLATE, job="k", queue=wrong, client=client)
    assert "planted" not in str(refused.value)
    client.close()


def test_a_job_on_a_broker_is_not_asked_here_until_it_is_taken_back(far):
    """Else its rows would be paid twice; the message names the way out."""
    far.submit(5).leave()
    client = Client(
        base_url=far.sandbox.base_url, api_key=far.sandbox.api_key, data_dir=far.folder / "submitter"
    )
    for go_on in (
        lambda: resume("j", client=client),
        lambda: apply(frame_of(5), TEMPLATE, job="j", client=client, max_tokens=30, progress=False),
    ):
        with pytest.raises(ConfigError, match=r"is in the queue at amqp://127\.0\.0\.1") as refused:
            go_on()
        assert "--take-back" in refused.value.hint
    taking = far.worker("--take-back", "j")
    assert "'j' is in no queue" in taking.end(code=2)  # that worker has another folder
    done = subprocess.run(
        [sys.executable, "-m", "deepseek_nb.cli", "worker", "--queue", far.queue, "--take-back", "j"],
        env=os.environ
        | {
            "DEEPSEEK_NB_BASE_URL": far.sandbox.base_url,
            "DEEPSEEK_NB_DATA_DIR": str(far.folder / "submitter"),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert "out of the queue" in done.stdout
    far.worker("--drain").end()
    assert not far.asked
    check(apply(frame_of(5), TEMPLATE, job="j", client=client, max_tokens=30, progress=False), 5)
    client.close()


@pytest.mark.parametrize(
    ("queue", "says"),
    [
        ("redis://localhost", "queue is 'ledger' or the address of a RabbitMQ"),
        ("amqp://", "no address of a RabbitMQ"),
        ("amqp", "DEEPSEEK_AMQP_URL is not set"),
        ("amqp://127.0.0.1:1", "No RabbitMQ answers at amqp://127.0.0.1:1"),
    ],
)
def test_what_is_no_queue_is_refused_before_anything_is_written(tmp_path, queue, says):
    client = Client(data_dir=tmp_path / "data")
    with pytest.raises(ConfigError, match=says):
        submit(frame_of(3), TEMPLATE, queue=queue, client=client)
    assert not (tmp_path / "data" / "jobs.db").exists()
    client.close()


def test_options_that_workers_cannot_keep_are_refused(far):
    for option in ({"rows_per_request": 2}, {"when": "offpeak"}):
        with pytest.raises(ConfigError, match=f"{next(iter(option))}= cannot be kept"):
            far.submit(3, **option)


def test_without_the_library_the_error_names_the_line_that_installs_it():
    script = (
        "import sys; sys.modules['aio_pika'] = None\n"
        "from deepseek_nb.cli import main\n"
        "sys.exit(main(['worker', '--queue', 'amqp://localhost', '--api-key', 'sk-0000000000000000']))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'pip install "deepseek_nb[rabbitmq]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_what_a_killed_worker_may_have_spent_counts_against_the_budget(far):
    """Its rows come back to the submitter, who sets money aside for them once more."""
    job = far.submit(40, budget_usd=0.05)
    first = far.worker()
    until(lambda: len(far.asked) >= 8)
    first.kill()
    far.worker()
    check(job.result(60), 40)
    paid_usd = far.sandbox.log.cost_usd
    assert paid_usd - 1e-9 <= job.cost_usd <= 0.05
    assert len(set(far.asked)) == 40
    assert len(far.asked) - 40 <= 4
