"""The asyncio client at a sidecar that is absent, hangs, dies or refuses."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from mge_cache import (
    AsyncClient,
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    RefusedError,
    ResourceExhaustedError,
    Source,
    Timeouts,
    UnavailableError,
)
from tests.rpc.asyncio_client import ANSWER, PATIENT, REQUEST, Computation, address, client, double
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from tests.rpc.sidecar_double import SidecarDouble

__all__ = ["address", "client", "double"]  # fixtures


def nobody(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/nobody"


async def test_degraded_miss_computes_and_sets(double: SidecarDouble, client: AsyncClient) -> None:
    double.degraded = True
    await client.get_or_compute(REQUEST, Computation())
    assert len(double.sets) == 1
    assert not double.holds
    assert client.failures == 0


async def test_absent_sidecar_costs_little_and_is_not_asked_again_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compute = Computation()
    calm = Timeouts(retry_s=3600.0)  # the breaker does not close during this test
    async with AsyncClient(nobody(tmp_path), timeouts=calm) as client:
        started = time.perf_counter()
        with caplog.at_level(logging.INFO, logger="mge_cache"):
            for _ in range(100):
                assert await client.get_or_compute(REQUEST, compute) == ANSWER
        # One look-up found out; with three attempts each, a hundred would take seconds.
        assert time.perf_counter() - started < 1.0
        assert client.failures == 200
    assert compute.calls == 100
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "cannot be reached" in caplog.text


async def test_silent_listener_costs_the_deadline(tmp_path: Path) -> None:
    """Connections are accepted by the kernel, and nobody is there: a stopped process."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        async with AsyncClient(f"unix:{tmp_path}/s") as client:
            started = time.perf_counter()
            assert await client.get_or_compute(REQUEST, Computation()) == ANSWER
            assert time.perf_counter() - started < 2.0
        assert client.failures == 2


async def test_hanging_sidecar_is_given_up_after_three_deadlines(double: SidecarDouble) -> None:
    target = await double.start("127.0.0.1:0")
    double.hangs.update(("GetPrompt", "SetPrompt"))
    async with AsyncClient(target, timeouts=Timeouts(retry_s=3600.0)) as client:
        for _ in range(20):
            assert await client.get_or_compute(REQUEST, Computation()) == ANSWER
        assert client.failures == 40
    # At most: on a busy machine a deadline can pass before the sidecar has seen the call.
    assert len(double.gets) + len(double.sets) <= 3


async def test_followers_notice_a_hanging_sidecar_together(double: SidecarDouble) -> None:
    double.leases[REQUEST.key] = b"somebody's"
    target = await double.start("127.0.0.1:0")
    timeouts = Timeouts(get_s=20.0, slice_s=0.2, slice_margin_s=0.3, retry_s=3600.0)
    compute = Computation()
    async with AsyncClient(target, timeouts=timeouts) as client:
        tasks = [asyncio.create_task(client.get_or_compute(REQUEST, compute)) for _ in range(50)]
        await eventually(lambda: double.waiting and len(double.gets) > 50)
        double.hangs.update(("GetPrompt", "SetPrompt"))
        # One of them waits for all; had each to find out by itself, it would take 15 s and more.
        async with asyncio.timeout(5):
            assert await asyncio.gather(*tasks) == [ANSWER] * 50
    assert compute.calls == 50


async def test_restarted_sidecar_is_found_again(
    double: SidecarDouble, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    address = f"unix:{tmp_path}/s"
    await double.start(address)
    async with AsyncClient(address, timeouts=replace(PATIENT, retry_s=0.05)) as client:
        with caplog.at_level(logging.INFO, logger="mge_cache"):
            await client.get_or_compute(REQUEST, Computation())
            await double.stop()
            away = await client.get_or_compute(REQUEST, Computation("away"))
            await double.start(address)

            async def hit() -> bool:
                answer = await client.get_or_compute(REQUEST, Computation("away"))
                return answer.source is Source.L1

            await eventually(hit, within_s=10)
    assert away.text == "away"
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "cannot be reached" in messages[0]
    assert "is back" in messages[1]


async def test_sidecar_that_dies_during_the_computation(
    double: SidecarDouble, client: AsyncClient
) -> None:
    compute = Computation(waits=True)
    task = asyncio.create_task(client.get_or_compute(REQUEST, compute))
    await eventually(lambda: compute.calls and double.open_holds)
    await double.stop()
    compute.go.set()
    assert await task == ANSWER
    assert client.failures == 1


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.INTERNAL, InternalError),
        (grpc.StatusCode.UNKNOWN, InternalError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, ResourceExhaustedError),
        (grpc.StatusCode.FAILED_PRECONDITION, RefusedError),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidRequestError),
        (grpc.StatusCode.UNAVAILABLE, UnavailableError),
    ],
)
@pytest.mark.parametrize("method", ["GetPrompt", "SetPrompt"])
async def test_failures_fail_open_unless_asked_not_to(
    double: SidecarDouble, code: grpc.StatusCode, error: type[Exception], method: str
) -> None:
    double.fails[method] = (code, "tags: at most 64")
    target = await double.start("127.0.0.1:0")
    async with AsyncClient(target, timeouts=PATIENT) as client:
        assert await client.get_or_compute(REQUEST, Computation()) == ANSWER
        assert client.failures >= 1
    double.leases.clear()
    double.entries.clear()
    async with AsyncClient(target, timeouts=PATIENT, fail_open=False) as client:
        with pytest.raises(error):
            await client.get_or_compute(REQUEST, Computation())
    await eventually(lambda: not double.open_holds)


async def test_fail_open_false_raises_for_the_absent_and_the_hanging(
    double: SidecarDouble, tmp_path: Path
) -> None:
    async with AsyncClient(nobody(tmp_path), fail_open=False) as client:
        with pytest.raises(UnavailableError) as unavailable:
            await client.get_or_compute(REQUEST, Computation())
    assert unavailable.value.retryable
    double.hangs.add("GetPrompt")
    target = await double.start("127.0.0.1:0")
    async with AsyncClient(target, fail_open=False) as client:
        with pytest.raises(DeadlineExceededError):
            await client.get_or_compute(REQUEST, Computation())


async def test_unavailable_is_tried_again_and_other_statuses_are_not(
    double: SidecarDouble, client: AsyncClient
) -> None:
    double.fails["GetPrompt"] = (grpc.StatusCode.UNAVAILABLE, "")
    with pytest.raises(UnavailableError):
        await client.get(REQUEST)
    assert len(double.gets) == 3
    double.fails["GetPrompt"] = (grpc.StatusCode.INTERNAL, "")
    with pytest.raises(InternalError):
        await client.get(REQUEST)
    assert len(double.gets) == 4


async def test_a_store_that_is_down_does_not_make_the_sidecar_unreachable(
    double: SidecarDouble, client: AsyncClient
) -> None:
    double.fails["Invalidate"] = (grpc.StatusCode.UNAVAILABLE, "the store")
    with pytest.raises(UnavailableError, match="the store"):
        await client.invalidate(everything=True)
    await client.get_or_compute(REQUEST, Computation())
    assert len(double.sets) == 1
