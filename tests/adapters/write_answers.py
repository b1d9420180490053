"""Child process of the store's tests: writes answers and prints each key once it is committed.

usage: write_answers.py FILE NAME how [count], how: put | aput | many
"""

import asyncio
import itertools
import sys
from pathlib import Path

from deepseek_nb.adapters.store import AnswerStore


def value(key):
    return {"text": f"answer of {key} " * 20, "n": len(key)}


def say(key):
    sys.stdout.write(key + "\n")
    sys.stdout.flush()


async def put_together(store, name, count):
    numbers = itertools.count() if count is None else iter(range(count))

    async def worker():
        for number in numbers:
            key = f"{name}/{number}"
            await store.aput(key, value(key))
            say(key)

    await asyncio.gather(*[worker() for _ in range(16)])


def main():
    path, name, how = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    count = int(sys.argv[4]) if len(sys.argv) > 4 else None
    with AnswerStore(path) as store:
        if how == "aput":
            asyncio.run(put_together(store, name, count))
            return
        for number in itertools.count() if count is None else range(count):
            if how == "put":
                key = f"{name}/{number}"
                store.put(key, value(key))
                say(key)
            else:
                keys = [f"{name}/{number}_{i}" for i in range(10)]
                store.put_many((key, value(key)) for key in keys)
                say("\n".join(keys))


if __name__ == "__main__":
    main()
