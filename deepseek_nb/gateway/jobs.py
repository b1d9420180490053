"""Queued batches: ``"queue": true`` at ``/v1/compute``, and ``/v1/jobs`` to see how they stand.

Their questions are asked in the background, a tenant's one after another by priority, on half of its
places. A busy or failing upstream is waited out. The work goes on where it was when the gateway ended.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from deepseek_nb.core.errors import StoreFailed
from deepseek_nb.gateway.batches import Item, read_compute, told_of
from deepseek_nb.gateway.config import Tenant
from deepseek_nb.gateway.desk import CacheWish, Call, Desk
from deepseek_nb.gateway.front import GRACE_S
from deepseek_nb.gateway.ledger import JOBS_FILE, Entry, JobState, Ledger, Queued
from deepseek_nb.gateway.logs import log_event
from deepseek_nb.gateway.refusals import ApiError, bad_request
from deepseek_nb.gateway.replies import compact
from deepseek_nb.gateway.tokens import Caller

__all__ = ["JobRoom"]

QUEUED_PRIORITY = 1
"""Of a queued question that names none; more than 3 is lowered to 3."""
QUEUED_PRIORITY_MOST = 3
FAULTS_MOST = 5
"""So often a question whose answers break is asked; a busy server is not counted."""
WAITED_OUT = (402, 429, 503)
"""Refusals that end: they are waited out, and cost nothing."""
FAULTS = (502, 504)
WAIT_S = (1.0, 60.0)
"""Before the next try: at first, and at most."""
AHEAD = 200
"""Questions that are read at once, beside those under way."""
CLEANS_EVERY_S = 3600.0
PAGE = 1000
PAGE_MOST = 10_000
NO_JOB = "There is no such job of yours."


class JobRoom:
    """The queue of every tenant, and the routes that tell of it. In the event loop of ``desk``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._config = desk.config
        self._ledger = Ledger(desk.config.settings.data_dir / JOBS_FILE)
        self.left = self._ledger.left()
        """Questions without a result, by tenant; deleting a job can leave it some off for an hour."""
        self._wake = {name: asyncio.Event() for name in desk.config.tenants}
        self._under_way: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._asking: dict[asyncio.Task[Any], Call] = {}
        """Those of them that are asked now, and not only waiting to be."""
        self._rests_until_s: float | None = None
        self._work = [asyncio.create_task(self._serve(tenant)) for tenant in desk.config.tenants.values()]
        self._work.append(asyncio.create_task(self._clean()))

    def rest(self) -> None:
        """Ask nothing more until the next start; what an upstream has now has ``GRACE_S`` to end."""
        if self._rests_until_s is not None:
            return
        self._rests_until_s = asyncio.get_running_loop().time() + GRACE_S
        for task in (*self._work, *self._under_way.values()):
            call = self._asking.get(task)
            if call is None or self._desk.health.upstreams[call.upstream].down:
                task.cancel()

    async def aclose(self) -> None:
        """Rest, and hang up on what takes longer: that is asked again after the next start."""
        self.rest()
        assert self._rests_until_s is not None  # noqa: S101 (set by rest)
        if self._asking:
            left_s = self._rests_until_s - asyncio.get_running_loop().time()
            await asyncio.wait(self._asking, timeout=max(0.0, left_s))
        tasks = [*self._work, *self._under_way.values()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._ledger.close()

    # -- routes

    async def submit(
        self, caller: Caller, items: Sequence[Item], wish: CacheWish, header_priority: int | None
    ) -> Response:
        """Answer ``POST /v1/compute`` with ``"queue": true``: 202, and where to look."""
        tenant = caller.tenant
        if self.left.get(tenant.name, 0) + len(items) > self._config.queued_max:
            raise ApiError(
                429,
                f"At most {self._config.queued_max:,} questions of yours may be queued.",
                kind="rate_limit_error",
                code="queue_full",
            )
        entries = [_entry(item, header_priority) for item in items]
        priorities = [entry.body.get("priority") or QUEUED_PRIORITY for entry in entries if not entry.result]
        priority = min(max(priorities, default=QUEUED_PRIORITY), tenant.priority_max, QUEUED_PRIORITY_MOST)
        job = await self._asked(self._ledger.add, tenant.name, priority, asdict(wish), entries)
        left = sum(entry.result is None for entry in entries)
        self._count(tenant, left)
        self._wake[tenant.name].set()
        told = {
            "id": job,
            "object": "job",
            "state": "queued" if left else "done",
            "total": len(entries),
            "pending": left,
        }
        return Response(compact(told), 202, {"location": f"/v1/jobs/{job}"}, "application/json")

    async def listing(self, caller: Caller) -> Response:
        """Answer ``GET /v1/jobs``: the newest ones."""
        caller.require("compute")
        states = await self._asked(self._ledger.states, caller.tenant.name, 100)
        return Response(
            compact({"object": "list", "data": [_told(state) for state in states]}),
            media_type="application/json",
        )

    async def one(self, request: Request, caller: Caller) -> Response:
        """Answer ``GET /v1/jobs/ID``: how it stands, and the results so far."""
        caller.require("compute")
        after = _number(request, "after", -1, -1, 10**9)
        most = _number(request, "limit", PAGE, 0, PAGE_MOST)
        job = request.path_params["job"]
        state = await self._asked(self._ledger.state, caller.tenant.name, job)
        if state is None:
            raise ApiError(404, NO_JOB, code="job_not_found")
        found = await self._asked(self._ledger.results, job, after, most)
        told = _told(state) | {
            "results": [result for _, result in found],
            "next": found[-1][0] if found and len(found) == most else None,
        }
        return Response(compact(told), media_type="application/json")

    async def drop(self, request: Request, caller: Caller) -> Response:
        """Answer ``DELETE /v1/jobs/ID``: nothing of it is asked any more, and its results are gone."""
        caller.require("compute")
        job = request.path_params["job"]
        left = await self._asked(self._ledger.drop, caller.tenant.name, job)
        if left is None:
            raise ApiError(404, NO_JOB, code="job_not_found")
        for place, task in list(self._under_way.items()):
            if place[0] == job:
                task.cancel()
        self._count(caller.tenant, -left)
        self._wake[caller.tenant.name].set()
        return Response(status_code=204)

    @staticmethod
    async def _asked(work: Any, *values: Any) -> Any:
        """What the ledger says, from a thread. Raises a 503 where its file cannot be used."""
        try:
            return await asyncio.to_thread(work, *values)
        except StoreFailed:
            raise ApiError(
                503, "The jobs cannot be read or written now.", kind="server_error", code="jobs_unreadable"
            ) from None

    # -- the work

    async def _serve(self, tenant: Tenant) -> None:
        """Ask what the tenant has queued, for as long as the gateway runs."""
        wake, places = self._wake[tenant.name], max(1, tenant.concurrent // 2)
        mine: dict[tuple[str, int], asyncio.Task[None]] = {}
        page: list[Queued] = []
        more = True
        while True:
            if wake.is_set():
                wake.clear()
                page, more = [], True
            if not page and more and len(mine) < places:
                count = len(mine) + AHEAD
                page = await self._page(tenant, count)
                more = len(page) == count
            for queued in page[: max(0, places - len(mine))]:
                if queued.place not in mine:
                    task = asyncio.create_task(self._item(tenant, queued))
                    mine[queued.place] = self._under_way[queued.place] = task
            page = [queued for queued in page if queued.place not in mine]
            waking = asyncio.ensure_future(wake.wait())
            await asyncio.wait([waking, *mine.values()], return_when=asyncio.FIRST_COMPLETED)
            waking.cancel()
            for place in [place for place, task in mine.items() if task.done()]:
                task = mine.pop(place)
                self._under_way.pop(place, None)
                if not task.cancelled() and (error := task.exception()) is not None:
                    log_event("job_failed", trouble=True, job=place[0], why=type(error).__name__)
                    await asyncio.sleep(WAIT_S[0])
                    more = True  # it has no result, and is asked again

    async def _page(self, tenant: Tenant, count: int) -> list[Queued]:
        while True:
            try:
                return await asyncio.to_thread(self._ledger.next_of, tenant.name, count)
            except StoreFailed:
                await asyncio.sleep(WAIT_S[1])

    async def _item(self, tenant: Tenant, queued: Queued) -> None:
        """Ask one question until it has a result, and write that down."""
        me = asyncio.current_task()
        assert me is not None  # noqa: S101 (it is a task of _serve)
        try:
            result = await self._answered(tenant, queued, me)
            await self._ledger.keep(queued, {"id": queued.name, **result})
            self._count(tenant, -1)
        finally:
            self._asking.pop(me, None)

    def _count(self, tenant: Tenant, more: int) -> None:
        self.left[tenant.name] = max(0, self.left.get(tenant.name, 0) + more)

    async def _answered(self, tenant: Tenant, queued: Queued, me: asyncio.Task[Any]) -> dict[str, Any]:
        quota, wish = self._desk.quotas[tenant.name], CacheWish(**queued.wish)
        until = queued.created + self._config.job_patience_s
        tries = faults = 0
        while True:
            try:
                ask = read_compute(queued.body, batch_max=1)
                assert not isinstance(ask, list)  # noqa: S101 (it was read so when it came)
                priority = min(ask.priority or QUEUED_PRIORITY, QUEUED_PRIORITY_MOST)
                await quota.turn()
                async with (
                    quota.place(wait=True),
                    self._desk.call(tenant, ask.with_priority(priority), wish) as call,
                ):
                    self._asking[me] = call
                    return told_of(call, await call.whole())
            except ApiError as error:
                tries += 1
                faults += error.status in FAULTS
                ends = error.status not in (*WAITED_OUT, *FAULTS) or faults >= FAULTS_MOST
                wait_s = _wait_s(error, tries)
                if ends or time.time() + wait_s > until:
                    return {"error": {**error.told, "status": error.status}}
                self._asking.pop(me, None)
                if self._rests_until_s is not None:
                    raise asyncio.CancelledError from None  # asked again after the next start
                await asyncio.sleep(wait_s)

    async def _clean(self) -> None:
        while True:
            try:
                await asyncio.to_thread(self._ledger.forget, self._config.job_keep_s)
                self.left = await asyncio.to_thread(self._ledger.left)
            except StoreFailed:
                log_event("jobs_unreadable", trouble=True)
            await asyncio.sleep(CLEANS_EVERY_S)


def _entry(item: Item, header_priority: int | None) -> Entry:
    if isinstance(item.ask, ApiError):
        return Entry(item.id, {}, {"id": item.id, "error": {**item.ask.told, "status": item.ask.status}})
    body = dict(item.body)
    if body.get("priority") is None and header_priority is not None:
        body["priority"] = header_priority
    return Entry(item.id, body)


def _told(state: JobState) -> dict[str, Any]:
    return {
        "id": state.id,
        "object": "job",
        "state": state.state,
        "created": int(state.created),
        "finished": None if state.finished is None else int(state.finished),
        "priority": state.priority,
        "total": state.total,
        "pending": state.left,
    }


def _wait_s(error: ApiError, tries: int) -> float:
    """Before the next try: what was named, or twice as long each time; never all at the same moment."""
    named = error.headers.get("retry-after")
    least, most = WAIT_S
    wait_s = float(named) if named else min(most, least * 2.0 ** min(tries - 1, 10))
    return wait_s * (1 + random.random() / 4)  # noqa: S311 (jitter)


def _number(request: Request, name: str, default: int, low: int, high: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 12 and low <= int(text) <= high):
        raise bad_request(f"{name} is a whole number from {max(low, 0)} to {high}.", name)
    return int(text)
