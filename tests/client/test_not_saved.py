"""A disk that takes no more: what was paid for is handed over, the user is told, a job stops sending."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from deepseek_nb.sandbox import Sandbox


@pytest.fixture
def on_a_full_disk(tmp_path):
    """Run code in a process whose files may not grow past 200 kB; gives what it printed."""

    def run(code: str, server: Sandbox) -> str:
        script = f"""
            import resource, signal, warnings
            import pandas as pd
            import deepseek_nb as ds
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            client = ds.Client(
                base_url={server.base_url!r},
                api_key={server.api_key!r},
                data_dir={str(tmp_path)!r},
                thinking=False,
                concurrency_max=4,
            )
            resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(script) + textwrap.dedent(code)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_an_answer_that_cannot_be_kept_is_still_an_answer(on_a_full_disk):
    """Every paid answer comes back, with one warning that says why it is in memory only."""
    with Sandbox() as server:
        printed = on_a_full_disk(
            """
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                questions = [f"Return exactly: {n} " + "x" * 3000 for n in range(80)]
                answers = [client.ask(question).text for question in questions]
            whole = [answer in question for answer, question in zip(answers, questions)]
            print(len(answers), all(whole), [w.category.__name__ for w in heard].count("NotSaved"))
            """,
            server,
        )
    assert printed.split() == ["80", "True", "1"]


def test_a_job_that_cannot_write_stops_sending(on_a_full_disk):
    """StoreFailed with the frame so far: far fewer requests than rows, and no traceback of SQLite."""
    with Sandbox() as server:
        printed = on_a_full_disk(
            """
            warnings.simplefilter("ignore")
            frame = pd.DataFrame({"text": [f"{n} " + "x" * 300 for n in range(400)]})
            try:
                ds.apply(frame, "Return exactly: {{text}}", client=client, progress=False, max_tokens=2000)
            except ds.errors.StoreFailed as error:
                print("stopped", error.hint != "")
            """,
            server,
        )
        assert printed.split() == ["stopped", "True"]
        assert len(server.log) < 350
