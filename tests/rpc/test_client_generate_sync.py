"""``Client.generate``: what it shares with the asyncio client's is tested with that one.

The sidecar lives in the test's event loop, each call of the client in a thread.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mge_cache import (
    AbandonedError,
    Client,
    ClientClosedError,
    DeadlineExceededError,
    Delta,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    NotReadyError,
    ResourceExhaustedError,
    Strategy,
    Timeouts,
    UnavailableError,
)
from tests.rpc.generate_double import echo
from tests.rpc.generating import PATIENT, REQUEST, address, double
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from mge_cache import Generation
    from mge_cache.v1 import cache_service_pb2 as pb
    from tests.rpc.generate_double import GenerateDouble, Talk

__all__ = ["address", "double"]  # fixtures

HURRIED = Timeouts(generate_margin_s=0.05)


@pytest.fixture
async def client(double: GenerateDouble, address: str) -> AsyncIterator[Client]:
    with Client(await double.start(address), timeouts=PATIENT) as client:
        yield client


async def one(double: GenerateDouble, client: Client) -> Generation:
    """A request that the sidecar has seen."""
    generation = client.generate(REQUEST, request_id="r")
    await eventually(lambda: "r" in double.ids)
    return generation


async def test_deltas_restart_and_result(double: GenerateDouble, client: Client) -> None:
    generation = await one(double, client)
    await double.talk.delta("r", "wrong")
    assert await asyncio.to_thread(next, generation) == Delta("wrong")
    await double.talk.restart("r")
    assert await asyncio.to_thread(next, generation) == Delta("", restart=True)
    rest = asyncio.create_task(asyncio.to_thread(list, generation))
    result = asyncio.create_task(asyncio.to_thread(generation.result))
    await double.talk.complete("r", "right", cost_usd=0.5)
    assert await rest == [Delta("right")]
    assert (await result).cost_usd == 0.5
    assert list(generation) == []
    assert generation.result() is await result


async def test_threads_share_one_stream(double: GenerateDouble, client: Client) -> None:
    double.answer = echo
    prompts = [f"prompt {number} of many" for number in range(100)]

    def text(prompt: str) -> str:
        return "".join(delta.text for delta in client.generate(replace(REQUEST, prompt=prompt)))

    def run() -> list[str]:
        with ThreadPoolExecutor(max_workers=16) as pool:
            return list(pool.map(text, prompts))

    assert await asyncio.to_thread(run) == prompts
    assert len(double.talk.ids) == 100


async def test_a_slow_reader_holds_nobody_up(double: GenerateDouble, client: Client) -> None:
    slow = await one(double, client)
    other = client.generate(REQUEST, request_id="other")
    for _ in range(64):
        await double.talk.delta("r", "x" * (256 << 10))
    await double.talk.complete("other", "here")
    assert (await asyncio.to_thread(other.result)).text == "here"
    await double.talk.complete("r", "x" * (16 << 20))
    (delta,) = await asyncio.to_thread(list, slow)
    assert len(delta.text) == 16 << 20


async def test_an_error(double: GenerateDouble, client: Client) -> None:
    generation = await one(double, client)
    await double.talk.delta("r", "partial")
    await double.talk.error("r", 8, "the queue is full", retry_after_s=2)
    with pytest.raises(ResourceExhaustedError) as caught:
        await asyncio.to_thread(generation.result)
    assert caught.value.retry_after_s == 2
    assert next(generation).text == "partial"
    with pytest.raises(ResourceExhaustedError):
        next(generation)


async def test_a_broken_stream(double: GenerateDouble, client: Client) -> None:
    under_way = [client.generate(REQUEST) for _ in range(3)]
    await eventually(lambda: len(double.ids) == 3)
    double.talk.end()
    for generation in under_way:
        with pytest.raises(UnavailableError):
            await asyncio.to_thread(generation.result)
    double.answer = echo
    again = client.generate(REQUEST)
    assert (await asyncio.to_thread(again.result)).text == REQUEST.prompt
    assert [len(talk.ids) for talk in double.talks] == [3, 1]


async def test_absent_sidecar(tmp_path: Path) -> None:
    with Client(f"unix:{tmp_path}/nobody") as client:
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await asyncio.to_thread(client.generate(REQUEST).result)


async def test_a_sidecar_that_hangs_costs_the_deadline(double: GenerateDouble) -> None:
    target = await double.start("127.0.0.1:0")
    double.hangs.add("Generate")
    with Client(target, timeouts=HURRIED) as client:
        for wait in (
            lambda: client.generate(REQUEST, timeout_s=0.05).result(),
            lambda: next(client.generate(REQUEST, timeout_s=0.05)),
        ):
            with pytest.raises(DeadlineExceededError):
                await asyncio.to_thread(wait)
        many = client.generate_many([REQUEST] * 3, timeout_s=0.05, max_in_flight=2)
        ends = await asyncio.to_thread(list, many)
        assert all(isinstance(end.error, DeadlineExceededError) for end in ends)
        assert len(ends) == 3


async def test_a_deadline_is_told_to_the_sidecar(double: GenerateDouble) -> None:
    with Client(await double.start("127.0.0.1:0"), timeouts=HURRIED) as client:
        late = client.generate(REQUEST, request_id="late", timeout_s=0.05)
        with pytest.raises(DeadlineExceededError):
            await asyncio.to_thread(late.result)
        await eventually(lambda: double.cancelled == ["late"])


async def test_giving_up(double: GenerateDouble, client: Client) -> None:
    generation = await one(double, client)
    waiting = asyncio.create_task(asyncio.to_thread(generation.result))
    generation.close()
    generation.close()
    with pytest.raises(AbandonedError):
        await waiting
    assert list(generation) == []
    await eventually(lambda: double.cancelled == ["r"])
    with client.generate(REQUEST, request_id="block"):
        await eventually(lambda: "block" in double.ids)
    await eventually(lambda: double.cancelled == ["r", "block"])
    held = [client.generate(REQUEST, request_id="lost")]
    await eventually(lambda: "lost" in double.ids)
    held.clear()
    await eventually(lambda: double.cancelled == ["r", "block", "lost"])


async def test_fetch(double: GenerateDouble, client: Client) -> None:
    async def answer(talk: Talk, request: pb.GenerateRequest) -> None:
        request_id = request.fetch.id
        if request_id == "there":
            await talk.complete(request_id, "Done.")
        elif request_id:
            await talk.error(request_id, 4 if request_id == "later" else 5, "what")

    double.answer = answer
    waiting = client.generate(REQUEST, strategy=Strategy.DEFERRED, request_id="there")
    await eventually(lambda: double.ids)
    done = await asyncio.to_thread(client.fetch, "there", namespace="plans")
    assert done.text == "Done."
    with pytest.raises(NotReadyError):
        await asyncio.to_thread(client.fetch, "later")
    with pytest.raises(NotFoundError):
        await asyncio.to_thread(client.fetch, "never")
    await eventually(lambda: [talk.over for talk in double.talks] == [False, True])
    waiting.close()


async def test_mistakes(double: GenerateDouble, client: Client) -> None:
    kept = await one(double, client)
    with pytest.raises(InvalidRequestError, match="request_id"):
        client.generate(REQUEST, request_id=kept.request_id)
    with pytest.raises(InvalidRequestError, match="timeout_s"):
        client.generate(REQUEST, timeout_s=-1)
    with pytest.raises(InvalidRequestError, match="max_in_flight"):
        client.generate_many([], max_in_flight=0)


async def test_an_answer_beyond_all_bounds_is_ended(double: GenerateDouble, client: Client) -> None:
    async def endless(talk: Talk, request: pb.GenerateRequest) -> None:
        while not talk.cancelled:
            await talk.delta(request.start.id, "x" * (1 << 20))

    double.answer = endless
    generation = client.generate(REQUEST)
    with pytest.raises(InternalError, match="more than 67108864 characters"):
        await asyncio.to_thread(generation.result)
    await eventually(lambda: double.cancelled == [generation.request_id])


async def test_closing_leaves_no_thread_and_ends_what_is_under_way(
    double: GenerateDouble, address: str
) -> None:
    target = await double.start(address)
    before = set(threading.enumerate())
    client = Client(target, timeouts=PATIENT)
    generation = client.generate(REQUEST)
    large = client.generate(replace(REQUEST, prompt="x" * (2 << 20)))
    await eventually(lambda: len(double.ids) == 2)
    waiting = asyncio.create_task(asyncio.to_thread(generation.result))
    await asyncio.to_thread(client.close)
    with pytest.raises(ClientClosedError):
        await waiting
    with pytest.raises(ClientClosedError):
        large.result()
    with pytest.raises(ClientClosedError):
        client.generate(REQUEST)
    client.close()

    def ours() -> set[threading.Thread]:
        return {
            thread
            for thread in set(threading.enumerate()) - before
            if not thread.name.startswith("asyncio")
        }

    await eventually(lambda: not ours())
