"""What keeps an index fast and small: fitting its basis, moving its blocks to it, compacting them.

Each is a piece of work that any thread may run while the index is used, and that the index's own
thread then settles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mge_cache_server.similarity_basis import SAMPLE_ROWS, Basis, fit
from mge_cache_server.similarity_block import Block, Prefix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PLAIN_ROWS: Final = 1000
"""Up to so many rows the plain product is as fast."""

_PLAIN_ROWS_COMPACT = 256  # float16 rows must be widened before they can be multiplied
_GROWTH = 4
_WELL_FITTED_ROWS = 4 * SAMPLE_ROWS
_SEARCHES_TO_JUDGE = 64
_SURVIVORS_OF_ROWS = 1 / 1000
_SMALL = 64
_COPIED_AT_ONCE = 1024  # a thread that holds Python's lock makes the event loop wait
_SMALL_BLOCKS = 2
_FEW_ROWS = 4  # a quarter of the rows of a large block
_PAGE_BYTES = 4096


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
        _touch(rows)
        block = Block(rows, self._basis)
        if block.prefix is not None:
            _touch_rest(block.prefix)
        self.found = block


class Fit:
    """Fits a basis to a sample of the rows; ``coming`` more are like them."""

    def __init__(self, blocks: Sequence[Block], coming: int) -> None:
        self._blocks = [(block, block.used) for block in blocks]
        self.rows = sum(block.live for block in blocks) + coming
        self.found: Basis | None = None

    def run(self) -> None:
        """Do it. Rows that were removed may be part of the sample: any basis is right."""
        total = sum(used for _, used in self._blocks)
        wanted = min(total, SAMPLE_ROWS)
        random = np.random.default_rng(total)
        samples = []
        for block, used in self._blocks:
            share = max(1, wanted * used // total)
            slots = np.sort(random.choice(used, min(used, share), replace=False))
            samples.append(np.asarray(block.rows.take(slots, axis=0), np.float32))
        self.found = fit(np.concatenate(samples))


class Rebase:
    """Projects a block's rows on a new basis."""

    def __init__(self, block: Block, basis: Basis) -> None:
        self.block = block
        self._basis = basis
        self.found: Prefix | None = None

    def run(self) -> None:
        """Do it."""
        found = self.block.rebased(self._basis)
        _touch_rest(found)
        self.found = found


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


def _touch_rest(prefix: Prefix) -> None:
    for coordinates in prefix.first:
        _touch(coordinates[prefix.filled :])
    _touch(prefix.second[prefix.filled :])


def _touch(memory: NDArray[Any]) -> None:
    """Write into each page; ``memory`` is contiguous."""
    memory.reshape(-1)[:: _PAGE_BYTES // memory.itemsize] = 0


Work = Fit | Rebase | Compaction


class Upkeep:
    """Knows what is due. Belongs to the index's thread; ``searched`` may be called by any."""

    def __init__(self, *, compact: bool) -> None:
        self.basis: Basis | None = None
        self._plain_rows = _PLAIN_ROWS_COMPACT if compact else PLAIN_ROWS
        self._fitted_rows = 0
        self._added = 0
        self._searches = 0
        self._survivors = 0
        self.survivors_mean = 0.0
        self._under_way: Work | None = None

    def added(self, rows: int) -> None:
        """Take note of new rows."""
        self._added += rows

    def removed(self, keys: Sequence[bytes]) -> None:
        """Take note of removals: a compaction that is under way may be copying the rows."""
        if isinstance(self._under_way, Compaction):
            self._under_way.removed += keys

    def searched(self, survivors: int) -> None:
        """Take note of how many rows a search had to compute. A lost update does no harm."""
        self._searches += 1
        self._survivors += survivors
        self.survivors_mean += (survivors - self.survivors_mean) / _SEARCHES_TO_JUDGE

    def due(self, blocks: Sequence[Block], block_rows: int, coming: int) -> Work | None:
        """Return what is to be done next, if nothing is under way."""
        if self._under_way is None:
            self._under_way = (
                self._fit(blocks, coming) or self._rebase(blocks) or _compaction(blocks, block_rows)
            )
            return self._under_way
        return None

    def settle(self, work: Work, blocks: tuple[Block, ...]) -> tuple[Block, ...]:
        """Take over what was found; return the index's blocks from now on."""
        if work is not self._under_way:
            raise ValueError("this work is not under way")
        self._under_way = None
        if isinstance(work, Fit):
            if work.found is not None:
                self.basis, self._fitted_rows, self._added = work.found, work.rows, 0
        elif isinstance(work, Rebase):
            if work.found is not None:
                work.block.adopt(work.found)
        elif work.found is not None:
            return _replaced(blocks, work, work.found)
        return blocks

    def _fit(self, blocks: Sequence[Block], coming: int) -> Fit | None:
        rows = sum(block.live for block in blocks)
        if rows <= self._plain_rows:
            return None
        if rows < SAMPLE_ROWS and coming > rows // _GROWTH:
            return None  # soon there will be a better sample
        grown = self._fitted_rows < _WELL_FITTED_ROWS and rows >= _GROWTH * self._fitted_rows
        if not grown and not self._is_slow(rows):
            return None
        return Fit(blocks, coming)

    def _is_slow(self, rows: int) -> bool:
        """Whether searches left many rows to compute, and new rows may be why."""
        if self._searches < _SEARCHES_TO_JUDGE:
            return False
        survivors = self._survivors / self._searches
        self._searches = self._survivors = 0
        return survivors > rows * _SURVIVORS_OF_ROWS and self._added > rows / _GROWTH

    def _rebase(self, blocks: Sequence[Block]) -> Rebase | None:
        if self.basis is not None:
            for block in blocks:
                if block.prefix is None or block.prefix.basis is not self.basis:
                    return Rebase(block, self.basis)
        return None


def _compaction(blocks: Sequence[Block], block_rows: int) -> Compaction | None:
    """Return a compaction if a quarter of some block is dead; small blocks join in.

    Or if there are several full blocks that are small: each of them costs every search some time.
    """
    wasteful = [block for block in blocks if _is_wasteful(block)]
    small = [each for each in blocks if each.is_full and each.live <= block_rows // _FEW_ROWS]
    if not wasteful and len(small) < _SMALL_BLOCKS:
        return None
    chosen = (wasteful or small)[:1]
    chosen[0].seal()
    live = chosen[0].live
    for block in blocks:
        if (
            block is not chosen[0]
            and block.is_full
            and (block in wasteful or block.live <= block_rows // 2)
            and live + block.live <= block_rows
        ):
            chosen.append(block)
            live += block.live
    return Compaction(chosen)


def _is_wasteful(block: Block) -> bool:
    dead = block.used - block.live
    return (dead >= _SMALL and dead * _GROWTH >= block.used) or (block.is_full and not block.live)


def _replaced(blocks: tuple[Block, ...], work: Compaction, into: Block) -> tuple[Block, ...]:
    for key in work.removed:
        into.remove(key)
    before = [block for block in blocks if block in work.blocks]
    after: list[Block] = []
    for block in blocks:
        if before and block is before[0] and into.live:
            after.append(into)
        if block not in before:
            after.append(block)
    return tuple(after)
