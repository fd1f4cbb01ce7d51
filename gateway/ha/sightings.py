"""Epochs that were read where anybody may write them: in announcements of routes (BGP large communities).

Less than what the other gateway says, the witness grants or a table of the cloud has: a mark outlives its gateway, and whoever may announce can
forge it. So a sighting alone ends nothing that a lease or a heartbeat vouches for; but nobody acts anew under an epoch that is not above it.
A mark has the low 32 bits of an epoch and is read as the nearest epoch (serial number arithmetic, RFC 1982 3.2).
"""

from __future__ import annotations

from gateway.ha.peer_view import PeerView
from gateway.ha.roles import ElectionSettings

_SPACE, _HALF = 1 << 32, 1 << 31


class Sightings:
    """`highest` of those above what was known then, and when it was seen."""

    def __init__(self) -> None:
        self.highest = 0
        self.seen_at = float("-inf")

    def ahead(self, mark: int, known: int) -> int:
        """By how much a mark is above `known` and everything seen so far; 0: not at all."""
        distance = (mark - max(known, self.highest)) % _SPACE
        return distance if distance < _HALF else 0

    def note(self, mark: int, known: int, now: float) -> None:
        if distance := self.ahead(mark, known):
            self.highest, self.seen_at = max(known, self.highest) + distance, now

    def outdo(self, known: int, settings: ElectionSettings, peer: PeerView) -> bool:
        """Whether the other one acts under an epoch above the highest that is known, though it is not heard: seen since it fell silent, or just before. Only
        where silence promotes: a lease says more than that, so does a peer that is heard, and with `stay` nobody became active meanwhile."""
        if settings.witness or settings.none != "promote" or peer.said is not None:
            return False
        return self.highest > known and self.seen_at >= peer.silent_from - settings.patience
