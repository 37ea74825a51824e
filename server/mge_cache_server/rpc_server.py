"""The gRPC server: where it listens, health, reflection, and how it ends."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from mge_cache_server.service import SERVICE_NAME, register

if TYPE_CHECKING:
    from mge_cache_server.config import Settings
    from mge_cache_server.service import CacheService

PING_MIN_S = 5.0
"""So often a client may ask whether the sidecar is there. Ours do every 10 s of silence."""

_MESSAGE_SLACK_BYTES = 16 * 1024 * 1024
"""A message somewhat over the limits reaches our own checks, which name the field."""


class RpcServer:
    """Serves ``CacheService`` on a unix socket, on TCP, or both."""

    def __init__(self, settings: Settings, service: CacheService) -> None:
        self._settings = settings
        self._service = service
        self._health = health.aio.HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._bound_socket = ""

    async def start(self) -> tuple[str, ...]:
        """Listen and serve; returns the targets. Raises OSError or RuntimeError."""
        settings = self._settings
        max_bytes = settings.answer_max_bytes + settings.prompt_max_bytes + _MESSAGE_SLACK_BYTES
        server = self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", max_bytes),
                ("grpc.max_send_message_length", max_bytes),
                # A second sidecar on the same port is a mistake, not a way to share it.
                ("grpc.so_reuseport", 0),
                *pings_allowed(PING_MIN_S),
            ]
        )
        register(self._service, server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if settings.reflection:
            _reflect(server)
        targets = []
        if settings.unix_socket:
            targets.append(_listen_unix(server, settings.unix_socket, settings.unix_mode))
            self._bound_socket = settings.unix_socket
        if settings.listen:
            host = settings.listen.rpartition(":")[0]
            targets.append(f"{host}:{server.add_insecure_port(settings.listen)}")
        for name in ("", SERVICE_NAME):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        await server.start()
        return tuple(targets)

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls; wait for those in flight, for ``grace_s`` at most."""
        if self._server is None:
            return
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace_s)
        if self._bound_socket:
            # Not before it is ours: the path may be another sidecar's.
            _forget_socket(self._bound_socket)


def pings_allowed(min_s: float) -> tuple[tuple[str, int], ...]:
    """Return the options that let a client ping every ``min_s``, while its calls are silent.

    By default it is every five minutes: a client that asks more often is disconnected.
    """
    return (("grpc.http2.min_ping_interval_without_data_ms", round(min_s * 1000)),)


def _reflect(server: grpc.aio.Server) -> None:
    from grpc_reflection.v1alpha import reflection  # noqa: PLC0415 - seldom wanted

    names = (SERVICE_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)


def _listen_unix(server: grpc.aio.Server, path: str, mode: int) -> str:
    # gRPC takes a path over from whoever listens there; a socket that nobody answers on is a
    # leftover of a sidecar that was killed.
    if _answers(path):
        raise OSError(f"{path}: another process listens there")
    target = f"unix:{path}"
    previous = os.umask(0o777 & ~mode)
    try:
        server.add_insecure_port(target)
    finally:
        os.umask(previous)
    return target


def _forget_socket(path: str) -> None:
    Path(path).unlink(missing_ok=True)


def _answers(path: str) -> bool:
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            raise OSError(f"{path}: something that is not a socket is there")
        with socket.socket(socket.AF_UNIX) as trial:
            trial.settimeout(1.0)
            trial.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    return True
