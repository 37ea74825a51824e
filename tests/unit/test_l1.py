"""The sidecar's own memory: bounded, least recently used first, and nothing after its time."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from mge_cache_server.l1 import OVERHEAD_BYTES, L1Cache
from tests.unit.scene import START_S, Clock, entry_key, make_entry

if TYPE_CHECKING:
    from mge_cache_server.model import EntryKey

ROOM_FOR_3 = 3 * (OVERHEAD_BYTES + 100)
BODY = b"b" * 100


def test_what_was_put_is_there() -> None:
    l1 = L1Cache(ROOM_FOR_3, now=Clock())
    entry = make_entry(tags=("tag:a",))
    l1.put(entry_key(), entry, START_S + 10.0, clock=7)
    resident = l1.get(entry_key())
    assert resident is not None
    assert (resident.entry, resident.clock) == (entry, 7)
    assert l1.remaining_s(resident) == 10.0
    assert l1.get(entry_key(2)) is None
    assert l1.get(entry_key(1, "ns2")) is None


def test_an_entry_ends_with_its_time_and_hits_do_not_extend_it() -> None:
    clock = Clock()
    l1 = L1Cache(ROOM_FOR_3, now=clock)
    l1.put(entry_key(), make_entry(), START_S + 10.0, clock=1)
    clock.advance(9.5)
    resident = l1.get(entry_key())
    assert resident is not None
    assert l1.remaining_s(resident) == 0.5
    clock.advance(0.5)
    assert l1.get(entry_key()) is None
    assert (l1.entries, l1.size_bytes) == (0, 0)


def test_an_entry_without_time_left_is_not_kept() -> None:
    l1 = L1Cache(ROOM_FOR_3, now=Clock())
    for remaining_s in (0.0, -1.0):
        l1.put(entry_key(), make_entry(), START_S + remaining_s, clock=1)
        assert l1.entries == 0


def test_the_one_not_used_for_longest_leaves_first() -> None:
    l1 = L1Cache(ROOM_FOR_3, now=Clock())
    for number in (1, 2, 3):
        l1.put(entry_key(number), make_entry(BODY), START_S + 10.0, clock=1)
    assert l1.get(entry_key(1)) is not None
    l1.put(entry_key(4), make_entry(BODY), START_S + 10.0, clock=1)
    assert l1.get(entry_key(2)) is None
    assert [l1.get(entry_key(number)) is not None for number in (1, 3, 4)] == 3 * [True]
    assert l1.evictions == 1


def test_a_large_entry_makes_as_much_room_as_it_needs() -> None:
    l1 = L1Cache(ROOM_FOR_3, now=Clock())
    for number in (1, 2, 3):
        l1.put(entry_key(number), make_entry(BODY), START_S + 10.0, clock=1)
    l1.put(entry_key(4), make_entry(bytes(1200)), START_S + 10.0, clock=1)
    assert (l1.entries, l1.evictions) == (2, 2)
    assert l1.size_bytes <= l1.max_bytes


def test_an_entry_over_the_bound_is_not_kept_and_drives_nobody_out() -> None:
    l1 = L1Cache(ROOM_FOR_3, now=Clock())
    l1.put(entry_key(1), make_entry(BODY), START_S + 10.0, clock=1)
    l1.put(entry_key(2), make_entry(bytes(ROOM_FOR_3)), START_S + 10.0, clock=1)
    assert l1.get(entry_key(2)) is None
    assert l1.get(entry_key(1)) is not None
    assert l1.evictions == 0
    # The older answer of the same key must not stay, though.
    l1.put(entry_key(1), make_entry(bytes(ROOM_FOR_3)), START_S + 10.0, clock=1)
    assert l1.get(entry_key(1)) is None
    assert l1.size_bytes == 0


def test_a_memory_of_0_bytes_keeps_nothing() -> None:
    l1 = L1Cache(0, now=Clock())
    l1.put(entry_key(), make_entry(b""), START_S + 10.0, clock=1)
    assert (l1.entries, l1.size_bytes, l1.evictions) == (0, 0, 0)


def test_putting_again_replaces() -> None:
    l1 = L1Cache(ROOM_FOR_3, now=Clock())
    l1.put(entry_key(), make_entry(BODY), START_S + 10.0, clock=1)
    size = l1.size_bytes
    l1.put(entry_key(), make_entry(BODY[:50]), START_S + 5.0, clock=2)
    resident = l1.get(entry_key())
    assert resident is not None
    assert (l1.remaining_s(resident), resident.clock) == (5.0, 2)
    assert (l1.entries, l1.size_bytes, l1.evictions) == (1, size - 50, 0)


def test_a_namespace_is_forgotten_alone() -> None:
    l1 = L1Cache(ROOM_FOR_3, now=Clock())
    for key in (entry_key(1), entry_key(2), entry_key(1, "ns2")):
        l1.put(key, make_entry(), START_S + 10.0, clock=1)
    l1.discard_namespace("ns")
    assert l1.entries == 1
    assert l1.get(entry_key(1, "ns2")) is not None
    l1.discard(entry_key(1))  # it is not there: nothing happens
    assert l1.entries == 1


operations = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 7), st.integers(0, 3000), st.floats(0.1, 5.0)),
        st.tuples(st.just("get"), st.integers(0, 7), st.just(0), st.just(0.0)),
        st.tuples(st.just("discard"), st.integers(0, 7), st.just(0), st.just(0.0)),
        st.tuples(st.just("pass"), st.just(0), st.just(0), st.floats(0.1, 3.0)),
    ),
    max_size=60,
)


@given(operations=operations)
def test_it_behaves_as_a_plain_model(
    operations: list[tuple[str, int, int, float]],
) -> None:
    clock = Clock(0.0)
    l1 = L1Cache(6000, now=clock)
    model: OrderedDict[EntryKey, tuple[int, float]] = OrderedDict()
    for kind, number, length, seconds in operations:
        key = entry_key(number)
        if kind == "pass":
            clock.advance(seconds)
        elif kind == "discard":
            l1.discard(key)
            model.pop(key, None)
        elif kind == "get":
            if key in model and model[key][1] <= clock():
                del model[key]
            assert (l1.get(key) is not None) == (key in model)
            if key in model:
                model.move_to_end(key)
        else:
            l1.put(key, make_entry(bytes(length)), clock() + seconds, clock=1)
            model.pop(key, None)
            model[key] = (OVERHEAD_BYTES + length, clock() + seconds)
            while sum(size for size, _ in model.values()) > 6000:
                model.popitem(last=False)
        assert l1.size_bytes == sum(size for size, _ in model.values()) <= 6000
        assert l1.entries == len(model)
