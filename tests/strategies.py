"""Hypothesis strategies that several tests share."""

from __future__ import annotations

import string

from hypothesis import strategies as st

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
