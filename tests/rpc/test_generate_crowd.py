"""``Generate`` over real gRPC: many streams at once, some of which leave in the middle."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.talk import Talk
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.scripted_upstream import Call, ScriptedUpstream

    Generating = Callable[..., Awaitable[CacheServiceAsyncStub]]

STREAMS, REQUESTS, PROMPTS = 6, 8, 12


async def model(upstream: ScriptedUpstream) -> None:
    """Answer whatever comes, each call in parts, the calls in turns."""

    async def answer(call: Call) -> None:
        call.begin()
        for part in ("answer ", "to ", call.prompt):
            call.say(part)
            await asyncio.sleep(0)
        call.end()

    async with asyncio.TaskGroup() as answering:
        while True:
            answering.create_task(answer(await upstream.call()))


async def converse(talk: Talk, chance: random.Random, name: str) -> int:
    """Ask, cancel some, read the rest; return how many ended. May break off."""
    prompts = [f"prompt {chance.randrange(PROMPTS)}" for _ in range(REQUESTS)]
    for number, prompt in enumerate(prompts):
        await talk.start(str(number), prompt)
    cancelled = set(map(str, chance.sample(range(REQUESTS), 2)))
    for request_id in cancelled:
        await talk.cancel(request_id)
    seen = dict.fromkeys(map(str, range(REQUESTS)), "")
    ended: set[str] = set()
    leaves = name == "leaver"
    while not ended >= seen.keys() - cancelled:
        if leaves and len(ended) > 1:
            talk.break_off()
            return len(ended)
        reply = await talk.reply()
        event = reply.WhichOneof("event")
        assert reply.id not in ended, "nothing comes after the end"
        if event == "delta":
            seen[reply.id] += reply.delta
            continue
        assert event == "completion", reply
        ended.add(reply.id)
        assert reply.completion.text == f"answer to {prompts[int(reply.id)]}"
        if reply.completion.source != pb.ANSWER_SOURCE_CACHE:
            assert seen[reply.id] == reply.completion.text
    # A reply may have been under way when its request was cancelled.
    assert {reply.id for reply in await talk.rest()} <= cancelled
    return len(ended)


@pytest.mark.parametrize("seed", range(3))
async def test_a_crowd_leaves_nothing(
    generating: Generating, upstream: ScriptedUpstream, seed: int
) -> None:
    stub = await generating(batch_window_s=0.01, upstream_calls_max=4)
    chance = random.Random(seed)
    answering = asyncio.ensure_future(model(upstream))
    talks = [
        converse(Talk(stub), chance, "leaver" if index % 3 == 0 else "reader")
        for index in range(STREAMS)
    ]
    ended = await asyncio.gather(*talks)
    assert sum(ended) >= STREAMS // 3 * 2

    async def is_quiet() -> bool:
        stats = (await stub.Stats(pb.StatsRequest())).batcher
        return (stats.queued, stats.upstream_in_flight) == (0, 0)

    await eventually(is_quiet)
    calls = (await stub.Stats(pb.StatsRequest())).batcher.upstream_calls
    assert sum(calls.values()) == calls["ok"] + calls["cancelled"]
    answering.cancel()
    await asyncio.wait([answering])
