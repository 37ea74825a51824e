"""Certificates that change in their files, as those of a mounted Secret do: without a restart."""

from __future__ import annotations

import asyncio
import shutil
from typing import TYPE_CHECKING

import pytest

from mge_cache.v1 import cache_service_pb2 as pb
from tests.e2e import faults
from tests.e2e.faults import Caller
from tests.servers import TlsFiles, make_tls_files
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.sidecars import Launch, Sidecar
    from tests.servers import RedisServer

    OwnServer = Callable[..., RedisServer]

RECONNECT_S = 20.0


def issue(folder: Path) -> TlsFiles:
    """Make an authority and certificates in a folder, in place of those that are there."""
    folder.mkdir(exist_ok=True)
    return make_tls_files(folder)


def mount(issued: TlsFiles, folder: Path) -> TlsFiles:
    """Copy certificates to where the sidecar has them, each file at once as a kubelet does."""
    folder.mkdir(exist_ok=True)
    for file in (issued.ca, issued.cert, issued.key):
        fresh = folder / f"{file.name}.new"
        shutil.copy(file, fresh)
        fresh.rename(folder / file.name)
    names = (issued.ca.name, issued.cert.name, issued.key.name)
    return TlsFiles(*(folder / name for name in names))


def cuts_off(sidecar: Sidecar) -> Callable[[], object]:
    async def down() -> bool:
        figures = await faults.scrape(sidecar)
        return not figures.feed_live

    return down


def stores(caller: Caller) -> Callable[[], object]:
    """Not at once: a cluster that was started is not whole yet."""

    async def stored() -> bool:
        return (await caller.set("one")).status == pb.SET_STATUS_STORED

    return stored


@pytest.mark.parametrize("topology", ["standalone", "cluster"])
async def test_new_authority_and_client_certificate(
    launch: Launch, own_server: OwnServer, tmp_path: Path, topology: str
) -> None:
    issued = issue(tmp_path / "issued")
    server_options = {"tls-auth-clients": "yes"}
    if topology == "cluster":
        server_options |= {"cluster-enabled": "yes", "tls-cluster": "yes", "databases": "1"}
    server = own_server("redis7", tls=issued, options=server_options)
    url = server.tls_url
    if topology == "cluster":
        await asyncio.to_thread(server.execute, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        url = f"rediss+cluster://127.0.0.1:{server.tls_port}"
    mounted = mount(issued, tmp_path / "mounted")
    options = (
        *("--redis-tls-ca-file", str(mounted.ca)),
        *("--redis-tls-cert-file", str(mounted.cert)),
        *("--redis-tls-key-file", str(mounted.key)),
    )
    sidecar = await launch(url, options=options, http=True)
    caller = Caller(sidecar)
    await faults.until_connected(sidecar, within_s=RECONNECT_S)
    await eventually(stores(caller), within_s=RECONNECT_S)

    # All that was good so far is void: another authority, and the server asks for its certificates.
    await asyncio.to_thread(issue, tmp_path / "issued")
    await asyncio.to_thread(server.restart)
    await eventually(cuts_off(sidecar), within_s=RECONNECT_S)
    mount(issued, tmp_path / "mounted")
    await faults.until_connected(sidecar, within_s=RECONNECT_S)
    await eventually(stores(caller), within_s=RECONNECT_S)
