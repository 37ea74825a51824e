"""Latency and throughput: every variant in every round, so that noise hits all alike."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
from redis.asyncio import Redis

from mge_cache.v1 import cache_service_pb2_grpc
from tests.bench import messages
from tests.bench.h2 import Connection
from tests.bench.loads import closed_loop, redis_get, rpc_call
from tests.bench.measure import Run, Spread, percentile, spread

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from google.protobuf.message import Message

    from tests.bench.loads import Call
    from tests.bench.servers import Server

IN_FLIGHT = (1, 32)
RAW = "frames"
"""The load generator of ``h2``: it costs little, so that it shows the server."""
CLIENT = "Python"
"""The clients that Python applications use: what they see."""

ECHO = "bare grpc.aio echo"
L1_HIT = "GetPrompt, L1"
STORE_HIT = "GetPrompt, Redis"
REDIS_GET = "bare Redis GET"
SET = "SetPrompt"
INVALIDATE = "Invalidate"
NAMES = (ECHO, L1_HIT, STORE_HIT, REDIS_GET, SET, INVALIDATE)
"""In the order of the table."""


@dataclass(frozen=True, slots=True)
class Case:
    """Something to measure."""

    name: str
    generator: str
    in_flight: int


@dataclass(slots=True)
class Samples:
    """What each round yielded, in the order of the rounds."""

    p50_s: list[float] = field(default_factory=list)
    p99_s: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    calls: int = 0

    def add(self, run: Run, cpu_s: float) -> None:
        """Add a round's run, and the processor time that the server spent meanwhile."""
        self.p50_s.append(percentile(run.latencies_s, 50))
        self.p99_s.append(percentile(run.latencies_s, 99))
        self.per_s.append(run.per_s)
        self.cpu_s.append(cpu_s)
        self.calls += run.calls

    @property
    def cpu_per_call_s(self) -> float:
        """The server's processor time for a call, over all rounds (its clock ticks are coarse)."""
        return sum(self.cpu_s) / self.calls


Results = dict[Case, Samples]


def ratio(over: Sequence[float], under: Sequence[float]) -> Spread:
    """Return the spread of the ratios within each round."""
    return spread([one / other for one, other in zip(over, under, strict=True)])


@dataclass(frozen=True, slots=True)
class Servers:
    """What runs: ``stored`` is a sidecar without an L1."""

    echo: Server
    sidecar: Server
    stored: Server
    redis_socket: str


@dataclass(frozen=True, slots=True)
class _Variant:
    """``server`` is whose processor time counts, where that makes sense."""

    name: str
    generator: str
    server: Server | None
    run: Callable[[int, float], Awaitable[Run]]


async def measure(
    servers: Servers, *, rounds: int, duration_s: float, progress: Callable[[str], None]
) -> Results:
    """Measure all variants at each number in flight, round after round."""
    results: Results = {}
    async with contextlib.AsyncExitStack() as stack:
        variants = [variant async for variant in _variants(servers, stack)]
        for number in range(rounds + 1):
            for in_flight in IN_FLIGHT:
                # The order turns, so that nobody always runs after the same neighbour.
                turn = number % len(variants)
                for variant in variants[turn:] + variants[:turn]:
                    progress(f"{variant.name}, {in_flight} in flight")
                    before_s = variant.server.process.cpu_s() if variant.server else 0.0
                    run = await variant.run(in_flight, duration_s)
                    after_s = variant.server.process.cpu_s() if variant.server else 0.0
                    if number:  # the first round warms up
                        case = Case(variant.name, variant.generator, in_flight)
                        results.setdefault(case, Samples()).add(run, after_s - before_s)
    return results


async def _variants(servers: Servers, stack: contextlib.AsyncExitStack) -> AsyncIterator[_Variant]:
    gets, sets = messages.gets(), messages.sets()
    invalidations = messages.invalidations()
    for server in (servers.sidecar, servers.stored):
        await fill(server, sets)
    await _fill_l1(servers.sidecar, gets)
    size_bytes = messages.ANSWER_BYTES
    for name, server, method, requests, answer_bytes in (
        (ECHO, servers.echo, "GetPrompt", gets, size_bytes),
        (L1_HIT, servers.sidecar, "GetPrompt", gets, size_bytes),
        (STORE_HIT, servers.stored, "GetPrompt", gets, size_bytes),
        (SET, servers.sidecar, "SetPrompt", sets, 1),
        (INVALIDATE, servers.sidecar, "Invalidate", invalidations, 1),
    ):
        yield await _raw(name, server, method, requests, answer_bytes=answer_bytes, stack=stack)
        yield await _client(name, server, method, requests, stack=stack)
    yield await _redis(servers.redis_socket, stack)


async def fill(server: Server, sets: Sequence[Message]) -> None:
    """Store entries."""
    connection = await Connection.open(
        server.socket, f"{messages.SERVICE}SetPrompt", messages.encoded(sets)
    )
    await connection.run(in_flight=32, calls=len(sets))
    connection.close()


async def _fill_l1(server: Server, gets: Sequence[Message]) -> None:
    connection = await Connection.open(
        server.socket,
        f"{messages.SERVICE}GetPrompt",
        messages.encoded(gets),
        min_answer_bytes=messages.ANSWER_BYTES,
    )
    await connection.run(in_flight=32, calls=len(gets))
    connection.close()


async def _raw(
    name: str,
    server: Server,
    method: str,
    requests: Sequence[Message],
    *,
    answer_bytes: int,
    stack: contextlib.AsyncExitStack,
) -> _Variant:
    connection = await Connection.open(
        server.socket,
        f"{messages.SERVICE}{method}",
        messages.encoded(requests),
        min_answer_bytes=answer_bytes,
    )
    stack.callback(connection.close)

    async def run(in_flight: int, duration_s: float) -> Run:
        return await connection.run(in_flight=in_flight, duration_s=duration_s)

    return _Variant(name, RAW, server, run)


async def _client(
    name: str,
    server: Server,
    method: str,
    requests: Sequence[Message],
    *,
    stack: contextlib.AsyncExitStack,
) -> _Variant:
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(server.target))
    stub = cache_service_pb2_grpc.CacheServiceStub(channel)
    call = rpc_call(getattr(stub, method), requests)
    return _Variant(name, CLIENT, server, _looped(call))


async def _redis(socket: str, stack: contextlib.AsyncExitStack) -> _Variant:
    client = await stack.enter_async_context(Redis(unix_socket_path=socket))
    # A record is an answer with some hundred bytes around it.
    await client.set("bench:get", messages.answer(0) + bytes(150))
    return _Variant(REDIS_GET, CLIENT, None, _looped(redis_get(client, "bench:get")))


def _looped(call: Call) -> Callable[[int, float], Awaitable[Run]]:
    async def run(in_flight: int, duration_s: float) -> Run:
        return await closed_loop(call, in_flight=in_flight, duration_s=duration_s)

    return run
