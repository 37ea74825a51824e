"""Requests: protobuf to model, and the checks of what comes in. Responses: ``wire_responses``.

A check that fails raises InvalidRequestError with the field's path and the limit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mge_cache._key import KEY_BYTES, prompt_key
from mge_cache.errors import InvalidRequestError as InvalidKeyError
from mge_cache_server import keys
from mge_cache_server.errors import InvalidRequestError
from mge_cache_server.model import EntryKey, Usage
from mge_cache_server.store import EVERYTHING

if TYPE_CHECKING:
    from google.protobuf.duration_pb2 import Duration

    from mge_cache.v1 import cache_service_pb2 as pb
    from mge_cache_server.model import Lease

NAME_BYTES_MAX = 256
PARAMETERS_MAX = 64
PARAMETER_NAME_BYTES_MAX = 128
LEASE_TTL_MIN_S = 0.01
LEASE_TTL_MAX_S = 600.0
HOLD_DEFAULT_S = 600.0
HOLD_MAX_S = 3600.0
COMPUTE_MAX_S = 7 * 86400.0
TTL_MIN_S = 1.0
COST_MAX_USD = 1e6
_TOKENS_MAX = 2**53
_DEFAULT_CONTENT_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on requests, and what unset means. Sizes in bytes, times in seconds."""

    answer_max_bytes: int
    prompt_max_bytes: int
    tags_max: int
    ttl_max_s: float
    wait_max_s: float
    lease_ttl_s: float


def namespace(name: str) -> str:
    """Check a namespace; empty is the default one."""
    if not name:
        return keys.DEFAULT_NAMESPACE
    if not keys.NAMESPACE_PATTERN.fullmatch(name):
        raise InvalidRequestError("namespace", "must be 1 to 64 characters of A-Z a-z 0-9 . _ -")
    return name


def entry_key(identity: pb.PromptIdentity, limits: Limits, *, model_required: bool) -> EntryKey:
    """Take the key of an identity, or compute it."""
    space = namespace(identity.namespace)
    if model_required or not identity.key:
        text("identity.model", identity.model, required=True)
    if not identity.key:
        return EntryKey(space, _computed_key(space, identity, limits))
    if len(identity.key) != KEY_BYTES:
        raise InvalidRequestError("identity.key", f"must be {KEY_BYTES} bytes, or unset")
    if identity.prompt or identity.parameters or identity.HasField("temperature"):
        problem = "excludes temperature, prompt and parameters"
        raise InvalidRequestError("identity.key", problem)
    return EntryKey(space, identity.key)


def _computed_key(space: str, identity: pb.PromptIdentity, limits: Limits) -> bytes:
    parameters = dict(identity.parameters)
    if not identity.prompt and not parameters:
        raise InvalidRequestError("identity", "needs a key, a prompt or parameters")
    if len(parameters) > PARAMETERS_MAX:
        raise InvalidRequestError("identity.parameters", f"at most {PARAMETERS_MAX}")
    size = len(identity.prompt.encode())
    for name, value in parameters.items():
        length = len(name.encode())
        if not 1 <= length <= PARAMETER_NAME_BYTES_MAX:
            problem = f"names must have 1 to {PARAMETER_NAME_BYTES_MAX} bytes"
            raise InvalidRequestError("identity.parameters", problem)
        size += length + len(value.encode())
    if size > limits.prompt_max_bytes:
        problem = f"prompt and parameters exceed {limits.prompt_max_bytes} bytes together"
        raise InvalidRequestError("identity.prompt", problem)
    temperature = identity.temperature if identity.HasField("temperature") else None
    try:
        return prompt_key(
            namespace=space,
            model=identity.model,
            temperature=temperature,
            prompt=identity.prompt,
            parameters=parameters,
        )
    except InvalidKeyError:
        raise InvalidRequestError("identity.temperature", "must be finite and at least 0") from None


def text(field: str, value: str, *, required: bool = False) -> str:
    """Check a name: a model, masterplan or tag."""
    if required and not value:
        raise InvalidRequestError(field, "is required")
    if len(value.encode()) > NAME_BYTES_MAX:
        raise InvalidRequestError(field, f"at most {NAME_BYTES_MAX} bytes")
    if keys.CONTROL_CHARACTERS.search(value):
        raise InvalidRequestError(field, "must not contain control characters")
    return value


def seconds(
    field: str, duration: Duration, *, default_s: float, min_s: float = 0.0, max_s: float
) -> float:
    """Convert a duration; unset and 0 mean the default."""
    value_s = duration.seconds + duration.nanos / 1e9
    if value_s == 0:
        return default_s
    if not min_s <= value_s <= max_s:
        raise InvalidRequestError(field, f"must be {min_s:g} s to {max_s:g} s, or unset")
    return value_s


def wait(request: pb.GetPromptRequest | pb.QueryRAGRequest, limits: Limits) -> float:
    """Return how long a look-up may wait, in seconds."""
    return seconds("wait", request.wait, default_s=0.0, max_s=limits.wait_max_s)


def lease_ttl(request: pb.GetPromptRequest | pb.QueryRAGRequest, limits: Limits) -> float:
    """Return how long a lease is to last, in seconds."""
    return seconds(
        "lease_ttl",
        request.lease_ttl,
        default_s=limits.lease_ttl_s,
        min_s=LEASE_TTL_MIN_S,
        max_s=LEASE_TTL_MAX_S,
    )


def answer_body(request: pb.SetPromptRequest, limits: Limits) -> bytes:
    """Check an answer's bytes."""
    if not request.answer:
        raise InvalidRequestError("answer", "is required")
    if len(request.answer) > limits.answer_max_bytes:
        raise InvalidRequestError("answer", f"at most {limits.answer_max_bytes} bytes")
    return request.answer


def content_type(request: pb.SetPromptRequest) -> str:
    """Check a content type."""
    return text("content_type", request.content_type) or _DEFAULT_CONTENT_TYPE


def usage(request: pb.SetPromptRequest) -> Usage:
    """Check the token counts."""
    given = request.usage
    for name in ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens"):
        if not 0 <= getattr(given, name) <= _TOKENS_MAX:
            raise InvalidRequestError(f"usage.{name}", f"must be 0 to {_TOKENS_MAX}")
    return Usage(
        given.input_tokens, given.output_tokens, given.cache_read_tokens, given.cache_write_tokens
    )


def cost_usd(request: pb.SetPromptRequest | pb.StoreRAGRequest) -> float | None:
    """Return the cost that the caller gives; None if it gives none."""
    if not request.HasField("cost_usd"):
        return None
    if not 0 <= request.cost_usd <= COST_MAX_USD:
        raise InvalidRequestError("cost_usd", f"must be 0 to {COST_MAX_USD:,.0f}")
    return request.cost_usd


def tags(
    request: pb.SetPromptRequest | pb.StoreRAGRequest | pb.GenerateStart,
    key: EntryKey,
    limits: Limits,
    *,
    own: tuple[str, ...],
) -> tuple[str, ...]:
    """Return all that the entry can be invalidated by; ``own`` are those that only its kind has."""
    if len(request.tags) > limits.tags_max:
        raise InvalidRequestError("tags", f"at most {limits.tags_max}")
    result = [keys.key_tag(key.digest), *own]
    if request.masterplan:
        result.append(keys.masterplan_tag(text("masterplan", request.masterplan)))
    result += (keys.user_tag(text("tags", tag, required=True)) for tag in request.tags)
    return tuple(dict.fromkeys(result))


def lease(packed: bytes, key: EntryKey) -> Lease | None:
    """Read the lease that comes with an answer."""
    if not packed:
        return None
    unpacked = keys.unpack_lease(packed)
    if unpacked.key != key:
        raise InvalidRequestError("lease", "was handed out for another key")
    return unpacked


def invalidated_tag(request: pb.InvalidateRequest) -> str:
    """Return the tag that a request names."""
    match request.WhichOneof("target"):
        case "key":
            if len(request.key) != KEY_BYTES:
                raise InvalidRequestError("key", f"must be {KEY_BYTES} bytes")
            return keys.key_tag(request.key)
        case "masterplan":
            return keys.masterplan_tag(text("masterplan", request.masterplan, required=True))
        case "tag":
            return keys.user_tag(text("tag", request.tag, required=True))
        case "model":
            return keys.model_tag(text("model", request.model, required=True))
        case "document":
            return keys.document_tag(text("document", request.document, required=True))
        case "collection":
            return keys.collection_tag(text("collection", request.collection))
        case "everything":
            if not request.everything:
                raise InvalidRequestError("everything", "must be true")
            return EVERYTHING
    targets = "key, masterplan, tag, model, document, collection or everything"
    raise InvalidRequestError("target", f"is required: {targets}")


def ttl(
    request: pb.SetPromptRequest | pb.StoreRAGRequest | pb.GenerateStart, limits: Limits
) -> float:
    """Return an answer's time to live in seconds; 0 means the default."""
    return seconds("ttl", request.ttl, default_s=0.0, min_s=TTL_MIN_S, max_s=limits.ttl_max_s)


def compute_time(request: pb.SetPromptRequest | pb.StoreRAGRequest) -> float:
    """Return how long an answer took, in seconds; 0 if unknown."""
    return seconds("compute_time", request.compute_time, default_s=0.0, max_s=COMPUTE_MAX_S)


def hold_max(request: pb.HoldLeaseRequest) -> float:
    """Return how long a lease may be held, in seconds."""
    return seconds("max", request.max, default_s=HOLD_DEFAULT_S, max_s=HOLD_MAX_S)
