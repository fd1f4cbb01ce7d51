"""Several IKE_SAs of one connection: which of them carries it, and when the others go (RFC 7296 2.4, 2.8).

Both ends may start at once, a peer may come back without having lost its old IKE_SA, and any answer may be lost.
Traffic moves to an IKE_SA only when the peer is known to hold it too, and another one is closed only when
both ends know that both hold the one that stays. The choice itself follows from what both ends see.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from gateway.contract import RandomSource
from gateway.ike.states import Standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.ike.sa import IkeSa

DUPLICATE_LINGER = 3.0
"""Seconds from the decision until a duplicate IKE_SA is closed, for what the peer sent on it meanwhile."""
LINGER_FUZZ = 3.0
"""Seconds more, at random: should the ends ever choose differently, the first DELETE decides."""
SIMULTANEOUS = 30.0
"""Two IKE_SAs of one connection this close in age came from both ends starting at once."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Which IKE_SA it once was, before its rekeys. Times on the core's clock."""

    initiator_spi: int
    is_initiator: bool
    established_at: float = 0.0


def elect(sas: Sequence[IkeSa], current: IkeSa | None, random: RandomSource, now: float) -> IkeSa | None:
    """The IKE_SA that carries the connection; arms `close_at` of those that no longer matter. None: there is none."""
    standing = [sa for sa in sas if sa.established and not sa.quiet]
    remaining = [sa for sa in standing if sa.close_at is None]
    if not remaining:
        if not standing:
            return None
        # The peer closed the other one: this one stays
        remaining = [max(standing, key=_age)]
        remaining[0].close_at = None
    held = sorted((sa for sa in remaining if sa.standing is not Standing.ANSWERED), key=_age)
    if not held:
        return current if current in remaining else max(remaining, key=_age)
    winner = reduce(_stays, held)
    if winner.standing is Standing.PROVEN:
        for loser in held:
            if loser is not winner:
                loser.close_at = now + DUPLICATE_LINGER + random.uniform(0.0, LINGER_FUZZ)
                loser.notice("info", "ike-duplicate", "a second IKE_SA with the same peer is going to be closed")
    return winner


def _stays(older: IkeSa, newer: IkeSa) -> IkeSa:
    """Both ends started at once: both keep the SA with the lower initiator SPI. Else the newer one stays."""
    ends = older.origin.is_initiator != newer.origin.is_initiator
    simultaneous = ends and _age(newer) - _age(older) < SIMULTANEOUS
    return min(older, newer, key=lambda sa: sa.origin.initiator_spi) if simultaneous else newer


def _age(sa: IkeSa) -> float:
    return sa.origin.established_at
