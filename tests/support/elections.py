"""An election alone on a clock of the test, and everything it said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from gateway.ha.election import Election
from gateway.ha.heartbeat import DownReason, PeerDown, PeerSaid, PeerUp
from gateway.ha.message import Advertised, HealthReason, Level, Role, Standing
from gateway.ha.roles import (
    ElectionSettings,
    HealthChanged,
    Operate,
    RoleChanged,
    VoteChanged,
)
from gateway.ha.witness import LeaseGranted

SICK = HealthChanged(HealthReason.TUNNELS | HealthReason.BGP)
WELL = HealthChanged(HealthReason(0))
STANDBY = Advertised(Role.STANDBY, 100, ready=True)
ACTIVE = Advertised(Role.ACTIVE, 100, 5, level=Level.ACTIVE, standing=Standing.OURS)


class Driver:
    """An election at 1000 s, and everything it said."""

    def __init__(self, **settings: Any) -> None:
        self.now = 1000.0
        self.core = Election(replace(ElectionSettings("gw-a", priority=200), **settings), self.now)
        self.said: list[object] = []
        self.tell(WELL)
        if self.core._settings.witness:
            self.tell(Standing.FREE)

    def tell(self, event: object, after: float = 0.0) -> list[object]:
        """An input; what came out of it."""
        self.now += after
        if isinstance(event, HealthChanged | Operate | Standing | VoteChanged):
            self.core.command(event, self.now)
        else:
            self.core.receive(event, self.now)  # type: ignore[arg-type]
        return self._drain()

    def wait(self, seconds: float) -> list[object]:
        """Every timer on the way."""
        end, out = self.now + seconds, []
        while (due := self.core.next_deadline()) is not None and due <= end:
            assert due > self.now, "a timer in the past"
            self.now = due
            self.core.handle_deadline(self.now)
            out += self._drain()
        self.now = end
        return out

    def up(self, said: Advertised = STANDBY) -> list[object]:
        return self.tell(PeerUp("gw-b", said))

    def hears(self, **changes: Any) -> list[object]:
        return self.tell(PeerSaid("gw-b", replace(STANDBY, **changes)))

    def silence(self) -> list[object]:
        return self.tell(PeerDown(DownReason.SILENCE))

    @property
    def told(self) -> Advertised:
        return self.core.advertised(self.now)

    @property
    def why_not(self) -> str:
        return self.core.why_not(self.now)

    def _drain(self) -> list[object]:
        out = list(self.core.poll())
        self.said += out
        return out


def active(**settings: Any) -> Driver:
    """With the lease of epoch 1, the other one a ready standby."""
    driver = Driver(**settings)
    driver.up()
    driver.tell(LeaseGranted(1))
    assert driver.core.role is Role.ACTIVE
    return driver


def standby(**settings: Any) -> Driver:
    """The other one is active under epoch 5."""
    driver = Driver(**settings)
    driver.up(ACTIVE)
    driver.tell(Standing.OTHER)
    assert (driver.core.role, driver.core.epoch) == (Role.STANDBY, 5)
    return driver


def roles(effects: list[object]) -> list[tuple[Role, Role, int]]:
    return [(one.before, one.after, one.epoch) for one in effects if isinstance(one, RoleChanged)]
