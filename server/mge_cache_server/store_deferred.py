"""What deferred batches ask of a store: that they survive the sidecar which sent them.

As for all of ``store``: every method ends within the store's deadline and raises ``StoreError``
where it fails. ``deferred_codec`` reads what is kept here. A batch's ``name`` is its sender's, the
``batch_id`` Anthropic's; ``holder`` is the token of the sidecar that looks after it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mge_cache_server.model import EntryKey


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch as it is kept; ``batch_id`` is "" until Anthropic's is known."""

    record: bytes
    batch_id: str


class Claim(enum.Enum):
    """Who looks after a batch."""

    OURS = 1
    THEIRS = 0
    GONE = -1
    """Nobody: there is no such batch (any more)."""


class DeferredStore(Protocol):
    """Keeps batches, who looks after each, and what is known of single requests."""

    async def put_batch(
        self, name: str, stored: StoredBatch, *, ttl_s: float, holder: bytes, claim_s: float
    ) -> None:
        """Keep a batch for ``ttl_s``, claimed by its holder for ``claim_s``."""

    async def name_batch(self, name: str, batch_id: str) -> bool:
        """Keep Anthropic's id of a batch. False: there is no such batch."""

    async def claim_batch(self, name: str, *, holder: bytes, claim_s: float) -> Claim:
        """Look after a batch for ``claim_s`` from now, if nobody else does."""

    async def release_batch(self, name: str, *, holder: bytes) -> None:
        """Give a claim back, so that another one may look after the batch at once."""

    async def read_batch(self, name: str) -> StoredBatch | None:
        """Read a batch."""

    async def list_batches(self) -> list[str]:
        """List the names of all batches."""

    async def end_batch(self, name: str) -> None:
        """Forget a batch."""

    async def put_ticket(self, key: EntryKey, ticket: bytes, ttl_s: float) -> None:
        """Keep what is known of a request, under the digest of its id."""

    async def read_ticket(self, key: EntryKey) -> bytes | None:
        """Read what is known of a request."""
