"""The client's types to protobuf and back. Nothing here does I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration

from mge_cache import _types
from mge_cache.errors import InternalError, InvalidRequestError
from mge_cache.v1 import cache_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

Identified = _types.PromptRequest | _types.PromptKey
Computed = _types.Answer | str | bytes
Found = _types.Hit | _types.Miss

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


def answer_of(computed: Computed) -> _types.Answer:
    """Let a computation return plain text or bytes."""
    if isinstance(computed, _types.Answer):
        return computed
    if isinstance(computed, str):
        return _types.Answer.from_text(computed)
    if isinstance(computed, bytes):
        return _types.Answer(computed)
    raise TypeError(f"an answer must be Answer, str or bytes, not {type(computed).__name__}")


def get_request(
    request: Identified,
    *,
    wait_s: float = 0.0,
    lease_ttl_s: float = 0.0,
    peek: bool = False,
    asks_again: bool = False,
    send_prompt: bool = False,
) -> pb.GetPromptRequest:
    """Ask for an answer. ``lease_ttl_s`` = 0: the sidecar's default."""
    return pb.GetPromptRequest(
        identity=_identity(request, send_prompt=send_prompt, with_model=False),
        wait=_duration("wait_s", wait_s),
        lease_ttl=_duration("lease_ttl_s", lease_ttl_s),
        peek=peek,
        asks_again=asks_again,
    )


def set_request(
    request: Identified,
    *,
    ttl_s: float | None,
    masterplan: str | None,
    tags: Sequence[str],
    preloaded: bool = False,
    send_prompt: bool = False,
) -> pb.SetPromptRequest:
    """Store an answer.

    ``complete`` adds the answer: mistakes in these fields show before it is paid for.
    """
    if ttl_s is not None and ttl_s <= 0:
        raise InvalidRequestError("ttl_s", "must be positive; None is the sidecar's default")
    if not request.model:
        raise InvalidRequestError("model", "is required to store an answer")
    if isinstance(tags, str):
        raise InvalidRequestError("tags", "must be a sequence of texts, not one text")
    try:
        return pb.SetPromptRequest(
            identity=_identity(request, send_prompt=send_prompt, with_model=True),
            ttl=_duration("ttl_s", ttl_s or 0.0),
            masterplan=masterplan or "",
            tags=tags,
            preloaded=preloaded,
        )
    except (TypeError, ValueError):
        raise InvalidRequestError(
            "masterplan or tags", "must be text that has a UTF-8 form"
        ) from None


def complete(
    message: pb.SetPromptRequest,
    answer: _types.Answer,
    *,
    lease: _types.Lease | None,
    compute_s: float,
) -> pb.SetPromptRequest:
    """Add the answer to a message made by ``set_request``, and return it."""
    try:
        message.MergeFrom(
            pb.SetPromptRequest(
                answer=answer.body,
                content_type=answer.content_type,
                usage=_usage(answer.usage),
                cost_usd=answer.cost_usd,
                compute_time=_duration("compute_s", compute_s),
                lease=lease.token if lease else b"",
            )
        )
    except (TypeError, ValueError):
        raise InvalidRequestError("answer", "a field of it has the wrong type or range") from None
    return message


def hold_request(lease: _types.Lease, *, max_s: float) -> pb.HoldLeaseRequest:
    """Hold a lease."""
    return pb.HoldLeaseRequest(lease=lease.token, max=_duration("hold_s", max_s))


def invalidate_request(
    *,
    namespace: str,
    key: bytes | None,
    masterplan: str | None,
    tag: str | None,
    model: str | None,
    everything: bool,
) -> pb.InvalidateRequest:
    """Invalidate. Raises InvalidRequestError unless exactly one target is named."""
    targets = (key, masterplan, tag, model, everything or None)
    if sum(target is not None for target in targets) != 1:
        raise InvalidRequestError(
            "target", "exactly one of key, masterplan, tag, model, everything is required"
        )
    message = pb.InvalidateRequest(namespace=namespace)
    if key is not None:
        message.key = key
    if masterplan is not None:
        message.masterplan = masterplan
    if tag is not None:
        message.tag = tag
    if model is not None:
        message.model = model
    if everything:
        message.everything = True
    return message


def stats_request(namespace: str) -> pb.StatsRequest:
    """Ask for statistics."""
    return pb.StatsRequest(namespace=namespace)


def found_of(response: pb.GetPromptResponse) -> Found:
    """Read what a look-up found. Raises InternalError for a response that says neither."""
    match response.WhichOneof("outcome"):
        case "hit":
            return _hit(response.hit)
        case "miss":
            miss = response.miss
            lease = _types.Lease(token=miss.lease, ttl_s=_seconds(miss.lease_ttl))
            return _types.Miss(
                lease=lease if miss.lease else None,
                in_progress=miss.in_progress,
                degraded=miss.degraded,
            )
    raise InternalError("GetPrompt's response is neither a hit nor a miss")


def in_progress(found: Found) -> bool:
    """Whether waiting for somebody else's answer can help."""
    return isinstance(found, _types.Miss) and found.in_progress and not found.degraded


def set_result_of(response: pb.SetPromptResponse) -> _types.SetResult:
    """Read what became of an answer."""
    status = _STATUSES.get(response.status)
    if status is None:
        raise InternalError(f"SetPrompt's response has the unknown status {response.status}")
    return _types.SetResult(status=status, ttl_s=_seconds(response.ttl), cost_usd=response.cost_usd)


def stats_of(response: pb.StatsResponse) -> _types.Stats:
    """Read the statistics."""
    l1, store = response.l1, response.store
    return _types.Stats(
        layers=tuple(_layer(layer) for layer in response.layers),
        combined_hit_rate=response.combined_hit_rate,
        l1=_types.L1Stats(
            entries=l1.entries,
            size_bytes=l1.bytes,
            max_bytes=l1.max_bytes,
            evictions=l1.evictions,
        ),
        store=_types.StoreStats(
            kind=store.kind, available=store.available, feed_live=store.feed_live
        ),
        unpriced_models=tuple(response.unpriced_models),
        uptime_s=response.uptime_seconds,
        version=response.version,
    )


def _identity(request: Identified, *, send_prompt: bool, with_model: bool) -> pb.PromptIdentity:
    if send_prompt and isinstance(request, _types.PromptRequest):
        return pb.PromptIdentity(
            namespace=request.namespace,
            model=request.model,
            temperature=request.temperature,
            prompt=request.prompt,
            parameters=request.json_parameters,
        )
    return pb.PromptIdentity(
        namespace=request.namespace,
        model=request.model if with_model else "",
        key=request.key,
    )


def _hit(hit: pb.PromptHit) -> _types.Hit:
    source = _SOURCES.get(hit.layer)
    if source is None:
        raise InternalError(f"GetPrompt's response has the unknown layer {hit.layer}")
    usage = hit.usage
    answer = _types.Answer(
        hit.answer,
        content_type=hit.content_type,
        usage=_types.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=usage.cache_read_tokens,
            cache_write_tokens=usage.cache_write_tokens,
        )
        if hit.HasField("usage")
        else None,
        source=source,
        cost_saved_usd=hit.cost_saved_usd,
    )
    return _types.Hit(
        answer=answer,
        age_s=_seconds(hit.age),
        remaining_ttl_s=_seconds(hit.remaining_ttl),
        degraded=hit.degraded,
    )


def _usage(usage: _types.Usage | None) -> pb.Usage | None:
    if usage is None:
        return None
    return pb.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )


def _layer(layer: pb.LayerStats) -> _types.LayerStats:
    return _types.LayerStats(
        cache_layer=layer.cache_layer,
        hit_rate=layer.hit_rate,
        total_hits=layer.total_hits,
        total_misses=layer.total_misses,
        total_writes=layer.total_writes,
        total_invalidations=layer.total_invalidations,
        total_errors=layer.total_errors,
        errors_by_operation=dict(layer.errors_by_operation),
        spent_usd=layer.spent_usd,
        saved_usd=layer.saved_usd,
        cost_reduction=layer.cost_reduction,
        saved_s=layer.saved_seconds,
        unpriced_writes=layer.unpriced_writes,
    )


def _duration(field: str, seconds: float) -> Duration | None:
    """Write seconds; 0 is left unset."""
    if not 0 <= seconds <= _DURATION_MAX_S:  # NaN is refused too
        raise InvalidRequestError(field, "must be a number of seconds, at least 0")
    if seconds == 0:
        return None
    whole, nanos = divmod(round(seconds * _NANOS), _NANOS)
    return Duration(seconds=whole, nanos=nanos)


def _seconds(duration: Duration) -> float:
    return duration.seconds + duration.nanos / _NANOS
