"""``AsyncClient.generate``: callers who go away."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING

import pytest

from mge_cache import (
    AbandonedError,
    AsyncClient,
)
from tests.rpc.generate_double import echo
from tests.rpc.generating import REQUEST, address, client, double, one
from tests.waiting import eventually

if TYPE_CHECKING:
    from mge_cache import AsyncGeneration
    from tests.rpc.generate_double import GenerateDouble

__all__ = ["address", "client", "double"]  # fixtures


async def test_aclose(double: GenerateDouble, client: AsyncClient) -> None:
    generation = await one(double, client)
    await double.talk.delta("r", "unread")
    waiting = asyncio.create_task(generation.result())
    await asyncio.sleep(0)
    await generation.aclose()
    await generation.aclose()
    await eventually(lambda: double.cancelled == ["r"])
    assert [delta async for delta in generation] == []
    for asked in (waiting, generation.result()):
        with pytest.raises(AbandonedError):
            await asked


async def test_leaving_the_block(double: GenerateDouble, client: AsyncClient) -> None:
    async with await one(double, client) as generation:
        await double.talk.delta("r", "enough")
        await anext(generation)
    await eventually(lambda: double.cancelled == ["r"])
    double.answer = echo
    async with client.generate(REQUEST) as generation:
        completion = await generation.result()
    assert await generation.result() == completion
    assert double.cancelled == ["r"]


@pytest.mark.parametrize("how", ["iterating", "result"])
async def test_cancelling_who_waits(double: GenerateDouble, client: AsyncClient, how: str) -> None:
    generation = await one(double, client)
    task = asyncio.ensure_future(anext(generation) if how == "iterating" else generation.result())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await eventually(lambda: double.cancelled == ["r"])


async def test_letting_go(double: GenerateDouble, client: AsyncClient) -> None:
    async for delta in await begun(double, client):
        assert delta.text == "begun"
        break
    del delta
    gc.collect()
    await eventually(lambda: double.cancelled == ["r"])


async def begun(double: GenerateDouble, client: AsyncClient) -> AsyncGeneration:
    generation = await one(double, client)
    await double.talk.delta("r", "begun")
    return generation


async def test_letting_go_in_another_thread(double: GenerateDouble, client: AsyncClient) -> None:
    held = [await one(double, client)]
    await asyncio.to_thread(held.clear)
    await eventually(lambda: double.cancelled == ["r"])


async def test_what_was_not_sent_yet_need_not_be_cancelled(
    double: GenerateDouble, client: AsyncClient
) -> None:
    first = await one(double, client)
    unsent = client.generate(REQUEST, request_id="unsent")
    await unsent.aclose()
    last = client.generate(REQUEST, request_id="last")
    await eventually(lambda: double.ids == ["r", last.request_id])
    assert first.request_id == "r"
    assert not double.cancelled
