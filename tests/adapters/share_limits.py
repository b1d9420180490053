"""Child process of the tests of shared limits: a kernel with endless rows behind a real gate.

usage: share_limits.py FILE. Lines: ``work N`` (N rows at a time, without end), ``hold N`` (N rows that are
not answered), ``stop``, ``trip`` (the server is down),
``refuse`` (an interactive call is refused), ``state`` (print how things stand, as JSON), ``end``.
"""

import asyncio
import json
import random
import sys

from deepseek_nb.adapters.limits import SharedLimits
from deepseek_nb.client.gate import Gate
from deepseek_nb.core.admission import Admission, Tuning


async def row(gate, lasts_s):
    ticket = await gate.enter(None, 2)
    gate.sent(ticket, lambda: None)
    try:
        await asyncio.sleep(lasts_s or random.uniform(0.05, 0.15))
    except asyncio.CancelledError:
        gate.leave(ticket)
        raise
    gate.answered(ticket)


async def rows(gate, lasts_s=None):
    while True:
        await row(gate, lasts_s)


def trip(gate, now):
    """Ten interactive calls meet 503s."""
    admission = gate.admission
    for _ in range(10):
        ticket = admission.ask(5, now)
        admission.admit(now)
        admission.refused(ticket, now, overloaded=True)
        admission.leave(ticket, now)


async def watch(gate, seen):
    while True:
        seen["was_down"] = seen["was_down"] or gate.down_s() is not None
        await asyncio.sleep(0.005)


def standing(gate):
    state = gate.state()
    return {
        "limit": state.limit,
        "held": state.held,
        "kernels": state.kernels,
        "down": state.down_since_s is not None,
        "aside": gate.admission._stands_aside,
    }


async def main():
    shared = SharedLimits(sys.argv[1], "account")
    gate = Gate(Admission(rng=random.random, tuning=Tuning(trip_silence_s=-1e9)), shared=shared)
    loop, tasks, seen = asyncio.get_running_loop(), [], {"was_down": False}
    watching = loop.create_task(watch(gate, seen))
    print("ready", flush=True)
    while True:
        verb, *count = (await loop.run_in_executor(None, sys.stdin.readline)).split() or ["end"]
        if verb == "work":
            tasks += [loop.create_task(rows(gate)) for _ in range(int(*count))]
        elif verb == "hold":
            tasks += [loop.create_task(rows(gate, 600)) for _ in range(int(*count))]
        elif verb == "stop":
            for task in tasks:
                task.cancel()
        elif verb == "trip":
            trip(gate, gate.now())
            gate._pump()
        elif verb == "refuse":
            gate.refused(await gate.enter(None, 5), overloaded=False, named_limit=None)
        elif verb == "state":
            print(json.dumps(standing(gate) | seen), flush=True)
        else:
            break
    for task in (watching, *tasks):
        task.cancel()
    await asyncio.sleep(0)
    gate.close()
    shared.close()


asyncio.run(main())
