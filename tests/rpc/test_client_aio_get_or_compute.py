"""Who computes and who waits when callers of the asyncio client want the same answer."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from mge_cache import AsyncClient, Source
from tests.rpc.asyncio_client import (
    ANSWER,
    PATIENT,
    REQUEST,
    Computation,
    ComputeError,
    address,
    client,
    double,
    fail,
)
from tests.rpc.sidecar_double import SidecarDouble
from tests.waiting import eventually

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["address", "client", "double"]  # fixtures


async def test_miss_computes_and_stores_then_hit(
    double: SidecarDouble, client: AsyncClient
) -> None:
    compute = Computation()
    computed = await client.get_or_compute(
        REQUEST, compute, ttl_s=90.5, masterplan="plan", tags=("a", "b")
    )
    hit = await client.get_or_compute(REQUEST, compute)

    assert compute.calls == 1
    assert computed == ANSWER
    assert computed.source is Source.COMPUTED
    assert hit == replace(ANSWER, cost_usd=None, source=Source.L1, cost_saved_usd=0.25)
    assert hit.text == "Rayleigh scattering."
    (stored,) = double.sets
    assert (stored.ttl.seconds, stored.ttl.nanos) == (90, 500_000_000)
    assert (stored.masterplan, list(stored.tags)) == ("plan", ["a", "b"])
    assert stored.lease == b"lease-1"
    assert stored.HasField("compute_time")
    assert stored.identity.model == "a-model"
    assert client.failures == 0


async def test_no_prompt_on_the_wire(double: SidecarDouble, client: AsyncClient) -> None:
    await client.get_or_compute(REQUEST, Computation())
    messages = [*double.gets, *double.sets, *double.holds]

    assert len(messages) == 3
    for message in messages:
        sent = message.SerializeToString()
        assert b"sky" not in sent
        assert b"brief" not in sent
    assert double.gets[0].identity.key == REQUEST.key
    assert double.gets[0].identity.namespace == "default"
    assert not double.gets[0].HasField("wait")
    assert double.gets[0].lease_ttl.seconds == 3


async def test_what_compute_raises_is_raised_and_hands_over(
    double: SidecarDouble, client: AsyncClient
) -> None:
    with pytest.raises(ComputeError):
        await client.get_or_compute(REQUEST, fail)

    await eventually(lambda: double.holds and not double.leases and not double.open_holds)
    assert not double.sets


async def test_wrong_type_of_answer_hands_over(double: SidecarDouble, client: AsyncClient) -> None:
    async def compute() -> str:
        return None  # type: ignore[return-value]

    with pytest.raises(TypeError, match="NoneType"):
        await client.get_or_compute(REQUEST, compute)
    await eventually(lambda: not double.leases)


async def test_cancelled_leader_hands_over_to_a_follower(
    double: SidecarDouble, client: AsyncClient
) -> None:
    slow, quick = Computation(waits=True), Computation("second")
    leader = asyncio.create_task(client.get_or_compute(REQUEST, slow))
    await eventually(lambda: slow.calls and double.open_holds)
    follower = asyncio.create_task(client.get_or_compute(REQUEST, quick))
    await eventually(lambda: double.waiting)

    leader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leader
    assert (await follower).text == "second"
    assert [stored.lease for stored in double.sets] == [b"lease-2"]


async def test_follower_gets_the_leaders_answer(double: SidecarDouble, client: AsyncClient) -> None:
    slow, unused = Computation(waits=True), Computation()
    leader = asyncio.create_task(client.get_or_compute(REQUEST, slow))
    await eventually(lambda: slow.calls)
    follower = asyncio.create_task(client.get_or_compute(REQUEST, unused))
    await eventually(lambda: double.waiting)

    slow.go.set()
    assert (await follower).source is Source.FLIGHT
    assert (await leader).source is Source.COMPUTED
    assert unused.calls == 0


async def test_cancelled_follower_disturbs_nobody(
    double: SidecarDouble, client: AsyncClient
) -> None:
    slow = Computation(waits=True)
    leader = asyncio.create_task(client.get_or_compute(REQUEST, slow))
    await eventually(lambda: slow.calls)
    follower = asyncio.create_task(client.get_or_compute(REQUEST, Computation()))
    await eventually(lambda: double.waiting)

    follower.cancel()
    with pytest.raises(asyncio.CancelledError):
        await follower
    slow.go.set()
    assert await leader == ANSWER
    assert len(double.sets) == 1


async def test_followers_of_one_client_do_not_all_wait_at_the_sidecar(
    double: SidecarDouble, client: AsyncClient
) -> None:
    slow, unused = Computation(waits=True), Computation()
    leader = asyncio.create_task(client.get_or_compute(REQUEST, slow))
    await eventually(lambda: slow.calls)
    followers = [asyncio.create_task(client.get_or_compute(REQUEST, unused)) for _ in range(20)]
    await eventually(lambda: double.waiting and len(double.gets) >= 1 + 20 + 1)
    assert double.waiting == 1
    impatient = await client.get_or_compute(REQUEST, Computation("mine"), wait_s=0.05)
    assert impatient.text == "mine"
    followers.pop(0).cancel()
    slow.go.set()
    await asyncio.gather(leader, *followers)
    assert unused.calls == 0
    assert not client._flights._turns._turns


async def test_waits_in_slices_then_computes_without_a_lease(double: SidecarDouble) -> None:
    double.leases[REQUEST.key] = b"somebody's"
    target = await double.start("127.0.0.1:0")
    async with AsyncClient(target, timeouts=replace(PATIENT, slice_s=0.05)) as client:
        answer = await client.get_or_compute(REQUEST, Computation(), wait_s=0.2)

    assert answer.source is Source.COMPUTED
    waits = [get.wait.ToTimedelta().total_seconds() for get in double.gets]
    assert waits[0] == 0
    assert len(waits) >= 3
    assert all(wait <= 0.05 for wait in waits)
    assert [get.asks_again for get in double.gets] == [True] * (len(waits) - 1) + [False]
    assert double.sets[0].lease == b""
    assert not double.holds


async def test_wait_of_zero_computes_at_once(double: SidecarDouble, client: AsyncClient) -> None:
    double.leases[REQUEST.key] = b"somebody's"
    await client.get_or_compute(REQUEST, Computation(), wait_s=0)
    (get,) = double.gets
    assert not get.asks_again


async def test_a_computation_that_blocks_the_loop_is_held(tmp_path: Path) -> None:
    """The hold must be on its way before ``compute`` runs: it may block the loop for long."""
    target = f"unix:{tmp_path}/s"
    listening, held = threading.Event(), threading.Event()

    async def serve() -> None:  # in a loop of its own, as that of the client will not turn
        sidecar = SidecarDouble()
        await sidecar.start(target)
        listening.set()
        await eventually(lambda: sidecar.open_holds)
        held.set()
        await eventually(lambda: sidecar.sets and not sidecar.open_holds)
        await sidecar.stop()

    async def compute() -> str:
        assert held.wait(timeout=10)
        return "answer"

    server = asyncio.create_task(asyncio.to_thread(asyncio.run, serve()))
    assert await asyncio.to_thread(listening.wait, 10)
    async with AsyncClient(target, timeouts=PATIENT) as client:
        await client.get_or_compute(REQUEST, compute)
    await server


async def test_a_thousand_callers_of_one_client_compute_once(client: AsyncClient) -> None:
    compute = Computation()
    answers = await asyncio.gather(*(client.get_or_compute(REQUEST, compute) for _ in range(1000)))
    assert compute.calls == 1
    assert {answer.text for answer in answers} == {ANSWER.text}
