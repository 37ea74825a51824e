"""Requests and replies of Generate to protobuf and back. Nothing here does I/O."""

from __future__ import annotations

import secrets
import unicodedata
from typing import TYPE_CHECKING

import grpc

from mge_cache import _generate_types, _types
from mge_cache._status import error_of
from mge_cache._wire import prompt_identity
from mge_cache._wire_parts import check_tags, duration, seconds, ttl, usage_of
from mge_cache.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    NotReadyError,
)
from mge_cache.v1 import cache_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mge_cache.errors import MgeCacheError

ID_MAX_BYTES = 128

_CACHE_USES = {
    _generate_types.CacheUse.USE: pb.CACHE_USE_USE,
    _generate_types.CacheUse.REFRESH: pb.CACHE_USE_REFRESH,
    _generate_types.CacheUse.BYPASS: pb.CACHE_USE_BYPASS,
}
_STRATEGIES = {
    _generate_types.Strategy.FAN_OUT: pb.STRATEGY_FAN_OUT,
    _generate_types.Strategy.MERGE: pb.STRATEGY_MERGE,
    _generate_types.Strategy.DEFERRED: pb.STRATEGY_DEFERRED,
}
_STRATEGIES_READ = {wire: strategy for strategy, wire in _STRATEGIES.items()}
_SOURCES = {
    pb.ANSWER_SOURCE_UPSTREAM: _generate_types.AnswerSource.UPSTREAM,
    pb.ANSWER_SOURCE_CACHE: _generate_types.AnswerSource.CACHE,
    pb.ANSWER_SOURCE_FLIGHT: _generate_types.AnswerSource.FLIGHT,
}
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def start_request(
    request: _types.PromptRequest,
    *,
    masterplan: str | None,
    tags: Sequence[str],
    ttl_s: float | None,
    cache: _generate_types.CacheUse,
    strategy: _generate_types.Strategy | None,
    timeout_s: float,
    request_id: str | None,
) -> pb.GenerateRequest:
    """Ask for an answer. ``request_id`` = None: a random one."""
    if not isinstance(request, _types.PromptRequest):
        raise InvalidRequestError("request", "must be a PromptRequest: a key cannot be answered")
    if not timeout_s > 0:  # NaN is refused too
        raise InvalidRequestError("timeout_s", "must be positive")
    try:
        start = pb.GenerateStart(
            id=secrets.token_hex(16) if request_id is None else _checked_id(request_id),
            identity=prompt_identity(request),
            masterplan=masterplan or "",
            tags=check_tags(tags),
            ttl=ttl(ttl_s),
            cache=_CACHE_USES[cache],
            strategy=pb.STRATEGY_UNSPECIFIED if strategy is None else _STRATEGIES[strategy],
            timeout=duration("timeout_s", timeout_s),
        )
    except KeyError:
        raise InvalidRequestError("cache or strategy", "is no CacheUse or Strategy") from None
    except (TypeError, ValueError):
        raise InvalidRequestError(
            "masterplan or tags", "must be text that has a UTF-8 form"
        ) from None
    return pb.GenerateRequest(start=start)


def fetch_request(request_id: str, *, namespace: str, timeout_s: float) -> pb.GenerateRequest:
    """Ask for the answer of a deferred request."""
    wanted = duration("timeout_s", timeout_s)
    try:
        fetch = pb.GenerateFetch(id=_checked_id(request_id), namespace=namespace, timeout=wanted)
    except (TypeError, ValueError):
        raise InvalidRequestError("namespace", "must be text that has a UTF-8 form") from None
    return pb.GenerateRequest(fetch=fetch)


def cancel_request(request_id: str) -> pb.GenerateRequest:
    """Give a request up."""
    return pb.GenerateRequest(cancel=request_id)


def id_of(message: pb.GenerateRequest) -> str:
    """Read which request a message asks for; "" if it cancels one."""
    return message.fetch.id or message.start.id


def is_deferred(message: pb.GenerateRequest) -> bool:
    """Read whether the answer can be fetched after the request's time is over."""
    return message.HasField("fetch") or message.start.strategy == pb.STRATEGY_DEFERRED


def completion_of(response: pb.GenerateResponse) -> _generate_types.Completion:
    """Read a completion. Raises InternalError for one that this client does not understand."""
    completion = response.completion
    source = _SOURCES.get(completion.source)
    if source is None:
        raise InternalError(f"the sidecar's completion has the unknown source {completion.source}")
    strategy = _STRATEGIES_READ.get(completion.strategy)
    if strategy is None and completion.strategy != pb.STRATEGY_UNSPECIFIED:
        raise InternalError(f"the completion has the unknown strategy {completion.strategy}")
    return _generate_types.Completion(
        text=completion.text,
        stop_reason=completion.stop_reason,
        usage=usage_of(completion.usage),
        cost_usd=completion.cost_usd,
        cost_saved_usd=completion.cost_saved_usd,
        source=source,
        batch_size=completion.batch_size,
        strategy=strategy,
        degraded=completion.degraded,
        request_id=response.id,
    )


def reply_error(error: pb.GenerateError, *, deferred: bool) -> MgeCacheError:
    """Make the error that the sidecar tells of one request."""
    retry_after_s = seconds(error.retry_after) if error.HasField("retry_after") else None
    code = _CODES.get(error.code)
    if code is None or code is grpc.StatusCode.OK:
        return InternalError(f"the sidecar told the unknown code {error.code}")
    made = error_of(code, error.message, retry_after_s=retry_after_s)
    if deferred and isinstance(made, DeadlineExceededError):
        return NotReadyError(str(made), code=made.code, retry_after_s=retry_after_s)
    return made


def _checked_id(request_id: str) -> str:
    # The sidecar's error for a wrong id could not be told apart from that of another request.
    try:
        size = len(request_id.encode())
    except UnicodeEncodeError:
        raise InvalidRequestError("request_id", "must be text that has a UTF-8 form") from None
    if not 0 < size <= ID_MAX_BYTES:
        raise InvalidRequestError("request_id", f"must have 1 to {ID_MAX_BYTES} bytes")
    if any(unicodedata.category(character) == "Cc" for character in request_id):
        raise InvalidRequestError("request_id", "must not contain control characters")
    return request_id
