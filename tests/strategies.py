"""Hypothesis strategies that several tests share."""

from __future__ import annotations

import string

from hypothesis import strategies as st

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
