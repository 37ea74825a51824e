"""The invalidation clock of each namespace, as this sidecar knows it.

An entry carries the tick at which its computation began. An invalidation moves the clock, and the
new tick becomes the epoch of what it invalidates (a masterplan, a tag, ...). An entry is valid
while no epoch of its tags is later than its tick. So an invalidation is one write, and a
computation that it overtook is invalid when it ends.

The feed brings other sidecars' invalidations. While it is live and complete, memory is enough. If
it is not, ``refresh`` asks the store for what happened since the last known tick. Belongs to the
event loop's thread.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from mge_cache_server.store import EVERYTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mge_cache_server.model import EntryKey
    from mge_cache_server.store import EpochTable, Invalidated, LeaseOffer, Lookup, Store

_log = logging.getLogger(__name__)

UNKNOWN = -1
"""The clock of a namespace that has not been read; earlier than every tick."""
_PRUNE_ABOVE = 1024


class NamespaceEpochs:
    """A namespace's clock (a tick, see ``Store``; -1: not read yet) and its epochs.

    ``announced`` is the latest tick that the feed told of; ``generation`` is the connection of the
    feed under which the table was read.
    """

    __slots__ = ("_prune_at", "announced", "clock", "epochs", "generation")

    def __init__(self) -> None:
        self.clock = UNKNOWN
        self.announced = UNKNOWN
        self.generation = 0
        self.epochs: dict[str, int] = {}
        self._prune_at = _PRUNE_ABOVE

    def admits(self, tick: int, tags: Iterable[str]) -> bool:
        """Whether an entry that was begun at ``tick`` is still valid."""
        epochs = self.epochs
        if epochs.get(EVERYTHING, UNKNOWN) > tick:
            return False
        return all(epochs.get(tag, UNKNOWN) <= tick for tag in tags)

    def floor(self, tags: Iterable[str]) -> int:
        """Return the tick below which nothing that has all these tags is valid."""
        return max(self.epochs.get(tag, UNKNOWN) for tag in (EVERYTHING, *tags))

    def merge(self, epochs: Iterable[tuple[str, int]], retention_us: int) -> None:
        """Add epochs; never takes back a later one."""
        for tag, tick in epochs:
            if tick > self.epochs.get(tag, UNKNOWN):
                self.epochs[tag] = tick
        if len(self.epochs) > self._prune_at:
            oldest = self.clock - retention_us
            self.epochs = {tag: tick for tag, tick in self.epochs.items() if tick >= oldest}
            self._prune_at = max(_PRUNE_ABOVE, 2 * len(self.epochs))


class Epochs:
    """All namespaces' epochs, and whether the feed keeps them current.

    ``retention_s`` is longer than any entry lives; ``timeout_s`` is the silence after which the
    feed does not count as live; ``on_regress(namespace)`` is called when the store turns out to
    have lost invalidations (a failover to a replica that was behind).
    """

    def __init__(
        self,
        store: Store,
        *,
        retention_s: float,
        timeout_s: float,
        on_regress: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._retention_us = round(retention_s * 1e6)
        self._timeout_s = timeout_s
        self._on_regress = on_regress
        self._now = now
        self._heard_s = float("-inf")
        self._subscribed = False
        self._generation = 1
        self._namespaces: dict[str, NamespaceEpochs] = {}

    @property
    def live(self) -> bool:
        """Whether the feed is connected and has been heard of lately."""
        return self._subscribed and self._now() - self._heard_s < self._timeout_s

    def __len__(self) -> int:
        """Return the number of known namespaces."""
        return len(self._namespaces)

    def __contains__(self, namespace: str) -> bool:
        """Whether the namespace is known."""
        return namespace in self._namespaces

    def of(self, namespace: str) -> NamespaceEpochs:
        """Return what is known of a namespace, maybe nothing."""
        known = self._namespaces.get(namespace)
        if known is None:
            known = self._namespaces[namespace] = NamespaceEpochs()
        return known

    def is_current(self, known: NamespaceEpochs) -> bool:
        """Whether memory alone can decide about a namespace's entries."""
        return known.generation == self._generation and known.clock >= known.announced and self.live

    async def refresh(self, namespace: str) -> NamespaceEpochs:
        """Read what happened since the last known tick; raises StoreError."""
        generation, after = self._position(namespace)
        table = await self._store.read_epochs(namespace, after)
        return await self._take(namespace, table, generation, after)

    async def look_up(
        self, key: EntryKey, offer: LeaseOffer | None, reject: bytes
    ) -> tuple[Lookup, NamespaceEpochs]:
        """Look a key up (``Store.lookup``) and refresh, side by side; raises StoreError."""
        generation, after = self._position(key.namespace)
        lookup, table = await self._store.lookup_dated(key, offer, reject, after=after)
        return lookup, await self._take(key.namespace, table, generation, after)

    def _position(self, namespace: str) -> tuple[int, int]:
        """Return the feed's generation (0: it is not connected), and the last known tick."""
        return self._generation if self._subscribed else 0, self.of(namespace).clock

    async def _take(
        self, namespace: str, table: EpochTable, generation: int, after: int
    ) -> NamespaceEpochs:
        """Take over what the store said, when the feed's ``generation`` was that one."""
        known = self.of(namespace)
        if table.clock < after:
            await self._regressed(namespace, known)
            return known
        known.merge(table.epochs.items(), self._retention_us)
        known.clock = max(known.clock, table.clock)
        if generation == self._generation:
            # The feed was connected before we asked and still is: it tells whatever came since.
            known.generation = generation
        return known

    async def advance(self, namespace: str, tag: str) -> int:
        """Invalidate what has ``tag``; returns the tick. Raises StoreError if nothing was done."""
        event = await self._store.advance(namespace, (tag,))
        self.of(namespace)
        self.apply(event)
        return event.tick

    def apply(self, event: Invalidated) -> None:
        """Take over an invalidation of another sidecar, or of this one."""
        known = self._namespaces.get(event.namespace)
        if known is None or event.tick <= known.clock:
            return
        tags = event.tags if event.previous else (*event.tags, EVERYTHING)
        known.merge([(tag, event.tick) for tag in tags], self._retention_us)
        known.announced = max(known.announced, event.tick)
        if event.previous <= known.clock or not event.previous:
            known.clock = event.tick  # a new table (previous 0) has nothing that we do not know
        # Else something happened in between that the feed has not told yet: the clock stays, so
        # that either the feed closes the gap or the next refresh reads it.

    def subscribed(self) -> None:
        """Take note that the feed is connected: it reports whatever happens from now on."""
        self._subscribed = True
        self._generation += 1
        self.heard()

    def heard(self) -> None:
        """Take note of a sign of life from the feed."""
        self._heard_s = self._now()

    def lost(self) -> None:
        """Take note that the feed is gone: nothing is known to be current any more."""
        self._subscribed = False
        self._generation += 1

    async def resync(self) -> None:
        """Catch up in all namespaces after the feed was (re)connected; raises StoreError."""
        for namespace in list(self._namespaces):
            await self.refresh(namespace)

    async def _regressed(self, namespace: str, known: NamespaceEpochs) -> None:
        # The store has forgotten invalidations that we know of. Which others it forgot, nobody
        # knows: everything in the namespace ends here, in the store and in every sidecar.
        _log.warning("store lost invalidations; namespace invalidated")
        self._on_regress(namespace)
        event = await self._store.advance(namespace, (EVERYTHING,), after=known.clock)
        known.epochs = {EVERYTHING: event.tick}
        known.clock = known.announced = event.tick
        known.generation = 0
