"""Responses of the SDK's own kind, made of a stored record."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2
from anthropic import APIResponse, AsyncAPIResponse

from mge_cache.anthropic._directions import CACHE_HEADER
from mge_cache.anthropic._frames import CONTENT_TYPES
from mge_cache.anthropic._record import REQUEST_ID, Record

if TYPE_CHECKING:
    from anthropic import APIRequest

    from mge_cache._types import Hit
    from mge_cache.anthropic._behind import Behind

Response = TypeVar("Response", APIResponse[Any], AsyncAPIResponse[Any])

_RAW_MODE = "X-Stainless-Raw-Response"
_SECRET = frozenset({"authorization", "x-api-key"})


def replay(
    hit: Hit, request: APIRequest, seat: Behind, kind: type[Response], *, elapsed_s: float
) -> Response:
    """Return the response that the provider would give. Raises UnreadableError."""
    record = Record.of_bytes(hit.answer.body)
    headers = {CACHE_HEADER: _describe(hit)}
    if record.request_id:
        headers[REQUEST_ID] = record.request_id
    if request.stream:
        headers["content-type"] = CONTENT_TYPES[seat.wire]
        body = record.as_stream(seat.wire)
    else:
        headers["content-type"] = "application/json"
        body = record.as_message()
    raw = httpx2.Response(
        200, headers=headers, stream=httpx2.ByteStream(body), request=_request(request, seat)
    )
    raw.elapsed = dt.timedelta(seconds=elapsed_s)
    if not request.stream and request.headers.get(_RAW_MODE) != "stream":
        raw.read()  # as the SDK has done when a caller gets a whole response
    return kind(
        raw=raw,
        cast_to=request.cast_to,
        client=seat.client,
        stream=request.stream,
        stream_cls=request.stream_cls,
        options=request.options,
        retries_taken=request.retries_taken,
    )


def _request(request: APIRequest, seat: Behind) -> httpx2.Request:
    """Return what the application may look at of a request that was never sent."""
    sent = {k: v for k, v in seat.headers(request).items() if k not in _SECRET}
    url = f"{str(seat.client.base_url).rstrip('/')}{request.url}"
    return httpx2.Request(request.method, url, headers=sent)


def _describe(hit: Hit) -> str:
    words = ["hit", f"layer={hit.answer.source.value}", f"age={hit.age_s:.3f}"]
    if hit.answer.cost_saved_usd:
        words.append(f"saved-usd={hit.answer.cost_saved_usd:.6f}")
    if hit.degraded:
        words.append("degraded")
    return "; ".join(words)
