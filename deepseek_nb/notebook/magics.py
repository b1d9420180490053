"""``%deepseek`` and ``%%deepseek``: read the line, fill the template, ask, show, bind."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from IPython import get_ipython
from IPython.core.magic import line_cell_magic, magics_class, no_var_expand
from traitlets import Bool, Enum, Float, Int, Unicode

from deepseek_nb.adapters.settings import parse_duration_s
from deepseek_nb.core.chat import Answer, Usage
from deepseek_nb.core.errors import ConfigError, DeepSeekError
from deepseek_nb.core.template import Template
from deepseek_nb.core.tokens import estimate_tokens
from deepseek_nb.notebook.carry import Interrupted, carry, follow
from deepseek_nb.notebook.commands import find_command
from deepseek_nb.notebook.defaults import CheckedMagics
from deepseek_nb.notebook.display import CellOutput, Publish, Screen, show
from deepseek_nb.notebook.names import UserNames, names_around_magic
from deepseek_nb.notebook.options import SHORT_USAGE, Line, read_line, with_options
from deepseek_nb.notebook.pending import PendingAnswer
from deepseek_nb.notebook.prompt_tables import PromptTables
from deepseek_nb.notebook.rooms import default_client, room
from deepseek_nb.notebook.shapes import Shape
from deepseek_nb.notebook.views import VIEWS, code_of, facts_line, final, folded, note, with_line

__all__ = ["LAST_ANSWER", "DeepSeekMagics", "ShownText"]

LAST_ANSWER = "_deepseek"
"""The name in the notebook that the last answer is kept under."""


CUT_OFF = "cut off here: the answer reached the longest one that was allowed (max_tokens)"


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
    reasoning = Enum(
        ("hidden", "folded"),
        "hidden",
        help="What the model thought: only in _deepseek.reasoning, or also folded away above its answer.",
    ).tag(config=True)
    facts = Bool(False, help="Show model, tokens and cost in a line below each answer.").tag(config=True)
    table_chars = Int(50_000, min=1, help="The longest table that {{df}} sends, in characters.").tag(
        config=True
    )
    chat_turns = Int(
        None, allow_none=True, min=0, help="How many exchanges of a --chat are sent; None: all."
    ).tag(config=True)

    @no_var_expand
    @line_cell_magic
    @with_options
    def deepseek(self, line: str, cell: str | None = None) -> Any:
        """Ask DeepSeek and show the answer as it is written.

        ``%deepseek [options] question``, or ``%%deepseek [options]`` with the question in the lines
        below. ``{{name}}`` is filled from your variables, ``{{df}}`` with a table; single braces are
        left alone.

        ``--into NAME`` (or ``NAME <<`` in front) binds the text, or with --schema the checked
        object, and only if it comes: whatever fails raises, and the cell fails. ``x = %deepseek ...``
        works too. The last answer with its facts (tokens, cost, model) is ``_deepseek``.

        Alone on a line, these are commands: ``key`` (type in the API key, unseen; ``key forget``),
        ``balance``, ``models``, ``cost`` (this notebook's bill), ``cache`` (``cache clear``), ``jobs``
        (``jobs NAME``), ``explain`` and ``fix`` (the last error; ``fix -- a hint``). Your defaults:
        ``%config DeepSeekMagics`` and ``[tool.deepseek_nb.magics]`` in pyproject.toml.
        """
        magic: Any = self.deepseek
        try:
            read = read_line(magic.parser, line)
            if read.options.help or (cell is None and read.question.lower() == "help"):
                return show(note(magic.__doc__))
            if cell is None and (command := find_command(read)):
                return command(self, self._call_options(read))
            return self._ask(read, cell)
        except Interrupted:
            raise
        except KeyboardInterrupt:
            raise Interrupted("Nothing was sent.") from None

    def _ask(self, read: Line, cell: str | None) -> Any:
        question = _question(read, cell)
        chat = self._conversation(read.options)
        if question is None:
            if chat is None or not read.options.new:
                return show(note(SHORT_USAGE))
            chat.clear()
            return show(note(f"the conversation {chat.name} begins anew"))
        names = UserNames(self.shell, names_around_magic())
        tables = PromptTables(most_chars=self.table_chars, sample=read.options.sample)
        asked = Template(question).render(names, tables)
        if read.options.system:
            read.options.system = Template(read.options.system).render(names, tables)
        if read.options.sample and not tables.notes:
            raise ConfigError(
                "--sample is for a table in the prompt, and there is none.",
                hint="Name one in double braces: {{df}}",
            )
        shape = self._shape(read.options, names)
        options = self._call_options(read)
        if shape.schema is not None:
            options["schema"] = shape.schema
        prompt: Any = asked
        if chat is not None:
            prompt = chat.prompt(asked)[-1:] if read.options.new else chat.prompt(asked)
            options["system"] = read.options.system or chat.system or self.system or None
        if read.options.dry_run:
            client = default_client()
            return show(
                room("notebook.dry_run").dry_run(client, client.aio.prepare(prompt, **options), tables.notes)
            )
        for told in tables.notes:
            show(note(told))

        def taken(answer: Answer) -> None:
            if chat is not None:
                if read.options.new:
                    chat.clear()
                chat.system = options["system"]
                chat.add(asked, answer)

        if read.options.background:
            return self._go_on(read, prompt, options, shape, taken)
        answer = self.ask_and_show(prompt, options, shape.view, shape=shape, name=read.into)
        taken(answer)
        value = shape.value(answer)
        if read.options.next:
            self._put_into_next_cell(answer)
        if read.into:
            self.shell.push({read.into: value})
            return None
        if cell is not None:
            return None
        return self._shown(value, shape.view) if isinstance(value, str) else value

    def _conversation(self, options: Any) -> Any:
        if options.chat is None:
            if options.new:
                raise ConfigError("--new begins a conversation anew.", hint="Say which: --chat NAME --new")
            return None
        return room("session").conversation(options.chat, last_turns=self.chat_turns)

    def _shape(self, options: Any, names: UserNames) -> Shape:
        given = names.schema(options.schema) if options.schema else None
        wanted = options.view or ("" if given is not None else self.view)
        if options.next:
            if options.background:
                raise ConfigError("--next needs the answer at once.", hint="Leave out --background.")
            wanted = options.view or "code"
        return Shape(given, wanted)

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

    def ask_and_show(
        self,
        prompt: Any,
        options: dict[str, Any],
        view: str,
        *,
        shape: Shape | None = None,
        name: str | None = None,
    ) -> Answer:
        """Ask, show in the cell that runs what happens and what comes, and keep it as ``_deepseek``.

        ``prompt`` is a text or a list of messages, ``options`` are those of
        :meth:`deepseek_nb.client.aio.AsyncClient.ask`, ``shape`` says what is shown of the answer (none:
        its text, in that view), ``name`` what it will be bound to. Main thread only. Raises what ended
        the call; the screen is then in order.
        """
        client = default_client()
        screen = self._screen(client, view)
        try:
            answer = carry(client, room("client.portal").background.start, prompt, options, screen)
            self._finish(screen, answer, shape or Shape(wanted=view), name)
        except KeyboardInterrupt:
            raise self._interrupted(screen) from None
        except BaseException as error:
            self._keep_paid(error)
            screen.fail()
            raise
        client.warn_if_needed()
        return answer

    def _screen(self, client: Any, view: str, publish: Publish | None = None) -> Screen:
        # a terminal cannot replace what it has printed: there the answer comes at the end
        live = client.settings.stream_display and getattr(self.shell, "kernel", None) is not None
        return Screen(publish or CellOutput(), now=time.monotonic, view=view, live=live)

    def _finish(self, screen: Screen, answer: Answer, shape: Shape, name: str | None) -> None:
        self.shell.user_ns[LAST_ANSWER] = answer
        bundle = shape.bundle(answer, name)
        if answer.finish_reason == "length":
            bundle = with_line(bundle, CUT_OFF)
        if self.facts:
            bundle = with_line(bundle, facts_line(answer))
        if self.reasoning == "folded":
            title = f"Reasoning, {len(answer.reasoning):,} characters"
            bundle = folded(bundle, title, answer.reasoning)
        screen.finish(answer, simulated=answer.route == room("session").SANDBOX_ROUTE, bundle=bundle)

    def _keep_paid(self, error: BaseException) -> None:
        """A charged answer that cannot be used is paid for: it stays at hand."""
        answer = getattr(error, "answer", None)
        if isinstance(answer, Answer):
            self.shell.user_ns[LAST_ANSWER] = answer

    def _go_on(
        self,
        read: Line,
        prompt: Any,
        options: dict[str, Any],
        shape: Shape,
        taken: Callable[[Answer], None],
    ) -> Any:
        """Ask in the background: the cell ends at once, its output goes on."""
        client, portal = default_client(), room("client.portal")
        client.settings.require_credentials()
        client.aio.prepare(prompt, **options)  # what is wrong with it fails this cell
        screen = self._screen(client, shape.view, publish=_later_output(self.shell))
        screen.say("asking in the background")

        async def work() -> Answer:
            try:
                answer = await follow(client, prompt, options, screen)
                self._finish(screen, answer, shape, None)
                taken(answer)
            except DeepSeekError as error:
                self._keep_paid(error)
                screen.say("\n".join(error._render_traceback_()))
                raise
            except BaseException:
                screen.say("cancelled")
                raise
            return answer

        pending = PendingAnswer(
            portal.background.start(work), shape.value, lambda: screen.text, portal.attend
        )
        if read.into:
            self.shell.push({read.into: pending})
            return None
        return pending

    def _put_into_next_cell(self, answer: Answer) -> None:
        code, language = code_of(answer.text, "code")
        if language in ("", "python", "python3", "py", "ipython"):
            self.shell.set_next_input(code.rstrip(), replace=False)
        else:
            self.shell.set_next_input(f"%%{language}\n{code.rstrip()}", replace=False)

    def _interrupted(self, screen: Screen) -> Interrupted:
        """Keep what there is of the answer; gives the error to raise."""
        kept = Answer(
            screen.text,
            finish_reason="interrupted",
            reasoning=screen.reasoning,
            usage=Usage(completion_tokens=estimate_tokens(screen.reasoning + screen.text), estimated=True),
        )
        screen.keep(kept)
        if not kept.text:
            return Interrupted("The request was cancelled before any text came.")
        self.shell.user_ns[LAST_ANSWER] = kept
        return Interrupted(
            f"The request was cancelled; {len(kept.text):,} characters (about "
            f"{kept.usage.completion_tokens:,} tokens) are kept in {LAST_ANSWER}.text, and may be charged."
        )

    def _shown(self, text: str, view: str) -> ShownText:
        shown = ShownText(text)
        shown.view, shown.shown_in = view, self.shell.execution_count
        return shown


def _later_output(shell: Any) -> Publish:
    """An output that may be written when its cell is over; in a terminal only the first line appears.

    There it would be printed into whatever is being typed.
    """
    output = CellOutput()
    if getattr(shell, "kernel", None) is not None:
        return output

    def first(bundle: Mapping[str, str], metadata: Mapping[str, Any]) -> None:
        if not output.there:
            output(bundle, metadata)

    return first


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
