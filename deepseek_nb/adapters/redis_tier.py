"""Answers that several processes and machines share through Redis, and who of them asks which question.

A tier between the memory and the file of an :class:`~deepseek_nb.adapters.store.AnswerStore`. It saves
money and never stops a call: where Redis is gone, nothing is found, every claim is granted, nothing is
kept, and each of it at once. It is tried again in the background, and used again once it answers.

Look-ups and claims of many keys are one round trip. Answers that are put and claims that are given back at
the same moment are one, too: a round trip is some 0.1 ms of processor time, too much for each row of a job.

In Redis, under ``deepseek_nb:1:``, are

* ``answer:KEY``: the time it was put, a checksum, and the answer's JSON text, until ``keep_s`` passed;
* ``claim:KEY``: the token of whoever asks it now, until its lease ends, which its owner extends.
"""

from __future__ import annotations

import asyncio
import hashlib
import ssl
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.secret import Secret

__all__ = ["RedisStanding", "RedisTier"]

T = TypeVar("T")

PREFIX = "deepseek_nb:1:"
"""Of every key; the number is raised when what stands under them changes."""

CONNECTIONS = 64
ANSWER_WITHIN_S = 0.5
"""Redis is called gone where it takes longer."""

LEASE_S = 10.0
"""A claim whose owner died is free after so long; one that lives extends it every third of it."""

CLAIMS_AT_ONCE = 1000
TRY_AGAIN_S = (0.2, 2.0)
"""Pauses between looks whether Redis is back: at first, and at most."""

DIGEST_CHARS = 32
CREATED_CHARS = 32
"""More than the time of an answer takes, which stands behind its checksum and ends with its line."""

_CLAIM = f"""
local count, told = #KEYS / 2, {{}}
for n = 1, count do
  told[n] = 0
  if redis.call('set', KEYS[n], ARGV[1], 'px', ARGV[2], 'nx') then
    told[n] = redis.call('getrange', KEYS[count + n], {DIGEST_CHARS + 1}, {DIGEST_CHARS + CREATED_CHARS})
  end
end
return told
"""
"""For each claim 0, or the beginning of its answer: what came meanwhile was put before its claim ended."""

_SETTLE = """
local puts, kept = tonumber(ARGV[1]), 0
for n = 1, puts do
  if redis.pcall('set', KEYS[n], ARGV[2 * n], 'px', ARGV[2 * n + 1]).ok then kept = kept + 1 end
end
for n = puts + 1, #KEYS do
  if redis.call('get', KEYS[n]) == ARGV[puts + 1 + n] then redis.call('del', KEYS[n]) end
end
return kept
"""
"""Answers first, then claims; one that is refused (Redis is full) hinders none of the others."""

_EXTEND = """
for n = 1, #KEYS do
  local held = redis.call('get', KEYS[n])
  if not held or held == ARGV[1 + n] then redis.call('set', KEYS[n], ARGV[1 + n], 'px', ARGV[1]) end
end
"""
"""A Redis that lost a claim is told again."""


class RedisStanding(UserWarning):
    """The Redis through which answers are shared is gone, or is back."""


class _Put(NamedTuple):
    key: str
    value: bytes
    left_ms: int
    written: asyncio.Future[None]


class RedisTier:
    """Answers and claims in the Redis at ``url``. Belongs to the event loop that uses it first.

    ``url`` is ``redis://``, ``rediss://`` or ``unix://``, password included. ``keep_s``: after so long
    Redis drops an answer. ``within_s``: it is called gone where it takes longer. ``told`` is called with
    whether Redis is there and a word why, at each change. ``now`` is the wall clock. Nothing here raises for
    Redis' sake. Costs one round trip, some 0.2 ms.

    Raises ConfigError where the package ``redis`` is missing, the url is none, or a certificate that it
    names cannot be read.

    >>> tier = RedisTier(Secret("redis://127.0.0.1:6379/0"))                     # doctest: +SKIP
    >>> await tier.get("@desk/deepseek/deepseek-flash_1f_2e")                    # doctest: +SKIP
    """

    def __init__(
        self,
        url: Secret,
        *,
        keep_s: float = 86400.0,
        lease_s: float = LEASE_S,
        within_s: float = ANSWER_WITHIN_S,
        told: Callable[[bool, str], object] = lambda _up, _why: None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.up = True
        """Whether it answered the last time."""
        self.why = ""
        """What it failed with, where it is gone."""
        self.counts = {"hits": 0, "misses": 0, "puts": 0, "errors": 0}
        self._keep_ms = max(1, round(keep_s * 1000))
        self._lease_s = lease_s
        self._told = told
        self._now = now
        self._within_s = within_s
        self._redis, self._errors, self._refusals = _connected(url, within_s)
        self._claims = self._redis.register_script(_CLAIM)
        self._settle = self._redis.register_script(_SETTLE)
        self._extend = self._redis.register_script(_EXTEND)
        self._held: dict[str, str] = {}
        self._putting: list[_Put] = []
        self._leaving: list[tuple[str, str]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._settling: asyncio.Task[None] | None = None
        self._beat: asyncio.Task[None] | None = None
        self._closed = False

    # ------------------------------------------------------------------------------------- answers

    async def get(self, key: str) -> tuple[str, float] | None:
        """The JSON text under ``key`` and when it was put; None where there is none, or a damaged one."""
        return (await self.get_many([key])).get(key)

    async def get_many(self, keys: Sequence[str]) -> dict[str, tuple[str, float]]:
        """As :meth:`get`, by key, for those that are there. One round trip."""
        if not keys:
            return {}
        nothing: list[bytes | None] = [None] * len(keys)
        values = await self._ask(lambda: self._redis.mget([*map(_answer_name, keys)]), nothing)
        read = {key: _read(key, value) for key, value in zip(keys, values, strict=True) if value is not None}
        found = {key: kept for key, kept in read.items() if kept is not None}
        self.counts["hits"] += len(found)
        self.counts["misses"] += len(keys) - len(found)
        return found

    async def put(self, key: str, text: str, created: float) -> None:
        """Keep it, where Redis takes it. With all that is put and given back at the same moment."""
        left_ms = self._keep_ms - round(1000 * max(0.0, self._now() - created))
        if left_ms > 0 and self.up and not self._closed:
            written = asyncio.get_running_loop().create_future()
            self._putting.append(_Put(key, _written(key, text, created), left_ms, written))
            self._settle_soon()
            await written

    # ------------------------------------------------------------------------------------- claims

    async def claim(self, key: str) -> bool:
        """Whether the question is now this process's to ask; :meth:`let_go` follows, also when cancelled.

        True where Redis cannot say: at worst it is paid twice.
        """
        return key in self._held or key in await self._take([key])

    async def claim_many(self, keys: Collection[str], ttl_s: float | None = None) -> set[str]:
        """Those of ``keys`` that are now this process's to ask and, at that very moment, have no answer here.

        An answer older than ``ttl_s`` is none. One round trip; :meth:`let_go` of each follows. All, where
        Redis cannot say.
        """
        mine = self._held.keys() & keys
        now = self._now()
        for key, beginning in (await self._take([key for key in keys if key not in mine])).items():
            created = _created(beginning)
            if created is None or (ttl_s is not None and now - created >= ttl_s):
                mine.add(key)
            else:
                self.let_go(key)
        return mine

    async def _take(self, keys: Sequence[str]) -> dict[str, bytes]:
        """What is now claimed here of ``keys``, which were not; each with the beginning of its answer."""
        if not keys:
            return {}
        token, lease_ms = uuid.uuid4().hex, round(1000 * self._lease_s)
        names = [*map(_claim_name, keys), *map(_answer_name, keys)]
        try:
            told = await self._ask(
                lambda: self._claims(keys=names, args=[token, lease_ms]), [b""] * len(keys)
            )
        except asyncio.CancelledError:
            self._leave(dict.fromkeys(keys, token))  # it may have been written
            raise
        taken = {key: answer for key, answer in zip(keys, told, strict=True) if isinstance(answer, bytes)}
        self._held.update(dict.fromkeys(taken, token))
        if self._held and (self._beat is None or self._beat.done()):
            self._beat = self._start(self._keep())
        return taken

    def let_go(self, key: str) -> None:
        """Give the claim back, without waiting for it. Nothing where it is not held."""
        token = self._held.pop(key, None)
        if token is not None:
            self._leave({key: token})

    def _leave(self, tokens: Mapping[str, str]) -> None:
        if self._closed or not (self.up or len(self._leaving) < CLAIMS_AT_ONCE):
            return  # their leases end
        self._leaving += tokens.items()
        if self.up:
            self._settle_soon()

    async def _keep(self) -> None:
        """Extend what is held until nothing is."""
        while self._held:
            await asyncio.sleep(self._lease_s / 3)
            held = list(self._held.items())
            for start in range(0, len(held), CLAIMS_AT_ONCE):
                some = held[start : start + CLAIMS_AT_ONCE]
                names = [_claim_name(key) for key, _ in some]
                args = [round(1000 * self._lease_s), *(token for _, token in some)]
                await self._ask(lambda names=names, args=args: self._extend(keys=names, args=args), None)  # type: ignore[misc]
                # let go meanwhile, and perhaps written again just now
                self._leave({key: token for key, token in some if self._held.get(key) != token})

    # ------------------------------------------------------------------------------------- both

    def _settle_soon(self) -> None:
        if self._settling is None or self._settling.done():
            self._settling = self._start(self._settle_all())

    async def _settle_all(self) -> None:
        """Put answers and give claims back, all that there are, until there are none."""
        while self._putting or self._leaving:
            putting, self._putting = self._putting, []
            leaving, self._leaving = self._leaving, []
            names = [*(_answer_name(put.key) for put in putting), *(_claim_name(key) for key, _ in leaving)]
            args: list[Any] = [len(putting)]
            for put in putting:
                args += put.value, put.left_ms
            args += (token for _, token in leaving)
            try:
                kept = await self._ask(
                    lambda names=names, args=args: self._settle(keys=names, args=args),  # type: ignore[misc]
                    None,
                )
                if kept is not None:
                    self.counts["puts"] += kept
                    self.counts["errors"] += len(putting) - kept
            finally:
                _end(putting)

    # ------------------------------------------------------------------------------------- its life

    async def aclose(self) -> None:
        """Give back what is held, and close the connections."""
        held, self._held = self._held, {}
        self._leave(held)
        self._closed = True
        if self._settling is not None:
            await asyncio.wait([self._settling], timeout=self._within_s)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self.up = False
        _end(self._putting)
        await self._redis.aclose()

    def _start(self, work: Any) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def look(self) -> bool:
        """Ask it whether it is there."""
        await self._ask(self._redis.ping, None)
        return self.up

    async def _ask(self, work: Callable[[], Awaitable[T]], otherwise: T) -> T:
        """What Redis says; ``otherwise`` where it is gone, does not answer or refuses."""
        if not self.up:
            return otherwise
        before, told = _cancellations(), otherwise
        try:
            told = await work()
        except self._refusals:  # it lives: it is full, or a copy that only reads
            self.counts["errors"] += 1
        except self._errors as error:
            self.counts["errors"] += 1
            self._gone(error)
        if _cancellations() > before:  # redis-py loses some while it closes a connection
            raise asyncio.CancelledError
        return told

    def _gone(self, error: Exception) -> None:
        if self.up and not self._closed:
            cause = error.__cause__ or error.__context__  # a wrong password is a lost connection
            self.up, self.why = False, _named(cause if isinstance(cause, self._errors) else error)
            self._told(False, self.why)
            self._start(self._return())

    async def _return(self) -> None:
        """Look until it is back."""
        wait_s, most_s = TRY_AGAIN_S
        while not self._closed:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, most_s)
            try:
                await self._redis.ping()
            except self._errors:
                continue
            self.up, self.why = True, ""
            self._settle_soon()  # what was claimed when it went
            self._told(True, "")
            return


def _connected(url: Secret, within_s: float) -> tuple[Any, tuple[type[Exception], ...], type[Exception]]:
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
            timeout=within_s,
            socket_timeout=within_s,
            socket_connect_timeout=within_s,
            retry=Retry(NoBackoff(), 0),
        )
        connection = pool.connection_class(**pool.connection_kwargs)  # refuses an option that there is not
    except (ValueError, TypeError, exceptions.RedisError):
        raise ConfigError(
            "The address of Redis is not taken.",
            hint="Such as: redis://127.0.0.1:6379/0, rediss://HOST or unix:///PATH",
        ) from None
    try:
        if (tls := getattr(connection, "ssl_context", None)) is not None:
            tls.get()  # reads the certificates that the address names
    except (OSError, ValueError, TypeError) as why:
        raise ConfigError(
            f"What the address of Redis says of TLS cannot be used: {getattr(why, 'strerror', None) or why}.",
            hint="ssl_ca_certs= names a file with the certificates to trust (PEM), which can be read here.",
        ) from None
    return Redis.from_pool(pool), (exceptions.RedisError, OSError), exceptions.ResponseError


def _named(error: BaseException) -> str:
    """An error's kind, and why a certificate is not trusted; nothing of what a server says."""
    why = getattr(error, "verify_message", "") if isinstance(error, ssl.SSLCertVerificationError) else ""
    return f"{type(error).__name__}: {why.rstrip('.')}" if why else type(error).__name__


def _cancellations() -> int:
    """How often this task is asked to end."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _end(putting: Sequence[_Put]) -> None:
    for put in putting:
        if not put.written.done():
            put.written.set_result(None)


def _answer_name(key: str) -> str:
    return f"{PREFIX}answer:{key}"


def _claim_name(key: str) -> str:
    return f"{PREFIX}claim:{key}"


def _written(key: str, text: str, created: float) -> bytes:
    body = f"{created!r}\n{text}".encode("utf-8", "surrogatepass")
    return _digest(key, body) + b"\n" + body


def _read(key: str, value: bytes) -> tuple[str, float] | None:
    digest, _, body = value.partition(b"\n")
    if digest != _digest(key, body):
        return None
    created, _, text = body.partition(b"\n")
    return text.decode("utf-8", "surrogatepass"), float(created)


def _created(beginning: bytes) -> float | None:
    """The time of an answer, from behind its checksum; None for what is none."""
    try:
        return float(beginning.partition(b"\n")[0])
    except ValueError:
        return None


def _digest(key: str, body: bytes) -> bytes:
    """Key, time and text belong together: what was changed in Redis is not found."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=DIGEST_CHARS // 2)
    digest.update(b"\n" + body)
    return digest.hexdigest().encode()
