"""The check of an embedding that needs no numpy."""

from __future__ import annotations

import sys
from array import array
from math import isfinite

from mge_cache_server.errors import InvalidRequestError


def check_embedding(embedding: bytes) -> None:
    """Raise InvalidRequestError unless the float32 numbers are finite and not all zero."""
    numbers = array("f", embedding)
    if sys.byteorder == "big":
        numbers.byteswap()
    if not (any(numbers) and all(map(isfinite, numbers))):
        raise no_direction()


def no_direction() -> InvalidRequestError:
    """Return what the caller of such an embedding is told."""
    return InvalidRequestError("identity.embedding", "must be finite and not zero")
