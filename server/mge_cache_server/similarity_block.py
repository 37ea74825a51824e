"""A block of an index: some rows, and what bounds their cosines cheaply.

A block is appended to by one thread and read by any others at the same time. What makes that safe:
a slot is written before ``used`` grows over it and never again (what is removed stays until the
block is compacted into another), so a reader that takes ``used`` once sees whole rows; a removal
is one store of None into ``keys``, which readers look at last. Python's lock orders the stores.

Rows that are added one by one are projected a few at a time, which is cheaper: a reader computes
the rows from ``Prefix.filled`` to ``used`` in full.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mge_cache_server.similarity_memory import provide, touch
from mge_cache_server.similarity_pivots import Lists, make_lists

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from mge_cache_server.similarity_basis import Basis, Codes, Floats, Rows

BOOKKEEPING_BYTES: Final = 58
"""What a row takes beside its numbers and its key: place in the dict and the list, time, state."""

_NEVER = np.float32(-1e9)  # in place of a residual's length: the bound is far below any threshold
_PARTS = 256
_PENDING = 32
_APPENDED_AT_ONCE = 2048
_LISTED_AT_ONCE = 256


@dataclass(slots=True, eq=False)
class Prefix:
    """The leading coordinates of a block's rows.

    ``first`` holds a coordinate of all rows in each of its rows, for that is what is scanned; with
    pivots a row in each of its rows, as ``second`` does, for that is what is picked from.
    """

    basis: Basis
    first: Floats
    second: Codes
    filled: int = 0
    """How many rows, from the front, it is there for."""
    lists: Lists | None = None
    """The rows around each pivot, for some of the rows."""

    @classmethod
    def empty(cls, basis: Basis, capacity: int) -> Prefix:
        """Return room for ``capacity`` rows."""
        others = basis.directions - basis.first
        shape = (capacity, basis.first + 1)
        return cls(
            basis,
            np.empty(shape if basis.pivots else shape[::-1], np.float32),
            np.empty((capacity, others + 2), np.int8),
        )

    def fill(self, rows: Rows, stop: int) -> None:
        """Project the rows up to this slot that have not been yet."""
        for low in range(self.filled, stop, _APPENDED_AT_ONCE):
            high = min(stop, low + _APPENDED_AT_ONCE)
            part = np.asarray(rows[low:high], np.float32)
            first, self.second[low:high] = self.basis.project(part)
            if self.basis.pivots:
                self.first[low:high] = first
            else:
                self.first[:, low:high] = first.T
            self.filled = high

    def touch(self) -> None:
        """Write into each page in which no row is yet."""
        for memory in self.parts(self.filled, len(self.second)):
            touch(memory)

    def parts(self, start: int, stop: int) -> list[NDArray[Any]]:
        """Return the contiguous pieces of memory for rows from one slot to another."""
        if self.basis.pivots:
            return [self.second[start:stop], self.first[start:stop]]
        return [self.second[start:stop], *self.first[:, start:stop]]

    def bury(self, slots: int | NDArray[np.intp]) -> None:
        """See to it that no scan finds these slots. Needless for correct answers."""
        if self.basis.pivots:
            self.first[slots, -1] = _NEVER
        else:
            self.first[-1, slots] = _NEVER

    def bound(self, start: int, stop: int, look: Floats, out: Floats) -> None:
        """Compute the bounds of the rows from one slot to another, at the first level."""
        if self.basis.pivots:
            np.dot(self.first[start:stop], look, out=out)
        else:
            # Not dot: it copies what is not contiguous, and that takes longer than the product.
            np.matmul(look, self.first[:, start:stop], out=out)


class Block:
    """Room for ``capacity`` rows, filled from the front."""

    __slots__ = (
        "_part",
        "_parts",
        "alive",
        "capacity",
        "earliest_s",
        "expires_s",
        "hit",
        "keys",
        "live",
        "prefix",
        "provided",
        "rows",
        "used",
    )

    def __init__(self, rows: Rows, basis: Basis | None) -> None:
        self.capacity = len(rows)
        self.rows = rows
        self.keys: list[bytes | None] = []
        # In which 256th of the slots a key is: numbers so small take no memory of their own.
        self._parts: dict[bytes, int] = {}
        self._part = -(-self.capacity // _PARTS)
        self.expires_s = np.empty(self.capacity, np.float64)
        self.alive = np.zeros(self.capacity, np.bool_)
        self.hit = np.zeros(self.capacity, np.bool_)
        """Which rows a search has returned; searches write it, and nothing else."""
        self.prefix = Prefix.empty(basis, self.capacity) if basis is not None else None
        self.used = 0
        self.provided = 0
        """For how many rows there is memory, not just addresses, as far as is known."""
        self.live = 0
        self.earliest_s = inf
        """No row of this block expires earlier."""

    def __contains__(self, key: bytes) -> bool:
        return key in self._parts

    @property
    def is_full(self) -> bool:
        """Whether no row can be appended."""
        return bool(self.used == self.capacity)

    @property
    def size_bytes(self) -> int:
        """What the rows take that have been appended, removed ones included, keys not."""
        lists = 0
        width = self.row_bytes + BOOKKEEPING_BYTES
        if self.prefix is not None:
            width += 4 * (self.prefix.basis.first + 1) + self.prefix.second.shape[1]
            lists = self.prefix.lists.size_bytes if self.prefix.lists else 0
        return self.used * width + lists

    @property
    def row_bytes(self) -> int:
        """What the numbers of a row take."""
        taken: int = self.rows.itemsize * self.rows.shape[1]
        return taken

    def provide(self, start: int, stop: int) -> None:
        """Provide memory for rows from one slot to another. Any thread may call it."""
        memory = [self.rows[start:stop]]
        if self.prefix is not None:
            memory += self.prefix.parts(start, stop)
        for part in memory:
            provide(part)

    def append_one(self, key: bytes, row: Floats, expires_s: float) -> None:
        """Add a row whose key is not in this block; there must be room."""
        slot = self.used
        self.rows[slot] = row
        self.expires_s[slot] = expires_s
        self.alive[slot] = True
        self.keys.append(key)
        self._parts[key] = slot // self._part
        self.live += 1
        self.earliest_s = min(self.earliest_s, expires_s)
        self.used = slot + 1
        prefix = self.prefix
        if prefix is not None and (slot + 1 - prefix.filled >= _PENDING or self.is_full):
            self._fill(prefix)

    def append(self, keys: Sequence[bytes], rows: Rows, expires_s: NDArray[np.float64]) -> None:
        """Add several rows as ``append_one`` does."""
        for low in range(0, len(keys), _APPENDED_AT_ONCE):  # no other thread waits for long
            part = slice(low, low + _APPENDED_AT_ONCE)
            start, stop = self.used, self.used + len(keys[part])
            self.rows[start:stop] = rows[part]
            self.expires_s[start:stop] = expires_s[part]
            self.alive[start:stop] = True
            self.keys.extend(keys[part])
            slots = range(start, stop)
            self._parts.update(zip(keys[part], [slot // self._part for slot in slots], strict=True))
            self.live += len(slots)
            self.earliest_s = min(self.earliest_s, float(expires_s[part].min()))
            self.used = stop
            if self.prefix is not None:
                self._fill(self.prefix)

    def remove(self, key: bytes) -> bool:
        """Remove a row; say whether it was there."""
        part = self._parts.get(key)
        if part is None:
            return False
        start = part * self._part
        self.remove_slots(np.array([self.keys.index(key, start, start + self._part)]))
        return True

    def remove_slots(self, slots: NDArray[np.intp]) -> list[bytes]:
        """Remove the rows that are there of some slots, and return their keys."""
        gone = []
        for slot in slots.tolist():
            key = self.keys[slot]
            if key is not None:
                self.keys[slot] = None
                del self._parts[key]
                gone.append(key)
        self.alive[slots] = False
        if self.prefix is not None:
            self.prefix.bury(slots)
        self.live -= len(gone)
        return gone

    def seal(self) -> None:
        """Let nobody append any more."""
        self.capacity = self.used

    def expired(self, now_s: float, limit: int) -> NDArray[np.intp]:
        """Return the slots of up to ``limit`` rows whose time is over."""
        if self.earliest_s > now_s:
            return np.empty(0, np.intp)
        alive = self.alive[: self.used]
        times_s = self.expires_s[: self.used]
        over = np.flatnonzero(alive & (times_s <= now_s))
        if len(over) <= limit:
            self.earliest_s = float(times_s[alive & (times_s > now_s)].min(initial=inf))
        return over[:limit]

    def least_valuable(self, count: int) -> NDArray[np.intp]:
        """Return the slots of ``count`` rows at most, all of them never hit or all of them hit.

        Those that were never hit come first, and among these the ones that end soonest.
        """
        alive = self.alive[: self.used]
        slots = np.flatnonzero(alive & ~self.hit[: self.used])
        if not len(slots):
            slots = np.flatnonzero(alive)
        if len(slots) > count:
            slots = slots[np.argpartition(self.expires_s[slots], count - 1)[:count]]
        return slots

    def rebased(self, basis: Basis) -> Prefix:
        """Return a prefix in another basis, for nearly all rows. Any thread may call it."""
        prefix = Prefix.empty(basis, len(self.rows))
        while prefix.filled + _PENDING <= self.used:  # which may grow meanwhile
            prefix.fill(self.rows, self.used)
        return prefix

    def listed(self, prefix: Prefix) -> Lists | None:
        """Return lists of the rows that a prefix is there for. Any thread may call it."""
        basis, before, stop = prefix.basis, prefix.lists, prefix.filled
        if basis.pivots is None:
            return None
        start = before.rows if before is not None else 0
        parts = (
            self.rows[low : min(stop, low + _LISTED_AT_ONCE)]
            for low in range(start, stop, _LISTED_AT_ONCE)
        )
        return make_lists(basis.pivots, before, (basis.coordinates(part) for part in parts))

    def adopt(self, prefix: Prefix) -> None:
        """Take a prefix that was made for this block."""
        self._fill(prefix)
        prefix.bury(np.flatnonzero(~self.alive[: self.used]))
        self.prefix = prefix

    def _fill(self, prefix: Prefix) -> None:
        start = prefix.filled
        prefix.fill(self.rows, self.used)
        if self.live < self.used:
            prefix.bury(start + np.flatnonzero(~self.alive[start : self.used]))
