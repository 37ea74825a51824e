"""What the messages about prompts and about retrievals have in common. Nothing here does I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration

from mge_cache import _types
from mge_cache.errors import InternalError, InvalidRequestError
from mge_cache.v1 import cache_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

_NANOS = 1_000_000_000
_DURATION_MAX_S = 315_576_000_000.0  # of google.protobuf.Duration

_SOURCES = {
    pb.HIT_LAYER_L1: _types.Source.L1,
    pb.HIT_LAYER_STORE: _types.Source.STORE,
    pb.HIT_LAYER_FLIGHT: _types.Source.FLIGHT,
}
_STATUSES = {
    pb.SET_STATUS_STORED: _types.SetStatus.STORED,
    pb.SET_STATUS_KEPT_LOCALLY: _types.SetStatus.KEPT_LOCALLY,
    pb.SET_STATUS_OVERTAKEN: _types.SetStatus.OVERTAKEN,
    pb.SET_STATUS_DISABLED: _types.SetStatus.DISABLED,
}


def duration(field: str, value_s: float) -> Duration | None:
    """Write seconds; 0 is left unset."""
    if not 0 <= value_s <= _DURATION_MAX_S:  # NaN is refused too
        raise InvalidRequestError(field, "must be a number of seconds, at least 0")
    if value_s == 0:
        return None
    whole, nanos = divmod(round(value_s * _NANOS), _NANOS)
    return Duration(seconds=whole, nanos=nanos)


def seconds(value: Duration) -> float:
    """Read seconds."""
    return value.seconds + value.nanos / _NANOS


def ttl(ttl_s: float | None) -> Duration | None:
    """Write a time to live; None, the sidecar's default, is left unset."""
    if ttl_s is not None and ttl_s <= 0:
        raise InvalidRequestError("ttl_s", "must be positive; None is the sidecar's default")
    return duration("ttl_s", ttl_s or 0.0)


def check_tags(tags: Sequence[str]) -> Sequence[str]:
    """Refuse one text, whose characters would become the tags."""
    if isinstance(tags, str):
        raise InvalidRequestError("tags", "must be a sequence of texts, not one text")
    return tags


def token(lease: _types.Lease | None) -> bytes:
    """Write a lease."""
    return lease.token if lease else b""


def source_of(layer: pb.HitLayer.ValueType) -> _types.Source:
    """Read who answered."""
    source = _SOURCES.get(layer)
    if source is None:
        raise InternalError(f"the sidecar's response has the unknown layer {layer}")
    return source


def usage_of(usage: pb.Usage) -> _types.Usage:
    """Read what a call to the provider consumed."""
    return _types.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )


def lease_of(miss: pb.PromptMiss | pb.RAGMiss) -> _types.Lease | None:
    """Read the lease that a miss may hand out."""
    if not miss.lease:
        return None
    return _types.Lease(token=miss.lease, ttl_s=seconds(miss.lease_ttl))


def set_result_of(response: pb.SetPromptResponse | pb.StoreRAGResponse) -> _types.SetResult:
    """Read what became of an entry."""
    status = _STATUSES.get(response.status)
    if status is None:
        raise InternalError(f"the sidecar's response has the unknown status {response.status}")
    return _types.SetResult(status=status, ttl_s=seconds(response.ttl), cost_usd=response.cost_usd)
