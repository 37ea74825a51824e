"""The key of a request: everything that can change the answer, whatever its name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mge_cache._types import PromptRequest
from mge_cache.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

_WITHOUT_EFFECT = frozenset({"metadata", "service_tier", "stream"})
"""Fields that do not change the answer: who asks, how soon it is answered, how it is sent."""
_MARK = "cache_control"
_BETA = "anthropic-beta"


def identity_of(
    body: Mapping[str, object],
    *,
    origin: str,
    headers: Mapping[str, str],
    query: Mapping[str, object],
    vary: Sequence[str],
    namespace: str,
) -> PromptRequest:
    """Return the identity of a request to ``origin``; ``headers`` have names in lower case.

    Of the headers those count that begin with ``anthropic-`` and those named by ``vary``; betas are
    a set. Raises InvalidRequestError for a body without a model, or that has no JSON form.
    """
    model, temperature = body.get("model"), body.get("temperature")
    if not isinstance(model, str):
        raise InvalidRequestError("model", "must be text")
    if isinstance(temperature, bool) or not isinstance(temperature, (int, float, type(None))):
        raise InvalidRequestError("temperature", "must be a number")
    counted = {
        name: value
        for name, value in headers.items()
        if (name.startswith("anthropic-") and name != _BETA) or name in vary
    }
    betas = {beta.strip() for beta in headers.get(_BETA, "").split(",")} - {""}
    call = {
        "origin": origin,
        "betas": sorted(betas),
        "headers": counted,
        "query": {name: str(value) for name, value in query.items()},
    }
    return PromptRequest(
        model=model,
        temperature=temperature,
        parameters={"anthropic_call": call, "anthropic_body": _that_counts(body)},
        namespace=namespace,
    )


def _that_counts(body: Mapping[str, object]) -> dict[str, object]:
    """Leave out what has no effect: named fields, and where the provider's own cache may cut."""
    left_out = {*_WITHOUT_EFFECT, _MARK, "model", "temperature"}
    kept = {name: value for name, value in body.items() if name not in left_out}
    for name in ("system", "tools"):
        if name in kept:
            kept[name] = _unmarked_all(kept[name])
    messages = kept.get("messages")
    if isinstance(messages, list):
        kept["messages"] = [
            {**message, "content": _unmarked_all(message.get("content"))}
            if isinstance(message, Mapping)
            else message
            for message in messages
        ]
    return kept


def _unmarked_all(blocks: object) -> object:
    return [_unmarked(block) for block in blocks] if isinstance(blocks, list) else blocks


def _unmarked(block: object) -> object:
    """Take the mark from a block (or tool) and from blocks in it, but never from a tool's input."""
    if not isinstance(block, Mapping):
        return block
    kept = {name: value for name, value in block.items() if name != _MARK}
    if isinstance(kept.get("content"), list):
        kept["content"] = _unmarked_all(kept["content"])
    source = kept.get("source")
    if isinstance(source, Mapping) and isinstance(source.get("content"), list):
        kept["source"] = {**source, "content": _unmarked_all(source["content"])}
    return kept
