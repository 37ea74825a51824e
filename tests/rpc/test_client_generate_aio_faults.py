"""``AsyncClient.generate``: errors, broken streams, a sidecar that hangs."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mge_cache import (
    AsyncClient,
    ClientClosedError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidRequestError,
    MgeCacheError,
    NotFoundError,
    NotReadyError,
    RefusedError,
    ResourceExhaustedError,
    Timeouts,
    UnavailableError,
    _stream_parts,
)
from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.generate_double import echo
from tests.rpc.generating import PATIENT, REQUEST, address, client, double, one
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rpc.generate_double import GenerateDouble

__all__ = ["address", "client", "double"]  # fixtures

HURRIED = Timeouts(generate_margin_s=0.05)


@pytest.mark.parametrize(
    ("code", "error", "name"),
    [
        (3, InvalidRequestError, "INVALID_ARGUMENT"),
        (4, DeadlineExceededError, "DEADLINE_EXCEEDED"),
        (5, NotFoundError, "NOT_FOUND"),
        (8, ResourceExhaustedError, "RESOURCE_EXHAUSTED"),
        (9, FailedPreconditionError, "FAILED_PRECONDITION"),
        (13, InternalError, "INTERNAL"),
        (14, UnavailableError, "UNAVAILABLE"),
        (0, InternalError, ""),
        (99, InternalError, ""),
    ],
)
async def test_an_error_ends_its_request_only(
    double: GenerateDouble,
    client: AsyncClient,
    code: int,
    error: type[MgeCacheError],
    name: str,
) -> None:
    failing = await one(double, client)
    other = client.generate(REQUEST, request_id="other")
    await eventually(lambda: len(double.ids) == 2)
    await double.talk.delta("r", "partial")
    await double.talk.error("r", code, "temperature: what is wrong", retry_after_s=7)
    with pytest.raises(error) as caught:
        await failing.result()
    assert type(caught.value) is error
    assert (caught.value.code, not isinstance(caught.value, NotReadyError)) == (name, True)
    if error is not InternalError:
        assert "what is wrong" in str(caught.value)
    if isinstance(caught.value, InvalidRequestError):
        assert caught.value.field == "temperature"
    elif name:
        assert caught.value.retry_after_s == 7
    # What had come is readable before the error is raised.
    assert (await anext(failing)).text == "partial"
    with pytest.raises(error):
        await anext(failing)
    await double.talk.complete("other", "fine")
    assert (await other.result()).text == "fine"


async def test_without_a_retry_delay_it_is_not_known(
    double: GenerateDouble, client: AsyncClient
) -> None:
    generation = await one(double, client)
    await double.talk.error("r", 14, "away")
    with pytest.raises(UnavailableError) as caught:
        await generation.result()
    assert caught.value.retry_after_s is None
    assert caught.value.retryable


async def test_what_is_not_understood_ends_its_request_only(
    double: GenerateDouble, client: AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    odd = [client.generate(REQUEST, request_id=f"r{number}") for number in range(3)]
    await eventually(lambda: len(double.ids) == 3)
    await double.talk.complete("r0", "x", source=99)
    await double.talk.complete("r1", "x", strategy=99)
    await double.talk.say(pb.GenerateResponse(id="r2"))  # an event of a newer sidecar
    await double.talk.delta("nobody", "x")
    assert not caplog.records
    await double.talk.error("", 3, "start.id: is required")
    await double.talk.complete("r2", "fine")
    for generation in odd[:2]:
        with pytest.raises(InternalError, match="99"):
            await generation.result()
    assert (await odd[2].result()).text == "fine"
    assert "belongs to no request" in caplog.text


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.OK, UnavailableError),
        (grpc.StatusCode.UNAVAILABLE, UnavailableError),
        (grpc.StatusCode.INTERNAL, UnavailableError),
        (grpc.StatusCode.CANCELLED, UnavailableError),
        (grpc.StatusCode.UNIMPLEMENTED, RefusedError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ResourceExhaustedError),
    ],
)
async def test_a_broken_stream_fails_what_is_under_way_and_the_next_request_opens_another(
    double: GenerateDouble,
    client: AsyncClient,
    code: grpc.StatusCode,
    error: type[MgeCacheError],
) -> None:
    under_way = [client.generate(REQUEST) for _ in range(3)]
    await eventually(lambda: len(double.ids) == 3)
    double.talk.end(code, "why")
    errors = set()
    for generation in under_way:
        with pytest.raises(error) as caught:
            await generation.result()
        errors.add(caught.value)
    assert len(errors) == 3  # tasks that raise them do not share a traceback
    double.answer = echo
    assert (await client.generate(REQUEST).result()).text == REQUEST.prompt
    assert [len(talk.ids) for talk in double.talks] == [3, 1]  # nothing was repeated


async def test_a_stream_that_ended_while_idle_is_opened_again(
    double: GenerateDouble, client: AsyncClient
) -> None:
    double.answer = echo
    await client.generate(REQUEST).result()
    double.talk.end()
    await eventually(lambda: double.talk.over)

    async def answered() -> bool:
        try:
            return (await client.generate(REQUEST).result()).text == REQUEST.prompt
        except UnavailableError:  # sent before the end had been noticed
            return False

    assert await eventually(answered)
    assert len(double.talks) == 2


async def test_absent_sidecar(tmp_path: Path) -> None:
    async with AsyncClient(f"unix:{tmp_path}/nobody") as client:
        for _ in range(2):
            with pytest.raises(UnavailableError):
                await client.generate(REQUEST).result()
        assert client.failures == 0


async def test_killed_sidecar_that_comes_back(double: GenerateDouble, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    await double.start(address)
    async with AsyncClient(address, timeouts=PATIENT) as client:
        generation = await one(double, client)
        await double.talk.delta("r", "begun")
        assert (await anext(generation)).text == "begun"
        await double.stop()
        with pytest.raises(UnavailableError):
            await anext(generation)
        double.answer = echo
        await double.start(address)

        async def answered() -> bool:
            try:
                return (await client.generate(REQUEST).result()).text == REQUEST.prompt
            except UnavailableError:
                return False

        assert await eventually(answered, within_s=10)


async def test_a_sidecar_that_hangs_costs_the_deadline(double: GenerateDouble) -> None:
    target = await double.start("127.0.0.1:0")
    double.hangs.add("Generate")
    async with AsyncClient(target, timeouts=HURRIED) as client:
        with pytest.raises(DeadlineExceededError) as caught:
            await client.generate(REQUEST, timeout_s=0.05).result()
        assert caught.value.code == "DEADLINE_EXCEEDED"
        with pytest.raises(DeadlineExceededError) as fetched:
            await client.fetch("r")
        assert not isinstance(fetched.value, NotReadyError)  # nobody said so


async def test_a_silent_listener_costs_the_deadline(tmp_path: Path) -> None:
    """Connections are accepted by the kernel, and nobody is there: a stopped process."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        async with AsyncClient(f"unix:{tmp_path}/s", timeouts=HURRIED) as client:
            with pytest.raises((DeadlineExceededError, UnavailableError)):
                await client.generate(REQUEST, timeout_s=0.05).result()


async def test_a_deadline_is_told_to_the_sidecar_and_late_replies_are_ignored(
    double: GenerateDouble, address: str
) -> None:
    async with AsyncClient(await double.start(address), timeouts=HURRIED) as client:
        kept = client.generate(REQUEST, request_id="kept")
        late = client.generate(REQUEST, request_id="late", timeout_s=0.05)
        await eventually(lambda: double.cancelled == ["late"])
        await double.talk.complete("late", "too late")
        await double.talk.complete("kept", "fine")
        assert (await kept.result()).text == "fine"
        with pytest.raises(DeadlineExceededError):
            await late.result()


async def test_closing_the_client(double: GenerateDouble, client: AsyncClient) -> None:
    generation = await one(double, client)
    large = client.generate(replace(REQUEST, prompt="x" * (2 << 20)), request_id="large")
    await eventually(lambda: len(double.ids) == 2)
    before = asyncio.all_tasks()
    await client.close()
    for under_way in (generation, large):
        with pytest.raises(ClientClosedError):
            await under_way.result()
    with pytest.raises(ClientClosedError):
        client.generate(REQUEST)
    await client.close()
    ours = {task for task in before if "AsyncStream" in repr(task.get_coro())}
    assert len(ours) == 4
    assert all(task.done() for task in ours)
    await eventually(lambda: all(talk.over for talk in double.talks))


async def test_one_request_too_many(
    double: GenerateDouble, client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mge_cache._aio_streams.REQUESTS_MAX", 2)
    held = [client.generate(REQUEST), client.generate(REQUEST)]
    with pytest.raises(ResourceExhaustedError, match="under way"):
        client.generate(REQUEST)
    await held.pop().aclose()
    held.append(client.generate(REQUEST))
    assert _stream_parts.REQUESTS_MAX == 1000
    await eventually(lambda: held[1].request_id in double.ids)


async def test_an_answer_beyond_all_bounds_is_ended(
    double: GenerateDouble, client: AsyncClient
) -> None:
    async def endless(talk: Any, request: pb.GenerateRequest) -> None:
        while not talk.cancelled:
            await talk.delta(request.start.id, "x" * (1 << 20))

    double.answer = endless
    generation = client.generate(REQUEST)
    with pytest.raises(InternalError, match="more than 67108864 characters"):
        await generation.result()
    await eventually(lambda: double.cancelled == [generation.request_id])
