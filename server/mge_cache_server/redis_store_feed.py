"""The feed of changes over Redis pub/sub, and the form of its messages.

``I <clock before> <tick> <namespace>`` and a line for each tag: an invalidation.
``S <namespace> <key>``: a lease that somebody waited for is over. Tags have no control characters.
``R <namespace> <partition> <key> <writer>``: a row was put into a partition.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from mge_cache_server.model import EntryKey
from mge_cache_server.redis_store_errors import refuses_writes
from mge_cache_server.store import Alive, Invalidated, RowStored, Settled, Subscribed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from redis.asyncio import Redis

    from mge_cache_server.store import FeedEvent

_PINGS_PER_TIMEOUT = 4
_CONNECTS_PER_TIMEOUT = 2
"""Connecting gets less time than silence: with the pause before it, it is tried within a second."""

_PONG = {"type": "pong"}


def parse_message(data: bytes) -> FeedEvent | None:
    """Read a message; None if it is not one of these: a newer sidecar's, or not ours at all."""
    try:
        head, *tags = data.decode().split("\n")
        match head.split(" "):
            case ["I", previous, tick, namespace]:
                return Invalidated(namespace, int(previous), int(tick), tuple(tags))
            case ["S", namespace, digest]:
                return Settled(EntryKey(namespace, bytes.fromhex(digest)))
            case ["R", namespace, partition, digest, writer]:
                key = EntryKey(namespace, bytes.fromhex(partition))
                return RowStored(key, bytes.fromhex(digest), writer)
    except ValueError:
        return None
    return None


async def read_feed(
    client: Redis | RedisCluster, channel: str, timeout_s: float
) -> AsyncIterator[FeedEvent]:
    """Subscribe and yield events; raises redis-py's errors, or TimeoutError after a silence."""
    if isinstance(client, RedisCluster):
        # Bounded by the client's own timeouts; cancelled, it would lose connections.
        await asyncio.shield(client.initialize())
    pubsub = client.pubsub()
    try:
        async with asyncio.timeout(timeout_s / _CONNECTS_PER_TIMEOUT):
            await pubsub.subscribe(channel)
        async for event in _events(pubsub, timeout_s):
            yield event
    finally:
        await pubsub.aclose()  # type: ignore[no-untyped-call]


async def _events(pubsub: Any, timeout_s: float) -> AsyncIterator[FeedEvent]:
    loop = asyncio.get_running_loop()
    asked_s: float | None = None  # since when a PING has had no answer
    while True:
        try:
            # redis-py connects again in here when the connection breaks, without a limit of time.
            async with asyncio.timeout(timeout_s):
                message = await pubsub.get_message(timeout=timeout_s / _PINGS_PER_TIMEOUT)
        except ResponseError as exc:
            if not refuses_writes(exc):
                raise
            message = _PONG  # a server that cannot save its data answers PING with that error
        if message is None:
            if asked_s is None:
                asked_s = loop.time()
            elif loop.time() - asked_s > timeout_s:
                raise RedisConnectionError("no answer to PING on the feed")
            async with asyncio.timeout(timeout_s):
                await pubsub.ping()
            continue
        asked_s = None
        if message["type"] == "subscribe":
            yield Subscribed()
        elif message["type"] == "message":
            event = parse_message(message["data"])
            if event is not None:
                yield event
        else:
            yield Alive()
