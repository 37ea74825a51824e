"""The only wiring: from settings to a running sidecar."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from mge_cache._version import __version__
from mge_cache_server.app_generate import AroundGenerate, Generate, assemble_generate
from mge_cache_server.app_rag import check_store, make_neighbours, make_rag_cache
from mge_cache_server.config_parse import split_address
from mge_cache_server.counts import Counts
from mge_cache_server.entry_cache import CachePolicy, Parts
from mge_cache_server.epochs import Epochs
from mge_cache_server.feed import Feed
from mge_cache_server.http import HttpServer
from mge_cache_server.l1 import L1Cache
from mge_cache_server.leases import Leases
from mge_cache_server.metrics import Metrics
from mge_cache_server.metrics_files import FilesCollector
from mge_cache_server.model import LLM_LAYER
from mge_cache_server.prices import Prices, read_prices_file
from mge_cache_server.prompt_cache import PromptCache
from mge_cache_server.rag_partitions import Partitions
from mge_cache_server.rpc_server import RpcServer
from mge_cache_server.service import CacheService
from mge_cache_server.statistics import Reporter
from mge_cache_server.stores import open_store, retention_s
from mge_cache_server.watched_files import WatchedFiles, configured_files
from mge_cache_server.wire import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache_server.app_generate import Generate
    from mge_cache_server.config import Settings
    from mge_cache_server.embedded import EmbeddedValkey
    from mge_cache_server.rag_cache import RagCache
    from mge_cache_server.store import Store


@dataclass(frozen=True, slots=True)
class _Parts:
    store: Store
    prompts: PromptCache
    rag: RagCache
    generate: Generate
    prices: Prices
    feed: Feed
    files: WatchedFiles
    rpc: RpcServer
    http: HttpServer | None


class App:
    """A sidecar. ``start`` and ``stop`` are called once each, on the loop that runs it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._embedded: EmbeddedValkey | None = None
        self._parts: _Parts | None = None
        self._ready = False
        self._pricing: asyncio.Future[None] | None = None
        self.targets: tuple[str, ...] = ()
        """Where gRPC listens, as a client writes it; empty before the start."""
        self.http_address = ""
        """Where HTTP listens, ``host:port``; empty before the start, or if it is off."""

    async def start(self) -> None:
        """Start everything; ready when it returns.

        Raises OSError or RuntimeError for an address that cannot be had, and MgeError where the
        embedded server cannot run, or the store lacks what the settings ask of it.
        """
        settings = self._settings
        if not settings.redis_url:
            settings = replace(settings, redis_url=await self._start_embedded())
        parts = self._parts = _assemble(settings, ready=lambda: self._ready)
        await parts.store.start()
        await check_store(settings, parts.store)
        parts.feed.start()
        parts.files.start()
        parts.generate.deferred.start()
        if parts.http is not None:
            self.http_address = await parts.http.start()
        self.targets = await parts.rpc.start()
        self._ready = True
        # After the start, which need not wait for it, and before the first answer, which would.
        self._pricing = asyncio.ensure_future(parts.prices.load())

    def announce_end(self) -> None:
        """Say on ``/readyz`` that the end is near; every call is served as before."""
        self._ready = False

    async def stop(self) -> None:
        """Refuse new calls, let those in flight end within the grace, give leases back, close."""
        self._ready = False
        if self._pricing is not None:
            await asyncio.wait([self._pricing])
        parts = self._parts
        if parts is not None:
            draining = asyncio.ensure_future(parts.rpc.stop(self._settings.drain_s))
            # Streams end with what is under way; callers that wait for others need not wait for
            # the end of the grace.
            parts.generate.conversations.stop()
            parts.generate.batcher.close()
            await parts.generate.batcher.handed_over(self._settings.drain_s)
            await parts.generate.deferred.stop()
            await asyncio.gather(parts.prompts.close(), parts.rag.close())
            await draining
            await parts.generate.batcher.abort()
            await parts.generate.upstream.close()
            await parts.feed.stop()
            await parts.files.stop()
            await parts.store.close()
            if parts.http is not None:
                await parts.http.stop()
        if self._embedded is not None:
            await self._embedded.stop()

    async def _start_embedded(self) -> str:
        from mge_cache_server.embedded import EmbeddedValkey  # noqa: PLC0415 - an extra

        self._embedded = EmbeddedValkey(self._settings.data_dir)
        return await self._embedded.start()


def build(settings: Settings) -> App:
    """Make a sidecar. Does no I/O."""
    return App(settings)


def _assemble(settings: Settings, *, ready: Callable[[], bool]) -> _Parts:
    counts = Counts()
    l1 = L1Cache(settings.l1_max_bytes)

    def observe(operation: str, seconds: float) -> None:
        # Metrics report on the store, and the store is measured by metrics.
        metrics.store_operation(operation, seconds)

    store = open_store(settings, observe=observe)
    epochs = Epochs(
        store,
        retention_s=retention_s(settings),
        timeout_s=settings.feed_timeout_s,
        on_regress=l1.discard_namespace,
    )
    leases = Leases(store, failed=lambda name, what: counts.of(name, LLM_LAYER).error(what))
    parts = Parts(store, l1, epochs, counts, leases)
    neighbours = make_neighbours(settings, parts)
    prompts = PromptCache(parts, policy=_policy(settings))
    rag = make_rag_cache(settings, parts, _policy(settings), neighbours)
    prices = _prices(settings)
    generate = assemble_generate(
        settings, AroundGenerate(store, prompts, prices, counts), limits=_limits(settings)
    )
    reporter = Reporter(
        counts,
        l1=l1,
        store=store,
        epochs=epochs,
        rag=rag,
        batcher=generate.reporter,
        version=__version__,
    )
    metrics = Metrics(reporter, generate.histograms.all)
    files = WatchedFiles(configured_files(settings))
    metrics.registry.register(FilesCollector(files))
    service = CacheService(
        prompts=prompts,
        rag=rag,
        conversations=generate.conversations,
        prices=prices,
        reporter=reporter,
        limits=_limits(settings),
        rag_query_cost_usd=settings.rag_query_cost_usd,
        observe=metrics.rpc,
    )
    feed = Feed(
        store,
        epochs,
        prompts.flights,
        rag.flights,
        rows=neighbours if isinstance(neighbours, Partitions) else None,
        # The feed belongs to no namespace: it appears in the sums only.
        failed=lambda: counts.of("", LLM_LAYER).error("feed"),
    )
    http = None
    if settings.http_listen:
        host, port = split_address(settings.http_listen)
        http = HttpServer(host=host, port=port, reporter=reporter, metrics=metrics, ready=ready)
    rpc = RpcServer(settings, service)
    return _Parts(store, prompts, rag, generate, prices, feed, files, rpc, http)


def _policy(settings: Settings) -> CachePolicy:
    return CachePolicy(
        enabled=settings.llm_cache_enabled,
        ttl_s=settings.ttl_s,
        namespace_ttl_s=dict(settings.namespace_ttl_s),
        ttl_max_s=settings.ttl_max_s,
        ttl_jitter=settings.ttl_jitter,
        namespaces_max=settings.namespaces_max,
    )


def _limits(settings: Settings) -> Limits:
    return Limits(
        answer_max_bytes=settings.answer_max_bytes,
        prompt_max_bytes=settings.prompt_max_bytes,
        tags_max=settings.tags_max,
        ttl_max_s=settings.ttl_max_s,
        wait_max_s=settings.wait_max_s,
        lease_ttl_s=settings.lease_ttl_s,
    )


def _prices(settings: Settings) -> Prices:
    overrides = read_prices_file(Path(settings.prices_file)) if settings.prices_file else None
    return Prices(overrides)
