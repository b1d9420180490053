"""Replayed answers: the recorded one, after the recorded time, and beside the answer it says so."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import pairwise
from typing import Literal

import pandas as pd
import pydantic
import pytest
from raw_client import ask

import deepseek_nb as ds
from deepseek_nb.core.chat import REPLAYED
from deepseek_nb.sandbox import Completion, FaultScript, Replay, RequestLog, Sandbox

LATE = "the payment came late\nand a fee was charged"
TABLE = pd.DataFrame(
    {
        "text": [
            "my card never arrived",
            LATE,
            "fee",
            "a fee nobody told me of: 100% wrong",
            'they said "no"',
        ],
        "answer": ["card", "payment", "other", "fee", "other"],
        "wait_s": [0.2, 0.4, 0.1, 0.3, 0.0],
    }
)
FORMS = {
    "keyed": {"layout": "keyed"},
    "keyed, by function": {"layout": "keyed", "structured": "tool"},
    "keyed, by /responses": {"layout": "keyed", "structured": "responses"},
    "compact": {"layout": "compact"},
    "compact, by number": {"layout": "compact", "answers": "numbers"},
    "inline": {"layout": "inline"},
    "several rows in a request": {"rows_per_request": 3},
}


class Topic(pydantic.BaseModel):
    """What a ticket is about."""

    topic: Literal["card", "payment", "fee", "other"]


def rows(table: pd.DataFrame = TABLE):
    return table.itertuples(index=False, name=None)


def replay(**options) -> Replay:
    return Replay(rows(), **{"speed": 10, "recording": "five tickets", **options})


@pytest.fixture
def client(make, tmp_path):
    """A client of a server that replays."""
    server = make(engine=replay(), count="estimate")
    with ds.Client(base_url=server.base_url, api_key=server.api_key, data_dir=tmp_path) as asking:
        asking.server = server
        yield asking


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_recorded_answer_comes_after_the_recorded_time(make, stream):
    """To the letter, no sooner; a streamed one begins when a whole one would be there."""
    server = make(engine=replay(speed=0.5))
    for text, answer, wait_s in rows():
        began_s = time.monotonic()
        heard = ask(server, text, stream=stream)
        took_s = time.monotonic() - began_s
        assert heard.text == answer
        assert took_s >= wait_s / 0.5
    waits_s = [record.ended_s - record.arrived_s for record in server.log]
    assert waits_s[1] > waits_s[0] > waits_s[4], "each row has its own"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_it_says_that_it_is_replayed_and_of_what(make, tmp_path, stream):
    """In the answer's fingerprint, a header and the log; the text is clean. A simulated one has none."""
    server = make(engine=replay(unknown="simulate"), log_path=tmp_path / "log")
    replayed, simulated = ask(server, LATE, stream=stream), ask(server, "Where is my cat?", stream=stream)
    assert replayed.headers["x-deepseek-nb-replay"] == "five tickets"
    assert "x-deepseek-nb-replay" not in simulated.headers
    assert replayed.headers["x-deepseek-nb"] == simulated.headers["x-deepseek-nb"] == "simulation"
    first, second = (heard.events[0] if stream else heard.json for heard in (replayed, simulated))
    assert first["system_fingerprint"] == "replayed: five tickets"
    assert not second["system_fingerprint"].startswith(REPLAYED)
    assert replayed.text == "payment"
    assert simulated.text == "[simulated] Where is my cat?"
    assert [record.replayed for record in server.log] == ["five tickets", None]
    assert [record.replayed for record in RequestLog.read(tmp_path / "log")] == ["five tickets", None]


def test_a_request_without_a_recording_is_refused_and_costs_nothing(make):
    server = make(engine=replay())
    heard = ask(server, "Where is my cat?")
    assert heard.status == 400
    assert "none was recorded for this request" in heard.message
    assert server.log.cost_usd == 0
    assert ask(server, "card").status == 400, "a part of a recorded text is not that text"
    assert server.in_flight == 0


def test_another_engine_may_answer_what_was_not_recorded(make):
    server = make(engine=replay(unknown=lambda request: Completion("I would not know.", wait_s=0.0)))
    assert ask(server, "Where is my cat?").text == "I would not know."
    assert ask(server, "fee").text == "other"


def test_a_text_is_found_in_what_stands_around_it(make):
    """The longest counts, blanks do not, and a piece of a word is no text; the last message goes first."""
    server = make(engine=replay(speed=1000))
    told = {
        "Sort this: the  payment came late\n\n and a fee was charged. One word!": "payment",
        "A fee nobody told me of: 100% wrong": 'none: "A" is not "a", but there is a fee',
        "(a fee nobody told me of: 100% wrong)": "fee",
        "Coffee is late": None,
    }
    answers = [ask(server, text) for text in told]
    assert [heard.status for heard in answers] == [200, 200, 200, 400]
    assert [heard.text for heard in answers[:3]] == ["payment", "other", "fee"]
    turns = [("user", LATE), ("assistant", "Hm?"), ("user", "fee"), ("assistant", "{"), ("user", "As JSON!")]
    heard = ask(server, messages=[{"role": role, "content": text} for role, text in turns])
    assert heard.text == "other"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_every_form_of_row_gets_its_own_answer(client, form):
    """A recorded word stands in the field that is asked for, as JSON or by number; nothing is repaired."""
    out = ds.apply(TABLE, "Sort: {{text}}", schema=Topic, client=client, progress=False, **form)
    assert out["status"].tolist() == ["done"] * 5, out["error"].tolist()
    assert out["topic"].tolist() == TABLE["answer"].tolist()
    answered = [record for record in client.server.log if record.status == 200]
    assert len(answered) == 5
    assert {record.replayed for record in answered} == {"five tickets"}


def test_rows_of_several_fields_and_answers_of_several(make, tmp_path):
    """An answer that is a mapping is sent as JSON; a number is a number where one is asked for."""
    table = [
        ("one ticket", {"topic": "fee", "urgency": 4}, 0.0),
        ("a two-lined\nticket", '{"topic":"card","urgency":null}', 0.0),
    ]
    server = make(engine=Replay([*table, ("how urgent", "3", 0.0)]))
    frame = pd.DataFrame({"n": [7, 8], "text": [text for text, *_ in table]})
    with ds.Client(base_url=server.base_url, api_key=server.api_key, data_dir=tmp_path) as client:
        for layout in ("keyed", "compact", "inline"):
            out = ds.apply(
                frame,
                "Sort {{n}}: {{text}}",
                schema={"topic": str, "urgency": int | None},
                client=client,
                progress=False,
                layout=layout,
                job=layout,
            )
            assert out["topic"].tolist() == ["fee", "card"], layout
        assert client.ask("how urgent", schema={"urgency": int}).value.urgency == 3
        assert json.loads(client.ask("how urgent", schema={"why": str}).text) == {"why": "3"}


def test_a_frame_tells_what_was_recorded_for_nothing(client):
    """The row without a recording fails with the reason, at once and for nothing; the others are done."""
    frame = pd.DataFrame({"text": [LATE, "Where is my cat?"]})
    out = ds.apply(frame, "Sort: {{text}}", schema=Topic, client=client, progress=False)
    assert out["status"].tolist() == ["done", "failed"]
    assert "none was recorded for this request" in out["error"][1]
    assert len(client.server.log) == 2


def test_faults_happen_to_replayed_answers_too(make):
    server = make(engine=replay(), faults=FaultScript.of("busy_503", "cut_eof", None))
    heard = [ask(server, LATE) for _ in range(3)]
    assert [each.status for each in heard] == [503, 200, 200]
    assert heard[2].text == "payment"
    assert heard[1].raw != heard[2].raw
    assert [record.usable for record in server.log] == [False, False, True]


def test_a_recorded_wait_holds_its_place(make):
    """With one slot the second answer begins when the first has ended."""
    with (
        Sandbox(engine=replay(speed=2), slots=1, queue=4) as server,
        ds.Client(base_url=server.base_url, api_key=server.api_key, cache=False) as client,
    ):
        frame = TABLE.iloc[:4]
        out = ds.apply(frame, "Sort: {{text}}", schema=Topic, client=client, progress=False, priority=1)
        assert (out["status"] == "done").all()
        answered = sorted((r for r in server.log if r.status == 200), key=lambda record: record.ended_s)
        least_s = [a.ended_s - b.ended_s for b, a in pairwise(answered)]
        assert min(least_s) >= 0.1 / 2 - 0.001


def test_the_first_of_equal_texts_counts_and_a_table_may_be_large(make):
    """The time to find a text does not grow with the table."""
    many = [(f"ticket number {n} of a long, long table", f"answer {n}", 0.0) for n in range(20_000)]
    engine = Replay([*many, (many[5][0], "another", 0.0)])
    assert len(engine) == 20_000
    server = make(engine=engine, count="estimate")
    assert ask(server, f"Sort this, please. {many[5][0]}").text == "answer 5"
    assert ask(server, "word " * 4000).status == 400


@pytest.mark.parametrize(
    ("table", "options", "says"),
    [
        ([], {}, "no rows"),
        ([("a", "b")], {}, "Row 1"),
        ([("a", "b", 1), ("a", "b", "soon")], {}, "Row 2"),
        ([("a", "b", -1)], {}, "waits -1.0 seconds"),
        ([("a", "b", float("nan"))], {}, "waits nan seconds"),
        ([("a", float("nan"), 1)], {}, "Row 1 has no answer"),
        ([(" ", "b", 1)], {}, "Row 1 has no text"),
        ([("a", "b", 1)], {"speed": 0}, "speed is 0"),
        ([("a", "b", 1)], {"unknown": "guess"}, "'refuse', 'simulate' or an engine"),
        ([("a", "b", 1)], {"recording": 'a "b"\r\n'}, "printable ASCII"),
    ],
)
def test_what_cannot_be_replayed_is_said_at_once(table, options, says):
    with pytest.raises(ValueError, match=says):
        Replay(table, **options)


def test_a_file_is_replayed_from_the_shell(tmp_path):
    """``deepseek-nb sandbox --replay``: it says so where it starts, and answers a job of another process."""
    file = tmp_path / "tickets.csv"
    TABLE.rename(columns={"text": "narrative", "wait_s": "seconds"}).to_csv(file, index=False)
    command = [sys.executable, "-m", "deepseek_nb.cli", "sandbox", "--replay", str(file), "--speed", "10"]
    command += ["--replay-columns", "narrative,answer,seconds", "--api-key", "key-of-the-test"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            base_url = server.stdout.readline().split()[6]
            server.stdout.readline()
            assert "REPLAYS recorded answers; texts in tickets.csv: 5" in server.stdout.readline()
            with ds.Client(base_url=base_url, api_key="key-of-the-test", data_dir=tmp_path) as client:
                answer = client.ask(LATE)
        finally:
            server.terminate()
    assert (answer.text, answer.system_fingerprint) == ("payment", "replayed: tickets.csv")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--replay", "nowhere.csv"], "cannot be opened"),
        (["--replay", __file__], "has no column 'text'"),
        (["--speed", "3"], "go with --replay"),
    ],
)
def test_the_shell_says_what_is_wrong_with_a_recording(capsys, words, says):
    from deepseek_nb.cli import main

    assert main(["sandbox", *words]) == 2
    assert says in capsys.readouterr().err
