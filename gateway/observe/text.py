"""Text that came from a peer, made safe to show: one line, no control characters, bounded."""

from __future__ import annotations

_NAMED = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def printable(text: str, limit: int = 1000) -> str:
    """Escapes what a terminal, a log parser or a line-based reader could take for something else.

    Control characters, line separators, surrogates and bidirectional overrides are not `isprintable`.
    """
    cut = text if len(text) <= limit else text[:limit] + "..."
    if cut.isprintable() and "\\" not in cut:
        return cut
    return "".join(_escaped(char) for char in cut)


def _escaped(char: str) -> str:
    if char in _NAMED:
        return _NAMED[char]
    if char.isprintable():
        return char
    code = ord(char)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
