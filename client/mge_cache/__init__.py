"""The client of MGE cache: have we already paid for this LLM answer?

``AsyncClient`` (asyncio) and ``Client`` (threads) have the same methods; ``get_or_compute`` is the
one to begin with, and ``retrieve_or_compute`` its like for retrievals. ``generate`` lets the
sidecar ask Anthropic.
"""

from __future__ import annotations

from mge_cache._aio_generation import AsyncGeneration
from mge_cache._embedding import Embedding
from mge_cache._generate_types import (
    AnswerSource,
    CacheUse,
    Completion,
    Delta,
    Generated,
    Strategy,
)
from mge_cache._generation import Generation
from mge_cache._json import canonical_json
from mge_cache._key import json_parameters, prompt_key
from mge_cache._rag_types import (
    Certainty,
    RagDocument,
    RagHit,
    RagHitKind,
    RagMiss,
    RagQuery,
    RagResult,
)
from mge_cache._stats_types import (
    BatcherStats,
    L1Stats,
    LayerStats,
    ModelUse,
    RagIndexStats,
    Stats,
    StoreStats,
)
from mge_cache._types import (
    Answer,
    Hit,
    Lease,
    Miss,
    PromptKey,
    PromptRequest,
    SetResult,
    SetStatus,
    Source,
    Timeouts,
    Usage,
)
from mge_cache._version import __version__
from mge_cache.aio import AsyncClient
from mge_cache.errors import (
    AbandonedError,
    ClientClosedError,
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidRequestError,
    MgeCacheError,
    NotFoundError,
    NotReadyError,
    RefusedError,
    ResourceExhaustedError,
    SidecarError,
    UnavailableError,
)
from mge_cache.sync import Client

__all__ = [
    "AbandonedError",
    "Answer",
    "AnswerSource",
    "AsyncClient",
    "AsyncGeneration",
    "BatcherStats",
    "CacheUse",
    "Certainty",
    "Client",
    "ClientClosedError",
    "Completion",
    "DeadlineExceededError",
    "Delta",
    "Embedding",
    "FailedPreconditionError",
    "Generated",
    "Generation",
    "Hit",
    "InternalError",
    "InvalidRequestError",
    "L1Stats",
    "LayerStats",
    "Lease",
    "MgeCacheError",
    "Miss",
    "ModelUse",
    "NotFoundError",
    "NotReadyError",
    "PromptKey",
    "PromptRequest",
    "RagDocument",
    "RagHit",
    "RagHitKind",
    "RagIndexStats",
    "RagMiss",
    "RagQuery",
    "RagResult",
    "RefusedError",
    "ResourceExhaustedError",
    "SetResult",
    "SetStatus",
    "SidecarError",
    "Source",
    "Stats",
    "StoreStats",
    "Strategy",
    "Timeouts",
    "UnavailableError",
    "Usage",
    "__version__",
    "canonical_json",
    "json_parameters",
    "prompt_key",
]
