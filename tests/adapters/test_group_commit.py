"""One thread commits what many hand in, and who waits for a commit waits to its end."""

from __future__ import annotations

import asyncio
import threading

import pytest

from deepseek_nb.adapters.group_commit import GroupCommit
from deepseek_nb.adapters.store import AnswerStore


@pytest.fixture
def held():
    """A group whose commits wait until ``go`` is set; ``groups`` are those it got."""

    class Held:
        def __init__(self) -> None:
            self.go, self.groups = threading.Event(), []
            self.commit: GroupCommit[int, int] = GroupCommit(self._commit, name="test")

        def _commit(self, items: list[int]) -> list[int]:
            assert self.go.wait(10)
            self.groups.append(items)
            if -1 in items:
                raise OSError("no room")
            return [2 * item for item in items]

    made = Held()
    yield made
    made.go.set()
    made.commit.close()


def test_what_is_handed_in_during_a_commit_shares_the_next(held):
    async def work() -> list[int]:
        first = held.commit.hand_in(0)
        await asyncio.sleep(0.05)  # its commit has begun
        others = [held.commit.hand_in(n) for n in range(1, 50)]
        held.go.set()
        return [await first, *[await other for other in others]]

    assert asyncio.run(work()) == [2 * n for n in range(50)]
    assert held.groups == [[0], list(range(1, 50))]


@pytest.mark.parametrize("item", [3, -1])
def test_who_is_cancelled_while_a_commit_is_awaited_leaves_when_it_is_done(held, item):
    """However often: the end of the commit is known by then, a failed one's too."""

    async def work() -> None:
        writing = held.commit.hand_in(item)
        seen: list[object] = []

        async def wait() -> None:
            try:
                await writing
            finally:
                seen.append(writing.exception() or writing.result())

        waiting = asyncio.create_task(wait())
        for _ in range(3):
            await asyncio.sleep(0.02)
            waiting.cancel()
        assert not writing.cancel()
        await asyncio.sleep(0.05)
        assert not waiting.done()
        held.go.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert waiting.cancelled()
        assert [repr(each) for each in seen] == ["6" if item == 3 else "OSError('no room')"]

    asyncio.run(work())


def test_a_wait_for_run_can_be_left(held):
    """Its item is committed all the same."""

    async def work() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await held.commit.run(7)
        held.go.set()

    asyncio.run(work())
    held.commit.close()
    assert held.groups == [[7]]


@pytest.fixture
def no_threads():
    """A system that gives no more threads, until the switch is called."""
    before = threading.stack_size(1 << 46)
    yield lambda: threading.stack_size(before)
    threading.stack_size(before)


def test_where_no_thread_can_be_had_the_caller_commits(no_threads):
    """And a thread is there again with the next item that can have one."""
    committed = []

    def commit(items):
        committed.append((threading.current_thread().name, items))
        return items

    group = GroupCommit(commit, name="test")

    async def work() -> list[int]:
        first = await asyncio.wait_for(group.run(1), 10)
        no_threads()
        return [first, await asyncio.wait_for(group.run(2), 10)]

    assert asyncio.run(work()) == [1, 2]
    assert committed == [("MainThread", [1]), ("deepseek_nb test", [2])]
    group.close()


def test_a_claim_without_a_thread_of_its_own_is_held_for_its_lease(no_threads, tmp_path):
    """Nothing of it fails: it only is not extended."""

    async def work() -> bool:
        with AnswerStore(tmp_path) as store:
            taken = await store.claims.take("key")
            assert store.claims.held == {"key"}
            return taken

    assert asyncio.run(work())
