"""Names in the store, tags, and leases as bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mge_cache_server import keys
from mge_cache_server.errors import InvalidRequestError
from mge_cache_server.keys import KeyNames, pack_lease, unpack_lease
from mge_cache_server.model import EntryKey, Lease
from tests.strategies import entry_keys, leases, unicode_text
from tests.unit.scene import digest, entry_key

NAMES = KeyNames("mge")
LEASE = Lease(entry_key(7, "a.b"), bytes(range(16)), 1_800_000_000_000_000, 1.25)


def test_names_are_as_documented() -> None:
    key = EntryKey("a.b", bytes(range(32)))
    hexed = bytes(range(32)).hex()
    assert NAMES.entry(key) == f"mge:{{a.b:{hexed}}}:e"
    assert NAMES.lease(key) == f"mge:{{a.b:{hexed}}}:l"
    assert NAMES.epochs("a.b") == "mge:{a.b}:epochs"
    assert NAMES.feed_channel == "mge:feed"


@given(first=entry_keys, second=entry_keys)
def test_names_differ_as_their_keys_do(first: EntryKey, second: EntryKey) -> None:
    made = [
        name
        for key in {first, second}
        for name in (NAMES.entry(key), NAMES.lease(key), NAMES.epochs(key.namespace))
    ]
    spaces = {first.namespace, second.namespace}
    assert len(set(made)) == 2 * len({first, second}) + len(spaces)


@given(key=entry_keys, prefix=st.text("abc:-{}", max_size=8))
def test_a_digest_is_read_back_from_a_name(key: EntryKey, prefix: str) -> None:
    assert KeyNames(prefix).digest(KeyNames(prefix).entry(key).encode()) == key.digest


def test_entry_and_lease_share_the_slot_of_a_cluster() -> None:
    def hash_tag(name: str) -> str:
        return name[name.index("{") + 1 : name.index("}")]

    key = entry_key()
    assert hash_tag(NAMES.entry(key)) == hash_tag(NAMES.lease(key))
    assert hash_tag(NAMES.entry(key)) != hash_tag(NAMES.entry(entry_key(2)))


@given(text=unicode_text)
def test_tags_of_different_kinds_never_meet(text: str) -> None:
    made = {
        keys.masterplan_tag(text),
        keys.user_tag(text),
        keys.model_tag(text),
        keys.key_tag(digest(1)),
        "*",
    }
    assert len(made) == 5


@given(lease=leases)
def test_a_lease_is_read_back(lease: Lease) -> None:
    assert unpack_lease(pack_lease(lease)) == lease


@given(garbage=st.binary(max_size=140))
def test_garbage_is_refused_or_a_lease_of_some_namespace(garbage: bytes) -> None:
    try:
        lease = unpack_lease(garbage)
    except InvalidRequestError:
        return
    assert keys.NAMESPACE_PATTERN.fullmatch(lease.key.namespace)
    assert pack_lease(lease) == garbage


def test_a_lease_that_was_cut_short_is_refused() -> None:
    packed = pack_lease(LEASE)
    head = len(packed) - len("a.b")
    for length in range(head + 1):
        with pytest.raises(InvalidRequestError):
            unpack_lease(packed[:length])


@pytest.mark.parametrize("namespace", [b"a b", b"a\n", b"\xff", b"a" * 65, b"a\0", b"a/b", b"{a}"])
def test_a_lease_of_an_impossible_namespace_is_refused(namespace: bytes) -> None:
    packed = pack_lease(LEASE)[: -len("a.b")] + namespace
    with pytest.raises(InvalidRequestError):
        unpack_lease(packed)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_a_lease_of_another_version_is_refused(version: int) -> None:
    with pytest.raises(InvalidRequestError):
        unpack_lease(bytes([version]) + pack_lease(LEASE)[1:])
