"""The canonical key of a prompt, as the head of ``cache_service.proto`` specifies it.

The sidecar and both clients compute keys here and nowhere else.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import TYPE_CHECKING

from mge_cache._json import canonical_json
from mge_cache.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY_BYTES = 32
DEFAULT_NAMESPACE = "default"

_SCHEMA = b"mge-cache/prompt/1"
_COUNT = struct.Struct(">Q")
_DOUBLE = struct.Struct(">d")


def prompt_key(
    *,
    namespace: str,
    model: str,
    temperature: float | None,
    prompt: str,
    parameters: Mapping[str, str],
) -> bytes:
    """Return the 32 bytes that identify a prompt; see ``encode_identity`` for the arguments."""
    encoding = encode_identity(
        namespace=namespace,
        model=model,
        temperature=temperature,
        prompt=prompt,
        parameters=parameters,
    )
    return hashlib.sha256(encoding).digest()


def encode_identity(
    *,
    namespace: str,
    model: str,
    temperature: float | None,
    prompt: str,
    parameters: Mapping[str, str],
) -> bytes:
    """Write everything that changes an answer, so that different requests differ in a byte.

    ``parameters`` maps names to JSON texts (``json_parameters`` makes them from values); the texts
    enter as they are. An empty ``namespace`` is written as "default", which it means; a temperature
    of -0 is written as 0. Raises InvalidRequestError for a temperature that is negative or not
    finite, and for text with a lone surrogate. Limits are the sidecar's to check.
    """
    # Few functions, here and below: each request comes by, and code that is not in the processor's
    # cache costs ten times what it costs when it is.
    return length_prefixed(
        _SCHEMA,
        utf8("namespace", namespace or DEFAULT_NAMESPACE),
        utf8("model", model),
        b"" if temperature is None else _encode_temperature(temperature),
        utf8("prompt", prompt),
        *map_fields("parameters", parameters),
    )


def length_prefixed(*fields: bytes) -> bytes:
    """Write each field as its length (unsigned, 64 bit, big endian) and its bytes."""
    pack = _COUNT.pack
    written = bytearray()
    for field in fields:
        written += pack(len(field))
        written += field
    return bytes(written)


def map_fields(field: str, texts: Mapping[str, str]) -> list[bytes]:
    """Return the fields of a map: how many there are, then names and texts in the names' order."""
    fields = [_COUNT.pack(len(texts))]
    try:
        for name in sorted(texts):  # by code points, which is the order of their UTF-8 forms
            fields += (name.encode(), texts[name].encode())
    except UnicodeEncodeError:
        for text in (*texts, *texts.values()):
            utf8(field, text)
        raise
    return fields


def count_field(count: int) -> bytes:
    """Write a number as a field: unsigned, 64 bit, big endian."""
    return _COUNT.pack(count)


def json_parameters(parameters: Mapping[str, object]) -> dict[str, str]:
    """Write each parameter's value as canonical JSON text."""
    return {
        name: canonical_json(value, field=f"parameters[{name!r}]")
        for name, value in parameters.items()
    }


def _encode_temperature(temperature: float) -> bytes:
    if not math.isfinite(temperature) or temperature < 0:
        raise InvalidRequestError("temperature", "must be finite and at least 0")
    return _DOUBLE.pack(temperature + 0.0)  # -0.0 + 0.0 is 0.0


def utf8(field: str, text: str) -> bytes:
    """Encode a text; raises InvalidRequestError, which names ``field``, for a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        # Not `from exc`: that error carries the text.
        raise InvalidRequestError(field, "has a lone surrogate, which has no UTF-8 form") from None
