"""What must hold between two gateways and a witness, asked after every step.

at most one acts; with a lease that is valid by its own clock, the moment it acts
with `stay` nobody becomes active while the other is silent, except who offered it and was not taken at its word
epochs never go back: an active has a higher one than every active before it and than it was told of, and one that was granted to it
during a planned switchover somebody attracts the traffic at every instant
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.ha_plan import DEAD_TIME, TTL
from simulation.trace import Broken

from gateway.ha.message import Level, Role
from gateway.ha.roles import RoleChanged
from gateway.ha.witness_node import Record

if TYPE_CHECKING:
    from simulation.ha_world import HaWorld, Machine

SILENT = 0.1
"""Seconds beyond the dead time without a heartbeat: that is silence, whatever the gateway thinks."""


SPINNING = 100
"""Wake-ups of one gateway at one instant."""


class HaWatch:
    def __init__(self, world: HaWorld) -> None:
        self.world = world
        self.attracted = False
        """Somebody must attract now: nothing is disturbed, and there was an active."""
        self._highest: tuple[int, str] = (-1, "")  # epoch, and which process acted under it
        self._granted: dict[int, str] = {}
        self._unfenced: dict[str, float] = {}  # who broke a lease, and when
        self._remembered: dict[str, int] = {}
        self._told: dict[
            str, tuple[int, float]
        ] = {}  # the highest epoch that announcements told a process of, and when
        self._acted: dict[str, int] = {}  # the epoch under which a process was active last
        self._instant: tuple[str, float, int] = ("", 0.0, 0)

    # --- what happened ------------------------------------------------------------------------------------------

    def disturbed(self) -> None:
        """A fault: nobody promises an attractor any more."""
        self.attracted = False

    def granted(self, record: Record) -> None:
        if record.epoch <= max(self._granted, default=0):
            raise Broken(f"the witness grants epoch {record.epoch} again, or a lower one")
        self._granted[record.epoch] = record.name

    def remembered(self, machine: Machine, epoch: int) -> None:
        if epoch <= self._remembered.get(machine.name, 0):
            raise Broken(f"the epoch of {machine.name} goes back to {epoch}")
        self._remembered[machine.name] = epoch

    def promoted(self, machine: Machine, change: RoleChanged) -> None:
        world, process = self.world, f"{machine.name}{machine.boots}"
        plan = world.plan
        resumed = change.before is Role.DRAINING and (change.epoch, process) == self._highest
        if plan.policy == "stay" and not resumed and world.now > machine.heard_at + DEAD_TIME + SILENT:
            raise Broken(f"{machine.name} becomes active though the other is silent")
        self._check_told(machine, change)
        self._acted[process] = change.epoch
        epoch, before = self._highest
        if plan.policy != "promote":
            if (change.fenced and change.epoch < epoch) or (change.epoch == epoch and before != process):
                raise Broken(f"epochs go back: {process} is active under {change.epoch}, {before} was under {epoch}")
            self._highest = max(self._highest, (change.epoch, process))
        if plan.witness and self._granted.get(change.epoch) != f"gw-{machine.name}":
            raise Broken(f"{machine.name} is active under epoch {change.epoch}, which was not granted to it")
        if not change.fenced:
            self._unfenced[machine.name] = world.now

    def _check_told(self, machine: Machine, change: RoleChanged) -> None:
        """An offer that nobody took is no new beginning: only who is silent and was announced meanwhile may have taken it."""
        process = f"{machine.name}{machine.boots}"
        epoch, at = self._told.get(process, (0, 0.0))
        if change.before is Role.DRAINING and change.epoch == self._acted.get(process):
            over = change.epoch < epoch and self.world.plan.policy == "promote" and self._silent(machine, at)
        else:
            over = change.epoch <= epoch
        if over:
            raise Broken(f"{process} acts under epoch {change.epoch}, and was told of {epoch}")

    def _silent(self, machine: Machine, at: float) -> bool:
        """Whether the other one had fallen silent by then, and was not heard since. Who stood still listens first."""
        return at > max(machine.heard_at, machine.went_on_at) + DEAD_TIME + SILENT

    def told(self, machine: Machine, epoch: int) -> None:
        """It has just heard that somebody announces this epoch."""
        assert machine.pair is not None
        process, election = f"{machine.name}{machine.boots}", machine.pair.election
        if epoch >= self._told.get(process, (0, 0.0))[0]:
            self._told[process] = epoch, self.world.now
        acts = election.role is Role.ACTIVE and election.acting_epoch < epoch
        if self.world.plan.policy == "promote" and self._silent(machine, self.world.now) and acts:
            raise Broken(
                f"{machine.name} goes on under {election.acting_epoch}, and one that is silent acts under {epoch}"
            )

    def woken(self, machine: Machine) -> None:
        name, at, count = self._instant
        again = name == machine.name and self.world.now - at < 1e-6
        self._instant = (machine.name, at, count + 1) if again else (machine.name, self.world.now, 0)
        if count > SPINNING:
            raise Broken(f"{name} wakes up again and again at one instant")

    # --- after every step ---------------------------------------------------------------------------------------

    def entered(self, machine: Machine) -> None:
        """A process did something: whoever is active has a valid lease by its own clock."""
        assert machine.pair is not None
        if machine.role is Role.ACTIVE and not machine.pair.acts(machine.now):
            raise Broken(f"{machine.name} is active without a valid lease")

    def check(self) -> None:
        world = self.world
        running = [one for one in world.machines.values() if one.pair is not None and not one.paused and not one.busy]
        if self.attracted and not any(one.pair and one.pair.election.level > Level.STANDBY for one in running):
            raise Broken("nobody attracts the traffic")
        if world.plan.policy == "stay":
            active = [one.name for one in world.machines.values() if one.role is Role.ACTIVE]
        elif world.plan.witness:
            active = [one.name for one in running if one.role is Role.ACTIVE and self._acts(one)]
        else:
            return
        if len(active) > 1 and not self._excused(active):
            raise Broken(f"{' and '.join(active)} act at the same time")

    def _acts(self, machine: Machine) -> bool:
        """Between two of its steps its lease may end; it does nothing then before it has looked at the clock."""
        assert machine.pair is not None
        return machine.pair.acts(machine.now)

    def _excused(self, active: list[str]) -> bool:
        """With a broken lease, for at most as long as the old one could have lasted."""
        return any(self.world.now <= self._unfenced.get(name, float("-inf")) + TTL for name in active)

    def unrest(self, names: str) -> str:
        """At rest the active one attracts as such, and nobody else does."""
        levels = {name: one.pair.election.level for name, one in self.world.machines.items() if one.pair}
        for name in names:
            expected = Level.ACTIVE if self.world.machines[name].role is Role.ACTIVE else Level.STANDBY
            if len(names) == 2 and levels[name] is not expected:
                return f"{name} is {self.world.machines[name].role!r} and its level is {levels[name].name}"
        return ""
