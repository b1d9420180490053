"""R6: a full disk stops the sending; what is under way is saved in the reserve, or handed over unsaved."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from small_disk import small_disk

from deepseek_nb.adapters.ballast import BALLAST_BYTES, Ballast
from deepseek_nb.adapters.store import AnswerStore
from deepseek_nb.batch.apply import apply
from deepseek_nb.client.sync import Client
from deepseek_nb.core.errors import StoreFailed
from deepseek_nb.sandbox import Completion, ParsedRequest, Sandbox

IN_FLIGHT = 8
FRAME = pd.DataFrame({"text": [f"{n} " + "x" * 3000 for n in range(300)]})


def free_bytes(folder: Path) -> int:
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def fill(folder: Path) -> None:
    """Leave no free block, while others write too."""
    handle = os.open(folder / "filler", os.O_CREAT | os.O_WRONLY)
    at = 0
    try:
        for step in (1 << 20, 1 << 16, 1 << 12):
            with suppress(OSError):
                while True:
                    os.posix_fallocate(handle, at, step)
                    at += step
    finally:
        os.close(handle)


@contextmanager
def filled_when(condition: Callable[[], bool], folder: Path) -> Iterator[None]:
    def work() -> None:
        while not condition():
            time.sleep(0.005)
        fill(folder)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        thread.join(30)


def job(client: Client, **options: Any) -> pd.DataFrame:
    return apply(
        FRAME,
        "Return exactly: {{text}}",
        job="full",
        client=client,
        progress=False,
        max_tokens=2000,
        **options,
    )


@pytest.mark.slow
@pytest.mark.parametrize("size", ["200m", "6m"])
def test_a_disk_that_fills_up_under_a_job_loses_no_paid_answer(tmp_path, size):
    """Sending stops; every answer that came in is in the frame; with room again the job is finished.

    On 200 MB the space held back takes them, so that nothing is paid twice. On 6 MB none is held
    back: the error tells how many answers are in its frame only.
    """
    with small_disk(tmp_path / "disk", size) as disk, Sandbox(first_token_s=0.1, count="estimate") as server:
        held_back = size == "200m"
        told = {"base_url": server.base_url, "api_key": server.api_key, "data_dir": disk / "data"}
        with Client(**told, concurrency_max=IN_FLIGHT) as client:
            with (
                filled_when(lambda: len(server.log.complete) > 25, disk),
                pytest.raises(StoreFailed, match="full") as caught,
            ):
                job(client)
            frame = caught.value.frame
            done = frame["status"] == "done"
            assert done.sum() == len(server.log.complete), "an answer that was paid is not in the frame"
            assert [text.split()[0] for text in frame.loc[done, "answer"]] == [
                str(n) for n in FRAME.index[done]
            ]
            saved = int(caught.value.message.split(" of 300")[0].split()[-1].replace(",", ""))
            assert len(server.log) < 25 + 100 * IN_FLIGHT / 4, "it went on sending"
            if held_back:
                assert saved == done.sum()
                full = next(
                    name for name in ("answers.db", "jobs.db") if f"{name} is full" in caught.value.message
                )
                assert not (disk / "data" / f"{full}.ballast").exists()  # whichever was written to first
                assert "space held back" in caught.value.message
            else:
                assert f"{done.sum() - saved} more came in" in caught.value.message
                assert saved < done.sum()
            (disk / "filler").unlink()
            if held_back:
                out = job(client)
                assert (out["status"] == "done").all()
                assert server.log.answered_twice() == {}
                assert (disk / "data" / "answers.db.ballast").stat().st_blocks * 512 >= BALLAST_BYTES


@pytest.mark.slow
@pytest.mark.parametrize("size", ["200m", "6m"])
def test_a_disk_that_fills_up_under_packs_of_rows_loses_no_paid_answer(tmp_path, size):
    """Several rows in a request: all that were answered are in the frame that the error brings."""
    answered: set[str] = set()

    def engine(request: ParsedRequest) -> Completion:
        rows = [json.loads(line) for line in request.question.split("\n")]
        if "row" not in rows[0]:
            answered.add(rows[0]["text"])
            return Completion(rows[0]["text"])
        answered.update(row["row"]["text"] for row in rows)
        return Completion(
            json.dumps({"answers": [{"id": r["id"], "answer": r["row"]["text"]} for r in rows]})
        )

    with (
        small_disk(tmp_path / "disk", size) as disk,
        Sandbox(first_token_s=0.1, count="estimate", engine=engine) as server,
        Client(
            base_url=server.base_url,
            api_key=server.api_key,
            data_dir=disk / "data",
            concurrency_max=IN_FLIGHT,
        ) as client,
    ):
        with (
            filled_when(lambda: len(server.log.complete) > 8, disk),
            pytest.raises(StoreFailed, match="full") as caught,
        ):
            job(client, rows_per_request=4)
        done = caught.value.frame["status"] == "done"
        assert set(FRAME.loc[done, "text"]) == answered
        assert (caught.value.frame.loc[done, "answer"] == FRAME.loc[done, "text"]).all()
        assert len(answered) < len(FRAME), "it went on sending"
        (disk / "filler").unlink()
        if size == "200m":  # the small one has no room for all rows
            assert (job(client, rows_per_request=4)["status"] == "done").all()


def test_the_space_is_held_back_only_where_it_is_small_beside_what_is_free(tmp_path):
    """Real blocks, deleted at the end; none on a disk where ten times as much is not free."""
    with small_disk(tmp_path / "disk", "30m") as disk:
        with AnswerStore(disk) as store:
            store.put("k", {})
            assert not list(disk.glob("*.ballast"))
        with AnswerStore(disk, ballast_bytes=2 << 20) as store:
            before = free_bytes(disk)
            store.put("k", {"n": 1})
            assert before - free_bytes(disk) >= 2 << 20
        assert not list(disk.glob("*.ballast"))


def test_the_space_is_taken_for_a_write_that_does_not_fit_and_held_back_again(tmp_path):
    """The write returns as ever, ``disk_full`` says why to stop, until there is room again."""
    with small_disk(tmp_path / "disk", "30m") as disk, AnswerStore(disk, ballast_bytes=2 << 20) as store:
        store.put("k", {})
        fill(disk)
        store.put("big", {"text": "x" * 500_000})
        assert store.disk_full is not None
        assert store.disk_full.reason == "full"
        assert store.unsaved == 0
        (disk / "filler").unlink()
        assert store.disk_full is None
        store.put("k2", {})
        assert (disk / "answers.db.ballast").exists()


def test_a_lease_that_does_not_fit_does_not_take_the_space(tmp_path):
    """Only what is paid for may use it: a write that need not be durable fails."""
    with small_disk(tmp_path / "disk", "30m") as disk, AnswerStore(disk, ballast_bytes=2 << 20) as store:
        store.put("k", {})
        fill(disk)
        with pytest.raises(StoreFailed, match="full"):
            store.claim("c" * 500_000)
        assert (disk / "answers.db.ballast").exists()
        assert store.disk_full is None


def test_no_space_can_be_held_back_where_there_is_no_folder(tmp_path):
    """Trouble with it is no trouble for the write."""
    ballast = Ballast(tmp_path / "nowhere" / "ballast", 1000)
    ballast.keep()
    assert not ballast.give_up()
    assert not ballast.spent
