"""The search for the highest rate, on carriers and senders with known limits."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.search import Attempt, highest_rate

_FACTORS = (1.6, 1.2, 1.07)


def _carrier(limit: float, sender: float = float("inf"), tried: list[float] | None = None) -> Attempt:
    """Carries up to `limit` packets a second without loss; the sender offers up to `sender`."""

    def attempt(rate: float) -> dict[str, float] | None:
        if tried is not None:
            tried.append(rate)
        offered = min(rate, sender)
        return {"mpps": offered, "offered": offered} if offered <= limit else None

    return attempt


# below 500 / 0.7 a step down may jump over what would have passed
@given(st.floats(min_value=720, max_value=5e6), st.floats(min_value=1e3, max_value=1e5))
def test_the_limit_is_found_within_the_finest_step_and_never_exceeded(limit: float, first: float) -> None:
    found = highest_rate(_carrier(limit), first, _FACTORS)
    assert found is not None
    assert limit / 1.07 < found.quantities["mpps"] <= limit
    assert not found.sender_bound


def test_a_sender_that_gives_up_first_is_said_to_be_the_limit() -> None:
    found = highest_rate(_carrier(1e6, sender=2e4), 1e4, _FACTORS)
    assert found is not None
    assert found.quantities["mpps"] == 2e4
    assert found.sender_bound


def test_a_sender_that_falters_at_some_rates_does_not_end_the_search() -> None:
    carry = _carrier(1e5)

    def attempt(rate: float) -> dict[str, float] | None:
        found = carry(rate)
        if found is not None and 1.5e4 < rate < 3e4:
            return {"mpps": 9e3, "offered": 9e3}
        return found

    found = highest_rate(attempt, 1e4, _FACTORS)
    assert found is not None
    assert found.quantities["mpps"] > 9e4
    assert not found.sender_bound


def test_a_sender_above_the_carrier_is_no_bound() -> None:
    found = highest_rate(_carrier(1e5, sender=1.5e5), 1e4, _FACTORS)
    assert found is not None
    assert not found.sender_bound


def test_from_above_the_search_goes_down_first() -> None:
    tried: list[float] = []
    found = highest_rate(_carrier(2e4, tried=tried), 1e5, (1.15, 1.05))
    assert found is not None
    assert 2e4 / 1.05 < found.quantities["mpps"] <= 2e4
    assert tried[0] == 1e5 > tried[1] > tried[2]


@pytest.mark.parametrize("limit", [0.0, 400.0])
def test_one_who_loses_at_every_rate_has_no_figure(limit: float) -> None:
    assert highest_rate(_carrier(limit), 1e4, _FACTORS) is None


def test_the_best_attempt_counts_and_not_the_last_one() -> None:
    noise = random.Random(4)

    def attempt(rate: float) -> dict[str, float] | None:
        offered = min(rate, 3e4) * noise.uniform(0.7, 1.0)
        seen.append(offered)
        return {"mpps": offered, "offered": offered}

    seen: list[float] = []
    found = highest_rate(attempt, 1e4, _FACTORS)
    assert found is not None
    assert found.quantities["mpps"] == max(seen)
