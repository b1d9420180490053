"""The magics in an IPython of this process: the line, its options, its errors, what is bound."""

from __future__ import annotations

import pytest
from IPython.core.inputtransformer2 import TransformerManager
from IPython.utils.capture import capture_output

from deepseek_nb.core.chat import Answer
from deepseek_nb.core.errors import BudgetExceeded, ConfigError, RequestInvalid, SchemaError, TemplateError
from deepseek_nb.notebook import load_ipython_extension, unload_ipython_extension
from deepseek_nb.notebook.magics import DeepSeekMagics
from deepseek_nb.notebook.question_marks import let_questions_ask


def run(shell, line: str, cell: str | None = None):
    """Run the magic as IPython does; gives its outputs."""
    with capture_output() as captured:
        if cell is None:
            shell.run_line_magic("deepseek", line)
        else:
            shell.run_cell_magic("deepseek", line, cell)
    assert captured.stdout == captured.stderr == ""
    return captured.outputs


def error_of(shell, kind, line: str, cell: str | None = None):
    with pytest.raises(kind) as caught:
        run(shell, line, cell)
    assert len(caught.value._render_traceback_()) <= 5
    return caught.value


def test_a_cell_shows_binds_and_keeps_its_answer(shell, sandbox):
    """One output without a kernel; the answer object under _deepseek."""
    shell.user_ns["who"] = "Ann"
    (shown,) = run(shell, "--into greeting --temperature 0.5 -m deepseek-v4-pro", "say hello to {{who}}\n")
    assert shown.data["text/plain"] == shell.user_ns["greeting"] == "You said: say hello to Ann"
    assert isinstance(shell.user_ns["_deepseek"], Answer)
    assert sandbox.log[0].model == "deepseek-v4-pro"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("--modle x hello", "--model"),
        ("--max_tokens 5 hello", "--max-tokens"),
        ("--int x hello", "--into"),
        ("--prio 5 hello", "--priority"),
        ("--priority 7 hello", "--priority: '7' is not a priority from 1 to 5"),
        ("--priority high hello", "--priority: 'high' is not a priority from 1 to 5"),
        ("--sample all hello", "--sample: 'all' is not a whole number from 1 on"),
        ("--temperature hot hello", "--temperature: 'hot' is not a number from 0 to 2"),
        ("--temperature 3 hello", "--temperature: '3' is not a number from 0 to 2"),
        ("--max-tokens 0 hello", "--max-tokens: '0' is not a whole number from 1 on"),
        ("--budget -1 hello", "--budget: '-1' is not US dollars above 0"),
        ("--ttl soon hello", "'soon' is not a duration"),
        ("--patience x hello", "'x' is not a duration. It has to be a number of minutes"),
        ("--as html hello", "markdown"),
        ("--no-cache=1 hello", "--no-cache takes no value"),
        ("--into", "--into needs a value"),
        ("--into --model x hello", "--into needs a value"),
        ("--into 1bad hello", "'1bad' is not a name"),
        ("--into class hello", "'class' is not a name"),
        ("1bad << hello", "'1bad' is not a name"),
        ("a << --into b hello", "Two names"),
        ("--schema Nothing hello", "there is no 'Nothing'"),
        ("--zzzzzz hello", "%deepseek?"),
    ],
)
def test_a_bad_line_is_one_clear_error(shell, sandbox, line, told):
    """A ConfigError of a few lines that names the near option; nothing is sent or bound."""
    assert told in str(error_of(shell, ConfigError, line))
    assert len(sandbox.log) == 0
    assert "a" not in shell.user_ns


def test_a_key_on_the_line_is_refused_without_repeating_it(shell):
    """And the error says where it belongs."""
    for line in ("--api-key sk-12345 hi", "--api-key=sk-12345 hi", "--token sk-12345 hi"):
        error = error_of(shell, ConfigError, line)
        assert "sk-12345" not in str(error)
        assert "DEEPSEEK_API_KEY" in str(error)


def test_options_reach_the_client(shell, monkeypatch):
    """Each option under the client's name, in the client's units."""
    magics = shell.magics_manager.registry["DeepSeekMagics"]
    given = {}
    monkeypatch.setattr(
        magics,
        "ask_and_show",
        lambda prompt, options, view, **_: given.update(options, view=view) or Answer("x"),
    )
    run(
        shell,
        '--system "You are \\"brief\\"." --temperature 0 --max-tokens 50 --priority 2 --ttl 30min --no-cache '
        "--budget 0.5 --patience 3 --no-thinking --as text --model=m  it's -- a 'question' --into you",
    )
    assert given == {
        "system": 'You are "brief".',
        "temperature": 0.0,
        "max_tokens": 50,
        "priority": 2,
        "ttl_s": 1800.0,
        "cache": False,
        "budget_usd": 0.5,
        "patience": "3",
        "thinking": False,
        "model": "m",
        "view": "text",
    }
    given.clear()
    run(shell, "just this")
    assert given == {"priority": 5, "view": "markdown"}
    given.clear()
    run(shell, "--patience 90s --thinking just this")
    assert (given["patience"], given["thinking"]) == ("90s", True)


def test_config_sets_the_defaults_within_bounds(shell, monkeypatch):
    """Traits of the same meaning; what is out of bounds stays as it was."""
    magics = shell.magics_manager.registry["DeepSeekMagics"]
    given = {}
    monkeypatch.setattr(
        magics, "ask_and_show", lambda prompt, options, view, **_: given.update(options) or Answer("x")
    )
    traits = "model='m' system='s' temperature=1.5 max_tokens=9 ttl='1h' cache=False budget_usd=0.1"
    for setting in (*traits.split(), "patience=2.0", "thinking=True", "priority=4"):
        shell.run_line_magic("config", f"DeepSeekMagics.{setting}")
    run(shell, "--model other hello")
    assert given == {
        "model": "other",
        "system": "s",
        "temperature": 1.5,
        "max_tokens": 9,
        "ttl_s": 3600.0,
        "cache": False,
        "budget_usd": 0.1,
        "patience": 2.0,
        "thinking": True,
        "priority": 4,
    }
    with pytest.raises(Exception, match="should not be greater"):
        magics.priority = 6


def test_a_question_that_cannot_be_filled_is_not_sent(shell, sandbox):
    """Missing names, empty values, functions, unclosed braces; near names are the user's own."""
    shell.user_ns.update(customer="Ann", nothing=None, helper=lambda: 1)
    error = error_of(shell, TemplateError, "", "Greet {{custmer}}")
    assert "Did you mean 'customer'?" in str(error)
    assert "helper" not in str(error)
    assert "get_ipython" not in str(error)
    for body in ("{{nothing}}", "{{helper}}", "{{customer", "{{customer.nope}}"):
        error_of(shell, TemplateError, "", body)
    error_of(shell, ConfigError, "stray words", "and a question")
    error_of(shell, SchemaError, "--schema customer hello")
    assert len(sandbox.log) == 0
    assert "_deepseek" not in shell.user_ns


def test_a_budget_that_is_too_small_refuses_before_sending(shell, sandbox):
    """The worst case counts."""
    error_of(shell, BudgetExceeded, "--budget 0.0000001 hello")
    assert len(sandbox.log) == 0


def test_no_question_prints_the_short_usage(shell, sandbox):
    """A line without text, and --help with all options."""
    (usage,) = run(shell, "")
    assert "--into NAME" in usage.data["text/plain"]
    (help_text,) = run(shell, "--help")
    assert run(shell, "help")[0].data == help_text.data
    assert "--patience MIN" in help_text.data["text/plain"]
    (blank,) = run(shell, "", "  \n ")
    assert blank.data == usage.data
    assert len(sandbox.log) == 0


def test_an_empty_filled_question_is_refused(shell, sandbox):
    """A value may be blank; a question may not."""
    shell.user_ns["blank"] = " "
    error_of(shell, RequestInvalid, "", "{{blank}}")
    assert len(sandbox.log) == 0


def test_a_line_gives_its_text(shell):
    """A plain string in every respect, shown as Markdown in a later cell."""
    shell.run_cell("x = %deepseek say *this*")
    text = shell.user_ns["x"]
    assert text == "You said: say *this*"
    assert isinstance(text, str)
    text.shown_in = -1
    with capture_output() as captured:
        shell.run_cell("x")
    assert [output.data["text/markdown"] for output in captured.outputs] == ["You said: say *this*"]


def test_unloading_takes_everything_away(shell):
    """And loading again brings it back, once."""
    unload_ipython_extension(shell)
    assert "deepseek" not in shell.magics_manager.magics["line"]
    assert "deepseek" not in shell.magics_manager.magics["cell"]
    assert let_questions_ask not in shell.input_transformers_cleanup
    assert not any(isinstance(one, DeepSeekMagics) for one in shell.configurables)
    load_ipython_extension(shell)
    assert sum(isinstance(one, DeepSeekMagics) for one in shell.configurables) == 1
    assert run(shell, "say again")[0].data["text/plain"] == "You said: say again"


@pytest.mark.parametrize(
    "line",
    [
        "%deepseek?",
        "%deepseek??",
        "%deepseek ?",
        "%%deepseek\nwhy?",
        "print('why?')",
        "# %deepseek why?",
        "%timeit x?",
    ],
)
def test_other_question_marks_are_left_to_ipython(line):
    """Help stays help, and cells and other magics are not touched."""
    lines = line.splitlines(keepends=True)
    assert let_questions_ask(list(lines)) == lines


def test_questions_survive_ipythons_own_transformers():
    """The whole way a cell takes."""
    manager = TransformerManager()
    manager.cleanup_transforms.append(let_questions_ask)
    code = manager.transform_cell(
        "for i in range(2):\n    y = %deepseek what's {{i}}, 'so' \"to\" say??\n%deepseek a\n"
    )
    asked = []

    class Shell:
        def run_line_magic(self, name, line):
            asked.append((name, line))

    exec(code, {"get_ipython": Shell})
    assert asked == [("deepseek", "what's {{i}}, 'so' \"to\" say??")] * 2 + [("deepseek", "a")]
