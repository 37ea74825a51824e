"""SIGTERM with --shutdown-delay: everything is served on for a time, then as without."""

from __future__ import annotations

import signal
import time

import httpx
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mge_cache.v1 import cache_service_pb2 as pb
from tests.e2e import faults
from tests.e2e.faults import Caller
from tests.e2e.sidecars import Launch, Sidecar, open_channel
from tests.waiting import eventually

LONG = ("--shutdown-delay", "10m")
INTERRUPTED = 130


async def ready_status(sidecar: Sidecar) -> int:
    async with httpx.AsyncClient(trust_env=False) as http:
        return (await http.get(f"http://{sidecar.http_address}/readyz")).status_code


async def lingering(sidecar: Sidecar) -> None:
    async def says_so() -> bool:
        return await ready_status(sidecar) == 503

    await eventually(says_so)


async def test_everything_is_served_on(launch: Launch) -> None:
    sidecar = await launch(options=LONG, http=True)
    caller = Caller(sidecar)
    assert await ready_status(sidecar) == 200
    sidecar.send(signal.SIGTERM)
    await lingering(sidecar)

    assert (await caller.set("late")).status == pb.SET_STATUS_STORED
    assert (await caller.get("late")).hit.answer == faults.answer_of("late")
    assert await faults.fetch(sidecar, "/healthz")
    assert await faults.fetch(sidecar, "/metrics")
    # A connection of its own: new ones are accepted too. Clients that watch health go on calling.
    async with open_channel(sidecar.target) as channel:
        answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert sidecar.running

    sidecar.send(signal.SIGTERM)  # who asks twice does not want to wait
    assert await sidecar.wait() == INTERRUPTED


async def test_it_ends_in_good_order_after_the_delay(launch: Launch) -> None:
    sidecar = await launch(options=("--shutdown-delay", "300ms"), http=True)
    started_s = time.perf_counter()
    assert await sidecar.stop() == 0
    assert time.perf_counter() - started_s >= 0.3
    assert not (sidecar.folder / "s").exists()
    assert faults.events(sidecar) == ["serving on before the end"]


async def test_ctrl_c_waits_for_nothing(launch: Launch) -> None:
    sidecar = await launch(options=LONG)
    sidecar.send(signal.SIGINT)
    assert await sidecar.wait() == 0
