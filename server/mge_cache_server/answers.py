"""What becomes of a bought answer: what the caller gets, what is kept, and what is found again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mge_cache_server.generation import COMPLETE, AnswerSource, Completion
from mge_cache_server.model import Answer

if TYPE_CHECKING:
    from mge_cache_server.generation import Reply
    from mge_cache_server.model import Entry, Hit

_TEXT = "text/plain; charset=utf-8"
_STOP_SEQUENCE = f"{_TEXT}; stop-reason=stop_sequence"


def completion(reply: Reply) -> Completion:
    """Return what the caller gets for whom an answer was bought."""
    return Completion(
        text=reply.text,
        stop_reason=reply.stop_reason,
        usage=reply.usage,
        cost_usd=reply.cost_usd,
        cost_saved_usd=0.0,
        source=AnswerSource.UPSTREAM,
        batch_size=reply.batch_size,
        strategy=reply.strategy,
    )


def entry_answer(reply: Reply, model: str) -> Answer:
    """Return an answer as the cache keeps it."""
    return Answer(
        body=reply.text.encode(),
        content_type=_TEXT if reply.stop_reason == "end_turn" else _STOP_SEQUENCE,
        model=model,
        usage=reply.usage,
        cost_usd=reply.cost_usd,
        compute_s=reply.compute_s,
    )


def may_be_kept(reply: Reply, *, max_bytes: int) -> bool:
    """Whether an answer is whole, says something, and fits into the cache."""
    whole = reply.stop_reason in COMPLETE and bool(reply.text.strip())
    return whole and len(reply.text.encode()) <= max_bytes


def from_cache(hit: Hit[Entry]) -> Completion | None:
    """Return what the cache has; None if it is no text, but something that others have stored."""
    answer = hit.entry.answer
    if not answer.content_type.startswith("text/"):
        return None
    try:
        text = answer.body.decode()
    except UnicodeDecodeError:
        return None
    return Completion(
        text=text,
        stop_reason="stop_sequence" if answer.content_type == _STOP_SEQUENCE else "end_turn",
        usage=answer.usage,
        cost_usd=0.0,
        cost_saved_usd=answer.cost_usd,
        source=AnswerSource.CACHE,
        degraded=hit.degraded,
    )
