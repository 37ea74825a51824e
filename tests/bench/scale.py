"""Start, memory, and invalidations whatever the number of entries."""

from __future__ import annotations

from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import grpc

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache.v1 import cache_service_pb2_grpc
from tests.bench import messages, servers
from tests.bench.measure import Spread, spread
from tests.bench.processes import Memory, children, memory
from tests.bench.speed import fill

if TYPE_CHECKING:
    from pathlib import Path

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub

ENTRY_BYTES = 200
_BIG = "big"
_REPEATS = 100


class NotInvalidatedError(Exception):
    """An entry was served after its invalidation, or was not there before it."""


@dataclass(frozen=True, slots=True)
class Starts:
    """Seconds from the start of the process to SERVING."""

    given_redis_s: Spread
    embedded_s: Spread


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a sidecar before and after it has stored entries.

    ``embedded`` is what its Valkey takes then and now, in a process of its own.
    """

    idle: Memory
    full: Memory
    embedded_idle: Memory
    embedded_full: Memory
    entries: int
    l1_entries: int
    l1_bytes: int
    l1_max_bytes: int
    fill_per_s: float


@dataclass(frozen=True, slots=True)
class Invalidations:
    """Seconds that an invalidation took.

    ``first_many_s`` is the one that made ``entries`` live entries unreachable; ``many_s`` are it
    and its repetitions (the records are still in the store), ``one_s`` are masterplans of one live
    entry each.
    """

    entries: int
    first_many_s: float
    many_s: Spread
    one_s: Spread

    @property
    def ratio(self) -> float:
        """The medians' ratio."""
        return self.many_s.median / self.one_s.median


async def measure_starts(folder: Path, redis_socket: str, *, repeats: int) -> Starts:
    """Start sidecars one after the other, with a given Redis and with an embedded one, in turn."""
    given, embedded = [], []
    for number in range(repeats):
        url = f"unix://{redis_socket}"
        async with servers.sidecar(folder, f"given{number}", "--redis-url", url) as server:
            given.append(server.ready_s)
        data = str(folder / f"data{number}")
        async with servers.sidecar(folder, f"embedded{number}", "--data-dir", data) as server:
            embedded.append(server.ready_s)
    return Starts(spread(given), spread(embedded))


async def measure_entries(folder: Path, *, entries: int) -> tuple[Footprint, Invalidations]:
    """Fill a fresh sidecar with its embedded Valkey, weigh it, then invalidate."""
    data = str(folder / "data-full")
    options = ("--data-dir", data, "--store-timeout", "5s")  # as for speed
    async with servers.sidecar(folder, "full", *options) as server:
        pid = server.process.pid
        valkey = children(pid)[0]
        idle, embedded_idle = memory(pid), memory(valkey)
        start = perf_counter()
        await fill(server, messages.entries(_BIG, entries, ENTRY_BYTES))
        elapsed_s = perf_counter() - start
        full, embedded_full = memory(pid), memory(valkey)
        async with grpc.aio.insecure_channel(server.target) as channel:
            stub = cache_service_pb2_grpc.CacheServiceStub(channel)
            l1 = (await stub.Stats(pb.StatsRequest())).l1
            invalidations = await _measure_invalidations(server, stub, entries)
    footprint = Footprint(
        idle,
        full,
        embedded_idle,
        embedded_full,
        entries,
        l1.entries,
        l1.bytes,
        l1.max_bytes,
        entries / elapsed_s,
    )
    return footprint, invalidations


async def _measure_invalidations(
    server: servers.Server, stub: CacheServiceAsyncStub, entries: int
) -> Invalidations:
    for number in range(_REPEATS):
        await fill(server, messages.entries(f"one {number}", 1, ENTRY_BYTES))
    await _expect(stub, _BIG, entries, hit=True)
    await _invalidate(stub, "warm-up")
    many, one = [], []
    for number in range(_REPEATS):
        many.append(await _invalidate(stub, _BIG))
        one.append(await _invalidate(stub, f"one {number}"))
    await _expect(stub, _BIG, entries, hit=False)
    await _expect(stub, "one 0", 1, hit=False)
    return Invalidations(entries, many[0], spread(many), spread(one))


async def _invalidate(stub: CacheServiceAsyncStub, masterplan: str) -> float:
    request = pb.InvalidateRequest(namespace=messages.NAMESPACE, masterplan=masterplan)
    start = perf_counter()
    await stub.Invalidate(request)
    return perf_counter() - start


async def _expect(stub: CacheServiceAsyncStub, masterplan: str, entries: int, *, hit: bool) -> None:
    """Look at some entries of a masterplan, the first and the last among them."""
    for number in {0, entries // 2, entries - 1}:
        identity = messages.identity(number, masterplan)
        answer = await stub.GetPrompt(pb.GetPromptRequest(identity=identity, peek=True))
        if answer.HasField("hit") is not hit:
            raise NotInvalidatedError(f"entry {number} of {masterplan!r}: expected hit={hit}")
