"""Whatever way an answer comes and is read, its deltas and its completion agree."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mge_cache import Completion, Delta, InternalError
from mge_cache._reply import Reply
from mge_cache.v1 import cache_service_pb2 as pb
from tests.rpc.generate_double import completion_of

RESTART = pb.GenerateResponse(restart=pb.GenerateRestart())
# A text that arrives (or None, a restart), and whether the reader takes what is there after it.
STEPS = st.lists(st.tuples(st.none() | st.text(max_size=4), st.booleans()), max_size=12)


unhurried = settings(deadline=None)  # a busy machine is not a slow function


def delta(text: str) -> pb.GenerateResponse:
    return pb.GenerateResponse(delta=text)


def complete(reply: Reply, text: str) -> None:
    reply.receive(pb.GenerateResponse(completion=completion_of(text)))


def joined(deltas: list[Delta]) -> str:
    text = ""
    for each in deltas:
        text = each.text if each.restart else text + each.text
    return text


def take(reply: Reply, into: list[Delta]) -> None:
    while (taken := reply.take()) is not None:
        into.append(taken)


@unhurried
@given(STEPS, st.text(max_size=8), st.sampled_from(["all of it", "more of it", "another"]))
def test_the_deltas_are_the_completion(
    steps: list[tuple[str | None, bool]], text: str, how: str
) -> None:
    reply, seen, sent = Reply(), list[Delta](), ""
    for arrived, reads in steps:
        reply.receive(RESTART if arrived is None else delta(arrived))
        sent = "" if arrived is None else sent + arrived
        if reads:
            take(reply, seen)
            assert joined(seen) == sent
    whole = {"all of it": sent, "more of it": sent + text, "another": text}[how]
    complete(reply, whole)
    take(reply, seen)
    assert joined(seen) == whole
    assert isinstance(reply.outcome, Completion)
    assert reply.outcome.text == whole
    # A delta tells something: text, or that what was read is void.
    assert all(each.text or each.restart for each in seen)
    if not any(arrived is None for arrived, _ in steps) and how != "another":
        assert not any(each.restart for each in seen)


@unhurried
@given(st.lists(st.text(min_size=1, max_size=5), min_size=1))
def test_a_reader_who_is_slow_gets_one_delta(texts: list[str]) -> None:
    reply = Reply()
    for text in texts:
        reply.receive(delta(text))
    assert reply.take() == Delta("".join(texts))
    assert reply.take() is None


def test_a_restart_that_was_not_seen_is_told_once_with_the_new_text() -> None:
    reply = Reply()
    reply.receive(delta("wrong"))
    assert reply.take() == Delta("wrong")
    for response in (delta("more"), RESTART, delta("wrong again"), RESTART, delta("right")):
        reply.receive(response)
    assert reply.take() == Delta("right", restart=True)


def test_what_comes_after_the_end_is_ignored() -> None:
    reply = Reply()
    complete(reply, "text")
    outcome = reply.outcome
    for response in (delta("more"), RESTART, pb.GenerateResponse(error=pb.GenerateError(code=13))):
        assert not reply.receive(response)
    reply.fail(InternalError("late"))
    assert reply.outcome is outcome
    assert (reply.take(), reply.take()) == (Delta("text"), None)


@pytest.mark.parametrize("taken", [False, True])
def test_an_answer_is_bounded(taken: bool) -> None:  # noqa: FBT001 (a parameter of the test)
    reply = Reply(text_max=5)
    assert not reply.receive(delta("abc"))
    if taken:
        reply.take()
    assert reply.receive(delta("def"))  # the sidecar goes on, and must be told
    assert isinstance(reply.outcome, InternalError)
    assert reply.take() is None
    again = Reply(text_max=5)
    for response in (delta("abc"), RESTART, delta("defgh")):
        assert not again.receive(response)
