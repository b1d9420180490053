"""Defaults by ``%config`` and by ``pyproject.toml``: what is set, what is refused, and in how many words."""

from __future__ import annotations

import pytest
from kernels import CANARY_KEY, kernel_environment, running_kernel


@pytest.fixture
def with_file(sandbox, folder):
    """Kernels in a folder below the one that has this ``[tool.deepseek_nb.magics]``."""

    def run(*cells: str, table: str, head: str = "[tool.deepseek_nb.magics]\n", **environment: str):
        (folder / "pyproject.toml").write_text(head + table, encoding="utf-8")
        (folder / "below").mkdir(exist_ok=True)
        variables = kernel_environment(sandbox, folder, **environment)
        if "DEEPSEEK_NB_PYPROJECT" not in environment:
            del variables["DEEPSEEK_NB_PYPROJECT"]
        with running_kernel(variables, folder / "below") as kernel:
            return [kernel.run(cell) for cell in ("%load_ext deepseek_nb", *cells)]

    return run


def test_config_lists_every_default_with_its_help(kernel):
    listed = kernel.run("%config DeepSeekMagics").streamed
    for part in (
        "DeepSeekMagics.model=<Unicode>",
        "The model to ask",
        "DeepSeekMagics.priority",
        "Current: 5",
    ):
        assert part in listed


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("modle = 'x'", "There is no DeepSeekMagics.modle. Did you mean model?"),
        ("budget = 0.5", "Did you mean budget_usd?"),
        ("as = 'text'", None),
        ("qqqq = 1", "There are: budget_usd, "),
        ("priority = 9", "a whole number from 1 to 5"),
        ("priority = 2.5", "a whole number from 1 to 5"),
        ("temperature = 'hot'", "a number from 0 to 2, or None"),
        ("temperature = 2.1", "a number from 0 to 2, or None"),
        ("max_tokens = 0", "a whole number, 1 or more, or None"),
        ("budget_usd = -0.5", "a number, 0 or more, or None"),
        ("thinking = 'yes'", "True or False, or None"),
        ("view = 'html'", "one of markdown, text, "),
        ("ttl = 'soon'", "a duration such as '30min'"),
        ("model = 7", "a text"),
    ],
)
def test_a_wrong_default_fails_the_cell_in_a_few_words(kernel, setting, told):
    """With the near name or the bounds, on five lines at most, and nothing else is printed or set."""
    name = setting.partition(" ")[0]
    before = None if told is None or "There" in told or name == "budget" else kernel.value(_trait(name))
    cell = kernel.run(f"%config DeepSeekMagics.{setting}")
    assert cell.status == "error"
    if told is None:  # no Python: IPython says so itself
        return
    assert cell.error["ename"] == "DefaultRefused"
    assert told in cell.error["evalue"]
    assert len(cell.error["traceback"]) <= 5
    assert cell.streamed == ""
    if before is not None:
        assert kernel.value(_trait(name)) == before


def _trait(name: str) -> str:
    return f"get_ipython().magics_manager.registry['DeepSeekMagics'].{name}"


def test_a_secret_in_the_wrong_place_is_not_repeated(kernel):
    cell = kernel.run(f"%config DeepSeekMagics.priority = '{CANARY_KEY}'")
    assert CANARY_KEY not in str([message for message in cell.messages if message["msg_type"] == "error"])


def test_the_file_sets_defaults_and_config_goes_before(with_file, sandbox):
    """Found in a folder above, as the settings find theirs."""
    table = "model = 'deepseek-v4-pro'\ntemperature = 1\nsystem = 'Be brief.'\npatience = 2.5\nttl = '7d'\n"
    values = ", ".join(_trait(name) for name in ("model", "temperature", "patience", "ttl"))
    loaded, first, _, second, shown = with_file(
        "%deepseek say by the file",
        "%config DeepSeekMagics.model = 'deepseek-flash'",
        "%deepseek say by hand",
        f"print([{values}])",
        table=table + "[tool.deepseek_nb]\npriority = 2\n",
    )
    assert [m["msg_type"] for m in loaded.messages] == ["execute_input"]
    assert (first.status, second.status) == ("ok", "ok")
    assert shown.streamed == "['deepseek-flash', 1.0, 2.5, '7d']\n"
    assert [record.model for record in sandbox.log] == ["deepseek-v4-pro", "deepseek-flash"]


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ("modle = 'x'", ["There is no DeepSeekMagics.modle. Did you mean model?"]),
        ("priority = 9\nview = 'html'", ["a whole number from 1 to 5", "one of markdown"]),
        ("as = 'text'", ["Did you mean view?"]),
        ("model = ", ["pyproject.toml cannot be read"]),
        (f"api_key = '{CANARY_KEY}'", ["There is no DeepSeekMagics.api_key"]),
        ("[tool.deepseek_nb]\nmagics = 3", ["tool.deepseek_nb.magics in pyproject.toml is not a table"]),
    ],
)
def test_a_wrong_line_in_the_file_is_told_and_the_extension_loads(with_file, folder, table, told):
    """A line on standard error for each, without folders and keys; what is right in the file still holds."""
    head = "" if table.startswith("[") else "[tool.deepseek_nb.magics]\nsystem = 'S'\n"
    loaded, shown = with_file(f"print({_trait('system')!r}, {_trait('system')})", table=table, head=head)
    assert loaded.status == "ok"
    assert [m["msg_type"] for m in loaded.messages[1:]] == ["stream"]
    assert len(loaded.streamed.splitlines()) == len(told)
    for part in (*told, "pyproject.toml"):
        assert part in loaded.streamed
    for part in (str(folder), CANARY_KEY, "Traceback"):
        assert part not in loaded.streamed
    if head and "cannot be read" not in told[0]:
        assert shown.streamed.endswith(" S\n")


def test_the_file_can_be_named_or_left_out(with_file, folder):
    """As for the settings; a file that is not there is told by its name."""
    other = folder / "other.toml"
    other.write_text("[tool.deepseek_nb.magics]\npriority = 4\n")
    for value, expected in ((str(other), "4"), ("off", "5"), (str(folder / "none.toml"), "5")):
        loaded, shown = with_file(
            f"print({_trait('priority')})", table="priority = 1", DEEPSEEK_NB_PYPROJECT=value
        )
        assert shown.streamed == f"{expected}\n"
        assert str(folder) not in loaded.streamed
        assert bool(loaded.streamed) == value.endswith("none.toml")


def test_ipythons_own_configuration_goes_before_the_file(with_file, folder):
    """A profile is the user's, the file the project's."""
    profile = folder / "ipython" / "profile_default"
    profile.mkdir(parents=True)
    (profile / "ipython_config.py").write_text("c = get_config()\nc.DeepSeekMagics.priority = 3\n")
    _, shown = with_file(
        f"print({_trait('priority')}, {_trait('view')})", table="priority = 1\nview = 'text'"
    )
    assert shown.streamed == "3 text\n"
