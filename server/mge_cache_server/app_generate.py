"""The wiring of what stands behind ``Generate``: a part of ``app``."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mge_cache_server.batch_counts import BatchCounts, BatchReporter
from mge_cache_server.batcher import Batcher
from mge_cache_server.batches import Batches, BatchPolicy
from mge_cache_server.conversation import Conversations
from mge_cache_server.deferred import Deferred
from mge_cache_server.deferred_batches import DeferredBatches
from mge_cache_server.deferred_results import ResultParts, Results
from mge_cache_server.deferred_tickets import Tickets
from mge_cache_server.fan_out import FanOut
from mge_cache_server.generation import Strategy
from mge_cache_server.merge_call import Merge
from mge_cache_server.metrics_batcher import BatchHistograms
from mge_cache_server.model import LLM_LAYER
from mge_cache_server.upstream import Upstream, UpstreamPolicy
from mge_cache_server.upstream_batches import UpstreamBatches

if TYPE_CHECKING:
    from mge_cache_server.config import Settings
    from mge_cache_server.counts import Counts
    from mge_cache_server.prices import Prices
    from mge_cache_server.prompt_cache import PromptCache
    from mge_cache_server.store import Store
    from mge_cache_server.wire import Limits


@dataclass(frozen=True, slots=True)
class AroundGenerate:
    """What it uses of the rest of the sidecar."""

    store: Store
    prompts: PromptCache
    prices: Prices
    counts: Counts


@dataclass(frozen=True, slots=True)
class Generate:
    """What stands behind ``Generate``."""

    upstream: Upstream
    deferred: Deferred
    batcher: Batcher
    conversations: Conversations
    reporter: BatchReporter
    histograms: BatchHistograms


def assemble_generate(
    settings: Settings,
    around: AroundGenerate,
    *,
    limits: Limits,
) -> Generate:
    """Put it together. Does no I/O."""
    histograms = BatchHistograms()
    counts = BatchCounts(histograms)
    upstream = Upstream(
        UpstreamPolicy(
            key_file=settings.anthropic_api_key_file,
            key=settings.anthropic_api_key,
            base_url=settings.anthropic_base_url,
            silence_s=settings.upstream_timeout_s,
            calls_max=settings.upstream_calls_max,
        ),
        counts,
    )
    fan_out = FanOut(upstream, around.prices)
    deferred, deferred_batches, tickets = _deferred(settings, around, upstream, counts)
    batches = Batches(
        {
            Strategy.FAN_OUT: fan_out,
            Strategy.MERGE: Merge(upstream, around.prices, fan_out, counts),
            Strategy.DEFERRED: deferred,
        },
        limiter=upstream.limiter,
        policy=_batch_policy(settings),
        counts=counts,
    )
    batcher = Batcher(
        around.prompts,
        batches,
        counts,
        deferred=tickets.open,
        wait_s=settings.wait_max_s,
        answer_max_bytes=settings.answer_max_bytes,
    )
    conversations = Conversations(
        batcher, tickets, limits, strategy=Strategy(settings.batch_strategy)
    )
    reporter = BatchReporter(
        counts, batcher, upstream, deferred_batches, queue_max=settings.batch_queue_max
    )
    return Generate(upstream, deferred, batcher, conversations, reporter, histograms)


def _deferred(
    settings: Settings, around: AroundGenerate, upstream: Upstream, counts: BatchCounts
) -> tuple[Deferred, DeferredBatches, Tickets]:
    store, poll_s = around.store, settings.deferred_poll_s
    calls = UpstreamBatches(upstream)

    def failed(namespace: str, operation: str) -> None:
        around.counts.of(namespace, LLM_LAYER).error(operation)

    tickets = Tickets(store.deferred, around.prompts, poll_s=poll_s, failed=failed)
    results = Results(
        ResultParts(calls, around.prompts, around.prices, tickets, counts),
        answer_max_bytes=settings.answer_max_bytes,
    )
    batches = DeferredBatches(store, results, poll_s=poll_s, failed=failed, wall_clock=time.time)
    deferred = Deferred(
        calls,
        around.prompts,
        batches,
        tickets,
        store=store.deferred,
        poll_s=poll_s,
        failed=failed,
        wall_clock=time.time,
    )
    return deferred, batches, tickets


def _batch_policy(settings: Settings) -> BatchPolicy:
    return BatchPolicy(
        window_s={
            Strategy.FAN_OUT: settings.batch_window_s,
            Strategy.MERGE: settings.batch_window_s,
            Strategy.DEFERRED: settings.deferred_window_s,
        },
        batch_max={
            Strategy.FAN_OUT: settings.batch_max,
            Strategy.MERGE: settings.batch_max,
            Strategy.DEFERRED: settings.deferred_max,
        },
        eager=settings.batch_eager,
        queue_max=settings.batch_queue_max,
    )
