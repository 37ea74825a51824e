"""The operator's switches, as the sidecar spells them, read whenever they matter."""

from __future__ import annotations

import os

LLM_CACHE_VARIABLE = "MGE_V2_LLM_CACHE_ENABLED"

_OFF = frozenset({"false", "no", "off", "0"})


def is_on(variable: str) -> bool:
    """Whether a variable of the environment does not say false, no, off or 0, in either case."""
    return os.environ.get(variable, "").strip().lower() not in _OFF
