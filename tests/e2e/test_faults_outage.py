"""The store does not answer: refused, killed, stopped, loading, locked out, or behind a dead line.

Each test makes the same calls before, during and after.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import grpc
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.e2e import faults
from tests.e2e.faults import Caller
from tests.e2e.outage import after, before, during
from tests.e2e.tcp_proxy import TcpProxy
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from tests.e2e.sidecars import Launch, Sidecar
    from tests.servers import RedisServer

    Record = Callable[[str, object], None]
    OwnServer = Callable[..., RedisServer]


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """Print a figure, for whoever reads along (pytest -rP)."""
    return lambda name, figure: print(f"{request.node.name}: {name} = {figure}")


@asynccontextmanager
async def outage(sidecar: Sidecar, record: Record) -> AsyncIterator[Caller]:
    """Go through all of it; the body breaks the store, and mends it after ``during``."""
    caller = await before(sidecar)
    yield caller
    took_s = await after(caller)
    record("recovered_ms", round(took_s * 1e3))


async def through(
    sidecar: Sidecar,
    record: Record,
    *,
    breaks: Callable[[], object],
    mends: Callable[[], object],
) -> None:
    """Go through an outage; ``breaks`` and ``mends`` may block, and return when it is so."""
    async with outage(sidecar, record) as caller:
        await asyncio.to_thread(breaks)
        for name, figure in (await during(caller)).items():
            record(name, round(figure, 1))
        await asyncio.to_thread(mends)


async def test_nobody_ever_listened_there(
    launch: Launch, own_server: OwnServer, record: Record
) -> None:
    server = own_server()
    server.kill()
    sidecar = await launch(server.url, http=True)
    caller = Caller(sidecar)
    for name, figure in (await during(caller, cached=False)).items():
        record(name, round(figure, 1))
    await asyncio.to_thread(server.start)
    record("recovered_ms", round(await after(caller) * 1e3))
    await faults.check_no_secrets(sidecar, server)


@pytest.mark.parametrize("kind", ["valkey9", "redis8", "redis7"])
async def test_killed_and_started_with_its_data(
    launch: Launch, own_server: OwnServer, record: Record, kind: str
) -> None:
    server = own_server(kind)
    sidecar = await launch(server.url, http=True)
    await through(sidecar, record, breaks=server.kill, mends=server.start)
    await faults.check_no_secrets(sidecar, server)


async def test_killed_and_started_empty(
    launch: Launch, own_server: OwnServer, record: Record
) -> None:
    server = own_server()
    sidecar = await launch(server.unix_url, http=True)

    def start_empty() -> None:
        server.start()
        server.restart(empty=True)
        with server.client() as client:
            assert client.dbsize() == 0

    await through(sidecar, record, breaks=server.kill, mends=start_empty)
    await faults.check_no_secrets(sidecar, server)


@pytest.mark.parametrize("kind", ["valkey9", "redis7"])
async def test_stopped_and_continued(
    launch: Launch, own_server: OwnServer, record: Record, kind: str
) -> None:
    server = own_server(kind)
    sidecar = await launch(server.url, http=True)
    await through(sidecar, record, breaks=server.pause, mends=server.resume)
    await faults.check_no_secrets(sidecar, server)


async def test_loading(launch: Launch, own_server: OwnServer, record: Record) -> None:
    server = own_server(options={"loading-process-events-interval-bytes": "1024"})
    sidecar = await launch(server.url, http=True)

    def reload() -> None:
        with server.client() as client:
            client.set_retry(Retry(NoBackoff(), 0))
            client.connection_pool.connection_kwargs["socket_timeout"] = 60.0
            client.execute_command("DEBUG", "RELOAD")

    def load() -> None:
        server.execute("DEBUG", "POPULATE", 50_000, "filler", 64)
        server.config_set("key-load-delay", "200")  # µs
        reloading.start()
        while True:
            try:
                server.execute("PING")
            except redis.BusyLoadingError:
                return

    def finish() -> None:
        while True:
            try:
                server.config_set("key-load-delay", "0")
            except redis.BusyLoadingError:
                continue
            break
        reloading.join()

    reloading = threading.Thread(target=reload)
    await through(sidecar, record, breaks=load, mends=finish)


async def test_password_changed(
    launch: Launch, own_server: OwnServer, record: Record, tmp_path: Path
) -> None:
    server = own_server(password=f"{faults.PASSWORD_MARK}1")
    file = tmp_path / "password"
    file.write_text(f"{faults.PASSWORD_MARK}1\n")
    url = f"redis://127.0.0.1:{server.port}/0"
    sidecar = await launch(url, http=True, options=("--redis-password-file", str(file)))
    await through(
        sidecar,
        record,
        breaks=lambda: server.set_password(f"{faults.PASSWORD_MARK}2"),
        mends=lambda: file.write_text(f"{faults.PASSWORD_MARK}2\n"),
    )
    await faults.check_no_secrets(sidecar, server)


async def test_wrong_password_in_the_url(launch: Launch, own_server: OwnServer) -> None:
    server = own_server(password="right")
    url = f"redis://user:{faults.PASSWORD_MARK}@127.0.0.1:{server.port}/0"
    sidecar = await launch(url, http=True)
    caller = Caller(sidecar)
    await during(caller, cached=False)
    await faults.check_no_secrets(sidecar, server)


async def test_debug_logs_hold_no_secrets_either(launch: Launch, own_server: OwnServer) -> None:
    server = own_server(password=faults.PASSWORD_MARK)
    sidecar = await launch(server.url, http=True, options=("--log-level", "debug"))
    caller = await before(sidecar)
    server.kill()
    await during(caller)
    with pytest.raises(grpc.aio.AioRpcError):
        await caller.set("x", tags=["\0"])
    assert '"level": "debug"' in sidecar.stderr()
    await faults.check_no_secrets(sidecar)


async def test_line_goes_dead(launch: Launch, own_server: OwnServer, record: Record) -> None:
    server = own_server()
    async with TcpProxy(server.port) as proxy:
        sidecar = await launch(f"redis://127.0.0.1:{proxy.port}/0", http=True)
        async with outage(sidecar, record) as caller:
            proxy.hang()
            for name, figure in (await during(caller)).items():
                record(name, round(figure, 1))
            # What was connected stays dead, as behind a firewall that has forgotten it.
            proxy.forward_new_connections()
        await faults.check_no_secrets(sidecar, server)


async def test_line_goes_dead_under_many_connections(launch: Launch, own_server: OwnServer) -> None:
    server = own_server()
    async with TcpProxy(server.port) as proxy:
        sidecar = await launch(f"redis://127.0.0.1:{proxy.port}/0", http=True)
        caller = await before(sidecar)
        await asyncio.gather(*(caller.get_new() for _ in range(100)))
        caller.seconds.clear()
        proxy.hang()
        await during(caller)
        proxy.forward_new_connections()
        await faults.until_connected(sidecar, within_s=faults.RECOVERY_S)
        # Few enough at once for a slow machine to connect all of them within the deadline.
        misses = await asyncio.gather(*(caller.get_new() for _ in range(8)))
        assert not any(found.miss.degraded for found in misses)
        assert sorted(faults.events(sidecar)) == sorted((*faults.DOWN, *faults.UP))


async def test_line_breaks_and_then_goes_dead(launch: Launch, own_server: OwnServer) -> None:
    server = own_server()
    async with TcpProxy(server.port) as proxy:
        sidecar = await launch(f"redis://127.0.0.1:{proxy.port}/0", http=True)
        caller = await before(sidecar)
        proxy.hang()
        proxy.reset_connections()  # the feed connects again at once, to nothing
        await eventually(lambda: proxy.hanging >= 1)
        await during(caller)
        proxy.forward_new_connections()
        await after(caller)


async def test_a_burst_at_a_server_that_hangs_waits_one_deadline(
    launch: Launch, own_server: OwnServer, record: Record
) -> None:
    server = own_server()
    sidecar = await launch(server.url, http=True)
    caller = await before(sidecar)
    tried = (await faults.scrape(sidecar)).attempts()
    server.pause()
    started_s = time.perf_counter()
    misses = await asyncio.gather(*(caller.get(f"burst {number}") for number in range(300)))
    took_s = time.perf_counter() - started_s
    assert all(found.miss.degraded for found in misses)
    figures = await faults.scrape(sidecar)
    assert not figures.store_up
    # 32 have their turn at once, and the first two failures do not open the breaker yet.
    assert figures.attempts() - tried <= 32 + 2
    record("burst_ms", round(took_s * 1e3))
    assert took_s < 2.0
