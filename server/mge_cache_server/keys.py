"""Names: of Redis keys and channels, of tags, and the opaque bytes of a lease.

Only digests and names that the application chose (namespaces, masterplans, tags) get into them,
never a prompt or a query. The part in braces is Redis Cluster's hash tag: an entry and its lease
share a slot, a namespace's epochs have one of their own, so that a namespace spreads over all
shards.
"""

from __future__ import annotations

import re
import struct

from mge_cache_server.errors import InvalidRequestError
from mge_cache_server.model import EntryKey, Lease

NAMESPACE_PATTERN = re.compile(r"[A-Za-z0-9._-]{1,64}")
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")
"""What no model, content type, masterplan or tag may contain."""

DEFAULT_NAMESPACE = "default"
TOKEN_BYTES = 16
PARTITION_TAGS = ("model:", "collection:")
"""How the tags begin that all entries of a partition have."""

_LEASE = struct.Struct(">BQI16s32s")
_LEASE_VERSION = 1


class KeyNames:
    """Names under one prefix, which lets applications share a Redis."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.feed_channel = f"{prefix}:feed"

    def entry(self, key: EntryKey) -> str:
        """Where the record is."""
        return f"{self._prefix}:{{{key.namespace}:{key.digest.hex()}}}:e"

    def lease(self, key: EntryKey) -> str:
        """Where the lease is."""
        return f"{self._prefix}:{{{key.namespace}:{key.digest.hex()}}}:l"

    def rows(self, partition: EntryKey) -> tuple[str, str]:
        """Where a partition's rows are: their contents, and when they end."""
        stem = self._partition(partition)
        return f"{stem}:v", f"{stem}:p"

    @property
    def deferred_batches(self) -> str:
        """Where the names of all deferred batches are."""
        return f"{self._prefix}:{{deferred}}:batches"

    def deferred_batch(self, name: str) -> tuple[str, str]:
        """Where a deferred batch is, and who looks after it."""
        stem = f"{self._prefix}:{{deferred}}:{name}"
        return f"{stem}:b", f"{stem}:c"

    def ticket(self, key: EntryKey) -> str:
        """Where it is what is known of a deferred request; the digest is that of its id."""
        return f"{self._prefix}:{{{key.namespace}:{key.digest.hex()}}}:r"

    def vectors(self, partition: EntryKey) -> tuple[str, str]:
        """Where a partition's vector set is, and when its vectors end."""
        stem = self._partition(partition)
        return f"{stem}:s", f"{stem}:t"

    def epochs(self, namespace: str) -> str:
        """Where the clock and the epochs of a namespace are."""
        return f"{self._prefix}:{{{namespace}}}:epochs"

    def entries_pattern(self, namespace: str) -> str:
        """A SCAN pattern for the records of a namespace (whose name has no special characters)."""
        return f"{self._prefix}:{{{namespace}:*}}:e"

    def digest(self, entry_name: bytes) -> bytes:
        """Read the digest back from the name of a record."""
        return bytes.fromhex(entry_name[-67:-3].decode("ascii"))

    def _partition(self, partition: EntryKey) -> str:
        return f"{self._prefix}:{{{partition.namespace}:{partition.digest.hex()}}}"


def key_tag(digest: bytes) -> str:
    """Return the tag that a single entry is invalidated by."""
    return f"key:{digest.hex()}"


def masterplan_tag(masterplan: str) -> str:
    """Return the tag of all entries of a masterplan."""
    return f"masterplan:{masterplan}"


def user_tag(tag: str) -> str:
    """Return the tag of all entries that the application tagged so."""
    return f"tag:{tag}"


def model_tag(model: str) -> str:
    """Return the tag of all entries of a model."""
    return f"model:{model}"


def document_tag(document: str) -> str:
    """Return the tag of all retrievals that found a document."""
    return f"document:{document}"


def collection_tag(collection: str) -> str:
    """Return the tag of all retrievals from a collection."""
    return f"collection:{collection}"


def pack_lease(lease: Lease) -> bytes:
    """Write a lease as the bytes that callers carry: enough for any sidecar to take it back."""
    head = _LEASE.pack(
        _LEASE_VERSION, lease.tick, round(lease.ttl_s * 1000), lease.token, lease.key.digest
    )
    return head + lease.key.namespace.encode()


def unpack_lease(packed: bytes) -> Lease:
    """Read a lease back; raises InvalidRequestError where the bytes are not one."""
    if len(packed) <= _LEASE.size or packed[0] != _LEASE_VERSION:
        raise InvalidRequestError("lease", "not a lease that was handed out")
    _, tick, ttl_ms, token, digest = _LEASE.unpack_from(packed)
    namespace = packed[_LEASE.size :].decode("ascii", errors="replace")
    # A forged one of no time at all would be renewed without a pause.
    if not NAMESPACE_PATTERN.fullmatch(namespace) or not ttl_ms:
        raise InvalidRequestError("lease", "not a lease that was handed out")
    return Lease(EntryKey(namespace, digest), token, tick, ttl_ms / 1000)
