"""Whether packets of the whole MTU pass: the search, what makes it wait, and what it never concludes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bfd.full_size import AGAIN, FLOOR, SETTLE, SLOWLY, STEP, TRIES, TRIES_OF_WHOLE, FullSize, Passage

WHOLE = 1438


class Path:
    """A path that answers what `passes` says, at once."""

    def __init__(self, passes: Callable[[int], bool], size: int = WHOLE) -> None:
        self.passes = passes
        self.full = FullSize()
        self.now = 100.0
        self.asked: list[int] = []
        self.full.small(True, 0.9, self.now)
        self.full.whole(size, self.now)

    def step(self) -> None:
        due = self.full.next_deadline()
        assert due is not None
        self.now = due
        self.full.handle_deadline(self.now)
        for size in self.full.sizes():
            self.asked.append(size)
            if self.passes(size):
                self.full.answer(size, self.now + 0.01)

    def search(self) -> None:
        """To the end of one."""
        self.asked.clear()
        self.step()
        for _ in range(100):
            if not self.full._asked:
                return
            self.step()
        raise AssertionError("it never ends")


def test_a_path_that_takes_the_whole_size_is_asked_once_and_again_slowly() -> None:
    path = Path(lambda size: True)
    path.step()
    assert path.now == 100.0 + SETTLE
    assert (path.full.passage, path.full.largest, path.asked) == (Passage.WHOLE, WHOLE, [WHOLE])
    assert path.full.next_deadline() == pytest.approx(path.now + SLOWLY, abs=1)


@given(st.integers(FLOOR, WHOLE - 1))
def test_the_largest_size_that_passes_is_found_to_what_esp_pads_to(limit: int) -> None:
    path = Path(lambda size: size <= limit)
    path.search()
    assert path.full.passage is Passage.BLACK_HOLE
    assert limit - STEP < path.full.largest <= limit
    assert path.asked.count(WHOLE) == 2 * TRIES_OF_WHOLE
    assert path.now - 100.0 < 45
    assert path.full.next_deadline() == pytest.approx(path.now + AGAIN, abs=1)


def test_a_link_that_was_widened_is_found_to_be_good_within_a_minute() -> None:
    limit = [1300]
    path = Path(lambda size: size <= limit[0])
    path.search()
    limit[0] = 1500
    path.search()
    assert (path.full.passage, path.full.largest, path.asked) == (Passage.WHOLE, WHOLE, [WHOLE])


def test_who_answers_no_long_echo_at_all_says_nothing_of_the_path() -> None:
    path = Path(lambda size: False)
    path.search()
    assert path.asked == [WHOLE] * TRIES_OF_WHOLE + [FLOOR] * TRIES
    assert (path.full.passage, path.full.largest) == (Passage.UNKNOWN, 0)


def test_one_answer_of_the_whole_size_at_the_end_of_the_search_ends_it_well() -> None:
    """A path that lost much for a while is none that loses the long."""
    path = Path(lambda size: size < 1000 or len(path.asked) > 20)
    path.search()
    assert (path.full.passage, path.full.largest) == (Passage.WHOLE, WHOLE)


@given(st.integers(0, 2**32), st.floats(0, 0.3))
def test_loss_that_takes_the_long_and_the_short_alike_is_hardly_ever_a_black_hole(seed: int, loss: float) -> None:
    """At 30 % each way 51 % of the answers are missing: twice five in a row, one in 800."""
    import random

    lost = random.Random(seed)
    found = 0
    for _ in range(4):
        path = Path(lambda size: lost.random() > loss * (2 - loss))
        path.search()
        found += path.full.passage is Passage.BLACK_HOLE
    assert found <= 2


def test_as_long_as_small_packets_are_not_answered_nothing_is_asked_or_concluded() -> None:
    path = Path(lambda size: False)
    path.step()
    path.full.small(False, 0.9, path.now)
    assert path.full.next_deadline() is None
    path.full.answer(WHOLE, path.now)
    assert path.full.passage is Passage.UNKNOWN
    path.full.small(True, 0.9, path.now)
    assert path.full.next_deadline() == path.now + SETTLE


def test_another_mtu_and_another_path_are_looked_at_anew() -> None:
    path = Path(lambda size: size <= 1300)
    path.search()
    path.full.whole(WHOLE, path.now)
    assert path.full.next_deadline() == pytest.approx(path.now + AGAIN, abs=1)
    path.full.whole(WHOLE, path.now, moved=True)
    assert path.full.next_deadline() == path.now + SETTLE
    assert path.full.passage is Passage.BLACK_HOLE  # until it is known better
    path.full.whole(1298, path.now)
    assert path.full.passage is Passage.UNKNOWN
    path.search()
    assert (path.full.passage, path.asked) == (Passage.WHOLE, [1298])


def test_a_tunnel_that_is_down_or_narrow_is_not_looked_at() -> None:
    path = Path(lambda size: True, size=FLOOR)
    assert path.full.next_deadline() is None
    path.full.whole(0, path.now)
    assert path.full.next_deadline() is None


def test_a_late_answer_to_another_size_is_none() -> None:
    path = Path(lambda size: False)
    path.step()
    path.full.answer(1000, path.now)
    path.full.answer(FLOOR, path.now)
    assert path.full._passed == 0
