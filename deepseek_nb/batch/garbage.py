"""Python's garbage collector, called less often while jobs are made ready and run."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["GARBAGE_OBJECTS", "collected_less"]

GARBAGE_OBJECTS = 20_000
"""New objects before a collection while a job runs. Python's 700 are a few rows in flight, none of them
garbage: a tenth of a job's processor time went into looking at them, and a fifth of reading the
vocabulary. So many weigh a few megabytes."""

_lock = threading.Lock()
_jobs = 0
_before = 0


@contextmanager
def collected_less() -> Iterator[None]:
    """Collect after ``GARBAGE_OBJECTS`` new objects instead of what is set, until the last job has ended.

    A higher setting, and one that is changed meanwhile, is left as it is.
    """
    global _jobs, _before
    with _lock:
        _jobs += 1
        if _jobs == 1:
            _before, *older = gc.get_threshold()
            if 0 < _before < GARBAGE_OBJECTS:  # 0: it is switched off
                gc.set_threshold(GARBAGE_OBJECTS, *older)
    try:
        yield
    finally:
        with _lock:
            _jobs -= 1
            now, *older = gc.get_threshold()
            if _jobs == 0 and now == GARBAGE_OBJECTS:
                gc.set_threshold(_before, *older)
