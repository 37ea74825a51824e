"""``Generate``: permits to call Anthropic, where there are as few as can be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.rpc.test_generate_merge import ask_merged

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.scripted_upstream import ScriptedUpstream

    Generating = Callable[..., Awaitable[CacheServiceAsyncStub]]


async def test_a_merged_call_that_is_over_holds_no_permit(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    async def one_at_a_time(**settings: object) -> CacheServiceAsyncStub:
        return await generating(**settings, upstream_calls_max=1)

    merged = await ask_merged(one_at_a_time, upstream, count=2)
    first, _ = merged.marks
    merged.call.answer(f"{first}\nOne of two\n{merged.end}")
    for _ in range(2):
        (await upstream.call()).answer("alone")
    assert await merged.texts() == ["alone"] * 2
