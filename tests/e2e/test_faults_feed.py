"""The feed of invalidations breaks, or the store forgets: nothing stale is served."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.e2e import faults
from tests.e2e.faults import Caller
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.sidecars import Launch
    from tests.servers import RedisServer

    OwnServer = Callable[..., RedisServer]

ROUNDS = 20


async def two(launch: Launch, server: RedisServer) -> tuple[Caller, Caller]:
    """Start two sidecars on a server and wait until both are connected."""
    sidecars = [await launch(server.url, http=True) for _ in range(2)]
    for sidecar in sidecars:
        await faults.until_connected(sidecar)
    return Caller(sidecars[0]), Caller(sidecars[1])


async def remember(caller: Caller, name: str, plan: str) -> None:
    """Bring an answer into a sidecar's memory."""
    assert (await caller.set(name, masterplan=plan)).status == pb.SET_STATUS_STORED
    hit = (await caller.get(name)).hit
    assert hit.layer == pb.HIT_LAYER_L1


def kill_feeds(server: RedisServer) -> None:
    """Break the connections of the feeds, and no others."""
    assert server.execute("CLIENT", "KILL", "TYPE", "pubsub") == 2


async def test_feed_killed_and_an_invalidation_in_the_gap(
    launch: Launch, own_server: OwnServer
) -> None:
    server = own_server()
    one, other = await two(launch, server)
    for number in range(ROUNDS):
        name, plan = f"answer {number}", f"plan {number}"
        await remember(one, name, plan)
        await asyncio.to_thread(kill_feeds, server)
        await other.invalidate(plan)

        async def forgotten(name: str = name) -> bool:
            return (await one.get(name, peek=True)).HasField("miss")

        await eventually(forgotten, within_s=0.5)
        await faults.until_connected(one.sidecar)
        await faults.until_connected(other.sidecar)
        assert (await one.get(name, peek=True)).HasField("miss")
    one.check_times()
    figures = await faults.scrape(one.sidecar)
    assert figures.errors("lookup") == figures.errors("read_epochs") == 0


async def test_feed_that_may_not_subscribe_is_said_once(
    launch: Launch, own_server: OwnServer
) -> None:
    server = own_server()
    one, other = await two(launch, server)
    await remember(one, "answer", "plan")
    server.execute("ACL", "SETUSER", "default", "resetchannels", "&allowed-to-publish-nothing")
    await asyncio.to_thread(lambda: server.execute("CLIENT", "KILL", "TYPE", "pubsub"))
    await faults.until_logged(one.sidecar, faults.DOWN[1])
    assert (await one.get("answer")).hit.answer  # the store is asked at each look-up
    assert not (await one.get("answer")).hit.degraded
    server.execute("ACL", "SETUSER", "default", "allchannels")
    await faults.until_connected(one.sidecar, within_s=faults.RECOVERY_S)
    assert faults.events(one.sidecar) == [faults.DOWN[1], faults.UP[1]]
    await other.invalidate("plan")
    assert await eventually(lambda: _misses(one, "answer"), within_s=0.5)


@pytest.mark.parametrize("empty", [False, True], ids=["with its data", "empty"])
async def test_invalidated_while_another_sidecar_has_not_come_back(
    launch: Launch, own_server: OwnServer, *, empty: bool
) -> None:
    server = own_server()
    one, other = await two(launch, server)
    await remember(one, "answer", "plan")
    await asyncio.to_thread(server.kill)
    # Both find out, and go on from memory.
    for caller in (one, other):
        for _ in range(4):
            assert (await caller.get_new()).miss.degraded
        await faults.until_logged(caller.sidecar, *faults.DOWN)
    assert (await one.get("answer")).hit.degraded
    await asyncio.to_thread(server.start)
    if empty:
        await asyncio.to_thread(lambda: server.restart(empty=True))

    async def invalidated() -> bool:
        return (await other.invalidate_code("plan")).name == "OK"

    await eventually(invalidated, within_s=5.0)
    # Whatever the first sidecar knows by now: it serves nothing stale as if it were good, and
    # within a second it does not serve it at all.
    looked = await one.get("answer", peek=True)
    assert looked.HasField("miss") or looked.hit.degraded
    await eventually(lambda: _misses(one, "answer"), within_s=faults.RECOVERY_S)
    await faults.until_connected(one.sidecar)
    assert await _misses(one, "answer")


async def test_scripts_forgotten(launch: Launch, own_server: OwnServer) -> None:
    server = own_server()
    one, _ = await two(launch, server)
    await remember(one, "answer", "plan")
    server.execute("SCRIPT", "FLUSH")
    assert not (await one.get_new()).miss.degraded
    assert (await one.set("another")).status == pb.SET_STATUS_STORED
    server.execute("SCRIPT", "FLUSH")
    await one.invalidate("plan")
    assert await _misses(one, "answer")
    figures = await faults.scrape(one.sidecar)
    assert figures.errors("lookup") == figures.errors("put") == figures.errors("advance") == 0
    assert faults.events(one.sidecar) == []


async def test_all_data_flushed_under_a_running_sidecar(
    launch: Launch, own_server: OwnServer
) -> None:
    server = own_server()
    one, other = await two(launch, server)
    await remember(one, "answer", "plan")
    server.execute("FLUSHALL")
    # The other one asks the store, which has lost its clock: the whole namespace ends there.
    assert (await other.get_new()).miss.lease
    await other.invalidate("plan")
    await eventually(lambda: _misses(one, "answer"), within_s=0.5)


async def _misses(caller: Caller, name: str) -> bool:
    return (await caller.get(name, peek=True)).HasField("miss")
