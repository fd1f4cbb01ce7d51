from __future__ import annotations

import pytest

from gateway.observe.units import age, octets, quantity


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (-3, "0s"),
        (0.9, "0s"),
        (59, "59s"),
        (60, "1m"),
        (61, "1m 1s"),
        (8040, "2h 14m"),
        (7205, "2h"),
        (90061, "1d 1h"),
        (86400 * 400, "400d"),
    ],
)
def test_ages(seconds: float, text: str):
    assert age(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (8_100_000_000, "8.1 GB"), (999_960, "1.0 MB")]
)
def test_octets(count: int, text: str):
    assert octets(count) == text


def test_quantities():
    assert (quantity(6_200_000), quantity(12)) == ("6.2 M", "12")
