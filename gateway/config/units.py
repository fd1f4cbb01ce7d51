"""Durations, octet counts, packet counts and numbers of workers as people write them: "90m", "500G", "10M", "auto"."""

from __future__ import annotations

import re
from decimal import Decimal

_QUANTITY = re.compile(r"(\d{1,18}(?:\.\d{1,9})?) ?([A-Za-z]*)", re.ASCII)
_SECONDS = {"": "1", "ms": "0.001", "s": "1", "m": "60", "h": "3600", "d": "86400"}
_DECIMAL = {"": "1", "K": "1e3", "M": "1e6", "G": "1e9", "T": "1e12"}
_OCTETS = _DECIMAL | {"Ki": str(2**10), "Mi": str(2**20), "Gi": str(2**30), "Ti": str(2**40)}
_LIMIT = 2**63
_WORKERS = 64


def parse_duration(value: object) -> float:
    """Seconds from 30, "90s", "45m", "4h" or "1d"; ValueError says what is allowed."""
    return float(_quantity(value, _SECONDS, '30, "45m" or "4h"'))


def parse_octets(value: object) -> int:
    """Octets from 1000, "500G" (decimal) or "500Gi" (binary)."""
    return int(_quantity(value, _OCTETS, '1000000, "500G" or "500Gi"'))


def parse_count(value: object) -> int:
    """A packet count from 1000 or "10M"."""
    return int(_quantity(value, _DECIMAL, '1000 or "10M"'))


def parse_workers(value: object) -> int | str:
    """A number of threads, or "auto"."""
    if value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _WORKERS):
        return value
    raise ValueError(f'expected a whole number, 1 to {_WORKERS}, or "auto"')


def _quantity(value: object, units: dict[str, str], example: str) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected a number or a quantity such as {example}")
    if isinstance(value, str):
        match = _QUANTITY.fullmatch(value.strip())
        if match is None or match[2] not in units:
            known = ", ".join(unit for unit in units if unit)
            raise ValueError(f"'{value}' is not a quantity; write it as {example} (units: {known})")
        return Decimal(match[1]) * Decimal(units[match[2]])
    number = Decimal(value)
    # TOML knows inf and nan, and integers of any length.
    if not number.is_finite() or abs(number) > _LIMIT:
        raise ValueError(f"'{number:.6g}' is out of range; write it as {example}")
    return number
