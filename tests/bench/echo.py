"""The reference: a bare ``grpc.aio`` server that answers GetPrompt with one fixed hit.

``python -m tests.bench.echo SOCKET`` serves on a unix socket until SIGTERM, on uvloop, with the
"""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import TYPE_CHECKING, Any

import grpc
import uvloop
from grpc_health.v1 import health_pb2

from mge_cache.v1 import cache_service_pb2 as pb
from tests.bench.messages import hit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


def _handlers() -> tuple[grpc.GenericRpcHandler[Any, Any], ...]:
    """Return GetPrompt and the health check; every other method is UNIMPLEMENTED."""
    prompt = grpc.unary_unary_rpc_method_handler(
        _always(hit()),
        request_deserializer=pb.GetPromptRequest.FromString,
        response_serializer=pb.GetPromptResponse.SerializeToString,
    )
    serving = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)
    check = grpc.unary_unary_rpc_method_handler(
        _always(serving),
        request_deserializer=health_pb2.HealthCheckRequest.FromString,
        response_serializer=health_pb2.HealthCheckResponse.SerializeToString,
    )
    return (
        grpc.method_handlers_generic_handler("mge_cache.v1.CacheService", {"GetPrompt": prompt}),
        grpc.method_handlers_generic_handler("grpc.health.v1.Health", {"Check": check}),
    )


def _always(response: object) -> Callable[[object, object], Awaitable[object]]:
    async def handle(_request: object, _context: object) -> object:
        return response

    return handle


async def _serve(socket: str) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers(_handlers())
    server.add_insecure_port(f"unix:{socket}")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await server.start()
    await stop.wait()
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1]))
