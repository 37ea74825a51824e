"""``AsyncClient.generate``: deltas, results, restarts, many requests on one stream."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from mge_cache import (
    AnswerSource,
    AsyncClient,
    CacheUse,
    Completion,
    Delta,
    InvalidRequestError,
    NotFoundError,
    NotReadyError,
    PromptKey,
    Strategy,
    Usage,
)
from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.generate_double import echo
from tests.rpc.generating import REQUEST, address, client, double
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.rpc.generate_double import GenerateDouble

__all__ = ["address", "client", "double"]  # fixtures


async def test_defaults(double: GenerateDouble, client: AsyncClient) -> None:
    first, second = client.generate(REQUEST), client.generate(REQUEST)
    await eventually(lambda: len(double.ids) == 2)
    assert double.talk.ids == [first.request_id, second.request_id]
    assert first.request_id != second.request_id
    asked = double.talk.requests[0].start
    assert (asked.cache, asked.strategy) == (pb.CACHE_USE_USE, pb.STRATEGY_UNSPECIFIED)
    assert (asked.timeout.seconds, asked.masterplan, asked.HasField("ttl")) == (600, "", False)


async def test_every_field_is_sent(double: GenerateDouble, client: AsyncClient) -> None:
    kept = client.generate(
        REQUEST,
        masterplan="m",
        tags=("a", "b"),
        ttl_s=60,
        cache=CacheUse.REFRESH,
        strategy=Strategy.MERGE,
        timeout_s=1.5,
        request_id="mine",
    )
    await eventually(lambda: double.ids == ["mine"])
    assert kept.request_id == "mine"
    asked = double.talk.requests[0].start
    assert asked.identity == pb.PromptIdentity(
        namespace="plans",
        model="a-model",
        temperature=0.5,
        prompt="Why is the sky blue?",
        parameters={"system": '"Be brief."'},
    )
    assert (asked.masterplan, list(asked.tags), asked.ttl.seconds) == ("m", ["a", "b"], 60)
    assert (asked.cache, asked.strategy) == (pb.CACHE_USE_REFRESH, pb.STRATEGY_MERGE)
    assert (asked.timeout.seconds, asked.timeout.nanos) == (1, 500_000_000)


async def test_deltas_then_the_result(double: GenerateDouble, client: AsyncClient) -> None:
    generation = client.generate(REQUEST, request_id="r")
    await eventually(lambda: double.ids)
    seen = []
    await double.talk.delta("r", "Rayleigh")
    seen.append(await anext(generation))
    await double.talk.delta("r", " scattering.")
    seen.append(await anext(generation))
    await double.talk.complete(
        *("r", "Rayleigh scattering."),
        cost_usd=0.25,
        batch_size=3,
        strategy=pb.STRATEGY_MERGE,
        degraded=True,
    )
    seen += [delta async for delta in generation]
    assert seen == [Delta("Rayleigh"), Delta(" scattering.")]
    assert await generation.result() == Completion(
        text="Rayleigh scattering.",
        stop_reason="end_turn",
        usage=Usage(input_tokens=7, output_tokens=3),
        cost_usd=0.25,
        cost_saved_usd=0.0,
        source=AnswerSource.UPSTREAM,
        batch_size=3,
        strategy=Strategy.MERGE,
        degraded=True,
        request_id="r",
    )
    assert [delta async for delta in generation] == []
    assert not double.cancelled
    assert "Rayleigh" not in repr((seen, await generation.result()))


async def test_the_result_alone_and_afterwards_the_deltas(
    double: GenerateDouble, client: AsyncClient
) -> None:
    double.answer = echo
    generation = client.generate(REQUEST)
    completion = await generation.result()
    assert completion.text == REQUEST.prompt
    assert [delta.text async for delta in generation] == [REQUEST.prompt]
    assert await generation.result() is completion


async def test_a_cached_answer_is_one_delta(double: GenerateDouble, client: AsyncClient) -> None:
    generation = client.generate(REQUEST, request_id="r")
    await eventually(lambda: double.ids)
    fields = {"source": pb.ANSWER_SOURCE_CACHE, "cost_saved_usd": 0.5}
    await double.talk.complete("r", "Stored.", **fields)
    assert [delta async for delta in generation] == [Delta("Stored.")]
    completion = await generation.result()
    assert (completion.source, completion.strategy) == (AnswerSource.CACHE, None)
    assert completion.cost_saved_usd == 0.5


async def test_a_restart_voids_what_was_read(double: GenerateDouble, client: AsyncClient) -> None:
    generation = client.generate(REQUEST, request_id="r")
    await eventually(lambda: double.ids)
    await double.talk.restart("r")  # of nothing: not worth telling
    await double.talk.delta("r", "wrong")
    assert await anext(generation) == Delta("wrong")
    await double.talk.restart("r")
    assert await anext(generation) == Delta("", restart=True)
    await double.talk.delta("r", "right")
    await double.talk.complete("r", "right")
    assert [delta async for delta in generation] == [Delta("right")]


async def test_requests_interleave_on_one_stream(
    double: GenerateDouble, client: AsyncClient
) -> None:
    double.answer = echo
    prompts = [f"prompt {number} of many" for number in range(200)]

    async def text(prompt: str) -> str:
        parts = [delta async for delta in client.generate(replace(REQUEST, prompt=prompt))]
        assert not any(part.restart for part in parts)
        return "".join(part.text for part in parts)

    assert await asyncio.gather(*map(text, prompts)) == prompts
    assert len(double.talk.ids) == 200


async def test_a_slow_reader_holds_nobody_up(double: GenerateDouble, client: AsyncClient) -> None:
    slow = client.generate(REQUEST, request_id="slow")
    other = client.generate(REQUEST, request_id="other")
    await eventually(lambda: len(double.ids) == 2)
    # More than any buffer of gRPC holds: if the reader were awaited, this would not come to an end.
    for _ in range(64):
        await double.talk.delta("slow", "x" * (256 << 10))
    await double.talk.complete("other", "here")
    assert (await other.result()).text == "here"
    await double.talk.complete("slow", "x" * (16 << 20))
    (delta,) = [delta async for delta in slow]  # joined
    assert delta.text == (await slow.result()).text


async def test_two_tasks_read_one_answer(double: GenerateDouble, client: AsyncClient) -> None:
    double.answer = echo
    generation = client.generate(REQUEST)
    result = asyncio.create_task(generation.result())
    text = "".join([delta.text async for delta in generation])
    assert (await result).text == text == REQUEST.prompt


async def test_a_large_request_has_its_own_call(
    double: GenerateDouble, client: AsyncClient
) -> None:
    kept = client.generate(REQUEST, request_id="small")
    await eventually(lambda: double.ids)
    large = client.generate(replace(REQUEST, prompt="x" * (2 << 20)), request_id="large")
    await eventually(lambda: len(double.ids) == 2)
    first, second = double.talks
    assert (first.ids, second.ids) == (["small"], ["large"])
    await second.complete("large", "ok")
    assert (await large.result()).text == "ok"
    await eventually(lambda: second.over)
    assert second.half_closed  # it was ended, not broken off
    assert not first.over
    await first.complete("small", "ok")
    assert (await kept.result()).text == "ok"


async def test_fetch(double: GenerateDouble, client: AsyncClient) -> None:
    async def answer(talk: Any, request: pb.GenerateRequest) -> None:
        request_id = request.fetch.id
        if request_id == "there":
            await talk.complete(request_id, "Done.", source=pb.ANSWER_SOURCE_CACHE)
        else:
            await talk.error(request_id, 4 if request_id == "later" else 5, "what")

    double.answer = answer
    completion = await client.fetch("there", namespace="plans", timeout_s=1.5)
    assert (completion.text, completion.request_id) == ("Done.", "there")
    asked = double.talk.requests[0].fetch
    assert (asked.namespace, asked.timeout.seconds, asked.timeout.nanos) == (
        *("plans", 1),
        500_000_000,
    )
    with pytest.raises(NotReadyError):
        await client.fetch("later")
    with pytest.raises(NotFoundError):
        await client.fetch("never")
    assert not double.talk.requests[1].fetch.HasField("timeout")


async def test_fetch_of_what_is_under_way_here(double: GenerateDouble, client: AsyncClient) -> None:
    waiting = client.generate(REQUEST, strategy=Strategy.DEFERRED, request_id="r")
    await eventually(lambda: double.ids)
    fetching = asyncio.create_task(client.fetch("r"))
    await eventually(lambda: len(double.ids) == 2)
    first, second = double.talks
    await second.complete("r", "fetched")
    assert (await fetching).text == "fetched"
    await first.error("r", 4, "in its batch")
    with pytest.raises(NotReadyError, match="in its batch"):
        await waiting.result()


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"ttl_s": 0}, "ttl_s"),
        ({"tags": "ab"}, "tags"),
        ({"tags": ["\ud800"]}, "masterplan or tags"),
        ({"request_id": ""}, "request_id"),
        ({"request_id": "a\n"}, "request_id"),
        ({"request_id": "é" * 65}, "request_id"),
        ({"request_id": "\ud800"}, "request_id"),
        ({"request_id": "taken"}, "request_id"),
        ({"cache": "use"}, "cache or strategy"),
        ({"request": PromptKey(key=b"k" * 32, model="m")}, "request"),
    ],
)
async def test_mistakes_are_told_before_anything_is_sent(
    double: GenerateDouble, client: AsyncClient, options: dict[str, Any], field: str
) -> None:
    kept = client.generate(REQUEST, request_id="taken")
    await eventually(lambda: double.ids == ["taken"])
    with pytest.raises(InvalidRequestError) as caught:
        client.generate(**{"request": REQUEST, **options})
    assert caught.value.field == field
    assert double.ids == [kept.request_id]
