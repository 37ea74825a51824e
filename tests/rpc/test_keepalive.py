"""A sidecar that hangs: HTTP/2's pings show it, and a call that is merely silent goes on."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from mge_cache._channel import CHANNEL_OPTIONS, keepalive
from mge_cache_server.rpc_server import PING_MIN_S, pings_allowed
from tests.e2e.tcp_proxy import TcpProxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

METHOD = "/test.Service/Wait"
PATIENT_S = 60.0
"""So long a call would wait without pings: a test that fails takes as long."""


class Silent:
    """A server whose one call says nothing until ``end`` is set."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.end = asyncio.Event()
        self.port = 0

    async def answer(self, _request: bytes, _context: Any) -> bytes:
        self.began.set()
        await self.end.wait()
        return b"done"


@asynccontextmanager
async def silent(*options: tuple[str, int]) -> AsyncIterator[Silent]:
    service = Silent()
    server = grpc.aio.server(options=options)
    handler = grpc.unary_unary_rpc_method_handler(service.answer)
    handlers = grpc.method_handlers_generic_handler("test.Service", {"Wait": handler})
    server.add_generic_rpc_handlers((handlers,))
    service.port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield service
    service.end.set()
    await server.stop(None)


def call(port: int, *options: tuple[str, int]) -> tuple[grpc.aio.Channel, asyncio.Future[bytes]]:
    own = ("grpc.use_local_subchannel_pool", 1)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[own, *options])

    async def wait() -> bytes:
        method: Any = channel.unary_unary
        answer: bytes = await method(METHOD)(b"", timeout=PATIENT_S)
        return answer

    return channel, asyncio.ensure_future(wait())


async def pings(proxy: _Counting, count: int) -> None:
    """Wait until so many have passed."""
    while proxy.packets < count:
        proxy.passed.clear()
        await proxy.passed.wait()


class _Counting:
    """A line to a server; counts what the client sends on it."""

    def __init__(self, port: int) -> None:
        self.packets = 0
        self.passed = asyncio.Event()
        self._port = port

    @asynccontextmanager
    async def open(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        async with server:
            yield server.sockets[0].getsockname()[1]
            server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond = await asyncio.open_connection("127.0.0.1", self._port)
        await asyncio.gather(
            self._copy(reader, beyond[1], counted=True),
            self._copy(beyond[0], writer, counted=False),
        )

    async def _copy(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool
    ) -> None:
        while data := await source.read(65536):
            if counted:
                self.packets += 1
                self.passed.set()
            sink.write(data)
        sink.close()


async def test_a_long_silence_is_no_hang() -> None:
    async with silent(*pings_allowed(0.01)) as service:
        line = _Counting(service.port)
        async with line.open() as port:
            channel, waiting = call(port, *keepalive(ping_s=0.05, answer_s=20.0))
            await service.began.wait()
            # A server that is not told to allow them ends the connection at the third.
            await pings(line, line.packets + 5)
            service.end.set()
            assert await waiting == b"done"
            await channel.close(None)


async def test_pings_that_are_not_allowed_end_the_call() -> None:
    async with silent() as service:
        channel, waiting = call(service.port, *keepalive(ping_s=0.05, answer_s=20.0))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await waiting
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await channel.close(None)


async def test_a_line_that_hangs_amid_a_call_makes_it_unavailable() -> None:
    async with silent(*pings_allowed(0.01)) as service, TcpProxy(service.port) as line:
        channel, waiting = call(line.port, *keepalive(ping_s=0.05, answer_s=0.1))
        await service.began.wait()
        line.hang()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await waiting
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        await channel.close(None)


def test_clients_ping_no_oftener_than_sidecars_allow() -> None:
    options = dict(CHANNEL_OPTIONS)
    assert int(options["grpc.keepalive_time_ms"]) >= 2 * PING_MIN_S * 1000
    assert dict(pings_allowed(PING_MIN_S))["grpc.http2.min_ping_interval_without_data_ms"] == 5000
