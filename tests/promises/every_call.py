"""Makes every call of the package to the servers it is given, and shows all that comes of it in every way.

Run as a process of its own: ``every_call.py FOLDER ADDRESS...``. What it prints, logs and writes is looked
through by the test that started it.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import os
import pickle
import pprint
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import pandas as pd

import deepseek_nb as ds
from deepseek_nb.client.routes import Route

SHARED_SECRET = "DEEPSEEK_NB_JWT_CLIENT_SECRET"
FOLDER = Path(sys.argv[1])
QUICK = {"max_faults": 0, "patience_s": 0, "max_repairs": 0, "silence_timeout_s": 3, "thinking": False}


def show(what: Any) -> None:
    """Print ``what`` in every way there is, and keep its pickle."""
    for way in (repr, str, format, pprint.pformat, json_text, members):
        print(way.__name__, way(what))
    print(f"{what!r:>9} {what!s}")
    for number, copied in enumerate((copy.copy, copy.deepcopy, through_pickle)):
        try:
            print(number, repr(copied(what)))
        except TypeError as why:
            print(number, why)


def json_text(what: Any) -> str:
    """As JSON, with the text of what JSON does not know."""
    return json.dumps([what, getattr(what, "__dict__", {})], default=str)


def members(what: Any) -> str:
    """What dir() lists, but its methods."""
    return repr([getattr(what, name, None) for name in dir(what) if not name.startswith("__")])


def through_pickle(what: Any) -> Any:
    """Through a pickle, which stays in a file."""
    try:
        data = pickle.dumps(what)
    except Exception as why:
        raise TypeError(str(why)) from why
    with (FOLDER / "pickles").open("ab") as file:
        file.write(data)
    return pickle.loads(data)


def show_error(error: BaseException) -> None:
    """An error, its notebook form, and a traceback with every value in every frame."""
    show(error)
    print(getattr(error, "_render_traceback_", list)())
    print(vars(error))
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    print("".join(told.format()))
    if hasattr(error, "frame"):
        print(error.frame.to_string(), error.frame.to_html())


def attempt(call: Any) -> None:
    try:
        result = call()
        show(result)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is shown)
        show_error(error)


def look(result: pd.DataFrame) -> pd.DataFrame:
    print(result.to_string(), result.to_html(), result.attrs)
    return result


async def in_a_loop(**settings: Any) -> None:
    async with ds.AsyncClient(**settings) as client:
        show(client)
        show(client.settings)
        attempt_error: Exception | None = None
        for call in (lambda: client.ask("One?"), client.models, client.balance):
            try:
                show(await call())
            except Exception as error:  # noqa: BLE001
                attempt_error = error
                show_error(error)
        try:
            async for piece in client.stream("Two?"):
                show(piece)
        except Exception as error:  # noqa: BLE001
            show_error(error)
        show(attempt_error)
        server = client.road.upstream("")
        for part in (client, client.settings, client.road, server, server.transport, server.gate("m")):
            print(repr(part), repr(getattr(part, "__dict__", None)))


def main() -> None:
    logging.basicConfig(level=logging.DEBUG, stream=sys.stderr)
    warnings.simplefilter("always")
    frame = pd.DataFrame({"text": ["a", "b", "c"]})
    for number, base_url in enumerate(sys.argv[2:]):
        settings = QUICK | {"base_url": base_url, "data_dir": FOLDER / "data"}
        with ds.Client(**settings) as client:
            print("==", base_url)

            for part in (client, client.settings, client.settings.describe(), client.settings.api_key):
                show(part)
            attempt(lambda: client.ask("One?"))
            attempt(lambda: list(client.stream("Two?")))
            attempt(client.models)
            attempt(client.balance)
            attempt(lambda: client.ask("Three?", schema={"level": int}))
            job = {"client": client, "job": f"job {number}"}
            attempt(lambda job=job: look(ds.apply(frame, "About {{text}}?", **job)))
            for part in (client.budget, client.metrics, client.aio, client.aio.store):
                print(repr(part), repr(getattr(part, "__dict__", None)))
        if number % 4 == 0:
            asyncio.run(in_a_loop(**settings))
    # settings that are wrong, with the key beside them or in their place; functions, so that no frame of
    # this file holds it
    key = client.settings.api_key.reveal if client.settings.api_key else lambda: os.environ[SHARED_SECRET]
    for wrong in (
        lambda: {"nonsense": 1},
        lambda: {"api_key": f"{key()} {key()}"},
        lambda: {"api_key": [key()]},
        lambda: {"jwt_client_id": "desk", "jwt_client_secret": key()[:30]},
    ):
        attempt(lambda wrong=wrong: ds.configure(**({"api_key": key()} | wrong())).ask("?"))
        attempt(lambda wrong=wrong: ds.AsyncClient(**({"api_key": key()} | wrong())))
    attempt(lambda: ds.Client(key()))
    elsewhere = {"base_url": "https://gateway.example", "model": "m"}
    show(Route(**elsewhere, api_key=key()))
    attempt(lambda: ds.Client(fallback=[elsewhere | {"api_key": key(), "nonsense": 1}]))
    attempt(lambda: ds.Client(fallback=[elsewhere | {"api_key": key(), "base_url": "ftp://x"}]))
    attempt(lambda: ds.Client(fallback=Route(**elsewhere, api_key=key())).aio)
    attempt(lambda: client.settings.replace(api_key=key(), priority=9))
    attempt(lambda: ds.use_sandbox())
    attempt(lambda: ds.ask("Is it there?"))
    attempt(lambda: list(ds.stream("Is it there?")))
    cached = ds.memory(FOLDER / "joblib", verbose=1).cache(ask_with, ignore=["key"])
    attempt(lambda: cached("text", ds.Secret(key())))
    attempt(lambda: cached("text", ds.Secret(key())))


def ask_with(text: str, key: Any) -> dict[str, Any]:
    return {"text": text, "chars": len(str(key))}


if __name__ == "__main__":
    main()
