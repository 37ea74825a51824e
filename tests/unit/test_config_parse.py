"""How values are written: what is read, what is refused, and that writing is reading's inverse."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mge_cache_server import config_parse as parse
from tests.strategies import namespaces


@given(st.integers(0, 10**12).map(lambda ms: ms / 1000))
@example(86400.0)
@example(0.05)
@example(0.0)
@example(90061.001)
def test_milliseconds_survive_writing_and_reading(seconds: float) -> None:
    assert parse.parse_duration(parse.format_duration(seconds)) == seconds


@given(st.floats(0, 1e9, allow_subnormal=False).filter(lambda x: x == 0 or x > 1e-12))
def test_any_duration_survives_writing_and_reading(seconds: float) -> None:
    assert parse.parse_duration(parse.format_duration(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("50ms", 0.05),
        ("10s", 10),
        ("5m", 300),
        ("24h", 86400),
        ("7d", 604800),
        ("1h30m", 5400),
        ("1d2h3m4s5ms", 93784.005),
        ("1.5h", 5400),
        (" 10s ", 10),
        ("0", 0),
        ("0.25", 0.25),
        ("1h0.5s", 3600.5),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "-1", "-1s", "1x", "s", "1s1h", "1h1h", "nan", "inf", "1e3", "1 h", "1,5s", "٣s"],
)
def test_not_durations(text: str) -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse.parse_duration(text)


def test_a_huge_number_is_no_duration() -> None:
    with pytest.raises(ValueError, match="must be a duration"):
        parse.parse_duration("9" * 400)


@given(st.text(max_size=12))
def test_a_duration_is_a_finite_number_or_a_value_error(text: str) -> None:
    try:
        seconds = parse.parse_duration(text)
    except ValueError:
        return
    assert math.isfinite(seconds)
    assert seconds >= 0


@given(st.integers(0, 1 << 50))
@example(64 << 20)
def test_sizes_survive_writing_and_reading(size: int) -> None:
    assert parse.parse_size(parse.format_size(size)) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64MiB", 64 << 20),
        ("8MB", 8_000_000),
        ("512KiB", 512 << 10),
        ("1.5GiB", 3 << 29),
        ("17", 17),
        ("1 kb", 1000),
        ("0", 0),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1.5", "1.0001KiB", "1TB", "1e6", "nan"])
def test_not_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="must be a"):
        parse.parse_size(text)


@given(st.integers(0, 0o777))
def test_modes_survive_writing_and_reading(mode: int) -> None:
    assert parse.parse_mode(parse.format_mode(mode)) == mode


@pytest.mark.parametrize("text", ["", "8", "1000", "rw", "-1", "0x1ff"])
def test_not_modes(text: str) -> None:
    with pytest.raises(ValueError, match="octal"):
        parse.parse_mode(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("[::1]:50151", ("::1", 50151)),
        ("redis.example:65535", ("redis.example", 65535)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse.split_address(text) == address


@pytest.mark.parametrize(
    "text",
    ["", "50151", ":50151", "host", "host:", "host:x", "::1:50151", "h:65536", "a b:1", "[]:1"],
)
def test_not_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="must"):
        parse.split_address(text)


@given(st.dictionaries(namespaces, st.integers(1, 10**9).map(lambda ms: ms / 1000), max_size=4))
def test_namespace_ttls_survive_writing_and_reading(ttls: dict[str, float]) -> None:
    assert parse.parse_namespace_ttls(parse.format_namespace_ttls(ttls)) == ttls


def test_every_mistake_in_namespace_ttls_is_reported() -> None:
    with pytest.raises(ValueError, match="must") as caught:
        parse.parse_namespace_ttls("plans=x, search, a b=1h, ok=1h, ok=2h")
    assert str(caught.value).count(";") == 3


@pytest.mark.parametrize("text", ["0", "0.05", "0.49"])
def test_jitters(text: str) -> None:
    assert parse.parse_jitter(text) == float(text)


@pytest.mark.parametrize("text", ["0.5", "-0.1", "nan", "inf", "x", ""])
def test_not_jitters(text: str) -> None:
    with pytest.raises(ValueError, match="from 0 to below"):
        parse.parse_jitter(text)


@pytest.mark.parametrize("prefix", ["", "a{b}", "a*", "a b", "ä", "x" * 65])
def test_not_key_prefixes(prefix: str) -> None:
    with pytest.raises(ValueError, match="must be 1 to 64"):
        parse.parse_key_prefix(prefix)


passwords = st.text("abcXYZ019:/?#@&=%", min_size=1, max_size=12).map(lambda text: f"S3{text}cret")


@given(passwords, st.sampled_from(["", "user"]), st.sampled_from(["redis", "rediss+sentinel"]))
def test_no_password_is_left_in_a_masked_url(password: str, user: str, scheme: str) -> None:
    masked = parse.mask_url(f"{scheme}://{user}:{password}@host:6379/0")
    assert password not in masked
    assert masked.endswith("***@host:6379/0")


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://me:pw@host", "redis://me:***@host"),
        ("redis://pw@host", "redis://***@host"),
        ("unix:///run/r.sock?password=pw&db=1", "unix:///run/r.sock?password=***&db=1"),
        ("me:pw@host:6379", "***@host:6379"),
        ("plain text", "plain text"),
        ("", ""),
    ],
)
def test_masked_urls(url: str, masked: str) -> None:
    assert parse.mask_url(url) == masked
