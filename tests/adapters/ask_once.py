"""Child process of the store's tests: asks every key once across processes and prints what it had to make.

usage: ask_once.py FILE KEYS
"""

import asyncio
import sys
from pathlib import Path

from deepseek_nb.adapters.store import AnswerStore


async def main():
    with AnswerStore(Path(sys.argv[1])) as store:

        async def ask(key):
            async def make():
                await asyncio.sleep(0.02)
                await store.aput(key, {"text": key})
                sys.stdout.write(key + "\n")
                return {"text": key}

            value, _ = await store.once(key, make, across_processes=True, lease_s=5)
            assert value == {"text": key}

        for start in range(0, int(sys.argv[2]), 10):
            await asyncio.gather(*[ask(f"k{number}") for number in range(start, start + 10)])


asyncio.run(main())
