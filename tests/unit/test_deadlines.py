"""The earliest of many deadlines is the earliest, whatever changed in between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.deadlines import Deadlines

STEPS = st.lists(st.tuples(st.integers(0, 9), st.none() | st.integers(0, 100)), max_size=200)


@given(STEPS, st.lists(st.booleans(), min_size=200, max_size=200))
def test_the_earliest_is_the_smallest_of_all_after_every_change(
    steps: list[tuple[int, int | None]], asked: list[bool]
) -> None:
    held: dict[int, float | None] = {}
    deadlines: Deadlines[int] = Deadlines(held.get)
    for (key, at), ask in zip(steps, asked, strict=False):
        held[key] = at
        deadlines.touch(key)
        if ask:
            assert deadlines.earliest() == min((one for one in held.values() if one is not None), default=None)


@given(STEPS, st.integers(0, 100))
def test_due_is_what_is_due_in_order_and_due_again_until_it_changes(
    steps: list[tuple[int, int | None]], now: int
) -> None:
    held: dict[int, float | None] = {}
    deadlines: Deadlines[int] = Deadlines(held.get)
    for key, at in steps:
        held[key] = at
        deadlines.touch(key)
    wanted = sorted(at for at in held.values() if at is not None and at <= now)
    for _ in range(2):
        due = deadlines.due(now)
        assert [held[key] for key in due] == wanted
        assert len(set(due)) == len(due)
    for key in due:
        held[key] = None
        deadlines.touch(key)
    assert deadlines.due(now) == []


def test_only_what_was_touched_is_computed() -> None:
    asked: list[int] = []

    def of(key: int) -> float:
        asked.append(key)
        return float(key)

    deadlines: Deadlines[int] = Deadlines(of)
    for key in range(1000):
        deadlines.touch(key)
    assert deadlines.earliest() == 0.0
    asked.clear()
    for _ in range(100):
        deadlines.touch(7)
        assert deadlines.earliest() == 0.0
    assert asked == [7] * 100


def test_a_deadline_that_moves_on_and_on_leaves_nothing_behind() -> None:
    held = {0: 0.0, 1: 1e9}
    deadlines: Deadlines[int] = Deadlines(held.get)
    deadlines.touch(1)
    for at in range(10_000):
        held[0] = float(10_000 + at)
        deadlines.touch(0)
        deadlines.earliest()
    assert len(deadlines._heap) < 100
