"""Partitions as vector sets of Redis 8: the server looks for the nearest vectors.

Vectors are kept in float32 (NOQUANT). The entries that they point to take ten to a hundred times as
much, so that 8 bits would save little; and with them the order of the nearest would be wrong by as
much as 0.005, and each of them an entry to be read. Searches are commands of their own, not
scripts: so the server runs them in a thread, beside its other work.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from redis.exceptions import RedisError

from mge_cache_server import redis_store_scripts as scripts
from mge_cache_server.errors import MgeError
from mge_cache_server.model import EntryKey
from mge_cache_server.redis_store_errors import vector_sets_problem

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache_server.keys import KeyNames
    from mge_cache_server.redis_store_calls import Argument, Calls
    from mge_cache_server.redis_store_scripts import Script

_CHECK_S = 1.0
_CHECKED = EntryKey("default", bytes(32))
_CLEANED_BY_PUT = 16


class VectorSetsError(MgeError):
    """The server has no vector sets, or its user may not use them; the text says what to do."""


class Neighbour(NamedTuple):
    """A vector near to the one that was asked for."""

    digest: bytes
    cosine: float


class VectorState(NamedTuple):
    """A vector set: ``size_bytes`` is 0 where the server does not say; ``removed`` were over."""

    rows: int
    size_bytes: int
    removed: int


class _Run(Protocol):
    async def __call__(
        self,
        operation: str,
        script: Script,
        names: tuple[str, ...],
        /,
        *args: str | bytes | int,
        writes: bool = False,
    ) -> Any: ...


class RedisVectors:
    """The vector sets of a ``RedisStore``, under its deadline and its breaker.

    All methods but ``check`` raise StoreError. Belongs to the event loop's thread.
    """

    def __init__(
        self,
        names: KeyNames,
        calls: Calls,
        run: _Run,
        timed: Callable[..., Awaitable[Any]],
    ) -> None:
        self._names = names
        self._calls = calls
        self._run = run
        self._timed = timed

    async def check(self) -> bool:
        """Ask whether the server has vector sets; raises VectorSetsError if not.

        False: it does not answer within a second, so nobody knows yet.
        """
        try:
            async with asyncio.timeout(_CHECK_S):
                await self._calls.execute("VCARD", self._names.vectors(_CHECKED)[0])
        except (RedisError, OSError, TimeoutError) as exc:
            if (problem := vector_sets_problem(exc)) is not None:
                raise VectorSetsError(problem) from None
            return False
        return True

    async def search(self, partition: EntryKey, vector: bytes, count: int) -> list[Neighbour]:
        """Return the vectors that the server finds nearest to a unit vector, nearest first.

        It looks for them in a graph: one of them may be missed.
        """
        name, _ = self._names.vectors(partition)
        command: tuple[Argument, ...] = ("VSIM", name, "FP32", vector, "WITHSCORES", "COUNT", count)
        reply = await self._timed("search_vectors", self._calls.execute, *command)
        # Flat in RESP2, a map in RESP3. A score is 1 where the cosine is 1, and 0 where it is -1.
        found = reply.items() if isinstance(reply, dict) else zip(*2 * [iter(reply)], strict=True)
        return [Neighbour(digest, 2 * float(score) - 1) for digest, score in found]

    async def put(
        self,
        partition: EntryKey,
        digest: bytes,
        vector: bytes,
        *,
        tick: int,
        floor: int,
        ttl_s: float,
    ) -> int:
        """Put the unit vector of an entry of ``tick``; returns how many there are then.

        A few that are over are removed, and all of them where they are older than ``floor``.
        """
        names = self._names.vectors(partition)
        args = (floor, _CLEANED_BY_PUT, digest, vector, tick, max(1, round(ttl_s * 1000)))
        return int(await self._run("put_vector", scripts.PUT_VECTOR, names, *args, writes=True))

    async def tend(self, partition: EntryKey, *, floor: int, at_most: int) -> VectorState:
        """Remove vectors that are over, and all of them where they are older than ``floor``."""
        names = self._names.vectors(partition)
        reply = await self._run("tend_vectors", scripts.TEND_VECTORS, names, floor, at_most)
        return VectorState(*map(int, reply))

    async def end_of(self, partition: EntryKey, digest: bytes) -> bytes | None:
        """Read when a vector ends, in the server's words; None: it is not there."""
        _, ends = self._names.vectors(partition)
        end: bytes | None = await self._run("drop_vector", scripts.END_OF_VECTOR, (ends,), digest)
        return end

    async def drop(self, partition: EntryKey, digest: bytes, end: bytes) -> None:
        """Remove a vector unless it was put again since its end was read."""
        names = self._names.vectors(partition)
        await self._run("drop_vector", scripts.DROP_VECTOR, names, digest, end)
