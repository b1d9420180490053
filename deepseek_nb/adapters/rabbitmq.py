"""RabbitMQ, by way of aio-pika: rows go out, answers come back, and nothing is dropped before it is kept.

Everything is durable and confirmed: what :meth:`Broker.publish` was given is on the broker's disk when it
returns, and what a consumer took is the broker's until it is acknowledged. A connection that breaks raises
:class:`BrokerLost`; the broker gives what was not acknowledged to the next consumer.

Names on the broker::

    deepseek_nb.ROUTE         the rows for that server, in five priorities
    deepseek_nb.ROUTE.dead    rows that were given up, with the reason
    deepseek_nb.answers.ID    the answers of one job, until its submitter has kept them
    deepseek_nb.put.ID        an exchange that nothing goes through: while it is there, the rows of that
                              handing over are wanted. Taking a job back deletes it.
    deepseek_nb.since.ID      the same, but gone after a restart of the broker
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

from deepseek_nb.core.errors import ConfigError
from deepseek_nb.core.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage

__all__ = ["Broker", "BrokerLost", "Delivery", "Inbox", "Parcel", "broker_url", "shown_url"]

PRIORITIES = 5
NAMES = "deepseek_nb"
CONNECT_S = 15.0
PUBLISHED_AT_ONCE = 256
"""So many messages may wait for their confirmation at a time."""
URL_VARIABLE = "DEEPSEEK_AMQP_URL"


class BrokerLost(Exception):
    """The connection to the broker broke, or there was none. What was not confirmed is to be done again."""


class Inbox(deque["Delivery"]):
    """What has come and was not looked at yet; ``arrived`` is set when something comes."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = asyncio.Event()


@dataclass(frozen=True, slots=True)
class Parcel:
    """A message to send."""

    body: bytes
    id: str
    priority: int = 0
    answers: str = ""
    """The queue that the answer goes to."""
    headers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that came; it is the broker's until :meth:`Broker.ack`."""

    body: bytes
    id: str
    priority: int
    answers: str
    headers: Mapping[str, Any]
    again: bool
    """The broker gave it to somebody before, who did not acknowledge it."""
    message: Any = field(repr=False)

    def parcel(self, **headers: Any) -> Parcel:
        """The same once more, with other headers."""
        return Parcel(self.body, self.id, self.priority, self.answers, {**self.headers, **headers})

    def told(self) -> dict[str, Any]:
        """The body, read. Raises ValueError for what is none of ours."""
        told = json.loads(self.body)
        if not isinstance(told, dict):
            raise ValueError("not a JSON object")  # noqa: TRY004 (a body is data)
        return told


def broker_url(given: str) -> Secret:
    """The address of the broker: as given, or from DEEPSEEK_AMQP_URL where that is the same with a password.

    Raises ConfigError for what is no address.
    """
    kept = os.environ.get(URL_VARIABLE, "")
    if given in ("amqp", "amqps"):
        if not kept:
            raise ConfigError(
                f"There is no broker: {URL_VARIABLE} is not set.",
                hint="Set it to amqp://user:password@host, or give the address.",
            )
        given = kept
    shown = shown_url(given)
    if kept and shown == given and shown_url(kept) == shown:
        given = kept  # the address without its password, as errors and lists show it
    return Secret(given)


def shown_url(url: str) -> str:
    """The address without user and password. Raises ConfigError for what is no address of a RabbitMQ."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("amqp", "amqps") or not parts.hostname:
        raise ConfigError(
            "That is no address of a RabbitMQ.",
            hint="It looks like amqp://user:password@host:5672/vhost (amqps:// over TLS). Nothing was sent.",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return urlunsplit((parts.scheme, host if port is None else f"{host}:{port}", parts.path, "", ""))


def _library() -> Any:
    try:
        import aio_pika
    except ModuleNotFoundError as missing:
        raise ConfigError(
            f"A RabbitMQ queue needs the package {missing.name}, which is not installed.",
            hint='Install it with: pip install "deepseek_nb[rabbitmq]"',
        ) from None
    for name in ("aio_pika", "aiormq"):  # else a lost connection prints their tracebacks
        logger = logging.getLogger(name)
        if not logger.handlers:
            logger.addHandler(logging.NullHandler())
    return aio_pika


@contextmanager
def _lost() -> Iterator[None]:
    """Every way in which a connection breaks, as BrokerLost."""
    library = _library()
    try:
        yield
    except (library.exceptions.AMQPError, library.exceptions.ChannelInvalidStateError) as why:
        raise BrokerLost(f"{type(why).__name__}: {why}") from None
    except (OSError, RuntimeError) as why:
        raise BrokerLost(f"{type(why).__name__}: {why}") from None
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise BrokerLost("the connection was closed") from None  # its futures are cancelled with it


class Broker:
    """One connection to a RabbitMQ. Made by :meth:`open`, used in one event loop.

    Example::

        async with Broker.open(broker_url("amqp://localhost")) as broker:
            rows = await broker.declare_rows("api.deepseek.com")
            await broker.publish(rows, [Parcel(b"{}", "1", priority=2)])     # on the broker's disk now
            inbox = await broker.consume(rows, at_once=16)
            await inbox.arrived.wait()
            await broker.ack(inbox.popleft())
    """

    def __init__(self, connection: AbstractConnection, channel: AbstractChannel) -> None:
        self._connection = connection
        self._channel = channel
        self._asking: AbstractChannel | None = None
        self._one_at_a_time = asyncio.Lock()
        self.lost = asyncio.Event()
        """Set when the connection is gone."""
        for closed in (connection.close_callbacks, channel.close_callbacks):
            closed.add(lambda *_: self.lost.set())

    @classmethod
    @asynccontextmanager
    async def open(cls, url: Secret) -> AsyncIterator[Broker]:
        """A connection, closed at the end. Raises BrokerLost, or ConfigError where it is refused for good."""
        library = _library()
        address = url.reveal()
        refused = (
            library.exceptions.ProbableAuthenticationError,
            library.exceptions.AuthenticationError,
        )
        connection = library.Connection(library.connection.make_url(address))
        try:
            try:
                with _lost():
                    try:
                        await connection.connect(timeout=CONNECT_S)
                    except refused:
                        raise ConfigError(
                            f"The RabbitMQ at {shown_url(address)} does not take this user and password.",
                            hint="amqp://user:password@host; guest is for its own machine only.",
                        ) from None
                    except library.exceptions.ConnectionClosed as closed:
                        raise ConfigError(
                            f"The RabbitMQ at {shown_url(address)} refused the connection: "
                            f"{url.scrub(str(closed))}",
                        ) from None
                    channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
            except BrokerLost as why:
                raise BrokerLost(
                    f"No RabbitMQ answers at {shown_url(address)} ({url.scrub(str(why))})."
                ) from None
            yield cls(connection, channel)
        finally:
            with suppress(BrokerLost), _lost():  # it may be gone already
                async with asyncio.timeout(CONNECT_S):
                    await connection.close()

    # -- what is there

    async def declare_rows(self, route: str) -> str:
        """Make sure of the queue of rows for that server, and of its dead letters; gives its name."""
        name = f"{NAMES}.{route}"
        with _lost():
            await self._channel.declare_queue(f"{name}.dead", durable=True)
            await self._channel.declare_queue(
                name,
                durable=True,
                arguments={
                    "x-max-priority": PRIORITIES,
                    "x-dead-letter-exchange": "",
                    "x-dead-letter-routing-key": f"{name}.dead",
                },
            )
        return name

    async def declare_answers(self, answers: str) -> str:
        """Make sure of the queue of a job's answers; gives its name."""
        name = f"{NAMES}.answers.{answers}"
        with _lost():
            await self._channel.declare_queue(name, durable=True)
        return name

    async def standing(self, queue: str) -> tuple[int, int]:
        """How many messages wait in the queue, and how many consumers it has."""
        with _lost():
            there = await self._channel.declare_queue(queue, durable=True, passive=True)
        told = there.declaration_result
        return int(told.message_count or 0), int(told.consumer_count or 0)

    async def delete_queue(self, queue: str) -> None:
        """Delete it with what is in it; nothing where it is not there."""
        with _lost():
            await self._channel.queue_delete(queue)

    async def mark(self, put: str) -> None:
        """The rows of that handing over are wanted."""
        with _lost():
            await self._channel.declare_exchange(f"{NAMES}.put.{put}", "fanout", durable=True)
            await self._channel.declare_exchange(f"{NAMES}.since.{put}", "fanout", durable=False)

    async def unmark(self, put: str) -> None:
        """They are not any more: whoever takes one drops it."""
        with _lost():
            await self._channel.exchange_delete(f"{NAMES}.put.{put}")
            await self._channel.exchange_delete(f"{NAMES}.since.{put}")

    async def marked(self, put: str) -> bool:
        """Whether the rows of that handing over are wanted. One round trip."""
        return await self._exists(f"{NAMES}.put.{put}")

    async def unbroken(self, put: str) -> bool:
        """Whether the broker was up all the time since :meth:`mark`.

        Else what was acknowledged in its last moments may be in its queues again.
        """
        return await self._exists(f"{NAMES}.since.{put}")

    async def _exists(self, exchange: str) -> bool:
        library = _library()
        async with self._one_at_a_time:
            with _lost():
                if self._asking is None or self._asking.is_closed:
                    self._asking = await self._connection.channel(publisher_confirms=False)
                try:
                    await self._asking.get_exchange(exchange, ensure=True)
                except library.exceptions.ChannelNotFoundEntity:  # that channel is closed for it
                    self._asking = None
                    return False
                return True

    # -- out

    async def publish(self, queue: str, parcels: Sequence[Parcel]) -> None:
        """Send them; on the broker's disk when this returns. About 0.2 ms each.

        Raises BrokerLost where it is not known of all of them, and LookupError for a queue that is not there.
        """
        for first in range(0, len(parcels), PUBLISHED_AT_ONCE):
            sending = [self._send(queue, parcel) for parcel in parcels[first : first + PUBLISHED_AT_ONCE]]
            for done in await asyncio.gather(*sending, return_exceptions=True):
                if isinstance(done, BaseException):
                    raise done

    async def _send(self, queue: str, parcel: Parcel) -> None:
        library = _library()
        message = library.Message(
            parcel.body,
            headers=dict(parcel.headers),
            content_type="application/json",
            delivery_mode=library.DeliveryMode.PERSISTENT,
            priority=parcel.priority,
            message_id=parcel.id,
            reply_to=parcel.answers or None,
        )
        with _lost():
            try:
                await self._channel.default_exchange.publish(message, routing_key=queue, mandatory=True)
            except library.exceptions.DeliveryError:
                raise LookupError(f"There is no queue {queue!r}.") from None

    # -- in

    async def consume(self, queue: str, *, at_once: int) -> Inbox:
        """Take from the queue: what comes, at most ``at_once`` that are not acknowledged yet."""
        inbox = Inbox()

        async def take(message: AbstractIncomingMessage) -> None:
            inbox.append(_delivery(message))
            inbox.arrived.set()

        with _lost():
            await self._channel.set_qos(prefetch_count=at_once)
            there = await self._channel.get_queue(queue, ensure=False)
            self._consumer = there, await there.consume(take)
        return inbox

    async def stop_consuming(self) -> None:
        """Take nothing more; what was taken stays taken."""
        there, tag = self._consumer
        with _lost():
            await there.cancel(tag)

    async def ack(self, delivery: Delivery) -> None:
        """It is done: the broker forgets it."""
        with _lost():
            await delivery.message.ack()

    async def give_back(self, queue: str, delivery: Delivery, **headers: Any) -> None:
        """Put it into the queue again, with these headers beside its own."""
        await self.publish(queue, [delivery.parcel(**headers)])
        await self.ack(delivery)

    async def look(self, queue: str, most: int = 1000) -> list[Delivery]:
        """What is in the queue, at most so many; all of it stays there."""
        found: list[Delivery] = []
        with _lost():
            async with self._connection.channel() as channel:  # its end puts them back
                there = await channel.get_queue(queue, ensure=False)
                while len(found) < most and (message := await there.get(fail=False)) is not None:
                    found.append(_delivery(message))
        return found


def _delivery(message: AbstractIncomingMessage) -> Delivery:
    return Delivery(
        message.body,
        message.message_id or "",
        message.priority or 0,
        message.reply_to or "",
        dict(message.headers),
        bool(message.redelivered),
        message,
    )
