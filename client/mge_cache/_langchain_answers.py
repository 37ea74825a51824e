"""LangChain's generations as answers of the cache, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation

from mge_cache import _shapes
from mge_cache._shape_errors import UnreadableError
from mge_cache._types import Answer, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MODEL = "langchain"
"""The model of answers that do not say theirs. It has no price."""

_SCHEMA = b"mge-langchain/1\n"
_CONTENT_TYPE = "application/vnd.mge-cache.langchain+json"

_MODEL_NAMES = ("model_name", "model", "model_id")
_REASON_NAMES = ("stop_reason", "finish_reason", "done_reason")
_INCOMPLETE = frozenset(
    {
        "content_filter",
        "error",
        "length",
        "max_tokens",
        "model_context_window_exceeded",
        "model_length",
        "pause_turn",
        "recitation",
        "refusal",
        "safety",
    }
)


def answer_of(generations: Sequence[Generation]) -> Answer:
    """Write generations. Raises UnfaithfulError for what could not be read back as it is."""
    body = _SCHEMA + _shapes.to_json([_with_plain_text(each) for each in generations])
    return Answer(body, content_type=_CONTENT_TYPE, usage=_usage(generations))


def generations_of(answer: Answer) -> list[Generation]:
    """Read generations. Raises UnreadableError for anything else."""
    if not answer.body.startswith(_SCHEMA):
        raise UnreadableError("not readable: it was stored by something else")
    generations = _shapes.of_json(answer.body[len(_SCHEMA) :])
    if not isinstance(generations, list) or not all(
        isinstance(each, Generation) for each in generations
    ):
        raise UnreadableError("not readable: these are no generations")
    for generation in generations:
        if isinstance(generation, ChatGeneration) and generation.text == generation.message.text:
            generation.text = generation.message.text  # of LangChain's own kind of text again
    return generations


def model_of(generations: Sequence[Generation]) -> str:
    """Return the model that answered, as the provider calls it."""
    found = _first(generations, _MODEL_NAMES)
    return found if isinstance(found, str) and found else MODEL


def is_complete(generations: Sequence[Generation]) -> bool:
    """Whether these are answers: none is cut, refused, or a tool call that cannot be read."""
    for generation in generations:
        reason = _first([generation], _REASON_NAMES)
        if isinstance(reason, str) and reason.lower() in _INCOMPLETE:
            return False
        message = getattr(generation, "message", None)
        if isinstance(message, AIMessage) and message.invalid_tool_calls:
            return False
    return bool(generations)


def _with_plain_text(generation: Generation) -> Generation:
    if type(generation.text) is str:
        return generation
    return generation.model_copy(update={"text": str(generation.text)})


def _first(generations: Sequence[Generation], names: Sequence[str]) -> Any:
    for known in _metadata(generations):
        for name in names:
            if known.get(name):
                return known[name]
    return None


def _metadata(generations: Sequence[Generation]) -> Iterator[Mapping[str, Any]]:
    for generation in generations:
        if isinstance(generation, ChatGeneration):
            yield generation.message.response_metadata
        if generation.generation_info:
            yield generation.generation_info


def _usage(generations: Sequence[Generation]) -> Usage | None:
    """Return what the call consumed. Each of several generations tells of the whole call."""
    for generation in generations:
        if not isinstance(generation, ChatGeneration):
            continue
        used = getattr(generation.message, "usage_metadata", None)
        if used:
            details = used.get("input_token_details") or {}
            read = details.get("cache_read") or 0
            write = details.get("cache_creation") or 0
            return Usage(
                # LangChain counts those of the provider's own cache among the input.
                input_tokens=max(0, used["input_tokens"] - read - write),
                output_tokens=used["output_tokens"],
                cache_read_tokens=read,
                cache_write_tokens=write,
            )
    return None
