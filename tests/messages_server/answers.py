"""What the server answers, how many tokens it counts, how long it takes and what it bills."""

from __future__ import annotations

import hashlib
import random
import re
from dataclasses import dataclass
from time import perf_counter

from tests.messages_server.merged import read_merged

PRICES_USD_PER_MILLION: dict[str, tuple[float, float]] = {
    "claude-haiku-4-5": (1.0, 5.0),
    "claude-sonnet-4-5": (3.0, 15.0),
    "claude-sonnet-5-5": (2.0, 10.0),
}
"""What a million input and output tokens cost, by model; other models are not found."""

_TOKEN = re.compile(r"\w{1,6}|[^\w\s]")
_MESSAGE_OVERHEAD_TOKENS = 4
_WORD = re.compile(r"[A-Za-z_]{3,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How fast answers come and how long they are, before scaling: bounds of what chance decides.

    ``answer_tokens`` are those of an answer that ``max_tokens`` does not cut. ``stamped``: each
    token is the time (``perf_counter``, the same for all processes here) at which it is written.
    """

    first_token_s: tuple[float, float] = (0.3, 0.8)
    tokens_per_s: float = 80.0
    answer_tokens: tuple[int, int] = (40, 160)
    stamped: bool = False


USUAL = Pace()


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


def stamp() -> str:
    """Return the present time as the text of a token."""
    return f"{perf_counter():.6f} "


def reply_to(
    texts: list[str], *, model: str, max_tokens: int, delay: float, pace: Pace = USUAL
) -> Reply:
    """Make up the answer to a prompt; ``delay`` scales the delays (0: none).

    The answer is made of the prompt's own words, and depends on the prompt and the model only. A
    call that the sidecar has merged gets all answers that its requests would get alone.
    """
    first_token_s = _chance(texts, model).uniform(*pace.first_token_s) * delay
    merged = read_merged(texts)
    if merged is None:
        tokens = _tokens(texts, model, pace)
    else:
        system, sight = merged
        tokens = []
        for number, request in sight.requests.items():
            alone = _tokens([*([system] if system else []), request], model, pace)
            tokens += [f"{sight.marker(number)}\n", *alone, "\n"]
        tokens.append(sight.end)
    return Reply(
        tokens=tuple(tokens[:max_tokens]),
        cut=len(tokens) > max_tokens,
        input_tokens=count_tokens(texts),
        first_token_s=first_token_s,
        token_s=delay / pace.tokens_per_s,
    )


def _chance(texts: list[str], model: str) -> random.Random:
    return random.Random(hashlib.sha256("\0".join([model, *texts]).encode()).digest())


def _tokens(texts: list[str], model: str, pace: Pace) -> list[str]:
    chance = _chance(texts, model)
    chance.random()  # the time to the first token
    wanted = chance.randint(*pace.answer_tokens)
    words = _WORD.findall(texts[-1]) or ["nothing"]
    return ["This", *(f" {chance.choice(words)}" for _ in range(wanted - 2)), "."]


def bill_usd(model: str, input_tokens: int, output_tokens: int) -> float:
    """Return what a call costs, in US dollars. ``KeyError`` for a model that is not sold here."""
    input_usd, output_usd = PRICES_USD_PER_MILLION[model]
    return (input_tokens * input_usd + output_tokens * output_usd) / 1e6
