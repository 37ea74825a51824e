"""Conversions; that each limit is refused by name is shown in tests/rpc, over a real channel."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from mge_cache import PromptRequest
from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache_server import keys, wire, wire_responses
from mge_cache_server.errors import InvalidRequestError
from mge_cache_server.model import EntryKey, Lease
from mge_cache_server.store import EVERYTHING

LIMITS = wire.Limits(
    answer_max_bytes=100,
    prompt_max_bytes=1000,
    tags_max=3,
    ttl_max_s=3600.0,
    wait_max_s=60.0,
    lease_ttl_s=30.0,
)
KEY = EntryKey("default", bytes(range(32)))


def test_the_default_namespace_has_a_name() -> None:
    assert wire.namespace("") == "default"
    by_default = wire.entry_key(pb.PromptIdentity(key=KEY.digest), LIMITS, model_required=False)
    by_name = pb.PromptIdentity(namespace="default", key=KEY.digest)
    assert by_default == wire.entry_key(by_name, LIMITS, model_required=False) == KEY


def test_the_servers_key_is_the_clients() -> None:
    request = PromptRequest(
        model="m", prompt="é", temperature=0.25, parameters={"stop": "x"}, namespace="n"
    )
    identity = pb.PromptIdentity(
        namespace="n", model="m", prompt="é", temperature=0.25, parameters={"stop": '"x"'}
    )
    assert wire.entry_key(identity, LIMITS, model_required=True) == EntryKey("n", request.key)


def test_unset_and_zero_durations_are_the_default() -> None:
    assert wire.wait(pb.GetPromptRequest(), LIMITS) == 0
    assert wire.lease_ttl(pb.GetPromptRequest(), LIMITS) == 30
    assert wire.lease_ttl(pb.GetPromptRequest(lease_ttl=Duration()), LIMITS) == 30
    assert wire.ttl(pb.SetPromptRequest(), LIMITS) == 0
    assert wire.hold_max(pb.HoldLeaseRequest()) == wire.HOLD_DEFAULT_S


@given(st.floats(min_value=0.001, max_value=3600))
def test_durations_survive_the_way_there_and_back(value_s: float) -> None:
    duration = wire_responses.duration(value_s)
    back_s = wire.seconds("field", duration, default_s=0.0, max_s=3600.0)
    assert back_s == pytest.approx(value_s, abs=2e-9)


@given(
    st.builds(
        Duration,
        seconds=st.integers(-2, 62) | st.integers(-(2**63), 2**63 - 1),
        nanos=st.integers(-999, 999),
    )
)
def test_a_duration_is_within_the_bounds_or_refused(duration: Duration) -> None:
    given_s = duration.seconds + duration.nanos / 1e9
    if given_s == 0 or 1.0 <= given_s <= 60.0:
        taken_s = wire.seconds("field", duration, default_s=5.0, min_s=1.0, max_s=60.0)
        assert taken_s == (given_s or 5.0)
    else:
        with pytest.raises(InvalidRequestError, match=r"^field: must be 1 s to 60 s, or unset$"):
            wire.seconds("field", duration, default_s=5.0, min_s=1.0, max_s=60.0)


def test_tags_are_all_that_an_entry_can_be_invalidated_by() -> None:
    request = pb.SetPromptRequest(
        identity=pb.PromptIdentity(model="m"), masterplan="p", tags=["a", "b", "a"]
    )
    assert wire.tags(request, KEY, LIMITS, own=("model:m",)) == (
        f"key:{KEY.digest.hex()}",
        "model:m",
        "masterplan:p",
        "tag:a",
        "tag:b",
    )


@pytest.mark.parametrize(
    ("request_", "tag"),
    [
        (pb.InvalidateRequest(key=KEY.digest), f"key:{KEY.digest.hex()}"),
        (pb.InvalidateRequest(masterplan="x"), "masterplan:x"),
        (pb.InvalidateRequest(tag="x"), "tag:x"),
        (pb.InvalidateRequest(model="x"), "model:x"),
        (pb.InvalidateRequest(everything=True), EVERYTHING),
    ],
)
def test_what_is_invalidated_is_a_tag_of_its_own_kind(
    request_: pb.InvalidateRequest, tag: str
) -> None:
    assert wire.invalidated_tag(request_) == tag


def test_no_tag_of_a_caller_is_everything() -> None:
    assert wire.invalidated_tag(pb.InvalidateRequest(tag=EVERYTHING)) != EVERYTHING


def test_cost_is_the_callers_or_unknown() -> None:
    assert wire.cost_usd(pb.SetPromptRequest()) is None
    assert wire.cost_usd(pb.SetPromptRequest(cost_usd=0)) == 0


@given(
    st.integers(0, 2**63 - 1),
    st.binary(min_size=16, max_size=16),
    st.integers(10, 600_000),
    st.from_regex(r"\A[A-Za-z0-9._-]{1,64}\Z"),
)
def test_a_lease_comes_back_as_it_was(tick: int, token: bytes, ttl_ms: int, space: str) -> None:
    key = EntryKey(space, KEY.digest)
    lease = Lease(key, token, tick, ttl_ms / 1000)
    assert wire.lease(keys.pack_lease(lease), key) == lease


def test_no_lease_is_none_and_anothers_is_refused() -> None:
    assert wire.lease(b"", KEY) is None
    packed = keys.pack_lease(Lease(KEY, bytes(16), 1, 60.0))
    with pytest.raises(InvalidRequestError, match=r"^lease: was handed out for another key$"):
        wire.lease(packed, EntryKey("default", bytes(32)))
    with pytest.raises(InvalidRequestError, match=r"^lease: was handed out for another key$"):
        wire.lease(packed, EntryKey("other", KEY.digest))


@given(st.binary(max_size=61))
def test_bytes_that_are_no_lease_are_refused(packed: bytes) -> None:
    with pytest.raises(InvalidRequestError, match=r"^lease: not a lease"):
        keys.unpack_lease(packed)
