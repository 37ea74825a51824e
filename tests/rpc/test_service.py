"""Every method of the contract, on a real server, in memory and on a real Valkey."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from mge_cache import PromptRequest
from mge_cache.v1 import cache_service_pb2 as pb
from tests.waiting import eventually

if TYPE_CHECKING:
    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.conftest import Serve

MODEL = "claude-opus-4-8"
USAGE = pb.Usage(input_tokens=10, output_tokens=20, cache_read_tokens=30, cache_write_tokens=40)


def identity(prompt: str = "prompt", **fields: Any) -> pb.PromptIdentity:
    return pb.PromptIdentity(**{"model": MODEL, "prompt": prompt, **fields})


async def get(stub: CacheServiceAsyncStub, **fields: Any) -> pb.GetPromptResponse:
    return await stub.GetPrompt(pb.GetPromptRequest(**{"identity": identity(), **fields}))


async def store(stub: CacheServiceAsyncStub, **fields: Any) -> pb.SetPromptResponse:
    usual = {"identity": identity(), "answer": b"answer"}
    return await stub.SetPrompt(pb.SetPromptRequest(**{**usual, **fields}))


async def invalidate(stub: CacheServiceAsyncStub, **fields: Any) -> int:
    return (await stub.Invalidate(pb.InvalidateRequest(**fields))).tick


def seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / 1e9


async def test_a_miss_hands_out_a_lease_and_a_stored_answer_is_a_hit(
    stub: CacheServiceAsyncStub,
) -> None:
    miss = (await get(stub)).miss
    assert miss.lease
    assert not miss.in_progress
    assert not miss.degraded
    assert seconds(miss.lease_ttl) == pytest.approx(60)
    stored = await store(
        stub,
        lease=miss.lease,
        content_type="application/json",
        usage=USAGE,
        cost_usd=0.25,
        compute_time=Duration(seconds=3),
    )
    assert stored.status == pb.SET_STATUS_STORED
    assert stored.cost_usd == 0.25
    assert 86400 * 0.95 <= seconds(stored.ttl) <= 86400 * 1.05

    hit = (await get(stub)).hit
    assert hit.answer == b"answer"
    assert hit.content_type == "application/json"
    assert hit.usage == USAGE
    assert hit.cost_saved_usd == 0.25
    assert 0 <= seconds(hit.age) < 60
    assert seconds(stored.ttl) - 60 < seconds(hit.remaining_ttl) <= seconds(stored.ttl)
    assert hit.layer == pb.HIT_LAYER_L1
    assert not hit.degraded


async def test_another_sidecar_answers_from_the_store(
    serve: Serve, servers: Any, key_prefix: str
) -> None:
    settings = {
        "redis_url": servers.url("valkey9"),
        "key_prefix": key_prefix,
        "store_timeout_s": 10.0,
    }
    one, other = await serve(**settings), await serve(**settings)
    await store(one)
    hit = (await get(other)).hit
    assert (hit.answer, hit.layer) == (b"answer", pb.HIT_LAYER_STORE)
    assert (await get(other)).hit.layer == pb.HIT_LAYER_L1


async def test_the_key_alone_finds_what_the_full_identity_stored(
    stub: CacheServiceAsyncStub,
) -> None:
    request = PromptRequest(
        model=MODEL, prompt="prompt", temperature=0.5, parameters={"top_k": 3}, namespace="space"
    )
    full = identity(namespace="space", temperature=0.5, parameters={"top_k": "3"})
    by_key = pb.PromptIdentity(namespace="space", key=request.key)
    await store(stub, identity=full)
    assert (await get(stub, identity=by_key)).hit.answer == b"answer"
    by_key.model = MODEL
    await store(stub, identity=by_key, answer=b"second")
    assert (await get(stub, identity=full)).hit.answer == b"second"


async def test_unset_and_zero_temperature_differ(stub: CacheServiceAsyncStub) -> None:
    await store(stub, identity=identity(temperature=0))
    assert (await get(stub)).HasField("miss")
    assert (await get(stub, identity=identity(temperature=-0.0))).HasField("hit")


async def test_content_type_has_a_default(stub: CacheServiceAsyncStub) -> None:
    await store(stub)
    assert (await get(stub)).hit.content_type == "application/octet-stream"


async def test_peek_takes_no_lease_and_does_not_wait(stub: CacheServiceAsyncStub) -> None:
    miss = (await get(stub, peek=True, wait=Duration(seconds=60))).miss
    assert (miss.lease, miss.in_progress) == (b"", False)
    assert (await get(stub)).miss.lease
    miss = (await get(stub, peek=True)).miss
    assert (miss.lease, miss.in_progress) == (b"", True)
    await store(stub)
    assert (await get(stub, peek=True)).HasField("hit")


async def test_who_does_not_wait_hears_that_it_is_in_progress(stub: CacheServiceAsyncStub) -> None:
    await get(stub)
    miss = (await get(stub)).miss
    assert (miss.lease, miss.in_progress, miss.degraded) == (b"", True, False)
    miss = (await get(stub, wait=Duration(nanos=20_000_000))).miss
    assert (miss.lease, miss.in_progress) == (b"", True)


async def test_who_waits_gets_the_answer(stub: CacheServiceAsyncStub) -> None:
    lease = (await get(stub)).miss.lease
    follower = asyncio.ensure_future(get(stub, wait=Duration(seconds=60)))
    await stub.Stats(pb.StatsRequest())
    await store(stub, lease=lease)
    hit = (await follower).hit
    assert hit.answer == b"answer"


async def test_lease_ttl_is_the_callers(stub: CacheServiceAsyncStub) -> None:
    miss = (await get(stub, lease_ttl=Duration(nanos=50_000_000))).miss
    assert seconds(miss.lease_ttl) == pytest.approx(0.05)

    async def next_in_line() -> bytes:
        return (await get(stub)).miss.lease

    assert await eventually(next_in_line) != miss.lease


async def test_hold_lease_reports_what_becomes_of_it(stub: CacheServiceAsyncStub) -> None:
    miss = (await get(stub, lease_ttl=Duration(nanos=200_000_000))).miss
    held = stub.HoldLease(pb.HoldLeaseRequest(lease=miss.lease))
    states = aiter(held)
    assert (await anext(states)).state == pb.LEASE_STATE_HELD
    await store(stub, lease=miss.lease)
    assert [each.state async for each in states] == [pb.LEASE_STATE_FULFILLED]


async def test_hold_lease_ends_at_its_maximum(stub: CacheServiceAsyncStub) -> None:
    lease = (await get(stub)).miss.lease
    held = stub.HoldLease(pb.HoldLeaseRequest(lease=lease, max=Duration(nanos=30_000_000)))
    states = [each.state async for each in held]
    assert states == [pb.LEASE_STATE_HELD, pb.LEASE_STATE_LOST]

    async def next_in_line() -> bytes:
        return (await get(stub)).miss.lease

    await eventually(next_in_line)  # it was given back, long before its minute was over


async def test_hold_lease_of_a_lease_that_is_over(stub: CacheServiceAsyncStub) -> None:
    lease = (await get(stub)).miss.lease
    await store(stub, lease=lease)
    held = stub.HoldLease(pb.HoldLeaseRequest(lease=lease))
    assert [each.state async for each in held] == [pb.LEASE_STATE_LOST]


async def test_hanging_up_hands_the_lease_over(stub: CacheServiceAsyncStub) -> None:
    lease = (await get(stub)).miss.lease
    held = stub.HoldLease(pb.HoldLeaseRequest(lease=lease))
    assert (await anext(aiter(held))).state == pb.LEASE_STATE_HELD
    follower = asyncio.ensure_future(get(stub, wait=Duration(seconds=60)))
    await stub.Stats(pb.StatsRequest())
    held.cancel()
    assert (await follower).miss.lease not in {b"", lease}


async def test_invalidation_overtakes_a_computation(stub: CacheServiceAsyncStub) -> None:
    lease = (await get(stub)).miss.lease
    await invalidate(stub, model=MODEL)
    stored = await store(stub, lease=lease, cost_usd=0.5)
    assert stored.status == pb.SET_STATUS_OVERTAKEN
    assert not stored.HasField("ttl")
    assert stored.cost_usd == 0.5
    assert (await get(stub)).miss.lease


KEY = PromptRequest(model=MODEL, prompt="prompt").key


@pytest.mark.parametrize(
    "target",
    [{"key": KEY}, {"masterplan": "plan"}, {"tag": "a"}, {"model": MODEL}, {"everything": True}],
    ids=lambda target: next(iter(target)),
)
async def test_invalidate(stub: CacheServiceAsyncStub, target: dict[str, Any]) -> None:
    other = identity("other", model="another model")
    await store(stub, masterplan="plan", tags=["a", "b"])
    await store(stub, identity=other, masterplan="a", tags=["plan", "c"])
    first = await invalidate(stub, **target)
    assert (await get(stub, peek=True)).HasField("miss")
    untouched = "everything" not in target
    assert (await get(stub, identity=other, peek=True)).HasField("hit") is untouched
    await store(stub, masterplan="plan", tags=["a", "b"])
    assert (await get(stub)).HasField("hit")
    assert await invalidate(stub, **target) > first


async def test_namespaces_are_walls(stub: CacheServiceAsyncStub) -> None:
    for space in ("one", "two", ""):
        await store(
            stub,
            identity=identity(namespace=space),
            answer=space.encode() or b"default",
            masterplan="plan",
            tags=["tag"],
            cost_usd=1,
        )
    for target in ({"masterplan": "plan"}, {"tag": "tag"}, {"model": MODEL}, {"everything": True}):
        await invalidate(stub, namespace="one", **target)
    assert (await get(stub, identity=identity(namespace="one"))).miss.lease
    for space in ("two", ""):
        hit = (await get(stub, identity=identity(namespace=space))).hit
        assert hit.answer == (space.encode() or b"default")
    figures = {}
    for space in ("one", "two", "default", "", "unheard-of"):
        layer, *_ = (await stub.Stats(pb.StatsRequest(namespace=space))).layers
        figures[space] = (
            layer.total_hits,
            layer.total_misses,
            layer.total_writes,
            layer.total_invalidations,
            layer.spent_usd,
        )
    assert figures == {
        "one": (0, 1, 1, 4, 1.0),
        "two": (1, 0, 1, 0, 1.0),
        "default": (1, 0, 1, 0, 1.0),
        "": (2, 1, 3, 4, 3.0),
        "unheard-of": (0, 0, 0, 0, 0.0),
    }


async def test_a_lease_of_one_namespace_is_none_in_another(stub: CacheServiceAsyncStub) -> None:
    lease = (await get(stub, identity=identity(namespace="one"))).miss.lease
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await store(stub, identity=identity(namespace="two"), lease=lease)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "lease: was handed out for another key"


async def test_stats(stub: CacheServiceAsyncStub) -> None:
    await get(stub)
    await store(stub, cost_usd=0.5, compute_time=Duration(seconds=2))
    await get(stub)
    await get(stub)
    await store(stub, identity=identity("2", model="unheard of"), usage=USAGE)
    # What was not paid for now took no time now.
    await store(stub, identity=identity("2"), compute_time=Duration(seconds=9), preloaded=True)
    stats = await stub.Stats(pb.StatsRequest())
    layer, *_ = stats.layers
    assert layer.cache_layer == "llm"
    assert (layer.total_hits, layer.total_misses, layer.total_writes) == (2, 1, 3)
    assert layer.hit_rate == stats.combined_hit_rate == pytest.approx(2 / 3)
    assert (layer.spent_usd, layer.saved_usd, layer.saved_seconds) == (0.5, 1.0, 4.0)
    assert layer.cost_reduction == pytest.approx(1.0 / 1.5)
    assert layer.computed_seconds == 2.0
    assert layer.total_errors == 0
    assert layer.unpriced_writes == 1
    assert list(stats.unpriced_models) == ["unheard of"]
    assert stats.l1.entries == 3
    assert 0 < stats.l1.bytes < stats.l1.max_bytes
    assert stats.store.available


async def test_preloaded_answers_are_not_spent(stub: CacheServiceAsyncStub) -> None:
    await store(stub, cost_usd=0.5, preloaded=True)
    await get(stub)
    layer, *_ = (await stub.Stats(pb.StatsRequest())).layers
    assert (layer.spent_usd, layer.saved_usd) == (0.0, 0.5)


async def test_a_look_up_that_asks_again_counts_once(stub: CacheServiceAsyncStub) -> None:
    await get(stub)
    for _ in range(3):
        assert (await get(stub, asks_again=True)).miss.in_progress
    await get(stub)
    layer, *_ = (await stub.Stats(pb.StatsRequest())).layers
    assert layer.total_misses == 2
