"""When silence is proof that a sidecar hangs, by a clock that the test moves."""

from __future__ import annotations

import pytest

from mge_cache import InvalidRequestError, Timeouts
from mge_cache._silence import (
    ASKS_AFTER,
    ASKS_AFTER_MAX,
    HANGS_AFTER,
    WAITING_LOOKS,
    Sign,
    Silence,
    Wait,
    silences,
)
from mge_cache.errors import DeadlineExceededError, UnavailableError

LOOK_S = 0.001
DEADLINE_S = 0.1
CONNECTS_AFTER = 25


class Watched(Silence):
    """A silence and its clock, which a look moves on."""

    def __init__(self) -> None:
        self.now_s = 100.0
        super().__init__(
            look_s=LOOK_S,
            deadline_s=DEADLINE_S,
            clock=lambda: self.now_s,
            connects_after=CONNECTS_AFTER,
        )

    def looks_until(self, wanted: Sign, *, each_s: float = LOOK_S, most: int = 1000) -> int:
        """Look until a sign comes that is not NOTHING, which must be the wanted one."""
        for number in range(1, most + 1):
            self.now_s += each_s
            sign = self.look()
            if sign is not Sign.NOTHING:
                assert sign is wanted
                return number
        raise AssertionError(f"no {wanted} within {most} looks")

    def quiet(self, looks: int) -> None:
        """Look so often, and see nothing."""
        for _ in range(looks):
            self.now_s += LOOK_S
            assert self.look() is Sign.NOTHING


@pytest.fixture
def silence() -> Watched:
    silence = Watched()
    silence.begins()
    silence.heard()
    silence.ends()
    return silence


def hang(silence: Watched) -> int:
    """Begin to wait, and look until it hangs; returns the looks after the question."""
    silence.begins()
    silence.looks_until(Sign.ASK)
    return silence.looks_until(Sign.HANGS)


def test_asks_then_hangs(silence: Watched) -> None:
    silence.begins()
    assert silence.looks_until(Sign.ASK) == ASKS_AFTER
    assert silence.looks_until(Sign.HANGS) == HANGS_AFTER
    assert silence.looks_until(Sign.HANGS) == 1


@pytest.mark.parametrize("late_s", [0.005, 0.05, 0.5])
def test_a_process_that_looks_late_has_missed_one_look(silence: Watched, late_s: float) -> None:
    silence.begins()
    assert silence.looks_until(Sign.ASK, each_s=late_s) == ASKS_AFTER
    assert silence.looks_until(Sign.HANGS, each_s=late_s) == HANGS_AFTER


def test_many_who_look_at_once_have_looked_once(silence: Watched) -> None:
    silence.begins()
    silence.looks_until(Sign.ASK)
    for _ in range(10 * HANGS_AFTER):
        assert silence.look() is Sign.NOTHING


def test_any_sound_begins_it_anew(silence: Watched) -> None:
    silence.begins()
    silence.begins()
    for _ in range(20):
        silence.quiet(ASKS_AFTER - 1)
        silence.heard()
        silence.ends()
        silence.begins()


def test_nobody_waits_and_nothing_is_silent(silence: Watched) -> None:
    silence.quiet(100)
    silence.begins()
    silence.quiet(1)
    silence.ends()
    silence.quiet(100)
    silence.begins()
    assert silence.looks_until(Sign.ASK) == ASKS_AFTER


def test_a_new_connection_is_given_longer_and_so_is_one_that_broke() -> None:
    silence = Watched()
    assert hang(silence) == CONNECTS_AFTER - ASKS_AFTER
    silence.ends()
    silence.heard(only_there=True)
    assert hang(silence) == HANGS_AFTER  # how long connecting took says nothing of silences
    silence.ends()
    silence.disconnected()
    assert hang(silence) == CONNECTS_AFTER - ASKS_AFTER


def test_who_is_there_and_slow_is_asked_ever_less_often(silence: Watched) -> None:
    silence.begins()
    looks = []
    for _ in range(6):
        looks.append(silence.looks_until(Sign.ASK))
        silence.heard(only_there=True)
    assert looks[:2] == [ASKS_AFTER, 2 * ASKS_AFTER]
    assert looks[-2:] == [ASKS_AFTER_MAX] * 2
    silence.heard()
    silence.ends()
    for expected in (ASKS_AFTER_MAX // 2, ASKS_AFTER):
        silence.begins()  # a call that does without a question
        silence.heard()
        silence.ends()
        silence.begins()
        assert silence.looks_until(Sign.ASK) == expected
        silence.ends()


def test_where_silences_are_usual_they_may_last_longer_for_a_while(silence: Watched) -> None:
    silence.begins()
    silence.looks_until(Sign.ASK)
    silence.quiet(4)
    silence.heard()
    silence.ends()
    longer = hang(silence)
    assert longer == 3 * 4
    silence.ends()
    silence.now_s += 10.0
    assert hang(silence) == longer / 2
    silence.ends()
    silence.now_s += 60.0
    assert hang(silence) == HANGS_AFTER


@pytest.mark.parametrize(("pause_s", "longer"), [(0.03, True), (0.2, False)])
def test_a_pause_that_was_taken_for_hanging_is_learnt_from_and_a_hang_is_not(
    silence: Watched, pause_s: float, *, longer: bool
) -> None:
    hang(silence)
    silence.ends()
    silence.now_s += pause_s
    silence.heard(only_there=True)
    assert (hang(silence) > HANGS_AFTER) is longer


def test_what_is_learnt_has_a_bound(silence: Watched) -> None:
    for _ in range(10):
        assert hang(silence) <= silence.looks_max / 4
        silence.ends()
        silence.now_s += DEADLINE_S / 2
        silence.heard()


def test_looks_bound_a_call_while_others_are_answered(silence: Watched) -> None:
    stopped: list[str] = []
    bounded, other = (
        Wait(lambda name=name: stopped.append(name), bounded=name == "bounded")  # type: ignore[misc]
        for name in ("bounded", "other")
    )
    for wait in (bounded, other):
        silence.begins()
        wait.begin(silence.looks)
    assert silence.looks_max == DEADLINE_S / LOOK_S
    for number in range(1, silence.looks_max + 1):
        assert not stopped
        silence.quiet(1)
        silence.heard()
        for wait in (bounded, other):
            wait.consider(hangs=False, looks=silence.looks, looks_max=silence.looks_max)
        assert bool(stopped) is (number == silence.looks_max)
    assert isinstance(bounded.given_up, DeadlineExceededError)
    for wait in (bounded, other):
        wait.consider(hangs=True, looks=silence.looks, looks_max=silence.looks_max)
    assert isinstance(other.given_up, UnavailableError)
    assert stopped == ["bounded", "other"]


def test_limits_by_default_and_as_set() -> None:
    soon, later = silences(Timeouts(), lambda: 0.0)
    assert soon.look_s == pytest.approx(0.001)
    assert later.look_s * (WAITING_LOOKS + HANGS_AFTER) == pytest.approx(0.34)
    assert Timeouts(get_s=20.0).silence_limit_s == pytest.approx(1.0)
    assert Timeouts(get_s=20.0).connect_limit_s == pytest.approx(10.0)
    given = Timeouts(get_s=0.05, silence_s=0.01, connect_s=1.0)
    assert (given.silence_limit_s, given.connect_limit_s) == (0.01, 0.05)


@pytest.mark.parametrize("name", ["silence_s", "connect_s"])
@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_limits_that_make_no_sense(name: str, value: float) -> None:
    with pytest.raises(InvalidRequestError, match=f"{name}: must be more than 0"):
        Timeouts(**{name: value})
