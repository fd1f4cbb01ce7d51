"""Who asks for an IKE_SA without being anybody's peer: a word for people, and nothing else.

The address of a datagram proves nothing, so this changes no state; it is bounded, and says so at most once a second.
"""

from __future__ import annotations

KNOWN_MAX = 8
"""Addresses remembered; the one unheard for the longest goes first."""
RECENT = 120.0
"""Seconds after which a call says nothing any more."""
NEWS_INTERVAL = 1.0


class Strangers:
    """Addresses that called us, by ours."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, str], float] = {}
        self._told_at = -NEWS_INTERVAL

    def called(self, local: str, remote: str, now: float) -> bool:
        """Remembers the call; whether it is news."""
        known = self._last.pop((local, remote), None)
        self._last[local, remote] = now
        if len(self._last) > KNOWN_MAX:
            del self._last[next(iter(self._last))]
        if (known is not None and now < known + RECENT) or now < self._told_at + NEWS_INTERVAL:
            return False
        self._told_at = now
        return True

    def caller(self, local: str, now: float) -> str:
        """The last one that called that address of ours lately, or nobody."""
        recent = [remote for (own, remote), at in self._last.items() if own == local and now < at + RECENT]
        return recent[-1] if recent else ""
