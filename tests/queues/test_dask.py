"""``apply(..., backend="dask")`` on a real cluster of two processes."""

from __future__ import annotations

import _thread
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
from queue_bench import TEMPLATE, check, frame_of, until

from deepseek_nb.adapters.journal import Journal
from deepseek_nb.adapters.settings import Settings
from deepseek_nb.batch.apply import JobIncomplete, apply
from deepseek_nb.batch.dask_run import _bare_url
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import BudgetExceeded, ConfigError
from deepseek_nb.sandbox import Sandbox

distributed = pytest.importorskip("distributed")

KEY = "sk-sandbox-0000000000000000"


@pytest.fixture(scope="module")
def workers_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("workers")


def two_processes(folder, **environ):
    """A cluster of two processes with one thread each; the key is in their environment, and a data folder."""
    told = {
        "DEEPSEEK_API_KEY": KEY,
        "DEEPSEEK_NB_DATA_DIR": str(folder),
        "DEEPSEEK_NB_PYPROJECT": "off",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    return distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0", env=told | environ
    )


@pytest.fixture(scope="module")
def cluster(workers_folder):
    with two_processes(workers_folder) as made:
        yield made


@pytest.fixture
def dask(cluster):
    with distributed.Client(cluster) as made:
        yield made


@pytest.fixture
def sandbox():
    with Sandbox(balance_usd=None, count="estimate", first_token_s=0.03, api_key=KEY) as running:
        yield running


@pytest.fixture
def client(sandbox, tmp_path):
    """It has no key: only the workers do."""
    with Client(base_url=sandbox.base_url, data_dir=tmp_path / "home", concurrency_max=16) as made:
        yield made


def ask(client, rows: int, **options):
    given = {"job": "j", "max_tokens": 30, "progress": False, "backend": "dask"} | options
    return apply(frame_of(rows), TEMPLATE, client=client, **given)


def answered(sandbox) -> list[str]:
    return [record.question_hash for record in sandbox.log.chats if record.usable]


def kill_one_in_the_middle(cluster, client, sandbox, *, after_answers: int) -> None:
    """Kill -9 one of two worker processes: all rows come, few are asked twice."""
    pids = cluster.run(os.getpid)
    kill = threading.Thread(
        target=lambda: (
            until(lambda: len(answered(sandbox)) >= after_answers),
            os.kill(next(iter(pids.values())), signal.SIGKILL),
        )
    )
    kill.start()
    check(ask(client, 300), 300)
    kill.join()
    assert len(set(answered(sandbox))) == 300
    assert len(answered(sandbox)) - 300 <= 8, "it had at most half of the 16 at the server"


def test_every_row_comes_back_with_its_own_answer_and_is_asked_once(dask, client, sandbox):
    """Two processes on this machine work on the submitter's own ledger and store."""
    out = ask(client, 160)
    check(out, 160)
    assert len(answered(sandbox)) == len(set(answered(sandbox))) == 160
    assert out["cost_usd"].sum() == pytest.approx(sandbox.log.cost_usd, rel=1e-6)
    assert out.attrs["deepseek_nb"]["job_cost_usd"] == pytest.approx(sandbox.log.cost_usd, rel=1e-6)
    check(ask(client, 160, job="again"), 160)
    assert len(answered(sandbox)) == 160, "the answers are in the store"


def test_workers_elsewhere_send_their_rows_back(dask, client, sandbox, monkeypatch, workers_folder):
    """A worker that is not on the submitter's machine has a ledger of its own; the frame is the same."""
    monkeypatch.setattr("deepseek_nb.batch.dask_run.boot_name", lambda: "another machine")
    out = ask(client, 100)
    check(out, 100)
    assert len(answered(sandbox)) == len(set(answered(sandbox))) == 100
    assert out.attrs["deepseek_nb"]["job_cost_usd"] == pytest.approx(sandbox.log.cost_usd, rel=1e-6)
    with Journal(workers_folder) as journal:
        assert not journal.jobs(), "what was sent back is kept no longer"


def test_workers_with_one_folder_do_not_fail_each_other(dask, client, sandbox, monkeypatch, workers_folder):
    """What one of them reads the other cannot wipe out: the rows are sent back all the same."""
    monkeypatch.setattr("deepseek_nb.batch.dask_run.boot_name", lambda: "another machine")
    Journal(workers_folder).close()
    with closing(sqlite3.connect(workers_folder / "jobs.db")) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM jobs").fetchone()
        check(ask(client, 20), 20)
    assert len(answered(sandbox)) == 20


@pytest.fixture
def machines(redis_server, tmp_path, monkeypatch):
    """The workers as two machines: each has a folder of its own; a third one stands in for a killed one."""
    monkeypatch.setattr("deepseek_nb.batch.dask_run.boot_name", lambda: "another machine")
    with (
        two_processes(tmp_path / "machine 3", DEEPSEEK_NB_REDIS_URL=redis_server.url) as made,
        distributed.Client(made) as dask,
    ):

        def set_folder(folder: str) -> None:
            os.environ["DEEPSEEK_NB_DATA_DIR"] = folder

        for number, name in enumerate(dask.run(os.getpid)):
            dask.run(set_folder, str(tmp_path / f"machine {number}"), workers=[name])
        yield dask


def test_machines_pay_a_question_once_through_redis(machines, client, sandbox, tmp_path):
    """Neither in one job nor in one of another folder; nor in two jobs at the same moment."""
    check(ask(client, 120), 120)
    assert (tmp_path / "machine 0").exists()
    assert (tmp_path / "machine 1").exists()
    with Client(base_url=sandbox.base_url, data_dir=tmp_path / "other", concurrency_max=16) as other:
        out = ask(other, 120, job="another job")
        check(out, 120)
        assert out["cached"].all()
        assert out.attrs["deepseek_nb"]["job_cost_usd"] == 0
        assert len(answered(sandbox)) == len(set(answered(sandbox))) == 120
        with ThreadPoolExecutor(2) as pool:
            for out in pool.map(lambda each: ask(each, 240, job="both"), (client, other)):
                check(out, 240)
    assert len(answered(sandbox)) == len(set(answered(sandbox))) == 240


@pytest.mark.slow
def test_a_machine_that_is_killed_costs_what_it_had_at_the_server(machines, client, sandbox):
    """What it had answered is found by the machine that gets its shard."""
    kill_one_in_the_middle(machines, client, sandbox, after_answers=60)


def test_the_address_of_redis_travels_without_a_password_only(dask, sandbox, redis_server, tmp_path):
    given = {"base_url": sandbox.base_url, "data_dir": tmp_path / "home", "concurrency_max": 16}
    with Client(redis_url=redis_server.url, **given) as client:
        check(ask(client, 20), 20)
    assert len(redis_server.names("deepseek_nb:1:answer:*")) == 20
    with (
        Client(redis_url="redis://:correct-horse@127.0.0.1:1", **given) as client,
        pytest.raises(ConfigError, match="this Dask worker does not") as refused,
    ):
        ask(client, 25, job="k")
    assert "DEEPSEEK_NB_REDIS_URL" in refused.value.hint
    assert len(answered(sandbox)) == 20


@pytest.mark.parametrize(
    ("url", "travels"),
    [
        ("redis://cache.example.org:6379/0", True),
        ("redis://user:secret@cache.example.org", False),
        ("rediss://cache.example.org?ssl_cert_reqs=none", False),
        (None, False),
    ],
)
def test_what_of_an_address_is_sent(url, travels):
    assert _bare_url(Settings(redis_url=url)) == (url if travels else None)


def test_a_killed_worker_has_its_shard_done_by_another(dask, client, sandbox):
    """Kill -9 one of two processes in the middle: all rows come, few are asked twice."""
    kill_one_in_the_middle(dask, client, sandbox, after_answers=30)


def test_a_budget_is_one_for_all_workers(dask, client, sandbox):
    with pytest.raises(BudgetExceeded) as stopped:
        ask(client, 200, budget_usd=0.0008)
    assert 0 < sandbox.log.cost_usd <= 0.0008
    done = stopped.value.frame["status"] == "done"
    assert 0 < done.sum() < 200
    check(ask(client, 200), 200)
    assert len(answered(sandbox)) == 200


@pytest.mark.filterwarnings("ignore::deepseek_nb.core.budget.NearBudget")
def test_workers_elsewhere_share_what_is_left_of_a_budget(dask, client, sandbox, monkeypatch):
    """The same call once more: what was spent before is not there a second time."""
    monkeypatch.setattr("deepseek_nb.batch.dask_run.boot_name", lambda: "a machine elsewhere")
    for _ in range(3):
        with pytest.raises(BudgetExceeded):
            ask(client, 200, budget_usd=0.0008)
    assert 0 < sandbox.log.cost_usd <= 0.0008


def test_without_a_key_on_the_workers_nothing_is_sent(dask, client, sandbox):
    def set_key(key: str | None) -> None:
        os.environ["DEEPSEEK_API_KEY"] = key or ""

    dask.run(set_key, None)
    try:
        with pytest.raises(ConfigError, match="There is no API key") as refused:
            ask(client, 10)
    finally:
        dask.run(set_key, KEY)
    assert "never sent to a worker" in refused.value.hint
    assert not len(sandbox.log)


def test_without_a_cluster_or_the_library_it_says_what_to_do(client):
    with pytest.raises(ConfigError, match="no Dask cluster") as refused:
        ask(client, 10)
    assert "Client()" in refused.value.hint
    with pytest.raises(ConfigError, match="backend is 'dask'"):
        ask(client, 10, backend="spark")
    script = (
        "import sys; sys.modules['distributed'] = None\n"
        "import pandas as pd\nfrom deepseek_nb.batch.apply import apply\n"
        "apply(pd.DataFrame({'n': [1]}), 'Say {{n}}', backend='dask')"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert 'pip install "deepseek_nb[dask]"' in done.stderr


def test_an_interrupt_stops_the_workers_and_the_same_call_goes_on(dask, client, sandbox):
    """What is at the server comes in; nothing is lost, and nothing asked twice."""
    until_some = threading.Thread(
        target=lambda: (until(lambda: len(answered(sandbox)) >= 20), _thread.interrupt_main())
    )
    until_some.start()
    with pytest.warns(JobIncomplete):
        out = ask(client, 400)
    until_some.join()
    done = int((out["status"] == "done").sum())
    assert 20 <= done < 400
    assert len(answered(sandbox)) == done
    check(ask(client, 400), 400)
    assert len(answered(sandbox)) == len(set(answered(sandbox))) == 400
