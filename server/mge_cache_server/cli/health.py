"""``mge-cache health``: the standard gRPC health check, for a container's HEALTHCHECK."""

from __future__ import annotations

import click

from mge_cache_server.cli.failures import NEGATIVE, CommandError
from mge_cache_server.cli.sidecar import target_option, usage_errors

_ANSWER_S = 2.0


@click.command(short_help="Ask whether the sidecar is ready.")
@target_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing if it is ready.")
def health(*, target: str | None, quiet: bool) -> None:
    """Ask the sidecar whether it is ready, by gRPC's health protocol. Exit code 1: it is not.

    \b
      HEALTHCHECK CMD ["mge-cache", "health", "--quiet"]
    """
    from mge_cache._channel import resolve_target  # noqa: PLC0415 (not for `serve`)

    with usage_errors():
        where = resolve_target(target)
    problem = health_problem(where)
    if problem:
        raise CommandError(f"{where}: {problem}", NEGATIVE)
    if not quiet:
        click.echo(f"{where}: ready")


def health_problem(target: str, *, timeout_s: float = _ANSWER_S) -> str:
    """Say why the sidecar at ``target`` is not ready; "" if it is. Blocks."""
    import grpc  # noqa: PLC0415
    from grpc_health.v1 import health_pb2, health_pb2_grpc  # noqa: PLC0415

    with grpc.insecure_channel(target, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            response = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            return f"not reachable ({error.code().name})"
    serving = response.status == health_pb2.HealthCheckResponse.SERVING
    return "" if serving else health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)
