"""The magics in a real kernel: what is streamed, bound, shown, raised, saved, and what is left alone."""

from __future__ import annotations

import pytest
from kernels import CANARY_KEY, eventually, kernel_environment, running_kernel

from deepseek_nb.sandbox import Fault, FaultScript

HEAVY = ("pandas", "ipywidgets", "httpx", "aiohttp", "joblib", "pydantic")


def test_loading_brings_nothing_heavy_along_and_leaves_the_shell_alone(sandbox, folder):
    """No pandas, HTTP library or pydantic; hooks, filters, environment and handlers stay as they were."""
    look = """
import os, sys, warnings
shell = get_ipython()
def look():
    return [repr(x) for x in (sys.excepthook, sys.displayhook, shell.custom_exceptions, shell.CustomTB,
        shell.showtraceback, shell.set_next_input, warnings.filters, sorted(os.environ.items()),
        shell.display_formatter.formatters, sorted(shell.user_ns), shell.ast_transformers,
        shell.input_transformers_post)]
"""
    with running_kernel(kernel_environment(sandbox, folder), folder) as kernel:
        kernel.run(look)
        kernel.run("before = after = None\nbefore = look(); modules = set(sys.modules)")
        assert kernel.run("%load_ext deepseek_nb").messages[1:] == []
        assert kernel.value(f"[name for name in {HEAVY!r} if name in sys.modules]") == []
        kernel.run("after = look()")
        assert kernel.value("[b for a, b in zip(before, after) if a != b and '_i1' not in a]") == []
    assert len(sandbox.log) == 0


def test_an_answer_is_streamed_into_one_display(kernel, sandbox):
    """One display_data, then updates of the same id, each longer than the one before, the last whole."""
    cell = kernel.run("%%deepseek --no-thinking\nlong 600")
    (record,) = sandbox.log
    text = " ".join(f"word{number}" for number in range(600))
    assert cell.status == "ok"
    assert set(cell.kinds) == {"execute_input", "display_data", "update_display_data"}
    assert cell.kinds.count("display_data") == 1
    assert len({message["content"]["transient"]["display_id"] for message in cell.shown}) == 1
    drafts = cell.texts()
    assert len(drafts) > 4
    assert [len(draft) for draft in drafts] == sorted(len(draft) for draft in drafts)
    assert drafts[-1] == cell.texts("text/plain")[-1] == text
    assert cell.facts["cost_usd"] == pytest.approx(record.cost_usd)
    assert (cell.facts["finish_reason"], cell.facts["cached"]) == ("stop", False)
    assert cell.facts["completion_tokens"] == record.completion_tokens
    assert cell.display_bytes <= 40 * len(text)


def test_the_same_cell_again_is_free_and_says_so(kernel, sandbox):
    """The second run comes from the store."""
    kernel.run("%%deepseek\nsay it once")
    again = kernel.run("%%deepseek\nsay it once")
    assert len(sandbox.log) == 1
    assert again.facts["cached"] is True
    assert again.texts()[-1] == "You said: say it once"


def test_thinking_is_a_line_and_no_part_of_the_answer(kernel):
    """While only reasoning comes, one line says so."""
    cell = kernel.run("%%deepseek --thinking\nsay thoughts")
    lines = cell.texts("text/plain")
    assert lines[0].startswith("thinking, ")
    assert cell.texts()[-1] == "You said: say thoughts"
    assert not any("Let me think" in text for text in lines + cell.texts())


def test_waiting_for_a_busy_server_is_visible(kernel, sandbox):
    """503s: why it waits, which try, how long, and what it cost so far."""
    sandbox.faults = FaultScript.of("busy_503", "busy_503")
    cell = kernel.run("%%deepseek\nsay busy")
    waiting = [text for text in cell.texts("text/plain") if text.startswith("busy (503), try ")]
    assert waiting
    assert "next in " in waiting[0]
    assert waiting[0].endswith(" left of 10 min, nothing charged")
    assert cell.texts()[-1] == "You said: say busy"


def test_a_broken_try_is_taken_off_the_screen(kernel, sandbox):
    """What a broken stream had shown is not in front of the answer."""
    # three times, since a wait drawn by chance may be too short to be shown
    sandbox.faults = FaultScript.of(*[Fault("cut_eof", after_tokens=3)] * 3)
    cell = kernel.run("%%deepseek\nsay it in one piece, please, whatever happens")
    assert cell.texts()[-1] == "You said: say it in one piece, please, whatever happens"
    assert any("perhaps charged" in text for text in cell.texts("text/plain"))


def test_an_interrupt_keeps_the_text_and_ends_the_request(kernel, sandbox):
    """Idle within a second, one line, the partial text kept on screen and in _deepseek, nothing bound."""
    cell = kernel.run(
        "%%deepseek --into never\nlong 20000", interrupt_when=lambda cell: len(cell.texts()) >= 3
    )
    assert cell.status == "error"
    assert cell.interrupt_to_idle_s < 1.0
    assert cell.error["ename"] == "Interrupted"
    assert len(cell.error["traceback"]) == 1
    kept = kernel.value("[_deepseek.text, _deepseek.finish_reason]")
    assert kept == [cell.texts()[-1], "interrupted"]
    assert kept[0].startswith("word0 word1")
    assert kernel.value("'never' in globals()") is False
    assert eventually(lambda: len(sandbox.log) == 1)
    assert sandbox.log[0].aborted
    assert kernel.run("%%deepseek\nsay still here").status == "ok"


def test_an_interrupt_before_any_text_says_so(kernel, sandbox):
    """A server that hangs: the cell still stops at once, and the last answer stays what it was."""
    kernel.run("%deepseek say first")
    sandbox.faults = FaultScript.of("hang")
    cell = kernel.run("%%deepseek\nsay nothing", interrupt_when=lambda cell: bool(cell.shown))
    assert cell.interrupt_to_idle_s < 1.0
    assert cell.error["evalue"] == "The request was cancelled before any text came."
    assert cell.texts("text/plain")[-1] == "interrupted"
    assert kernel.value("_deepseek.text") == "You said: say first"


def test_a_failed_call_fails_the_cell_in_five_lines(kernel, sandbox):
    """Own error class, its words intact, nothing bound, and nothing on screen that looks like an answer."""
    sandbox.faults = FaultScript.of("content_risk")
    cell = kernel.run("%%deepseek --into refused\nsay something risky")
    assert cell.status == "error"
    assert cell.error["ename"] == "ContentRefused"
    assert "Content Exists Risk" in cell.error["evalue"]
    assert len(cell.error["traceback"]) <= 5
    assert kernel.value("'refused' in globals()") is False
    assert cell.texts() == []


def test_names_are_bound_on_success(kernel):
    """--into, NAME <<, an assignment, and _deepseek."""
    kernel.run("%%deepseek --into one\nsay one")
    kernel.run("%%deepseek two <<\nsay two")
    kernel.run("three = %deepseek say three, don't I?")
    kernel.run("%deepseek four << say four")
    assert kernel.value("[one, two, three, four, _deepseek.text]") == [
        "You said: say one",
        "You said: say two",
        "You said: say three, don't I?",
        "You said: say four",
        "You said: say four",
    ]


def test_a_bare_line_shows_its_answer_once(kernel):
    """No Out[n] beside the display; the variable shows it again in a later cell."""
    cell = kernel.run("%deepseek say once")
    assert cell.status == "ok", cell.error
    assert "execute_result" not in cell.kinds
    assert kernel.value("_") == "You said: say once"
    kernel.run("kept = %deepseek say once")
    assert kernel.run("kept").texts() == ["You said: say once"]


def test_a_question_may_end_with_a_question_mark(kernel, sandbox):
    """IPython would look for help on the last word; %deepseek? still is help; other text is left alone."""
    assert kernel.run("%deepseek why is the sky blue?").texts()[-1] == "You said: why is the sky blue?"
    kernel.run("if True:\n    five = %deepseek say what's this? and that?\n")
    assert kernel.value("five") == "You said: say what's this? and that?"
    asked = len(sandbox.log)
    helped = kernel.run("%deepseek?").reply["content"]["payload"]
    assert "--into NAME" in helped[0]["data"]["text/plain"]
    kernel.run("text = '''\n%deepseek why?\n'''")
    assert kernel.value("text") == "\n%deepseek why?\n"
    printed = kernel.run("%%python\nprint('''\n%deepseek why?\n''')").messages
    texts = [message["content"]["text"] for message in printed if message["msg_type"] == "stream"]
    assert "".join(texts) == "\n%deepseek why?\n\n"
    assert len(sandbox.log) == asked


def test_a_schema_gives_a_checked_object(kernel):
    """The name is bound to the model's instance; the output shows the JSON."""
    kernel.run("import pydantic\nclass Risk(pydantic.BaseModel):\n    level: int\n    why: str")
    cell = kernel.run("%%deepseek --schema Risk --into risk\nRate it.")
    assert kernel.value("[type(risk).__name__, risk.level]") == ["Risk", 3]
    assert cell.texts()[-1] == '```json\n{\n  "level": 3,\n  "why": "because"\n}\n```'


def test_an_undefined_name_never_reaches_the_network(kernel, sandbox):
    """The error names the near one; the server saw nothing."""
    kernel.run("customer = 'Ann'")
    cell = kernel.run("%%deepseek\nGreet {{custmer}}.")
    assert cell.error["ename"] == "TemplateError"
    assert "'customer'" in cell.error["evalue"]
    assert len(cell.error["traceback"]) <= 5
    assert len(sandbox.log) == 0


def test_single_braces_are_left_alone(kernel):
    """JSON and f-string lookalikes go as they are; {{names}} are filled, values not expanded again."""
    kernel.run("row = '{{secret}} $HOME {x}'; secret = 'no'")
    cell = kernel.run('%%deepseek\nsay {"a": 1} {b} $row {{ row }}')
    assert cell.texts()[-1] == 'You said: say {"a": 1} {b} $row {{secret}} $HOME {x}'


def test_local_names_fill_a_line_inside_a_function(kernel):
    """The local scope goes before the notebook's names."""
    kernel.run(
        "colour = 'red'\n"
        "def ask(colour):\n"
        "    return get_ipython().run_line_magic('deepseek', 'say {{colour}}')"
    )
    assert kernel.value("ask('blue')[-4:]") == "blue"


def test_local_names_fill_a_cell_inside_a_function(kernel):
    """The function's own, also where the notebook has one of that name."""
    cell = kernel.run(
        "city = 'Rome'\n"
        "def ask(city):\n"
        "    get_ipython().run_cell_magic('deepseek', '--into told', 'capital {{city}} {{country}}')\n"
        "    return told\n"
        "country = 'of France'\n"
        "print(ask('Paris'))"
    )
    assert cell.streamed == "You said: capital Paris of France\n"


def test_a_comprehension_sees_the_names_around_it(kernel):
    """Its own, the function's, the notebook's, in this order."""
    kernel.run(
        "city = country = 'nowhere'\n"
        "def ask(city):\n"
        "    ask_it = get_ipython().run_line_magic\n"
        "    return [ask_it('deepseek', '{{city}} {{country}}') for country in ('France', 'Texas')]"
    )
    assert kernel.value("ask('Paris')") == ["You said: Paris France", "You said: Paris Texas"]


def test_hostile_text_is_shown_harmless(kernel):
    """No tag, image, strange link or colour code in any state of it; the variable has it as it came."""
    cell = kernel.run("%%deepseek --into raw\nhostile")
    everything = "".join(cell.texts())
    for part in ("<script", "![", "](javascript", "\x1b"):
        assert part not in everything
    assert "\x1b" not in "".join(cell.texts("text/plain"))
    assert "<script>" in kernel.value("raw")


def test_settings_are_taken_from_config(kernel, sandbox):
    """%config sets a default, an option goes before it, and a value out of bounds is refused."""
    kernel.run("%config DeepSeekMagics.model = 'deepseek-v4-pro'")
    kernel.run("%config DeepSeekMagics.priority = 9")
    kernel.run("%deepseek say with the other model")
    kernel.run("%deepseek --model deepseek-flash say with this one")
    kernel.run("%config DeepSeekMagics.model = ''")
    assert [record.model for record in sandbox.log] == ["deepseek-v4-pro", "deepseek-flash"]
    assert kernel.run("%config DeepSeekMagics.priority").status == "ok"


def test_without_streaming_there_is_exactly_one_output(sandbox, folder):
    """DEEPSEEK_NB_STREAM=0, for comparing notebooks: one display_data and no update."""
    sandbox.faults = FaultScript.of("busy_503")
    with running_kernel(kernel_environment(sandbox, folder, DEEPSEEK_NB_STREAM="0"), folder) as kernel:
        kernel.run("%load_ext deepseek_nb")
        cell = kernel.run("%%deepseek --thinking\nlong 300")
        assert cell.kinds == ["execute_input", "display_data"]
        assert cell.facts["finish_reason"] == "stop"


def test_a_simulated_answer_says_so(sandbox, folder):
    """In the metadata, and in the text, which the sandbox's own answers begin with."""
    environment = kernel_environment(sandbox, folder, DEEPSEEK_NB_ROUTE="sandbox")
    with running_kernel(environment, folder) as kernel:
        kernel.run("%load_ext deepseek_nb")
        assert kernel.run("%deepseek say hello").facts["simulated"] is True


def test_a_replayed_answer_says_so(sandbox, folder):
    """Of which recording: with the output, and its dollars in the bill are no dollars."""
    start = """import deepseek_nb as ds
from deepseek_nb.sandbox import Replay
server = ds.use_sandbox(engine=Replay([("say hello", "Hello!", 0.0)], recording="one greeting"))"""
    with running_kernel(kernel_environment(sandbox, folder), folder) as kernel:
        kernel.run("%load_ext deepseek_nb")
        kernel.run(start)
        assert kernel.run("%deepseek say hello").facts["replayed"] == "one greeting"
        assert "replayed answers included" in kernel.run("%deepseek cost").texts("text/plain")[0]


def test_the_key_is_in_no_message(kernel, sandbox):
    """Whatever is asked for and whatever fails, the key is not shown."""
    sandbox.faults = FaultScript.of(None, "governor_401", "content_risk")
    cells = [
        kernel.run("%deepseek say secrets"),
        kernel.run("%deepseek say more secrets"),
        kernel.run("%deepseek say most secrets"),
        kernel.run("_deepseek"),
        kernel.run("%config DeepSeekMagics"),
        kernel.run(
            "from deepseek_nb import session\nsession.default_client(), session.default_client().settings"
        ),
    ]
    assert [cell.status for cell in cells].count("error") == 2
    assert all(CANARY_KEY not in str(cell.messages) for cell in cells)


def test_what_a_long_answer_costs_on_the_wire(kernel):
    """At most 40 bytes for each byte of the answer, envelopes included, also where it takes long."""
    cell = kernel.run("%%deepseek\nlong 1200")
    assert cell.display_bytes <= 40 * len(cell.texts()[-1])
