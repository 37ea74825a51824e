"""What tests ask of sidecars, by raw stubs; and callers in a process of their own.

``python -m tests.e2e.callers TARGET...`` is that process: it takes one JSON object on its standard
input, does what ``action`` says, and writes lines of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache.v1.cache_service_pb2_grpc import CacheServiceStub
from tests.e2e.sidecars import open_channel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub

MODEL = "m"


def identity(key: bytes, namespace: str = "ns") -> pb.PromptIdentity:
    return pb.PromptIdentity(namespace=namespace, model=MODEL, key=key)


def get_request(
    key: bytes, *, wait_s: float = 0.0, lease_ttl_s: float = 0.0, namespace: str = "ns"
) -> pb.GetPromptRequest:
    request = pb.GetPromptRequest(identity=identity(key, namespace))
    if wait_s:
        request.wait.FromMilliseconds(round(wait_s * 1000))
    if lease_ttl_s:
        request.lease_ttl.FromMilliseconds(round(lease_ttl_s * 1000))
    return request


def set_request(
    key: bytes,
    answer: bytes = b"answer",
    *,
    lease: bytes = b"",
    masterplan: str = "",
    tags: Sequence[str] = (),
    ttl_s: float = 0.0,
    namespace: str = "ns",
) -> pb.SetPromptRequest:
    request = pb.SetPromptRequest(
        identity=identity(key, namespace),
        answer=answer,
        lease=lease,
        masterplan=masterplan,
        tags=tags,
    )
    if ttl_s:
        request.ttl.FromMilliseconds(round(ttl_s * 1000))
    return request


def hold_request(lease: bytes, *, max_s: float = 0.0) -> pb.HoldLeaseRequest:
    request = pb.HoldLeaseRequest(lease=lease)
    if max_s:
        request.max.FromMilliseconds(round(max_s * 1000))
    return request


def kind_of(response: pb.GetPromptResponse) -> str:
    """Say what a look-up brought: hit, lease, in_progress or miss; degraded ones are marked."""
    if response.WhichOneof("outcome") == "hit":
        return "hit, degraded" if response.hit.degraded else "hit"
    mark = ", degraded" if response.miss.degraded else ""
    if response.miss.lease:
        return "lease" + mark
    return ("in_progress" if response.miss.in_progress else "miss") + mark


async def crowd(
    stubs: Sequence[CacheServiceAsyncStub], key: bytes, count: int, *, compute_s: float
) -> Counter[str]:
    """Look a key up many times at once; who gets the lease computes. Counts what came."""
    came: Counter[str] = Counter()

    async def call(number: int) -> None:
        stub = stubs[number % len(stubs)]
        response = await stub.GetPrompt(get_request(key, wait_s=60.0), timeout=100.0)
        kind = kind_of(response)
        came[kind] += 1
        if kind == "lease":
            await asyncio.sleep(compute_s)
            filled = set_request(key, b"the one answer", lease=response.miss.lease)
            status = (await stub.SetPrompt(filled)).status
            came[pb.SetStatus.Name(status)] += 1
        else:
            came[response.hit.answer.decode()] += 1

    await asyncio.gather(*(call(number) for number in range(count)))
    return came


async def lead(stub: CacheServiceAsyncStub, key: bytes, *, hold: bool, lease_ttl_s: float) -> None:
    """Take the lease, say so, and compute for ever."""
    response = await stub.GetPrompt(get_request(key, wait_s=5.0, lease_ttl_s=lease_ttl_s))
    if hold:
        async for news in stub.HoldLease(hold_request(response.miss.lease)):
            print(json.dumps({"kind": kind_of(response), "hold": news.state}), flush=True)
    print(json.dumps({"kind": kind_of(response), "hold": 0}), flush=True)
    await asyncio.Event().wait()


async def _main(targets: list[str], order: dict[str, object]) -> None:
    key = bytes.fromhex(str(order["key"]))
    async with AsyncExitStack() as stack:
        stubs = [
            CacheServiceStub(await stack.enter_async_context(open_channel(target)))
            for target in targets
        ]
        if order["action"] == "crowd":
            count, compute_s = int(str(order["count"])), float(str(order["compute_s"]))
            print(json.dumps(await crowd(stubs, key, count, compute_s=compute_s)), flush=True)
        else:
            ttl_s = float(str(order["lease_ttl_s"]))
            await lead(stubs[0], key, hold=bool(order["hold"]), lease_ttl_s=ttl_s)


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1:], json.loads(sys.stdin.readline())))
