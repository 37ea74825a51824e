"""How the value of a setting is written: durations, sizes, addresses and the like.

Each ``parse_*`` takes the text of a flag, of an environment variable or of the file, and raises
``ValueError`` with a text that continues "must be ...". Each ``format_*`` is its inverse.
"""

from __future__ import annotations

import math
import os
import re
from typing import TYPE_CHECKING

from mge_cache_server.keys import NAMESPACE_PATTERN

if TYPE_CHECKING:
    from collections.abc import Mapping

_DURATION = re.compile(
    r"(?:(?P<d>\d+(?:\.\d+)?)d)?(?:(?P<h>\d+(?:\.\d+)?)h)?(?:(?P<m>\d+(?:\.\d+)?)m(?!s))?"
    r"(?:(?P<s>\d+(?:\.\d+)?)s)?(?:(?P<ms>\d+(?:\.\d+)?)ms)?",
    re.ASCII,
)
_SECONDS = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_UNIT_MS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1_000, "ms": 1}
_SIZE = re.compile(r"(\d+)(?:\.(\d+))? ?([a-z]*)", re.ASCII | re.IGNORECASE)
_UNIT_BYTES = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}
_KEY_PREFIX = re.compile(r"[A-Za-z0-9._:-]{1,64}", re.ASCII)
_TEXT_MAX = 64  # of a number in digits: what is longer is no number that anybody means
_MODE_MAX = 0o777
_PORT_MAX = 65535
_TWO_DAYS_MS = 2 * _UNIT_MS["d"]


def parse_duration(text: str) -> float:
    """Read "50ms", "10s", "1h30m", "7d" or plain seconds; the units in falling order."""
    problem = 'must be a duration such as "50ms", "10s", "1h30m", "7d" or plain seconds'
    written = text.strip()
    if not written or len(written) > _TEXT_MAX:
        raise ValueError(problem)
    if _SECONDS.fullmatch(written):
        return float(written)
    match = _DURATION.fullmatch(written)
    if match is None:
        raise ValueError(problem)
    parts = {unit: number for unit, number in match.groupdict().items() if number is not None}
    if all(number.isdigit() for number in parts.values()):
        # Whole milliseconds are divided once, so that no rounding adds up.
        return sum(int(number) * _UNIT_MS[unit] for unit, number in parts.items()) / 1000
    return math.fsum(float(number) * _UNIT_MS[unit] / 1000 for unit, number in parts.items())


def format_duration(seconds: float) -> str:
    """Write a duration so that ``parse_duration`` gives the same number back."""
    rest = round(seconds * 1000)
    if rest / 1000 != seconds:
        from decimal import Decimal  # noqa: PLC0415 (no default needs it)

        return format(Decimal(repr(float(seconds))), "f")
    text = ""
    for unit, size in _UNIT_MS.items():
        if unit == "d" and (rest < _TWO_DAYS_MS or rest % size):
            continue  # "24h" and "36h" say more than "1d" and "1d12h"
        count, rest = divmod(rest, size)
        text += f"{count}{unit}" if count else ""
    return text or "0s"


def parse_size(text: str) -> int:
    """Read "64MiB", "8MB", "512KiB", "1.5GiB" or plain bytes."""
    match = _SIZE.fullmatch(text.strip()) if len(text) <= _TEXT_MAX else None
    unit = _UNIT_BYTES.get(match[3].lower()) if match else None
    if match is None or unit is None:
        msg = 'must be a size such as "64MiB", "8MB", "512KiB" or plain bytes'
        raise ValueError(msg)
    fraction = match[2] or ""
    scale: int = 10 ** len(fraction)
    size, rest = divmod(int(match[1] + fraction) * unit, scale)
    if rest:
        msg = "must be a whole number of bytes"
        raise ValueError(msg)
    return size


def format_size(size_bytes: int) -> str:
    """Write a size so that ``parse_size`` gives the same number back."""
    for unit in ("GiB", "MiB", "KiB"):
        count, rest = divmod(size_bytes, _UNIT_BYTES[unit.lower()])
        if count and not rest:
            return f"{count}{unit}"
    return str(size_bytes)


def parse_count(text: str) -> int:
    """Read a whole number, not negative."""
    if re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII) is None:
        msg = "must be a whole number"
        raise ValueError(msg)
    return int(text)


def parse_jitter(text: str) -> float:
    """Read a share, 0 <= x < 0.5."""
    problem = "must be a number from 0 to below 0.5"
    try:
        value = float(text)
    except ValueError:
        raise ValueError(problem) from None
    if not 0 <= value < 0.5:  # noqa: PLR2004 (NaN fails too)
        raise ValueError(problem)
    return value


def parse_cosine(text: str) -> float:
    """Read a cosine, 0 to 1."""
    return _number(text, 1.0)


def parse_cosine_or_none(text: str) -> float | None:
    """Read a cosine, 0 to 1; empty: none."""
    return parse_cosine(text) if text.strip() else None


def format_cosine_or_none(cosine: float | None) -> str:
    """Write a cosine."""
    return "" if cosine is None else str(cosine)


def parse_dollars(text: str) -> float:
    """Read an amount, 0 to 1,000,000."""
    return _number(text, 1e6)


def format_dollars(amount: float) -> str:
    """Write an amount."""
    return f"{amount:g}"


def parse_cosines(text: str) -> dict[str, float]:
    """Read "faq=0.9,laws=0.98"."""
    result: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, written = part.rpartition("=")
        if not equals or name in result:
            msg = f'must name each collection once, like "faq=0.9,laws=0.98" ("{part}")'
            raise ValueError(msg)
        result[name] = _number(written, 1.0)
    return result


def format_cosines(cosines: Mapping[str, float]) -> str:
    """Write cosines on one line."""
    return ",".join(f"{name}={cosine}" for name, cosine in cosines.items())


def _number(text: str, high: float) -> float:
    problem = f"must be a number from 0 to {high:g}"
    try:
        value = float(text)
    except ValueError:
        raise ValueError(problem) from None
    if not 0 <= value <= high:  # NaN fails too
        raise ValueError(problem)
    return value


def parse_bool(text: str) -> bool:
    """Read true/false, yes/no, on/off or 1/0, in either case."""
    written = text.strip().lower()
    if written in {"true", "yes", "on", "1"}:
        return True
    if written in {"false", "no", "off", "0"}:
        return False
    msg = "must be true or false"
    raise ValueError(msg)


def format_bool(value: bool) -> str:  # noqa: FBT001 (a formatter's one argument)
    """Write a truth value as TOML does."""
    return "true" if value else "false"


def parse_mode(text: str) -> int:
    """Read a file mode in octal: "660", "0660" or "0o660"."""
    match = re.fullmatch(r"(?:0o)?([0-7]{1,5})", text.strip(), re.ASCII)
    if match is None or int(match[1], 8) > _MODE_MAX:
        msg = 'must be a file mode in octal, from "000" to "777", such as "660"'
        raise ValueError(msg)
    return int(match[1], 8)


def format_mode(mode: int) -> str:
    """Write a file mode in octal."""
    return f"{mode:03o}"


def split_address(text: str) -> tuple[str, int]:
    """Read "host:port" or "[ipv6]:port" into host (without brackets) and port."""
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    bare = not bracketed and ":" in host
    ascii_port = re.fullmatch(r"\d{1,5}", port, re.ASCII) is not None
    if not colon or not host or bare or re.search(r"[\s/\[\]@]", host) or not ascii_port:
        msg = 'must be "host:port" such as "127.0.0.1:50151" or "[::1]:50151"'
        raise ValueError(msg)
    if int(port) > _PORT_MAX:
        msg = f"must have a port from 0 to {_PORT_MAX}"
        raise ValueError(msg)
    return host, int(port)


def parse_address(text: str) -> str:
    """Check "host:port"; empty means: do not listen."""
    written = text.strip()
    if written:
        split_address(written)
    return written


def parse_text(text: str) -> str:
    """Take any text without control characters."""
    if not text.isprintable():
        msg = "must not have control characters"
        raise ValueError(msg)
    return text


def parse_path(text: str) -> str:
    """Take a path; a leading ~ is the home folder."""
    return os.path.expanduser(parse_text(text))  # noqa: PTH111 (pathlib is not needed to serve)


def parse_key_prefix(text: str) -> str:
    """Check a prefix of Redis keys: no braces, which have a meaning in a cluster, and no globs."""
    if _KEY_PREFIX.fullmatch(text) is None:
        msg = "must be 1 to 64 characters of A-Z a-z 0-9 . _ : -"
        raise ValueError(msg)
    return text


def parse_namespace_ttls(text: str) -> dict[str, float]:
    """Read "plans=1h,search=10m"; every mistake in it is reported."""
    result: dict[str, float] = {}
    problems = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, written = part.partition("=")
        name = name.strip()
        if not equals:
            problems.append(f'must be written like "plans=1h,search=10m" ("{part}")')
        elif not NAMESPACE_PATTERN.fullmatch(name):
            problems.append(f'must name namespaces (1 to 64 of A-Z a-z 0-9 . _ -) ("{name}")')
        elif name in result:
            problems.append(f'must name each namespace once ("{name}")')
        else:
            try:
                result[name] = parse_duration(written)
            except ValueError as error:
                result[name] = 0.0
                problems.append(f'{error} ("{part}")')
    if problems:
        raise ValueError("; ".join(problems))
    return result


def format_namespace_ttls(ttls: Mapping[str, float]) -> str:
    """Write the times to live of namespaces on one line."""
    return ",".join(f"{name}={format_duration(ttl_s)}" for name, ttl_s in ttls.items())


def mask_url(url: str) -> str:
    """Hide the password in a URL, and all that could be one, for people and logs to read."""
    scheme, slashes, rest = url.partition("://")
    if not slashes:
        return f"***@{url.rpartition('@')[2]}" if "@" in url else url
    userinfo, at, location = rest.rpartition("@")  # the last @: passwords come unquoted, too
    user = userinfo.partition(":")[0] if ":" in userinfo else ""
    shown = re.sub(r"(?i)(password=)[^&]*", r"\1***", location)
    masked = (f"{user}:***@" if user else "***@") if at else ""
    return f"{scheme}://{masked}{shown}"
