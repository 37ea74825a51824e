"""One computation for all who ask: three sidecars on one Valkey, callers in other processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import grpc
import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.e2e.callers import crowd, get_request, hold_request, kind_of, set_request
from tests.e2e.sidecars import python_process
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.e2e.sidecars import Launch, Sidecar
    from tests.servers.fixtures import Servers

    Order = Callable[..., "Caller"]

PROMPT_S = 1.0
"""How soon the next one must lead: a message's way, on a busy machine. Leases here last 30 s."""


@pytest.fixture
def key() -> bytes:
    return os.urandom(32)


class Caller:
    """A process that calls; its lines of JSON are what it was told."""

    def __init__(self, folder: Path, sidecars: Sequence[Sidecar], order: dict[str, object]) -> None:
        self._output = folder / "stdout"
        self._errors = folder / "stderr"
        self._process = python_process(
            ["-m", "tests.e2e.callers", *(sidecar.target for sidecar in sidecars)],
            stdout=self._output,
            stderr=self._errors,
            stdin=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()

    def lines(self) -> list[dict[str, int | str]]:
        lines = self._output.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]

    async def line(self) -> dict[str, int | str]:
        """Wait for the first line."""

        def said() -> bool:
            if not self.lines() and self._process.poll() is not None:
                pytest.fail(self._errors.read_text())
            return bool(self.lines())

        await eventually(said, within_s=60.0)
        return self.lines()[0]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


@pytest.fixture
async def sidecars(launch: Launch, servers: Servers, key_prefix: str) -> list[Sidecar]:
    """Three sidecars on one Valkey. A busy machine must not look like a store that is away."""
    options = ("--key-prefix", key_prefix, "--store-timeout", "5s", "--feed-timeout", "5s")
    url = servers.url("valkey9")
    return list(await asyncio.gather(*(launch(url, options=options) for _ in range(3))))


@pytest.fixture
def order(tmp_path: Path) -> Iterator[Order]:
    """Starts callers that do as they are told; they end with the test."""
    with ExitStack() as stack:

        def start(sidecars: Sequence[Sidecar], **order: object) -> Caller:
            folder = tmp_path / f"caller{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            caller = Caller(folder, sidecars, order)
            stack.callback(caller.kill)
            return caller

        yield start


def follow(sidecar: Sidecar, key: bytes) -> asyncio.Task[pb.GetPromptResponse]:
    """Wait for a key's answer in the background."""

    async def get() -> pb.GetPromptResponse:
        request = get_request(key, wait_s=60.0, lease_ttl_s=30.0)
        return await sidecar.stub.GetPrompt(request, timeout=90.0)

    return asyncio.create_task(get())


async def followers(
    sidecars: Sequence[Sidecar], key: bytes
) -> list[asyncio.Task[pb.GetPromptResponse]]:
    """Let two callers of each sidecar wait for the key's answer; returns when all do."""
    waiting = [follow(sidecar, key) for sidecar in sidecars for _ in range(2)]
    # A look-up that does not wait is answered only after those before it have been told to wait.
    for sidecar in sidecars:
        assert kind_of(await sidecar.stub.GetPrompt(get_request(key))) == "in_progress"
    assert not any(task.done() for task in waiting)
    return waiting


async def take_lease(sidecar: Sidecar, key: bytes, *, lease_ttl_s: float = 30.0) -> bytes:
    response = await sidecar.stub.GetPrompt(get_request(key, lease_ttl_s=lease_ttl_s))
    assert kind_of(response) == "lease"
    return response.miss.lease


async def one_takes_over(
    waiting: Sequence[asyncio.Task[pb.GetPromptResponse]],
    sidecars: Sequence[Sidecar],
    key: bytes,
    *,
    within_s: float = PROMPT_S,
) -> None:
    """Check that one of those who wait leads, soon, and that the others get its answer."""
    done, _ = await asyncio.wait(waiting, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    assert len(done) == 1
    [leader] = done
    response = leader.result()
    assert kind_of(response) == "lease"
    # It is the only one: everybody else still waits when each sidecar has been asked again.
    for sidecar in sidecars:
        assert kind_of(await sidecar.stub.GetPrompt(get_request(key))) == "in_progress"
    assert sum(task.done() for task in waiting) == 1
    stored = await sidecars[0].stub.SetPrompt(
        set_request(key, b"second", lease=response.miss.lease)
    )
    assert stored.status == pb.SET_STATUS_STORED
    others = await asyncio.gather(*(task for task in waiting if task is not leader))
    assert [each.hit.answer for each in others] == len(others) * [b"second"]


async def test_a_thousand_callers_cause_one_computation(
    sidecars: list[Sidecar], order: Order, key: bytes
) -> None:
    told = {"action": "crowd", "key": key.hex(), "compute_s": 0.5}
    processes = [order(sidecars, count=400, **told), order(sidecars[::-1], count=400, **told)]
    stubs = [sidecar.stub for sidecar in sidecars]
    came = await crowd(stubs, key, 200, compute_s=0.5)
    for process in processes:
        came += Counter({name: int(count) for name, count in (await process.line()).items()})
    assert came == {"lease": 1, "SET_STATUS_STORED": 1, "hit": 999, "the one answer": 999}
    stats = [await sidecar.stub.Stats(pb.StatsRequest()) for sidecar in sidecars]
    assert sum(each.layers[0].total_misses for each in stats) == 1
    assert sum(each.layers[0].total_hits for each in stats) == 999
    assert sum(each.layers[0].total_errors for each in stats) == 0


@pytest.mark.parametrize("sidecar", [0, 1], ids=["same sidecar", "another sidecar"])
async def test_a_leader_that_is_killed_hands_over(
    sidecars: list[Sidecar], order: Order, key: bytes, sidecar: int
) -> None:
    leader = order([sidecars[sidecar]], action="lead", key=key.hex(), hold=True, lease_ttl_s=30.0)
    assert await leader.line() == {"kind": "lease", "hold": pb.LEASE_STATE_HELD}
    waiting = await followers(sidecars, key)
    leader.kill()
    await one_takes_over(waiting, sidecars, key)


async def test_a_leader_that_is_cancelled_hands_over(sidecars: list[Sidecar], key: bytes) -> None:
    lease = await take_lease(sidecars[0], key)
    holding = sidecars[0].stub.HoldLease(hold_request(lease))
    news = await holding.read()
    assert isinstance(news, pb.HoldLeaseResponse)
    assert news.state == pb.LEASE_STATE_HELD
    waiting = await followers(sidecars, key)
    holding.cancel()
    await one_takes_over(waiting, sidecars, key)


async def test_a_leader_that_goes_in_the_moment_in_which_it_holds_hands_over(
    sidecars: list[Sidecar],
) -> None:
    # Wherever the cancellation meets the call: on its way, renewing, sending, or holding.
    for number in range(60):
        key = os.urandom(32)
        lease = await take_lease(sidecars[0], key)
        waiting = follow(sidecars[number % 3], key)
        holding = sidecars[0].stub.HoldLease(hold_request(lease))
        news = asyncio.ensure_future(holding.read())
        # Not before the sidecar has the call: then it was never held.
        await asyncio.wait([news], timeout=0.0005 * (number % 12))
        met = news.done()
        holding.cancel()
        await asyncio.wait([news])
        if met:
            assert kind_of(await asyncio.wait_for(waiting, PROMPT_S)) == "lease"
        else:
            waiting.cancel()
            await asyncio.wait([waiting])


async def test_a_leader_that_is_too_slow_hands_over(sidecars: list[Sidecar], key: bytes) -> None:
    lease = await take_lease(sidecars[0], key, lease_ttl_s=0.7)
    waiting = await followers(sidecars, key)
    await one_takes_over(waiting, sidecars, key, within_s=0.7 + PROMPT_S)
    # Its answer comes late, but it is one.
    late = await sidecars[0].stub.SetPrompt(set_request(key, b"late", lease=lease))
    assert late.status == pb.SET_STATUS_STORED


async def test_a_leader_that_holds_for_its_maximum_hands_over(
    sidecars: list[Sidecar], key: bytes
) -> None:
    lease = await take_lease(sidecars[0], key)
    began_s = time.monotonic()
    states = [
        news.state async for news in sidecars[0].stub.HoldLease(hold_request(lease, max_s=0.5))
    ]
    assert states == [pb.LEASE_STATE_HELD, pb.LEASE_STATE_LOST]
    assert time.monotonic() - began_s >= 0.5
    assert kind_of(await asyncio.wait_for(follow(sidecars[1], key), PROMPT_S)) == "lease"


async def test_a_held_lease_outlasts_its_time_to_live(sidecars: list[Sidecar], key: bytes) -> None:
    lease = await take_lease(sidecars[0], key, lease_ttl_s=1.0)
    holding = sidecars[0].stub.HoldLease(hold_request(lease))
    await holding.read()
    waiting = await followers(sidecars, key)
    done, _ = await asyncio.wait(waiting, timeout=3.0)
    assert done == set()
    await sidecars[0].stub.SetPrompt(set_request(key, b"slow but sure", lease=lease))
    news = await holding.read()
    assert isinstance(news, pb.HoldLeaseResponse)
    assert news.state == pb.LEASE_STATE_FULFILLED
    answers = await asyncio.gather(*waiting)
    assert {each.hit.answer for each in answers} == {b"slow but sure"}
    assert {each.hit.layer for each in answers} == {pb.HIT_LAYER_FLIGHT}


async def test_a_cancelled_follower_disturbs_nobody(sidecars: list[Sidecar], key: bytes) -> None:
    lease = await take_lease(sidecars[0], key)
    waiting = await followers(sidecars, key)
    for cancelled in waiting[::2]:
        cancelled.cancel()
    await asyncio.wait(waiting[::2])
    for sidecar in sidecars:
        assert kind_of(await sidecar.stub.GetPrompt(get_request(key))) == "in_progress"
    stored = await sidecars[0].stub.SetPrompt(set_request(key, lease=lease))
    assert stored.status == pb.SET_STATUS_STORED
    answers = await asyncio.gather(*waiting[1::2])
    assert [kind_of(each) for each in answers] == 3 * ["hit"]


async def test_the_lease_of_a_sidecar_that_was_killed_expires(
    sidecars: list[Sidecar], order: Order, key: bytes
) -> None:
    leader = order([sidecars[0]], action="lead", key=key.hex(), hold=True, lease_ttl_s=1.0)
    assert (await leader.line())["kind"] == "lease"
    waiting = await followers(sidecars[1:], key)
    sidecars[0].kill()
    await one_takes_over(waiting, sidecars[1:], key, within_s=1.0 + PROMPT_S)


async def test_callers_of_a_sidecar_that_was_killed_are_told(
    sidecars: list[Sidecar], key: bytes
) -> None:
    await take_lease(sidecars[0], key)
    waiting = await followers(sidecars[1:2], key)
    sidecars[1].kill()
    for task in waiting:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await task
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_sidecar_that_stops_gives_its_leases_back(
    sidecars: list[Sidecar], key: bytes
) -> None:
    lease = await take_lease(sidecars[0], key)
    holding = sidecars[0].stub.HoldLease(hold_request(lease))
    await holding.read()
    waiting = await followers(sidecars[1:], key)
    sidecars[0].send(signal.SIGTERM)
    news = await holding.read()
    assert isinstance(news, pb.HoldLeaseResponse)
    assert news.state == pb.LEASE_STATE_LOST
    await one_takes_over(waiting, sidecars[1:], key)
    assert await sidecars[0].wait() == 0
