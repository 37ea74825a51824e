"""A block of an index: some rows, and what bounds their cosines cheaply.

A block is appended to by one thread and read by any others at the same time. What makes that safe:
a slot is written before ``used`` grows over it and never again (what is removed stays until the
block is compacted into another), so a reader that takes ``used`` once sees whole rows; a removal
is one store of None into ``keys``, which readers look at last. Python's lock orders the stores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Final

import numpy as np

from mge_cache_server.similarity_basis import Basis, Floats, Look, Rows, plain_rounding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BOOKKEEPING_BYTES: Final = 90
"""What a row takes beside its numbers and its key: slot, place in the dict, time, state."""

_NEVER = np.float32(-1e9)  # in place of a residual's length: the bound is far below any threshold
_PROJECTED_AT_ONCE = 2048


@dataclass(slots=True, eq=False)
class Query:
    """A unit vector that is looked for, and what each basis makes of it."""

    vector: Floats
    threshold: float
    scratch: Floats
    """Room for a bound of each row of the largest block: a new one each time costs page faults."""

    looks: dict[Basis, Look] = field(default_factory=dict)

    def look(self, basis: Basis) -> Look:
        """Return how a basis sees it."""
        found = self.looks.get(basis)
        if found is None:
            found = self.looks[basis] = basis.look(self.vector)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """The leading coordinates of a block's rows.

    ``first`` holds a coordinate of all rows in each of its rows, for that is what is scanned;
    ``second`` a row in each of its rows, for that is what is picked from.
    """

    basis: Basis
    first: Floats
    second: Floats

    @classmethod
    def empty(cls, basis: Basis, capacity: int) -> Prefix:
        """Return room for ``capacity`` rows."""
        others = basis.directions - basis.first
        return cls(
            basis,
            np.empty((basis.first + 1, capacity), np.float32),
            np.empty((capacity, others + 2), np.float32),
        )

    def fill(self, rows: Rows, start: int, stop: int) -> None:
        """Project the rows of these slots."""
        for low in range(start, stop, _PROJECTED_AT_ONCE):
            high = min(stop, low + _PROJECTED_AT_ONCE)
            part = np.asarray(rows[low:high], np.float32)
            first, self.second[low:high] = self.basis.project(part)
            self.first[:, low:high] = first.T

    def put(self, row: Floats, slot: int) -> None:
        """Project one row."""
        both = self.basis.project_one(row)
        split = len(self.first)
        self.first[:, slot] = both[:split]
        self.second[slot] = both[split:]

    def bury(self, slots: int | NDArray[np.intp]) -> None:
        """See to it that no scan finds these slots."""
        self.first[-1, slots] = _NEVER

    def survivors(self, query: Query, used: int) -> tuple[Floats, NDArray[np.intp]]:
        """Return the slots that may reach the threshold, and upper bounds of their cosines."""
        look = query.look(self.basis)
        slack = np.float32(self.basis.rounding.bound)
        cut = query.threshold - slack
        bounds = np.dot(look.first, self.first[:, :used], out=query.scratch[:used])
        slots = (bounds >= cut).nonzero()[0]
        finer = bounds[slots]
        if len(slots):
            finer += self.second.take(slots, axis=0) @ look.second
            kept = (finer >= cut).nonzero()[0]
            finer, slots = finer[kept] + slack, slots[kept]
        return finer, slots


class Block:
    """Room for ``capacity`` rows, filled from the front."""

    __slots__ = (
        "alive",
        "capacity",
        "earliest_s",
        "expires_s",
        "hit",
        "keys",
        "live",
        "prefix",
        "rows",
        "slots",
        "used",
    )

    def __init__(self, rows: Rows, basis: Basis | None) -> None:
        self.capacity = len(rows)
        self.rows = rows
        self.keys: list[bytes | None] = []
        self.slots: dict[bytes, int] = {}
        self.expires_s = np.empty(self.capacity, np.float64)
        self.alive = np.zeros(self.capacity, np.bool_)
        self.hit = np.zeros(self.capacity, np.bool_)
        """Which rows a search has returned; searches write it, and nothing else."""
        self.prefix = Prefix.empty(basis, self.capacity) if basis is not None else None
        self.used = 0
        self.live = 0
        self.earliest_s = inf
        """No row of this block expires earlier."""

    @property
    def is_full(self) -> bool:
        """Whether no row can be appended."""
        return bool(self.used == self.capacity)

    @property
    def size_bytes(self) -> int:
        """What the rows take that have been appended, removed ones included, keys not."""
        width: int = self.rows.itemsize * self.rows.shape[1] + BOOKKEEPING_BYTES
        if self.prefix is not None:
            width += 4 * (len(self.prefix.first) + self.prefix.second.shape[1])
        return self.used * width

    def append_one(self, key: bytes, row: Floats, expires_s: float) -> None:
        """Add a row whose key is not in this block; there must be room."""
        slot = self.used
        self.rows[slot] = row
        if self.prefix is not None:
            # Of the row as it is kept, which float16 has rounded.
            self.prefix.put(np.asarray(self.rows[slot], np.float32), slot)
        self.expires_s[slot] = expires_s
        self.alive[slot] = True
        self.keys.append(key)
        self.slots[key] = slot
        self.live += 1
        self.earliest_s = min(self.earliest_s, expires_s)
        self.used = slot + 1

    def append(self, keys: Sequence[bytes], rows: Floats, expires_s: NDArray[np.float64]) -> None:
        """Add several rows as ``append_one`` does."""
        start, stop = self.used, self.used + len(keys)
        self.rows[start:stop] = rows
        if self.prefix is not None:
            self.prefix.fill(self.rows, start, stop)
        self.expires_s[start:stop] = expires_s
        self.alive[start:stop] = True
        self.keys.extend(keys)
        self.slots.update(zip(keys, range(start, stop), strict=True))
        self.live += len(keys)
        self.earliest_s = min(self.earliest_s, float(expires_s.min()))
        self.used = stop

    def remove(self, key: bytes) -> bool:
        """Remove a row; say whether it was there."""
        slot = self.slots.pop(key, None)
        if slot is None:
            return False
        self.keys[slot] = None
        self.alive[slot] = False
        if self.prefix is not None:
            self.prefix.bury(slot)
        self.live -= 1
        return True

    def seal(self) -> None:
        """Let nobody append any more."""
        self.capacity = self.used

    def expired(self, now_s: float, limit: int) -> list[bytes]:
        """Return the keys of up to ``limit`` rows whose time is over."""
        if self.earliest_s > now_s:
            return []
        alive = self.alive[: self.used]
        times_s = self.expires_s[: self.used]
        over = np.flatnonzero(alive & (times_s <= now_s))
        if len(over) <= limit:
            self.earliest_s = float(times_s[alive & (times_s > now_s)].min(initial=inf))
        return self._keys_of(over[:limit])

    def least_valuable(self, count: int) -> list[bytes]:
        """Return the keys of ``count`` rows at most, all of them never hit or all of them hit.

        Those that were never hit come first, and among these the ones that end soonest.
        """
        alive = self.alive[: self.used]
        slots = np.flatnonzero(alive & ~self.hit[: self.used])
        if not len(slots):
            slots = np.flatnonzero(alive)
        if len(slots) > count:
            slots = slots[np.argpartition(self.expires_s[slots], count - 1)[:count]]
        return self._keys_of(slots)

    def survivors(self, query: Query, used: int) -> tuple[Floats, NDArray[np.intp]]:
        """Return what may reach the threshold of the first ``used`` slots, and upper bounds."""
        prefix = self.prefix  # read later than ``used`` was, so that it covers as many rows
        if prefix is not None:
            return prefix.survivors(query, used)
        slack = np.float32(plain_rounding(self.rows.shape[1]))
        bounds = np.asarray(self.rows[:used], np.float32) @ query.vector
        slots = np.flatnonzero(bounds >= query.threshold - slack)
        return bounds[slots] + slack, slots

    def rebased(self, basis: Basis, used: int) -> Prefix:
        """Return a prefix for the first ``used`` rows in another basis. Any thread may call it."""
        prefix = Prefix.empty(basis, self.capacity)
        prefix.fill(self.rows, 0, used)
        return prefix

    def adopt(self, prefix: Prefix, used: int) -> None:
        """Take a prefix that was made for the first ``used`` rows."""
        prefix.fill(self.rows, used, self.used)
        prefix.bury(np.flatnonzero(~self.alive[: self.used]))
        self.prefix = prefix

    def _keys_of(self, slots: NDArray[np.intp]) -> list[bytes]:
        found = (self.keys[slot] for slot in slots.tolist())
        return [key for key in found if key is not None]
