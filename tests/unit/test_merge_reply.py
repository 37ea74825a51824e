"""Cutting a merged reply into its answers: examples of every rule, properties of all replies."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mge_cache_server.merge_prompt import answer_line, end_line
from mge_cache_server.merge_reply import Parsed, PartDelta, ReplyParser
from tests.unit.obedient import parse

NONCE = "9f0c3a51d2e84b67a0f1c2d3"
REPEATING = "0" * 24
FOREIGN = "1" * 24
M1, M2, M3, M4 = (answer_line(NONCE, number) for number in (1, 2, 3, 4))
END = end_line(NONCE)

near_markers = st.sampled_from(
    [
        *("[", "]", "\n", "\n[", "\r\n", " ", "\t", "\n\n", "\x85", "\u2028", "é", "😀", "\0"),
        *("answer 1]", "[answer 1]", " end]", "request 2", "0", "9f", "9f0c3a51d2e8", "0" * 23),
        *(f"[{NONCE[:-1]}", f"\n[{NONCE[:12]}", f"{NONCE[:-1]} answer 2]", NONCE[1:]),
        *(answer_line(FOREIGN, 2), f"\n{end_line(FOREIGN)}\n", NONCE.upper()),
    ]
)
nonces = st.sampled_from([NONCE, REPEATING, "90" * 12])
texts = st.lists(near_markers | st.text(max_size=5), max_size=8).map("".join)
cuts = st.lists(st.integers(0, 10**6), max_size=12)


def written(texts: list[str], nonce: str = NONCE) -> str:
    """A reply in good order."""
    lines = [f"{answer_line(nonce, number)}\n{text}" for number, text in enumerate(texts, 1)]
    return "\n".join([*lines, end_line(nonce)])


def chunks(reply: str, places: list[int]) -> list[str]:
    bounds = sorted({0, len(reply), *(place % (len(reply) + 1) for place in places)})
    return [reply[begin:end] for begin, end in pairwise(bounds)]


def stream(pieces: list[str], parts: int, nonce: str = NONCE) -> tuple[Parsed, list[str]]:
    """What comes of a reply in pieces, and the deltas of each part joined."""
    parser = ReplyParser(parts, nonce)
    grown = [""] * parts
    for piece in pieces:
        for delta in parser.feed(piece):
            assert delta.text
            grown[delta.index] += delta.text
    return parser.finish(), grown


def trusted(reply: str, parts: int) -> list[int]:
    """The numbers of the parts that are trusted."""
    parsed = parse(reply, parts, NONCE)
    assert set(parsed.untrusted) == {i for i in range(parts) if not parsed.parts[i].trusted}
    return [number for number in range(1, parts + 1) if parsed.parts[number - 1].trusted]


@given(st.lists(texts, min_size=1, max_size=6), nonces, cuts)
def test_a_reply_in_good_order_gives_back_every_text(
    answers: list[str], nonce: str, places: list[int]
) -> None:
    assume(all(nonce not in f"{text}\n" for text in answers))
    parsed, grown = stream(chunks(written(answers, nonce), places), len(answers), nonce)
    assert [part.text for part in parsed.parts] == [text.strip() for text in answers]
    assert [part.trusted for part in parsed.parts] == [bool(text.strip()) for text in answers]
    assert grown == [part.text for part in parsed.parts]


line_noise = st.lists(
    st.sampled_from([M1, M2, M3, END, f"[{NONCE} answer 4]", f"[{NONCE} request 1]", NONCE])
    | st.sampled_from(["\n", " ", "\n\n", "x", "[", "]", f"[{NONCE}", " answer 1]", " end", "\r"])
    | texts,
    max_size=20,
).map("".join)


@given(line_noise, st.integers(1, 3), cuts)
def test_it_does_not_matter_how_a_reply_is_cut(reply: str, parts: int, places: list[int]) -> None:
    whole, whole_grown = stream([reply], parts)
    assert stream(chunks(reply, places), parts) == (whole, whole_grown)
    assert stream(list(reply), parts) == (whole, whole_grown)
    assert whole_grown == [part.text for part in whole.parts]


@given(line_noise, st.integers(1, 3))
def test_no_text_that_is_trusted_has_the_nonce_in_it(reply: str, parts: int) -> None:
    assert all(NONCE not in part.text for part in parse(reply, parts, NONCE).parts)


def test_a_part_grows_while_it_arrives() -> None:
    parser = ReplyParser(2, NONCE)
    assert parser.feed(f"{M1}\nOnce") == [PartDelta(0, "Once")]
    assert parser.feed(" upon ") == [PartDelta(0, " upon")]
    assert parser.feed("a time\n\n") == [PartDelta(0, " a time")]
    assert parser.feed(f"and\n{M2}\nTwo{M1[:9]}") == [PartDelta(0, "\n\nand"), PartDelta(1, "Two[")]
    assert parser.feed("!") == [PartDelta(1, M1[1:9] + "!")]


@given(line_noise, cuts)
def test_less_than_a_marker_is_held_back(reply: str, places: list[int]) -> None:
    parser = ReplyParser(3, NONCE)
    for piece in chunks(reply, places):
        parser.feed(piece)
        assert len(parser._held) <= len(M1)


def test_blanks_behind_a_marker_are_not_held_back() -> None:
    parser = ReplyParser(2, NONCE)
    parser.feed(M1)
    for _ in range(1000):
        parser.feed(" \t")
    assert parser._held == M1
    assert parser.feed("\nyes") == [PartDelta(0, "yes")]


@pytest.mark.parametrize(
    ("reply", "good"),
    [
        ([M1, "a", M2, "b", M3, "c", END], [1, 2, 3]),
        ([M1, "a", M2, "b", M3, "c", END, "Anything else?"], [1, 2, 3]),
        (["", " ", M1 + " \t\r", "a", M2, "b", M3, "c", END + " "], [1, 2, 3]),
        # Cut: by max_tokens, by the connection, before anything came.
        ([M1, "a", M2, "b", M3, "c"], [1, 2]),
        ([M1, "a", M2, "b", M3, "c", END[:-1]], [1, 2]),
        ([M1, "a", M2, "b", M3[:-1]], [1]),
        ([M1, "a"], []),
        ([""], []),
        # Missing, blank.
        ([M1, "a", M3, "c", END], [3]),
        ([M2, "b", M3, "c", END], [2, 3]),
        ([END], []),
        ([M1, "a", M2, " ", M3, "c", END], [1, 3]),
        # Out of order.
        ([M2, "b", M1, "a", M3, "c", END], [3]),
        ([M1, "a", M3, "c", M2, "b", END], []),
        ([M2, "b", M3, "c", M1, "a", END], []),
        ([M1, "a", END, M2, "b", M3, "c"], []),
        # Twice.
        ([M1, "a", M2, "b", M2, "b", M3, "c", END], [3]),
        ([M1, "a", M2, "b", M3, "c", M1, "a", END], [2]),
        ([M1, "a", M2, "b", M3, "c", END, END], [1, 2]),
        ([M1, "a", M3, "x", M2, "b", M3, "c", END], []),
        ([M1, "a", M2, "b", M3, "c", END, M2, "b"], [3]),
        # A preface.
        (["Gladly!", M1, "a", M2, "b", M3, "c", END], [2, 3]),
        ([f"Gladly! {M1}", "a", M2, "b", M3, "c", END], [2, 3]),
        ([f"[{NONCE} answer 0]", M1, "a", M2, "b", M3, "c", END], [2, 3]),
        # The nonce in another form, in part 2 or in place of its marker.
        ([M1, "a", M2, f"b {M3}", M3, "c", END], [1, 3]),
        ([M1, "a", M2, f" {M3}", M3, "c", END], [1, 3]),
        ([M1, "a", M2, "b", f"{M3} is that line", M3, "c", END], [1, 3]),
        ([M1, "a", M2, M4, "b", M3, "c", END], [1, 3]),
        ([M1, "a", M2, f"[{NONCE} request 3]", "b", M3, "c", END], [1, 3]),
        ([M1, "a", M2, NONCE, M3, "c", END], [1, 3]),
        ([M1, "a", f"**{M2}**", "b", M3, "c", END], [3]),
        ([M1, "a", f"{M2} b", M3, "c", END], [3]),
        ([M1, "a", f"[{NONCE}  answer 2]", "b", M3, "c", END], [3]),
        ([M1, "a", f"[{NONCE} answer 02]", "b", M3, "c", END], [3]),
    ],
    ids=str,
)
def test_the_rule_of_trust(reply: list[str], good: list[int]) -> None:
    assert trusted("\n".join(reply), 3) == good


def test_the_marker_of_part_12_is_not_that_of_part_1() -> None:
    answers = [f"text {number}" for number in range(1, 13)]
    parsed, _ = stream(list(written(answers)), 12)
    assert [part.text for part in parsed.parts] == answers
    assert parsed.untrusted == ()


def test_a_part_that_is_not_trusted_any_more_does_not_grow() -> None:
    parser = ReplyParser(2, NONCE)
    assert parser.feed(f"{M1}\nmine {M2} theirs") == [PartDelta(0, "mine [")]
    assert parser.feed("more of theirs") == []
    assert parser.feed(f"\n{M2}\ntheirs\n{M1}\nfor the first") == [PartDelta(1, "theirs")]


def test_a_part_whose_marker_comes_again_does_not_grow() -> None:
    parser = ReplyParser(2, NONCE)
    assert parser.feed(f"{M1}\nmine\n{M2}\ntheirs\n") == [
        PartDelta(0, "mine"),
        PartDelta(1, "theirs"),
    ]
    assert parser.feed(f"{M1}\nsomething for the first\n") == []


@pytest.mark.parametrize("parts", [0, -1])
def test_a_reply_has_parts(parts: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        ReplyParser(parts, NONCE)


def test_a_nonce_of_another_form_is_refused() -> None:
    with pytest.raises(ValueError, match="24 characters"):
        ReplyParser(2, "a")
