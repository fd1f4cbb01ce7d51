"""The small languages of BGP policies: prefix lists, AS path patterns, communities, splits. Text stays text in the model.

"10.0.0.0/8 ge 16 le 24"    what lies inside with a length from 16 to 24; without ge and le that prefix alone
"deny 10.9.0.0/16 le 32"    not these; the first entry that matches decides, and nothing matching means no
"^65010_", "_12076_", "^$"  over the numbers of the AS path, `_` is a blank or either end
"65010:100", "65010:*", "65010:1:2", "no-export"
"10.200.0.0/16 /17"         in parts of that length
"""

from __future__ import annotations

import re
from typing import NamedTuple

from gateway.config.addresses import Prefix, parse_prefix

WELL_KNOWN = {
    "no-export": (65535, 65281),
    "no-advertise": (65535, 65282),
    "no-export-subconfed": (65535, 65283),
    "no-peer": (65535, 65284),
    "blackhole": (65535, 666),
}
MOST_PARTS = 256


class PrefixMatch(NamedTuple):
    """One entry of a prefix list: lengths from `least` to `most`."""

    permit: bool
    prefix: Prefix
    least: int
    most: int


def parse_prefix_match(text: str) -> PrefixMatch:
    words = text.split()
    permit = words[:1] != ["deny"]
    if words[:1] in (["deny"], ["permit"]):
        words = words[1:]
    if not words or len(words) % 2 == 0:
        raise ValueError(f"'{text}' is no entry of a prefix list; write it as \"10.0.0.0/8 ge 16 le 24\"")
    prefix = parse_prefix(words[0])
    bounds: dict[str, int] = {}
    for word, number in zip(words[1::2], words[2::2], strict=True):
        if word not in ("ge", "le") or word in bounds or not number.isdecimal():
            raise ValueError(f"'{text}': after the prefix come only 'ge' and 'le', each with a length")
        bounds[word] = int(number)
    least = bounds.get("ge", prefix.prefixlen)
    most = bounds.get("le", prefix.max_prefixlen if "ge" in bounds else prefix.prefixlen)
    if not prefix.prefixlen <= least <= most <= prefix.max_prefixlen:
        order = f"{prefix.prefixlen} <= ge <= le <= {prefix.max_prefixlen}"
        raise ValueError(f"'{text}' matches nothing; lengths must be in order: {order}")
    return PrefixMatch(permit, prefix, least, most)


def parse_as_path(text: str) -> re.Pattern[str]:
    """A regular expression over AS numbers separated by blanks, where `_` is a blank or either end.

    What could take exponential time on a path a stranger made is refused: a repeated group that repeats inside.
    """
    if not re.fullmatch(r"[0-9_ .*+?|()\[\]^$,{}-]*", text):
        raise ValueError(f"'{text}': only digits, '_' and . * + ? | ( ) [ ] {{ }} ^ $ may stand in an AS path pattern")
    if _nested_repeats(text):
        raise ValueError(f"'{text}': a repeated group must not repeat inside, or one path could keep us busy for hours")
    try:
        return re.compile(text.replace("_", "(?:^|$| )"))
    except re.error as error:
        raise ValueError(f"'{text}' is no regular expression: {error}") from None


def parse_community(text: str) -> tuple[int | None, ...]:
    """Two numbers (RFC 1997), three (RFC 8092), None for each `*`."""
    if text in WELL_KNOWN:
        return WELL_KNOWN[text]
    parts = text.split(":")
    limit = 0xFFFF if len(parts) == 2 else 0xFFFFFFFF
    if len(parts) not in (2, 3) or not all(part == "*" or part.isdecimal() for part in parts):
        known = ", ".join(WELL_KNOWN)
        raise ValueError(f'\'{text}\' is no community; write it as "65010:100", "65010:1:2" or one of {known}')
    if any(part != "*" and int(part) > limit for part in parts):
        raise ValueError(f"'{text}': a number of it is larger than {limit}")
    return tuple(None if part == "*" else int(part) for part in parts)


def parse_split(text: str) -> tuple[Prefix, int]:
    """A prefix and the length of its parts."""
    words = text.split()
    if len(words) != 2 or not re.fullmatch(r"/\d{1,3}", words[1]):
        raise ValueError(f"'{text}': write the prefix and the length of its parts, as \"10.200.0.0/16 /17\"")
    prefix, length = parse_prefix(words[0]), int(words[1][1:])
    if not prefix.prefixlen < length <= prefix.max_prefixlen:
        raise ValueError(f"'{text}': its parts must be longer than /{prefix.prefixlen}")
    if 1 << (length - prefix.prefixlen) > MOST_PARTS:
        raise ValueError(f"'{text}' makes {1 << (length - prefix.prefixlen)} parts; {MOST_PARTS} are the most")
    return prefix, length


def parse_default_route(text: str) -> Prefix:
    """The prefix that must be there for a default route to be announced."""
    if "/" not in text:
        raise ValueError(f'\'{text}\': "never", "always", or the prefix we must have a route to, as "10.0.0.0/8"')
    return parse_prefix(text)


def _nested_repeats(text: str) -> bool:
    """Whether a group with * + or { inside is itself followed by one of these."""
    opened: list[bool] = []
    repeats = False
    for place, character in enumerate(text):
        following = text[place + 1 : place + 2]
        if character == "(":
            opened.append(repeats)
            repeats = False
        elif character == ")" and opened:
            if repeats and following in ("*", "+", "{"):
                return True
            repeats = opened.pop() or repeats or following in ("*", "+", "{")
        elif character in "*+{":
            repeats = True
    return False
