"""What the contract does not allow is INVALID_ARGUMENT, with field and limit; never INTERNAL."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given, settings

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.conftest import Serve
from tests.rpc.refused import CASES, MIB, get, invalidate, of, put
from tests.strategies import service_requests

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub


LOWERED = {
    "answer_max_bytes": 4,
    "prompt_max_bytes": 4,
    "tags_max": 1,
    "ttl_max_s": 3600.0,
    "ttl_s": 60.0,
    "wait_max_s": 1.0,
    "namespaces_max": 2,
}
"""Limits that an operator has lowered."""


async def call(stub: CacheServiceAsyncStub, request: Message) -> None:
    """Make the call that takes such a request."""
    match request:
        case pb.GetPromptRequest():
            await stub.GetPrompt(request)
        case pb.SetPromptRequest():
            await stub.SetPrompt(request)
        case pb.InvalidateRequest():
            await stub.Invalidate(request)
        case pb.StatsRequest():
            await stub.Stats(request)
        case pb.HoldLeaseRequest():
            async for _ in stub.HoldLease(request):
                pass


async def refusal(stub: CacheServiceAsyncStub, request: Message) -> tuple[str, str]:
    """Return the status and its text."""
    try:
        await call(stub, request)
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


async def test_every_check_names_field_and_limit(serve: Serve) -> None:
    stub = await serve()
    for name, (request, text) in CASES.items():
        assert await refusal(stub, request) == ("INVALID_ARGUMENT", text), name
    layer, *_ = (await stub.Stats(pb.StatsRequest())).layers
    assert (layer.total_misses, layer.total_writes, layer.total_invalidations) == (0, 0, 0)


async def test_what_is_just_allowed_is_taken(serve: Serve) -> None:
    stub = await serve()
    for request in (
        get(identity=of(namespace="a" * 64, model="é" * 128, temperature=1e308)),
        get(identity=of(prompt="é" * (2 * MIB))),
        get(identity=of(prompt="", parameters={"é" * 64: "x" * (4 * MIB - 128)})),
        get(identity=of(parameters={str(number): "1" for number in range(64)})),
        get(identity=pb.PromptIdentity(key=b"k" * 32)),
        get(wait=Duration(nanos=1), lease_ttl=Duration(nanos=10_000_000)),
        get(lease_ttl=Duration(seconds=600)),
        put(answer=b"x" * 8 * MIB, content_type="x" * 256, cost_usd=1e6),
        put(ttl=Duration(seconds=1), compute_time=Duration(seconds=604800)),
        put(ttl=Duration(seconds=604800), masterplan="é" * 128),
        put(tags=["x" * 256, *(str(number) for number in range(63))]),
        invalidate(namespace="a" * 64, tag="é" * 128),
    ):
        assert await refusal(stub, request) == ("OK", "")


async def test_limits_are_settings(serve: Serve) -> None:
    stub = await serve(**LOWERED)
    for request, text in (
        (put(answer=b"12345"), "answer: at most 4 bytes"),
        (
            get(identity=of(prompt="12345")),
            "identity.prompt: prompt and parameters exceed 4 bytes together",
        ),
        (put(tags=["1", "2"]), "tags: at most 1"),
        (put(ttl=Duration(seconds=3601)), "ttl: must be 1 s to 3600 s, or unset"),
        (get(wait=Duration(seconds=2)), "wait: must be 0 s to 1 s, or unset"),
    ):
        assert await refusal(stub, request) == ("INVALID_ARGUMENT", text)
    for namespace in ("one", "two", "one"):
        assert await refusal(stub, get(identity=of(namespace=namespace))) == ("OK", "")
    for make in (get, put):
        assert await refusal(stub, make(identity=of(namespace="three"))) == (
            "INVALID_ARGUMENT",
            "namespace: one more than namespaces_max (2)",
        )
    assert await refusal(stub, invalidate(namespace="three", everything=True)) == (
        "INVALID_ARGUMENT",
        "namespace: one more than namespaces_max (2)",
    )


async def test_a_message_far_over_the_limits_is_refused_before_it_is_read(serve: Serve) -> None:
    stub = await serve()
    status, text = await refusal(stub, put(answer=b"x" * 32 * MIB))
    assert status == "RESOURCE_EXHAUSTED"
    assert "larger than max" in text
    assert await refusal(stub, put()) == ("OK", "")


@pytest.mark.parametrize("method", ["GetPrompt", "SetPrompt", "Invalidate", "Stats"])
async def test_bytes_that_are_no_message_are_refused_and_not_logged(
    serve: Serve, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    stub = await serve()
    async with grpc.aio.insecure_channel(serve.target) as channel:
        raw = channel.unary_unary(
            f"/mge_cache.v1.CacheService/{method}",
            request_serializer=bytes,
            response_deserializer=bytes,
        )
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await raw(b"\x0a\xff\xffqxPROMPTxq")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.details() == "request: is not a message of the contract"
    assert "qxPROMPTxq" not in caplog.text
    assert await refusal(stub, put()) == ("OK", "")


@pytest.mark.parametrize("off", [False, True], ids=["on", "off"])
async def test_the_checks_are_the_same_where_the_cache_is_off(serve: Serve, *, off: bool) -> None:
    stub = await serve(llm_cache_enabled=not off)
    assert await refusal(stub, get(identity=of(model=""))) == (
        "INVALID_ARGUMENT",
        "identity.model: is required",
    )
    assert await refusal(stub, put(tags=[""])) == ("INVALID_ARGUMENT", "tags: is required")


def test_random_requests_are_never_an_internal_error() -> None:
    allowed = {"OK", "INVALID_ARGUMENT"}
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        runner.run(stack.__aenter__())
        stub = runner.run(Serve(stack)(wait_max_s=0.001))

        async def status_of(request: Message) -> str:
            return (await refusal(stub, request))[0]

        @settings(max_examples=300, deadline=None)
        @given(service_requests)
        def check(request: Message) -> None:
            status = runner.run(status_of(request))
            assert status in allowed

        try:
            check()
        finally:
            runner.run(stack.aclose())
