"""The reference: a bare ``grpc.aio`` server that answers GetPrompt with one fixed hit.

``python -m tests.bench.echo SOCKET`` serves on a unix socket until SIGTERM, on uvloop, with the
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING

import grpc
import uvloop
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mge_cache.v1 import cache_service_pb2_grpc
from tests.bench.messages import hit

if TYPE_CHECKING:
    from mge_cache.v1 import cache_service_pb2 as pb


class Echo(cache_service_pb2_grpc.CacheServiceServicer):
    """Answers GetPrompt; the other methods are UNIMPLEMENTED."""

    def __init__(self) -> None:
        self._hit = hit()

    async def GetPrompt(  # noqa: N802 - the contract's name
        self, request: pb.GetPromptRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> pb.GetPromptResponse:
        del request, context
        return self._hit


class Health(health_pb2_grpc.HealthServicer):
    """Always SERVING."""

    async def Check(  # noqa: N802
        self, request: health_pb2.HealthCheckRequest, context: object
    ) -> health_pb2.HealthCheckResponse:
        del request, context
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)


async def _serve(socket: str) -> None:
    server = grpc.aio.server()
    cache_service_pb2_grpc.add_CacheServiceServicer_to_server(Echo(), server)
    health_pb2_grpc.add_HealthServicer_to_server(Health(), server)
    server.add_insecure_port(f"unix:{socket}")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    await stop.wait()
    await server.stop(None)


def main() -> None:
    """Serve."""
    uvloop.run(_serve(sys.argv[1]))


if __name__ == "__main__":
    main()
