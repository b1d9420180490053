"""The answer store: the acknowledged is there, the damaged is never given, nothing is asked twice."""

import asyncio
import concurrent.futures
import json
import pickle
import random
import shutil
import sqlite3
import threading
import time
import warnings
from contextlib import closing

import pytest
from children import run_code, run_until_killed, start, wait_for
from hypothesis import given, settings
from hypothesis import strategies as st
from small_disk import small_disk
from write_answers import value as written

from deepseek_nb.adapters.database import NotSaved, StoreDamaged
from deepseek_nb.adapters.store import STORE_FILE, AnswerStore, store_file
from deepseek_nb.core.errors import AuthError, ConfigError, Overloaded

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, at=1_000_000.0):
        self.at = at

    def __call__(self):
        return self.at


@pytest.fixture
def clock():
    """The wall clock of the store under test."""
    return Clock()


@pytest.fixture
def store(tmp_path, clock):
    """An empty store."""
    with AnswerStore(tmp_path, now=clock) as opened:
        yield opened


def reopened(store):
    """A second store on the same file: nothing in memory."""
    return AnswerStore(store.path, now=store._now)


def raw(path, *statement):
    """Do something to the file behind the store's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(*statement).fetchall()


# ---------------------------------------------------------------- keeping and finding


def test_what_is_put_is_found(store):
    """By this store and by the next one on the same file."""
    assert store.get("k") is None
    store.put("k", {"text": "Paris", "n": [1, 2.5, None, True]})
    assert store.get("k") == {"text": "Paris", "n": [1, 2.5, None, True]}
    store.put("k", {"text": "Rome"})
    with reopened(store) as other:
        assert other.get("k") == {"text": "Rome"}
        assert other.get("k") is not other.get("k")  # everyone may change what he got


@settings(max_examples=60, deadline=None)
@given(items=st.dictionaries(TEXT, st.dictionaries(st.text(), JSON), max_size=5))
def test_any_json_comes_back(tmp_path_factory, items):
    """Every text, number and nesting, from memory and from disk."""
    with AnswerStore(tmp_path_factory.getbasetemp() / "any.db") as store:
        store.purge()
        store.put_many(items.items())
        assert store.get_many(items) == items
        with reopened(store) as other:
            assert other.get_many(items) == items
            assert sorted(other.keys()) == sorted(items)


@pytest.mark.parametrize("wrong", [["a list"], "text", None, {"x": {1, 2}}, {"x": object()}])
def test_what_is_not_json_is_refused(store, wrong):
    """Before anything is written."""
    with pytest.raises(TypeError):
        store.put("k", wrong)
    assert store.get("k") is None


def test_lookups_in_batches(store):
    """Thousands of keys, some in memory, some on disk, some nowhere, come in the order asked."""
    store.put_many((f"k{n}", {"n": n}) for n in range(3000))
    with AnswerStore(store.path, memory_items=100) as other:
        asked = [f"k{n}" for n in range(4000, -1, -1)]
        assert list(other.get_many(asked)) == [f"k{n}" for n in range(2999, -1, -1)]
        assert len(other._memory) == 100
        assert other.get_many(asked + asked) == {f"k{n}": {"n": n} for n in range(3000)}


def test_memory_is_bounded_by_items_and_bytes(tmp_path):
    """The ones used last stay."""
    with AnswerStore(tmp_path, memory_items=3) as store:
        store.put_many((f"k{n}", {}) for n in range(3))
        store.get("k0")
        store.put("k3", {})
        assert set(store._memory) == {"k0", "k2", "k3"}
    with AnswerStore(tmp_path, memory_bytes=1000) as store:
        for n in range(10):
            store.put(f"b{n}", {"text": "x" * 200})
        assert 3 <= len(store._memory) < 6
        assert store._memory_bytes == sum(len(text) for text, _ in store._memory.values())
        store.put("huge", {"text": "x" * 2000})
        assert (len(store._memory), store._memory_bytes) == (0, 0)
        assert store.get("huge") == {"text": "x" * 2000}


@pytest.mark.parametrize("again", [False, True], ids=["memory", "disk"])
def test_age(store, clock, again):
    """Younger than the ttl: there. None: always. The wall clock may jump: the future has age 0."""
    store.put("k", {"a": 1})
    used = reopened(store) if again else store
    for step_s, ttl_s, there in [
        (0, 0, False),
        (0, 1, True),
        (1799, 1800, True),
        (1800, 1800, False),
        (1800, None, True),
        (-86400, 1800, True),
        (86400, 1800, False),
        (-86400, None, True),
    ]:
        clock.at = 1_000_000.0 + step_s
        assert (used.get("k", ttl_s) is not None) is there
        assert asyncio.run(used.aget("k", ttl_s)) == ({"a": 1} if there else None)
    if again:
        used.close()


def test_another_process_s_newer_answer_is_found(store, clock):
    """What is too old in memory may be young on disk."""
    store.put("k", {"v": 1})
    clock.at += 100
    with reopened(store) as other:
        other.put("k", {"v": 2})
    assert store.get("k", ttl_s=50) == {"v": 2}


def test_keys_and_stats(store):
    """Glob patterns, and counts by tier."""
    store.put_many((f"api/m_{n:04}", {}) for n in range(1200))
    store.put("sandbox/m_1", {})
    assert len(list(store.keys())) == 1201
    assert list(store.keys("sandbox/*")) == ["sandbox/m_1"]
    assert list(store.keys("api/m_119?")) == [f"api/m_119{n}" for n in range(10)]
    with reopened(store) as other:
        other.get_many(["api/m_0001", "nowhere"])
        other.get("api/m_0001")
        stats = other.stats()
    assert (stats["items"], stats["hits"], stats["misses"], stats["unsaved"]) == (1201, 2, 1, 0)
    assert stats["size_bytes"] > 1201 * 20
    assert (stats["memory"]["hits"], stats["memory"]["items"], stats["disk"]["hits"]) == (1, 1, 1)
    assert str(store.path) in repr(store)


def test_paths(tmp_path):
    """A directory gets the file's usual name; a file is taken as it is."""
    assert store_file(tmp_path) == tmp_path / STORE_FILE
    assert store_file(tmp_path / "new") == tmp_path / "new" / STORE_FILE
    assert store_file(tmp_path / "my.sqlite") == tmp_path / "my.sqlite"


# ---------------------------------------------------------------- many at the same time


def test_many_loops_and_threads(store):
    """Puts from several event loops and threads at once share commits and are all there."""

    async def worker(name):
        async def one(n):
            await store.aput(f"{name}/{n}", {"n": n})
            assert await store.aget(f"{name}/{n}") == {"n": n}

        await asyncio.gather(*[one(n) for n in range(100)])

    def plain(name):
        for n in range(30):
            store.put(f"{name}/{n}", {"n": n})

    with concurrent.futures.ThreadPoolExecutor() as pool:
        jobs = [pool.submit(asyncio.run, worker(f"loop{n}")) for n in range(3)]
        jobs += [pool.submit(plain, f"thread{n}") for n in range(3)]
        for job in jobs:
            job.result()
    with reopened(store) as other:
        assert len(list(other.keys())) == 390

        async def all_at_once():
            return await asyncio.gather(*[other.aget(f"loop{n % 3}/{n // 3}") for n in range(330)])

        found = asyncio.run(all_at_once())
    assert sum(value is not None for value in found) == 300


def test_cancelling_does_not_lose_the_write(store):
    """Who stops waiting for the commit leaves it running."""

    async def main():
        tasks = [asyncio.create_task(store.aput(f"k{n}", {"n": n})) for n in range(50)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in done)

    asyncio.run(main())
    store._writer.close()
    with reopened(store) as other:
        assert len(other.get_many(f"k{n}" for n in range(50))) == 50


def test_what_is_queued_at_the_end_of_the_process_is_written(tmp_path):
    """A script that ends without closing the store loses nothing it handed in."""
    run_code(
        """
        import asyncio, sys, warnings
        from deepseek_nb.adapters.store import AnswerStore
        store = AnswerStore(sys.argv[1])
        async def main():
            for n in range(200):
                asyncio.ensure_future(store.aput(f"k{n}", {"n": n}))
            await asyncio.sleep(0)
        asyncio.run(main())
        """,
        tmp_path,
    )
    with AnswerStore(tmp_path) as store:
        assert len(list(store.keys())) == 200


def test_a_forked_child_has_a_store_of_its_own(tmp_path):
    """Parent and child write, look up and claim independently after a fork."""
    run_code(
        """
        import asyncio, os, sys, warnings
        from deepseek_nb.adapters.store import AnswerStore
        store = AnswerStore(sys.argv[1])
        asyncio.run(store.aput("before", {}))
        assert store.claim("mine")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        who = "child" if child == 0 else "parent"
        assert store.claim("mine") is (child != 0)
        for n in range(50):
            asyncio.run(store.aput(f"{who}{n}", {"n": n}))
        assert store.get("before") == {}
        if child == 0:
            store.close()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert len(list(store.keys())) == 101
        store.close()
        """,
        tmp_path,
    )


def test_kill_9_loses_no_acknowledged_answer(tmp_path):
    """Ten times killed at a random moment: every key that was printed is there, whole."""
    acknowledged, rng = set(), random.Random(9)
    for number in range(10):
        how = ["put", "aput", "many"][number % 3]
        keys = run_until_killed(
            "write_answers.py", tmp_path / "a.db", f"run{number}", how, after_s=0.1, rng=rng
        )
        acknowledged.update(keys)
    assert len(acknowledged) > 100
    with AnswerStore(tmp_path / "a.db") as store:
        found = store.get_many(acknowledged)
        assert {key for key in acknowledged if found.get(key) != written(key)} == set()
    assert raw(tmp_path / "a.db", "PRAGMA integrity_check") == [("ok",)]


def test_four_processes_write_one_file(tmp_path):
    """Nobody is locked out, nothing is lost."""
    hows = ["put", "aput", "many", "aput"]
    children = [start("write_answers.py", tmp_path / "a.db", f"p{n}", how, 40) for n, how in enumerate(hows)]
    said = [child.communicate(timeout=60) for child in children]
    assert [errors for _, errors in said] == [""] * 4
    keys = [key for out, _ in said for key in out.split()]
    assert len(keys) == 3 * 40 + 400
    with AnswerStore(tmp_path / "a.db") as store:
        assert all(store.get_many(keys)[key] == written(key) for key in keys)
    assert raw(tmp_path / "a.db", "PRAGMA integrity_check") == [("ok",)]


# ---------------------------------------------------------------- one flight a key


class Maker:
    """Makes the value of a key, slowly, and counts how often."""

    def __init__(self, store, key="k", fail=()):
        self.store, self.key, self.fail, self.calls = store, key, list(fail), 0

    async def __call__(self):
        self.calls += 1
        await asyncio.sleep(0.02)
        if self.fail:
            raise self.fail.pop(0)
        await self.store.aput(self.key, {"made": self.calls})
        return {"made": self.calls}


def test_one_of_many_makes_it(store):
    """The others wait, whoever comes later finds it in the store, and a ttl of 0 makes it again."""
    make = Maker(store)

    async def main():
        got = await asyncio.gather(*[store.once("k", make) for _ in range(50)])
        assert sorted(shared for _, shared in got) == [False] + [True] * 49
        assert all(value == {"made": 1} for value, _ in got)
        assert await store.once("k", make) == ({"made": 1}, True)
        assert await store.once("k", make, ttl_s=0) == ({"made": 2}, False)

    asyncio.run(main())
    assert make.calls == 2


def test_flights_are_shared_between_loops(store):
    """Threads with event loops of their own are one process."""
    make = Maker(store)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda _: asyncio.run(store.once("k", make)), range(8)))
    assert make.calls == 1
    assert [value for value, _ in got] == [{"made": 1}] * 8


def test_a_follower_takes_over(store):
    """After an error that may pass, the next one tries; the one who had it gets it raised."""
    make = Maker(store, fail=[Overloaded("full"), ValueError("odd")])

    async def main():
        return await asyncio.gather(*[store.once("k", make) for _ in range(10)], return_exceptions=True)

    got = asyncio.run(main())
    assert make.calls == 3
    assert [type(one) for one in got].count(tuple) == 8
    assert {type(one) for one in got} == {tuple, Overloaded, ValueError}


def test_an_error_that_stays_is_raised_for_all(store):
    """A wrong key is wrong for everybody: one request, not fifty."""
    make = Maker(store, fail=[AuthError("no")] * 50)

    async def main():
        return await asyncio.gather(*[store.once("k", make) for _ in range(50)], return_exceptions=True)

    assert [type(one) for one in asyncio.run(main())] == [AuthError] * 50
    assert make.calls == 1


def test_cancelled_leaders_and_followers(store):
    """A cancelled leader hands over; a cancelled follower disturbs nobody."""
    make = Maker(store)

    async def main():
        tasks = [asyncio.create_task(store.once("k", make)) for _ in range(10)]
        await asyncio.sleep(0.005)
        tasks[0].cancel()
        tasks[5].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    got = asyncio.run(main())
    assert make.calls == 2
    assert [n for n, one in enumerate(got) if isinstance(one, asyncio.CancelledError)] == [0, 5]
    assert not store._flights


def test_processes_do_not_ask_twice(tmp_path):
    """Three processes with the same 60 questions ask each once."""
    children = [start("ask_once.py", tmp_path / "a.db", 60) for _ in range(3)]
    said = [child.communicate(timeout=60) for child in children]
    assert [errors for _, errors in said] == [""] * 3
    assert sorted(key for out, _ in said for key in out.split()) == sorted(f"k{n}" for n in range(60))


def test_claims(tmp_path):
    """Held by one; free when released, run out, or when its process is gone."""
    clock = Clock()
    with AnswerStore(tmp_path, monotonic=clock) as store, AnswerStore(tmp_path, monotonic=clock) as other:
        assert store.claim("k", lease_s=10)
        assert store.claim("k", lease_s=10)
        assert not other.claim("k")
        assert not other.release("k")
        assert not other.extend("k")
        clock.at += 9
        assert store.extend("k", lease_s=10)
        clock.at += 9
        assert not other.claim("k")
        clock.at += 2
        assert other.claim("k")
        assert not store.release("k")
        assert other.release("k")
        assert store.claim("k", "somebody by name", 10)
        assert not other.claim("k")
        gone = store.owner.split("|")
        gone[0] = "another boot"
        assert store.release("k", "somebody by name")
        assert store.claim("k", "|".join(gone), 10_000)
        assert other.claim("k")


def test_a_claim_is_let_go_after_cancel_and_error(store):
    """And kept alive while the answer takes longer than the lease."""

    async def slow():
        await asyncio.sleep(0.4)
        assert not other.claim("k")
        return {}

    async def broken():
        raise OSError("gone")

    async def main():
        await store.once("k", slow, across_processes=True, lease_s=0.15)
        wait_for(lambda: other.claim("k"))
        assert other.release("k")
        with pytest.raises(OSError, match="gone"):
            await store.once("k", broken, across_processes=True)
        task = asyncio.create_task(store.once("k", slow, across_processes=True))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        wait_for(lambda: other.claim("k"))
        task = asyncio.create_task(
            store.once("k", slow, across_processes=True)
        )  # waits for the other's claim
        await asyncio.sleep(0.1)
        other.put("k", {"by": "other"})
        assert await task == ({"by": "other"}, True)

    with reopened(store) as other:
        asyncio.run(main())


def test_who_goes_away_at_once_holds_no_claim(tmp_path):
    """Taken and let go in one group of writes."""

    async def main(store):
        busy = sqlite3.connect(store.path, isolation_level=None)
        busy.execute("BEGIN IMMEDIATE")
        first = asyncio.create_task(store.claims.take("first"))  # the claims' thread waits with it
        await asyncio.sleep(0.1)
        gone = asyncio.create_task(store.claims.take("gone"))
        await asyncio.sleep(0.05)
        gone.cancel()
        await asyncio.wait([gone])
        store.claims.let_go("gone")
        busy.execute("ROLLBACK")
        busy.close()
        assert await first
        assert await store.claims.take("last")
        assert store.claims.held == {"first", "last"}

    with AnswerStore(tmp_path) as store:
        asyncio.run(main(store))


def test_closing_gives_claims_back(tmp_path):
    """A call that was cut off by the end of its client keeps nobody waiting; a hit takes no claim."""
    with AnswerStore(tmp_path) as other:
        store = AnswerStore(tmp_path)
        store.put("there", {})
        asyncio.run(store.my_turn("mine"))
        store.put("there", {})
        asyncio.run(store.my_turn("there"))
        assert store.claims.held == {"mine"}
        assert not other.claim("mine")
        store.close()
        assert other.claim("mine")


def test_a_claim_ends_with_the_commit_of_its_answer(tmp_path):
    """Others may ask at once, and what is let go afterwards is nobody else's claim."""
    with AnswerStore(tmp_path) as store, AnswerStore(tmp_path) as other:
        asyncio.run(store.my_turn("k"))
        store.put("k", {})
        assert store.claims.held == frozenset()
        assert other.claim("k")
        store.claims.let_go("k")
        store.put("another", {})
        assert not store.claim("k")


def test_a_held_claim_is_extended_by_a_thread(tmp_path):
    """Also while the event loop is busy with something else."""
    with AnswerStore(tmp_path) as store, AnswerStore(tmp_path) as other:
        asyncio.run(store.my_turn("k", lease_s=3))
        for _ in range(20):
            time.sleep(0.2)
            assert not other.claim("k")


# ---------------------------------------------------------------- damage


def test_a_changed_value_is_a_miss(store):
    """It is put aside, one warning says so, and the next put heals it."""
    store.put_many([("a", {"v": 1}), ("b", {"v": 2}), ("c", {"v": 3})])
    raw(store.path, "UPDATE answers SET value='{\"v\":9}' WHERE key='a'")
    raw(store.path, "UPDATE answers SET created=created+1 WHERE key='b'")
    with reopened(store) as other:
        with pytest.warns(StoreDamaged) as caught:
            assert other.get_many("abc") == {"c": {"v": 3}}
        assert len(caught) == 1
        assert other.stats()["quarantined"] == 2
        assert other.get("a") is None
        other.put("a", {"v": 1})
        assert other.get("a") == {"v": 1}


def test_two_answers_cannot_change_places(store):
    """The checksum ties a value to its key."""
    store.put_many([("a", {"v": 1}), ("b", {"v": 2})])
    raw(
        store.path,
        "UPDATE answers SET (value, digest, created) = "
        "(SELECT value, digest, created FROM answers WHERE key='a') WHERE key='b'",
    )
    with reopened(store) as other, pytest.warns(StoreDamaged):
        assert other.get_many("ab") == {"a": {"v": 1}}


def test_a_planted_pickle_is_never_opened(store, tmp_path):
    """As a value with a matching key, as a blob, and as a file beside the store."""
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return trap.touch, ()

    planted = pickle.dumps(Trap())
    raw(store.path, "INSERT INTO answers VALUES ('k', ?, 'x', 0, 1)", (planted,))
    raw(store.path, "INSERT INTO answers VALUES ('t', ?, 'x', 0, 1)", (planted.decode("latin-1"),))
    (tmp_path / "output.pkl").write_bytes(planted)
    with pytest.warns(StoreDamaged):
        assert store.get_many(["k", "t"]) == {}
    assert not trap.exists()


def test_no_flipped_byte_gives_a_wrong_answer(tmp_path):
    """Any byte of the file changed: the right answer, a miss, or a clear error; never another answer."""
    answers = {f"api/m_{n}": {"text": f"answer number {n} " * 15} for n in range(30)}
    with AnswerStore(tmp_path / "good.db") as store:
        store.put_many(answers.items())
    good = (tmp_path / "good.db").read_bytes()
    rng = random.Random(5)
    offsets = sorted({*range(120), *range(4080, 4100), *rng.sample(range(len(good)), 330)})
    outcomes = dict.fromkeys(("right", "missed", "error"), 0)
    told = {True}
    for offset in offsets:
        folder = tmp_path / "flipped"
        folder.mkdir()
        flipped = bytearray(good)
        flipped[offset] ^= rng.choice([0xFF, 1 << rng.randrange(8)])
        (folder / "a.db").write_bytes(flipped)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StoreDamaged)
            try:
                with AnswerStore(folder / "a.db") as store:
                    found = store.get_many(answers)
                    assert found.items() <= answers.items(), offset
                    store.put_many([(key, answers[key]) for key in list(answers)[:5]])
                    assert store.get("api/m_0") == answers["api/m_0"]
                    store.stats()
                    outcomes["right" if len(found) == len(answers) else "missed"] += 1
            except ConfigError as error:
                told.add(bool(error.hint))
                outcomes["error"] += 1
        shutil.rmtree(folder)
    assert told == {True}
    assert outcomes["right"] > 200
    assert outcomes["missed"] > 20


# ---------------------------------------------------------------- a full disk


def test_on_a_full_disk_nothing_paid_is_lost(tmp_path):
    """The write fails with a clear error, the answers stay readable, and are saved once there is room."""
    with small_disk(tmp_path / "small") as folder:
        ballast = folder / "ballast"
        store = AnswerStore(folder, memory_items=2)
        store.put("first", {"text": "x"})
        ballast.write_bytes(b"b" * 700_000)
        kept = {}

        def fill_up():
            for n in range(100):
                kept[f"k{n}"] = {"text": f"{n}" * 5000}
                store.put(f"k{n}", kept[f"k{n}"])

        with pytest.raises(ConfigError, match="disk is full") as caught:
            fill_up()
        assert caught.value.unsaved == store.unsaved == 1
        kept["more"] = {"text": "y" * 30_000}
        with pytest.raises(ConfigError, match="disk is full"):
            asyncio.run(store.aput("more", kept["more"]))
        assert store.unsaved == 2
        assert "unsaved=2" in repr(store)
        assert store.get_many(kept) == kept
        assert asyncio.run(store.aget("more")) == kept["more"]
        ballast.unlink()
        store.put("last", {})
        assert store.unsaved == 0
        store.close()
        with AnswerStore(folder) as again:
            assert again.get_many(kept) == kept


def test_closing_on_a_full_disk_says_what_is_lost(tmp_path):
    """A warning with the number."""
    with small_disk(tmp_path / "small") as folder:
        store = AnswerStore(folder)
        with pytest.raises(ConfigError):
            store.put("big", {"text": "x" * 2_000_000})
        with pytest.warns(NotSaved, match="1 answers could not be saved"):
            store.close()


# ---------------------------------------------------------------- deleting


def bytes_of(folder):
    return b"".join(name.read_bytes() for name in folder.iterdir() if name.is_file())


def test_purge_leaves_no_bytes(tmp_path):
    """Not in the file, its log, its free pages, its quarantine or its damaged copies; other answers stay."""
    (tmp_path / "answers.db").write_bytes(b"SECRET ANSWER of an older file" * 200)
    with pytest.warns(StoreDamaged):
        store = AnswerStore(tmp_path)
    store.put_many((f"api/SECRET{n}", {"text": "SECRET ANSWER" * 50}) for n in range(100))
    store.put("api/SECRET0", {"text": "SECRET ANSWER, second"})
    store.put("other/1", {"text": "PUBLIC ANSWER"})
    raw(store.path, "UPDATE answers SET digest='' WHERE key='api/SECRET1'")
    store._forget()
    with pytest.warns(StoreDamaged):
        store.get("api/SECRET1")
    assert b"SECRET ANSWER" in bytes_of(tmp_path)
    assert store.purge(match="api/*") == 99
    assert store.get("api/SECRET2") is None
    assert b"SECRET" not in bytes_of(tmp_path)
    assert b"PUBLIC ANSWER" in bytes_of(tmp_path)
    assert store.get("other/1") == {"text": "PUBLIC ANSWER"}
    store.close()
    assert b"SECRET" not in bytes_of(tmp_path)


def test_purge_by_age_keys_and_all(store, clock):
    """Every given condition must hold; none given means all."""
    store.put_many((f"k{n}", {}) for n in range(10))
    clock.at += 100
    store.put_many((f"k{n}", {}) for n in range(5, 15))
    assert store.purge(older_than_s=50) == 5
    assert store.purge(keys=["k5", "k6", "nowhere", "k5"]) == 2
    assert store.purge(keys=["k7", "k8"], match="*7") == 1
    assert store.purge(keys=[]) == 0
    assert store.purge() == 7
    assert list(store.keys()) == []
    assert store.get("k9") is None


def test_a_purge_beside_a_running_job(store):
    """Writers and readers of this process go on while the file is rewritten."""
    stop = threading.Event()

    def busy():
        n = 0
        while not stop.is_set():
            n += 1
            store.put(f"busy/{n}", {"n": n})
            assert store.get(f"busy/{n}") in ({"n": n}, None)

    thread = threading.Thread(target=busy)
    thread.start()
    for _ in range(5):
        store.purge(match="nothing*")
    stop.set()
    thread.join()
    assert json.loads(raw(store.path, "SELECT value FROM answers LIMIT 1")[0][0])["n"] > 0
