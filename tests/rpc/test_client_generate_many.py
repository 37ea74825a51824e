"""``generate_many``: results as they finish, bounded, each with its own failure."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mge_cache import (
    Client,
    Generated,
    InvalidRequestError,
    PromptRequest,
    Strategy,
    UnavailableError,
)
from mge_cache._aio_many import Many
from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.generate_double import echo
from tests.rpc.generating import PATIENT, REQUEST, client, double
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from mge_cache import AsyncClient, AsyncGeneration
    from tests.rpc.generate_double import GenerateDouble, Talk

__all__ = ["client", "double"]  # fixtures


@pytest.fixture
def address() -> str:
    return "127.0.0.1:0"


def request(prompt: str) -> PromptRequest:
    return replace(REQUEST, prompt=prompt)


class SourceError(Exception):
    """What reading the requests might raise."""


async def answer_or_fail(talk: Talk, asked: pb.GenerateRequest) -> None:
    if asked.start.identity.prompt == "bad":
        await talk.error(asked.start.id, 14, "away")
    else:
        await echo(talk, asked)


def check(ends: list[Generated]) -> None:
    assert sorted(end.index for end in ends) == list(range(len(ends)))
    for end in ends:
        if end.request.prompt == "bad":
            assert isinstance(end.error, UnavailableError)
            with pytest.raises(UnavailableError):
                end.result()
        else:
            assert end.completion is not None
            assert end.result().text == end.request.prompt


PROMPTS = [f"p{number}" if number % 3 else "bad" for number in range(40)]


@pytest.mark.parametrize("kind", ["list", "generator", "async"])
async def test_one_failure_never_ends_the_others(
    double: GenerateDouble, client: AsyncClient, kind: str
) -> None:
    async def source() -> AsyncIterator[PromptRequest]:
        for prompt in PROMPTS:
            await asyncio.sleep(0)
            yield request(prompt)

    double.answer = answer_or_fail
    requests = {
        "list": list(map(request, PROMPTS)),
        "generator": map(request, PROMPTS),
        "async": source(),
    }[kind]
    options = {"masterplan": "m", "tags": ("t",), "max_in_flight": 7}
    check([end async for end in client.generate_many(requests, **options)])  # type: ignore[arg-type]
    start = double.talk.requests[0].start
    assert (start.masterplan, list(start.tags)) == ("m", ["t"])


async def test_threads(double: GenerateDouble, address: str) -> None:
    double.answer = answer_or_fail
    with Client(await double.start(address), timeouts=PATIENT) as client:
        many = client.generate_many(map(request, PROMPTS), strategy=Strategy.MERGE, max_in_flight=7)
        check(await asyncio.to_thread(list, many))
        assert list(client.generate_many([])) == []
    assert {each.start.strategy for each in double.talk.requests} == {pb.STRATEGY_MERGE}


async def test_results_come_as_they_finish_and_the_source_is_read_as_room_comes(
    double: GenerateDouble, client: AsyncClient
) -> None:
    read: list[int] = []

    def source() -> Iterator[PromptRequest]:
        for number in range(6):
            read.append(number)
            yield request(f"p{number}")

    results = client.generate_many(source(), max_in_flight=2)
    first = asyncio.ensure_future(anext(results))
    await eventually(lambda: len(double.ids) == 2)
    await double.talk.complete(double.ids[1], "second")
    assert (await first).index == 1
    await eventually(lambda: len(double.ids) == 3)
    # Two are done or under way, and one more has been read: the next to be sent.
    assert max(read) <= 3
    for request_id in list(double.ids):
        await double.talk.complete(request_id, "x")
    assert (await anext(results)).index in {0, 2}
    await results.aclose()


async def test_leaving_gives_up_what_is_under_way(
    double: GenerateDouble, client: AsyncClient
) -> None:
    requests = [request(f"p{number}") for number in range(9)]
    async with contextlib.aclosing(client.generate_many(requests, max_in_flight=3)) as results:
        first = asyncio.ensure_future(anext(results))
        await eventually(lambda: len(double.ids) == 3)
        await double.talk.complete(double.ids[0], "x")
        await first
        await eventually(lambda: len(double.ids) == 4)
    await eventually(lambda: sorted(double.cancelled) == sorted(double.ids[1:]))


async def test_leaving_gives_up_what_is_under_way_in_threads(
    double: GenerateDouble, address: str
) -> None:
    with Client(await double.start(address), timeouts=PATIENT) as client:
        results = client.generate_many([REQUEST] * 9, max_in_flight=3)
        first = asyncio.ensure_future(asyncio.to_thread(next, results))
        await eventually(lambda: len(double.ids) == 3)
        await double.talk.complete(double.ids[0], "x")
        assert (await first).index == 0
        results.close()
        await eventually(lambda: sorted(double.cancelled) == sorted(double.ids[1:]))


async def test_a_source_that_fails_is_told_after_the_answers(
    double: GenerateDouble, client: AsyncClient
) -> None:
    def source() -> Iterator[PromptRequest]:
        yield request("a")
        yield request("b")
        raise SourceError

    double.answer = echo
    seen: list[str] = []

    async def run() -> None:
        async for end in client.generate_many(source()):
            seen.append(end.result().text)  # noqa: PERF401 (what came before the error counts)

    with pytest.raises(SourceError):
        await run()
    assert sorted(seen) == ["a", "b"]

    def run_in_thread() -> None:
        with Client(client.target, timeouts=PATIENT) as threads:
            for end in threads.generate_many(source()):
                seen.append(end.result().text)  # noqa: PERF401

    with pytest.raises(SourceError):
        await asyncio.to_thread(run_in_thread)
    assert sorted(seen) == ["a", "a", "b", "b"]


async def test_a_defect_ends_it_and_is_told() -> None:
    def generate(_: PromptRequest) -> AsyncGeneration:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await anext(Many(generate, max_in_flight=2).run([REQUEST] * 5))


async def test_what_cannot_be_sent_is_a_result_too(
    double: GenerateDouble, client: AsyncClient
) -> None:
    double.answer = echo
    requests = [request("a"), "no request", request("b")]
    ends = [end async for end in client.generate_many(requests)]  # type: ignore[arg-type]
    assert {end.index for end in ends if end.completion} == {0, 2}
    (failed,) = [end for end in ends if end.error]
    assert isinstance(failed.error, InvalidRequestError)
    with pytest.raises(InvalidRequestError, match="max_in_flight"):
        client.generate_many([], max_in_flight=1001)
