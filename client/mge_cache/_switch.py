"""The switches that turn a cache off at run time, in the environment as for the sidecar."""

from __future__ import annotations

import os
from typing import Final

LLM_CACHE: Final = "MGE_V2_LLM_CACHE_ENABLED"
RAG_CACHE: Final = "MGE_V2_RAG_CACHE_ENABLED"

_OFF = frozenset({"false", "no", "off", "0"})


def switched_on(name: str) -> bool:
    """Whether a cache is on: unless its variable says false, no, off or 0, in either case.

    The environment is read at each call. Anything else leaves the cache on: the sidecar refuses to
    start with a misspelt value, an application must not stop because of one.
    """
    return os.environ.get(name, "").strip().lower() not in _OFF
