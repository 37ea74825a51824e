"""Embeddings as the contract has them: float32, little-endian. Needs no numpy."""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Iterable, Sequence
from typing import Protocol

from mge_cache._rag_key import FLOAT_BYTES
from mge_cache.errors import InvalidRequestError

DIMENSIONS_MAX = 8192


class _HasBytes(Protocol):
    def tobytes(self) -> bytes: ...


Embedding = bytes | bytearray | Sequence[float] | _HasBytes
"""Bytes (float32, little-endian), numbers, or an array such as numpy's of one dimension."""


def embedding_bytes(field: str, embedding: Embedding) -> bytes:
    """Return the embedding as float32, little-endian.

    Takes bytes that are already so; one-dimensional arrays of float32 or float64 that have the
    buffer protocol; other arrays with ``tobytes`` whose ``dtype`` is float32; and iterables of
    numbers. Raises InvalidRequestError, naming ``field``, unless it has 1 to 8192 dimensions, all
    finite in float32, and not all 0.
    """
    if isinstance(embedding, bytes | bytearray):
        floats = _of_bytes(field, bytes(embedding))
    else:
        view = _view(embedding)
        floats = _of_numbers(field, embedding) if view is None else _of_view(field, view)
    if not 1 <= len(floats) <= DIMENSIONS_MAX:
        raise InvalidRequestError(
            field, f"must have 1 to {DIMENSIONS_MAX} dimensions, not {len(floats)}"
        )
    # As doubles, so many finite float32 have a finite sum; infinities and NaN never do.
    if not math.isfinite(sum(floats)):
        raise InvalidRequestError(field, "must be finite")
    if not any(floats):
        raise InvalidRequestError(field, "must not be all 0")
    return _swapped(floats).tobytes()


def _view(embedding: object) -> memoryview | None:
    """Look at an array's memory; None if it shows none."""
    try:
        return memoryview(embedding)  # type: ignore[arg-type] # that is the question
    except (TypeError, ValueError, BufferError):
        return None


def _of_view(field: str, view: memoryview) -> array[float]:
    if view.ndim != 1:
        raise InvalidRequestError(field, f"must have one axis, not {view.ndim}")
    if view.format == "B" and isinstance(view.obj, bytes | bytearray):
        return _of_bytes(field, view.tobytes())
    kind = (view.format or "").lstrip("@=" + ("<" if sys.byteorder == "little" else ">"))
    if kind == "f":
        return array("f", view.tobytes())
    if kind == "d":
        return array("f", array("d", view.tobytes()))
    raise InvalidRequestError(field, "must be float32 or float64, in this machine's byte order")


def _of_bytes(field: str, content: bytes) -> array[float]:
    if len(content) % FLOAT_BYTES:
        raise InvalidRequestError(field, f"must be {FLOAT_BYTES} bytes for each dimension")
    return _swapped(array("f", content))


def _of_numbers(field: str, embedding: Embedding) -> array[float]:
    to_bytes = getattr(embedding, "tobytes", None)
    if to_bytes is not None and str(getattr(embedding, "dtype", "")) == "float32":
        return array("f", to_bytes())
    if isinstance(embedding, str) or not isinstance(embedding, Iterable):
        raise InvalidRequestError(field, "must be numbers, or their float32 bytes")
    try:
        return array("f", embedding)
    except (TypeError, ValueError, OverflowError):
        raise InvalidRequestError(field, "must be numbers, or their float32 bytes") from None


def _swapped(floats: array[float]) -> array[float]:
    """Change between little-endian and this machine's byte order."""
    if sys.byteorder == "big":
        floats = floats[:]
        floats.byteswap()
    return floats
