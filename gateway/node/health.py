"""What is wrong with this gateway: tunnels, BGP, links and data plane, as far as another gateway could do better.

    TUNNELS      connections are configured, and none of them carries
    BGP          neighbors are configured on a side (sites, fabric), and none of that side has a session
    LINK         an outer address of ours is on no link of this host any more
    DATA_PLANE   the clear-text guard does not stand, or no worker works
    COPY         addresses are shared, and there is no copy of the active gateway's SAs here: connections would begin anew

The number also counts what is lost in part: of two tunnels one, of two route servers one. It is told to the other gateway, and decides
where both could be active. Kept up to date by what happens; nothing is searched.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from gateway.bgp.settings import Role, SpeakerSettings
from gateway.ha.message import BEST_HEALTH, HealthReason
from gateway.ha.roles import WEIGHTS, HealthChanged

_SIDES = (Role.SITE, Role.FABRIC)


@dataclass(slots=True)
class Health:
    """`changed` is for whoever tells the pair."""

    tunnels: dict[str, bool] = field(default_factory=dict)
    """Whether each carries."""
    links: bool = True
    data_plane: bool = False
    copy: bool = True
    changed: bool = True
    _sides: dict[str, Role] = field(default_factory=dict)
    _sessions: dict[str, bool] = field(default_factory=dict)

    def neighbors(self, settings: SpeakerSettings | None, established: Collection[str] = ()) -> None:
        """Those there are from now on, and those of them that have a session: one of the same name may be another."""
        found = settings.neighbors if settings is not None else ()
        assert settings is not None or not found
        self._sides = {one.name: settings.role(one) for one in found} if settings is not None else {}
        self._sessions = {name: name in established for name in self._sides}
        self.changed = True

    def session(self, neighbor: str, up: bool) -> None:
        """Of BGP."""
        if neighbor in self._sessions and self._sessions[neighbor] != up:
            self._sessions[neighbor] = up
            self.changed = True

    def tunnel(self, name: str, carries: bool | None) -> None:
        """None: there is no such connection any more."""
        if self.tunnels.get(name) is not carries:
            self.changed = True
            if carries is None:
                del self.tunnels[name]
            else:
                self.tunnels[name] = carries

    def set(self, *, links: bool | None = None, data_plane: bool | None = None, copy: bool | None = None) -> None:
        """What is given."""
        before = (self.links, self.data_plane, self.copy)
        self.links = self.links if links is None else links
        self.data_plane = self.data_plane if data_plane is None else data_plane
        self.copy = self.copy if copy is None else copy
        self.changed = self.changed or before != (self.links, self.data_plane, self.copy)

    def judge(self) -> HealthChanged:
        """For the election."""
        self.changed = False
        lost = dict.fromkeys(WEIGHTS, 0.0)
        lost[HealthReason.TUNNELS] = _lost(self.tunnels)
        lost[HealthReason.BGP] = max(_lost(self._of(side)) for side in _SIDES)
        lost[HealthReason.LINK] = float(not self.links)
        lost[HealthReason.DATA_PLANE] = float(not self.data_plane)
        lost[HealthReason.COPY] = float(not self.copy)
        reasons = HealthReason(0)
        for reason, share in lost.items():
            reasons |= reason if share == 1 else HealthReason(0)
        return HealthChanged(reasons, BEST_HEALTH - round(sum(WEIGHTS[reason] * lost[reason] for reason in lost)))

    def _of(self, side: Role) -> Mapping[str, bool]:
        return {name: up for name, up in self._sessions.items() if self._sides[name] is side}


def _lost(states: Mapping[str, bool]) -> float:
    """The share that does not work, 0 to 1; of nothing nothing is lost."""
    return sum(not works for works in states.values()) / len(states) if states else 0.0
