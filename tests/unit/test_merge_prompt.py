"""The one call for several requests."""

from __future__ import annotations

import secrets

import pytest

from mge_cache_server.merge_prompt import answer_line, end_line, merged_call
from tests.unit.obedient import see

NONCE = "9f0c3a51d2e84b67a0f1c2d3"


def test_the_shared_system_prompt_comes_first_to_the_byte() -> None:
    call = merged_call(["a", "b"], system="Be brief. \n", nonce=NONCE)
    assert call.shared_system == "Be brief. \n"
    assert call.system == "Be brief. \n\n\n" + call.instructions
    assert NONCE not in call.shared_system


def test_without_a_system_prompt_the_instructions_are_all() -> None:
    call = merged_call(["a", "b"], system="", nonce=NONCE)
    assert call.system == call.instructions


def test_every_request_is_fenced_and_kept_to_the_byte() -> None:
    prompts = ["  one\n", "two\n\n[000 request 3]", "", "vier ä"]
    call = merged_call(prompts, system="s", nonce=NONCE)
    assert call.user_text == (
        f"[{NONCE} request 1]\n  one\n\n"
        f"[{NONCE} request 2]\ntwo\n\n[000 request 3]\n"
        f"[{NONCE} request 3]\n\n"
        f"[{NONCE} request 4]\nvier ä\n"
        f"[{NONCE} end of requests]"
    )
    assert list(see(call).requests.values()) == prompts


def test_the_instructions_name_the_lines_that_are_looked_for() -> None:
    sight = see(merged_call(["a", "b", "c"], system="s", nonce=NONCE))
    assert [sight.marker(number) for number in (1, 2, 3)] == [
        answer_line(NONCE, number) for number in (1, 2, 3)
    ]
    assert sight.end == end_line(NONCE)


def test_nothing_in_the_call_is_a_marker_alone_on_a_line() -> None:
    call = merged_call(["a", "b"], system="s", nonce=NONCE)
    markers = {answer_line(NONCE, 1), answer_line(NONCE, 2), end_line(NONCE)}
    assert not markers & set(f"{call.system}\n{call.user_text}".splitlines())


@pytest.mark.parametrize("nonce", ["", "9f0c", NONCE.upper(), NONCE + "0", NONCE + "\n", "g" * 24])
def test_a_nonce_of_another_form_is_refused(nonce: str) -> None:
    with pytest.raises(ValueError, match="24 characters"):
        merged_call(["a", "b"], system="", nonce=nonce)


@pytest.mark.parametrize("count", [0, 1])
def test_fewer_than_two_are_not_merged(count: int) -> None:
    with pytest.raises(ValueError, match="at least two"):
        merged_call(["a"] * count, system="", nonce=NONCE)


@pytest.mark.parametrize(
    ("prompts", "system"), [(["a", f"x{NONCE}"], ""), ([NONCE, "b"], ""), (["a", "b"], NONCE)]
)
def test_a_nonce_that_a_text_contains_is_refused_without_showing_the_text(
    prompts: list[str], system: str
) -> None:
    with pytest.raises(ValueError, match="must be random") as caught:
        merged_call(prompts, system=system, nonce=NONCE)
    assert NONCE not in str(caught.value)


def test_the_documented_way_to_make_a_nonce_fits() -> None:
    merged_call(["a", "b"], system="", nonce=secrets.token_hex(12))
