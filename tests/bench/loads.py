"""Closed loops of calls with a fixed number in flight, by the clients that people use."""

from __future__ import annotations

import asyncio
import itertools
from time import perf_counter
from typing import TYPE_CHECKING

import grpc
from redis.exceptions import RedisError

from tests.bench.measure import LoadError, Run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TypeVar

    from redis.asyncio import Redis

    Request = TypeVar("Request")
    Call = Callable[[], Awaitable[object]]


async def closed_loop(call: Call, *, in_flight: int, duration_s: float) -> Run:
    """Let ``in_flight`` tasks call one after the other, for a time; ``LoadError`` ends it."""
    latencies_s: list[float] = []
    start = perf_counter()
    stop_at = start + duration_s

    async def loop() -> None:
        begun = perf_counter()
        while begun < stop_at:
            await call()
            ended = perf_counter()
            latencies_s.append(ended - begun)
            begun = ended

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(loop())
    except* (grpc.RpcError, RedisError) as group:
        first = group.exceptions[0]
        raise LoadError(f"{type(first).__name__}: {first}") from first
    return Run(latencies_s, perf_counter() - start)


def rpc_call(method: Callable[[Request], Awaitable[object]], requests: Sequence[Request]) -> Call:
    """Return a call of a stub's method that takes the requests in turn."""
    turn = itertools.cycle(requests)

    async def call() -> None:
        await method(next(turn))

    return call


def redis_get(client: Redis, key: str) -> Call:
    """Return a call that reads a record that must be there."""

    async def call() -> None:
        if await client.get(key) is None:
            raise LoadError("the record is gone")

    return call
