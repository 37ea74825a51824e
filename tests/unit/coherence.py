"""A plain model of what two sidecars on one store may answer.

What a look-up may never return
    an answer to another key or namespace, or one whose time is over;
    an answer whose computation began before an invalidation that was complete when the look-up
    began, and that the sidecar can know of: because it made it, because the feed has told it, or
    because its feed was not live (it then asks the store, unless that is away as well).

What is allowed
    While a feed is live, an event may be under way: until it arrives, or until the feed has been
    silent for its timeout, the sidecar may answer what the event invalidates.
    A look-up that overlaps an earlier one of the same key in the same sidecar shares its view: it
    counts as begun when that one began.

What a look-up must return
    the answer that the store has, if it is valid and nothing is held up: no needless misses.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import strategies as st

from mge_cache_server import keys
from mge_cache_server.store import EVERYTHING
from tests.unit.scene import entry_key

if TYPE_CHECKING:
    from mge_cache_server.model import EntryKey, Lease


NAMESPACES = ("ns", "ns2")
KEYS = (entry_key(1, "ns"), entry_key(2, "ns"), entry_key(1, "ns2"))
TAGS = (keys.masterplan_tag("p"), keys.user_tag("a"))
MODEL_TAG = keys.model_tag("m")

sidecars = st.integers(0, 1)
some_keys = st.sampled_from(KEYS)
some_tags = st.frozensets(st.sampled_from(TAGS))
invalidated_tags = st.one_of(
    st.sampled_from((*TAGS, MODEL_TAG, EVERYTHING)),
    st.sampled_from([keys.key_tag(key.digest) for key in KEYS]),
)
held_up = st.tuples(
    st.sampled_from(("lookup", "put", "read_epochs", "advance", "release_lease")),
    st.sampled_from(("before", "after")),
)


@dataclass(slots=True)
class Fill:
    """An answer: when its computation began, and until when it may be served."""

    key: EntryKey
    tags: frozenset[str]
    begun: int
    expires_s: float
    refused: bool = False


@dataclass(slots=True)
class Invalidation:
    """Takes effect between ``begun`` and ``over``; ``known`` to some sidecars.

    ``complete``: its caller was told that it is done. A call that failed may have had its effect.
    """

    namespace: str
    tag: str
    begun: int
    known: set[int]
    over: float = float("inf")
    complete: bool = False

    def ends(self, fill: Fill) -> bool:
        """Whether it surely makes a fill invalid."""
        return self.complete and self._names(fill) and fill.begun < self.begun

    def may_end(self, fill: Fill) -> bool:
        """Whether it possibly makes a fill invalid."""
        return self._names(fill) and fill.begun < self.over

    def _names(self, fill: Fill) -> bool:
        if self.namespace != fill.key.namespace:
            return False
        return self.tag == EVERYTHING or self.tag in fill.tags


@dataclass(slots=True)
class LookUp:
    """A look-up as it began: by which sidecar, when, and what that had to know then."""

    cache: int
    key: EntryKey
    patient: bool
    begun: int
    had_to_know: list[Invalidation]
    disturbed: bool = False
    ended_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Granted:
    """A lease, and when its caller began to compute.

    ``dated``: the store dated it at that moment. Else it counts from an earlier tick, and more
    invalidations than those of the model may overtake its answer.
    """

    lease: Lease
    begun: int
    dated: bool


@dataclass(slots=True)
class Model:
    """Everything that happened, in the order in which it was complete."""

    seq: int = 0
    fills: dict[bytes, Fill] = field(default_factory=dict)
    invalidations: list[Invalidation] = field(default_factory=list)
    by_tick: dict[int, Invalidation] = field(default_factory=dict)
    records: dict[EntryKey, bytes] = field(default_factory=dict)

    def tick(self) -> int:
        """Return the next number in the order of things."""
        self.seq += 1
        return self.seq

    def begin(
        self, cache: int, key: EntryKey, *, patient: bool, asks: bool, overlapping: list[LookUp]
    ) -> LookUp:
        """Begin a look-up. ``asks``: the sidecar's feed is not live, its store is there."""
        begun = min([self.tick(), *(each.begun for each in overlapping)])
        had_to_know = [
            each
            for each in self.invalidations
            if each.over < begun and (cache in each.known or asks)
        ]
        for each in overlapping:
            had_to_know = [one for one in had_to_know if one in each.had_to_know]
        return LookUp(cache, key, patient, begun, had_to_know)

    def check_hit(self, look_up: LookUp, body: bytes, now_s: float) -> None:
        """Raise AssertionError if the answer must not be served."""
        fill = self.fills[body]
        assert fill.key == look_up.key, "an answer to something else"
        assert now_s < fill.expires_s, "outlived its time"
        assert not fill.refused, "an overtaken answer"
        stale = [each for each in look_up.had_to_know if each.ends(fill)]
        assert not stale, f"invalidated by {stale}"

    def valid_record(self, key: EntryKey, now_s: float) -> bytes | None:
        """Return what the store must have, if anything."""
        body = self.records.get(key)
        if body is None or self.fills[body].expires_s <= now_s:
            return None
        ended = any(each.may_end(self.fills[body]) for each in self.invalidations)
        return None if ended else body
