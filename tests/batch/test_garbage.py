"""The collector is called less often while jobs run, and as before when the last has ended."""

from __future__ import annotations

import gc

import pytest

from deepseek_nb.batch.garbage import GARBAGE_OBJECTS, collected_less


@pytest.fixture(autouse=True)
def as_before():
    before = gc.get_threshold()
    gc.set_threshold(700, 11, 12)
    yield
    gc.set_threshold(*before)


def test_until_the_last_job_has_ended():
    first, second = collected_less(), collected_less()
    first.__enter__()
    second.__enter__()
    assert gc.get_threshold() == (GARBAGE_OBJECTS, 11, 12)
    first.__exit__(None, None, None)
    assert gc.get_threshold() == (GARBAGE_OBJECTS, 11, 12)
    second.__exit__(None, None, None)
    assert gc.get_threshold() == (700, 11, 12)


def test_also_where_a_job_fails():
    with pytest.raises(RuntimeError), collected_less():
        raise RuntimeError
    assert gc.get_threshold() == (700, 11, 12)


@pytest.mark.parametrize("own", [0, GARBAGE_OBJECTS + 1])
def test_a_setting_that_collects_less_still_is_left(own):
    gc.set_threshold(own, 11, 12)
    with collected_less():
        assert gc.get_threshold() == (own, 11, 12)
    assert gc.get_threshold() == (own, 11, 12)


def test_a_setting_changed_meanwhile_stays():
    with collected_less():
        gc.set_threshold(5000, 11, 12)
    assert gc.get_threshold() == (5000, 11, 12)


def test_a_job_is_run_so(client, frame):
    job = frame.deepseek.submit("Which? {{text}}", client=client)
    seen = set()
    while not job.done:
        seen.add(gc.get_threshold()[0])
    job.result(timeout_s=10)
    assert GARBAGE_OBJECTS in seen
    assert gc.get_threshold() == (700, 11, 12)
