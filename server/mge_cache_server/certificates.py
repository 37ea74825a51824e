"""When certificates end, read from PEM files. The standard library decodes only those in use."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_SEQUENCE = 0x30
_VERSION = 0xA0
_UTC_TIME = 0x17
_GENERALIZED_TIME = 0x18
_LONG_LENGTH = 0x80


def certificate_ends_s(pem: str) -> list[float]:
    """Return when each certificate in ``pem`` ends, in seconds since 1970, in the text's order.

    Other things in the text, such as a key, are passed over. ValueError for a damaged certificate.
    """
    return [_ends_s(ssl.PEM_cert_to_DER_cert(match[0])) for match in _PEM.finditer(pem)]


def _ends_s(der: bytes) -> float:
    """Walk to the end of ``validity``, as RFC 5280 (4.1) lays a certificate out."""
    try:
        certificate = _content(der, 0, _SEQUENCE)
        fields = _content(der, certificate, _SEQUENCE)
        if der[fields] == _VERSION:  # optional
            fields = _after(der, fields)
        for _ in ("serialNumber", "signature", "issuer"):
            fields = _after(der, fields)
        ends = _after(der, _content(der, fields, _SEQUENCE))
        start, end = _bounds(der, ends)
        return _time_s(der[ends], der[start:end].decode("ascii"))
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("not a certificate") from error


def _bounds(der: bytes, place: int) -> tuple[int, int]:
    """Return where the content of the element at ``place`` begins and ends."""
    length, start = der[place + 1], place + 2
    if length & _LONG_LENGTH:
        start += length & ~_LONG_LENGTH
        length = int.from_bytes(der[place + 2 : start], "big")
    if start + length > len(der):
        raise ValueError("not a whole certificate")
    return start, start + length


def _content(der: bytes, place: int, tag: int) -> int:
    if der[place] != tag:
        raise ValueError("not a certificate")
    return _bounds(der, place)[0]


def _after(der: bytes, place: int) -> int:
    return _bounds(der, place)[1]


def _time_s(tag: int, text: str) -> float:
    if tag == _UTC_TIME:
        # Two digits of the year: 50 to 99 are of the last century.
        text = ("19" if text >= "5" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("not a certificate")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
