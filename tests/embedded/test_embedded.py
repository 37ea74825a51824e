"""The embedded Valkey: its folder, its start and its stop."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from importlib import metadata
from pathlib import Path

import pytest
import redis

from mge_cache_server.embedded import EmbeddedError, EmbeddedValkey
from tests.embedded.processes import execute, running
from tests.waiting import eventually


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
            memory = client.info("memory")
            # What waits to be written to the file is not counted.
            counted = memory["used_memory"] - memory["mem_not_counted_for_evict"]
            assert counted <= 5 * 1024 * 1024
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
