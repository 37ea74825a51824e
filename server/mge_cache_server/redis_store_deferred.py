"""Deferred batches in Redis: a hash for each batch and a string for who looks after it.

All of them are in one slot, with a sorted set of their names, name to when it ends in milliseconds
since 1970 by Redis's clock: so each operation is one script. There are few batches at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from mge_cache_server.redis_store_scripts import Script
from mge_cache_server.store_deferred import Claim, StoredBatch

if TYPE_CHECKING:
    from mge_cache_server.keys import KeyNames
    from mge_cache_server.model import EntryKey

_PUT = Script("""
-- KEYS: batch, claim, names. ARGV: name, record, id, ms to live, holder, ms of the claim.
redis.call('HSET', KEYS[1], 'record', ARGV[2], 'id', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('SET', KEYS[2], ARGV[5], 'PX', ARGV[6])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', string.format('%.0f', now))
redis.call('ZADD', KEYS[3], string.format('%.0f', now + ARGV[4]), ARGV[1])
if redis.call('PTTL', KEYS[3]) < tonumber(ARGV[4]) then
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
end
return 1
""")

_NAME = Script("""
-- KEYS: batch. ARGV: id. Returns 0 if there is no such batch.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'id', ARGV[1])
return 1
""")

_CLAIM = Script("""
-- KEYS: batch, claim. ARGV: holder, ms. Returns 1: ours, 0: another's, -1: there is no batch.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return -1
end
local holder = redis.call('GET', KEYS[2])
if holder and holder ~= ARGV[1] then
  return 0
end
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return 1
""")

_RELEASE = Script("""
-- KEYS: claim. ARGV: holder.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 1
""")

_READ = Script("""
-- KEYS: batch. Returns {record, id}, both false if there is no such batch.
return redis.call('HMGET', KEYS[1], 'record', 'id')
""")

_LIST = Script("""
-- KEYS: names. Returns those whose time is not over.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
""")

_END = Script("""
-- KEYS: batch, claim, names. ARGV: name.
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
return 1
""")

_PUT_TICKET = Script("""
-- KEYS: ticket. ARGV: ticket, ms to live.
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
""")

_READ_TICKET = Script("""
-- KEYS: ticket.
return redis.call('GET', KEYS[1])
""")


class Run(Protocol):
    """Runs a script as one operation of the store; raises StoreError."""

    async def __call__(
        self,
        operation: str,
        script: Script,
        names: tuple[str, ...],
        *args: str | bytes | int,
        writes: bool = False,
    ) -> Any:
        """Return its reply."""


class RedisDeferred:
    """Implements ``DeferredStore``."""

    def __init__(self, names: KeyNames, run: Run) -> None:
        self._names = names
        self._run = run

    async def put_batch(
        self, name: str, stored: StoredBatch, *, ttl_s: float, holder: bytes, claim_s: float
    ) -> None:
        """See ``DeferredStore.put_batch``."""
        keys = (*self._names.deferred_batch(name), self._names.deferred_batches)
        args = (name, stored.record, stored.batch_id, _ms(ttl_s), holder, _ms(claim_s))
        await self._run("put_batch", _PUT, keys, *args, writes=True)

    async def name_batch(self, name: str, batch_id: str) -> bool:
        """See ``DeferredStore.name_batch``."""
        batch, _ = self._names.deferred_batch(name)
        return bool(await self._run("name_batch", _NAME, (batch,), batch_id, writes=True))

    async def claim_batch(self, name: str, *, holder: bytes, claim_s: float) -> Claim:
        """See ``DeferredStore.claim_batch``."""
        keys = self._names.deferred_batch(name)
        return Claim(await self._run("claim_batch", _CLAIM, keys, holder, _ms(claim_s)))

    async def release_batch(self, name: str, *, holder: bytes) -> None:
        """See ``DeferredStore.release_batch``."""
        _, claim = self._names.deferred_batch(name)
        await self._run("release_batch", _RELEASE, (claim,), holder)

    async def read_batch(self, name: str) -> StoredBatch | None:
        """See ``DeferredStore.read_batch``."""
        batch, _ = self._names.deferred_batch(name)
        record, batch_id = await self._run("read_batch", _READ, (batch,))
        return None if record is None else StoredBatch(record, (batch_id or b"").decode())

    async def list_batches(self) -> list[str]:
        """See ``DeferredStore.list_batches``."""
        found = await self._run("list_batches", _LIST, (self._names.deferred_batches,))
        return [name.decode() for name in found]

    async def end_batch(self, name: str) -> None:
        """See ``DeferredStore.end_batch``."""
        keys = (*self._names.deferred_batch(name), self._names.deferred_batches)
        await self._run("end_batch", _END, keys, name)

    async def put_ticket(self, key: EntryKey, ticket: bytes, ttl_s: float) -> None:
        """See ``DeferredStore.put_ticket``."""
        keys = (self._names.ticket(key),)
        await self._run("put_ticket", _PUT_TICKET, keys, ticket, _ms(ttl_s), writes=True)

    async def read_ticket(self, key: EntryKey) -> bytes | None:
        """See ``DeferredStore.read_ticket``."""
        found: bytes | None = await self._run(
            "read_ticket", _READ_TICKET, (self._names.ticket(key),)
        )
        return found


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
