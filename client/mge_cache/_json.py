"""JSON in one spelling: RFC 8785 (JSON Canonicalization Scheme), for values that enter a key."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal

from mge_cache.errors import InvalidRequestError

DEPTH_MAX = 128
"""How deep lists and objects may be nested."""

_ENCODER = json.JSONEncoder(ensure_ascii=False)
_EXPONENT_MAX = 21
_EXPONENT_MIN = -6


def canonical_json(value: object, *, field: str = "value") -> str:
    """Write a value as RFC 8785 demands: None, bool, int, float, str, list, tuple or mapping.

    Members are sorted by the UTF-16 code units of their names, floats are written as ECMAScript
    writes them (1.0 as ``1``, 1e21 as ``1e+21``), and there is no white space. Beyond the RFC, an
    ``int`` is written with all its digits, whatever its size; so within ±2**53 a ``float`` and an
    ``int`` of the same value agree.

    Raises InvalidRequestError that names ``field`` for NaN, infinities, lone surrogates, names that
    are not text, more than DEPTH_MAX levels, and anything else without a JSON form.
    """
    out: list[str] = []
    try:
        _write(value, out, depth=0)
    except ValueError as exc:
        raise InvalidRequestError(field, str(exc)) from None
    return "".join(out)


def _write(value: object, out: list[str], *, depth: int) -> None:
    if depth > DEPTH_MAX:
        raise ValueError(f"nested deeper than {DEPTH_MAX} levels")
    match value:
        case None:
            out.append("null")
        case bool():
            out.append("true" if value else "false")
        case str():
            out.append(_text(value))
        case int():
            out.append(int.__repr__(value))
        case float():
            out.append(_number(value))
        case Mapping():
            _write_object(value, out, depth=depth)
        case list() | tuple():
            _write_array(value, out, depth=depth)
        case _:
            raise ValueError(f"a {type(value).__name__} has no JSON form")


def _write_array(items: Sequence[object], out: list[str], *, depth: int) -> None:
    out.append("[")
    for index, item in enumerate(items):
        if index:
            out.append(",")
        _write(item, out, depth=depth + 1)
    out.append("]")


def _write_object(members: Mapping[object, object], out: list[str], *, depth: int) -> None:
    named: list[tuple[bytes, str, object]] = []
    for name, member in members.items():
        if not isinstance(name, str):
            raise ValueError(f"the names of an object must be text, not {type(name).__name__}")  # noqa: TRY004 - one kind of error for all that is not JSON
        text = _text(name)
        named.append((name.encode("utf-16-be"), text, member))
    named.sort(key=lambda entry: entry[0])
    out.append("{")
    for index, (_, text, member) in enumerate(named):
        out.append(f",{text}:" if index else f"{text}:")
        _write(member, out, depth=depth + 1)
    out.append("}")


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("text with a lone surrogate has no UTF-8 form") from None
    # json escapes what the RFC escapes, in the RFC's spelling: the quote, the backslash, controls.
    return _ENCODER.encode(value)


def _number(value: float) -> str:
    """Write a float like ECMAScript's Number::toString (ECMA-262, 6.1.6.1.20)."""
    if not math.isfinite(value):
        raise ValueError("NaN and infinities have no JSON form")
    if value == 0:
        return "0"
    # Python's repr and ECMAScript choose the same digits: the fewest that give the same number.
    _, digit_tuple, shift = Decimal(float.__repr__(value)).normalize().as_tuple()
    assert isinstance(shift, int)  # noqa: S101 - else the number is not finite
    digits = "".join(map(str, digit_tuple))
    sign = "-" if value < 0 else ""
    point = len(digits) + shift  # the number is 0.DIGITS * 10**point
    if len(digits) <= point <= _EXPONENT_MAX:
        return sign + digits + "0" * (point - len(digits))
    if 0 < point <= _EXPONENT_MAX:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if _EXPONENT_MIN < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{fraction}e{point - 1:+d}"
