"""Who asks for an IKE_SA without being anybody's peer: a word for people, and nothing else.

The address of a datagram proves nothing, so this changes no state; one caller is known for each address of ours, and
another one takes its place at most once a second.
"""

from __future__ import annotations

from dataclasses import dataclass

RECENT = 120.0
"""Seconds after which a call says nothing any more."""
NEWS_INTERVAL = 1.0


@dataclass(slots=True)
class _Caller:
    remote: str
    since: float
    at: float


class Strangers:
    """The last one that called, by address of ours."""

    def __init__(self) -> None:
        self._callers: dict[str, _Caller] = {}

    def called(self, local: str, remote: str, now: float) -> bool:
        """Remembers the call; whether it is news, which is whether `caller` gives another answer than before."""
        known = self._callers.get(local)
        if known is not None and known.remote == remote and now < known.at + RECENT:
            known.at = now
            return False
        if known is not None and now < known.since + NEWS_INTERVAL:
            return False
        self._callers[local] = _Caller(remote, now, now)
        return True

    def caller(self, local: str, now: float) -> str:
        """Who called that address of ours lately, or nobody."""
        return self._callers[local].remote if now < self.until(local) else ""

    def until(self, local: str) -> float:
        """When `caller` says nobody, if nobody calls before."""
        known = self._callers.get(local)
        return known.at + RECENT if known is not None else 0.0
