"""How serve begins and ends."""

from __future__ import annotations

import asyncio
import os
import pty
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from tests.e2e.commands import command, environment

if TYPE_CHECKING:
    from tests.e2e.sidecars import Launch


async def test_the_line_that_serve_prints_works_in_a_shell(launch: Launch) -> None:
    sidecar = await launch()
    line = sidecar.stdout().partition("Try it from another terminal:\n")[2].strip()
    assert "--target" in line
    process = await asyncio.create_subprocess_shell(
        line, stdout=asyncio.subprocess.PIPE, env=environment()
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    assert out.decode().endswith("Hi there")


async def test_serve_says_which_address_is_taken(launch: Launch) -> None:
    sidecar = await launch(tcp=True, http=True)
    grpc_address = sidecar.targets[1]
    common = ("serve", "--redis-url", "memory://")
    for flag, address in (
        ("--listen", grpc_address),
        ("--http-listen", sidecar.http_address),
        ("--unix-socket", sidecar.target.removeprefix("unix:")),
    ):
        free = {"--listen": "127.0.0.1:0", "--http-listen": "127.0.0.1:0", flag: address}
        flags = [text for pair in free.items() for text in pair]
        taken = await command(*common, *flags)
        assert taken.code == 1
        told = [line for line in taken.err.splitlines() if line.startswith("mge-cache: ")]
        assert told == [f"mge-cache: {flag} {address}: already in use by another process"]
    assert (await command("health", target=sidecar)).code == 0


async def test_on_a_terminal_serve_says_only_once_that_it_is_ready() -> None:
    ours, terminal = pty.openpty()
    flags = ("--redis-url", "memory://", "--listen", "127.0.0.1:0", "--http-listen", "")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "mge_cache_server", "serve", *flags),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        env=environment(),
    )
    os.close(terminal)
    said = b""
    try:
        async with asyncio.timeout(30):
            while b"Hello" not in said:
                said += await asyncio.to_thread(os.read, ours, 4096)
    finally:
        process.terminate()
        await process.wait()
        os.close(ours)
    assert said.count(b"ready") == 1, said.decode()


async def test_serve_logs_that_it_is_ready_where_nobody_sits(launch: Launch) -> None:
    sidecar = await launch()
    assert sidecar.stderr().count('"event": "ready"') == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_ends_with_0_at_a_signal(number: signal.Signals, launch: Launch) -> None:
    sidecar = await launch("")
    sidecar.send(number)
    assert await sidecar.wait() == 0
    assert "Traceback" not in sidecar.stderr()
    assert not (sidecar.folder / "s").exists()


async def test_a_second_signal_does_not_wait() -> None:
    program = (
        "import asyncio; from mge_cache_server.cli.serve import _handle_signals\n"
        "async def main():\n"
        "    asked = asyncio.get_running_loop().create_future(); "
        "_handle_signals(asked); print('ready', flush=True)\n"
        "    await asked; print('asked', flush=True); await asyncio.Event().wait()\n"
        "asyncio.run(main())"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), stdout=asyncio.subprocess.PIPE, env=environment()
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    assert await process.stdout.readline() == b"asked\n"
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 130
