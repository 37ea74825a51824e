"""What goes into the client and what comes out. Nothing here does I/O or knows protobuf.

Prompts, answers and leases are left out of every ``repr``, so that they do not end up in a log.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from mge_cache._key import DEFAULT_NAMESPACE, KEY_BYTES, json_parameters, prompt_key
from mge_cache.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

TEXT = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRequest:
    """Everything that changes the answer to a prompt.

    ``parameters`` holds whatever else the call to the provider is given: system, messages, tools,
    max_tokens, ... as JSON values (numbers, texts, lists, mappings). ``temperature`` unset differs
    from 0. The values are read once, here: changing a list afterwards changes nothing. Requests are
    equal if their keys are. Raises InvalidRequestError for what has no key, e.g. NaN or a lone
    surrogate.
    """

    model: str = field(compare=False)
    prompt: str = field(default="", repr=False, compare=False)
    temperature: float | None = field(default=None, compare=False)
    parameters: Mapping[str, object] = field(default_factory=dict, repr=False, compare=False)
    namespace: str = field(default=DEFAULT_NAMESPACE, compare=False)
    key: bytes = field(init=False, repr=False)
    """The canonical key, 32 bytes."""
    json_parameters: Mapping[str, str] = field(init=False, repr=False, compare=False)
    """The parameters as canonical JSON texts."""

    def __post_init__(self) -> None:
        """Compute the key, which is also the check of the other fields."""
        if not self.model:
            raise InvalidRequestError("model", "is required")
        texts = json_parameters(self.parameters)
        key = prompt_key(
            namespace=self.namespace,
            model=self.model,
            temperature=self.temperature,
            prompt=self.prompt,
            parameters=texts,
        )
        object.__setattr__(self, "json_parameters", MappingProxyType(texts))
        object.__setattr__(self, "key", key)


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptKey:
    """A prompt of which only the canonical key is known. ``model`` is needed to store an answer."""

    key: bytes = field(repr=False)
    model: str = ""
    namespace: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        """Check the length of the key."""
        if len(self.key) != KEY_BYTES:
            raise InvalidRequestError("key", f"must be {KEY_BYTES} bytes, not {len(self.key)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that a call to the provider consumed."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0


class Source(enum.Enum):
    """Where an answer came from."""

    COMPUTED = "computed"
    """It was computed by this call."""
    L1 = "l1"
    """The sidecar's own memory had it."""
    STORE = "store"
    """The store (Redis) had it."""
    FLIGHT = "flight"
    """Another caller computed it while this one waited."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and what it took to get it.

    To store, give ``usage``, or ``cost_usd`` where the sidecar cannot know the price. ``source``
    and ``cost_saved_usd`` are filled in by the client: dollars that were not spent because the
    answer was not computed, 0 if it was or if the model's price is unknown.
    """

    body: bytes = field(repr=False)
    content_type: str = field(default="", kw_only=True)
    usage: Usage | None = field(default=None, kw_only=True)
    cost_usd: float | None = field(default=None, kw_only=True)
    source: Source = field(default=Source.COMPUTED, kw_only=True)
    cost_saved_usd: float = field(default=0.0, kw_only=True)

    @classmethod
    def from_text(
        cls, text: str, *, usage: Usage | None = None, cost_usd: float | None = None
    ) -> Answer:
        """Make an answer of plain text, to be stored as UTF-8."""
        return cls(text.encode(), content_type=TEXT, usage=usage, cost_usd=cost_usd)

    @property
    def text(self) -> str:
        """The body, decoded as UTF-8. Raises UnicodeDecodeError if it is something else."""
        return self.body.decode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to compute a missing answer, for ``ttl_s`` seconds unless it is held."""

    token: bytes = field(repr=False)
    ttl_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A stored answer: ``age_s`` seconds old, to expire in ``remaining_ttl_s``.

    ``degraded``: the store could not be asked whether it has been invalidated.
    """

    answer: Answer
    age_s: float
    remaining_ttl_s: float
    degraded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """No stored answer.

    ``lease`` was handed out if it was asked for and nobody else has it; ``in_progress``: somebody
    has. ``degraded``: the store could not be asked.
    """

    lease: Lease | None = None
    in_progress: bool = False
    degraded: bool = False


class SetStatus(enum.Enum):
    """What became of an answer."""

    STORED = "stored"
    """It is in the store, for every sidecar."""
    KEPT_LOCALLY = "kept_locally"
    """The store could not take it: only this sidecar's memory has it."""
    OVERTAKEN = "overtaken"
    """Not stored: an invalidation of one of its tags overtook its computation."""
    DISABLED = "disabled"
    """Not stored: the cache is switched off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetResult:
    """What became of an answer, its time to live (0 if not stored) and what it cost."""

    status: SetStatus
    ttl_s: float
    cost_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Every time limit of a client, in seconds."""

    get_s: float = 0.1
    """Deadline of a look-up that does not wait, while the sidecar says anything at all."""
    silence_s: float | None = None
    """How long a sidecar may leave the question whether it is there without an answer: it is asked
    that when callers have waited for two fifths of this and nothing at all has come from it, and
    when this is over, they go to their sources. Time in which this process itself did not run does
    not count. None: a twentieth of ``get_s``, so 5 ms. At most ``get_s``."""
    connect_s: float | None = None
    """How long nothing may come on a new connection. None: half of ``get_s``, so 50 ms."""
    set_s: float = 0.5
    """Deadline of storing an answer."""
    invalidate_s: float = 2.0
    """Deadline of an invalidation."""
    stats_s: float = 2.0
    """Deadline of reading the statistics."""
    slice_s: float = 1.0
    """A long wait for another caller's answer is cut into look-ups that wait this long, so that a
    sidecar that hangs is noticed."""
    slice_margin_s: float = 0.5
    """By how much such a look-up's deadline exceeds its wait."""
    lease_ttl_s: float = 3.0
    """Lease that ``get_or_compute`` asks for; it is renewed for as long as the computation runs."""
    hold_s: float = 600.0
    """How long a computation may hold its lease, at most 1 hour."""
    retry_s: float = 0.5
    """How often a sidecar that could not be reached is asked whether it is back, while calls come.
    They go straight to the source meanwhile, and wait for nothing."""

    generate_margin_s: float = 2.0
    """By how much longer a request of ``generate`` is waited for than the sidecar may take: whoever
    hangs, it ends then."""

    def __post_init__(self) -> None:
        """Check what would stop the watch over a silent sidecar, or keep it busy."""
        for name in ("silence_s", "connect_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InvalidRequestError(name, "must be more than 0, or None")

    @property
    def silence_limit_s(self) -> float:
        """``silence_s``, or what stands for it."""
        return self.get_s / 20 if self.silence_s is None else min(self.silence_s, self.get_s)

    @property
    def connect_limit_s(self) -> float:
        """``connect_s``, or what stands for it."""
        return self.get_s / 2 if self.connect_s is None else min(self.connect_s, self.get_s)

    def get_deadline_s(self, wait_s: float) -> float:
        """Return the deadline of a look-up that waits ``wait_s``."""
        return wait_s + self.slice_margin_s if wait_s else self.get_s
