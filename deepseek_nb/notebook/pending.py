"""``--background``: a question that goes on while other cells run, and the handle to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import CancelledError, Future
from typing import Any

from deepseek_nb.core.chat import Answer
from deepseek_nb.core.errors import DeepSeekError, NotReady
from deepseek_nb.notebook.carry import Interrupted
from deepseek_nb.notebook.views import note

__all__ = ["PendingAnswer"]

GOES_ON = "The question goes on in the background; .cancel() ends it."


class PendingAnswer:
    """A question under way. Made by ``%%deepseek --background --into NAME``.

    ``NAME.done``, ``NAME.result()`` (waits), ``await NAME`` (other cells' tasks go on), ``NAME.cancel()``,
    ``NAME.text`` (what is written so far). The value is what the cell would have bound. Waiting costs
    nothing; an interrupt while waiting leaves the question under way.
    """

    def __init__(
        self,
        work: Future[Answer],
        value: Callable[[Answer], Any],
        text: Callable[[], str],
        attend: Callable[..., Any],
    ) -> None:
        self._work = work
        self._value = value
        self._text = text
        self._attend = attend

    @property
    def done(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._work.done()

    @property
    def text(self) -> str:
        """What is written of the answer so far."""
        return self._text()

    @property
    def answer(self) -> Answer:
        """The answer with its facts. Raises as :meth:`result`, and NotReady while it is under way."""
        if not self.done:
            raise NotReady("The answer is not there yet.", hint=GOES_ON)
        return self._ended()

    def result(self, timeout_s: float | None = None) -> Any:
        """The value, when it is there.

        Raises what ended the question, :class:`NotReady` after ``timeout_s``, and on an interrupt
        Interrupted: the question goes on.
        """
        try:
            self._work.exception(timeout_s)
        except TimeoutError:
            raise NotReady(f"The answer is not there after {timeout_s:g} s.", hint=GOES_ON) from None
        except CancelledError:
            pass
        except KeyboardInterrupt:
            raise Interrupted(GOES_ON) from None
        return self._value(self._ended())

    def cancel(self) -> bool:
        """Hang up, which ends its bill; False if it has ended already."""
        return self._work.cancel()

    def __await__(self) -> Generator[Any, None, Any]:
        return self._await().__await__()

    async def _await(self) -> Any:
        try:
            answer = await self._attend(self._work, GOES_ON, cancel=False)
        except asyncio.CancelledError:
            if not self._work.cancelled():
                raise
            answer = self._ended()
        return self._value(answer)

    def _ended(self) -> Answer:
        if self._work.cancelled():
            raise DeepSeekError("The question was cancelled.", hint="Run its cell again to ask anew.")
        return self._work.result()

    @property
    def status(self) -> str:
        """One of "running", "done", "cancelled" and "failed"."""
        if not self.done:
            return "running"
        if self._work.cancelled():
            return "cancelled"
        return "done" if self._work.exception() is None else "failed"

    def __repr__(self) -> str:
        return f"<PendingAnswer {self.status}, {len(self.text):,} characters>"

    def _repr_mimebundle_(self, **_: Any) -> Mapping[str, str]:
        if self.status != "failed":
            return note(f"{self.status}, {len(self.text):,} characters")
        return note(f"failed: {self._work.exception()}")
