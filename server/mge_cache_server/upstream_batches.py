"""Anthropic's Message Batches: sent, asked for, read. Through ``upstream``, which has the SDK.

Everything here raises AskError, and belongs to the event loop's thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from mge_cache_server.errors import AskError, UpstreamRefusedError, UpstreamUnavailableError
from mge_cache_server.model import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence
    from datetime import datetime

    from mge_cache_server.generation import Question
    from mge_cache_server.upstream import Upstream

_OURS_TO_MEND: Final = frozenset(
    {"invalid_request_error", "not_found_error", "permission_error", "request_too_large"}
)
"""Errors of single requests that repeating cannot help."""


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """The answer to one request of a batch."""

    custom_id: str
    text: str
    stop_reason: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class BatchFailure:
    """Why there is no answer to one request of a batch."""

    custom_id: str
    error: AskError


BatchResult = BatchAnswer | BatchFailure


@dataclass(frozen=True, slots=True)
class BatchSeen:
    """A batch that Anthropic has: ``ended`` says that it has results."""

    batch_id: str
    created_s: float
    size: int
    ended: bool


class BatchCalls(Protocol):
    """What is asked of Anthropic about batches."""

    @property
    def has_key(self) -> bool:
        """Whether Anthropic can be asked at all."""

    async def create(self, requests: Sequence[tuple[str, Question]]) -> str:
        """Send a batch; returns its id. It is sent once: repeating could pay twice."""

    async def ended(self, batch_id: str) -> bool:
        """Whether the results are there."""

    def results(self, batch_id: str) -> AsyncGenerator[BatchResult, None]:
        """Yield the results of a batch that has ended, in any order."""

    async def recent(self) -> list[BatchSeen]:
        """List the latest batches, at most 100, whoever sent them."""


class UpstreamBatches:
    """Implements ``BatchCalls`` with Anthropic itself."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream

    @property
    def has_key(self) -> bool:
        """See ``BatchCalls.has_key``."""
        return self._upstream.has_key

    async def create(self, requests: Sequence[tuple[str, Question]]) -> str:
        """See ``BatchCalls.create``."""
        body = [
            {"custom_id": name, "params": {**question.body, "messages": list(question.messages)}}
            for name, question in requests
        ]
        async with self._upstream.client() as sdk:
            # Where the connection breaks, nobody knows whether Anthropic has the batch.
            once = sdk.with_options(max_retries=0)
            made = await once.messages.batches.create(requests=[], extra_body={"requests": body})
        return made.id

    async def ended(self, batch_id: str) -> bool:
        """See ``BatchCalls.ended``."""
        async with self._upstream.client() as sdk:
            seen = await sdk.messages.batches.retrieve(batch_id)
        return seen.processing_status == "ended"

    async def results(self, batch_id: str) -> AsyncGenerator[BatchResult, None]:
        """See ``BatchCalls.results``."""
        async with self._upstream.client() as sdk:
            lines = await sdk.messages.batches.results(batch_id)
            try:
                async for line in lines:
                    yield _result(line.custom_id, line.result)
            except (ValueError, AttributeError, TypeError):
                # Not `from exc`: the error may carry the line.
                raise UpstreamUnavailableError("Anthropic's results are malformed") from None
            finally:
                await lines.close()

    async def recent(self) -> list[BatchSeen]:
        """See ``BatchCalls.recent``."""
        async with self._upstream.client() as sdk:
            page = await sdk.messages.batches.list(limit=100)
        return [
            BatchSeen(
                batch_id=each.id,
                created_s=_seconds(each.created_at),
                size=_size(each.request_counts),
                ended=each.processing_status == "ended",
            )
            for each in page.data
        ]


def _result(custom_id: str, result: Any) -> BatchResult:
    match result.type:
        case "succeeded":
            message = result.message
            text = "".join(block.text for block in message.content if block.type == "text")
            return BatchAnswer(custom_id, text, message.stop_reason or "", _usage(message.usage))
        case "errored":
            return BatchFailure(custom_id, _error(result.error.error))
        case "expired":
            problem = "Anthropic did not get to it within 24 hours"
        case "canceled":
            problem = "the batch was canceled at Anthropic"
        case _:
            problem = "Anthropic's result is of an unknown kind"
    return BatchFailure(custom_id, UpstreamUnavailableError(problem))


def _error(error: Any) -> AskError:
    # Its message may quote the request: the type says enough.
    kind = str(error.type)
    if kind in _OURS_TO_MEND:
        return UpstreamRefusedError(f"Anthropic refuses the request: {kind}")
    return UpstreamUnavailableError(f"Anthropic failed: {kind}")


def _usage(usage: Any) -> Usage:
    return Usage(
        usage.input_tokens or 0,
        usage.output_tokens or 0,
        usage.cache_read_input_tokens or 0,
        usage.cache_creation_input_tokens or 0,
    )


def _size(counts: Any) -> int:
    over: int = counts.canceled + counts.errored + counts.expired + counts.succeeded
    return over + int(counts.processing)


def _seconds(moment: datetime) -> float:
    return moment.timestamp()
