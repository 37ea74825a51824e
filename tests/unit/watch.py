"""One sidecar's epochs, and another sidecar that invalidates."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mge_cache_server.epochs import Epochs, NamespaceEpochs
from mge_cache_server.memory_store import MemoryStore
from tests.unit.scene import Clock, StageStore

if TYPE_CHECKING:
    from mge_cache_server.store import Invalidated

TIMEOUT_S = 1.0
RETENTION_S = 100.0


class Watch:
    """One sidecar's epochs, and another sidecar that invalidates."""

    def __init__(self) -> None:
        self.clock = Clock()
        data = MemoryStore(now=self.clock, retention_s=RETENTION_S)
        self.store = StageStore(data)
        self.other = data.sibling()
        self.regressed: list[str] = []
        self.epochs = Epochs(
            self.store,
            retention_s=RETENTION_S,
            timeout_s=TIMEOUT_S,
            on_regress=self.regressed.append,
            now=self.clock,
        )

    async def connect(self) -> NamespaceEpochs:
        """Connect the feed and read the namespace."""
        self.epochs.subscribed()
        return await self.epochs.refresh("ns")

    async def invalidate(self, tag: str, namespace: str = "ns") -> Invalidated:
        """Let the other sidecar invalidate; the feed has not told yet."""
        self.clock.advance(0.001)
        return await self.other.advance(namespace, (tag,))

    def reads(self) -> int:
        return self.store.calls.count("read_epochs")
