"""Child process of the journal's tests: leases rows of the job "j" and acks them, printing each acked key.

usage: work_job.py FILE how, how: many | aack
"""

import asyncio
import json
import sys
from pathlib import Path

from deepseek_nb.adapters.journal import Journal


def say(keys):
    sys.stdout.write("".join(f"{key}\n" for key in keys))
    sys.stdout.flush()


async def ack_together(journal, items):
    async def ack(item):
        if await journal.aack(item, json.dumps({"of": item.key}), 0.001):
            say([item.key])

    await asyncio.gather(*[ack(item) for item in items])


def main():
    with Journal(Path(sys.argv[1])) as journal:
        journal.reap("j")
        while items := journal.lease("j", 20, 60):
            if sys.argv[2] == "many":
                got = journal.ack_many([(i, json.dumps({"of": i.key}), 0.001) for i in items])
                assert got == len(items)
                say(i.key for i in items)
            else:
                asyncio.run(ack_together(journal, items))


if __name__ == "__main__":
    main()
