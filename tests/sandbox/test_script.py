"""Fault scripts: the same request meets the same fate, whatever runs beside it."""

import asyncio
import pickle

import pytest
from raw_client import KEY, ask, request_bytes

from deepseek_nb.sandbox import Ask, Fault, FaultScript


def asked(prompt="p", nth=0, text="some text"):
    return Ask(0, prompt, nth, text, stream=False, json_mode=False)


def test_an_unknown_name_tells_the_near_one():
    with pytest.raises(ValueError, match=r"no fault 'busy_530'. Did you mean 'busy_503'"):
        Fault("busy_530")
    with pytest.raises(ValueError, match=r"no parameter 'limits'. Did you mean 'limit'"):
        Fault("rate_429", limits=3)


def test_a_fault_is_a_value():
    fault = Fault("rate_429", limit=3)
    assert fault == Fault("rate_429", limit=3) != Fault("rate_429", limit=4)
    assert len({fault, Fault("rate_429", limit=3)}) == 1
    assert (fault["limit"], fault["current"], repr(fault)) == (3, None, "Fault('rate_429', limit=3)")
    assert pickle.loads(pickle.dumps(fault)) == fault
    with pytest.raises(AttributeError):
        fault.name = "other"


def test_a_list_is_played_once(make):
    sandbox = make(faults=FaultScript.of("busy_503", None, "content_risk"))
    assert [ask(sandbox).status for _ in range(5)] == [503, 200, 400, 200, 200]
    sandbox.faults.append("html_502")
    assert [ask(sandbox).status for _ in range(2)] == [502, 200]
    sandbox.faults = FaultScript.always("balance_402")
    assert [ask(sandbox).status for _ in range(2)] == [402, 402]
    sandbox.faults = None
    assert ask(sandbox).status == 200


def test_invalid_requests_use_up_no_fault(make):
    sandbox = make(faults=FaultScript.of("busy_503"))
    assert ask(sandbox, temperature=9).status == 400
    assert ask(sandbox).status == 503


def test_any_callable_is_a_script(make):
    sandbox = make(faults=lambda ask: Fault("content_risk") if "bomb" in ask.text else None)
    assert (ask(sandbox, "a bomb").status, ask(sandbox, "a flower").status) == (400, 200)


def test_by_prompt_plays_each_try_in_order(make):
    script = FaultScript.by_prompt({"apple": ["busy_503", "html_500"], "pear": "content_risk"})
    sandbox = make(faults=script)
    assert [ask(sandbox, "an apple").status for _ in range(3)] == [503, 500, 200]
    assert [ask(sandbox, "another apple").status for _ in range(3)] == [503, 500, 200]
    assert ask(sandbox, "a pear").status == 400
    assert ask(sandbox, "a plum").status == 200


def test_by_prompt_hash(make):
    sandbox = make()
    ask(sandbox, "this one")
    sandbox.faults = FaultScript.by_prompt({sandbox.log[0].prompt_hash: [None, "busy_503"]})
    assert [ask(sandbox, "this one").status for _ in range(2)] == [503, 200]  # its first try is over


def test_weights_depend_on_prompt_try_and_seed_alone():
    one, two = (FaultScript.weights({"busy_503": 0.3, "stall": 0.2}, seed=1) for _ in range(2))
    asks = [asked(f"prompt {n}", nth) for n in range(500) for nth in range(2)]
    fates = [one(ask) for ask in asks]
    assert [two(ask) for ask in reversed(asks)][::-1] == fates
    other = FaultScript.weights({"busy_503": 0.3, "stall": 0.2}, seed=2)
    assert [other(ask) for ask in asks] != fates
    counts = {name: sum(f is not None and f.name == name for f in fates) for name in ("busy_503", "stall")}
    assert 250 < counts["busy_503"] < 350
    assert 150 < counts["stall"] < 250


def test_weights_leave_a_prompt_alone_after_enough():
    script = FaultScript.weights({"busy_503": 1.0}, max_per_prompt=3)
    assert [script(asked(nth=nth)) is not None for nth in range(5)] == [True] * 3 + [False] * 2
    script = FaultScript.weights({"busy_503": 1.0}, per_prompt_tries=1)
    assert [script(asked(nth=nth)) is not None for nth in range(3)] == [True, False, False]


@pytest.mark.parametrize("weights", [{"busy_503": -0.1}, {"busy_503": 0.7, "stall": 0.7}, {"bussy": 0.1}])
def test_bad_weights_are_refused(weights):
    with pytest.raises(ValueError):
        FaultScript.weights(weights)


async def statuses(port, prompts, at_once):
    gate = asyncio.Semaphore(at_once)
    seen = {}

    async def one(prompt):
        body = {"model": "deepseek-flash", "messages": [{"role": "user", "content": prompt}], "max_tokens": 1}
        for _ in range(9):
            async with gate:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.write(request_bytes(body, key=KEY))
                status = int((await reader.readline()).split()[1])
                writer.close()
                await writer.wait_closed()
            seen.setdefault(prompt, []).append(status)
            if status == 200:
                return

    await asyncio.gather(*map(one, prompts))
    return seen


def test_weights_play_alike_under_any_concurrency(make):
    weights = {"busy_503": 0.3, "content_risk": 0.1, "html_502": 0.1}
    prompts = [f"prompt {n}" for n in range(60)]
    runs = []
    for at_once in (1, 40):
        sandbox = make(faults=FaultScript.weights(weights, seed=7, max_per_prompt=4), count="estimate")
        runs.append(asyncio.run(statuses(sandbox.port, prompts, at_once)))
        assert all(each[-1] == 200 for each in runs[-1].values())
    assert runs[0] == runs[1]
