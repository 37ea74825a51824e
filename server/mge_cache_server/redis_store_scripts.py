"""The Lua scripts of ``RedisStore``: each is one round trip, atomic, on the keys of one slot.

A lease is a string: "-" or "+" (somebody waits for it), then the holder's token. Ticks are
microseconds since 1970 by Redis's clock, forced to increase: a hybrid logical clock (Kulkarni et
al., "Logical Physical Clocks", OPODIS 2014) with one writer at a time. Below 2**53, that is until
the year 2255, they are exact in Lua numbers and in sorted set scores.

A partition's rows are a hash, digest to content, and a sorted set, digest to the time at which the
row ends, in milliseconds since 1970 by Redis's clock.

A partition's vectors are a vector set, digest to vector, and a sorted set of ends as above, whose
member "!" is the latest tick of all vectors: where that is below the floor, all of them are dead.
A vector without an end cannot be cleaned up: where the ends are lost, the vectors go as well.

A namespace's epochs are a sorted set, tag to tick; the member "!" holds the clock.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1
from typing import TYPE_CHECKING, Any

from mge_cache_server.store import EpochTable, Lookup

if TYPE_CHECKING:
    from collections.abc import Sequence

CLOCK_MEMBER = "!"


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the digest by which EVALSHA calls it."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        """Compute the digest (SHA-1 is Redis's choice; nothing depends on its strength)."""
        object.__setattr__(self, "sha", sha1(self.text.encode(), usedforsecurity=False).hexdigest())


LOOKUP = Script("""
-- KEYS: record, lease. ARGV: token ('': no lease is offered), its ms, header to reject ('': none).
-- Returns {record, ms left} or {false, ms left of another's lease, 1 if the offer was taken}.
local record = redis.call('GET', KEYS[1])
if record and (record == '' or (ARGV[3] ~= '' and string.sub(record, 1, #ARGV[3]) == ARGV[3])) then
  redis.call('UNLINK', KEYS[1])
  record = false
end
if record then
  return {record, redis.call('PTTL', KEYS[1])}
end
if ARGV[1] == '' then
  return {false, redis.call('PTTL', KEYS[2]), 0}
end
local lease = redis.call('GET', KEYS[2])
if not lease then
  redis.call('SET', KEYS[2], '-' .. ARGV[1], 'PX', ARGV[2])
  return {false, 0, 1}
end
if string.sub(lease, 2) == ARGV[1] then
  return {false, 0, 1} -- the client library repeated a call whose reply was lost
end
if string.sub(lease, 1, 1) == '-' then
  redis.call('SETRANGE', KEYS[2], 0, '+')
end
return {false, redis.call('PTTL', KEYS[2]), 0}
""")

PUT = Script("""
-- KEYS: record, lease. ARGV: record, ms to live, token, channel, message.
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local lease = redis.call('GET', KEYS[2])
if lease then
  if string.sub(lease, 2) == ARGV[3] then
    redis.call('DEL', KEYS[2])
  end
  if string.sub(lease, 1, 1) == '+' then
    redis.call('PUBLISH', ARGV[4], ARGV[5])
  end
end
return 1
""")

RENEW = Script("""
-- KEYS: lease. ARGV: token, ms. Returns 1 if the lease is (still) the token's.
local lease = redis.call('GET', KEYS[1])
if lease and string.sub(lease, 2) == ARGV[1] then
  return redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return 0
""")

RELEASE = Script("""
-- KEYS: lease. ARGV: token, channel, message.
local lease = redis.call('GET', KEYS[1])
if lease and string.sub(lease, 2) == ARGV[1] then
  redis.call('DEL', KEYS[1])
  if string.sub(lease, 1, 1) == '+' then
    redis.call('PUBLISH', ARGV[2], ARGV[3])
  end
end
return 1
""")

READ_EPOCHS = Script("""
-- KEYS: epochs. ARGV: after which tick, retention in ms. Returns {clock, {tag, tick, ...}}.
-- A clock that is not there was lost or never was: everything before now is invalid.
local clock = redis.call('ZSCORE', KEYS[1], '!')
if clock then
  clock = string.format('%.0f', tonumber(clock))
else
  local time = redis.call('TIME')
  clock = string.format('%.0f', time[1] * 1000000 + time[2])
  redis.call('ZADD', KEYS[1], clock, '!', clock, '*')
end
-- Whoever fills an entry reads the clock first: the table then lasts for as long as epochs are
-- kept, so it outlives the entry. A read-only replica cannot do this; its primary does.
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.pcall('PEXPIRE', KEYS[1], 2 * ARGV[2])
end
local later = redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf', 'WITHSCORES')
for i = 2, #later, 2 do
  later[i] = string.format('%.0f', tonumber(later[i]))
end
return {clock, later}
""")

ADVANCE = Script("""
-- KEYS: epochs. ARGV: retention in ms, channel, namespace, a tick to be passed, tags.
-- Returns {clock before, tick}.
local time = redis.call('TIME')
local tick = time[1] * 1000000 + time[2]
local oldest = string.format('(%.0f', tick - ARGV[1] * 1000)
local clock = redis.call('ZSCORE', KEYS[1], '!')
tick = math.max(tick, tonumber(clock or 0) + 1, tonumber(ARGV[4]) + 1)
local previous = string.format('%.0f', tonumber(clock or 0))
local score = string.format('%.0f', tick)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', oldest)
redis.call('ZADD', KEYS[1], score, '!')
if not clock then
  redis.call('ZADD', KEYS[1], score, '*')
end
local message = 'I ' .. previous .. ' ' .. score .. ' ' .. ARGV[3]
for i = 5, #ARGV do
  redis.call('ZADD', KEYS[1], score, ARGV[i])
  message = message .. '\\n' .. ARGV[i]
end
redis.call('PEXPIRE', KEYS[1], 2 * ARGV[1])
redis.call('PUBLISH', ARGV[2], message)
return {previous, score}
""")

PUT_ROW = Script("""
-- KEYS: contents, ends. ARGV: digest, content, ms to live, channel, message.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local over = redis.call(
  'ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now), 'LIMIT', 0, 16)
for _, digest in ipairs(over) do
  redis.call('HDEL', KEYS[1], digest)
  redis.call('ZREM', KEYS[2], digest)
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[3]), ARGV[1])
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) < tonumber(ARGV[3]) then
    redis.call('PEXPIRE', key, ARGV[3])
  end
end
redis.call('PUBLISH', ARGV[4], ARGV[5])
return 1
""")

LIST_ROWS = Script("""
-- KEYS: contents, ends. ARGV: cursor, count. Returns {cursor, now in ms, {digest, end, ...}}.
local time = redis.call('TIME')
local page = redis.call('ZSCAN', KEYS[2], ARGV[1], 'COUNT', ARGV[2])
return {page[1], time[1] * 1000 + math.floor(time[2] / 1000), page[2]}
""")

READ_ROWS = Script("""
-- KEYS: contents, ends. ARGV: digests. Returns {now in ms, {content, ...}, {end, ...}}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local contents = redis.call('HMGET', KEYS[1], unpack(ARGV))
return {now, contents, redis.call('ZMSCORE', KEYS[2], unpack(ARGV))}
""")

_CLEAN_VECTORS = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local newest = redis.call('ZSCORE', KEYS[2], '!')
if not newest or tonumber(newest) < tonumber(ARGV[1]) then
  redis.call('UNLINK', KEYS[1], KEYS[2])
end
local over = redis.call(
  'ZRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now), 'LIMIT', 0, ARGV[2])
for _, digest in ipairs(over) do
  redis.call('VREM', KEYS[1], digest)
  redis.call('ZREM', KEYS[2], digest)
end
"""

PUT_VECTOR = Script(f"""
-- KEYS: vectors, ends. ARGV: floor, how many of those that are over to remove at most, digest,
-- vector, its tick, ms to live. Returns how many vectors there are.
{_CLEAN_VECTORS}
redis.call('VADD', KEYS[1], 'FP32', ARGV[4], ARGV[3], 'NOQUANT')
redis.call('ZADD', KEYS[2], string.format('%.0f', now + ARGV[6]), ARGV[3])
redis.call('ZADD', KEYS[2], 'GT', ARGV[5], '!')
for _, key in ipairs(KEYS) do
  if redis.call('PTTL', key) < tonumber(ARGV[6]) then
    redis.call('PEXPIRE', key, ARGV[6])
  end
end
return redis.call('VCARD', KEYS[1])
""")

TEND_VECTORS = Script(f"""
-- KEYS: vectors, ends. ARGV: floor, how many of those that are over to remove at most.
-- Returns {{how many vectors there are, their bytes (0: not known), how many were removed}}.
{_CLEAN_VECTORS}
local taken = redis.pcall('MEMORY', 'USAGE', KEYS[1])
return {{redis.call('VCARD', KEYS[1]), type(taken) == 'number' and taken or 0, #over}}
""")

END_OF_VECTOR = Script("""
-- KEYS: ends. ARGV: digest. Returns its end, or false.
return redis.call('ZSCORE', KEYS[1], ARGV[1])
""")

DROP_VECTOR = Script("""
-- KEYS: vectors, ends. ARGV: digest, end. Not if it was put again since that end was read.
if redis.call('ZSCORE', KEYS[2], ARGV[1]) == ARGV[2] then
  redis.call('VREM', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
return 1
""")


def advance_arguments(
    namespace: str, tags: Sequence[str], *, after: int, retention_ms: int, channel: str
) -> tuple[str | int, ...]:
    """List ADVANCE's arguments: the new tick is later than ``after`` (0: than the clock only)."""
    return (retention_ms, channel, namespace, after, *tags)


def found(reply: Any) -> Lookup:
    """Read a reply of LOOKUP."""
    record, left_ms = reply[0], reply[1]
    if record is not None:
        return Lookup(record, left_ms / 1000, granted=False)
    return Lookup(None, max(left_ms, 0) / 1000, granted=bool(reply[2]))


def epoch_table(reply: Any) -> EpochTable:
    """Read a reply of READ_EPOCHS."""
    clock, flat = reply
    epochs = {
        tag.decode(): int(tick)
        for tag, tick in zip(flat[::2], flat[1::2], strict=True)
        if tag != CLOCK_MEMBER.encode()
    }
    return EpochTable(int(clock), epochs)
