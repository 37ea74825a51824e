"""The sidecar's own memory: the entries used last, bounded in bytes.

An entry leaves when it expires (never later than in the store), when it is found to be invalid, or
when it is the one that was not used for longest and the bound is reached. Belongs to the event
loop's thread.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from mge_cache_server.model import AnyEntry, EntryKey

OVERHEAD_BYTES = 1000
"""What an entry takes beside its texts and its answer, measured with 100,000 of them."""


@dataclass(slots=True)
class Resident:
    """An entry in memory. ``clock`` is the namespace's clock at which it was last found valid."""

    entry: AnyEntry
    expires_s: float
    size_bytes: int
    clock: int


class L1Cache:
    """A least-recently-used cache of entries. ``now`` is a monotonic clock in seconds."""

    def __init__(self, max_bytes: int, *, now: Callable[[], float] = time.monotonic) -> None:
        self.max_bytes = max_bytes
        self.size_bytes = 0
        self.evictions = 0
        self.now = now
        self._residents: OrderedDict[EntryKey, Resident] = OrderedDict()

    @property
    def entries(self) -> int:
        """How many entries there are, expired ones that nobody has asked for included."""
        return len(self._residents)

    def get(self, key: EntryKey) -> Resident | None:
        """Return what is there and has not expired."""
        resident = self._residents.get(key)
        if resident is None:
            return None
        if resident.expires_s <= self.now():
            self.discard(key)
            return None
        self._residents.move_to_end(key)
        return resident

    def remaining_s(self, resident: Resident) -> float:
        """Return the time left to a resident."""
        return resident.expires_s - self.now()

    def put(self, key: EntryKey, entry: AnyEntry, expires_s: float, clock: int) -> None:
        """Keep an entry until ``expires_s`` of ``now``; not one that is larger than the bound."""
        self.discard(key)
        size = _size_bytes(entry)
        if size > self.max_bytes or expires_s <= self.now():
            return
        self._residents[key] = Resident(entry, expires_s, size, clock)
        self.size_bytes += size
        while self.size_bytes > self.max_bytes:
            _, oldest = self._residents.popitem(last=False)
            self.size_bytes -= oldest.size_bytes
            self.evictions += 1

    def discard(self, key: EntryKey) -> None:
        """Forget an entry, if it is there."""
        resident = self._residents.pop(key, None)
        if resident is not None:
            self.size_bytes -= resident.size_bytes

    def discard_namespace(self, namespace: str) -> None:
        """Forget all entries of a namespace. Takes time in proportion to all entries."""
        for key in [key for key in self._residents if key.namespace == namespace]:
            self.discard(key)


def _size_bytes(entry: AnyEntry) -> int:
    texts = sum(len(tag) for tag in entry.tags)
    return OVERHEAD_BYTES + entry.answer.size_bytes + texts
