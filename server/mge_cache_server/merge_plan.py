"""Which requests gain by being merged, and how the bill of a merged call is shared out.

All in tokens and dollars, before the call: S tokens of system prompt, P of a request, O of its
answer, I of instructions, M of markers. n requests cost, apart and merged (docs/merge.md has an
example)::

    apart:   Σ (S + P) of input,            Σ O of output
    merged:  S + I + Σ (P + M) of input,    Σ (O + M) + M of output

The first is not what ``fan_out`` pays where S is long enough for Anthropic's prompt cache: then the
first request writes S to it for 1.25 times the price of input, and the others read it for 0.1.
That is what merging has to beat. It pays for system prompts of some hundred tokens that are too
short to be cached, and not at all for a handful of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mge_cache_server.merge_prompt import MERGED_MIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mge_cache_server.prices import ModelPrice, Rate

MARKER_TOKENS: Final = 22
"""One marker or fence: 15 for the nonce (24 hex characters, 1.6 to a token), 7 for the rest."""

INSTRUCTION_TOKENS: Final = 250
"""The instructions, with the line that closes the requests."""

ASSUMED_OUTPUT_TOKENS: Final = 512
"""An answer's length is not known before; it is taken to be this, or max_tokens if that is less.

Only what asking again costs depends on it. max_tokens itself, mostly thousands that hardly any
answer needs, would make that so dear that nothing was ever merged.
"""

ASKED_AGAIN_RATE: Final = 0.02
"""The share of parts that are assumed to be asked again alone: a guess, as it depends on the model
and on the requests. ``BatcherStats.asked_alone`` shows what it is."""

CACHE_WRITE: Final = 1.25
CACHE_READ: Final = 0.1
"""Of the price of input; for Anthropic's cache of five minutes."""

_OUTPUT_PER_INPUT = 5.0
"""All of Anthropic's models, from Claude 3 on, have output at five times the price of input."""

_BYTES_PER_TOKEN = 3.5

_CACHEABLE_FROM = (
    ("haiku-4-5", 4096),
    ("opus-4-5", 4096),
    ("opus-4-6", 4096),
    ("opus-4-7", 2048),
    ("3-5-haiku", 2048),
    ("3-haiku", 2048),
    ("opus-4", 1024),
    ("sonnet-4", 1024),
    ("sonnet-5-5", 512),
    ("sonnet-5", 1024),
    ("claude-3", 1024),
)
_CACHEABLE_FROM_LEAST = 512
# Sources disagree on some (Sonnet 4.6: 1024 or 2048). The lower figure is the safe one: too low,
# and requests go apart that could be merged; too high, and merging costs more than it saves.


@dataclass(frozen=True, slots=True)
class Candidate:
    """A request that could be merged: the tokens of its own text, the limit of its answer's."""

    prompt_tokens: int
    max_tokens: int

    @property
    def output_tokens(self) -> int:
        """How long its answer is taken to be."""
        return min(self.max_tokens, ASSUMED_OUTPUT_TOKENS)


def estimate_tokens(text: str) -> int:
    """Return about how many tokens ``text`` is, without asking anybody: its UTF-8 bytes / 3.5.

    Anthropic publishes no tokenizer, only a service that counts. By measurements that others have
    published, English prose has 4.3 characters to a token up to Claude 4.6 and 3.6 from 4.7 on,
    code 3.7 and 2.7; where a character takes three bytes, a token is commonly about one character.
    So this is off by up to a third either way, which moves the length of system prompt from which
    merging pays, and no bill.
    """
    return -int(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)


def cacheable_from(model: str) -> int:
    """Return from how many tokens on Anthropic caches a prefix for ``model``, as published in 2026.

    Shorter prefixes are billed in full, without an error. For a model that is not known it is the
    least of all models: it then counts as cacheable, and merging has to beat that.
    """
    name = model.replace(".", "-")
    return next((least for part, least in _CACHEABLE_FROM if part in name), _CACHEABLE_FROM_LEAST)


def merged_max_tokens(candidates: Sequence[Candidate]) -> int:
    """Return the max_tokens of the merged call: room for every answer and every marker.

    The model's own limit may be lower; a part that is cut by it is asked again alone.
    """
    return sum(item.max_tokens + MARKER_TOKENS for item in candidates) + MARKER_TOKENS


def worth_merging(
    candidates: Sequence[Candidate],
    *,
    system_tokens: int,
    prices: ModelPrice | None,
    cache_min_tokens: int = _CACHEABLE_FROM_LEAST,
    cache_warm: bool = False,
) -> list[bool]:
    """Return for each candidate whether it belongs into one merged call with the others that do.

    It does if what it saves is more than what asking it again costs, times how often that happens.
    As a smaller batch saves less for each, the least worthwhile is dropped, until all that are left
    are worth it, or fewer than two. ``cache_min_tokens`` is ``cacheable_from(model)``.
    ``cache_warm``: the system prompt is in Anthropic's cache already, and both ways would read it
    there; else ``fan_out`` would write it, and the merged call would not use the cache.
    """
    costs = _Costs(
        system_tokens=system_tokens,
        prices=prices,
        cached=system_tokens >= cache_min_tokens,
        warm=cache_warm,
    )
    inside = list(range(len(candidates)))
    while len(inside) >= MERGED_MIN:
        batch = [candidates[index] for index in inside]
        gains = [costs.gain(item, batch) for item in batch]
        least = min(range(len(batch)), key=gains.__getitem__)
        if gains[least] > 0:
            return [index in inside for index in range(len(candidates))]
        del inside[least]
    return [False] * len(candidates)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Costs:
    """What requests with one system prompt cost. ``cached``: Anthropic's cache can hold it."""

    system_tokens: int
    prices: ModelPrice | None
    cached: bool
    warm: bool

    def gain(self, item: Candidate, batch: Sequence[Candidate]) -> float:
        """Return what ``item`` is expected to save in ``batch``; the unit is that of the prices."""
        count = len(batch)
        alone_tokens = self.system_tokens + item.prompt_tokens
        merged_tokens = (
            self.system_tokens
            + INSTRUCTION_TOKENS
            + sum(other.prompt_tokens + MARKER_TOKENS for other in batch)
        )
        # Prices may rise with the length of the input, for all of its tokens.
        alone, merged = map(self._per_token, (alone_tokens, merged_tokens))
        apart = alone.of(self._system_apart(count) + item.prompt_tokens, item.output_tokens)
        together = merged.of(
            (self._system_merged() + INSTRUCTION_TOKENS) / count
            + item.prompt_tokens
            + MARKER_TOKENS,
            item.output_tokens + MARKER_TOKENS + MARKER_TOKENS / count,
        )
        again = alone.of(alone_tokens, item.output_tokens)
        return apart - together - ASKED_AGAIN_RATE * again

    def _system_apart(self, count: int) -> float:
        """Return the share of one of ``count`` in what the system prompt costs, in input tokens."""
        if not self.cached:
            return self.system_tokens
        first = CACHE_READ if self.warm else CACHE_WRITE
        return self.system_tokens * (first + CACHE_READ * (count - 1)) / count

    def _system_merged(self) -> float:
        return self.system_tokens * (CACHE_READ if self.cached and self.warm else 1)

    def _per_token(self, input_tokens: int) -> _PerToken:
        prices = self.prices
        if prices is None or prices.input is None or prices.output is None:
            return _PerToken(1, _OUTPUT_PER_INPUT)
        return _PerToken(_at(prices.input, input_tokens), _at(prices.output, input_tokens))


@dataclass(frozen=True, slots=True)
class _PerToken:
    input: float
    output: float

    def of(self, input_tokens: float, output_tokens: float) -> float:
        return input_tokens * self.input + output_tokens * self.output


def _at(rate: Rate, input_tokens: int) -> float:
    return next(usd for start, usd in rate if input_tokens > start)
