"""The most similar stored vector, if it is similar enough: exact, at a fraction of a full product.

An index holds the unit vectors of one partition in blocks. A search among many rows looks only at
those that lists name around the pivot nearest to the query, if lists reach so far
(``similarity_pivots`` has the proof), and else at all. It bounds their cosines by their coordinates
in a few leading directions (``similarity_basis`` has the proof), where many are left by some more
in bytes, and computes the few that may still win, best bound first, in float64 in the end: it
returns the most similar live row that the caller admits if and only if its cosine is not below the
threshold. "Cosine" is the product of the vectors as they are kept: unit vectors in float32 (10⁻⁷
from the caller's), or, in compact mode, these rounded to float16, which moves a cosine by 5·10⁻⁴ at
most and by some 10⁻⁵ as a rule.

Threads: one thread (the event loop's) owns the index and calls everything. ``search``, and
``run`` of what ``due`` or ``room`` returned, may be called by any other threads at the same time,
and never wait. A search sees every row that was added before it began and is not removed before it
ends; it may or may not see what is added or removed meanwhile.

Only this module and its neighbours ``similarity_*`` import numpy, which takes 20 MB: import them
at first use, with OPENBLAS_NUM_THREADS=1 set before (a product is too small to share).
"""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Final

import numpy as np

from mge_cache_server.similarity_basis import LENGTH_TOLERANCE, Floats, prefix_bytes
from mge_cache_server.similarity_block import BOOKKEEPING_BYTES, Block
from mge_cache_server.similarity_scan import SCANNED_AT_ONCE, Scan
from mge_cache_server.similarity_survivors import Match
from mge_cache_server.similarity_upkeep import Upkeep
from mge_cache_server.similarity_work import Room, Work

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Match", "SimilarityIndex", "Work", "are_unit_vectors", "normalise"]

DIMENSIONS_MAX: Final = 16_384

_BLOCK_BYTES = 96 << 20
_BLOCK_ROWS = (256, 65_536)
_ROOM_AHEAD = 2048
_SHED_AT_ONCE = 256
_NOT_UNIT = "a vector of {} numbers and unit length is needed"


def normalise(vector: ArrayLike, dimension: int | None = None) -> Floats:
    """Return a vector at unit length in float32.

    ValueError: it is not a vector of ``dimension`` numbers (1 to 16,384 of them, if None), one of
    them is not finite, or all are zero.
    """
    given = np.asarray(vector, dtype=np.float64)
    if given.ndim != 1 or not 0 < given.size <= DIMENSIONS_MAX:
        raise ValueError(f"an embedding has 1 to {DIMENSIONS_MAX} numbers")
    if dimension is not None and given.size != dimension:
        raise ValueError(f"the embedding has {given.size} numbers, not {dimension}")
    largest = float(np.abs(given).max())
    if not largest < inf:
        raise ValueError("the embedding has a number that is not finite")
    if largest == 0:
        raise ValueError("the embedding is zero")
    scaled = given / largest
    return (scaled / np.sqrt(scaled @ scaled)).astype(np.float32)


def are_unit_vectors(rows: Floats) -> NDArray[np.bool_]:
    """Say of each row whether it is finite and of unit length, as the index wants it."""
    with np.errstate(over="ignore"):
        lengths = np.einsum("ij,ij->i", rows, rows)
    unit: NDArray[np.bool_] = np.abs(lengths - 1) <= LENGTH_TOLERANCE
    return unit


class SimilarityIndex:
    """The vectors of one partition, each with a key and the time at which it ends.

    ``rows_max`` and ``bytes_max`` bound the live rows; rows that were removed and wait for
    compaction come on top, a third at most once ``due`` returns None. When the index is full, the
    least valuable rows leave: from the block that ends soonest those that were never hit, soonest
    to end first. As hits do not extend a row's time, the rows that end soon have the fewest hits
    left to give; and the order costs no bookkeeping at a hit but a flag.
    """

    def __init__(
        self,
        dimension: int,
        *,
        rows_max: int = 1_000_000,
        bytes_max: int = 1 << 40,
        compact: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 < dimension <= DIMENSIONS_MAX:
            raise ValueError(f"an embedding has 1 to {DIMENSIONS_MAX} numbers")
        self.dimension = dimension
        self.rows = 0
        """How many rows there are, expired ones included that ``expire`` has not removed."""
        self.left_out = 0
        """How many rows had to leave for others, or were not let in, since the start."""
        self._dtype = np.dtype(np.float16 if compact else np.float32)
        row_bytes = dimension * self._dtype.itemsize
        beside = prefix_bytes(dimension, compact=compact) + BOOKKEEPING_BYTES
        self.rows_max = min(rows_max, bytes_max // (row_bytes + beside))
        """How many live rows there may be: what both bounds allow."""
        self._block_rows = max(_BLOCK_ROWS[0], min(_BLOCK_ROWS[1], _BLOCK_BYTES // row_bytes))
        self._now = now
        self._blocks: tuple[Block, ...] = ()
        self._reserved: Block | None = None
        self._upkeep = Upkeep(compact=compact)
        # Room for bounds, one for each search under way: a new one each time costs page faults.
        self._scratches: list[Floats] = []

    @property
    def size_bytes(self) -> int:
        """What the rows take, the keys' own bytes excepted."""
        scratches = sum(scratch.nbytes for scratch in self._scratches)
        return sum(block.size_bytes for block in self._blocks) + scratches

    @property
    def survivors_mean(self) -> float:
        """How many rows a search had to compute in full, on average over the last hundred or so."""
        return self._upkeep.survivors_mean

    def __contains__(self, key: bytes) -> bool:
        return any(key in block for block in self._blocks)

    def add(self, key: bytes, vector: Floats, *, expires_s: float) -> list[bytes]:
        """Add a row, or replace that of the same key; return the keys that had to leave for it.

        ``vector`` is what ``normalise`` returned; ``expires_s`` is a time of the index's clock.
        ValueError: the vector is not of unit length or of another dimension.
        """
        if (
            vector.shape != (self.dimension,)
            or abs(float(vector.dot(vector)) - 1) > LENGTH_TOLERANCE
        ):
            raise ValueError(_NOT_UNIT.format(self.dimension))
        self.remove(key)
        gone = self._make_room(1)
        if self.rows == self.rows_max:
            return [*gone, key]
        self._open_block().append_one(key, vector, expires_s)
        self.rows += 1
        self._upkeep.added(1)
        return gone

    def extend(
        self, keys: Sequence[bytes], vectors: Floats, expires_s: Sequence[float]
    ) -> list[bytes]:
        """Add many rows, each as ``add`` does; their keys must differ from each other.

        Some 2 µs a row at 384 dimensions; ``add`` takes three to five times as long.
        """
        if vectors.shape != (len(keys), self.dimension) or len(expires_s) != len(keys):
            raise ValueError(f"each row needs a key, {self.dimension} numbers and a time")
        if not are_unit_vectors(vectors).all():
            raise ValueError(_NOT_UNIT.format(self.dimension))
        times_s = np.asarray(expires_s, np.float64)
        for key in keys:
            self.remove(key)
        gone = self._make_room(len(keys))
        start, stop = 0, min(len(keys), self.rows_max - self.rows)
        while start < stop:
            block = self._open_block()
            end = min(stop, start + block.capacity - block.used)
            block.append(keys[start:end], vectors[start:end], times_s[start:end])
            self.rows += end - start
            start = end
        self._upkeep.added(stop)
        return [*gone, *keys[stop:]]

    def remove(self, key: bytes) -> bool:
        """Remove a row; say whether it was there. No search that begins later returns it."""
        for block in self._blocks:
            if block.remove(key):
                self._removed(block, [key])
                return True
        return False

    def expire(self, limit: int = 200) -> list[bytes]:
        """Remove up to ``limit`` rows whose time is over, and return their keys.

        Searches do not return such rows anyway; this makes room. Takes 2 µs a row.
        """
        now_s = self._now()
        gone: list[bytes] = []
        for block in self._blocks:
            slots = block.expired(now_s, limit - len(gone))
            if len(slots):
                gone += self._removed(block, block.remove_slots(slots))
        return gone

    def shed(self, rows: int) -> list[bytes]:
        """Remove the least valuable ``rows`` rows, or some more at once; return their keys."""
        gone: list[bytes] = []
        if rows > 0:
            rows = max(rows, min(_SHED_AT_ONCE, self.rows_max // 64))
        while len(gone) < rows and self._blocks:
            block = min((each for each in self._blocks if each.live), key=_ends_s, default=None)
            if block is None:
                break
            slots = block.least_valuable(rows - len(gone))
            gone += self._removed(block, block.remove_slots(slots))
        return gone

    def search(
        self, query: Floats, threshold: float, admits: Callable[[bytes], bool]
    ) -> Match | None:
        """Return the most similar live row that is admitted, if its cosine is ≥ ``threshold``.

        ``query`` is what ``normalise`` returned. ``admits`` is asked in this thread, best first,
        for rows that reach the threshold; of equally similar rows any is returned.
        """
        if query.shape != (self.dimension,) or abs(float(query.dot(query)) - 1) > LENGTH_TOLERANCE:
            raise ValueError(_NOT_UNIT.format(self.dimension))
        blocks = self._blocks
        scratch = self._scratch(blocks)
        survivors = Scan(query, threshold, scratch).survivors(blocks)
        self._scratches.append(scratch)
        self._upkeep.searched(len(survivors.slots) if survivors else 0)
        if survivors is None:
            return None
        return survivors.best(query, threshold, admits, self._now())

    def due(self, coming: int = 0) -> Work | None:
        """Return the next thing to do for speed or memory, if there is any.

        ``coming`` rows will be added soon, of the same kind: what can be done better or cheaper
        with them waits. The caller has its ``run`` called in a thread of its choice (it takes up to
        a tenth of a second), then calls ``settle``. Nothing goes wrong where that is late or never
        happens, but the index may be slow and may keep what was removed. One at a time: None
        meanwhile.
        """
        return self._upkeep.due(self._blocks, self._block_rows, coming)

    def settle(self, work: Work) -> None:
        """Take over what ``work.run`` found, in well under a millisecond.

        Work whose ``run`` did not come to its end is given up; it falls due again.
        """
        self._blocks = self._upkeep.settle(work, self._blocks)
        self._scratches.clear()

    def room(self, coming: int) -> Room | None:
        """Return the work that makes room for rows that are coming; None: not needed now.

        As with ``due``, have its ``run`` called in any thread, then call ``use``. Rows are added
        without it, too: then the first to touch new memory waits for it, often a fifth of a
        millisecond, five where the machine itself has to get it from its host.
        """
        last = self._blocks[-1] if self._blocks else None
        free = last.capacity - last.used if last is not None else 0
        rows = min(coming, self.rows_max) - free
        if self._reserved is not None or free >= _ROOM_AHEAD or rows < _BLOCK_ROWS[0]:
            return None
        return Room(min(rows, self._block_rows), self.dimension, self._dtype, self._upkeep.basis)

    def use(self, room: Room) -> None:
        """Take what ``room.run`` has made, as soon as the rows that are there fill their blocks."""
        self._reserved = room.found

    def _open_block(self) -> Block:
        blocks = self._blocks
        if blocks and not blocks[-1].is_full:
            return blocks[-1]
        block, self._reserved = self._reserved, None
        if block is None:
            # Few blocks for the time of searches, small ones at first for their memory.
            capacity = 3 * sum(block.capacity for block in blocks)
            capacity = max(_BLOCK_ROWS[0], min(self._block_rows, capacity))
            rows = np.empty((capacity, self.dimension), self._dtype)
            block = Block(rows, self._upkeep.basis)
        self._blocks = (*(each for each in blocks if each.live), block)
        return block

    def _removed(self, block: Block, keys: list[bytes]) -> list[bytes]:
        self.rows -= len(keys)
        self._upkeep.removed(keys)
        if not block.live and block.is_full:
            self._blocks = tuple(each for each in self._blocks if each is not block)
            self._scratches.clear()
        return keys

    def _scratch(self, blocks: Sequence[Block]) -> Floats:
        rows = min(SCANNED_AT_ONCE, sum(block.capacity for block in blocks))
        try:
            scratch = self._scratches.pop()
        except IndexError:
            return np.empty(rows, np.float32)
        return scratch if len(scratch) >= rows else np.empty(rows, np.float32)

    def _make_room(self, rows: int) -> list[bytes]:
        gone = self.shed(self.rows + rows - self.rows_max)
        self.left_out += len(gone) + max(0, self.rows + rows - self.rows_max)
        return gone


def _ends_s(block: Block) -> float:
    alive = block.alive[: block.used]
    return float(block.expires_s[: block.used][alive].mean())
