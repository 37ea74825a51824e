"""Hypothesis strategies that several tests share."""

from __future__ import annotations

import string

from google.protobuf.duration_pb2 import Duration
from hypothesis import strategies as st

from mge_cache.v1 import cache_service_pb2 as pb
from mge_cache_server.model import Answer, Entry, EntryKey, Lease, Usage

unicode_text = st.text(st.characters(codec="utf-8"), max_size=20)
"""Any text that has a UTF-8 form, that is without surrogates."""

lone_surrogates = st.integers(0xD800, 0xDFFF).map(chr)

namespaces = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=64)

temperatures = st.none() | st.floats(min_value=0, allow_nan=False, allow_infinity=False)

json_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | unicode_text
)

json_values = st.recursive(
    json_scalars,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(unicode_text, values, max_size=4),
    max_leaves=12,
)

identities = st.fixed_dictionaries(
    {
        "namespace": namespaces,
        "model": unicode_text,
        "temperature": temperatures,
        "prompt": unicode_text,
        "parameters": st.dictionaries(unicode_text, unicode_text, max_size=4),
    }
)
"""Arguments of ``prompt_key``."""

labels = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=20)
"""Models, content types and tags."""

answers = st.builds(
    Answer,
    body=st.binary(max_size=64),
    content_type=labels,
    model=labels,
    usage=st.builds(Usage, *4 * [st.integers(0, 2**53)]),
    cost_usd=st.floats(0, 1e6),
    compute_s=st.floats(0, 1e6),
)

entries = st.builds(
    Entry,
    answer=answers,
    tick=st.integers(0, 2**53),
    created_ms=st.integers(0, 2**53),
    tags=st.lists(labels, max_size=5).map(tuple),
)

entry_keys = st.builds(EntryKey, namespaces, st.binary(min_size=32, max_size=32))

leases = st.builds(
    Lease,
    key=entry_keys,
    token=st.binary(min_size=16, max_size=16),
    tick=st.integers(0, 2**53),
    ttl_s=st.integers(10, 600_000).map(lambda ms: ms / 1000),
)
"""Leases as wide as the contract lets them be: 10 ms to 10 minutes, to the millisecond."""

_durations = st.none() | st.builds(
    Duration,
    seconds=st.sampled_from([0, 0, 1, -1]) | st.integers(-(2**63), 2**63 - 1),
    nanos=st.integers(-(2**31), 2**31 - 1),
)
_digests = st.sampled_from([b"", bytes(32)]) | st.binary(max_size=40)
_names = st.sampled_from(["", "a"]) | st.text(st.characters(codec="utf-8"), max_size=300)
_leases = (
    st.binary(max_size=80)
    # A lease's version, 12 bytes of times, 48 of token and digest, and a namespace.
    | st.binary(min_size=60, max_size=60).map(lambda middle: b"\x01" + middle + b"default")
)
_prompt_identities = st.builds(
    pb.PromptIdentity,
    namespace=st.sampled_from(["", "a"]) | unicode_text,
    model=st.just("m") | _names,
    key=_digests,
    temperature=st.none() | st.floats(),
    prompt=unicode_text,
    parameters=st.dictionaries(unicode_text, unicode_text, max_size=3),
)

service_requests = (
    st.builds(
        pb.GetPromptRequest,
        identity=st.none() | _prompt_identities,
        wait=_durations,
        lease_ttl=_durations,
        peek=st.booleans(),
        asks_again=st.booleans(),
    )
    | st.builds(
        pb.SetPromptRequest,
        identity=st.none() | _prompt_identities,
        answer=st.binary(max_size=20),
        content_type=_names,
        usage=st.none()
        | st.builds(
            pb.Usage,
            input_tokens=st.integers(-(2**63), 2**63 - 1),
            output_tokens=st.integers(0, 2**63 - 1),
        ),
        cost_usd=st.none() | st.floats(),
        compute_time=_durations,
        ttl=_durations,
        masterplan=_names,
        tags=st.lists(_names, max_size=3),
        lease=_leases,
        preloaded=st.booleans(),
    )
    | st.builds(pb.HoldLeaseRequest, lease=_leases, max=_durations)
    | st.builds(pb.InvalidateRequest, namespace=unicode_text, key=_digests)
    | st.builds(pb.InvalidateRequest, tag=_names)
    | st.builds(pb.InvalidateRequest, everything=st.booleans())
    | st.builds(pb.StatsRequest, namespace=unicode_text)
)
"""Any request of the service, good or bad."""
