"""The store on Redis or Valkey: standalone, behind Sentinel, or a Cluster.

Every operation is one round trip, bounded by a deadline, guarded by a breaker, and measured.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from typing import TYPE_CHECKING, Any

from redis.asyncio.cluster import RedisCluster
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError

from mge_cache_server import redis_store_scripts as scripts
from mge_cache_server.breaker import Breaker
from mge_cache_server.deadline import Deadline
from mge_cache_server.errors import StoreRefusedError, StoreUnavailableError
from mge_cache_server.keys import KeyNames
from mge_cache_server.model import EntryKey
from mge_cache_server.redis_store_calls import Argument, ClusterCalls, ConnectionCalls
from mge_cache_server.redis_store_connect import connect, disconnect
from mge_cache_server.redis_store_deferred import RedisDeferred
from mge_cache_server.redis_store_errors import concerns_others, reason, refuses_writes
from mge_cache_server.redis_store_feed import read_feed
from mge_cache_server.redis_store_vectors import RedisVectors
from mge_cache_server.store import EpochTable, Invalidated, Lookup, Row, RowPage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence

    from redis.asyncio import Redis

    from mge_cache_server.config import Settings
    from mge_cache_server.errors import StoreError
    from mge_cache_server.redis_store_calls import Calls
    from mge_cache_server.redis_store_scripts import Script
    from mge_cache_server.store import FeedEvent, LeaseOffer

_log = logging.getLogger(__name__)

_Names = tuple[str, ...]
_Arguments = tuple[_Names, tuple[Argument, ...]]
"""The keys of a script, and its other arguments."""

_IN_FLIGHT_MAX = 32
_SCAN_PAGE = 500
_ROWS_PAGE = 250
_PROBE_KEY = EntryKey("default", bytes(32))
"""No prompt has this key."""


class RedisStore:
    """Implements ``Store``.

    A deadline starts when an operation gets its turn (at most 32 are under way at once), so that a
    burst of callers is not mistaken for a slow server. ``retention_s`` is how long epochs are kept:
    longer than any entry lives. ``observe(operation, seconds)`` is called
    after each operation that was tried, failed ones too.
    """

    kind = "redis"

    def __init__(
        self, settings: Settings, *, retention_s: float, observe: Callable[[str, float], None]
    ) -> None:
        self._client: Redis | RedisCluster = connect(settings)
        self._calls: Calls = (
            ClusterCalls(self._client)
            if isinstance(self._client, RedisCluster)
            else ConnectionCalls(self._client.connection_pool)
        )
        self.writer = secrets.token_hex(4)
        self._names = KeyNames(settings.key_prefix)
        self.deferred = RedisDeferred(self._names, self._run)
        self._observe = observe
        self._timeout_s = settings.store_timeout_s
        self._feed_timeout_s = settings.feed_timeout_s
        self._retention_ms = round(retention_s * 1000)
        self.vectors = RedisVectors(self._names, self._calls, self._run, self._timed)
        self._turns = asyncio.Semaphore(_IN_FLIGHT_MAX)
        self._takes_writes = True
        self._breaker = Breaker(
            probe=self._probe,
            failures=settings.breaker_failures,
            retry_s=settings.breaker_retry_s,
        )

    @property
    def available(self) -> bool:
        """Whether the breaker is closed."""
        return not self._breaker.open

    async def start(self) -> None:
        """Learn a cluster's topology, for a second at most; else connect when it is needed."""
        await self._calls.start()

    async def lookup(
        self, key: EntryKey, offer: LeaseOffer | None = None, reject: bytes = b""
    ) -> Lookup:
        """See ``Store.lookup``."""
        names, args = self._lookup(key, offer, reject)
        return scripts.found(await self._run("lookup", scripts.LOOKUP, names, *args))

    async def lookup_dated(
        self, key: EntryKey, offer: LeaseOffer | None, reject: bytes, *, after: int
    ) -> tuple[Lookup, EpochTable]:
        """See ``Store.lookup_dated``. Two scripts, as their keys are in different slots."""
        reply, epochs = await self._timed(
            "lookup",
            self._call_both,
            (scripts.LOOKUP, *self._lookup(key, offer, reject)),
            (scripts.READ_EPOCHS, *self._reading(key.namespace, after)),
        )
        return scripts.found(reply), scripts.epoch_table(epochs)

    async def put(self, key: EntryKey, record: bytes, ttl_s: float, token: bytes = b"") -> None:
        """See ``Store.put``."""
        names = (self._names.entry(key), self._names.lease(key))
        channel, message = self._names.feed_channel, _settled_message(key)
        await self._run(
            "put", scripts.PUT, names, record, _ms(ttl_s), token, channel, message, writes=True
        )

    async def renew_lease(self, key: EntryKey, token: bytes, ttl_s: float) -> bool:
        """See ``Store.renew_lease``."""
        names = (self._names.lease(key),)
        return bool(await self._run("renew_lease", scripts.RENEW, names, token, _ms(ttl_s)))

    async def release_lease(self, key: EntryKey, token: bytes) -> None:
        """See ``Store.release_lease``."""
        names = (self._names.lease(key),)
        channel, message = self._names.feed_channel, _settled_message(key)
        await self._run("release_lease", scripts.RELEASE, names, token, channel, message)

    async def read_epochs(self, namespace: str, after: int) -> EpochTable:
        """See ``Store.read_epochs``."""
        names, args = self._reading(namespace, after)
        reply = await self._run("read_epochs", scripts.READ_EPOCHS, names, *args)
        return scripts.epoch_table(reply)

    async def advance(self, namespace: str, tags: Sequence[str], *, after: int = 0) -> Invalidated:
        """See ``Store.advance``."""
        names = (self._names.epochs(namespace),)
        args = scripts.advance_arguments(
            namespace,
            tags,
            after=after,
            retention_ms=self._retention_ms,
            channel=self._names.feed_channel,
        )
        previous, tick = await self._run("advance", scripts.ADVANCE, names, *args)
        return Invalidated(namespace, int(previous), int(tick), tuple(tags))

    async def put_row(self, partition: EntryKey, row: Row) -> None:
        """See ``Store.put_row``."""
        names = self._names.rows(partition)
        place = f"{partition.namespace} {partition.digest.hex()} {row.digest.hex()}"
        channel, message = self._names.feed_channel, f"R {place} {self.writer}"
        args = (row.digest, row.content, _ms(row.remaining_s), channel, message)
        await self._run("put_row", scripts.PUT_ROW, names, *args, writes=True)

    async def list_rows(self, partition: EntryKey, cursor: int) -> RowPage:
        """See ``Store.list_rows``."""
        names = self._names.rows(partition)
        following, now_ms, flat = await self._run(
            "list_rows", scripts.LIST_ROWS, names, cursor, _ROWS_PAGE
        )
        ends = zip(flat[::2], flat[1::2], strict=True)
        left = {digest: (float(end) - now_ms) / 1000 for digest, end in ends}
        return RowPage(int(following), {key: left_s for key, left_s in left.items() if left_s > 0})

    async def read_rows(self, partition: EntryKey, digests: Sequence[bytes]) -> list[Row]:
        """See ``Store.read_rows``."""
        if not digests:
            return []
        names = self._names.rows(partition)
        now_ms, contents, ends = await self._run("read_rows", scripts.READ_ROWS, names, *digests)
        return [
            Row(digest, content, (float(end) - now_ms) / 1000)
            for digest, content, end in zip(digests, contents, ends, strict=True)
            if content is not None and end is not None and float(end) > now_ms
        ]

    async def feed(self) -> AsyncGenerator[FeedEvent, None]:
        """See ``Store.feed``. Silence for ``feed_timeout`` counts as a lost connection."""
        try:
            async for event in read_feed(
                self._client, self._names.feed_channel, self._feed_timeout_s
            ):
                yield event
        except (RedisError, OSError, TimeoutError) as exc:
            raise StoreUnavailableError(reason(exc)) from None

    async def scan(self, namespace: str) -> AsyncIterator[tuple[bytes, bytes, float]]:
        """See ``Store.scan``. Not bounded by the deadline of the request path."""
        pattern = self._names.entries_pattern(namespace)
        try:
            async for name in self._client.scan_iter(match=pattern, count=_SCAN_PAGE):
                digest = self._names.digest(name)
                found = await self.lookup(EntryKey(namespace, digest))
                if found.record is not None:
                    yield digest, found.record, found.remaining_s
        except (RedisError, OSError, TimeoutError) as exc:
            raise StoreUnavailableError(reason(exc)) from None

    async def close(self) -> None:
        """Stop probing and close all connections."""
        await self._breaker.close()
        await self._calls.close()
        await disconnect(self._client)

    def _lookup(self, key: EntryKey, offer: LeaseOffer | None, reject: bytes) -> _Arguments:
        token, ttl_ms = (b"", 0) if offer is None else (offer.token, _ms(offer.ttl_s))
        return (self._names.entry(key), self._names.lease(key)), (token, ttl_ms, reject)

    def _reading(self, namespace: str, after: int) -> _Arguments:
        return (self._names.epochs(namespace),), (after, self._retention_ms)

    async def _run(
        self,
        operation: str,
        script: Script,
        names: tuple[str, ...],
        *args: str | bytes | int,
        writes: bool = False,
    ) -> Any:
        reply = await self._timed(operation, self._call, script, names, *args)
        if writes and not self._takes_writes:
            self._takes_writes = True
            _log.info("store takes writes again")
        return reply

    async def _timed(
        self, operation: str, call: Callable[..., Awaitable[Any]], *args: object
    ) -> Any:
        async with self._turns:
            if self._breaker.open:
                raise StoreUnavailableError("the store is unavailable; it is being probed")
            started_s = time.perf_counter()
            try:
                async with Deadline(self._timeout_s):
                    reply = await call(*args)
            except (RedisError, OSError, TimeoutError) as exc:
                raise await self._failure(operation, exc) from None
            finally:
                self._observe(operation, time.perf_counter() - started_s)
        self._breaker.succeeded()
        return reply

    async def _call(self, script: Script, names: tuple[str, ...], *args: str | bytes | int) -> Any:
        command = ("EVALSHA", script.sha, len(names), *names, *args)
        try:
            return await self._calls.execute(*command)
        except NoScriptError:
            # A server that was restarted, or a node of a cluster that has not seen it yet.
            return await self._calls.execute("EVAL", script.text, *command[2:])

    async def _call_both(self, *calls: tuple[Script, _Names, tuple[Argument, ...]]) -> list[Any]:
        first, second = (
            ("EVALSHA", script.sha, len(names), *names, *args) for script, names, args in calls
        )
        replies = await self._calls.execute_both(first, second)
        return [
            await self._mended(reply, script, names, args)
            for reply, (script, names, args) in zip(replies, calls, strict=True)
        ]

    async def _mended(
        self, reply: Any, script: Script, names: _Names, args: tuple[Argument, ...]
    ) -> Any:
        if isinstance(reply, NoScriptError):
            return await self._call(script, names, *args)
        if isinstance(reply, RedisError):
            raise reply
        return reply

    async def _failure(self, operation: str, exc: Exception) -> StoreError:
        why = reason(exc)
        if not concerns_others(operation, exc):
            self._breaker.succeeded()
            return StoreUnavailableError(why)
        if not refuses_writes(exc):
            self._breaker.failed(why)
            return StoreUnavailableError(why)
        self._breaker.succeeded()
        if self._takes_writes:
            self._takes_writes = False
            _log.warning("store refuses writes", extra={"reason": why})
        if isinstance(exc, ReadOnlyError):
            # After a failover behind a fixed address, only new connections reach the new primary.
            await self._calls.drop_idle()
        return StoreRefusedError(why)

    async def _probe(self) -> None:
        started_s = time.perf_counter()
        try:
            async with Deadline(self._timeout_s):
                # Others may hang on a line that is dead although a new one is not.
                await self._calls.drop_idle()
                # Not PING: where that works and scripts don't, the breaker would open and close.
                names = (self._names.entry(_PROBE_KEY), self._names.lease(_PROBE_KEY))
                await self._call(scripts.LOOKUP, names, b"", 0, b"")
        except (RedisError, OSError, TimeoutError) as exc:
            raise StoreUnavailableError(reason(exc)) from None
        finally:
            self._observe("probe", time.perf_counter() - started_s)


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))


def _settled_message(key: EntryKey) -> str:
    return f"S {key.namespace} {key.digest.hex()}"
