"""Questions for the tests of ``Generate``."""

from __future__ import annotations

import hashlib
from typing import Any

from mge_cache_server.generation import CacheUse, Question, Request, Strategy
from mge_cache_server.model import EntryKey


def make_request(
    prompt: str = "x",
    *,
    system: str = "",
    cache: CacheUse = CacheUse.USE,
    strategy: Strategy = Strategy.FAN_OUT,
    size_bytes: int = 0,
) -> Request:
    """A request; those with the same ``system`` are of one group."""
    body: dict[str, Any] = {"model": "m", "max_tokens": 9}
    if system:
        body["system"] = system
    digest = hashlib.sha256(f"{system}\0{prompt}".encode()).digest()
    question = Question(
        key=EntryKey("ns", digest),
        model="m",
        body=body,
        messages=[{"role": "user", "content": prompt}],
        prompt=prompt,
        group=hashlib.sha256(system.encode()).digest(),
        size_bytes=size_bytes,
    )
    return Request(question, tags=(), ttl_s=0.0, cache=cache, strategy=strategy)
