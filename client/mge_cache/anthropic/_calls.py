"""What is to be done with a request: look it up, or let it through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, get_origin

import httpx2
from anthropic import APIResponse, AsyncAPIResponse

from mge_cache._key import DEFAULT_NAMESPACE
from mge_cache._switch import LLM_CACHE, switched_on
from mge_cache.anthropic._behind import behind
from mge_cache.anthropic._directions import Use, directions_of, without_directions
from mge_cache.anthropic._identity import identity_of
from mge_cache.anthropic._policy import Reason, is_messages_call, why_not
from mge_cache.errors import InvalidRequestError

if TYPE_CHECKING:
    from anthropic import APIRequest

    from mge_cache._types import PromptRequest
    from mge_cache.anthropic._behind import Behind


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of ``PromptCacheMiddleware``, which describes them."""

    masterplan: str | None = None
    tags: tuple[str, ...] = ()
    ttl_s: float | None = None
    namespace: str = DEFAULT_NAMESPACE
    wait_s: float
    max_temperature: float | None = None
    vary: tuple[str, ...] = ()
    answer_max_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that may be answered from the cache, as it may leave the process."""

    request: APIRequest
    seat: Behind
    identity: PromptRequest = field(repr=False)
    masterplan: str | None
    refresh: bool
    wait_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Bypass:
    """A request that may not. ``reason`` None: the cache is switched off."""

    request: APIRequest
    reason: Reason | None


def consider(request: APIRequest, call_next: object, options: Options) -> Call | Bypass:
    """Decide about a request whose chain of middleware goes on with ``call_next``."""
    seat = behind(call_next)
    headers = seat.headers(request) if seat else _lowered(request)
    directions = directions_of(headers)
    request = without_directions(request, headers)
    if not switched_on(LLM_CACHE):
        return Bypass(request=request, reason=None)
    body = request.json
    reason = _why_not(request, seat, options, body)
    if reason is None and directions.use is Use.NO_STORE:
        reason = Reason.NO_STORE
    if reason is not None or seat is None or not isinstance(body, dict):
        return Bypass(request=request, reason=reason or Reason.BODY)
    try:
        identity = identity_of(
            body,
            origin=seat.origin,
            headers=headers,
            query=_query(request, seat),
            vary=options.vary,
            namespace=options.namespace,
        )
    except InvalidRequestError:
        return Bypass(request=request, reason=Reason.BODY)
    return Call(
        request=request,
        seat=seat,
        identity=identity,
        masterplan=directions.masterplan or options.masterplan,
        refresh=directions.use is Use.REFRESH,
        wait_s=_patience_s(request, seat, options.wait_s),
    )


def _why_not(
    request: APIRequest, seat: Behind | None, options: Options, body: object
) -> Reason | None:
    if not is_messages_call(request):
        return Reason.ENDPOINT
    if seat is None:
        return Reason.CLIENT
    cast_to = get_origin(request.cast_to) or request.cast_to
    if isinstance(cast_to, type) and issubclass(cast_to, (APIResponse, AsyncAPIResponse)):
        return Reason.RESPONSE_CLASS
    if (
        not isinstance(body, dict)
        or request.options.files
        or bool(body.get("stream")) is not request.stream
    ):
        return Reason.BODY
    return why_not(body, max_temperature=options.max_temperature)


def _query(request: APIRequest, seat: Behind) -> dict[str, object]:
    return {
        **httpx2.URL(request.url).params,
        **seat.client.default_query,
        **request.query_params,
        **(request.options.qualifiers or {}),
    }


def _patience_s(request: APIRequest, seat: Behind, wait_s: float) -> float:
    """Return how long to wait for another caller: no longer than for the provider."""
    limit = request.timeout
    if not isinstance(limit, (int, float, httpx2.Timeout, type(None))):
        limit = seat.client.timeout
    if isinstance(limit, httpx2.Timeout):
        limit = limit.read
    return wait_s if limit is None else min(wait_s, limit)


def _lowered(request: APIRequest) -> dict[str, str]:
    return {
        name.lower(): value for name, value in request.headers.items() if isinstance(value, str)
    }
