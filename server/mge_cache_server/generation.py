"""The types of ``Generate``: what is asked, and what came of it. Knows no gRPC, no Anthropic."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mge_cache_server.model import EntryKey, Usage

MAX_TOKENS_DEFAULT = 4096
"""Of an answer whose request does not say. Part of the contract: it changes answers."""

DEFERRED_MAX_S = 172_800.0
"""After so long, a deferred batch is given up. Anthropic's end within a day."""

COMPLETE = frozenset({"end_turn", "stop_sequence"})
"""The stop reasons of answers that are whole, and may be cached."""


class Strategy(enum.Enum):
    """How Anthropic is asked; see the contract."""

    FAN_OUT = "fan_out"
    MERGE = "merge"
    DEFERRED = "deferred"


class CacheUse(enum.Enum):
    """How a request may use the prompt cache; see the contract."""

    USE = "use"
    REFRESH = "refresh"
    BYPASS = "bypass"


class AnswerSource(enum.Enum):
    """Where an answer came from."""

    UPSTREAM = "upstream"
    CACHE = "cache"
    FLIGHT = "flight"


@dataclass(frozen=True, slots=True)
class Question:
    """What Anthropic is asked, and the key under which its answer is kept.

    ``body`` has the members of the Messages call but "messages" and "stream". ``prompt`` is the
    text where the messages are that one text of the user, else None. Questions of the same
    ``group`` (a digest) agree in everything but their messages: they may share a batch.
    ``size_bytes`` is about what it takes to send.
    """

    key: EntryKey
    model: str
    body: Mapping[str, Any]
    messages: Sequence[Any]
    prompt: str | None
    group: bytes
    size_bytes: int

    @property
    def max_tokens(self) -> int:
        """The bound on the answer's length."""
        value: int = self.body["max_tokens"]
        return value


@dataclass(frozen=True, slots=True)
class Request:
    """A question with what its caller wants done with it; ``ttl_s`` 0: the default."""

    question: Question
    tags: tuple[str, ...]
    ttl_s: float
    cache: CacheUse
    strategy: Strategy
    id: str = ""
    """The caller's name for it: a deferred one is fetched by it, within its namespace."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as it was bought: the whole text, and this question's share of usage and cost.

    ``priced``: whether the cost is known (else ``cost_usd`` is 0). ``compute_s``: how long it took.
    """

    text: str
    stop_reason: str
    usage: Usage
    cost_usd: float
    priced: bool
    compute_s: float
    batch_size: int
    strategy: Strategy


@dataclass(frozen=True, slots=True)
class Completion:
    """What a caller gets. ``cost_saved_usd`` is what it would have cost, where it was not paid."""

    text: str
    stop_reason: str
    usage: Usage
    cost_usd: float
    cost_saved_usd: float
    source: AnswerSource
    batch_size: int = 0
    strategy: Strategy | None = None
    degraded: bool = False
