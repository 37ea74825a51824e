"""What the caches ask of a store. ``RedisStore`` and ``MemoryStore`` implement it.

Every method is called from the event loop's thread, ends within the store's deadline and raises
``StoreError`` (see ``errors``) where it fails. Nothing here interprets a record: ``codec`` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

    from mge_cache_server.model import EntryKey
    from mge_cache_server.store_deferred import DeferredStore

EVERYTHING = "*"
"""The tag that every entry of a namespace has."""


@dataclass(frozen=True, slots=True)
class Lookup:
    """What the store said about a key.

    With ``record``, ``remaining_s`` is the record's time to live. Without one, ``granted`` says
    that the offered lease was taken; otherwise somebody else's lease is in the way for
    ``remaining_s`` (0 where no lease was offered and none is held).
    """

    record: bytes | None
    remaining_s: float
    granted: bool


@dataclass(frozen=True, slots=True)
class LeaseOffer:
    """A lease to be taken if the record is missing.

    ``dated``: whoever offers it expects to get it, and has the clock that dates it read in the
    same round trip.
    """

    token: bytes
    ttl_s: float
    dated: bool = False


@dataclass(frozen=True, slots=True)
class EpochTable:
    """A namespace's clock, and the epochs (tag to tick) later than the tick that was asked for."""

    clock: int
    epochs: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The feed is connected: everything that happens from now on will be reported."""


@dataclass(frozen=True, slots=True)
class Alive:
    """The feed's connection has just answered."""


@dataclass(frozen=True, slots=True)
class Invalidated:
    """An invalidation moved the namespace's clock from ``previous`` to ``tick``."""

    namespace: str
    previous: int
    tick: int
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Settled:
    """A lease that somebody waited for is over: the entry is there, or the lease is free."""

    key: EntryKey


@dataclass(frozen=True, slots=True)
class RowStored:
    """The store that calls itself ``writer`` has put a row into a partition."""

    partition: EntryKey
    digest: bytes
    writer: str


FeedEvent = Subscribed | Alive | Invalidated | Settled | RowStored


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a partition: what similar queries are looked for with (``rag_codec`` reads it)."""

    digest: bytes
    content: bytes
    remaining_s: float


@dataclass(frozen=True, slots=True)
class RowPage:
    """Digests of a partition's rows, some perhaps in two pages; ``cursor`` 0: the last page."""

    cursor: int
    remaining_s: Mapping[bytes, float]


class Store(Protocol):
    """Keeps records, leases and epochs, and tells all sidecars what changed."""

    kind: str
    writer: str
    """How this store calls itself in ``RowStored``: unlike every other."""

    @property
    def deferred(self) -> DeferredStore:
        """What deferred batches ask of it."""

    @property
    def available(self) -> bool:
        """Whether the store answered when it was last asked."""

    async def start(self) -> None:
        """Start background work (no connection is needed for it to succeed)."""

    async def lookup(
        self, key: EntryKey, offer: LeaseOffer | None = None, reject: bytes = b""
    ) -> Lookup:
        """Read a record; if it is missing, take the offered lease (again, if it has it already).

        A record that begins with ``reject`` (its header, if not empty) is dropped and counts as
        missing: the caller has found it to be dead or corrupt. So does a record of no bytes.
        """

    async def lookup_dated(
        self, key: EntryKey, offer: LeaseOffer | None, reject: bytes, *, after: int
    ) -> tuple[Lookup, EpochTable]:
        """Look up, then read the epochs ``after`` a tick: in the time of one round trip."""

    async def put(self, key: EntryKey, record: bytes, ttl_s: float, token: bytes = b"") -> None:
        """Store a record, end the lease of ``token``, and wake whoever waits for the key."""

    async def renew_lease(self, key: EntryKey, token: bytes, ttl_s: float) -> bool:
        """Let the lease last ``ttl_s`` from now. False: it is not ours any more."""

    async def release_lease(self, key: EntryKey, token: bytes) -> None:
        """End the lease of ``token``, and wake whoever waits for the key."""

    async def read_epochs(self, namespace: str, after: int) -> EpochTable:
        """Read a namespace's clock and what happened after a tick (-1: everything).

        A namespace without a clock gets one, with an epoch for EVERYTHING: a clock that was lost
        counts as an invalidation of the whole namespace.
        """

    async def advance(self, namespace: str, tags: Sequence[str], *, after: int = 0) -> Invalidated:
        """Move the clock and set the epoch of each tag to it: one write, reported on the feed.

        The new tick is later than the clock, and later than ``after``.
        """

    async def put_row(self, partition: EntryKey, row: Row) -> None:
        """Put a row into a partition for its remaining time, or replace it; report it on the feed.

        A few rows whose time is over leave the partition.
        """

    async def list_rows(self, partition: EntryKey, cursor: int) -> RowPage:
        """Read a page of a partition's digests; the first page's cursor is 0.

        Rows that are there from the first page to the last are in one of the pages.
        """

    async def read_rows(self, partition: EntryKey, digests: Sequence[bytes]) -> list[Row]:
        """Read rows; those that are not there (any more) are left out."""

    def feed(self) -> AsyncGenerator[FeedEvent, None]:
        """Connect and report changes until the connection is lost (then it raises StoreError)."""

    def scan(self, namespace: str) -> AsyncIterator[tuple[bytes, bytes, float]]:
        """Iterate over (digest, record, remaining_s) of a namespace, some perhaps twice.

        For maintenance only: slow.
        """

    async def close(self) -> None:
        """Close all connections."""
