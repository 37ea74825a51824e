"""What changes a request's key, and what does not."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mge_cache import InvalidRequestError
from mge_cache.anthropic._identity import identity_of

BODY: dict[str, Any] = {
    "model": "claude-sonnet-5-5",
    "max_tokens": 100,
    "system": [{"type": "text", "text": "Be brief."}],
    "tools": [
        {"name": "t", "input_schema": {"properties": {"cache_control": {"type": "string"}}}},
    ],
    "messages": [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "i", "input": {"a": 1}}]},
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "i",
                    "content": [{"type": "text", "text": "Because."}],
                },
                {
                    "type": "document",
                    "source": {"type": "content", "content": [{"type": "text", "text": "D"}]},
                },
            ],
        },
    ],
}
MARK = {"type": "ephemeral", "ttl": "1h"}


def key(body: dict[str, Any] = BODY, **more: Any) -> bytes:
    usual: dict[str, Any] = {
        "origin": "sse https://one.test/",
        "headers": {"anthropic-version": "2023-06-01", "x-api-key": "secret", "user-agent": "u"},
        "query": {},
        "vary": (),
        "namespace": "default",
    }
    return identity_of(body, **{**usual, **more}).key


def with_headers(**headers: str) -> bytes:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return key(headers={"anthropic-version": "2023-06-01", **named})


SAME: dict[str, dict[str, Any]] = {
    "as a stream": {"stream": True},
    "whose request": {"metadata": {"user_id": "somebody"}},
    "how soon": {"service_tier": "auto"},
    "a mark for the provider's cache": {"cache_control": MARK},
}
OTHER: dict[str, dict[str, Any]] = {
    "another model": {"model": "claude-opus-5"},
    "a field of tomorrow": {"brand_new": None},
    "temperature 0": {"temperature": 0},
    "thinking": {"thinking": {"type": "enabled", "budget_tokens": 1024}},
    "max_tokens": {"max_tokens": 101},
    "region": {"inference_geo": "eu"},
    "system as text": {"system": "Be brief."},
    "no tools": {"tools": []},
}


@pytest.mark.parametrize("name", SAME)
def test_what_does_not_change_it(name: str) -> None:
    assert key({**BODY, **SAME[name]}) == key()


@pytest.mark.parametrize("name", OTHER)
def test_what_changes_it(name: str) -> None:
    assert key({**BODY, **OTHER[name]}) != key()


def test_the_order_of_members_does_not_change_it() -> None:
    assert key(dict(reversed(BODY.items()))) == key()


def test_marks_are_left_out_where_they_are_marks_only() -> None:
    marked = copy.deepcopy(BODY)
    blocks = marked["messages"][2]["content"]
    for block in (
        marked["system"][0],
        marked["tools"][0],
        marked["messages"][1]["content"][0],
        blocks[0],
        blocks[0]["content"][0],
        blocks[1],
        blocks[1]["source"]["content"][0],
    ):
        block["cache_control"] = MARK
    assert key(marked) == key()

    in_schema, in_input = copy.deepcopy(BODY), copy.deepcopy(BODY)
    del in_schema["tools"][0]["input_schema"]["properties"]["cache_control"]
    in_input["messages"][1]["content"][0]["input"]["cache_control"] = MARK
    assert len({key(in_schema), key(in_input), key()}) == 3


def test_where_it_is_asked() -> None:
    assert key(origin="sse https://two.test/") != key()
    assert key(namespace="other") != key()
    assert key(query={"beta": "true"}) != key()


def test_headers() -> None:
    plain = with_headers()
    assert with_headers(x_api_key="other", authorization="b", user_agent="v", x_trace="1") == plain
    assert with_headers(anthropic_version="2026-10-21") != plain
    assert with_headers(anthropic_user_profile_id="u") != plain
    assert with_headers(anthropic_beta="b-2, a-1") == with_headers(anthropic_beta="a-1,b-2,a-1")
    assert with_headers(anthropic_beta="a-1") != with_headers(anthropic_beta="b-2")
    assert with_headers(anthropic_beta="") == plain
    assert key(headers={"x-route": "a"}, vary=("x-route",)) != key(headers={}, vary=("x-route",))


@pytest.mark.parametrize(
    "wrong", [{"model": None}, {"temperature": "hot"}, {"temperature": float("nan")}, {"x": {1: 2}}]
)
def test_what_has_no_key(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequestError):
        key({**BODY, **wrong})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(content=JSON, system=JSON, tools=JSON, messages=JSON)
def test_no_body_of_any_shape_is_too_much(**fields: Any) -> None:
    content = fields.pop("content")
    for messages in (fields["messages"], [{"role": "user", "content": content}]):
        body = {"model": "m", **fields, "messages": messages}
        try:
            assert key(body) == key(copy.deepcopy(body))
        except InvalidRequestError as error:
            assert "surrogate" in str(error)  # noqa: PT017 - such text has no key
