"""The canonical key: the committed vectors, and that no two requests share an encoding."""

from __future__ import annotations

import hashlib
import json
import math
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mge_cache import InvalidRequestError, canonical_json, json_parameters, prompt_key
from mge_cache._json import DEPTH_MAX
from mge_cache._key import encode_identity
from tests.strategies import identities, json_values, lone_surrogates, unicode_text
from tools.make_key_vectors import vectors

if TYPE_CHECKING:
    from pathlib import Path

unhurried = settings(deadline=None)  # a busy machine is not a slow function

FIELDS = ("namespace", "model", "temperature", "prompt", "parameters")


@pytest.fixture(scope="module")
def committed(repository: Path) -> dict[str, Any]:
    text = (repository / "protos/mge_cache/v1/key_vectors.json").read_text(encoding="ascii")
    content: dict[str, Any] = json.loads(text)
    return content


def decode(encoding: bytes) -> dict[str, Any]:
    """Read an encoding back, by the words of the contract alone."""
    fields = []
    while encoding:
        length = int.from_bytes(encoding[:8], "big")
        assert len(encoding) >= 8 + length
        fields.append(encoding[8 : 8 + length])
        encoding = encoding[8 + length :]
    schema, namespace, model, temperature, prompt, count, *rest = fields
    assert schema == b"mge-cache/prompt/1"
    assert len(temperature) in (0, 8)
    assert len(count) == 8
    assert len(rest) == 2 * int.from_bytes(count, "big")
    names = rest[::2]
    assert names == sorted(set(names))
    return {
        "namespace": namespace.decode(),
        "model": model.decode(),
        "temperature": struct.unpack(">d", temperature)[0] if temperature else None,
        "prompt": prompt.decode(),
        "parameters": {
            name.decode(): text.decode() for name, text in zip(names, rest[1::2], strict=True)
        },
    }


def test_vectors_are_what_this_client_computes(committed: dict[str, Any]) -> None:
    assert json.loads(vectors()) == committed
    assert len(committed["keys"]) >= 20


def test_vectors_follow_the_contract(committed: dict[str, Any]) -> None:
    groups: dict[str, str] = {}
    for vector in committed["keys"]:
        encoding = bytes.fromhex(vector["encoding"])
        assert hashlib.sha256(encoding).hexdigest() == vector["key"]
        fields = {field: vector[field] for field in FIELDS}
        assert decode(encoding) == {**fields, "namespace": fields["namespace"] or "default"}
        assert groups.setdefault(vector["group"], vector["key"]) == vector["key"]
    assert len(set(groups.values())) == len(groups)


def test_one_vector_by_hand() -> None:
    """Not computed by the code under test."""
    encoding = (
        b"\0\0\0\0\0\0\0\x12mge-cache/prompt/1"
        b"\0\0\0\0\0\0\0\x07default"
        b"\0\0\0\0\0\0\0\x01m"
        b"\0\0\0\0\0\0\0\x08\x3f\xe0\0\0\0\0\0\0"
        b"\0\0\0\0\0\0\0\x02hi"
        b"\0\0\0\0\0\0\0\x08\0\0\0\0\0\0\0\x02"
        b"\0\0\0\0\0\0\0\x01a\0\0\0\0\0\0\0\x011"
        b"\0\0\0\0\0\0\0\x01b\0\0\0\0\0\0\0\x02[]"
    )
    fields: dict[str, Any] = {
        "namespace": "default",
        "model": "m",
        "temperature": 0.5,
        "prompt": "hi",
        "parameters": {"b": "[]", "a": "1"},
    }
    assert encode_identity(**fields) == encoding
    assert prompt_key(**fields) == hashlib.sha256(encoding).digest()


@unhurried
@given(identities)
def test_an_encoding_can_be_read_back(identity: dict[str, Any]) -> None:
    """So it is injective: two identities that differ cannot have one encoding."""
    assert decode(encode_identity(**identity)) == identity


@unhurried
@given(identities, identities)
def test_different_requests_have_different_keys(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert (prompt_key(**one) == prompt_key(**two)) == (one == two)


@unhurried
@given(identities, st.sampled_from(FIELDS), st.data())
def test_each_field_enters_the_key(
    identity: dict[str, Any], field: str, data: st.DataObject
) -> None:
    other = {**identity, field: data.draw(identities)[field]}
    assume(other[field] != identity[field])
    assert prompt_key(**other) != prompt_key(**identity)


@unhurried
@given(identities, st.randoms(use_true_random=False))
def test_the_order_of_parameters_does_not_matter(identity: dict[str, Any], random: Any) -> None:
    shuffled = list(identity["parameters"].items())
    random.shuffle(shuffled)
    assert prompt_key(**{**identity, "parameters": dict(shuffled)}) == prompt_key(**identity)


@pytest.mark.parametrize("temperature", [math.nan, math.inf, -math.inf, -0.1])
def test_temperatures_that_are_none(temperature: float) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        prompt_key(namespace="", model="m", temperature=temperature, prompt="", parameters={})
    assert caught.value.field == "temperature"


@unhurried
@given(lone_surrogates, st.sampled_from(("namespace", "model", "prompt", "name", "text")))
def test_lone_surrogates_are_refused_without_showing_the_text(surrogate: str, place: str) -> None:
    fields: dict[str, Any] = dict.fromkeys(("namespace", "model", "prompt"), "x")
    text = f"SECRET{surrogate}"
    if place in fields:
        fields[place] = text
    parameters = {"name": {text: "1"}, "text": {"n": text}}.get(place, {})
    with pytest.raises(InvalidRequestError) as caught:
        prompt_key(**fields, temperature=None, parameters=parameters)
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None


# Canonical JSON


def as_parsed(value: Any) -> Any:
    """What a parser makes of a value: numbers are numbers, with or without a point."""
    match value:
        case bool() | None | str():
            return value
        case int() | float():
            return float(value) if abs(value) < 2**1023 else value
        case list() | tuple():
            return [as_parsed(item) for item in value]
        case _:
            return {name: as_parsed(member) for name, member in value.items()}


@unhurried
@given(json_values)
def test_canonical_json_is_json_of_the_same_value(value: Any) -> None:
    assert as_parsed(json.loads(canonical_json(value))) == as_parsed(value)


@unhurried
@given(json_values)
def test_canonical_json_of_what_was_parsed_is_the_same(value: Any) -> None:
    text = canonical_json(value)
    assert canonical_json(json.loads(text)) == text


@unhurried
@given(st.integers())
def test_integers_keep_all_their_digits(value: int) -> None:
    assert canonical_json(value) == str(value)


@unhurried
@given(st.integers(-(2**53), 2**53))
def test_integers_and_floats_of_one_value_agree(value: int) -> None:
    assert canonical_json(value) == canonical_json(float(value))


@unhurried
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_lose_nothing(value: float) -> None:
    assert float(canonical_json(value)) == value


@unhurried
@given(st.dictionaries(unicode_text, json_values), st.randoms(use_true_random=False))
def test_canonical_json_does_not_depend_on_the_order(members: dict[str, Any], random: Any) -> None:
    shuffled = list(members.items())
    random.shuffle(shuffled)
    assert canonical_json(dict(shuffled)) == canonical_json(members)


@unhurried
@given(json_values)
def test_tuples_are_lists(value: Any) -> None:
    assert canonical_json((value, value)) == canonical_json([value, value])


@pytest.mark.parametrize(
    ("bits", "text"),  # RFC 8785, appendix B
    [
        ("0000000000000000", "0"),
        ("8000000000000000", "0"),
        ("0000000000000001", "5e-324"),
        ("8000000000000001", "-5e-324"),
        ("7fefffffffffffff", "1.7976931348623157e+308"),
        ("4340000000000000", "9007199254740992"),
        ("c340000000000000", "-9007199254740992"),
        ("4430000000000000", "295147905179352830000"),
        ("44b52d02c7e14af5", "9.999999999999997e+22"),
        ("44b52d02c7e14af6", "1e+23"),
        ("44b52d02c7e14af7", "1.0000000000000001e+23"),
        ("444b1ae4d6e2ef4e", "999999999999999700000"),
        ("444b1ae4d6e2ef4f", "999999999999999900000"),
        ("444b1ae4d6e2ef50", "1e+21"),
        ("3eb0c6f7a0b5ed8c", "9.999999999999997e-7"),
        ("3eb0c6f7a0b5ed8d", "0.000001"),
        ("41b3de4355555553", "333333333.3333332"),
        ("41b3de4355555555", "333333333.3333333"),
        ("becbf647612f3696", "-0.0000033333333333333333"),
        ("43143ff3c1cb0959", "1424953923781206.2"),
    ],
)
def test_numbers_of_the_rfc(bits: str, text: str) -> None:
    assert canonical_json(struct.unpack(">d", bytes.fromhex(bits))[0]) == text


def test_the_example_of_the_rfc() -> None:
    value = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/",
        "literals": [None, True, False],
    }
    assert canonical_json(value) == (
        '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
        '"string":"\u20ac$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'
    )


def test_members_are_sorted_by_utf16() -> None:
    names = ["\u20ac", "\r", "\ufb33", "1", "\U0001f600", "\u0080", "\u00f6"]
    order = list(json.loads(canonical_json(dict.fromkeys(names))))
    assert order == ["\r", "1", "\u0080", "\u00f6", "\u20ac", "\U0001f600", "\ufb33"]


def nested(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        [math.inf],
        {"a": -math.inf},
        "\udc00",
        {"\ud800": 1},
        {1: 2},
        {None: 1},
        {1, 2},
        b"bytes",
        object(),
        nested(DEPTH_MAX + 1),
        10**5000,
    ],
    ids=lambda value: f"{type(value).__name__}",
)
def test_what_has_no_json_form(value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        json_parameters({"tools": value})
    assert caught.value.field == "parameters['tools']"


def test_deep_but_allowed() -> None:
    assert canonical_json(nested(DEPTH_MAX)) == "[" * (DEPTH_MAX + 1) + "]" * (DEPTH_MAX + 1)
