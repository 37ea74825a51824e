"""The rows of an index that no bound has ruled out, and the best of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mge_cache_server.similarity_basis import Floats
    from mge_cache_server.similarity_block import Block

_VERIFIED_AT_ONCE = (32, 1024)


class Match(NamedTuple):
    """What a search found."""

    key: bytes
    cosine: float


class Survivors(NamedTuple):
    """The rows that no bound has ruled out."""

    blocks: tuple[Block, ...]
    owners: NDArray[np.intp]
    slots: NDArray[np.intp]
    bounds: Floats

    def best(
        self, query: Floats, threshold: float, admits: Callable[[bytes], bool], now_s: float
    ) -> Match | None:
        """Return the most similar that is live and admitted, if it reaches the threshold.

        Computed best bound first, until no bound is above the best cosine found.
        """
        exact = query.astype(np.float64)
        order = np.argsort(-self.bounds)
        best: Match | None = None
        start, size = 0, _VERIFIED_AT_ONCE[0]
        while start < len(order) and not (best and self.bounds[order[start]] < best.cosine):
            part = order[start : start + size]
            start, size = start + size, min(4 * size, _VERIFIED_AT_ONCE[1])
            cosines = self._cosines(part, exact)
            reaching = (cosines > best.cosine if best else cosines >= threshold).nonzero()[0]
            for place in reaching[np.argsort(-cosines[reaching])].tolist():
                block, slot = self.blocks[self.owners[part[place]]], int(self.slots[part[place]])
                key = block.keys[slot]
                if key is not None and block.expires_s[slot] > now_s and admits(key):
                    best, winner = Match(key, float(cosines[place])), (block, slot)
                    break
        if best:
            winner[0].hit[winner[1]] = True
        return best

    def _cosines(self, part: NDArray[np.intp], query: NDArray[np.float64]) -> NDArray[np.float64]:
        cosines = np.empty(len(part), np.float64)
        owners = self.owners[part]
        for owner in set(owners.tolist()):
            places = (owners == owner).nonzero()[0]
            rows = self.blocks[owner].rows.take(self.slots[part[places]], axis=0)
            cosines[places] = rows.astype(np.float64) @ query
        return cosines
