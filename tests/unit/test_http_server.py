"""How the HTTP server listens, refuses and ends."""

from __future__ import annotations

import asyncio
import signal
import socket
from contextlib import suppress

import pytest

from tests.unit.http_server import make_server, serving


async def test_a_begun_answer_arrives_whole_and_the_port_is_free_again() -> None:
    server = make_server()
    address = await server.start()
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    await asyncio.wait_for(server.stop(), 5)
    assert (await reader.read()).endswith(b"\n")
    writer.close()
    await writer.wait_closed()
    again = make_server(port=int(port))
    assert await again.start() == address
    await again.stop()


async def test_open_connections_do_not_delay_the_stop() -> None:
    server = make_server()
    host, port = (await server.start()).split(":")
    idle, idle_writer = await asyncio.open_connection(host, int(port))
    half, half_writer = await asyncio.open_connection(host, int(port))
    for reader, writer in ((idle, idle_writer), (half, half_writer)):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readuntil(b"ok\n")).startswith(b"HTTP/1.1 200")
    half_writer.write(b"GET /healthz HT")
    await half_writer.drain()
    await asyncio.wait_for(server.stop(), 3)
    assert await idle.read() == b""
    with suppress(ConnectionResetError):  # what the server had not read may be answered so
        assert await half.read() == b""
    idle_writer.close()
    half_writer.close()
    await server.stop()


async def test_an_address_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = make_server(port=taken.getsockname()[1])
        with pytest.raises(OSError, match="in use"):
            await server.start()
    await server.stop()


@pytest.mark.parametrize(("host", "shown"), [("", "0.0.0.0:"), ("::1", "[::1]:")])
async def test_other_addresses(host: str, shown: str) -> None:
    server = make_server(host=host)
    try:
        address = await server.start()
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert address.startswith(shown)
    await server.stop()


async def test_signals_are_left_alone() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    server = make_server()
    await server.start()
    during = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    await server.stop()
    assert during == before


async def test_nonsense_is_refused_without_a_word_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(make_server()) as client:
        reader, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        writer.write(b"\x16\x03\x01 nonsense\r\n\r\n")
        await writer.drain()
        assert (await reader.read()).startswith(b"HTTP/1.1 400")
        writer.close()
        await writer.wait_closed()
        assert (await client.get("/healthz")).status_code == 200
    assert [record for record in caplog.records if record.name.startswith("uvicorn")] == []
