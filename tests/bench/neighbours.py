"""Does a large partition slow the other calls? GetPrompt beside loads, searches and stores.

The rows of a partition are put into the store; for each round a sidecar starts on it and loads them
at its first query. The calls that are timed are hits in L1, one at a time, from a generator that
costs little, and so do the searches and stores that come at a steady rate. All share the machine's
cores with each other, with the store and with the generator: what counts is the ratio to the same
calls alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

import grpc
from google.protobuf.duration_pb2 import Duration
from redis.asyncio import Redis

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache.v1 import cache_service_pb2_grpc
from tests.bench import messages, servers
from tests.bench.h2 import Connection
from tests.bench.measure import LoadError, percentile
from tests.bench.speed import fill

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from google.protobuf.message import Message
    from numpy.typing import NDArray

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub

ALONE = "alone"
OTHERS = "beside as many SetPrompt, to compare"
LOADING = "while the partition loads"
SEARCHING = "beside searches"
STORING = "beside searches and stores"
NAMES = (ALONE, LOADING, OTHERS, SEARCHING, STORING)
P99_MAX = {LOADING: 2.5, SEARCHING: 2.0, STORING: 2.0}
"""What is wanted: times the p99 alone."""

PER_S = 50
"""Searches a second, and stores."""

DIMENSION = 384
_STORED_AT_ONCE = 2000
_SLICE_S = 0.1
_REQUESTS = 256
_LOAD_MAX_S = 60.0


@dataclass(slots=True)
class Neighbours:
    """The latencies of GetPrompt in each situation, all rounds together."""

    rows: int
    latencies_s: dict[str, list[float]] = field(
        default_factory=lambda: {name: [] for name in NAMES}
    )
    load_s: list[float] = field(default_factory=list)
    """How long the partition took to load, in each round."""

    def at(self, name: str, percent: float) -> float:
        """Return a percentile in seconds."""
        return percentile(self.latencies_s[name], percent)

    def worst(self, name: str) -> float:
        """Return the longest in seconds."""
        return max(self.latencies_s[name], default=0.0)

    def ratio(self, name: str, percent: float) -> float:
        """Return how much longer that is than alone."""
        return self.at(name, percent) / self.at(ALONE, percent)


async def measure_neighbours(
    folder: Path,
    redis_socket: str,
    *,
    rows: int,
    rounds: int,
    duration_s: float,
    progress: Callable[[str], None],
) -> Neighbours:
    """Fill a partition, then measure beside it, round after round."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    store = ("--redis-url", f"unix://{redis_socket}", "--store-timeout", "5s")
    shared = (*store, "--rag-index-max", "1GiB")
    found = Neighbours(rows)
    async with servers.sidecar(folder, "filler", *shared) as server:
        progress(f"storing {rows:,} rows")
        async with grpc.aio.insecure_channel(server.target) as channel:
            stub = cache_service_pb2_grpc.CacheServiceStub(channel)
            await stub.StoreRAG(_store(_embeddings(1, 0)[0].tobytes(), "the first"))
        await _multiply_rows(redis_socket, rows)
    for number in range(rounds):
        async with servers.sidecar(folder, f"beside{number}", *shared) as server:
            await fill(server, messages.sets())
            await _round(server, found, duration_s, progress)
    return found


async def _round(
    server: servers.Server, found: Neighbours, duration_s: float, progress: Callable[[str], None]
) -> None:
    async with (
        _prompts(server) as connection,
        grpc.aio.insecure_channel(server.target) as channel,
    ):
        stub = cache_service_pb2_grpc.CacheServiceStub(channel)

        async def time(name: str) -> None:
            run = await connection.run(in_flight=1, duration_s=duration_s)
            found.latencies_s[name] += run.latencies_s

        progress("GetPrompt alone")
        await time(ALONE)
        progress(f"GetPrompt {LOADING}")
        await _while_loading(stub, connection, found)
        for name, methods in _beside().items():
            progress(f"GetPrompt {name}")
            async with _paced(server, methods):
                await time(name)
        progress("GetPrompt alone")
        await time(ALONE)


async def _while_loading(
    stub: CacheServiceAsyncStub, connection: Connection, found: Neighbours
) -> None:
    begun_s = perf_counter()
    await stub.QueryRAG(_query(0))
    await stub.QueryRAG(_query(1))
    while (await stub.Stats(pb.StatsRequest())).rag_index.rows < found.rows:
        run = await connection.run(in_flight=1, duration_s=_SLICE_S)
        found.latencies_s[LOADING] += run.latencies_s
        if perf_counter() > begun_s + _LOAD_MAX_S:
            raise LoadError(f"the partition was not loaded within {_LOAD_MAX_S:.0f} s")
        await stub.QueryRAG(_query(1))
    found.load_s.append(perf_counter() - begun_s)


def _beside() -> dict[str, dict[str, Sequence[Message]]]:
    searches = [_query(number) for number in range(_REQUESTS)]
    stores = [
        _store(_embeddings(1, 2 * 10**9 + number)[0].tobytes(), f"stored {number}")
        for number in range(_REQUESTS)
    ]
    return {
        OTHERS: {"SetPrompt": messages.sets()},
        SEARCHING: {"QueryRAG": searches},
        STORING: {"QueryRAG": searches, "StoreRAG": stores},
    }


@contextlib.asynccontextmanager
async def _paced(
    server: servers.Server, methods: Mapping[str, Sequence[Message]]
) -> AsyncIterator[None]:
    """Call methods at a steady rate meanwhile.

    The requests are made beforehand: this process times the others' calls, and must not itself be
    what holds them up.
    """

    async def calling(connection: Connection) -> None:
        while True:
            await connection.run(in_flight=1, calls=1)
            await asyncio.sleep(1 / PER_S)

    async with contextlib.AsyncExitStack() as stack:
        tasks = []
        for method, requests in methods.items():
            connection = await Connection.open(
                server.socket, f"{messages.SERVICE}{method}", messages.encoded(requests)
            )
            stack.callback(connection.close)
            tasks.append(asyncio.create_task(calling(connection)))
        try:
            yield
            for task in tasks:
                if task.done():
                    raise LoadError(f"a neighbour failed: {task.exception()}")
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)


@contextlib.asynccontextmanager
async def _prompts(server: servers.Server) -> AsyncIterator[Connection]:
    connection = await Connection.open(
        server.socket,
        f"{messages.SERVICE}GetPrompt",
        messages.encoded(messages.gets()),
        min_answer_bytes=messages.ANSWER_BYTES,
    )
    try:
        await connection.run(in_flight=8, calls=messages.KEYS)
        yield connection
    finally:
        connection.close()


async def _multiply_rows(redis_socket: str, rows: int) -> None:
    """Put rows like the only one there is beside it, as ARCHITECTURE.md describes them."""
    async with Redis(unix_socket_path=redis_socket) as client:
        (contents,) = [name async for name in client.scan_iter(match="*:v")]
        ends = contents[:-1] + b"p"
        ((digest, row),) = (await client.hgetall(contents)).items()
        tick, end_ms = row[: len(row) - 4 * DIMENSION], await client.zscore(ends, digest) or 0.0
        for start in range(1, rows, _STORED_AT_ONCE):
            part = _embeddings(min(_STORED_AT_ONCE, rows - start), start)
            digests = [b"%032d" % number for number in range(start, start + len(part))]
            added = [tick + embedding.tobytes() for embedding in part]
            await client.hset(contents, mapping=dict(zip(digests, added, strict=True)))
            await client.zadd(ends, dict.fromkeys(digests, end_ms))


def _embeddings(count: int, seed: int) -> NDArray[np.float32]:
    """Return unit vectors with a spectrum like that of texts: few directions hold much of them."""
    import numpy as np

    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, DIMENSION), dtype=np.float32)
    rows /= np.sqrt(np.arange(3, DIMENSION + 3, dtype=np.float32))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _identity(embedding: bytes, query: str) -> pb.RAGIdentity:
    return pb.RAGIdentity(
        namespace=messages.NAMESPACE,
        embedding_model="model",
        collection="neighbours",
        embedding=embedding,
        query=query,
    )


def _query(number: int) -> pb.QueryRAGRequest:
    """Ask for what is not there: the whole partition is searched."""
    embedding = _embeddings(1, 10**6 + number)[0].tobytes()
    return pb.QueryRAGRequest(identity=_identity(embedding, f"asked {number}"), top_k=1)


def _store(embedding: bytes, query: str) -> pb.StoreRAGRequest:
    return pb.StoreRAGRequest(
        identity=_identity(embedding, query),
        documents=[pb.RAGDocument(id="document", content=b"reference")],
        top_k=1,
        ttl=Duration(seconds=3600),
    )
