"""The client for threads. What it shares with the asyncio client is tested with that one.

The sidecar lives in the test's event loop, each call of the client in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import grpc
import pytest

from mge_cache import (
    Answer,
    Client,
    ClientClosedError,
    DeadlineExceededError,
    Hit,
    InvalidRequestError,
    Miss,
    PromptRequest,
    SetStatus,
    Source,
    Timeouts,
    UnavailableError,
    Usage,
)
from tests.rpc.sidecar_double import TICK, SidecarDouble
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

REQUEST = PromptRequest(model="a-model", prompt="Why is the sky blue?")
ANSWER = Answer.from_text("Rayleigh scattering.", usage=Usage(output_tokens=3), cost_usd=0.25)
PATIENT = Timeouts(get_s=20.0, set_s=20.0, slice_margin_s=20.0)


class Computation:
    """Counts its calls; waits for ``go`` where it is told to."""

    def __init__(self, answer: Answer | str | bytes = ANSWER, *, waits: bool = False) -> None:
        self.calls = 0
        self.go = threading.Event()
        self._answer = answer
        if not waits:
            self.go.set()

    def __call__(self) -> Answer | str | bytes:
        self.calls += 1
        assert self.go.wait(timeout=30)
        return self._answer


class ComputeError(Exception):
    """What a provider's SDK might raise."""


def fail() -> str:
    raise ComputeError


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return "127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/s"


@pytest.fixture
async def double() -> AsyncIterator[SidecarDouble]:
    sidecar = SidecarDouble()
    yield sidecar
    await sidecar.stop()


@pytest.fixture
async def client(double: SidecarDouble, address: str) -> AsyncIterator[Client]:
    with Client(await double.start(address), timeouts=PATIENT) as client:
        yield client


async def test_miss_computes_and_stores_then_hit(double: SidecarDouble, client: Client) -> None:
    compute = Computation()
    computed = await asyncio.to_thread(client.get_or_compute, REQUEST, compute, tags=("a",))
    hit = await asyncio.to_thread(client.get_or_compute, REQUEST, compute)

    assert compute.calls == 1
    assert computed == ANSWER
    assert hit == replace(ANSWER, cost_usd=None, source=Source.L1, cost_saved_usd=0.25)
    (stored,) = double.sets
    assert stored.lease == b"lease-1"
    for message in (*double.gets, *double.sets, *double.holds):
        assert b"sky" not in message.SerializeToString()
    await eventually(lambda: not double.open_holds)


async def test_what_compute_raises_is_raised_and_hands_over(
    double: SidecarDouble, client: Client
) -> None:
    with pytest.raises(ComputeError):
        await asyncio.to_thread(client.get_or_compute, REQUEST, fail)
    await eventually(lambda: double.holds and not double.leases and not double.open_holds)
    assert not double.sets


async def test_follower_gets_the_leaders_answer(double: SidecarDouble, client: Client) -> None:
    slow, unused = Computation(waits=True), Computation()
    leader = asyncio.create_task(asyncio.to_thread(client.get_or_compute, REQUEST, slow))
    await eventually(lambda: slow.calls and double.open_holds)
    follower = asyncio.create_task(asyncio.to_thread(client.get_or_compute, REQUEST, unused))
    await eventually(lambda: double.waiting)
    slow.go.set()
    assert (await follower).source is Source.FLIGHT
    assert (await leader).source is Source.COMPUTED
    assert unused.calls == 0


async def test_follower_takes_over_from_a_leader_that_gave_up(
    double: SidecarDouble, client: Client
) -> None:
    double.leases[REQUEST.key] = b"somebody's"
    compute = Computation()
    task = asyncio.create_task(asyncio.to_thread(client.get_or_compute, REQUEST, compute))
    await eventually(lambda: double.waiting)
    await double.give_up(REQUEST.key)
    assert await task == ANSWER
    assert double.sets[0].lease == b"lease-1"


async def test_threads_share_a_client_and_a_computation(client: Client) -> None:
    compute = Computation()

    def work(_: int) -> Answer:
        return client.get_or_compute(REQUEST, compute)

    def run() -> list[Answer]:
        with ThreadPoolExecutor(max_workers=32) as pool:
            return list(pool.map(work, range(200)))

    answers = await asyncio.to_thread(run)
    assert compute.calls == 1
    assert {answer.text for answer in answers} == {ANSWER.text}


async def test_absent_sidecar_costs_little_and_is_not_asked_again_at_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    compute = Computation()
    with Client(f"unix:{tmp_path}/nobody", timeouts=Timeouts(retry_s=3600.0)) as client:
        started = time.perf_counter()
        with caplog.at_level(logging.INFO, logger="mge_cache"):
            for _ in range(100):
                assert client.get_or_compute(REQUEST, compute) == ANSWER
        assert time.perf_counter() - started < 1.0
        assert client.failures == 200
    assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_hanging_sidecar(double: SidecarDouble) -> None:
    double.hangs.update(("GetPrompt", "SetPrompt"))
    target = await double.start("127.0.0.1:0")
    with Client(target, timeouts=Timeouts(retry_s=3600.0)) as client:
        for _ in range(10):
            answer = await asyncio.to_thread(client.get_or_compute, REQUEST, Computation())
            assert answer == ANSWER
        assert client.failures == 20
    assert len(double.gets) + len(double.sets) <= 3
    with Client(target, fail_open=False) as client, pytest.raises(DeadlineExceededError):
        await asyncio.to_thread(client.get_or_compute, REQUEST, Computation())


async def test_a_hold_that_hangs_does_not_keep_the_thread(double: SidecarDouble) -> None:
    double.hangs.add("HoldLease")
    target = await double.start("127.0.0.1:0")
    with Client(target, timeouts=replace(PATIENT, get_s=1.0)) as client:
        assert await asyncio.to_thread(client.get_or_compute, REQUEST, Computation()) == ANSWER
    assert len(double.sets) == 1


async def test_restarted_sidecar_is_found_again(double: SidecarDouble, tmp_path: Path) -> None:
    address = f"unix:{tmp_path}/s"
    await double.start(address)
    with Client(address, timeouts=replace(PATIENT, retry_s=0.05)) as client:
        await asyncio.to_thread(client.get_or_compute, REQUEST, Computation())
        await double.stop()
        away = await asyncio.to_thread(client.get_or_compute, REQUEST, Computation("away"))
        assert away.text == "away"
        await double.start(address)

        async def hit() -> bool:
            answer = await asyncio.to_thread(client.get_or_compute, REQUEST, Computation())
            return answer.source is Source.L1

        await eventually(hit, within_s=10)


async def test_sidecar_that_dies_during_the_computation(
    double: SidecarDouble, client: Client
) -> None:
    compute = Computation(waits=True)
    task = asyncio.create_task(asyncio.to_thread(client.get_or_compute, REQUEST, compute))
    await eventually(lambda: compute.calls and double.open_holds)
    await double.stop()
    compute.go.set()
    assert await task == ANSWER


async def test_plain_calls(double: SidecarDouble, client: Client) -> None:
    def calls() -> None:
        assert client.get(REQUEST) == Miss()
        miss = client.get(REQUEST, lease=True)
        assert isinstance(miss, Miss)
        assert miss.lease is not None
        with client.hold(miss.lease):
            result = client.set(REQUEST, "text", lease=miss.lease, masterplan="m")
        assert result.status is SetStatus.STORED
        hit = client.get(REQUEST, lease=True, wait_s=1)
        assert isinstance(hit, Hit)
        assert hit.answer.text == "text"
        assert client.invalidate(masterplan="m") == TICK
        assert client.stats().store.kind == "memory"

    await asyncio.to_thread(calls)
    double.fails["SetPrompt"] = (grpc.StatusCode.INVALID_ARGUMENT, "answer: at most 8 MiB")
    with pytest.raises(InvalidRequestError) as caught:
        await asyncio.to_thread(client.set, REQUEST, "text")
    assert caught.value.field == "answer"


async def test_fail_open_false(tmp_path: Path) -> None:
    with (
        Client(f"unix:{tmp_path}/nobody", fail_open=False) as client,
        pytest.raises(UnavailableError),
    ):
        client.get_or_compute(REQUEST, Computation())


async def test_closing_ends_calls_of_other_threads(double: SidecarDouble, client: Client) -> None:
    double.hangs.add("GetPrompt")
    task = asyncio.create_task(asyncio.to_thread(client.get_or_compute, REQUEST, Computation()))
    await eventually(lambda: double.gets)
    await asyncio.to_thread(client.close)
    with pytest.raises(ClientClosedError):
        await task
    with pytest.raises(ClientClosedError):
        client.get(REQUEST)
    client.close()


async def test_no_thread_is_left_behind(double: SidecarDouble, address: str) -> None:
    target = await double.start(address)
    before = set(threading.enumerate())

    def work() -> None:
        with Client(target, timeouts=PATIENT) as client:
            client.get_or_compute(REQUEST, Computation())
            with pytest.raises(ComputeError):
                client.get_or_compute(replace(REQUEST, prompt="other"), fail)

    thread = threading.Thread(target=work)
    thread.start()
    await eventually(lambda: not thread.is_alive())
    await eventually(lambda: not set(threading.enumerate()) - before)
