"""The embedded Valkey when it or its sidecar dies, hangs, or is left behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from mge_cache_server import embedded, embedded_socket
from mge_cache_server.embedded import EmbeddedValkey
from tests.embedded.processes import answers, execute, exists, running
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="uses what only Linux has")

# A sidecar that is nothing but an embedded server. It says where, and lives until it is killed.
SIDECAR = """
import asyncio, sys
from mge_cache_server.embedded import EmbeddedValkey

async def main():
    server = EmbeddedValkey(sys.argv[1])
    print(await server.start(), server.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


# Kills its server under the eyes of gRPC's threads, as often as is said.
BUSY_SIDECAR = """
import asyncio, os, signal, sys
import grpc, uvloop
from mge_cache_server.embedded import EmbeddedValkey
from mge_cache_server.embedded_socket import ping
from pathlib import Path

async def calls(target):
    async with grpc.aio.insecure_channel(target) as channel:
        while True:
            try:
                await channel.unary_unary("/none/none")(b"")
            except grpc.aio.AioRpcError:
                pass

async def main():
    folder = Path(sys.argv[1])
    rpc = grpc.aio.server()
    target = "127.0.0.1:" + str(rpc.add_insecure_port("127.0.0.1:0"))
    await rpc.start()
    load = [asyncio.create_task(calls(target)) for _ in range(4)]
    server = EmbeddedValkey(folder)
    await server.start()
    for _ in range(int(sys.argv[2])):
        before = server.pid
        os.kill(before, signal.SIGKILL)
        while server.pid == before or not await ping(folder / "valkey.sock"):
            await asyncio.sleep(0.01)
    for task in load:
        task.cancel()
    await asyncio.wait(load)
    await server.stop()
    await rpc.stop(None)

uvloop.run(main())
"""


async def test_a_server_that_does_not_end_is_killed(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path, stop_s=0.1)
    await server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    await server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_server_that_dies_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mge_cache_server")
    async with running(tmp_path) as (server, url):
        execute(url, "SET", "answer", "kept")
        for _ in range(2):
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await eventually(lambda: caplog.messages[-1:] == ["embedded Valkey is back"])
            assert execute(url, "GET", "answer") == b"kept"
            caplog.clear()


def test_it_is_started_again_beside_the_threads_of_grpc(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUSY_SIDECAR, str(tmp_path), "3"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60.0,
        check=True,
    )
    log = (tmp_path / "valkey.log").read_text()
    assert "Fatal" not in done.stderr + log
    assert "fork" not in done.stderr  # gRPC says so when somebody forks beside its threads


async def test_a_server_that_cannot_be_started_again_is_tried_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "mge_cache_server")
    async with running(tmp_path) as (server, url):
        hidden = (tmp_path / "appendonlydir").rename(tmp_path / "hidden")
        (tmp_path / "appendonlydir").write_text("in the way")
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await eventually(lambda: "embedded Valkey does not start" in caplog.messages)
        (tmp_path / "appendonlydir").unlink()
        hidden.rename(tmp_path / "appendonlydir")
        await eventually(lambda: answers(tmp_path))
        assert execute(url, "PING")


@pytest.fixture
def sidecar(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """A process with an embedded server on ``tmp_path``, its URL and the server's process."""
    with subprocess.Popen(
        [sys.executable, "-c", SIDECAR, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        url, pid = process.stdout.readline().split()
        yield process, url, int(pid)
        process.kill()


@on_linux
async def test_it_ends_with_a_sidecar_that_is_killed(
    tmp_path: Path, sidecar: tuple[subprocess.Popen[str], str, int]
) -> None:
    process, url, pid = sidecar
    execute(url, "SET", "answer", "kept")
    process.kill()
    await eventually(lambda: not exists(pid))
    async with running(tmp_path) as (_, url):
        assert execute(url, "GET", "answer") == b"kept"


@on_linux
async def test_a_sidecar_that_is_killed_and_started_at_once_finds_its_data(
    tmp_path: Path, sidecar: tuple[subprocess.Popen[str], str, int]
) -> None:
    process, url, _ = sidecar
    execute(url, "SET", "answer", "kept")
    process.kill()
    process.wait()
    async with running(tmp_path) as (_, url):
        assert execute(url, "GET", "answer") == b"kept"


@on_linux
async def test_a_server_that_hangs_after_its_sidecar_was_killed_is_no_hindrance(
    tmp_path: Path,
    sidecar: tuple[subprocess.Popen[str], str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedded_socket, "_END_S", 0.2)
    process, url, pid = sidecar
    execute(url, "SET", "answer", "kept")
    os.kill(pid, signal.SIGSTOP)
    process.kill()
    process.wait()
    assert exists(pid)
    async with running(tmp_path) as (server, url):
        assert server.pid != pid
        assert not exists(pid)
        assert execute(url, "GET", "answer") == b"kept"


async def test_a_server_that_nobody_owns_is_ended_first(tmp_path: Path) -> None:
    orphan = await asyncio.create_subprocess_exec(
        embedded.find_binary(),
        *("--port", "0", "--unixsocket", "valkey.sock", "--appendonly", "yes"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
    )
    await eventually(lambda: answers(tmp_path))
    execute(f"unix://{tmp_path}/valkey.sock", "SET", "answer", "kept")
    async with running(tmp_path) as (_, url):
        assert await orphan.wait() == 0  # it was asked, not killed
        assert execute(url, "GET", "answer") == b"kept"
