"""An answer in one piece says nothing until it is there: its silence is no reason to ask again."""

from __future__ import annotations

from dataclasses import replace

from deepseek_nb.client.aio import AsyncClient
from deepseek_nb.client.watchdog import Limits
from deepseek_nb.sandbox import Fault, FaultScript

QUESTION = "The sky is blue. Grass is green. What is blue?"
EARLY_S = 0.2


def _ask_a_row(sandbox, with_client, whole: Limits | None) -> list[bool]:
    """Ask one row of a server that is silent for a second first; whether each request was streamed."""
    sandbox.faults = FaultScript.of(Fault("bimodal_hang", wait_s=100.0))

    async def ask(client: AsyncClient) -> None:
        errand = client.prepare(QUESTION, priority=2, max_tokens=100)
        admission = client.road.upstream("").gate(errand.request.model).admission
        admission.tuning = replace(admission.tuning, tail_silence_s=EARLY_S)
        assert (await client.take(replace(errand, whole=whole))).text

    with_client(ask, silence_timeout_s=20, thinking=False)
    return [request.stream for request in sandbox.log.chats]


def test_the_last_row_is_not_sent_again_while_its_answer_may_be_written(sandbox, with_client):
    """It would be paid twice: there is no byte before the whole answer is there."""
    assert _ask_a_row(sandbox, with_client, Limits(silence_s=20.0)) == [False]


def test_a_streamed_row_at_the_end_is_sent_again_early(sandbox, with_client):
    """A stream's first byte comes before its answer is written: without one, nothing was charged."""
    assert _ask_a_row(sandbox, with_client, None) == [True, True]
