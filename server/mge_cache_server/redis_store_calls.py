"""How a command reaches the server: by a connection of its own, or by a cluster's client."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from hiredis import pack_command
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from redis.asyncio import ConnectionPool
    from redis.asyncio.cluster import RedisCluster
    from redis.asyncio.connection import AbstractConnection

Argument = str | bytes | int
Command = tuple[Argument, ...]

_CLUSTER_START_S = 1.0


class Calls(Protocol):
    """Sends commands. Each method may raise redis-py's errors and OSError."""

    async def start(self) -> None:
        """Get ready as far as possible; what fails here fails again at the first command."""

    async def execute(self, *command: Argument) -> Any:
        """Send a command and return its reply. May be cancelled at any time."""

    async def execute_both(self, first: Command, second: Command) -> tuple[Any, Any]:
        """Send two commands at once; a ResponseError is returned in its reply's place."""

    async def drop_idle(self) -> None:
        """Let the next commands open new connections."""

    async def close(self) -> None:
        """Close what this opened."""


class ConnectionCalls:
    """For one server, or a primary behind Sentinel.

    It uses redis-py's connections without its pool and its ``execute_command``, which take longer
    than the rest of a look-up together (see ARCHITECTURE.md). The caller bounds how many calls are
    under way; so many connections there are at most.
    """

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._idle: list[AbstractConnection] = []

    async def start(self) -> None:
        """Do nothing: connections are made when they are needed."""

    async def execute(self, *command: Argument) -> Any:
        """See ``Calls.execute``."""
        (reply,) = await self._exchange(_packed(command), 1)
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    async def execute_both(self, first: Command, second: Command) -> tuple[Any, Any]:
        """See ``Calls.execute_both``."""
        one, other = await self._exchange(_packed(first) + _packed(second), 2)
        return one, other

    async def drop_idle(self) -> None:
        """See ``Calls.drop_idle``."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)

    async def close(self) -> None:
        """See ``Calls.close``."""
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect()

    async def _exchange(self, packed: bytes, replies: int) -> list[Any]:
        while self._idle:
            try:
                return await self._send(self._idle.pop(), packed, replies)
            except RedisConnectionError:
                # The server has closed it since it was last used. Its fellows will be no better.
                await self.drop_idle()
        connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        return await self._send(connection, packed, replies)

    async def _send(self, connection: AbstractConnection, packed: bytes, replies: int) -> list[Any]:
        try:
            if not connection.is_connected:
                await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_packed_command(packed, check_health=False)
            received = [await _reply(connection) for _ in range(replies)]
        except BaseException:
            # Cancelled, or broken: a reply that still comes would be taken for the next one's.
            await connection.disconnect(nowait=True)
            raise
        self._idle.append(connection)
        return received


def _packed(command: Command) -> bytes:
    packed: bytes = pack_command(command)  # type: ignore[arg-type] # its stub wants one argument
    return packed


async def _reply(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as exc:
        # The server has answered: the connection is as good as before.
        return exc


class ClusterCalls:
    """For a Redis Cluster."""

    def __init__(self, client: RedisCluster) -> None:
        self._client = client
        self._abandoned: set[asyncio.Future[Any]] = set()

    async def start(self) -> None:
        """Learn the topology, for a second at most."""
        with suppress(RedisError, OSError, TimeoutError):
            async with asyncio.timeout(_CLUSTER_START_S):
                await self._finish(self._client.initialize())

    async def execute(self, *command: Argument) -> Any:
        """See ``Calls.execute``."""
        return await self._finish(self._execute(*command))

    async def execute_both(self, first: Command, second: Command) -> tuple[Any, Any]:
        """See ``Calls.execute_both``. They may be for two nodes."""
        replies = await asyncio.gather(
            self.execute(*first), self.execute(*second), return_exceptions=True
        )
        for reply in replies:
            if isinstance(reply, BaseException) and not isinstance(reply, ResponseError):
                raise reply
        return replies[0], replies[1]

    async def drop_idle(self) -> None:
        """Leave it to the cluster's client, which follows the topology."""

    async def close(self) -> None:
        """See ``Calls.close``; waits for abandoned calls, which time out by themselves."""
        if self._abandoned:
            await asyncio.wait(self._abandoned)

    async def _execute(self, *command: Argument) -> Any:
        # Calls that find the topology unknown would each go to any node and be sent on from there.
        await self._client.initialize()
        return await self._client.execute_command(*command)

    async def _finish(self, call: Awaitable[Any]) -> Any:
        """Await a call of the cluster's client; where our time is over, it goes on without us.

        Cancelled while it learns the topology, that client loses connections that nobody closes.
        """
        task = asyncio.ensure_future(call)
        self._abandoned.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Future[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # Seen by whoever waits, if anybody still does.
