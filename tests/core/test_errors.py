"""The error tree: whose fault, retryable, charged, what to do; five lines at most; picklable."""

from __future__ import annotations

import inspect
import pickle

import pytest

from deepseek_nb.core import errors
from deepseek_nb.core.errors import DeepSeekError, Disposition, Theirs, Yours

CLASSES = [c for c in vars(errors).values() if inspect.isclass(c) and issubclass(c, DeepSeekError)]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_every_class_stands_in_the_tree_and_says_what_it_is(kind):
    """Drawn in the module's docstring, documented, public, with fault, charge and disposition."""
    assert kind.__name__ in errors.__doc__
    assert kind.__doc__
    assert kind.__name__ in errors.__all__
    assert kind.fault in ("yours", "theirs")
    assert kind.charged in ("no", "yes", "unknown")
    assert isinstance(kind.disposition, Disposition)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda c: c.__name__)
def test_every_class_can_be_pickled_with_what_it_carries(kind):
    """Across processes the words, the hint and the details stay."""
    error = kind("what happened.", hint="what to do", status=503, body="b")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert (str(again), again.status, again.body) == ("what happened. what to do", 503, "b")


def test_what_is_yours_is_not_retried_and_what_is_theirs_is():
    """The first question the type answers is whose fault it is."""
    assert not any(c.retryable for c in CLASSES if issubclass(c, Yours))
    assert all(c.retryable for c in CLASSES if issubclass(c, Theirs))


@pytest.mark.parametrize("length", [0, 10, 300, 5000])
def test_a_notebook_shows_at_most_five_lines(length):
    """However long the words: five lines, none wider than the page."""
    lines = errors.Busy("word " * length, hint="hint " * length)._render_traceback_()
    assert 1 <= len(lines) <= 5
    assert all(len(line) <= 88 for line in lines)
    assert (length > 60) == ("…" in "".join(lines)), "what is left out is marked"
    assert lines[0].startswith("Busy")
