"""The store answers, but takes no writes: out of memory, read-only, without replicas, disk full."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc
import pytest
import redis

from mge_cache.v1 import cache_service_pb2 as pb
from tests.e2e import faults
from tests.e2e.faults import Caller
from tests.servers.redis_server import free_port
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.sidecars import Launch
    from tests.servers import RedisServer

    OwnServer = Callable[..., RedisServer]

CALLS = 25
LOG = ("store refuses writes", "store takes writes again")


async def through(
    launch: Launch,
    server: RedisServer,
    *,
    breaks: Callable[[], object],
    mends: Callable[[], object],
    error: str,
    invalidates: bool = False,
) -> None:
    """Make the same calls before, during and after; ``breaks`` and ``mends`` may block.

    ``invalidates`` says that the server takes invalidations all the same.
    """
    sidecar = await launch(server.url, http=True)
    fresh = await launch(server.url, http=True)
    caller, other = Caller(sidecar), Caller(fresh)
    await faults.until_connected(sidecar)
    await faults.until_connected(fresh)
    assert (await caller.set("cached", masterplan="plan")).status == pb.SET_STATUS_STORED
    await asyncio.to_thread(breaks)
    with pytest.raises(redis.ResponseError, match=error):
        server.execute("SET", "probe", "x")

    await _during(caller, other, invalidates=invalidates)
    figures = await faults.scrape(sidecar)
    assert (figures.store_up, figures.feed_live) == (True, True)
    assert figures.errors("put") == CALLS
    assert figures.errors("advance") == (0 if invalidates else CALLS)
    assert figures.errors("lookup") == CALLS
    assert faults.events(sidecar) == [LOG[0]]
    await faults.check_ready(sidecar)

    await asyncio.to_thread(mends)
    assert (await caller.set("cached", masterplan="plan")).status == pb.SET_STATUS_STORED
    miss = (await caller.get_new()).miss
    assert (bool(miss.lease), miss.degraded) == (True, False)
    assert await caller.invalidate_code() is grpc.StatusCode.OK
    assert (await caller.get("cached")).HasField("miss")
    assert faults.events(sidecar) == list(LOG)
    await faults.check_no_secrets(sidecar, server)


async def _during(caller: Caller, other: Caller, *, invalidates: bool) -> None:
    hit = (await other.get("cached")).hit  # of the store: nobody has asked this sidecar before
    assert (hit.layer, hit.degraded) == (pb.HIT_LAYER_STORE, False)
    assert hit.answer == faults.answer_of("cached")
    for number in range(CALLS):
        hit = (await caller.get("cached")).hit
        assert (hit.layer, hit.degraded) == (pb.HIT_LAYER_L1, False)
        miss = (await caller.get_new()).miss
        assert (bool(miss.lease), miss.degraded) == (True, True)
        kept = await caller.set(f"kept {number}")
        assert kept.status == pb.SET_STATUS_KEPT_LOCALLY
        hit = (await caller.get(f"kept {number}")).hit
        assert hit.answer == faults.answer_of(f"kept {number}")
        if not invalidates:
            assert await caller.invalidate_code() is grpc.StatusCode.UNAVAILABLE
    if invalidates:
        assert await caller.invalidate_code() is grpc.StatusCode.OK
    # Nothing was pretended.
    assert (await caller.get("cached")).HasField("miss") is invalidates
    assert (await other.get("cached", peek=True)).HasField("miss") is invalidates
    caller.check_times()


@pytest.mark.parametrize("kind", ["valkey9", "redis8", "redis7"])
async def test_out_of_memory(launch: Launch, own_server: OwnServer, kind: str) -> None:
    server = own_server(kind, options={"maxmemory-policy": "noeviction"})
    await through(
        launch,
        server,
        breaks=lambda: server.config_set("maxmemory", "1"),
        mends=lambda: server.config_set("maxmemory", "0"),
        error="command not allowed when used memory",
        invalidates=True,  # its script begins with a command that frees memory
    )


@pytest.mark.parametrize("kind", ["valkey9", "redis7"])
async def test_read_only(launch: Launch, own_server: OwnServer, kind: str) -> None:
    server = own_server(kind)

    def follow_nobody() -> None:
        server.execute("REPLICAOF", "127.0.0.1", free_port())

    await through(
        launch,
        server,
        breaks=follow_nobody,
        mends=lambda: server.execute("REPLICAOF", "NO", "ONE"),
        error="read only replica",
    )


async def test_not_enough_replicas(launch: Launch, own_server: OwnServer) -> None:
    server = own_server()
    await through(
        launch,
        server,
        breaks=lambda: server.config_set("min-replicas-to-write", "1"),
        mends=lambda: server.config_set("min-replicas-to-write", "0"),
        error="Not enough good replicas",
    )


async def test_cannot_persist(launch: Launch, own_server: OwnServer) -> None:
    # A snapshot cannot take the place of a folder; to the server that is a disk that is full.
    server = own_server(options={"save": "3600 1000000", "dbfilename": "taken"})

    def fail_snapshot() -> None:
        (server.dir / "taken").mkdir()
        with server.client() as client:
            client.bgsave()
            while client.info("persistence")["rdb_last_bgsave_status"] == "ok":
                pass

    def save_snapshot() -> None:
        (server.dir / "taken").rmdir()
        server.execute("SAVE")

    await through(
        launch,
        server,
        breaks=fail_snapshot,
        mends=save_snapshot,
        error="unable to persist",
    )


@pytest.mark.parametrize(
    ("breaks", "mends"),
    [
        ("ACL SETUSER weak -evalsha -eval", "ACL SETUSER weak +evalsha +eval"),
        ("CLIENT PAUSE 600000 WRITE", "CLIENT UNPAUSE"),
    ],
    ids=["not allowed", "held up"],
)
async def test_scripts_do_not_run_while_ping_is_answered(
    launch: Launch, own_server: OwnServer, breaks: str, mends: str
) -> None:
    server = own_server()
    rights = ("~*", "&*", "+@all")
    server.execute("ACL", "SETUSER", "weak", "on", f">{faults.PASSWORD_MARK}", *rights)
    url = f"redis://weak:{faults.PASSWORD_MARK}@127.0.0.1:{server.port}"
    sidecar = await launch(url, http=True)
    caller = Caller(sidecar)
    await faults.until_connected(sidecar)
    assert (await caller.set("cached")).status == pb.SET_STATUS_STORED
    server.execute(*breaks.split())
    log = ["store unavailable", "store available again"]
    for number in range(CALLS):
        assert (await caller.get_new()).miss.degraded
        assert (await caller.set(f"kept {number}")).status == pb.SET_STATUS_KEPT_LOCALLY
        assert await caller.invalidate_code() is grpc.StatusCode.UNAVAILABLE
    caller.check_times()

    async def probed() -> bool:
        figures = await faults.scrape(sidecar)
        return figures.of("mge_cache_store_operation_seconds_count", operation="probe") >= 3

    await eventually(probed)
    assert (await caller.get_new()).miss.degraded
    assert faults.events(sidecar) == log[:1]
    server.execute(*mends.split())
    await faults.until_connected(sidecar, within_s=faults.RECOVERY_S)
    assert faults.events(sidecar) == log
    assert (await caller.set("cached")).status == pb.SET_STATUS_STORED
    await faults.check_no_secrets(sidecar, server)
