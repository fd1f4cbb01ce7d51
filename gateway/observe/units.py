"""Ages and quantities as people read them: "2h 14m", "8.1 GB", "6.2 M"."""

from __future__ import annotations

_AGES = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def age(seconds: float) -> str:
    """The two largest units; "0s" for anything below a second or in the future."""
    left = int(seconds)
    for index, (unit, size) in enumerate(_AGES):
        if left >= size:
            whole, rest = divmod(left, size)
            if unit == "s":
                return f"{whole}s"
            minor, minor_size = _AGES[index + 1]
            return f"{whole}{unit} {rest // minor_size}{minor}" if rest // minor_size else f"{whole}{unit}"
    return "0s"


def octets(count: int) -> str:
    """Decimal prefixes, as interface speeds use them."""
    return f"{_scaled(count)}B"


def quantity(count: int) -> str:
    return _scaled(count).strip()


def _scaled(count: int) -> str:
    """ "8.1 G" and "999 ": the caller appends the unit."""
    if count < 1000:
        return f"{count} "
    value, prefixes = count / 1000, iter("kMGTPE")
    prefix = next(prefixes)
    while value >= 999.95 and prefix != "E":
        value, prefix = value / 1000, next(prefixes)
    return f"{value:.1f} {prefix}"
