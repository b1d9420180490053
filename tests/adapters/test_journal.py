"""The job journal: the ledger is the queue, and a killed process costs leases, never answers."""

import asyncio
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import warnings
from contextlib import closing

import pytest
from children import run_until_killed, start
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from small_disk import small_disk

from deepseek_nb.adapters.database import StoreDamaged
from deepseek_nb.adapters.journal import Journal
from deepseek_nb.adapters.owners import owner_name
from deepseek_nb.core.errors import ConfigError, JobMismatch


class Clock:
    """A clock that stands still until it is set."""

    def __init__(self, at=1000.0):
        self.at = at

    def __call__(self):
        return self.at


def some(count, start=0, priority=3):
    return [(f"k{n}", json.dumps({"row": n}), priority) for n in range(start, start + count)]


@pytest.fixture
def clock():
    """The monotonic clock of the journal under test."""
    return Clock()


@pytest.fixture
def journal(tmp_path, clock):
    """A journal with nothing in it."""
    with Journal(tmp_path, monotonic=clock) as opened:
        yield opened


def raw(path, *statement):
    """Do something to the file behind the journal's back."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        return connection.execute(*statement).fetchall()


def acks(items, cost_usd=0.001):
    return [(item, json.dumps({"of": item.key}), cost_usd) for item in items]


# ---------------------------------------------------------------- jobs


def test_a_job_from_end_to_end(journal):
    """Opened, leased in order, acked, failed, put back, looked at."""
    job = journal.open_job("j", "d1", {"model": "m"}, [*some(3), *some(2, 3, priority=5)])
    assert (job.name, job.digest, job.meta, job.state, job.total) == ("j", "d1", {"model": "m"}, "running", 5)
    items = journal.lease("j", 4, 60)
    assert [item.key for item in items] == ["k3", "k4", "k0", "k1"]
    assert (items[0].job, items[0].position, items[0].priority) == ("j", 3, 5)
    assert json.loads(items[0].body) == {"row": 3}
    assert journal.counts("j") == {"q": 1, "r": 4, "d": 0, "f": 0}
    assert journal.ack_many(acks(items[:2])) == 2
    assert journal.fail_many([(items[2], '{"error": "refused"}')]) == 1
    assert journal.put_back([items[3]], count_refusal=True) == 1
    assert journal.counts("j") == {"q": 2, "r": 0, "d": 2, "f": 1}
    assert list(journal.rows("j")) == [
        ("k0", "f", 1, 0, None, '{"error": "refused"}'),
        ("k1", "q", 0, 1, None, None),
        ("k2", "q", 0, 0, None, None),
        ("k3", "d", 1, 0, '{"of": "k3"}', None),
        ("k4", "d", 1, 0, '{"of": "k4"}', None),
    ]
    assert journal.retry_failed("j") == 1
    journal.add_spend("j", 0.5, 0.25)
    journal.set_state("j", "paused")
    told = journal.job("j")
    assert (told.state, round(told.spent_usd, 6), told.unknown_usd) == ("paused", 0.502, 0.25)
    assert journal.job("other") is None
    assert str(journal.path) in repr(journal)


def test_resuming(journal):
    """The same call again keeps what is done and adds what is new; keys that come twice count once."""
    journal.open_job("j", "d1", {}, some(10))
    journal.ack_many(acks(journal.lease("j", 4, 60)))
    job = journal.open_job("j", "d1", {}, [*some(12), *some(12)])
    assert (job.total, job.state) == (12, "running")
    assert journal.counts("j") == {"q": 8, "r": 0, "d": 4, "f": 0}
    assert [row.key for row in journal.rows("j")] == [f"k{n}" for n in range(12)]
    assert [item.key for item in journal.lease("j", 100, 60)] == [f"k{n}" for n in range(4, 12)]
    assert journal.lease("j", 100, 60) == []


def test_a_name_is_not_reused_for_other_work(journal):
    """The error says what differs, as far as can be told."""
    journal.open_job("j", "d1", {"template": "a", "model": "m", "x": 1}, some(1))
    with pytest.raises(JobMismatch, match=r"'j' exists already\. It differs in: template, x\.") as caught:
        journal.open_job("j", "d2", {"template": "b", "model": "m"}, some(1))
    assert caught.value.differs == ("template", "x")
    with pytest.raises(JobMismatch, match="made for other work"):
        journal.open_job("j", "d2", {"template": "a", "model": "m", "x": 1}, some(1))
    assert journal.job("j").digest == "d1"


def test_several_jobs(journal):
    """They do not touch one another; deleting one leaves no byte of it."""
    journal.open_job(
        "a", "d", {"template": "SECRET TEMPLATE"}, [(f"k{n}", "SECRET BODY", 3) for n in range(50)]
    )
    journal.open_job("b", "d", {}, some(5))
    journal.ack_many([(item, '"SECRET ANSWER"', None) for item in journal.lease("a", 20, 60)])
    assert [job.name for job in journal.jobs()] == ["b", "a"]
    assert b"SECRET" in bytes_of(journal.path.parent)
    assert journal.delete("a")
    assert not journal.delete("a")
    assert b"SECRET" not in bytes_of(journal.path.parent)
    assert journal.counts("b")["q"] == 5
    for unknown in (
        lambda: journal.lease("a", 1, 1),
        lambda: journal.counts("a"),
        lambda: list(journal.rows("a")),
        lambda: journal.set_state("a", "done"),
        lambda: journal.reap("a"),
    ):
        with pytest.raises(ConfigError, match="no job named 'a'"):
            unknown()


def bytes_of(folder):
    return b"".join(name.read_bytes() for name in folder.iterdir() if name.is_file())


def test_an_opening_that_breaks_off_leaves_nothing(journal):
    """Rows come from an iterable that may fail: all or nothing."""

    def broken():
        yield from some(500)
        raise KeyError("column")

    with pytest.raises(KeyError):
        journal.open_job("j", "d", {}, broken())
    assert journal.jobs() == []


# ---------------------------------------------------------------- leases


def test_due_times(journal, clock):
    """What is put back for later comes later, and the others first."""
    journal.open_job("j", "d", {}, some(4))
    items = journal.lease("j", 2, 60)
    journal.put_back(items, due_in_s=10, count_try=True)
    assert [item.key for item in journal.lease("j", 9, 60)] == ["k2", "k3"]
    assert journal.lease("j", 9, 60) == []
    clock.at += 10
    assert [(item.key, item.tries) for item in journal.lease("j", 9, 60)] == [("k0", 1), ("k1", 1)]


def test_ended_leases_are_taken_back(journal, clock):
    """By the clock; extended ones are not; each counts as a try."""
    journal.open_job("j", "d", {}, some(4))
    items = journal.lease("j", 4, 60)
    clock.at += 50
    assert journal.extend(items[:2], 60) == 2
    clock.at += 20
    assert journal.reap("j") == 2
    assert journal.counts("j") == {"q": 2, "r": 2, "d": 0, "f": 0}
    again = journal.lease("j", 9, 60)
    assert [(item.key, item.tries) for item in again] == [("k2", 1), ("k3", 1)]


def test_only_the_owner_acks(journal, clock, tmp_path):
    """A late owner may still ack what nobody else took; what was taken is the other's; twice is once."""
    journal.open_job("j", "d", {}, some(3))
    items = journal.lease("j", 3, 10)
    with Journal(tmp_path, monotonic=clock) as other:
        assert other.ack_many(acks(items)) == 0
        assert other.fail_many([(items[0], "{}")]) == 0
        assert other.put_back(items) == 0
        assert other.extend(items, 10) == 0
        clock.at += 11
        assert other.reap("j") == 3
        taken = other.lease("j", 1, 10)
        assert journal.ack_many(acks(items)) == 2
        assert journal.ack_many(acks(items)) == 0
        assert other.ack_many(acks(taken)) == 1
    assert journal.counts("j")["d"] == 3
    assert {row.tries for row in journal.rows("j")} <= {1, 2}
    assert journal.ack_many([]) == journal.fail_many([]) == journal.put_back([]) == 0


def test_a_dead_owner_s_leases_are_free_at_once(journal, tmp_path):
    """No need to wait an hour for a kernel that is gone."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    parts = owner_name().split("|")
    parts[2] = str(ended.pid)
    with Journal(tmp_path, owner="|".join(parts), monotonic=journal._monotonic) as dead:
        dead.open_job("j", "d", {}, some(5))
        assert len(dead.lease("j", 5, 3600)) == 5
    assert journal.lease("j", 5, 60) == []
    assert journal.reap("j") == 5
    assert len(journal.lease("j", 5, 60)) == 5


def test_a_state_that_is_none_of_ours_is_queued_again(tmp_path):
    """A byte was flipped: no lease would ever take that row."""
    with Journal(tmp_path) as journal:
        journal.open_job("j", "d", {}, some(2))
    with closing(sqlite3.connect(tmp_path / "jobs.db")) as connection:
        connection.execute("UPDATE items SET state='`' WHERE key='k1'")
        connection.commit()
    with Journal(tmp_path) as journal:
        with pytest.warns(StoreDamaged, match="1 results"):
            assert [row.state for row in journal.rows("j")] == ["q", "q"]
        assert [item.key for item in journal.lease("j", 9, 60)] == ["k0", "k1"]


def test_a_closed_journal_s_leases_are_free_at_once_in_this_process(tmp_path):
    """A full disk kept them from being given back; the next call in this kernel does not wait for them."""
    with Journal(tmp_path) as first:
        first.open_job("j", "d", {}, some(2))
        first.lease("j", 2, 60)
        with Journal(tmp_path) as beside:
            assert beside.reap("j") == 0, "it is still at work"
    with Journal(tmp_path) as after:
        assert after.reap("j") == 2


def test_leases_and_due_times_of_another_boot_have_ended(journal, clock):
    """The monotonic clock began anew: nothing waits for a time that never comes."""
    journal.open_job("j", "d", {}, some(4))
    items = journal.lease("j", 4, 1e9)
    journal.put_back(items[:2], due_in_s=1e9)
    raw(journal.path, "UPDATE jobs SET boot='another'")
    clock.at = 1.0
    assert journal.reap("j") == 2
    assert len(journal.lease("j", 9, 60)) == 4


def test_a_jumping_wall_clock_changes_nothing(tmp_path, clock):
    """Leases and due times do not look at it."""
    wall = Clock(1e9)
    with Journal(tmp_path, now=wall, monotonic=clock) as journal:
        journal.open_job("j", "d", {}, some(3))
        journal.put_back(journal.lease("j", 1, 60), due_in_s=5)
        journal.lease("j", 1, 60)
        for jump_s in (-86400, 86400 * 400):
            wall.at += jump_s
            assert journal.reap("j") == 0
        clock.at += 6
        assert [item.key for item in journal.lease("j", 9, 60)] == ["k2", "k0"]
        assert journal.job("j").created == 1e9


def test_one_s_own_part_of_a_job(journal):
    """Leasing among given keys leaves the other rows alone, whatever is due; their states can be asked."""
    journal.open_job("j", "d", {}, some(10))
    journal.put_back(journal.lease("j", 3, 60), due_in_s=100)
    mine = ["k1", "k5", "k9", "unknown"]
    assert [item.key for item in journal.lease_among("j", mine, 60)] == ["k5", "k9", "k1"]
    assert journal.lease_among("j", mine, 60) == []
    assert journal.states("j", [*mine, "k2"]) == {"k1": "r", "k5": "r", "k9": "r", "k2": "q"}


def test_many_threads_take_every_row_once(tmp_path):
    """Eight threads with leases of seven: no row twice, none left."""
    with Journal(tmp_path) as journal:
        journal.open_job("j", "d", {}, some(500))
        taken = []

        def work():
            while items := journal.lease("j", 7, 60):
                taken.extend(item.key for item in items)
                assert journal.ack_many(acks(items)) == len(items)

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(taken) == sorted(f"k{n}" for n in range(500))
        assert round(journal.job("j").spent_usd, 6) == 0.5


def test_acks_from_an_event_loop(journal):
    """They share commits, and tell who was too late."""
    journal.open_job("j", "d", {}, some(200))
    items = journal.lease("j", 200, 60)

    async def main():
        good = await asyncio.gather(*[journal.aack(item, '"a"', 0.01) for item in items[:150]])
        late = await asyncio.gather(*[journal.aack(item, '"b"', None) for item in items[:10]])
        failed = await asyncio.gather(*[journal.afail(item, '"e"') for item in items[140:]])
        return good, late, failed

    good, late, failed = asyncio.run(main())
    assert (all(good), any(late), failed) == (True, False, [False] * 10 + [True] * 50)
    assert journal.counts("j") == {"q": 0, "r": 0, "d": 150, "f": 50}
    assert {row.answer_json for row in journal.rows("j")} == {'"a"', None}


# ---------------------------------------------------------------- processes that die


def test_kill_9_loses_no_acked_row(tmp_path):
    """Ten workers are killed one after another; each goes on where the last one fell, nothing twice."""
    path, rng, acked = tmp_path / "j.db", random.Random(4), []
    with Journal(path) as journal:
        journal.open_job("j", "d", {}, some(3000))
    for number in range(10):
        acked += run_until_killed("work_job.py", path, ["many", "aack"][number % 2], after_s=0.04, rng=rng)
    with Journal(path) as journal:
        journal.reap("j")
        done = {row.key: row.answer_json for row in journal.rows("j") if row.state == "d"}
        assert set(acked) <= set(done)
        assert all(json.loads(answer) == {"of": key} for key, answer in done.items())
        assert len(acked) == len(set(acked))
        assert 100 < len(acked) <= len(done) <= len(acked) + 10 * 20  # what was committed but not printed
        assert round(journal.job("j").spent_usd, 6) == round(0.001 * len(done), 6)
        assert journal.counts("j")["r"] == 0
    assert raw(path, "PRAGMA integrity_check") == [("ok",)]


def test_four_processes_share_one_job(tmp_path):
    """Every row is done once, by one of them."""
    path = tmp_path / "j.db"
    with Journal(path) as journal:
        journal.open_job("j", "d", {}, some(600))
    children = [start("work_job.py", path, how) for how in ("many", "aack", "many", "aack")]
    said = [child.communicate(timeout=60) for child in children]
    assert [errors for _, errors in said] == [""] * 4
    keys = [key for out, _ in said for key in out.split()]
    assert sorted(keys) == sorted(f"k{n}" for n in range(600))
    with Journal(path) as journal:
        assert journal.counts("j") == {"q": 0, "r": 0, "d": 600, "f": 0}


# ---------------------------------------------------------------- damage and a full disk


def test_a_changed_answer_is_asked_again(journal):
    """Never given; its row is queued again, and one warning tells how many."""
    journal.open_job("j", "d", {}, some(5))
    items = journal.lease("j", 5, 60)
    journal.ack_many(acks(items[:4]))
    journal.fail_many([(items[4], '{"e": 1}')])
    raw(journal.path, "UPDATE items SET answer='{\"of\": \"k9\"}' WHERE key IN ('k1', 'k2')")
    raw(journal.path, "UPDATE items SET state='d', answer=NULL WHERE key='k4'")
    with pytest.warns(StoreDamaged, match="3 results") as caught:
        rows = list(journal.rows("j"))
    assert len(caught) == 1
    assert [row.state for row in rows] == ["d", "q", "q", "d", "q"]
    assert [item.key for item in journal.lease("j", 9, 60)] == ["k1", "k2", "k4"]


def test_half_a_character_in_a_template_is_kept(journal):
    """As it is in a row: the next opening finds it again."""
    meta = {"template": "cut \ud83d"}
    assert [journal.open_job("j", "d", meta, some(1)).meta for _ in range(2)] == [meta, meta]


def test_a_changed_body_is_not_sent(journal):
    """The row is taken out; the same call puts it back."""
    journal.open_job("j", "d", {}, some(5))
    raw(journal.path, "UPDATE items SET body='{\"row\": 77}' WHERE key='k2'")
    with pytest.warns(StoreDamaged, match="1 rows"):
        assert [item.key for item in journal.lease("j", 9, 60)] == ["k0", "k1", "k3", "k4"]
    assert journal.job("j").total == 4
    assert journal.open_job("j", "d", {}, some(5)).total == 5
    assert [item.key for item in journal.lease("j", 9, 60)] == ["k2"]


def test_no_flipped_byte_gives_a_wrong_row(tmp_path):
    """Any byte of the file changed: right rows, rows to ask again, or a clear error."""
    with Journal(tmp_path / "good.db") as journal:
        journal.open_job("j", "d", {"model": "m"}, some(40))
        journal.ack_many(acks(journal.lease("j", 20, 60)))
    good = (tmp_path / "good.db").read_bytes()
    rng = random.Random(6)
    bodies = {key: body for key, body, _ in some(40)}
    right = 0
    for offset in sorted({*range(0, 100, 3), *rng.sample(range(len(good)), 270)}):
        folder = tmp_path / "flipped"
        folder.mkdir()
        flipped = bytearray(good)
        flipped[offset] ^= rng.choice([0xFF, 1 << rng.randrange(8)])
        (folder / "j.db").write_bytes(flipped)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StoreDamaged)
            try:
                with Journal(folder / "j.db") as journal:
                    told = journal.job("j")
                    rows = list(journal.rows("j")) if told else []
                    for row in rows:
                        if row.state == "d":
                            assert json.loads(row.answer_json) == {"of": row.key}, offset
                    items = journal.lease("j", 100, 60) if told else []
                    assert all(bodies[item.key] == item.body for item in items), offset
                    journal.jobs()
                    right += sum(row.state == "d" for row in rows) == 20
            except (ConfigError, JobMismatch):
                pass
        shutil.rmtree(folder)
    assert right > 150


def test_a_full_disk_stops_the_job(tmp_path):
    """The ack fails with a clear error and is not half done; with room again it goes on."""
    with small_disk(tmp_path / "small") as folder, Journal(folder) as journal:
        journal.open_job("j", "d", {}, some(50))
        items = journal.lease("j", 50, 60)
        ballast = folder / "ballast"
        ballast.write_bytes(b"b" * 600_000)
        with pytest.raises(ConfigError, match="disk is full"):
            journal.ack_many([(item, json.dumps("x" * 20_000), 0.1) for item in items])
        assert journal.counts("j") == {"q": 0, "r": 50, "d": 0, "f": 0}
        assert journal.job("j").spent_usd == 0
        ballast.unlink()
        assert journal.ack_many(acks(items)) == 50


# ---------------------------------------------------------------- any order of events


class AnyOrder(RuleBasedStateMachine):
    """Whatever is done in whatever order: done stays done, every row is in one place, money only grows."""

    @initialize(count=st.integers(0, 6))
    def begin(self, count):
        self.clock = Clock()
        self.base = TMP / f"any{next(NUMBERS)}.db"
        self.journals = [Journal(self.base, monotonic=self.clock) for _ in range(2)]
        self.journals[0].open_job("j", "d", {}, some(count))
        self.keys = {f"k{n}" for n in range(count)}
        self.held, self.done, self.spent = [], {}, 0

    @rule(who=st.integers(0, 1), n=st.integers(1, 3), lease_s=st.sampled_from([5, 50]))
    def lease(self, who, n, lease_s):
        items = self.journals[who].lease("j", n, lease_s)
        assert not {item.key for item in items} & set(self.done)
        self.held += [(who, item) for item in items]

    @rule(pick=st.integers(0, 20), as_who=st.integers(0, 1))
    def ack(self, pick, as_who):
        if self.held:
            who, item = self.held[pick % len(self.held)]
            text = json.dumps(f"{as_who} {item.key} {self.spent}")
            self.spent += 1
            if self.journals[as_who].ack_many([(item, text, 1.0)]):
                assert who == as_who or any(w == as_who and i.id == item.id for w, i in self.held)
                assert item.key not in self.done
                self.done[item.key] = text

    @rule(pick=st.integers(0, 20), due_in_s=st.sampled_from([0, 7]), count_try=st.booleans())
    def put_back(self, pick, due_in_s, count_try):
        if self.held:
            who, item = self.held.pop(pick % len(self.held))
            self.journals[who].put_back([item], due_in_s, count_try)

    @rule(pick=st.integers(0, 20))
    def fail_and_retry(self, pick):
        if self.held:
            who, item = self.held.pop(pick % len(self.held))
            self.journals[who].fail_many([(item, "{}")])
            self.journals[who].retry_failed("j")

    @rule(step_s=st.sampled_from([1, 10, 100]))
    def pass_time(self, step_s):
        self.clock.at += step_s
        self.journals[0].reap("j")

    @rule(more=st.integers(0, 3))
    def open_again(self, more):
        self.keys |= {f"k{n}" for n in range(len(self.keys) + more)}
        self.journals[1].open_job("j", "d", {}, some(len(self.keys)))

    @invariant()
    def all_is_well(self):
        rows = list(self.journals[0].rows("j"))
        assert {row.key for row in rows} == self.keys
        assert {row.key: row.answer_json for row in rows if row.state == "d"} == self.done
        assert sum(self.journals[0].counts("j").values()) == len(self.keys) == self.journals[0].job("j").total
        assert self.journals[0].job("j").spent_usd == self.spent

    def teardown(self):
        for journal in getattr(self, "journals", []):
            journal.close()


def test_any_order_of_events(tmp_path):
    """A state machine against a model of the ledger, two owners on one file."""
    global TMP, NUMBERS
    TMP, NUMBERS = tmp_path, iter(range(10**6))
    case = AnyOrder.TestCase()
    case.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)
    case.runTest()
