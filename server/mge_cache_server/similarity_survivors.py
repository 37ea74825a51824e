"""The rows of an index that no bound has ruled out, and the best of them."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mge_cache_server.similarity_basis import plain_rounding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from mge_cache_server.similarity_basis import Floats
    from mge_cache_server.similarity_block import Block

_VERIFIED_AT_ONCE = (128, 1024)


class Match(NamedTuple):
    """What a search found."""

    key: bytes
    cosine: float


class Survivors(NamedTuple):
    """The rows that no bound has ruled out: some of each block, one block after the other."""

    blocks: Sequence[Block]
    ends: Sequence[int]
    """Where in ``slots`` and ``bounds`` those of each block end."""
    slots: NDArray[np.intp]
    bounds: Floats

    def best(
        self, query: Floats, threshold: float, admits: Callable[[bytes], bool], now_s: float
    ) -> Match | None:
        """Return the most similar that is live and admitted, if it reaches the threshold.

        Computed best bound first, until no bound is above the best cosine found.
        """
        best: Match | None = None
        for part in self._parts():
            if best and self.bounds[part].max() < best.cosine:
                break
            places, cosines = self._reaching(part, query, best.cosine if best else threshold)
            for place in np.argsort(-cosines).tolist():
                cosine = float(cosines[place])
                if best and cosine <= best.cosine:
                    break
                block, slot = self._at(int(places[place]))
                key = block.keys[slot]
                if key is not None and block.expires_s[slot] > now_s and admits(key):
                    best, winner = Match(key, cosine), (block, slot)
                    break
        if best:
            winner[0].hit[winner[1]] = True
        return best

    def _parts(self) -> Iterator[NDArray[np.intp]]:
        """Yield the places of all, some at a time, those with the best bounds first."""
        size = _VERIFIED_AT_ONCE[0]
        count = len(self.slots)
        if count <= size:
            yield np.arange(count)
            return
        order, start = np.argsort(-self.bounds), 0
        while start < count:
            yield np.sort(order[start : start + size])
            start, size = start + size, _VERIFIED_AT_ONCE[1]

    def _reaching(
        self, part: NDArray[np.intp], query: Floats, least: float
    ) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        """Return which of these (in ascending order) reach a cosine, and their cosines.

        Computed in float32 first, which is enough to rule out nearly all, then in float64.
        """
        rows = np.empty((len(part), len(query)), self.blocks[0].rows.dtype)
        slots = self.slots.take(part)
        low = 0
        for block, high in zip(self.blocks, part.searchsorted(self.ends).tolist(), strict=True):
            if low < high:
                # "clip", as the default copies twice.
                block.rows.take(slots[low:high], axis=0, out=rows[low:high], mode="clip")
            low = high
        cosines = np.asarray(rows, np.float32).dot(query)
        near = (cosines >= least - plain_rounding(len(query))).nonzero()[0]
        if not len(near):
            return near, np.empty(0)
        exact = rows[near].astype(np.float64) @ query.astype(np.float64)
        kept = (exact >= least).nonzero()[0]
        return part[near[kept]], exact[kept]

    def _at(self, place: int) -> tuple[Block, int]:
        return self.blocks[bisect_right(self.ends, place)], int(self.slots[place])


def together(found: Sequence[Survivors]) -> Survivors | None:
    """Return the survivors of several scans as those of one; None: there are none."""
    if len(found) <= 1:
        return found[0] if found and len(found[0].slots) else None
    starts = [0, *accumulate(len(each.slots) for each in found)]
    return Survivors(
        [block for each in found for block in each.blocks],
        [start + end for start, each in zip(starts, found, strict=False) for end in each.ends],
        np.concatenate([each.slots for each in found]),
        np.concatenate([each.bounds for each in found]),
    )
