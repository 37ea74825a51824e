"""Requests and replies of ``Generate``: protobuf to model and back (see ``wire``)."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from mge_cache._key import length_prefixed
from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache_server import keys, wire
from mge_cache_server.errors import AskError, InvalidRequestError
from mge_cache_server.generation import (
    MAX_TOKENS_DEFAULT,
    AnswerSource,
    CacheUse,
    Question,
    Request,
    Strategy,
)
from mge_cache_server.interceptors import status_of
from mge_cache_server.wire_responses import duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.duration_pb2 import Duration

    from mge_cache_server.errors import MgeError
    from mge_cache_server.generation import Completion
    from mge_cache_server.wire import Limits

ID_BYTES_MAX = 128
TIMEOUT_DEFAULT_S = 600.0
TIMEOUT_MAX_S = 86_400.0
MAX_TOKENS_MAX = 2**31 - 1
"""Far beyond any model's; sums of them are still numbers that JSON can hold."""
JSON_DEPTH_MAX = 64
NOT_TEXT = frozenset({"tools", "tool_choice", "mcp_servers", "container"})
"""Parameters whose answers may be more than text."""
NO_PARAMETERS = frozenset({"stream", "model", "temperature"})
_EXCLUDED = NOT_TEXT | NO_PARAMETERS

_CACHE_USES: dict[int, CacheUse] = {
    pb.CACHE_USE_UNSPECIFIED: CacheUse.USE,
    pb.CACHE_USE_USE: CacheUse.USE,
    pb.CACHE_USE_REFRESH: CacheUse.REFRESH,
    pb.CACHE_USE_BYPASS: CacheUse.BYPASS,
}
_STRATEGIES: dict[int, Strategy] = {
    pb.STRATEGY_FAN_OUT: Strategy.FAN_OUT,
    pb.STRATEGY_MERGE: Strategy.MERGE,
    pb.STRATEGY_DEFERRED: Strategy.DEFERRED,
}
_STRATEGY_NUMBERS = {
    Strategy.FAN_OUT: pb.STRATEGY_FAN_OUT,
    Strategy.MERGE: pb.STRATEGY_MERGE,
    Strategy.DEFERRED: pb.STRATEGY_DEFERRED,
}
_SOURCES = {
    AnswerSource.UPSTREAM: pb.ANSWER_SOURCE_UPSTREAM,
    AnswerSource.CACHE: pb.ANSWER_SOURCE_CACHE,
    AnswerSource.FLIGHT: pb.ANSWER_SOURCE_FLIGHT,
}


@dataclass(frozen=True, slots=True)
class Start:
    """A request for an answer: what is asked, and how long its caller waits."""

    request: Request
    timeout_s: float


def request_id(field: str, value: str) -> str:
    """Check a request's id."""
    if not 1 <= len(value.encode()) <= ID_BYTES_MAX:
        raise InvalidRequestError(field, f"must have 1 to {ID_BYTES_MAX} bytes")
    if keys.CONTROL_CHARACTERS.search(value):
        raise InvalidRequestError(field, "must not contain control characters")
    return value


def start(message: pb.GenerateStart, limits: Limits, default: Strategy) -> Start:
    """Return what a request asks for."""
    identity = message.identity
    if identity.key:
        raise InvalidRequestError("identity.key", "must be unset: the prompt itself is needed")
    key = wire.entry_key(identity, limits, model_required=True)
    question = _question(identity, key.namespace, key)
    strategy = default
    if message.strategy != pb.STRATEGY_UNSPECIFIED:
        strategy = _chosen("strategy", _STRATEGIES, message)
    request = Request(
        question,
        tags=wire.tags(message, key, limits, own=(keys.model_tag(identity.model),)),
        ttl_s=wire.ttl(message, limits),
        cache=_chosen("cache", _CACHE_USES, message),
        strategy=strategy,
        id=message.id,
    )
    waits = TIMEOUT_MAX_S if strategy is Strategy.DEFERRED else TIMEOUT_DEFAULT_S
    timeout_s = wire.seconds("timeout", message.timeout, default_s=waits, max_s=TIMEOUT_MAX_S)
    return Start(request, timeout_s)


@dataclass(frozen=True, slots=True)
class Fetch:
    """A request for the answer of a deferred request."""

    namespace: str
    id: str
    timeout_s: float


def fetch(message: pb.GenerateFetch) -> Fetch:
    """Return what is fetched."""
    timeout_s = wire.seconds("timeout", message.timeout, default_s=0.0, max_s=TIMEOUT_MAX_S)
    namespace = wire.namespace(message.namespace)
    return Fetch(namespace, request_id("fetch.id", message.id), timeout_s)


def _chosen(field: str, known: Mapping[int, Any], message: pb.GenerateStart) -> Any:
    number = getattr(message, field)
    if number not in known:
        raise InvalidRequestError(field, f"{number} is not known")
    return known[number]


def _question(identity: pb.PromptIdentity, namespace: str, key: Any) -> Question:
    parameters = {name: _parsed(name, text) for name, text in identity.parameters.items()}
    if not parameters.keys().isdisjoint(_EXCLUDED):
        _refuse_excluded(parameters)
    max_tokens = parameters.get("max_tokens", MAX_TOKENS_DEFAULT)
    if type(max_tokens) is not int or not 1 <= max_tokens <= MAX_TOKENS_MAX:
        problem = f"must be a number from 1 to {MAX_TOKENS_MAX}"
        raise InvalidRequestError("identity.parameters[max_tokens]", problem)
    messages = parameters.pop("messages", None)
    if messages is None:
        messages = [{"role": "user", "content": identity.prompt}]
    elif identity.prompt:
        problem = "excludes identity.prompt: give one of them"
        raise InvalidRequestError("identity.parameters[messages]", problem)
    if not isinstance(messages, list) or not messages:
        raise InvalidRequestError("identity.parameters[messages]", "must be a list, not empty")
    body: dict[str, Any] = {**parameters, "model": identity.model, "max_tokens": max_tokens}
    if identity.HasField("temperature"):
        body["temperature"] = identity.temperature
    return Question(
        key=key,
        model=identity.model,
        body=body,
        messages=messages,
        prompt=_only_text(messages),
        group=_group(namespace, body),
        size_bytes=identity.ByteSize(),
    )


def _refuse_excluded(parameters: Mapping[str, object]) -> NoReturn:
    name = min(NOT_TEXT & parameters.keys(), default="")
    problem = "cannot be used here: Generate answers with text"
    if not name:
        name, problem = min(NO_PARAMETERS & parameters.keys()), "is not a parameter here"
    raise InvalidRequestError(f"identity.parameters[{name}]", problem)


def _parsed(name: str, text: str) -> Any:
    r"""Read a parameter as JSON that can be written again, alone and beside others'.

    What Anthropic's SDK could not send would fail the whole batch: NaN, Infinity, numbers beyond a
    float, half a character (``"\ud800"``), and what is nested too deeply.
    """
    try:
        value = _JSON.decode(text)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        # Not `from exc`: that error carries the text.
        raise InvalidRequestError(f"identity.parameters[{name}]", "must be JSON") from None
    if text.count("[") + text.count("{") > JSON_DEPTH_MAX and _is_deep(value):
        problem = f"must not be nested more than {JSON_DEPTH_MAX} deep"
        raise InvalidRequestError(f"identity.parameters[{name}]", problem)
    return value


def _refused(constant: str) -> NoReturn:
    raise ValueError(constant)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("beyond a float")
    return value


_JSON: Final = json.JSONDecoder(parse_constant=_refused, parse_float=_finite)
_CANONICAL: Final = json.JSONEncoder(sort_keys=True)
"""Made once: ``json.loads`` and ``json.dumps`` with arguments make one at each call."""


def _is_deep(value: Any) -> bool:
    level = [value]
    for _ in range(JSON_DEPTH_MAX):
        level = [
            child
            for each in level
            for child in (each.values() if isinstance(each, dict) else each)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _only_text(messages: list[Any]) -> str | None:
    if len(messages) != 1 or not isinstance(messages[0], dict):
        return None
    content = messages[0].get("content")
    if messages[0].get("role") != "user" or len(messages[0]) != 2:  # noqa: PLR2004
        return None
    return content if isinstance(content, str) and content else None


def _group(namespace: str, body: Mapping[str, Any]) -> bytes:
    fields = length_prefixed(namespace.encode(), _CANONICAL.encode(body).encode())
    return hashlib.sha256(fields).digest()


def delta_reply(request_id: str, text: str) -> pb.GenerateResponse:
    """Write a part of a text."""
    return pb.GenerateResponse(id=request_id, delta=text)


def restart_reply(request_id: str) -> pb.GenerateResponse:
    """Say that the text begins anew."""
    return pb.GenerateResponse(id=request_id, restart=pb.GenerateRestart())


def completion_reply(request_id: str, completion: Completion) -> pb.GenerateResponse:
    """Write an answer."""
    usage = completion.usage
    strategy = pb.STRATEGY_UNSPECIFIED
    if completion.strategy is not None:
        strategy = _STRATEGY_NUMBERS[completion.strategy]
    return pb.GenerateResponse(
        id=request_id,
        completion=pb.GenerateCompletion(
            text=completion.text,
            stop_reason=completion.stop_reason,
            usage=pb.Usage(
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cache_read_tokens=usage.cache_read_tokens,
                cache_write_tokens=usage.cache_write_tokens,
            ),
            cost_usd=completion.cost_usd,
            cost_saved_usd=completion.cost_saved_usd,
            source=_SOURCES[completion.source],
            batch_size=completion.batch_size,
            strategy=strategy,
            degraded=completion.degraded,
        ),
    )


def error_reply(request_id: str, error: MgeError) -> pb.GenerateResponse:
    """Write why there is no answer."""
    retry_after: Duration | None = None
    if isinstance(error, AskError) and error.retry_after_s is not None:
        retry_after = duration(error.retry_after_s)
    code, _ = status_of(error).value
    return pb.GenerateResponse(
        id=request_id,
        error=pb.GenerateError(code=code, message=str(error), retry_after=retry_after),
    )
