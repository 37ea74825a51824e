"""``Generate``: how requests become batches, and what each strategy sends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.scripted_upstream import TOKENS_IN, TOKENS_OUT
from tests.rpc.talk import FOREVER, LONG_SYSTEM, MODEL, Talk, identity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from mge_cache.v1.cache_service_pb2_grpc import CacheServiceAsyncStub
    from tests.rpc.scripted_upstream import ScriptedUpstream

    Generating = Callable[..., Awaitable[CacheServiceAsyncStub]]


async def test_a_batch_closes_when_it_is_full(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating(**FOREVER, batch_max=3)
    one, other = Talk(stub), Talk(stub)
    await one.start("a", "1")
    await one.start("b", "2")
    await other.start("c", "3")
    for call in (await upstream.batch(3)).values():
        call.answer("yes")
    sizes = [each.batch_size for each in (await one.ends(2) | await other.ends(1)).values()]
    assert sizes == [3, 3, 3]
    stats = (await stub.Stats(pb.StatsRequest())).batcher
    assert (stats.batches, stats.requests, stats.mean_size) == (1, 3, 3.0)
    assert stats.batches_by_strategy["fan_out"] == 1
    assert stats.upstream_calls["ok"] == 3
    assert stats.has_key
    assert dict(stats.batches_by_outcome) == {"ok": 1, "partly": 0, "failed": 0, "cancelled": 0}
    bought = stats.models[MODEL]
    assert bought.usage == pb.Usage(input_tokens=3 * TOKENS_IN, output_tokens=3 * TOKENS_OUT)
    assert bought.cost_usd == pytest.approx(3 * (TOKENS_IN * 2 + TOKENS_OUT * 10) / 1e6)
    assert stats.mean_wait_seconds > 0
    assert 0 < stats.mean_first_delta_seconds <= stats.mean_upstream_seconds


async def test_how_batches_end(generating: Generating, upstream: ScriptedUpstream) -> None:
    stub = await generating(**FOREVER, batch_max=2)
    talk = Talk(stub)
    for request_ids, outcomes in (("ab", "no"), ("cd", "nn"), ("ef", "--")):
        for request_id in request_ids:
            await talk.start(request_id, request_id)
        calls = await upstream.batch(2)
        for request_id, outcome in zip(request_ids, outcomes, strict=True):
            match outcome:
                case "o":
                    calls[request_id].answer("yes")
                    await talk.end(request_id)
                case "n":
                    calls[request_id].refuse(400, "invalid_request_error")
                    await talk.error(request_id)
                case _:
                    await talk.cancel(request_id)
                    await calls[request_id].gone.wait()
    stats = (await stub.Stats(pb.StatsRequest())).batcher
    assert dict(stats.batches_by_outcome) == {"ok": 0, "partly": 1, "failed": 1, "cancelled": 1}


async def test_only_what_agrees_shares_a_batch(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = Talk(await generating(**FOREVER, batch_max=2))
    other_space = identity("4")
    other_space.namespace = "other"
    warm = identity("5")
    warm.temperature = 1.0
    for request_id, asked in {
        "b": identity("2", system='"x"'),
        "c": identity("3", max_tokens="9"),
        "d": other_space,
        "e": warm,
        "a": identity("1"),
    }.items():
        await talk.start(request_id, identity=asked)
    await talk.start("f", "6")
    calls = await upstream.batch(2)
    assert calls.keys() == {"1", "6"}
    for call in calls.values():
        call.answer("yes")
    await talk.ends(2)
    assert upstream.calls == 2
    # Not left to the sidecar's end, which sends what waits: calls that are given up while they
    # connect leave a socket to the garbage collector.
    for request_id in "bcde":
        await talk.cancel(request_id)
    await talk.finish()


async def test_what_the_cache_has_is_in_no_batch(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    stub = await generating(**FOREVER, batch_max=2)
    await stub.SetPrompt(
        pb.SetPromptRequest(identity=identity("1"), answer=b"had", content_type="text/plain")
    )
    talk = Talk(stub)
    await talk.start("a", "1")
    assert (await talk.end("a")).text == "had"
    assert upstream.calls == 0


async def test_eager_does_not_wait_for_others(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = Talk(await generating(**FOREVER, batch_eager=True, batch_max=2))
    await talk.start("a", "1")
    call = await upstream.call()
    # With one under way, the next wait for each other.
    await talk.start("b", "2")
    await talk.start("c", "3")
    others = await upstream.batch(2)
    for each in [call, *others.values()]:
        each.answer("yes")
    done = await talk.ends(3)
    assert [done[name].batch_size for name in "abc"] == [1, 2, 2]


async def test_who_gives_up_leaves_the_batch(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = Talk(await generating(**FOREVER, batch_max=2))
    await talk.start("a", "1")
    await talk.cancel("a")
    await talk.start("b", "2")
    await talk.start("c", "3")
    calls = await upstream.batch(2)
    assert calls.keys() == {"2", "3"}
    for call in calls.values():
        call.answer("yes")
    await talk.ends(2)


async def test_a_long_prefix_is_cached_by_the_first_call(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = Talk(await generating(**FOREVER, batch_max=3))
    for request_id in "abc":
        await talk.start(request_id, identity=identity(request_id, system=LONG_SYSTEM))
    first = await upstream.call()
    [block] = first.body["system"]
    assert block["cache_control"] == {"type": "ephemeral"}
    assert upstream.waiting == 0
    first.begin(cache_write=1800)
    others = await upstream.batch(2)
    assert all(each.body["system"] == first.body["system"] for each in others.values())
    first.say("1")
    first.end()
    for call in others.values():
        call.begin(cache_read=1800)
        call.say("2")
        call.end()
    done = await talk.ends(3)
    assert done[first.prompt].usage.cache_write_tokens == 1800
    assert {each.usage.cache_read_tokens for each in done.values()} == {0, 1800}


async def test_a_short_prefix_is_not_marked_and_nobody_waits(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = Talk(await generating(**FOREVER, batch_max=2))
    for request_id in "ab":
        await talk.start(request_id, identity=identity(request_id, system='"Be brief."'))
    for call in (await upstream.batch(2)).values():  # neither has begun
        assert call.body["system"] == "Be brief."
        call.answer("yes")
    await talk.ends(2)


async def test_the_others_go_if_the_first_call_fails(
    generating: Generating, upstream: ScriptedUpstream
) -> None:
    talk = Talk(await generating(**FOREVER, batch_max=2))
    for request_id in "ab":
        await talk.start(request_id, identity=identity(request_id, system=LONG_SYSTEM))
    first = await upstream.call()
    first.refuse(400, "invalid_request_error")
    assert (await talk.error(first.prompt)).code == 3
    second = await upstream.call()
    second.answer("yes")
    await talk.end(second.prompt)
