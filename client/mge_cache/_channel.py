"""Where the sidecar is, and how a channel to it behaves."""

from __future__ import annotations

import json
import os

from mge_cache.errors import InvalidRequestError

DEFAULT_TARGET = "127.0.0.1:50151"
TARGET_VARIABLE = "MGE_CACHE_TARGET"
_PORT_MAX = 65535
SERVICE = "mge_cache.v1.CacheService"
IS_THERE = "/grpc.health.v1.Health/Check"
"""The cheapest call there is; an empty request asks for the whole process. Whatever is answered,
somebody is there."""

# HoldLease is not here: repeating it needs a decision, not a policy. The back-off is short because
# a caller waits: three attempts add at most some 20 ms to a call.
_RETRIED_METHODS = ("GetPrompt", "SetPrompt", "QueryRAG", "StoreRAG", "Invalidate", "Stats")
_SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": SERVICE, "method": method} for method in _RETRIED_METHODS],
            "retryPolicy": {
                "maxAttempts": 3,
                "initialBackoff": "0.005s",
                "maxBackoff": "0.02s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    # In an outage most calls fail: then they are not repeated.
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.5},
}


def keepalive(*, ping_s: float, answer_s: float) -> tuple[tuple[str, int], ...]:
    """Return the options by which a sidecar that hangs breaks its calls (UNAVAILABLE).

    While a call is open and nothing comes for ``ping_s``, HTTP/2 asks whether the other side is
    there; without an answer within ``answer_s`` the connection is over. The sidecar's own part, as
    a server takes that for an attack, is ``rpc_server.PING_MIN_S``.
    """
    return (
        ("grpc.keepalive_time_ms", round(ping_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(answer_s * 1000)),
        # In gRPC 1.85 it is this one that ends the wait for a ping, after a minute by default.
        ("grpc.http2.ping_timeout_ms", round(answer_s * 1000)),
        # Answers to prompts are silent for minutes. Without calls nobody waits.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 0),
    )


CHANNEL_OPTIONS: tuple[tuple[str, int | str], ...] = (
    # So nobody waits longer than 15 s for a sidecar that hangs, whatever the call's deadline is.
    *keepalive(ping_s=10.0, answer_s=5.0),
    # Limits are the sidecar's: it names the field that is over one.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # A sidecar that has just come back is found again within a second. The minimum is also how long
    # a connection may take to be made.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # The sidecar is on this machine, whatever http_proxy says.
    ("grpc.enable_http_proxy", 0),
    # Clients of one process do not share connections, nor each other's back-off.
    ("grpc.use_local_subchannel_pool", 1),
)


def resolve_target(target: str | None) -> str:
    """Return the gRPC target: the one given, else $MGE_CACHE_TARGET, else 127.0.0.1:50151.

    Accepts ``unix:/path`` (or just ``/path``), ``host:port``, and gRPC's other schemes such as
    ``dns:///host:port``. Raises InvalidRequestError for text that names no port and no path.
    """
    chosen = (target or os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET).strip()
    if chosen.startswith("/"):
        return f"unix:{chosen}"
    if chosen.startswith(("unix:", "unix-abstract:")) or ":///" in chosen:
        path = chosen.partition(":")[2].lstrip("/")
        if path:
            return chosen
    else:
        host, _, port = chosen.rpartition(":")
        if host and port.isdecimal() and 0 < int(port) <= _PORT_MAX:
            return chosen
    raise InvalidRequestError("target", "must be unix:/path, /path or host:port")
