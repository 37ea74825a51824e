"""What keeps an index fast and small: knows when which work is due, and takes over what it found.

Each is a piece of work (``similarity_work``) that any thread may run while the index is used, and
that the index's own thread then settles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from mge_cache_server.similarity_basis import SAMPLE_ROWS
from mge_cache_server.similarity_pivots import PIVOT_SAMPLE_ROWS
from mge_cache_server.similarity_work import Compaction, Fit, Listing, Provision, Rebase

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mge_cache_server.similarity_basis import Basis
    from mge_cache_server.similarity_block import Block
    from mge_cache_server.similarity_work import Work

PLAIN_ROWS: Final = 1000
"""Up to so many rows the plain product is as fast."""

_PLAIN_ROWS_COMPACT = 256  # float16 rows must be widened before they can be multiplied
_GROWTH = 4
_WELL_FITTED_ROWS = 4 * SAMPLE_ROWS
_SEARCHES_TO_JUDGE = 64
_SURVIVORS_OF_ROWS = 1 / 1000
_SMALL = 64
_LISTED_AT_ONCE = 1024
_LISTED_LEAST = 8192
_LISTED_GROWTH = 32
_PROVIDED_BYTES = (1 << 20, 8 << 20)
_SMALL_BLOCKS = 2
_FEW_ROWS = 4  # a quarter of the rows of a large block


class Upkeep:
    """Knows what is due. Belongs to the index's thread; ``searched`` may be called by any."""

    def __init__(self, *, compact: bool) -> None:
        self.basis: Basis | None = None
        self._compact = compact
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
                self._fit(blocks, coming)
                or self._rebase(blocks)
                or _compaction(blocks, block_rows)
                or _listing(blocks)
                or _provision(blocks)
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
        elif isinstance(work, Listing):
            work.prefix.lists = work.found
        elif isinstance(work, Provision):
            work.block.provided = work.stop
        elif work.found is not None:
            return _replaced(blocks, work, work.found)
        return blocks

    def _fit(self, blocks: Sequence[Block], coming: int) -> Fit | None:
        rows = sum(block.live for block in blocks)
        if rows <= self._plain_rows:
            return None
        if rows < PIVOT_SAMPLE_ROWS and coming > rows // _GROWTH:
            return None  # soon there will be a better sample
        grown = self._fitted_rows < _WELL_FITTED_ROWS and rows >= _GROWTH * self._fitted_rows
        if not grown and not self._is_slow(rows):
            return None
        return Fit(blocks, compact=self._compact, coming=coming)

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


def _listing(blocks: Sequence[Block]) -> Listing | None:
    """Return what makes lists for a block with many rows in none."""
    for block in blocks:
        prefix = block.prefix
        if prefix is not None and prefix.basis.pivots is not None and block.used >= _LISTED_LEAST:
            listed = prefix.lists.rows if prefix.lists is not None else 0
            more = prefix.filled - listed
            if more > max(_LISTED_AT_ONCE, listed // _LISTED_GROWTH) or (more and block.is_full):
                return Listing(block, prefix)
    return None


def _provision(blocks: Sequence[Block]) -> Provision | None:
    """Return what provides memory for as many rows as there are, some megabytes at most."""
    block = blocks[-1] if blocks else None
    if block is None or block.is_full or block.used * block.row_bytes < _PROVIDED_BYTES[0]:
        return None
    ahead = min(block.used, _PROVIDED_BYTES[1] // block.row_bytes)
    if block.provided - block.used >= ahead // 2 or block.provided >= block.capacity:
        return None
    return Provision(block, min(block.capacity, block.used + ahead))


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
