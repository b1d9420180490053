"""joblib.Memory over the answer store: what its users know works, and nothing paid is dropped or shown."""

import asyncio
import datetime
import importlib
import importlib.util
import json
import math
import pickle
import sqlite3
import sys
import time
from contextlib import closing

import joblib
import pandas as pd
import pytest
from children import run_code
from hypothesis import given
from hypothesis import strategies as st
from small_disk import small_disk

from deepseek_nb.adapters.database import NotSaved, StoreDamaged
from deepseek_nb.adapters.joblib_backend import (
    DeepSeekStoreBackend,
    NotStorable,
    SourceChanged,
    _decoded,
    _encoded,
    memory,
    register,
)
from deepseek_nb.adapters.store import STORE_FILE, AnswerStore, checksum

CALLS = []


def answer(question, key=None):
    """A function worth caching."""
    CALLS.append(question)
    return {"text": f"answer to {question}", "tokens": (1, 2), "raw": b"\x00\xff"}


async def answer_async(question):
    CALLS.append(question)
    await asyncio.sleep(0)
    return [question, float("inf")]


@pytest.fixture(autouse=True)
def no_calls():
    """Every test counts its own calls."""
    CALLS.clear()


@pytest.fixture
def cache(tmp_path):
    """Joblib's Memory, as its users make it."""
    register()
    return joblib.Memory(str(tmp_path), backend="deepseek", verbose=0)


def raw(folder, *statement):
    with closing(sqlite3.connect(folder / STORE_FILE, isolation_level=None)) as connection:
        return connection.execute(*statement).fetchall()


def test_a_second_call_is_a_hit(cache, tmp_path):
    """From this Memory, from another one on the same file, and with the types it had."""
    cached = cache.cache(answer)
    assert not cached.check_call_in_cache("a")
    first = cached("a")
    assert cached.check_call_in_cache("a")
    assert cached("a") == first == {"text": "answer to a", "tokens": (1, 2), "raw": b"\x00\xff"}
    for location in (tmp_path, tmp_path / STORE_FILE, str(tmp_path / STORE_FILE)):
        again = memory(location).cache(answer)
        assert again("a") == first
        assert type(again("a")["tokens"]) is tuple
    assert CALLS == ["a"]
    there = {name.name for name in tmp_path.iterdir() if name.name.startswith("answers")}
    assert there - {f"{STORE_FILE}.ballast"} == {STORE_FILE, f"{STORE_FILE}-shm", f"{STORE_FILE}-wal"}
    assert not (tmp_path / "joblib").exists()


def test_async_functions(cache):
    """The second await does not run it again."""
    cached = cache.cache(answer_async)

    async def main():
        return [await cached("a"), await cached("a"), await cached("b")]

    assert asyncio.run(main()) == [["a", math.inf], ["a", math.inf], ["b", math.inf]]
    assert CALLS == ["a", "b"]


def test_ignore(cache):
    """An ignored argument is not part of the key."""
    cached = cache.cache(answer, ignore=["key"])
    assert cached("a", key="one") == cached("a", key="two")
    assert CALLS == ["a"]


def test_call_and_shelve(cache):
    """A reference that fetches the value, and says when it is gone."""
    cached = cache.cache(answer)
    shelved = cached.call_and_shelve("a")
    assert shelved.get() == cached("a")
    assert cached.call_and_shelve("a").get()["text"] == "answer to a"
    assert STORE_FILE in repr(shelved)
    shelved.clear()
    with pytest.raises(KeyError):
        shelved.get()
    cached("a")
    assert CALLS == ["a", "a"]


def test_clearing_clears(cache, tmp_path):
    """One function, or everything; the client's answers in the same file stay; no byte of a result stays."""
    one, two = cache.cache(answer), cache.cache(answer_async)
    with AnswerStore(tmp_path) as store:
        store.put("api/k", {"text": "paid"})
        one("a")
        asyncio.run(two("a"))
        one.clear(warn=False)
        assert not one.check_call_in_cache("a")
        assert two.check_call_in_cache("a")
        one("SECRET")
        cache.clear(warn=False)
        assert not two.check_call_in_cache("a")
        assert not one.check_call_in_cache("SECRET")
        assert store.get("api/k") == {"text": "paid"}
        left = b"".join(name.read_bytes() for name in tmp_path.iterdir() if name.is_file())
    assert b"SECRET" not in left


def test_reduce_size(cache, tmp_path):
    """By number, bytes and age; what was used last stays."""
    cached = cache.cache(answer)
    for n in range(10):
        cached(str(n))
    raw(tmp_path, "UPDATE joblib_items SET accessed=accessed-1000-rowid")
    cached("0")
    cache.reduce_size(items_limit=4)
    left = [str(n) for n in range(10) if cached.check_call_in_cache(str(n))]
    assert left == ["0", "1", "2", "3"]
    cache.reduce_size(age_limit=datetime.timedelta(seconds=500))
    assert [n for n in left if cached.check_call_in_cache(n)] == ["0"]
    cache.reduce_size(bytes_limit="1K")
    assert cached.check_call_in_cache("0")
    cache.reduce_size(bytes_limit=10)
    assert not cached.check_call_in_cache("0")


def test_expires_after(cache, tmp_path):
    """Old results run again; the future has age 0; damaged times count as expired and never raise."""
    cached = cache.cache(answer, cache_validation_callback=joblib.expires_after(seconds=100))
    cached("a")
    cached("a")
    assert CALLS == ["a"]
    backend = cached.store_backend
    call_id = (cached.func_id, cached._get_args_id("a"))
    told = backend.get_metadata(call_id)
    assert abs(told["time"] - time.time()) < 5
    assert 0 < told["duration"] < 5
    ((text,),) = raw(tmp_path, "SELECT value FROM joblib_items")
    for age_s, again in ((99, []), (101, ["a"]), (-1000, [])):
        CALLS.clear()
        then = time.time() - age_s
        row = (then, checksum("\n".join(call_id), then, text))
        raw(tmp_path, "UPDATE joblib_items SET created=?, digest=?", row)
        cached("a")
        assert again == CALLS, age_s
    for damaged in ("created=created-1000", "created='x'", "created=x'ff', duration='y'", "created=1e300"):
        CALLS.clear()
        raw(tmp_path, f"UPDATE joblib_items SET {damaged}")
        assert backend.get_metadata(call_id)["time"] >= 0
        with pytest.warns(StoreDamaged):
            cached("a")
        assert CALLS == ["a"], damaged
    assert backend.get_metadata(("no", "such")) == {"time": 0.0, "duration": 0.0}


def test_nothing_is_printed_or_kept_of_the_arguments(tmp_path, capsys):
    """Our helper is silent, and neither prompt nor key stands in the file."""
    cached = memory(tmp_path).cache(answer_silent, ignore=["key"])
    cached("PROMPT WITH A NAME", key="sk-canary-0123456789")
    cached("PROMPT WITH A NAME", key="sk-canary-0123456789")
    assert capsys.readouterr() == ("", "")
    kept = b"".join(name.read_bytes() for name in tmp_path.iterdir() if name.is_file())
    assert b"PROMPT" not in kept
    assert b"canary" not in kept


def answer_silent(question, key):
    return {"n": len(question)}


def test_the_default_place_is_the_data_directory(tmp_path, monkeypatch):
    """That of the settings."""
    monkeypatch.setenv("DEEPSEEK_NB_DATA_DIR", str(tmp_path / "data"))
    memory().cache(answer)("a")
    assert (tmp_path / "data" / STORE_FILE).exists()


# ---------------------------------------------------------------- edited functions


SOURCE = '''
CALLS = []

{decorator}
def paid(x):
    """{doc}"""
    {comment}
    CALLS.append(x)
    return {{"answer": x{change}}}

def outer():
    def paid(x):
        return "inner"
    return paid
'''


def written(folder, **parts):
    """The module ``edited``, written anew and imported."""
    words = {"comment": "# one", "doc": "Doc.", "change": "", "decorator": "", **parts}
    (folder / "edited.py").write_text(SOURCE.format(**words))
    sys.modules.pop("edited", None)
    importlib.invalidate_caches()
    spec = importlib.util.spec_from_file_location("edited", folder / "edited.py")
    module = sys.modules["edited"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    import linecache

    linecache.checkcache()
    return module


def test_an_edited_comment_drops_nothing(tmp_path):
    """Comment, docstring and decorator are no part of what was paid for: every result is still a hit."""
    first = written(tmp_path)
    cached = memory(tmp_path).cache(first.paid)
    for n in range(5):
        cached(n)
    for parts in (
        {"comment": "# another\n    # line"},
        {"doc": "Other."},
        {"decorator": "# d\n@(lambda f: f)"},
    ):
        edited = written(tmp_path, **parts)
        cached = memory(tmp_path).cache(edited.paid)
        assert [cached(n) for n in range(5)] == [{"answer": n} for n in range(5)]
        assert edited.CALLS == []


def test_edited_code_keeps_its_results_and_says_so_once(tmp_path):
    """They were paid; clear() drops them. A function of the same name elsewhere is another function."""
    cached = memory(tmp_path).cache(written(tmp_path).paid)
    for n in range(5):
        cached(n)
    edited = written(tmp_path, change=" + 1")
    cached = memory(tmp_path).cache(edited.paid)
    with pytest.warns(SourceChanged, match=r"clear\(\)") as caught:
        assert cached(0) == {"answer": 0}
    assert len(caught) == 1
    assert cached(1) == {"answer": 1}
    assert memory(tmp_path).cache(edited.paid)(2) == {"answer": 2}
    assert memory(tmp_path).cache(edited.outer())(0) == "inner"
    cached.clear(warn=False)
    assert cached(0) == {"answer": 1}
    assert edited.CALLS == [0]


def test_functions_without_a_name_are_refused(tmp_path):
    """Two lambdas would share their results."""
    with pytest.raises(NotStorable, match="lambda"):
        memory(tmp_path).cache(lambda x: x)


# ---------------------------------------------------------------- values


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.sampled_from(["$tuple", "$bytes", "$dict", "$x"]), inner)
    ),
    max_leaves=15,
)


@given(value=VALUES)
def test_values_come_back_as_they_were(value):
    """Types too: tuples, bytes, nan, keys that look like our own marks."""
    back = _decoded(json.loads(json.dumps(_encoded(value))))
    assert repr(back) == repr(value)


@pytest.mark.parametrize("wrong", [{1: "a"}, {1, 2}, object(), 1j, datetime.date(2026, 1, 1), [print]])
def test_what_json_cannot_hold_is_refused(tmp_path, wrong):
    """With the value on the error, since it was paid for, and with what can be kept."""

    def make():
        return wrong

    with pytest.raises(NotStorable, match=r"cannot be kept.*None, bool, int") as caught:
        memory(tmp_path).cache(make)()
    assert caught.value.value is wrong
    assert isinstance(caught.value, TypeError)


def test_frames(tmp_path):
    """With pyarrow they come back equal; without it they are refused; never pickled."""
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", None]}, index=pd.Index([5, 7], name="i"))

    def make(kind):
        return {"frame": frame, "series": frame["a"], "index": frame.index}[kind]

    cached = memory(tmp_path).cache(make)
    with pytest.raises(NotStorable):
        cached("index")
    if importlib.util.find_spec("pyarrow") is None:
        with pytest.raises(NotStorable, match="pip install pyarrow"):
            cached("frame")
    else:
        for _ in range(2):
            pd.testing.assert_frame_equal(cached("frame"), frame)
            pd.testing.assert_series_equal(cached("series"), frame["a"])


# ---------------------------------------------------------------- damage and other processes


def test_a_changed_result_is_computed_again(cache, tmp_path, caplog):
    """One warning, no wrong value, no argument in the logs."""
    cached = cache.cache(answer)
    cached("SECRET")
    raw(tmp_path, 'UPDATE joblib_items SET value=\'{"text":"forged"}\'')
    with pytest.warns(StoreDamaged):
        assert cached("SECRET")["text"] == "answer to SECRET"
    assert CALLS == ["SECRET", "SECRET"]
    assert "SECRET" not in caplog.text


def test_a_planted_pickle_is_never_opened(cache, tmp_path):
    """Neither as a row nor where joblib's own store would look."""
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return trap.touch, ()

    cached = cache.cache(answer)
    cached("a")
    planted = pickle.dumps(Trap())
    raw(tmp_path, "UPDATE joblib_items SET value=?", (planted,))
    folder = tmp_path / "joblib" / cached.func_id / cached._get_args_id("a")
    folder.mkdir(parents=True)
    (folder / "output.pkl").write_bytes(planted)
    with pytest.warns(StoreDamaged):
        cached("a")
    assert CALLS == ["a", "a"]
    assert not trap.exists()


def test_a_full_disk_gives_the_result_and_a_warning(tmp_path):
    """It was paid for, so the caller gets it."""
    with small_disk(tmp_path / "small") as folder:

        def make():
            return "x" * 2_000_000

        with pytest.warns(NotSaved, match="disk is full"):
            assert len(memory(folder).cache(make)()) == 2_000_000


def test_workers_use_the_same_file(cache, tmp_path):
    """The Memory can be pickled and used in another process."""
    cached = cache.cache(answer)
    cached("a")
    assert pickle.loads(pickle.dumps(cached))("a") == cached("a")
    backend = pickle.loads(pickle.dumps(cache.store_backend))
    assert isinstance(backend, DeepSeekStoreBackend)
    assert str(tmp_path) in repr(backend)
    backend.close()
    out = run_code(
        """
        import sys
        from deepseek_nb.adapters.joblib_backend import memory
        @memory(sys.argv[1]).cache
        def square(x):
            print("called")
            return x * x
        assert square(3) == square(3) == 9
        """,
        tmp_path,
    )
    assert out == "called\n"


def test_the_store_does_not_import_joblib():
    """Its 170 ms are paid by those who use it."""
    run_code(
        """
        import sys, deepseek_nb.adapters.store, deepseek_nb.adapters.journal
        assert "joblib" not in sys.modules
        """
    )
