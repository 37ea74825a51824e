"""What an index has done to it for speed and memory, in any thread, while it is used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from mge_cache_server.similarity_basis import SAMPLE_ROWS, Basis, fit
from mge_cache_server.similarity_block import Block, Prefix
from mge_cache_server.similarity_memory import touch
from mge_cache_server.similarity_pivots import (
    PIVOT_DIRECTIONS,
    PIVOT_SAMPLE_ROWS,
    PIVOTS_ROWS_LEAST,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mge_cache_server.similarity_basis import Floats
    from mge_cache_server.similarity_pivots import Lists

_COPIED_AT_ONCE = 1024  # a thread that holds Python's lock makes the event loop wait


class Room:
    """Makes a block for rows to come, in memory that has been touched.

    The first touch of a page takes the kernel so long (and of a huge page, 500 times as long) that
    the event loop would notice it; here it happens without Python's lock.
    """

    def __init__(
        self, rows: int, dimension: int, dtype: np.dtype[Any], basis: Basis | None
    ) -> None:
        self._shape = (rows, dimension)
        self._dtype = dtype
        self._basis = basis
        self.found: Block | None = None

    def run(self) -> None:
        """Do it: a twentieth of a second for 100 MB, or five times as much."""
        rows = np.empty(self._shape, self._dtype)
        touch(rows)
        block = Block(rows, self._basis)
        block.provided = len(rows)
        if block.prefix is not None:
            block.prefix.touch()
        self.found = block


class Fit:
    """Fits a basis to a sample of the rows; ``coming`` more are like them."""

    def __init__(self, blocks: Sequence[Block], *, compact: bool, coming: int) -> None:
        self._compact = compact
        self._blocks = [(block, block.used) for block in blocks]
        self.rows = sum(block.live for block in blocks) + coming
        self.found: Basis | None = None

    def run(self) -> None:
        """Do it. Rows that were removed may be part of the sample: any basis is right."""
        with_pivots = not self._compact and self.rows >= PIVOTS_ROWS_LEAST
        sample = np.concatenate(list(self._sample(SAMPLE_ROWS)))
        basis = fit(sample, PIVOT_DIRECTIONS if with_pivots else 0)
        if with_pivots:
            parts = [basis.coordinates(part) for part in self._sample(PIVOT_SAMPLE_ROWS)]
            basis = basis.with_pivots(np.concatenate(parts), self.rows)
        self.found = basis

    def _sample(self, wanted: int) -> Iterator[Floats]:
        total = sum(used for _, used in self._blocks)
        random = np.random.default_rng(total)
        for block, used in self._blocks:
            share = max(1, min(total, wanted) * used // total)
            slots = np.sort(random.choice(used, min(used, share), replace=False))
            for low in range(0, len(slots), _COPIED_AT_ONCE):
                chosen = slots[low : low + _COPIED_AT_ONCE]
                yield np.asarray(block.rows.take(chosen, axis=0), np.float32)


class Rebase:
    """Projects a block's rows on a new basis."""

    def __init__(self, block: Block, basis: Basis) -> None:
        self.block = block
        self._basis = basis
        self.found: Prefix | None = None

    def run(self) -> None:
        """Do it."""
        found = self.block.rebased(self._basis)
        found.touch()
        self.found = found


class Listing:
    """Lists a block's rows around the pivots."""

    def __init__(self, block: Block, prefix: Prefix) -> None:
        self._block = block
        self.prefix = prefix
        self.found: Lists | None = None

    def run(self) -> None:
        """Do it."""
        self.found = self._block.listed(self.prefix)


class Provision:
    """Provides memory for the next rows of a block, before they come."""

    def __init__(self, block: Block, stop: int) -> None:
        self.block = block
        self.stop = stop

    def run(self) -> None:
        """Do it: a millisecond for 8 MB, or ten."""
        self.block.provide(max(self.block.provided, self.block.used), self.stop)


class Compaction:
    """Copies the live rows of full blocks into one new block."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        self.blocks = tuple(blocks)
        self.removed: list[bytes] = []
        """What the index removed since this began."""
        self.found: Block | None = None

    def run(self) -> None:
        """Do it."""
        rows = self.blocks[0].rows
        capacity = sum(block.live for block in self.blocks)
        basis = self.blocks[0].prefix.basis if self.blocks[0].prefix is not None else None
        into = Block(np.empty((capacity, rows.shape[1]), rows.dtype), basis)
        for block in self.blocks:
            for start in range(0, block.used, _COPIED_AT_ONCE):
                _copy(block, start, min(block.used, start + _COPIED_AT_ONCE), into)
        into.seal()
        self.found = into


def _copy(block: Block, start: int, stop: int, into: Block) -> None:
    slots = np.flatnonzero(block.alive[start:stop]) + start
    # A row may have been removed since ``alive`` was read.
    found = [(slot, block.keys[slot]) for slot in slots.tolist()]
    live = [(slot, key) for slot, key in found if key is not None]
    if live:
        chosen = np.array([slot for slot, _ in live])
        keys = [key for _, key in live]
        to = into.used
        into.append(keys, block.rows.take(chosen, axis=0), block.expires_s[chosen])
        into.hit[to : into.used] = block.hit[chosen]


Work = Fit | Rebase | Listing | Compaction | Provision
