"""The domain's types. This module knows no gRPC, no Redis and no protobuf."""

from __future__ import annotations

import enum
from dataclasses import dataclass

LLM_LAYER = "llm"
LAYERS: tuple[str, ...] = (LLM_LAYER,)
"""The values of the label ``cache_layer``, in the order in which statistics list them."""


@dataclass(frozen=True, slots=True)
class EntryKey:
    """Addresses one entry: a namespace and the 32 bytes of a SHA-256."""

    namespace: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a call to the provider consumed."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """An LLM's answer and what it took to get it."""

    body: bytes
    content_type: str
    model: str
    usage: Usage
    cost_usd: float
    compute_s: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored answer with what decides about its validity.

    ``tick`` is the namespace's clock as it stood when the computation of the answer began; the
    entry is valid while no epoch of any of its ``tags`` is later. ``created_ms`` is the writer's
    wall clock, in milliseconds since 1970; it serves only to show an age.
    """

    answer: Answer
    tick: int
    created_ms: int
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to compute an entry that is missing.

    ``token`` is what the store compares; ``tick`` travels with it, so that any sidecar can take the
    lease back.
    """

    key: EntryKey
    token: bytes
    tick: int
    ttl_s: float


class HitSource(enum.Enum):
    """Who answered a hit."""

    L1 = "l1"
    STORE = "store"
    FLIGHT = "flight"


@dataclass(frozen=True, slots=True)
class Hit:
    """A look-up's answer. ``remaining_s`` is the time left until the entry expires."""

    entry: Entry
    source: HitSource
    remaining_s: float
    degraded: bool


@dataclass(frozen=True, slots=True)
class Miss:
    """No answer: compute it, with the lease if there is one."""

    lease: Lease | None = None
    in_progress: bool = False
    degraded: bool = False


class SetStatus(enum.Enum):
    """What became of an answer that was to be stored."""

    STORED = "stored"
    KEPT_LOCALLY = "kept_locally"
    OVERTAKEN = "overtaken"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class SetOutcome:
    """What became of an answer, the time to live that it got, and what it cost."""

    status: SetStatus
    ttl_s: float
    cost_usd: float


class LeaseEnd(enum.Enum):
    """Why a held lease ended."""

    FULFILLED = "fulfilled"
    LOST = "lost"
