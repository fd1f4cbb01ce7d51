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
from gateway.ike import resources
from gateway.ike.states import Standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gateway.ike.sa import IkeSa

IKE_SAS_MAX = 8
"""IKE_SAs of one connection, those on their way out among them, beyond which the peer may make no more by rekeys, and none by
IKE_AUTH but in the place of another (RFC 8019 5: who has authenticated may still be a nuisance)."""
DUPLICATE_LINGER = 3.0
"""Seconds from the decision until a duplicate IKE_SA is closed, for what the peer sent on it meanwhile."""
LINGER_FUZZ = 3.0
"""Seconds more, at random: should the ends ever choose differently, the first DELETE decides."""
REPLACED_LIFE, UNHEARD_LIFE = 30.0, 180.0
"""Seconds that an IKE_SA whose rekey was done waits for its peer's DELETE: before anything came on the one in its place, as long as a
peer that did not get our answer may ask again (strongSwan: 165 s)."""
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
        remaining[0].close_at, remaining[0].covered = None, False
        # What it closed on the way
        resources.resumed(remaining[0], now)
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


def full(sas: Sequence[IkeSa]) -> bool:
    """Whether the connection has all the IKE_SAs it may have; half-open ones are others'."""
    return sum(sa.established_at is not None for sa in sas) >= IKE_SAS_MAX


def make_room(new: IkeSa, now: float) -> bool:
    """Whether one that is being authenticated may stand, for which the oldest of those that nobody needs goes at once.

    A peer that never has our answers, and so comes back again and again, is let in all the same.
    """
    sas, primary = new.services.sas(new.name), new.services.primary(new.name)
    if not full(sas):
        return True
    needless = [sa for sa in sas if sa is not primary and _over(sa) and sa.services.covered(sa)]
    if not needless:
        return False
    oldest = min(needless, key=lambda sa: sa.established_at or 0.0)
    oldest.notice("info", "ike-duplicate", "too many IKE_SAs with the same peer: the oldest that carries nothing goes")
    # It is not told: that would take until it answers, which those that pile up do not do
    oldest.destroy(now, "", forgotten=True)
    return True


def _over(sa: IkeSa) -> bool:
    """Whether it is closed, going to be, or one on which nothing was ever heard."""
    if not sa.established:
        return sa.established_at is not None
    return sa.close_at is not None or sa.standing is Standing.ANSWERED


def _stays(older: IkeSa, newer: IkeSa) -> IkeSa:
    """Both ends started at once: both keep the SA with the lower initiator SPI. Else the newer one stays."""
    ends = older.origin.is_initiator != newer.origin.is_initiator
    simultaneous = ends and _age(newer) - _age(older) < SIMULTANEOUS
    return min(older, newer, key=lambda sa: sa.origin.initiator_spi) if simultaneous else newer


def _age(sa: IkeSa) -> float:
    return sa.origin.established_at
