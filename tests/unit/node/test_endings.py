"""Three ends of one kind make a habit, named by what they have in common; one left alone is forgotten."""

from __future__ import annotations

import pytest

from gateway.node.endings import HABIT, Endings


def _ended(count: int, life: float, quiet: float) -> tuple[Endings, float]:
    endings, now = Endings(), 1000.0
    for _ in range(count):
        endings.note(now, now + life - quiet, now + life)
        now += life + 1.0
    return endings, now


@pytest.mark.parametrize(
    ("life", "quiet", "reason", "seconds"),
    [
        (0.1, 0.1, "AT_ONCE", None),
        (10.0, 10.0, "IDLE", "10"),
        (300.0, 10.0, "IDLE", "10"),
        (3600.0, 0.2, "LIFETIME", "3600"),
        (4.0, 0.1, "LIFETIME", "4"),
    ],
)
def test_what_they_have_in_common(life: float, quiet: float, reason: str, seconds: str | None) -> None:
    endings, now = _ended(HABIT, life, quiet)
    habit = endings.habit(now)
    assert (habit["reason"], habit.get("seconds"), habit["times"]) == (reason, seconds, str(HABIT))


def test_fewer_are_none_and_it_is_over_once_it_stays_up() -> None:
    assert _ended(HABIT - 1, 10.0, 10.0)[0].habit(1040.0) == {}
    endings, now = _ended(HABIT, 10.0, 10.0)
    assert endings.habit(now + 20.0)
    assert endings.habit(now + 40.0) == {}


def test_ends_far_apart_have_nothing_in_common() -> None:
    endings = Endings()
    for at in (0.0, 5000.0, 10000.0):
        endings.note(at, at + 5.0, at + 10.0)
    assert endings.habit(10011.0) == {}


def test_an_end_of_our_own_clears_them() -> None:
    endings, now = _ended(HABIT, 10.0, 10.0)
    endings.clear()
    assert endings.habit(now) == {}


@pytest.mark.parametrize("life", [0.1, 10.0, 600.0])
def test_it_says_until_when_it_is_one(life: float) -> None:
    endings, now = _ended(HABIT, life, life)
    assert Endings().until == 0.0
    assert endings.until > now
    assert endings.habit(endings.until - 0.001)
    assert endings.habit(endings.until) == {}
