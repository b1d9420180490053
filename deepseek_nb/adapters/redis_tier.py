"""Answers that several processes and machines share through Redis, and who of them asks which question.

A tier between the memory and the file of an :class:`~deepseek_nb.adapters.store.AnswerStore`. It saves
money and never stops a call: where Redis is gone, nothing is found, every claim is granted, nothing is
kept, and each of it at once. It is tried again in the background, and used again once it answers.

In Redis, under ``deepseek_nb:1:``, are

* ``answer:KEY``: the time it was put, a checksum, and the answer's JSON text, until ``keep_s`` passed;
* ``claim:KEY``: the token of whoever asks it now, until its lease ends, which its owner extends.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.secret import Secret

__all__ = ["RedisTier"]

T = TypeVar("T")

PREFIX = "deepseek_nb:1:"
"""Of every key; the number is raised when what stands under them changes."""

CONNECTIONS = 64
ANSWER_WITHIN_S = 0.5
"""Redis is called gone where it takes longer."""

LEASE_S = 10.0
"""A claim whose owner died is free after so long; one that lives extends it every third of it."""

TRY_AGAIN_S = (0.2, 2.0)
"""Pauses between looks whether Redis is back: at first, and at most."""

_RELEASE = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0"
_EXTEND = (
    "local held = redis.call('get', KEYS[1]) "
    "if held and held ~= ARGV[1] then return 0 end "  # a Redis that lost it is told again
    "redis.call('set', KEYS[1], ARGV[1], 'px', ARGV[2]) return 1"
)


class RedisTier:
    """Answers and claims in the Redis at ``url``. Belongs to the event loop that uses it first.

    ``url`` is ``redis://``, ``rediss://`` or ``unix://``, password included. ``keep_s``: after so long
    Redis drops an answer. ``told`` is called with whether Redis is there and a word why, at each change.
    ``now`` is the wall clock. Nothing here raises for Redis' sake. Costs one round trip, some 0.2 ms.

    Raises ConfigError where the package ``redis`` is missing or the url is none.

    >>> tier = RedisTier(Secret("redis://127.0.0.1:6379/0"))                     # doctest: +SKIP
    >>> await tier.get("@desk/deepseek/deepseek-flash_1f_2e")                    # doctest: +SKIP
    """

    def __init__(
        self,
        url: Secret,
        *,
        keep_s: float = 86400.0,
        lease_s: float = LEASE_S,
        told: Callable[[bool, str], object] = lambda _up, _why: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.up = True
        """Whether it answered the last time."""
        self.counts = {"hits": 0, "misses": 0, "puts": 0, "errors": 0}
        self._keep_ms = max(1, round(keep_s * 1000))
        self._lease_s = lease_s
        self._told = told
        self._now = now
        self._redis, self._errors, self._refusals = _connected(url)
        self._release = self._redis.register_script(_RELEASE)
        self._extend = self._redis.register_script(_EXTEND)
        self._held: dict[str, str] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._beat: asyncio.Task[None] | None = None
        self._closed = False

    # ------------------------------------------------------------------------------------- answers

    async def get(self, key: str) -> tuple[str, float] | None:
        """The JSON text under ``key`` and when it was put; None where there is none, or a damaged one."""
        value = await self._ask(lambda: self._redis.get(f"{PREFIX}answer:{key}"), None)
        found = None if value is None else _read(key, value)
        self.counts["misses" if found is None else "hits"] += 1
        return found

    async def put(self, key: str, text: str, created: float) -> None:
        """Keep it, where Redis takes it."""
        left_ms = self._keep_ms - round(1000 * max(0.0, self._now() - created))
        if left_ms > 0:
            value = _written(key, text, created)
            if await self._ask(lambda: self._redis.set(f"{PREFIX}answer:{key}", value, px=left_ms), None):
                self.counts["puts"] += 1

    # ------------------------------------------------------------------------------------- claims

    async def claim(self, key: str) -> bool:
        """Whether the question is now this process's to ask; :meth:`let_go` follows, also when cancelled.

        True where Redis cannot say: at worst it is paid twice.
        """
        token = uuid.uuid4().hex
        lease_ms = round(1000 * self._lease_s)
        self._held[key] = token
        try:
            mine = await self._ask(
                lambda: self._redis.set(f"{PREFIX}claim:{key}", token, nx=True, px=lease_ms), True
            )
        except asyncio.CancelledError:
            self.let_go(key)  # it may have been written
            raise
        if not mine:
            self._held.pop(key, None)
            return False
        if self._beat is None or self._beat.done():
            self._beat = self._start(self._keep())
        return True

    def let_go(self, key: str) -> None:
        """Give the claim back, without waiting for it. Nothing where it is not held."""
        token = self._held.pop(key, None)
        if token is not None and self.up and not self._closed:
            self._start(self._let_go(key, token))

    async def _let_go(self, key: str, token: str) -> None:
        await self._ask(lambda: self._release(keys=[f"{PREFIX}claim:{key}"], args=[token]), None)

    async def _keep(self) -> None:
        """Extend what is held until nothing is."""
        while self._held:
            await asyncio.sleep(self._lease_s / 3)
            lease_ms = round(1000 * self._lease_s)
            for key, token in list(self._held.items()):
                args = [token, lease_ms]
                await self._ask(
                    lambda key=key, args=args: self._extend(keys=[f"{PREFIX}claim:{key}"], args=args),  # type: ignore[misc]
                    None,
                )
                if key not in self._held:  # let go meanwhile, and perhaps written again just now
                    self._start(self._let_go(key, token))

    # ------------------------------------------------------------------------------------- its life

    async def aclose(self) -> None:
        """Give back what is held, and close the connections."""
        for key in list(self._held):
            self.let_go(key)
        self._closed = True
        if self._beat is not None:
            self._beat.cancel()
        working = {task for task in self._tasks if task is not self._beat}
        if working:
            await asyncio.wait(working, timeout=ANSWER_WITHIN_S)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._redis.aclose()

    def _start(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _ask(self, work: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """What Redis says; ``otherwise`` where it is gone, does not answer or refuses."""
        if not self.up:
            return otherwise
        try:
            return await work()
        except self._refusals:  # it lives: it is full, or a copy that only reads
            self.counts["errors"] += 1
        except self._errors as error:
            self.counts["errors"] += 1
            self._gone(error)
        return otherwise

    def _gone(self, error: Exception) -> None:
        if self.up and not self._closed:
            self.up = False
            self._told(False, type(error).__name__)
            self._start(self._return())

    async def _return(self) -> None:
        """Look until it is back."""
        wait_s, most_s = TRY_AGAIN_S
        while not self.up:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, most_s)
            try:
                await self._redis.ping()
            except self._errors:
                continue
            self.up = True
        self._told(True, "")


def _connected(url: Secret) -> tuple[Any, tuple[type[Exception], ...], type[Exception]]:
    """A client, what it raises where Redis is gone, and what it raises where Redis refuses."""
    try:
        from redis import exceptions
        from redis.asyncio import BlockingConnectionPool, Redis
        from redis.asyncio.retry import Retry
        from redis.backoff import NoBackoff
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] != "redis":
            raise
        raise ConfigError(
            "A shared cache needs the package redis, which is not installed.",
            hint='Install it with: pip install "deepseek_nb[redis]"',
        ) from None
    try:
        pool = BlockingConnectionPool.from_url(
            url.reveal(),
            max_connections=CONNECTIONS,
            timeout=ANSWER_WITHIN_S,
            socket_timeout=ANSWER_WITHIN_S,
            socket_connect_timeout=ANSWER_WITHIN_S,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError:
        raise ConfigError(
            "The address of Redis is not taken.",
            hint="Such as: redis://127.0.0.1:6379/0, rediss://HOST or unix:///PATH",
        ) from None
    return Redis.from_pool(pool), (exceptions.RedisError, OSError), exceptions.ResponseError


def _written(key: str, text: str, created: float) -> bytes:
    body = f"{created!r}\n{text}".encode("utf-8", "surrogatepass")
    return _digest(key, body) + b"\n" + body


def _read(key: str, value: bytes) -> tuple[str, float] | None:
    digest, _, body = value.partition(b"\n")
    if digest != _digest(key, body):
        return None
    created, _, text = body.partition(b"\n")
    return text.decode("utf-8", "surrogatepass"), float(created)


def _digest(key: str, body: bytes) -> bytes:
    """Key, time and text belong together: what was changed in Redis is not found."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16)
    digest.update(b"\n" + body)
    return digest.hexdigest().encode()
