"""The spending of an account on the disk: shared by processes, sound after kills, private."""

from __future__ import annotations

import stat

import pytest
from children import run_code, start_code

from deepseek_nb.adapters.spending import Spending
from deepseek_nb.core.accounts import Drawn
from deepseek_nb.core.errors import StoreFailed


@pytest.fixture
def file(tmp_path):
    return tmp_path / "spending.db"


def test_nothing_is_on_the_disk_before_the_first_use(file):
    spending = Spending(file, "a")
    assert not file.exists()
    assert spending.draw("day", 1.0, 0.5, 0.1) == Drawn(0.5, 0.0, 0.0, 0.0)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_what_is_set_aside_is_not_there_for_others(file):
    one, other = Spending(file, "a"), Spending(file, "a")
    assert one.draw("day", 1.0, 0.6, 0.1).usd == 0.6
    assert other.draw("day", 1.0, 0.6, 0.5) == Drawn(0.0, 0.0, 0.0, 0.6)
    assert one.book("day", 0.1, 0.2, rest=False)
    told = other.draw("day", 1.0, 0.39, 0.39)
    assert (told.usd, told.spent_usd, told.unknown_usd) == (0.39, 0.1, 0.2)
    assert told.elsewhere_usd == pytest.approx(0.3)
    assert one.book("day", 0.0, 0.0, rest=True)
    assert other.draw("day", 1.0, 0.3, 0.3).usd == 0.3
    assert one.spent("day") == (0.1, 0.2)
    assert one.spent("another day") == (0.0, 0.0)
    assert Spending(file, "b").spent("day") == (0.0, 0.0)


def test_what_a_killed_process_had_set_aside_may_have_been_spent(file):
    """Counted as unknown, once, at the next look; never given out again."""
    run_code(
        """
        import os, sys
        from deepseek_nb.adapters.spending import Spending
        if os.fork() == 0:
            spending = Spending(sys.argv[1], "a")
            spending.draw("day", 1.0, 0.5, 0.1)
            spending.book("day", 0.2, 0.0, rest=False)
            os.kill(os.getpid(), 9)
        os.wait()
        """,
        file,
    )
    told = Spending(file, "a").draw("day", 1.0, 0.6, 0.6)
    assert (told.usd, told.spent_usd, told.elsewhere_usd) == (0.0, 0.2, 0.0)
    assert told.unknown_usd == pytest.approx(0.3)
    assert sum(Spending(file, "a").spent("day")) == pytest.approx(0.5)


def test_a_process_that_stopped_without_being_killed_keeps_its_share_while_it_lives(file):
    child = start_code(
        """
        import sys
        from deepseek_nb.adapters.spending import Spending
        spending = Spending(sys.argv[1], "a")
        print(spending.draw("day", 1.0, 0.7, 0.1).usd, flush=True)
        sys.stdin.read()
        """,
        file,
    )
    assert child.stdout.readline() == "0.7\n"
    assert Spending(file, "a").draw("day", 1.0, 0.5, 0.5) == Drawn(0.0, 0.0, 0.0, 0.7)
    child.kill()
    child.communicate()
    assert Spending(file, "a").draw("day", 1.0, 0.5, 0.5) == Drawn(0.0, 0.0, 0.7, 0.0)


def test_processes_that_draw_at_once_never_draw_more_than_there_is(file):
    children = [
        start_code(
            """
            import sys
            from deepseek_nb.adapters.spending import Spending
            spending, total = Spending(sys.argv[1], "a"), 0.0
            while (drawn := spending.draw("day", 1.0, 0.013, 0.013).usd):
                spending.book("day", drawn, 0.0, rest=True)
                total += drawn
            print(total)
            """,
            file,
        )
        for _ in range(3)
    ]
    drawn = [float(child.communicate(timeout=60)[0]) for child in children]
    assert 1.0 - 0.013 <= sum(drawn) <= 1.0 + 1e-9
    assert Spending(file, "a").spent("day")[0] == pytest.approx(sum(drawn))


def test_a_warning_is_given_once(file):
    one, other = Spending(file, "a"), Spending(file, "a")
    assert one.first_to_warn("day", 1.0)
    assert not other.first_to_warn("day", 1.0)
    assert other.first_to_warn("day", 2.0)
    assert other.first_to_warn("next day", 1.0)


def test_where_the_file_cannot_be_used_nothing_is_drawn_and_no_booking_is_taken_for_done(tmp_path):
    """What cannot be counted is not spent; what was spent stays set aside."""
    (tmp_path / "spending.db").mkdir()
    spending = Spending(tmp_path / "spending.db", "a")
    with pytest.raises(StoreFailed):
        spending.draw("day", 1.0, 0.5, 0.1)
    assert not spending.book("day", 0.1, 0.0, rest=True)
    assert spending.first_to_warn("day", 1.0)


def test_it_is_opened_again_after_it_was_closed(file):
    spending = Spending(file, "a")
    spending.book("day", 0.1, 0.0, rest=True)
    spending.close()
    assert spending.spent("day") == (0.1, 0.0)
    spending.close()
