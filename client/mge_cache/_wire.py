"""The client's types for prompts to protobuf and back. Nothing here does I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mge_cache import _types
from mge_cache._wire_parts import (
    check_tags,
    duration,
    lease_of,
    seconds,
    source_of,
    token,
    ttl,
    usage_of,
)
from mge_cache.errors import InternalError, InvalidRequestError
from mge_cache.v1 import cache_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

Identified = _types.PromptRequest | _types.PromptKey
Computed = _types.Answer | str | bytes
Found = _types.Hit | _types.Miss


class PromptFlight:
    """A ``Flight`` of a prompt."""

    looks_up = "GetPrompt"
    stores = "SetPrompt"

    def __init__(
        self,
        request: Identified,
        *,
        ttl_s: float | None,
        masterplan: str | None,
        tags: Sequence[str],
        send_prompt: bool,
    ) -> None:
        self._request = request
        self._send_prompt = send_prompt
        self._store = set_request(
            request, ttl_s=ttl_s, masterplan=masterplan, tags=tags, send_prompt=send_prompt
        )

    @property
    def turn(self) -> Hashable:
        """The prompt."""
        return (self.stores, self._request.namespace, self._request.key)

    def asking(self, *, wait_s: float, lease_ttl_s: float, asks_again: bool) -> pb.GetPromptRequest:
        """Look it up."""
        return get_request(
            self._request,
            wait_s=wait_s,
            lease_ttl_s=lease_ttl_s,
            asks_again=asks_again,
            send_prompt=self._send_prompt,
        )

    def storing(
        self, result: _types.Answer, *, lease: _types.Lease | None, compute_s: float
    ) -> pb.SetPromptRequest:
        """Store it."""
        return complete(self._store, result, lease=lease, compute_s=compute_s)


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
        wait=duration("wait_s", wait_s),
        lease_ttl=duration("lease_ttl_s", lease_ttl_s),
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
    if not request.model:
        raise InvalidRequestError("model", "is required to store an answer")
    try:
        return pb.SetPromptRequest(
            identity=_identity(request, send_prompt=send_prompt, with_model=True),
            ttl=ttl(ttl_s),
            masterplan=masterplan or "",
            tags=check_tags(tags),
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
                compute_time=duration("compute_s", compute_s),
                lease=token(lease),
            )
        )
    except (TypeError, ValueError):
        raise InvalidRequestError("answer", "a field of it has the wrong type or range") from None
    return message


def found_of(response: pb.GetPromptResponse) -> Found:
    """Read what a look-up found. Raises InternalError for a response that says neither."""
    match response.WhichOneof("outcome"):
        case "hit":
            return _hit(response.hit)
        case "miss":
            miss = response.miss
            return _types.Miss(
                lease=lease_of(miss), in_progress=miss.in_progress, degraded=miss.degraded
            )
    raise InternalError("GetPrompt's response is neither a hit nor a miss")


def prompt_identity(request: _types.PromptRequest) -> pb.PromptIdentity:
    """Write a whole prompt, not only its key."""
    return pb.PromptIdentity(
        namespace=request.namespace,
        model=request.model,
        temperature=request.temperature,
        prompt=request.prompt,
        parameters=request.json_parameters,
    )


def _identity(request: Identified, *, send_prompt: bool, with_model: bool) -> pb.PromptIdentity:
    if send_prompt and isinstance(request, _types.PromptRequest):
        return prompt_identity(request)
    return pb.PromptIdentity(
        namespace=request.namespace,
        model=request.model if with_model else "",
        key=request.key,
    )


def _hit(hit: pb.PromptHit) -> _types.Hit:
    answer = _types.Answer(
        hit.answer,
        content_type=hit.content_type,
        usage=usage_of(hit.usage) if hit.HasField("usage") else None,
        source=source_of(hit.layer),
        cost_saved_usd=hit.cost_saved_usd,
    )
    return _types.Hit(
        answer=answer,
        age_s=seconds(hit.age),
        remaining_ttl_s=seconds(hit.remaining_ttl),
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
