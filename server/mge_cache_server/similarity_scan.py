"""One pass over an index, which rules out nearly all rows by their bounds.

The time of a search goes into calls as much as into numbers. So what is to be looked at in blocks
of one basis is bounded in common, up to ``SCANNED_AT_ONCE`` rows: the rows that lists name are
copied together first.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from mge_cache_server.similarity_basis import plain_rounding
from mge_cache_server.similarity_survivors import Survivors, together

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from mge_cache_server.similarity_basis import Basis, Floats, Look
    from mge_cache_server.similarity_block import Block, Prefix

SCANNED_AT_ONCE: Final = 131_072
"""Their bounds stay in the processor's cache until they are compared."""

_COMPUTED_NUMBERS: Final = 32_768
"""To compute rows of so many numbers in full takes no longer than to bound them once more."""


_COPIED: Final = 3


class _Part(NamedTuple):
    """Some rows of a block that its prefix covers: those of some slots, or all from a slot on."""

    block: Block
    prefix: Prefix
    slots: NDArray[np.intp] | None
    start: int
    rows: int

    def at(self, places: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the slots at some places of this part."""
        return places + self.start if self.slots is None else self.slots.take(places)


class Scan:
    """A search for one unit vector; ``scratch`` has room for ``SCANNED_AT_ONCE`` bounds."""

    def __init__(self, query: Floats, threshold: float, scratch: Floats) -> None:
        self._query = query
        self._threshold = threshold
        self._scratch = scratch
        self._looks: dict[Basis, Look] = {}
        self._found: list[Survivors] = []

    def survivors(self, blocks: Iterable[Block]) -> Survivors | None:
        """Return what may reach the threshold."""
        group = _Group()
        for block in blocks:
            used = block.used
            prefix = block.prefix  # read later than ``used`` was
            covered = 0 if prefix is None else min(prefix.filled, used)
            if covered < used:
                self._compute(block, covered, used)
            if prefix is None or not covered:
                continue
            if not group.admits(prefix.basis, covered):
                self._bound(group)
                group = _Group()
            group.add(block, prefix, covered, self._look(prefix.basis))
        self._bound(group)
        return together(self._found)

    def _look(self, basis: Basis) -> Look:
        look = self._looks.get(basis)
        if look is None:
            look = self._looks[basis] = basis.look(self._query, self._threshold)
        return look

    def _compute(self, block: Block, start: int, stop: int) -> None:
        slack = np.float32(plain_rounding(block.rows.shape[1]))
        bounds = np.asarray(block.rows[start:stop], np.float32) @ self._query
        slots = (bounds >= self._threshold - slack).nonzero()[0]
        if len(slots):
            found = Survivors([block], [len(slots)], slots + start, bounds[slots] + slack)
            self._found.append(found)

    def _bound(self, group: _Group) -> None:
        if not group.rows:
            return
        look = self._look(group.basis)
        bounds = self._scratch[: group.rows]
        group.bounds(look.first, bounds)
        slack = np.float32(group.basis.rounding.bound)
        places = (bounds >= self._threshold - slack).nonzero()[0]
        if not len(places):
            return
        finer = bounds.take(places)
        ends, slots = group.at(places)
        if len(places) * len(self._query) > _COMPUTED_NUMBERS:
            finer += group.codes(ends, slots, len(look.second)) @ look.second
            slack += np.float32(look.slack)
            kept = (finer >= self._threshold - slack).nonzero()[0]
            ends, slots, finer = kept.searchsorted(ends).tolist(), slots[kept], finer[kept]
        finer += slack
        self._found.append(Survivors(group.blocks, ends, slots, finer))


class _Group:
    """Rows that are bounded together: those that lists name come first."""

    __slots__ = ("_covered", "_linear", "_listed", "_listed_rows", "_parts", "basis", "rows")

    basis: Basis

    def __init__(self) -> None:
        self.rows = 0
        self._covered = 0
        self._listed: list[tuple[_Part, NDArray[np.intp]]] = []
        self._linear: list[_Part] = []
        self._listed_rows = 0
        self._parts: list[_Part] = []

    def admits(self, basis: Basis, covered: int) -> bool:
        """Whether so many more rows of a basis can be added."""
        return not self._covered or (
            self.basis is basis and self._covered + covered <= SCANNED_AT_ONCE
        )

    def add(self, block: Block, prefix: Prefix, covered: int, look: Look) -> None:
        """Add what must be looked at of a block's first ``covered`` rows."""
        self.basis = prefix.basis
        self._covered += covered
        start, lists = 0, prefix.lists
        if lists is not None and look.reach is not None:
            slots = lists.within(look.reach)
            # To copy a row takes as long as to bound three that follow each other.
            if slots is not None and _COPIED * len(slots) < lists.rows:
                start, rows = lists.rows, len(slots)
                self._listed.append((_Part(block, prefix, slots, 0, rows), slots))
                self._listed_rows += rows
                self.rows += rows
        if start < covered:
            self._linear.append(_Part(block, prefix, None, start, covered - start))
            self.rows += covered - start

    def bounds(self, look: Floats, out: Floats) -> None:
        """Compute the bounds of the first level."""
        self._parts = [part for part, _ in self._listed] + self._linear
        end = self._listed_rows
        if end:
            rows = np.empty((end, len(look)), np.float32)
            low = 0
            for part, slots in self._listed:
                high = low + part.rows
                # "clip", as the default copies twice.
                part.prefix.first.take(slots, axis=0, out=rows[low:high], mode="clip")
                low = high
            np.dot(rows, look, out=out[:end])
        for part in self._linear:
            start, end = end, end + part.rows
            part.prefix.bound(part.start, part.start + part.rows, look, out[start:end])

    @property
    def blocks(self) -> list[Block]:
        """Whose the parts are."""
        return [part.block for part in self._parts]

    def at(self, places: NDArray[np.intp]) -> tuple[list[int], NDArray[np.intp]]:
        """Return the slots at some places, and where among these each part ends."""
        ends = places.searchsorted(list(accumulate(part.rows for part in self._parts))).tolist()
        slots = np.empty(len(places), np.intp)
        low = start = 0
        for part, high in zip(self._parts, ends, strict=True):
            if low < high:
                slots[low:high] = part.at(places[low:high] - start)
            low, start = high, start + part.rows
        return ends, slots

    def codes(self, ends: list[int], slots: NDArray[np.intp], width: int) -> Floats:
        """Return what the second level has of what ``at`` found."""
        codes = np.empty((len(slots), width), np.float32)
        low = 0
        for part, high in zip(self._parts, ends, strict=True):
            if low < high:
                codes[low:high] = part.prefix.second.take(slots[low:high], axis=0)
            low = high
        return codes
