"""How strongly a gateway of a pair attracts traffic: three sets of attributes, put on what every neighbor is told last.

    level       our AS in front of the path    MED       inside our AS: LOCAL_PREF
    standby     twice more than usual          + 200     + 0
    active      once more                      + 100     + 100
    took-over   as usual                       + 0       + 200

Each level beats the one before by each attribute alone, so that whoever takes over wins against what a dead active announced last,
without waiting for its sessions to expire. They are added to what the operator's policies say. The other gateway of the pair is told
everything as it is: each of the two prefers what it learned itself, and does not depend on the other.

An active gateway adds a large community, AS:26488:EPOCH, so that it can be seen from elsewhere who acts, and under which epoch: also by the
other gateway, to which a route server or IBGP brings it back.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from gateway.bgp.path import DEFAULT_LOCAL_PREFERENCE, Announcement
from gateway.bgp.settings import NeighborSettings, Role, SpeakerSettings

EPOCH_MARK = 26488
_MED = (200, 100, 0)
_U32_MAX = 0xFFFFFFFF


class Level(IntEnum):
    """As `ha/message.py` has them."""

    STANDBY = 0
    ACTIVE = 1
    TOOK_OVER = 2


@dataclass(frozen=True, slots=True)
class Attraction:
    """What the pair wants. `epoch` 0: none to be told."""

    level: Level
    epoch: int = 0

    def of(self, settings: SpeakerSettings, neighbor: NeighborSettings, told: Announcement) -> Announcement:
        """What the neighbor is told instead of `told`."""
        marks = (f"{settings.local_as}:{EPOCH_MARK}:{self.epoch & _U32_MAX}",) if self.epoch else ()
        communities = told.large_communities + marks
        if settings.role(neighbor) is Role.PAIR:
            return told._replace(large_communities=communities)
        med = min((told.med or 0) + _MED[self.level], _U32_MAX)
        if settings.internal(neighbor):
            before = told.local_preference
            wanted = (DEFAULT_LOCAL_PREFERENCE if before is None else before) + 100 * self.level
            return told._replace(local_preference=min(wanted, _U32_MAX), med=med, large_communities=communities)
        path = (settings.local_as,) * (Level.TOOK_OVER - self.level) + told.as_path
        return told._replace(as_path=path, med=med, large_communities=communities)


def mark_of(communities: tuple[str, ...], local_as: int) -> int | None:
    """The low 32 bits of the highest epoch under which a route was announced; None: not by a gateway of this AS that acts."""
    ours = f"{local_as}:{EPOCH_MARK}:"
    return max((int(one.removeprefix(ours)) for one in communities if one.startswith(ours)), default=None)
