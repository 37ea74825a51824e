"""The sidecar over HTTP, for people and for probes: metrics, statistics, health, a dashboard.

Nothing here changes anything, and nothing shows a prompt, an answer, a key or a store's address.
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
from dataclasses import asdict
from importlib import resources
from typing import TYPE_CHECKING, Any

import uvicorn
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request

    from mge_cache_server.batch_counts import BatcherStatistics
    from mge_cache_server.metrics import Metrics
    from mge_cache_server.statistics import LayerStatistics, Reporter, Statistics

_BACKLOG = 128
_CONNECTIONS_MAX = 64
_KEEP_ALIVE_S = 75
"""Longer than the usual intervals of scrapes and probes, so that they keep their connections."""
_STOP_S = 1
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}


class HttpServer:
    """Listens on ``host`` (empty: all addresses) and ``port`` (0: any free) once it is started.

    ``ready`` says whether RPCs are served: not before the start's end, and not while draining. It
    has nothing to do with the store. One event loop.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int,
        reporter: Reporter,
        metrics: Metrics,
        ready: Callable[[], bool],
    ) -> None:
        self._host = host
        self._port = port
        self._pages = _Pages(reporter, metrics, ready)
        self._server: uvicorn.Server | None = None
        self._socket: socket.socket | None = None

    async def start(self) -> str:
        """Listen on the running loop; return the bound address, ``host:port``.

        Raises OSError if the address cannot be had. The caller's handling of signals is left alone.
        """
        listening = _listen(self._host, self._port)
        config = uvicorn.Config(
            self._pages.app(),
            http="h11",
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="error",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            workers=1,
            limit_concurrency=_CONNECTIONS_MAX,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=_STOP_S,
        )
        config.load()
        server = uvicorn.Server(config)
        # Not serve(): it would take SIGINT and SIGTERM from us, and wake up ten times a second.
        server.lifespan = config.lifespan_class(config)
        await server.startup(sockets=[listening])
        self._server, self._socket = server, listening
        return _address(listening)

    async def stop(self) -> None:
        """Finish the requests in flight, for 1 s at most, and close. Harmless if not started."""
        server, listening = self._server, self._socket
        self._server = self._socket = None
        if server is not None and listening is not None:
            await server.shutdown(sockets=[listening])


class _Pages:
    """What is behind each path."""

    def __init__(self, reporter: Reporter, metrics: Metrics, ready: Callable[[], bool]) -> None:
        self._reporter = reporter
        self._metrics = metrics
        self._ready = ready

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/", _dashboard()),
                Route("/metrics", self._scrape),
                Route("/metrics/cache/statistics", self._statistics),
                Route("/metrics/cache/statistics/{layer}", self._layer),
                Route("/healthz", self._alive),
                Route("/readyz", self._is_ready),
            ]
        )

    async def _scrape(self, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(
            encode(self._metrics.registry),
            headers=_HEADERS | {"Content-Type": content_type, "Vary": "Accept"},
        )

    async def _statistics(self, request: Request) -> Response:
        namespace = request.query_params.get("namespace", "")
        return _json(statistics_json(self._reporter.report(namespace)))

    async def _layer(self, request: Request) -> Response:
        namespace = request.query_params.get("namespace", "")
        layers = {x.cache_layer: x for x in self._reporter.report(namespace).layers}
        wanted = layers.get(request.path_params["layer"])
        if wanted is None:
            error = {"error": "there is no such layer", "layers": list(layers)}
            return _json(error, status_code=404)
        return _json(_layer_json(wanted))

    async def _alive(self, _request: Request) -> Response:
        return PlainTextResponse("ok\n", headers=_HEADERS)

    async def _is_ready(self, _request: Request) -> Response:
        if self._ready():
            return PlainTextResponse("ready\n", headers=_HEADERS)
        return PlainTextResponse("not ready\n", status_code=503, headers=_HEADERS)


def statistics_json(statistics: Statistics) -> dict[str, Any]:
    """Return ``statistics`` as the REST API shows it."""
    l1, store, index = statistics.l1, statistics.store, statistics.rag_index
    return {
        **{f"{layer.cache_layer}_cache": _layer_json(layer) for layer in statistics.layers},
        "combined_hit_rate": statistics.combined_hit_rate,
        "l1": {
            "entries": l1.entries,
            "bytes": l1.size_bytes,
            "max_bytes": l1.max_bytes,
            "evictions": l1.evictions,
        },
        "store": {
            "kind": store.kind,
            "available": store.available,
            "feed_live": store.feed_live,
        },
        "rag_index": {
            "kind": index.kind,
            "partitions": index.partitions,
            "rows": index.rows,
            "bytes": index.size_bytes,
            "max_bytes": index.max_bytes,
            "rows_left_out": index.left_out,
            "reranked_hits": index.reranked_hits,
            "certified_hits": index.certified_hits,
        },
        "batcher": _batcher_json(statistics.batcher),
        "unpriced_models": list(statistics.unpriced_models),
        "uptime_seconds": statistics.uptime_s,
        "version": statistics.version,
    }


def _batcher_json(batcher: BatcherStatistics) -> dict[str, Any]:
    shown = asdict(batcher)
    del shown["outcomes"]  # by two names at once, which JSON has no form for
    return shown


def _layer_json(layer: LayerStatistics) -> dict[str, Any]:
    return {
        "cache_layer": layer.cache_layer,
        "hit_rate": layer.hit_rate,
        "total_hits": layer.total_hits,
        "total_misses": layer.total_misses,
        "total_writes": layer.total_writes,
        "total_invalidations": layer.total_invalidations,
        "total_errors": layer.total_errors,
        "errors_by_operation": dict(layer.errors_by_operation),
        "spent_usd": layer.spent_usd,
        "saved_usd": layer.saved_usd,
        "cost_reduction": layer.cost_reduction,
        "saved_seconds": layer.saved_s,
        "unpriced_writes": layer.unpriced_writes,
        "computed_seconds": layer.computed_s,
    }


def _json(content: object, *, status_code: int = 200) -> Response:
    return JSONResponse(content, status_code=status_code, headers=_HEADERS)


def _dashboard() -> Callable[[Request], Any]:
    html = resources.files("mge_cache_server").joinpath("dashboard.html").read_text("utf-8")
    headers = _HEADERS | {
        # The page's own script and style and its own server: nothing else, from nowhere else.
        "Content-Security-Policy": (
            f"default-src 'none'; script-src {_hash_of('script', html)}; "
            f"style-src {_hash_of('style', html)}; connect-src 'self'; img-src data:; "
            "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        ),
        "Referrer-Policy": "no-referrer",
    }

    async def dashboard(_request: Request) -> Response:
        return HTMLResponse(html, headers=headers)

    return dashboard


def _hash_of(element: str, html: str) -> str:
    """Return the CSP source of the one inline ``element`` of a page."""
    (text,) = re.findall(f"<{element}>(.*?)</{element}>", html, re.DOTALL)
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _listen(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.create_server(
        address[:2],
        family=family,
        backlog=_BACKLOG,
        dualstack_ipv6=family == socket.AF_INET6 and socket.has_dualstack_ipv6(),
    )
    listening.setblocking(False)  # noqa: FBT003 (the standard library's way)
    return listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
