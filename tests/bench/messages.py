"""The messages that the benchmark sends: the same for the sidecar and for the echo."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration

from mge_cache.v1 import cache_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

SERVICE = "/mge_cache.v1.CacheService/"
NAMESPACE = "bench"
MODEL = "claude-sonnet-5-5"
ANSWER_BYTES = 2048
KEYS = 1000
"""Keys that a load cycles through, so that no two calls in flight ask for the same one."""


def identity(number: int, kind: str = "prompt") -> pb.PromptIdentity:
    """Name a prompt by its key, as the client does."""
    digest = hashlib.sha256(f"{kind} {number}".encode()).digest()
    return pb.PromptIdentity(namespace=NAMESPACE, model=MODEL, key=digest)


def answer(number: int, size_bytes: int = ANSWER_BYTES) -> bytes:
    """Return an answer of a size, different for each number."""
    return hashlib.shake_128(f"answer {number}".encode()).hexdigest(size_bytes // 2).encode()


def gets() -> list[pb.GetPromptRequest]:
    """Return look-ups of every key."""
    return [pb.GetPromptRequest(identity=identity(number)) for number in range(KEYS)]


def sets() -> list[pb.SetPromptRequest]:
    """Return stores of every key."""
    return [
        pb.SetPromptRequest(
            identity=identity(number),
            answer=answer(number),
            content_type="text/plain",
            usage=pb.Usage(input_tokens=500, output_tokens=400),
            compute_time=Duration(seconds=3),
            masterplan="kept",
            tags=["bench"],
        )
        for number in range(KEYS)
    ]


def entries(masterplan: str, count: int, size_bytes: int) -> list[pb.SetPromptRequest]:
    """Return stores of ``count`` small answers of a masterplan."""
    return [
        pb.SetPromptRequest(
            identity=identity(number, masterplan),
            answer=answer(number, size_bytes),
            content_type="text/plain",
            usage=pb.Usage(input_tokens=50, output_tokens=40),
            masterplan=masterplan,
        )
        for number in range(count)
    ]


def invalidations(count: int = KEYS) -> list[pb.InvalidateRequest]:
    """Return invalidations of masterplans that have no entries."""
    return [
        pb.InvalidateRequest(namespace=NAMESPACE, masterplan=f"empty {number}")
        for number in range(count)
    ]


def hit() -> pb.GetPromptResponse:
    """Return what the echo answers: as large as a hit."""
    return pb.GetPromptResponse(
        hit=pb.PromptHit(
            answer=answer(0),
            content_type="text/plain",
            usage=pb.Usage(input_tokens=500, output_tokens=400),
            cost_saved_usd=0.0075,
            age=Duration(seconds=12, nanos=345_000_000),
            remaining_ttl=Duration(seconds=86_387, nanos=655_000_000),
            layer=pb.HIT_LAYER_L1,
        )
    )


def encoded(messages: Sequence[Message]) -> list[bytes]:
    """Serialise requests."""
    return [message.SerializeToString() for message in messages]
