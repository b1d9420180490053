"""``%deepseek`` and ``%%deepseek``: read the line, fill the template, ask, show, bind."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping
from typing import Any

from IPython import get_ipython
from IPython.core.magic import line_cell_magic, magics_class, needs_local_scope, no_var_expand
from traitlets import Bool, Enum, Float, Int, Unicode

from deepseek_nb.adapters.settings import parse_duration_s
from deepseek_nb.core.chat import Answer
from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.template import Template
from deepseek_nb.notebook.carry import Interrupted, carry
from deepseek_nb.notebook.commands import find_command
from deepseek_nb.notebook.defaults import CheckedMagics
from deepseek_nb.notebook.display import CellOutput, Screen, show
from deepseek_nb.notebook.names import UserNames
from deepseek_nb.notebook.options import SHORT_USAGE, Line, read_line, with_options
from deepseek_nb.notebook.views import VIEWS, final, note

__all__ = ["LAST_ANSWER", "DeepSeekMagics", "ShownText"]

LAST_ANSWER = "_deepseek"
"""The name in the notebook that the last answer is kept under."""


def _room(name: str) -> Any:
    """A room that is slow to import (httpx, aiohttp, pydantic), at its first use.

    Imported at the top they would make ``%load_ext`` cost 0.3 s instead of the 0.05 s that
    ``benchmarks/load_ext.py`` measures.
    """
    return importlib.import_module(f"deepseek_nb.{name}")


class ShownText(str):
    """The text of an answer that stands on the screen already: a ``str`` that is not echoed once more.

    IPython shows the value of a cell's last line. This one stays silent in the cell that made it,
    so that a bare ``%deepseek ...`` shows its answer once; in later cells it shows as the answer.
    """

    view: str = "markdown"
    shown_in: int | None = None
    """The number of the cell that made it."""

    def _ipython_display_(self) -> None:
        shell = get_ipython()
        if shell is None or shell.execution_count != self.shown_in:
            show(final(str(self), self.view))


@magics_class
class DeepSeekMagics(CheckedMagics):
    """``%deepseek``, ``%%deepseek``. Defaults: ``%config DeepSeekMagics.model = "deepseek-v4-pro"``."""

    shell: Any

    model = Unicode("", help="The model to ask; empty: as the settings say.").tag(config=True)
    system = Unicode("", help="Instructions that go first.").tag(config=True)
    temperature = Float(None, allow_none=True, min=0.0, max=2.0, help="0 to 2.").tag(config=True)
    max_tokens = Int(None, allow_none=True, min=1, help="The longest answer, thinking included.").tag(
        config=True
    )
    priority = Int(5, min=1, max=5, help="1 to 5; 5 goes first.").tag(config=True)
    ttl = Unicode("", help="How old a kept answer may be, such as '30min'; empty: as the settings say.").tag(
        config=True
    )
    cache = Bool(None, allow_none=True, help="Whether answers are kept and found again.").tag(config=True)
    budget_usd = Float(None, allow_none=True, min=0.0, help="What one call may cost.").tag(config=True)
    patience = Float(
        None, allow_none=True, min=0.0, help="Minutes to keep trying while the server is busy."
    ).tag(config=True)
    thinking = Bool(None, allow_none=True, help="Whether the model thinks first.").tag(config=True)
    view = Enum(VIEWS, "markdown", help="How an answer is shown.").tag(config=True)

    @no_var_expand
    @needs_local_scope
    @line_cell_magic
    @with_options
    def deepseek(self, line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Ask DeepSeek and show the answer as it is written.

        ``%deepseek [options] question``, or ``%%deepseek [options]`` with the question in the lines
        below. ``{{name}}`` is filled from your variables; single braces are left alone.

        ``--into NAME`` (or ``NAME <<`` in front) binds the text, or with --schema the checked
        object, and only if it comes: whatever fails raises, and the cell fails. ``x = %deepseek ...``
        works too. The last answer with its facts (tokens, cost, model) is ``_deepseek``.
        """
        magic: Any = self.deepseek
        try:
            read = read_line(magic.parser, line)
            if read.options.help:
                return show(note(magic.__doc__))
            if cell is None and (command := find_command(read.question)):
                return command(self)
            return self._ask(read, cell, local_ns)
        except Interrupted:
            raise
        except KeyboardInterrupt:
            raise Interrupted("Nothing was sent.") from None

    def _ask(self, read: Line, cell: str | None, local_names: Mapping[str, Any] | None) -> Any:
        question = _question(read, cell)
        if question is None:
            return show(note(SHORT_USAGE))
        names = UserNames(self.shell, local_names)
        prompt = Template(question).render(names)
        options = self._call_options(read)
        if read.options.schema:
            options["schema"] = names.schema(read.options.schema)
        view = read.options.view or ("json" if read.options.schema else self.view)
        answer = self.ask_and_show(prompt, options, view)
        value = answer.value if read.options.schema else answer.text
        if read.into:
            self.shell.push({read.into: value})
            return None
        if cell is not None:
            return None
        return value if read.options.schema else self._shown(answer.text, view)

    def _call_options(self, read: Line) -> dict[str, Any]:
        """What goes to the client: the line's options, then the magic's own settings, else nothing."""
        options: dict[str, Any] = {
            "model": self.model or None,
            "system": self.system or None,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "priority": self.priority,
            "ttl_s": parse_duration_s(self.ttl) if self.ttl else None,
            "cache": self.cache,
            "budget_usd": self.budget_usd,
            "patience": self.patience,
            "thinking": self.thinking,
        }
        given = {name: value for name, value in vars(read.options).items() if name in options}
        options |= {name: value for name, value in given.items() if value is not None}
        return {name: value for name, value in options.items() if value is not None}

    def ask_and_show(self, prompt: Any, options: dict[str, Any], view: str) -> Answer:
        """Ask, show in the cell that runs what happens and what comes, and keep it as ``_deepseek``.

        ``options`` are those of :meth:`deepseek_nb.client.aio.AsyncClient.ask`. Main thread only.
        Raises what ended the call; the screen is then in order.
        """
        session = _room("session")
        client = session.default_client()
        # a terminal cannot replace what it has printed: there the answer comes at the end
        live = client.settings.stream_display and getattr(self.shell, "kernel", None) is not None
        screen = Screen(CellOutput(), now=time.monotonic, view=view, live=live)
        try:
            answer = carry(client, _room("client.portal").background.start, prompt, options, screen)
            screen.finish(answer, simulated=answer.route == session.SANDBOX_ROUTE)
        except KeyboardInterrupt:
            raise self._interrupted(screen) from None
        except BaseException:
            screen.fail()
            raise
        self.shell.user_ns[LAST_ANSWER] = answer
        return answer

    def _interrupted(self, screen: Screen) -> Interrupted:
        """Keep what there is of the answer; gives the error to raise."""
        kept = Answer(screen.text, finish_reason="interrupted", reasoning=screen.reasoning, cost_usd=None)
        screen.keep(kept)
        if not kept.text:
            return Interrupted("The request was cancelled before any text came.")
        self.shell.user_ns[LAST_ANSWER] = kept
        return Interrupted(
            f"The request was cancelled; {len(kept.text):,} characters of the answer are kept "
            f"in {LAST_ANSWER}.text, and what was written of it may be charged."
        )

    def _shown(self, text: str, view: str) -> ShownText:
        shown = ShownText(text)
        shown.view, shown.shown_in = view, self.shell.execution_count
        return shown


def _question(read: Line, cell: str | None) -> str | None:
    """What to ask; None if there is nothing. Raises ConfigError if it is given twice."""
    if cell is None:
        return read.question or None
    if read.question:
        raise ConfigError(
            f"{read.question[:60]!r} stands on the line of %%deepseek, and the question below it.",
            hint="Put all of the question below; a value with blanks goes in quotes.",
        )
    return cell.rstrip() if cell.strip() else None
