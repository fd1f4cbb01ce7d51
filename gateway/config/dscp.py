"""Differentiated services code points as people write them: 46, "ef", "AF41"; or "copy".

The names are those of RFC 2474 (class selectors), RFC 2597 (AF), RFC 3246 (EF), RFC 5865 (VOICE-ADMIT) and RFC 8622 (LE).
"""

from __future__ import annotations

_HIGHEST = 63
DSCP_NAMES: dict[str, int] = {
    **{f"cs{number}": number << 3 for number in range(8)},
    **{f"af{number}{drop}": number << 3 | drop << 1 for number in range(1, 5) for drop in range(1, 4)},
    "ef": 46,
    "va": 44,
    "le": 1,
}


def parse_dscp(value: object) -> int | str:
    """The code point, or "copy" for that of the inner packet."""
    if isinstance(value, str):
        word = value.lower()
        if word == "copy" or word in DSCP_NAMES:
            return DSCP_NAMES.get(word, word)
    elif isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _HIGHEST:
        return value
    raise ValueError(f'expected "copy", a whole number, 0 to {_HIGHEST}, or a name such as "ef", "cs6" or "af41"')
