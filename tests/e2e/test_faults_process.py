"""The sidecar itself ends, in good order or not; two sidecars want the same place; it is off."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from mge_cache.v1 import cache_service_pb2 as pb
from tests.e2e import faults
from tests.e2e.faults import Caller
from tests.e2e.sidecars import SidecarStartError
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.sidecars import Launch, Sidecar
    from tests.servers import RedisServer
    from tests.servers.fixtures import Servers

    OwnServer = Callable[..., RedisServer]

DRAIN_S = 10.0
EMBEDDED = ""
"""The URL that asks for the embedded Valkey."""


def alive(pid: int) -> bool:
    """Whether a process exists and is not only waiting to be reaped."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def embedded_pid(sidecar: Sidecar) -> int:
    """Find the Valkey that a sidecar has started."""
    tasks = Path(f"/proc/{sidecar.pid}/task")
    children = " ".join((task / "children").read_text() for task in tasks.iterdir()).split()
    [pid] = [int(child) for child in children if b"valkey" in _command(int(child))]
    return pid


def _command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")


linux = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")


async def under_way(caller: Caller) -> None:
    """Wait until the sidecar works on the calls that were begun: it takes them in order."""
    await caller.stats()
    await caller.stats()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_who_waits_is_told_at_once(
    launch: Launch, own_server: OwnServer, number: signal.Signals
) -> None:
    server = own_server()
    sidecar = await launch(server.url, http=True)
    caller = Caller(sidecar)
    await faults.until_connected(sidecar)
    lease = (await caller.get("awaited")).miss.lease
    held = sidecar.stub.HoldLease(pb.HoldLeaseRequest(lease=lease))
    assert (await anext(aiter(held))).state == pb.LEASE_STATE_HELD
    follower = asyncio.create_task(caller.get("awaited", wait=Duration(seconds=60)))
    await under_way(caller)

    started_s = time.perf_counter()
    sidecar.send(number)
    # gRPC's client may run into the closed socket before it has read what was sent last.
    try:
        assert (await follower).miss.in_progress
        assert [answer.state async for answer in held] == [pb.LEASE_STATE_LOST]
    except grpc.aio.AioRpcError as cut:
        if cut.code() is not grpc.StatusCode.UNAVAILABLE:
            raise
    assert await sidecar.wait() == 0
    assert time.perf_counter() - started_s < DRAIN_S / 2
    assert not (sidecar.folder / "s").exists()
    assert faults.events(sidecar) == []
    with server.client() as client:
        names = [name.decode() for name in client.scan_iter()]
    assert not any(name.endswith(":l") for name in names)  # the lease was given back


async def test_sigterm_waits_for_an_answer_that_is_being_stored(
    launch: Launch, own_server: OwnServer
) -> None:
    server = own_server()
    options = ("--store-timeout", "30s", "--drain", f"{DRAIN_S:g}s")
    sidecar = await launch(server.url, http=True, options=options)
    caller = Caller(sidecar)
    await faults.until_connected(sidecar)
    server.pause()
    setting = asyncio.create_task(caller.set("slow"))
    await under_way(caller)

    sidecar.send(signal.SIGTERM)
    await eventually(lambda: _refuses(caller))
    assert sidecar.running
    assert not setting.done()
    server.resume()
    assert (await setting).status == pb.SET_STATUS_STORED
    assert await sidecar.wait() == 0
    with server.client() as client:
        [_] = client.scan_iter(match="mge:*:e")


async def _refuses(caller: Caller) -> bool:
    try:
        await caller.stats()
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.UNAVAILABLE
    return False


async def test_what_does_not_end_is_cut_off_at_the_end_of_the_grace(
    launch: Launch, own_server: OwnServer
) -> None:
    server = own_server()
    sidecar = await launch(server.url, options=("--store-timeout", "60s", "--drain", "500ms"))
    caller = Caller(sidecar)
    assert (await caller.set("one")).status == pb.SET_STATUS_STORED
    server.pause()
    setting = asyncio.create_task(caller.set("endless"))
    await under_way(caller)
    started_s = time.perf_counter()
    sidecar.send(signal.SIGTERM)
    with pytest.raises(grpc.aio.AioRpcError) as cut:
        await setting
    assert cut.value.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert await sidecar.wait() == 0
    assert time.perf_counter() - started_s < 5.0


@linux
async def test_sigterm_ends_the_embedded_server_and_keeps_its_data(launch: Launch) -> None:
    sidecar = await launch(EMBEDDED)
    caller = Caller(sidecar)
    assert (await caller.set("kept")).status == pb.SET_STATUS_STORED
    pid = embedded_pid(sidecar)
    assert await sidecar.stop() == 0
    assert not alive(pid)
    assert not (sidecar.folder / "s").exists()
    await sidecar.start()
    hit = (await caller.get("kept")).hit
    assert (hit.answer, hit.layer) == (faults.answer_of("kept"), pb.HIT_LAYER_STORE)


@linux
async def test_sigkill_leaves_no_orphan_and_loses_nothing(launch: Launch) -> None:
    sidecar = await launch(EMBEDDED)
    caller = Caller(sidecar)
    for number in range(50):
        assert (await caller.set(f"kept {number}")).status == pb.SET_STATUS_STORED
    pid = embedded_pid(sidecar)
    sidecar.kill()
    await eventually(lambda: not alive(pid))
    assert (sidecar.folder / "s").exists()  # left behind, and in nobody's way
    await sidecar.start()
    for number in range(50):
        hit = (await caller.get(f"kept {number}")).hit
        assert hit.answer == faults.answer_of(f"kept {number}")


@linux
async def test_embedded_server_killed_comes_back_with_its_data(launch: Launch) -> None:
    sidecar = await launch(EMBEDDED, http=True)
    caller = Caller(sidecar)
    await faults.until_connected(sidecar)
    assert (await caller.set("kept")).status == pb.SET_STATUS_STORED
    os.kill(embedded_pid(sidecar), signal.SIGKILL)
    await faults.until_logged(sidecar, "embedded Valkey is back")
    await faults.until_connected(sidecar, within_s=faults.RECOVERY_S)
    assert (await caller.get("kept")).hit.answer == faults.answer_of("kept")
    assert (await caller.set("later")).status == pb.SET_STATUS_STORED


async def start_error(launch: Launch, redis_url: str, *options: str) -> str:
    """Start a sidecar that must not start; returns what it says."""
    with pytest.raises(SidecarStartError) as refused:
        await launch(redis_url, options=options)
    assert "exit code 1" in str(refused.value)
    assert "Traceback" not in str(refused.value)
    return str(refused.value)


async def test_two_on_one_unix_socket(launch: Launch) -> None:
    first = await launch()
    path = str(first.folder / "s")
    said = await start_error(launch, "memory://", "--unix-socket", path)
    assert path in said
    assert "another process" in said
    assert (await Caller(first).get_new()).miss.lease


@pytest.mark.parametrize("flag", ["--listen", "--http-listen"])
async def test_two_on_one_port(launch: Launch, flag: str) -> None:
    first = await launch(tcp=True, http=True)
    address = first.targets[1] if flag == "--listen" else first.http_address
    said = await start_error(launch, "memory://", flag, address)
    assert f"{flag} {address}: already in use by another process" in said
    assert (await Caller(first).get_new()).miss.lease


async def test_two_on_one_data_folder(launch: Launch) -> None:
    first = await launch(EMBEDDED)
    folder = str(first.folder / "data")
    said = await start_error(launch, EMBEDDED, "--data-dir", folder)
    assert f"another sidecar uses the folder {folder}" in said
    assert (await Caller(first).set("one")).status == pb.SET_STATUS_STORED


async def test_a_file_in_place_of_the_socket_is_left_alone(launch: Launch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    said = await start_error(launch, "memory://", "--unix-socket", str(file))
    assert "not a socket" in said
    assert file.read_text() == "precious"


async def test_switched_off(launch: Launch, servers: Servers, key_prefix: str) -> None:
    url, options = servers.url("valkey9"), ("--key-prefix", key_prefix)
    on = Caller(await launch(url, options=options))
    assert (await on.set("there")).status == pb.SET_STATUS_STORED
    with servers.client("valkey9") as client:
        before = sorted(client.scan_iter(match=f"{key_prefix}:*"))

        off = Caller(
            await launch(
                url,
                options=options,
                http=True,
                environment={"MGE_V2_LLM_CACHE_ENABLED": "false"},
            )
        )
        for name in ("there", "new"):
            for peek in (False, True):
                miss = (await off.get(name, peek=peek, wait=Duration(seconds=5))).miss
                assert (miss.lease, miss.in_progress, miss.degraded) == (b"", False, False)
        assert (await off.set("new")).status == pb.SET_STATUS_DISABLED
        assert (await off.get("new")).HasField("miss")
        assert sorted(client.scan_iter(match=f"{key_prefix}:*")) == before
    layer = (await off.stats()).layers[0]
    assert (layer.total_hits, layer.total_writes) == (0, 0)
    await faults.check_ready(off.sidecar)
    # An invalidation is for the other sidecars: it is done all the same.
    assert await off.invalidate_code() is grpc.StatusCode.OK
