"""What callers see before, during and after an outage of the store, whatever its cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from mge_cache.v1 import cache_service_pb2 as pb
from tests.e2e import faults
from tests.e2e.faults import Caller

if TYPE_CHECKING:
    from tests.e2e.sidecars import Sidecar

CALLS = 25


async def before(sidecar: Sidecar) -> Caller:
    """Store what the outage is to be survived with."""
    caller = Caller(sidecar)
    await faults.until_connected(sidecar)
    stored = await caller.set("cached", masterplan="plan")
    assert stored.status == pb.SET_STATUS_STORED
    hit = (await caller.get("cached")).hit
    assert (hit.answer, hit.degraded) == (faults.answer_of("cached"), False)
    assert (await caller.get_new()).miss.lease
    assert await caller.invalidate_code("another plan") is grpc.StatusCode.OK
    caller.seconds.clear()
    return caller


async def during(caller: Caller, *, cached: bool = True) -> dict[str, float]:
    """Check what callers see while the store is away; returns what it took."""
    sidecar = caller.sidecar
    for number in range(CALLS):
        miss = (await caller.get_new()).miss
        assert miss.degraded
        assert miss.lease  # somebody has to compute it
        kept = await caller.set(f"kept {number}")
        assert kept.status == pb.SET_STATUS_KEPT_LOCALLY
        hit = (await caller.get(f"kept {number}")).hit
        assert hit.answer == faults.answer_of(f"kept {number}")
        if cached:
            hit = (await caller.get("cached")).hit
            assert hit.answer == faults.answer_of("cached")
        assert await caller.invalidate_code() is grpc.StatusCode.UNAVAILABLE
    await faults.until_logged(sidecar, *faults.DOWN)
    assert (await caller.get("kept 0")).hit.degraded
    if cached:
        hit = (await caller.get("cached")).hit
        assert (hit.degraded, hit.layer) == (True, pb.HIT_LAYER_L1)
    await spared(caller)
    store = (await caller.stats()).store
    assert (store.available, store.feed_live) == (False, False)
    await faults.check_ready(sidecar)
    return caller.check_times()


async def spared(caller: Caller) -> None:
    """Check that the open breaker keeps all calls from the store."""
    tried = (await faults.scrape(caller.sidecar)).attempts()
    for _ in range(CALLS):
        await caller.get_new()
        await caller.set("kept 0")
        assert await caller.invalidate_code() is grpc.StatusCode.UNAVAILABLE
    assert (await faults.scrape(caller.sidecar)).attempts() == tried


async def after(caller: Caller, *, log: tuple[str, ...] = (*faults.DOWN, *faults.UP)) -> float:
    """Check that all is well again; returns the seconds that it took."""
    took_s = await faults.until_connected(caller.sidecar, within_s=faults.RECOVERY_S)
    miss = (await caller.get_new()).miss
    assert (bool(miss.lease), miss.degraded) == (True, False)
    stored = await caller.set("later", masterplan="plan")
    assert stored.status == pb.SET_STATUS_STORED
    hit = (await caller.get("later")).hit
    assert (hit.answer, hit.degraded) == (faults.answer_of("later"), False)
    assert await caller.invalidate_code("plan") is grpc.StatusCode.OK
    assert (await caller.get("later")).HasField("miss")
    assert (await caller.get("cached")).HasField("miss")
    await faults.check_ready(caller.sidecar)
    assert sorted(faults.events(caller.sidecar)) == sorted(log)
    figures = await faults.scrape(caller.sidecar)
    for operation in ("lookup", "read_epochs", "advance", "feed"):
        assert figures.errors(operation) >= 1, operation
    return took_s
