"""``AsyncClient.generate``: callers who go away."""

from __future__ import annotations

import asyncio
import gc
import random
from dataclasses import replace
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


@pytest.mark.parametrize("seed", range(5))
async def test_random_callers_who_go_away_cost_the_others_nothing(
    double: GenerateDouble, client: AsyncClient, seed: int
) -> None:
    double.answer = echo
    chance = random.Random(seed)
    prompts = [f"{number} " + "word " * chance.randint(1, 30) for number in range(150)]
    ways = [chance.choice(["read", "result", "close", "cancel", "drop"]) for _ in prompts]
    steps = [chance.randint(0, 3) for _ in prompts]

    async def call(prompt: str, way: str, step: int) -> str:
        generation = client.generate(replace(REQUEST, prompt=prompt))
        if way == "result":
            return (await generation.result()).text
        text = ""
        async for delta in generation:
            text += delta.text
            step -= 1
            if step < 0 and way == "close":
                await generation.aclose()
            if step < 0 and way == "drop":
                break
        return text

    tasks = [asyncio.create_task(call(*each)) for each in zip(prompts, ways, steps, strict=True)]
    for task, way, step in zip(tasks, ways, steps, strict=True):
        if way == "cancel":
            asyncio.get_running_loop().call_later(step / 1000, task.cancel)
    texts = await asyncio.gather(*tasks, return_exceptions=True)
    for prompt, way, text in zip(prompts, ways, texts, strict=True):
        if isinstance(text, str):
            assert prompt.startswith(text)
            assert text == prompt or way in {"close", "drop"}
        else:
            assert (type(text), way) == (asyncio.CancelledError, "cancel")
    shared = client._streams._shared
    assert shared is not None
    await eventually(lambda: len(shared) == 0)
    assert (await client.generate(REQUEST).result()).text == REQUEST.prompt
    assert len(double.talks) == 1
    assert not shared._outbox
