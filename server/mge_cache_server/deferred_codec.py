"""Deferred batches and tickets as stored bytes: a version, then JSON. They hold no prompt.

A batch is its requests; a ticket is what is known of one request, found by its id.
"""

from __future__ import annotations

import enum
import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from mge_cache_server import errors
from mge_cache_server.codec import RecordError
from mge_cache_server.generation import CacheUse
from mge_cache_server.model import EntryKey

if TYPE_CHECKING:
    from mge_cache_server.errors import AskError

_VERSION: Final = b"\x01"

_FAILURES: Final[dict[str, type[AskError]]] = {
    "rate_limited": errors.RateLimitedError,
    "unavailable": errors.UpstreamUnavailableError,
    "refused": errors.UpstreamRefusedError,
    "no_key": errors.NoKeyError,
    "unknown": errors.UnknownRequestError,
    "defect": errors.DefectError,
}
_KINDS: Final = {kind: name for name, kind in _FAILURES.items()}


@dataclass(frozen=True, slots=True)
class Item:
    """A request of a batch, without its prompt. ``token`` is b"" where it has no lease.

    ``tick`` dates the answer: an invalidation that comes after it wins. ``ids`` are the callers'.
    """

    custom_id: str
    key: EntryKey
    model: str
    tags: tuple[str, ...]
    ttl_s: float
    cache: CacheUse
    kept: bool
    token: bytes
    tick: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch; ``created_ms`` is its sender's wall clock, in milliseconds since 1970."""

    created_ms: int
    items: tuple[Item, ...]


class TicketState(enum.Enum):
    """How far a request is."""

    PENDING = "pending"
    KEPT = "kept"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Ticket:
    """What is known of a request: where its answer will be, its batch ("": none yet), its failure.

    ``refresh``: what the cache has before the request is done is not its answer.
    """

    digest: bytes
    batch: str
    refresh: bool
    state: TicketState = TicketState.PENDING
    failure: str = ""
    problem: str = ""

    def error(self) -> AskError:
        """Return the failure."""
        return _FAILURES[self.failure](self.problem)


def ticket_key(namespace: str, request_id: str) -> EntryKey:
    """Return where a request's ticket is."""
    return EntryKey(namespace, hashlib.sha256(request_id.encode()).digest())


def failure_of(error: AskError) -> tuple[str, str]:
    """Return a failure as a ticket has it: its name and its text."""
    return _KINDS.get(type(error), "unavailable"), str(error)


def encode_batch(record: BatchRecord) -> bytes:
    """Write a batch."""
    items = [
        {
            "custom_id": item.custom_id,
            "key": [item.key.namespace, item.key.digest.hex()],
            "model": item.model,
            "tags": item.tags,
            "ttl_s": item.ttl_s,
            "cache": item.cache.value,
            "kept": item.kept,
            "token": item.token.hex(),
            "tick": item.tick,
            "ids": item.ids,
        }
        for item in record.items
    ]
    return _write({"created_ms": record.created_ms, "items": items})


def decode_batch(stored: bytes) -> BatchRecord:
    """Read a batch; raises RecordError where it is damaged or a newer sidecar's."""
    try:
        fields = _read(stored)
        items = tuple(_item(each) for each in fields["items"])
        return BatchRecord(int(fields["created_ms"]), items)
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RecordError("malformed batch") from None


def encode_ticket(ticket: Ticket) -> bytes:
    """Write a ticket."""
    return _write({**asdict(ticket), "digest": ticket.digest.hex(), "state": ticket.state.value})


def decode_ticket(stored: bytes) -> Ticket:
    """Read a ticket; raises RecordError where it is damaged or a newer sidecar's."""
    try:
        fields = _read(stored)
        state = TicketState(fields["state"])
        if state is TicketState.FAILED and fields["failure"] not in _FAILURES:
            raise RecordError("unknown failure")
        return Ticket(
            bytes.fromhex(fields["digest"]),
            str(fields["batch"]),
            bool(fields["refresh"]),
            state,
            str(fields["failure"]),
            str(fields["problem"]),
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        raise RecordError("malformed ticket") from None


def _item(fields: dict[str, Any]) -> Item:
    namespace, digest = fields["key"]
    return Item(
        custom_id=str(fields["custom_id"]),
        key=EntryKey(str(namespace), bytes.fromhex(digest)),
        model=str(fields["model"]),
        tags=tuple(map(str, fields["tags"])),
        ttl_s=float(fields["ttl_s"]),
        cache=CacheUse(fields["cache"]),
        kept=bool(fields["kept"]),
        token=bytes.fromhex(fields["token"]),
        tick=int(fields["tick"]),
        ids=tuple(map(str, fields["ids"])),
    )


def _write(fields: dict[str, Any]) -> bytes:
    return _VERSION + json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()


def _read(stored: bytes) -> dict[str, Any]:
    if not stored.startswith(_VERSION):
        raise RecordError(f"version {stored[:1].hex() or 'none'}, expected {_VERSION.hex()}")
    fields: dict[str, Any] = json.loads(stored[len(_VERSION) :])
    return fields
