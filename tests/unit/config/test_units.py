"""Quantities as people write them."""

from __future__ import annotations

import pytest

from gateway.config.units import parse_count, parse_duration, parse_octets


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (30, 30.0),
        (0.2, 0.2),
        ("500ms", 0.5),
        ("90s", 90.0),
        ("45m", 2700.0),
        ("4h", 14400.0),
        ("1.5d", 129600.0),
        ("7", 7.0),
    ],
)
def test_durations_are_seconds(written: object, seconds: float) -> None:
    assert parse_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("written", "octets"),
    [
        (1000, 1000),
        ("500G", 500 * 10**9),
        ("500Gi", 500 * 2**30),
        ("1.5K", 1500),
        ("9007199254740993", 2**53 + 1),
        ("2T", 2 * 10**12),
    ],
)
def test_octets_are_decimal_or_binary_and_exact(written: object, octets: int) -> None:
    assert parse_octets(written) == octets


def test_counts_know_no_binary_units() -> None:
    assert parse_count("10M") == 10_000_000
    with pytest.raises(ValueError, match="'10Mi' is not a quantity"):
        parse_count("10Mi")


@pytest.mark.parametrize(
    "bad",
    ["", "h", "-4h", "4 hours", "4H", "1e3", "\u0664h", "9" * 400, True, None, [], float("inf"), float("nan"), 10**400],
)
def test_anything_else_is_a_value_error(bad: object) -> None:
    with pytest.raises(ValueError, match=r"write it as|such as"):
        parse_duration(bad)
