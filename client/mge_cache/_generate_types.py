"""What goes into Generate and what comes out. Nothing here does I/O or knows protobuf.

Answers are left out of every ``repr``, as in ``_types``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mge_cache._types import PromptRequest, Usage
    from mge_cache.errors import MgeCacheError


class CacheUse(enum.Enum):
    """How a request may use the prompt cache."""

    USE = "use"
    """Look the answer up, and store it where it had to be asked for."""
    REFRESH = "refresh"
    """Ask anew, and store the answer in place of the one that may be there."""
    BYPASS = "bypass"
    """Neither look up nor store, and share nothing with equal requests."""


class Strategy(enum.Enum):
    """How the sidecar asks Anthropic."""

    FAN_OUT = "fan_out"
    """A call for each request, side by side."""
    MERGE = "merge"
    """One call for all requests of a batch. It can change answers."""
    DEFERRED = "deferred"
    """Anthropic's Message Batches: half the price, within minutes or hours."""


class AnswerSource(enum.Enum):
    """Where the answer to a request came from."""

    UPSTREAM = "upstream"
    """Asked for by this request."""
    CACHE = "cache"
    """The cache had it."""
    FLIGHT = "flight"
    """An equal request was under way."""


@dataclass(frozen=True, slots=True)
class Delta:
    """The next part of an answer.

    ``restart``: the text so far is void, and this is the beginning of another one (it can be empty
    if nothing of that is there yet).
    """

    text: str = field(repr=False)
    restart: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A complete answer.

    ``stop_reason`` is Anthropic's word: "end_turn", "max_tokens", "refusal", ... ``usage`` is what
    the request consumed: in a merged batch its share; from the cache or a flight what it took when
    it was asked for. ``cost_usd`` is what it cost now, ``cost_saved_usd`` what it would have cost.
    ``batch_size`` counts the requests of its batch (0 from the cache), ``strategy`` says how it was
    asked for in the end (None from the cache). ``degraded``: see ``Hit``.
    """

    text: str = field(repr=False)
    stop_reason: str
    usage: Usage
    cost_usd: float
    cost_saved_usd: float
    source: AnswerSource
    batch_size: int
    strategy: Strategy | None
    degraded: bool
    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Generated:
    """What became of one request of ``generate_many``: either ``completion`` or ``error``.

    ``index`` is its place among the requests, from 0.
    """

    index: int
    request: PromptRequest
    completion: Completion | None = None
    error: MgeCacheError | None = None

    def result(self) -> Completion:
        """Return the completion, or raise the error."""
        if self.error is not None:
            raise self.error
        if self.completion is None:
            raise ValueError("neither a completion nor an error")
        return self.completion
