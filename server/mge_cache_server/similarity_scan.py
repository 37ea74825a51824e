"""One pass over all blocks of an index, which rules out nearly all rows by their bounds.

For small numbers of rows the time goes into calls, not into numbers. So blocks of one basis are
scanned in common: a product for each, and everything else once for up to ``SCANNED_AT_ONCE`` rows.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from mge_cache_server.similarity_basis import plain_rounding
from mge_cache_server.similarity_survivors import Survivors

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from mge_cache_server.similarity_basis import Basis, Floats, Look
    from mge_cache_server.similarity_block import Block, Prefix

SCANNED_AT_ONCE: Final = 131_072
"""Their bounds stay in the processor's cache until they are compared."""


class _Part(NamedTuple):
    """Rows of a block that its prefix covers: as many as were there when the search began."""

    block: Block
    prefix: Prefix
    rows: int


class _Found(NamedTuple):
    """What is left of a block's rows, and upper bounds of their cosines."""

    block: Block
    slots: NDArray[np.intp]
    bounds: Floats


class Scan:
    """A search for one unit vector; ``scratch`` has room for ``SCANNED_AT_ONCE`` bounds."""

    def __init__(self, query: Floats, threshold: float, scratch: Floats) -> None:
        self._query = query
        self._threshold = threshold
        self._scratch = scratch
        self._looks: dict[Basis, Look] = {}
        self._found: list[_Found] = []

    def survivors(self, blocks: Iterable[Block]) -> Survivors | None:
        """Return what may reach the threshold."""
        group: list[_Part] = []
        rows = 0
        for block in blocks:
            used = block.used
            prefix = block.prefix  # read later than ``used`` was
            covered = 0 if prefix is None else min(prefix.filled, used)
            if covered < used:
                self._compute(block, covered, used)
            if prefix is None or not covered:
                continue
            other = group and group[0].prefix.basis is not prefix.basis
            if other or rows + covered > SCANNED_AT_ONCE:
                self._bound(group)
                group, rows = [], 0
            group.append(_Part(block, prefix, covered))
            rows += covered
        self._bound(group)
        return _together(self._found)

    def _compute(self, block: Block, start: int, stop: int) -> None:
        slack = np.float32(plain_rounding(block.rows.shape[1]))
        bounds = np.asarray(block.rows[start:stop], np.float32) @ self._query
        slots = (bounds >= self._threshold - slack).nonzero()[0]
        if len(slots):
            self._found.append(_Found(block, slots + start, bounds[slots] + slack))

    def _bound(self, group: Sequence[_Part]) -> None:
        if not group:
            return
        basis = group[0].prefix.basis
        look = self._looks.get(basis)
        if look is None:
            look = self._looks[basis] = basis.look(self._query)
        ends = [0, *accumulate(part.rows for part in group)]
        bounds = self._scratch[: ends[-1]]
        for part, start, end in zip(group, ends, ends[1:], strict=False):
            # Not dot: it copies what is not contiguous, and that takes longer than the product.
            np.matmul(look.first, part.prefix.first[:, : part.rows], out=bounds[start:end])
        slack = np.float32(basis.rounding.bound)
        places = (bounds >= self._threshold - slack).nonzero()[0]
        if not len(places):
            return
        cuts = places.searchsorted(ends).tolist()
        codes = np.empty((len(places), len(look.second)), np.float32)
        for part, start, low, high in zip(group, ends, cuts, cuts[1:], strict=False):
            if low < high:
                codes[low:high] = part.prefix.second.take(places[low:high] - start, axis=0)
        finer = bounds.take(places)
        finer += codes @ look.second
        slack += np.float32(look.slack)
        kept = (finer >= self._threshold - slack).nonzero()[0]
        if not len(kept):
            return
        places, finer = places[kept], finer[kept] + slack
        cuts = places.searchsorted(ends).tolist()
        for part, start, low, high in zip(group, ends, cuts, cuts[1:], strict=False):
            if low < high:
                self._found.append(_Found(part.block, places[low:high] - start, finer[low:high]))


def _together(found: Sequence[_Found]) -> Survivors | None:
    if not found:
        return None
    blocks, slots, bounds = zip(*found, strict=True)
    owners = np.repeat(np.arange(len(blocks)), [len(each) for each in slots])
    return Survivors(blocks, owners, np.concatenate(slots), np.concatenate(bounds))
