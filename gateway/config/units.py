"""Durations, octet counts and packet counts as people write them: "90m", "500G", "10M"."""

from __future__ import annotations

import re

_QUANTITY = re.compile(r"^(\d+(?:\.\d+)?)([A-Za-z]*)$")
_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_OCTETS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


def _quantity(value: object, units: dict[str, float] | dict[str, int], example: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected a number or a string such as {example}")
    if not isinstance(value, str):
        return float(value)
    match = _QUANTITY.match(value.strip())
    if match is None or match[2] not in units:
        known = ", ".join(unit for unit in units if unit)
        raise ValueError(f"{value!r} is not a quantity such as {example} (units: {known})")
    return float(match[1]) * units[match[2]]


def parse_duration(value: object) -> float:
    """Seconds from 30, "90s", "45m", "4h" or "1d"; ValueError says what is allowed."""
    return _quantity(value, _SECONDS, '"45m"')


def parse_octets(value: object) -> int:
    """Octets from 1000, "500G" (decimal) or "500Gi" (binary)."""
    return int(_quantity(value, _OCTETS, '"500G"'))


def parse_count(value: object) -> int:
    """A packet count from 1000 or "10M"."""
    return int(_quantity(value, _OCTETS, '"10M"'))
