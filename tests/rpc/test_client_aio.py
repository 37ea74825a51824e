"""The asyncio client at a double of the sidecar: calls one by one, and its own life.

Other files show get_or_compute (test_client_aio_get_or_compute.py) and faults (…_faults.py).
"""

from __future__ import annotations

import asyncio
import gc
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from mge_cache import (
    AsyncClient,
    ClientClosedError,
    Hit,
    InvalidRequestError,
    Miss,
    PromptKey,
    PromptRequest,
    SetStatus,
)
from tests.rpc.asyncio_client import (
    PATIENT,
    REQUEST,
    Computation,
    ComputeError,
    address,
    client,
    double,
    fail,
)
from tests.rpc.sidecar_double import TICK, SidecarDouble
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["address", "client", "double"]  # fixtures


async def test_get_hold_and_set_by_hand(double: SidecarDouble, client: AsyncClient) -> None:
    assert await client.get(REQUEST) == Miss()
    assert not double.leases
    miss = await client.get(REQUEST, lease=True, lease_ttl_s=5)
    assert isinstance(miss, Miss)
    assert miss.lease is not None
    assert miss.lease.ttl_s == 5
    async with client.hold(miss.lease):
        await eventually(lambda: double.open_holds)
        assert await client.get(REQUEST, lease=True) == Miss(in_progress=True)
        result = await client.set(REQUEST, b"bytes", lease=miss.lease, ttl_s=60, preloaded=True)
    assert (result.status, result.ttl_s) == (SetStatus.STORED, 60)
    assert double.sets[0].preloaded
    hit = await client.get(PromptKey(key=REQUEST.key))
    assert isinstance(hit, Hit)
    assert (hit.answer.body, hit.age_s, hit.remaining_ttl_s) == (b"bytes", 1.5, 60)
    assert hit.answer.usage is None


async def test_send_prompt_sends_the_whole_identity(double: SidecarDouble) -> None:
    target = await double.start("127.0.0.1:0")
    async with AsyncClient(target, timeouts=PATIENT, send_prompt=True) as client:
        request = PromptRequest(model="m", prompt="p", temperature=0, parameters={"x": [1.0]})
        await client.get(request)

    (sent,) = (get.identity for get in double.gets)
    assert (sent.model, sent.prompt, sent.key) == ("m", "p", b"")
    assert sent.HasField("temperature")
    assert dict(sent.parameters) == {"x": "[1]"}


async def test_invalidate_and_stats(double: SidecarDouble, client: AsyncClient) -> None:
    calls: list[Callable[[], Awaitable[int]]] = [
        lambda: client.invalidate(key=REQUEST.key),
        lambda: client.invalidate(masterplan="m"),
        lambda: client.invalidate(tag="t"),
        lambda: client.invalidate(model="x"),
        lambda: client.invalidate(everything=True, namespace="n"),
    ]
    for call in calls:
        assert await call() == TICK
    named = [message.WhichOneof("target") for message in double.invalidations]
    assert named == ["key", "masterplan", "tag", "model", "everything"]
    for arguments in ({}, {"tag": "t", "model": "m"}):
        with pytest.raises(InvalidRequestError, match="exactly one"):
            await client.invalidate(**arguments)  # type: ignore[arg-type]

    stats = await client.stats(namespace="n")
    assert stats.layers[0].errors_by_operation == {"lookup": 2}
    assert (stats.layers[0].total_hits, stats.l1.size_bytes) == (3, 5)
    assert stats.unpriced_models == ("n",)


async def test_the_raw_stub_is_reachable(client: AsyncClient) -> None:
    from mge_cache.v1 import cache_service_pb2 as pb

    response = await client.stub.Stats(pb.StatsRequest(namespace="raw"))
    assert list(response.unpriced_models) == ["raw"]


async def test_mistakes_show_before_anything_is_computed(client: AsyncClient) -> None:
    compute = Computation()
    with pytest.raises(InvalidRequestError, match="ttl_s"):
        await client.get_or_compute(REQUEST, compute, ttl_s=0)
    with pytest.raises(InvalidRequestError, match="tags"):
        await client.get_or_compute(REQUEST, compute, tags="not a list")
    with pytest.raises(InvalidRequestError, match="model"):
        await client.get_or_compute(PromptKey(key=b"k" * 32), compute)
    assert compute.calls == 0


async def test_invalid_argument_names_the_field(double: SidecarDouble, client: AsyncClient) -> None:
    double.fails["SetPrompt"] = (grpc.StatusCode.INVALID_ARGUMENT, "tags: at most 64, not 65")
    with pytest.raises(InvalidRequestError, match="at most 64") as caught:
        await client.set(REQUEST, "answer")
    assert caught.value.field == "tags"
    assert not caught.value.retryable


async def test_closing_ends_calls_and_is_not_a_cancellation(
    double: SidecarDouble, client: AsyncClient
) -> None:
    double.hangs.add("GetPrompt")
    task = asyncio.create_task(client.get_or_compute(REQUEST, Computation()))
    await eventually(lambda: double.gets)
    await client.close()
    with pytest.raises(ClientClosedError):
        await task
    with pytest.raises(ClientClosedError):
        await client.get(REQUEST)
    await client.close()


async def test_no_task_is_left_behind(double: SidecarDouble, address: str) -> None:
    target = await double.start(address)
    before = asyncio.all_tasks()
    async with AsyncClient(target, timeouts=PATIENT) as client:
        await client.get_or_compute(REQUEST, Computation())
        with pytest.raises(ComputeError):
            await client.get_or_compute(replace(REQUEST, prompt="other"), fail)
        await eventually(lambda: not double.open_holds)
        ours = [task for task in asyncio.all_tasks() - before if "Hold" in repr(task)]
        assert not ours
    await double.stop()
    await eventually(lambda: not asyncio.all_tasks() - before)
    gc.collect()  # what was never awaited or closed would warn here, and warnings are errors


async def test_a_client_can_be_made_outside_of_the_loop_that_uses_it(
    double: SidecarDouble,
) -> None:
    target = await double.start("127.0.0.1:0")
    client = await asyncio.to_thread(AsyncClient, target, timeouts=PATIENT)
    assert await client.get(REQUEST) == Miss()
    await client.close()
