"""A sidecar's prompt cache without the sidecar: on a store in memory, with injected clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mge_cache_server.counts import Counts
from mge_cache_server.entry_cache import CachePolicy, Parts
from mge_cache_server.epochs import Epochs
from mge_cache_server.feed import Feed
from mge_cache_server.l1 import L1Cache
from mge_cache_server.leases import Leases
from mge_cache_server.model import LLM_LAYER, Entry, EntryKey, Hit, Lease, Miss, SetOutcome
from mge_cache_server.prompt_cache import PromptCache
from tests.unit.scene import entry_key, make_answer

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache_server.counts import LayerCounts
    from tests.unit.scene import StageStore

FEED_TIMEOUT_S = 1.0
RETENTION_S = 8 * 86400.0


def make_policy(
    *,
    enabled: bool = True,
    namespace_ttl_s: dict[str, float] | None = None,
    ttl_jitter: float = 0.0,
    namespaces_max: int = 10,
) -> CachePolicy:
    return CachePolicy(
        enabled=enabled,
        ttl_s=100.0,
        namespace_ttl_s=namespace_ttl_s or {},
        ttl_max_s=1000.0,
        ttl_jitter=ttl_jitter,
        namespaces_max=namespaces_max,
    )


class Cache:
    """A prompt cache with all its parts. The test may play the feed: ``connect``, ``tell``."""

    def __init__(
        self,
        store: StageStore,
        clock: Callable[[], float],
        *,
        policy: CachePolicy | None = None,
    ) -> None:
        self.clock = clock
        self.store = store
        self.counts = Counts()
        self.l1 = L1Cache(64 * 1024 * 1024, now=clock)
        self.epochs = Epochs(
            self.store,
            retention_s=RETENTION_S,
            timeout_s=FEED_TIMEOUT_S,
            on_regress=self.l1.discard_namespace,
            now=clock,
        )
        self.parts = Parts(
            store=self.store,
            l1=self.l1,
            epochs=self.epochs,
            counts=self.counts,
            leases=Leases(self.store, failed=self._failed),
            wall_clock=clock,
        )
        self.prompts = PromptCache(self.parts, policy=policy or make_policy())
        self.feed = Feed(self.store, self.epochs, self.prompts.flights, failed=lambda: None)

    async def connect(self) -> None:
        """Let the feed be live from now on."""
        self.epochs.subscribed()
        await self.epochs.resync()

    async def get(
        self,
        key: EntryKey | None = None,
        *,
        wait_s: float = 0.0,
        lease_ttl_s: float = 60.0,
        asks_again: bool = False,
    ) -> Hit[Entry] | Miss:
        return await self.prompts.get(
            key or entry_key(), wait_s=wait_s, lease_ttl_s=lease_ttl_s, asks_again=asks_again
        )

    async def set(
        self,
        key: EntryKey | None = None,
        body: bytes = b"answer",
        *,
        tags: tuple[str, ...] = (),
        ttl_s: float = 0.0,
        lease: Lease | None = None,
        cost_usd: float = 0.5,
        bought: bool = True,
        priced: bool = True,
    ) -> SetOutcome:
        return await self.prompts.set(
            key or entry_key(),
            make_answer(body, cost_usd=cost_usd),
            tags=tags,
            ttl_s=ttl_s,
            lease=lease,
            bought=bought,
            priced=priced,
        )

    def _failed(self, namespace: str, operation: str) -> None:
        self.counts.of(namespace, LLM_LAYER).error(operation)

    def layer(self, namespace: str = "ns") -> LayerCounts:
        return self.counts.total(LLM_LAYER, namespace)


def body_of(outcome: Hit[Entry] | Miss) -> bytes | None:
    """Return the answer of a hit."""
    return outcome.entry.answer.body if isinstance(outcome, Hit) else None


def lease_of(outcome: Hit[Entry] | Miss) -> Lease:
    """Return the lease of a miss that has one."""
    assert isinstance(outcome, Miss), outcome
    assert outcome.lease is not None, outcome
    return outcome.lease
