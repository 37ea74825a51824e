"""What the server answers, how many tokens it counts, how long it takes and what it bills."""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass

FIRST_TOKEN_S = (0.3, 0.8)
"""Bounds of the time to the first token, before scaling."""
TOKENS_PER_S = 80.0
"""Pace of the tokens after the first, before scaling."""
ANSWER_TOKENS = (40, 160)
"""Bounds of the length of an answer that ``max_tokens`` does not cut."""

PRICES_USD_PER_MILLION: dict[str, tuple[float, float]] = {
    "claude-sonnet-4-5": (3.0, 15.0),
    "claude-sonnet-5-5": (2.0, 10.0),
}
"""What a million input and output tokens cost, by model; other models are not found."""

_TOKEN = re.compile(r"\w{1,6}|[^\w\s]")
_MESSAGE_OVERHEAD_TOKENS = 4
_WORD = re.compile(r"[A-Za-z_]{3,}")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its text in tokens, its usage, and its delays in seconds."""

    tokens: tuple[str, ...]
    cut: bool
    input_tokens: int
    first_token_s: float
    token_s: float

    @property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.tokens)

    @property
    def output_tokens(self) -> int:
        """The number of tokens of the text."""
        return len(self.tokens)

    @property
    def duration_s(self) -> float:
        """The time from the request to the last token."""
        return self.first_token_s + self.token_s * self.output_tokens


def count_tokens(texts: list[str]) -> int:
    """Approximate the tokens of a prompt: runs of up to six word characters, and punctuation."""
    return sum(len(_TOKEN.findall(text)) + _MESSAGE_OVERHEAD_TOKENS for text in texts)


def reply_to(texts: list[str], *, model: str, max_tokens: int, delay: float) -> Reply:
    """Make up the answer to a prompt; ``delay`` scales the delays (0: none).

    The answer is made of the prompt's own words, and depends on the prompt and the model only.
    """
    digest = hashlib.sha256("\0".join([model, *texts]).encode()).digest()
    chance = random.Random(digest)
    first_token_s = chance.uniform(*FIRST_TOKEN_S) * delay
    wanted = chance.randint(*ANSWER_TOKENS)
    words = _WORD.findall(texts[-1]) or ["nothing"]
    tokens = ["This", *(f" {chance.choice(words)}" for _ in range(wanted - 2)), "."]
    return Reply(
        tokens=tuple(tokens[:max_tokens]),
        cut=wanted > max_tokens,
        input_tokens=count_tokens(texts),
        first_token_s=first_token_s,
        token_s=delay / TOKENS_PER_S,
    )


def bill_usd(model: str, input_tokens: int, output_tokens: int) -> float:
    """Return what a call costs, in US dollars. ``KeyError`` for a model that is not sold here."""
    input_usd, output_usd = PRICES_USD_PER_MILLION[model]
    return (input_tokens * input_usd + output_tokens * output_usd) / 1e6
