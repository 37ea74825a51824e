"""The wiring of Generate: from settings to a batcher before Anthropic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mge_cache_server.batch_counts import BatchCounts, BatchReporter
from mge_cache_server.batcher import Batcher
from mge_cache_server.batches import Batches, BatchPolicy
from mge_cache_server.conversation import Conversations
from mge_cache_server.fan_out import FanOut
from mge_cache_server.generation import Strategy
from mge_cache_server.merge_call import Merge
from mge_cache_server.metrics_batcher import BatchHistograms
from mge_cache_server.upstream import Upstream, UpstreamPolicy

if TYPE_CHECKING:
    from mge_cache_server.config import Settings
    from mge_cache_server.prices import Prices
    from mge_cache_server.prompt_cache import PromptCache
    from mge_cache_server.wire import Limits


@dataclass(frozen=True, slots=True)
class Generate:
    """What stands behind ``Generate``."""

    upstream: Upstream
    batcher: Batcher
    conversations: Conversations
    reporter: BatchReporter
    histograms: BatchHistograms


def assemble_generate(
    settings: Settings, prompts: PromptCache, prices: Prices, limits: Limits
) -> Generate:
    """Make it. Does no I/O."""
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
    fan_out = FanOut(upstream, prices)
    batches = Batches(
        {
            Strategy.FAN_OUT: fan_out,
            Strategy.MERGE: Merge(upstream, prices, fan_out, counts),
            Strategy.DEFERRED: fan_out,
        },
        limiter=upstream.limiter,
        policy=_batch_policy(settings),
        counts=counts,
    )
    batcher = Batcher(
        prompts,
        batches,
        counts,
        wait_s=settings.wait_max_s,
        answer_max_bytes=settings.answer_max_bytes,
    )
    conversations = Conversations(batcher, limits, strategy=Strategy(settings.batch_strategy))
    reporter = BatchReporter(counts, batcher, upstream, queue_max=settings.batch_queue_max)
    return Generate(upstream, batcher, conversations, reporter, histograms)


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
