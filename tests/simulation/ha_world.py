"""Two whole pairs and a witness node on a virtual clock: the network between them, their clocks, their crashes and pauses.

    HaWorld(seed, plan) -> start -> faults ... run -> settle

What is asked after every step stands in `ha_invariants.py`. Everything follows from the seed. The code under test is
`gateway.ha`, unchanged; only the cipher is a light one in most schedules, as the data plane is in the other simulator.
Every machine has a clock of its own, of another beginning and another speed, and it goes on while the process stands still.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable

from simulation.clockwork import Clockwork
from simulation.ha_invariants import HaWatch
from simulation.ha_plan import CALM, DEAD_AFTER, DEAD_TIME, INTERVAL, TTL, HaPlan, HaWeather
from simulation.ha_witness import WitnessMachine
from simulation.trace import Broken
from simulation.world import SimulationFailure
from support.heartbeat_network import SeededRandom

from gateway.contract import Endpoint, Transmit
from gateway.ha.beating import Arm, Once, Rest
from gateway.ha.election import Election
from gateway.ha.heartbeat import Heartbeat, PeerDown, PeerSaid, PeerUp, Settings
from gateway.ha.message import HealthReason, Level, Role
from gateway.ha.pair import Pair
from gateway.ha.paths import Path
from gateway.ha.reference import Beats
from gateway.ha.roles import (
    CommandRefused,
    EpochAnnounced,
    HealthChanged,
    LevelChanged,
    MachineLeaves,
    Operate,
    Remember,
    RoleChanged,
    Verb,
    named,
)
from gateway.ha.witness import Ask, Lease
from gateway.ha.witness_link import Answered, WitnessLink, WitnessSettings
from gateway.ha.witness_node import Record

SECRET = b"a secret of the pair, long enough"
HOSTS = {"a": "10.0.0.4", "b": "10.0.0.5", "w": "10.0.9.9"}
OTHER = {"a": "b", "b": "a"}
TESTS = "tests/simulation/test_ha_schedules.py"
PATIENCE = 60.0
"""Seconds within which there is exactly one active after anything."""
QUIET = 8.0
"""Seconds without a transition: that is rest."""
SOCKET = 64
"""Datagrams that wait for a process that stands still."""
LADDER_LINES = 80
ANNOUNCED_AFTER = (0.05, 1.5)
"""Seconds from one gateway's ExaBGP by a route server to the other's."""


class Machine:
    """One gateway: its clock, its disk, and the process, if there is one."""

    def __init__(self, world: HaWorld, name: str) -> None:
        self.world, self.name = world, name
        self.offset = world.chance.uniform(0, 1e6)
        self.rate = world.chance.uniform(0.995, 1.005)
        self.epoch = 0  # on disk
        self.health = HealthReason(0)
        self.pair: Pair | None = None
        self.link: WitnessLink | None = None
        self.beats = Beats(SeededRandom(0))
        self.paused = False
        self.busy = False
        """The loop does something else; its beats go on, and what arrives waits, with its time."""
        self.boots = 0
        self._due = 0.0
        self.heard_at = self.went_on_at = float("-inf")
        """When a heartbeat of the other's last reached the process."""
        self._waiting: list[tuple[str, Transmit, float | None]] = []

    @property
    def now(self) -> float:
        return self.offset + self.rate * self.world.now

    def world_time(self, local: float) -> float:
        return (local - self.offset) / self.rate

    @property
    def role(self) -> Role | None:
        return None if self.pair is None else self.pair.election.role

    @property
    def wake_at(self) -> float | None:
        if self.pair is None or self.paused:
            return None
        beat = self.beats.next_deadline()
        due = [] if beat is None else [beat]
        if not self.busy:
            due.append(self._due)
        return max(self.world.now, self.world_time(min(due))) if due else None

    def start(self) -> None:
        plan, now = self.world.plan, self.now
        self.boots += 1
        self.paused, self.busy, self._waiting, self.heard_at = False, False, [], self.world.now
        chance = SeededRandom(self.world.seed * 1000 + self.boots * 10 + ord(self.name))
        paths = [Path(_at(self.name, 4780 + n), _at(OTHER[self.name], 4780 + n)) for n in range(plan.paths)]
        heartbeat = Heartbeat(
            Settings(*paths[0], f"gw-{self.name}", SECRET, INTERVAL, DEAD_AFTER, further=tuple(paths[1:])), chance
        )
        self.beats = Beats(chance)
        election = Election(plan.election(self.name), now, self.epoch)
        self.pair = Pair(heartbeat, election, Lease(TTL, epoch=self.epoch) if plan.witness else None)
        self.link = WitnessLink(
            WitnessSettings(_at(self.name, 4790), _at("w", 4790), f"gw-{self.name}", SECRET), chance
        )
        self.enter(lambda pair: pair.command(HealthChanged(self.health), self.now))

    def crash(self) -> None:
        self.pair = self.link = None
        self.paused, self.busy, self._waiting = False, False, []

    def resume(self) -> None:
        """The first thing a process does is anything: a timer or a datagram that waited."""
        if not (self.paused or self.busy):
            return
        self.paused = self.busy = False
        self.went_on_at = self.world.now
        waiting, self._waiting = self._waiting, []
        for sender, datagram, at in waiting:
            self.arrive(sender, datagram, at)
            self.world.watch.check()

    def wake(self) -> None:
        self.beats.handle_deadline(self.now)
        self._send_beats()
        if self.now >= self._due:
            self.enter(lambda pair: pair.handle_deadline(self.now))

    def arrive(self, sender: str, datagram: Transmit, at: float | None = None) -> None:
        """`at`: when the thread of the beats took it from its socket; it takes none while the whole process stands still."""
        if self.pair is None or self.link is None:
            return
        if sender != "w" and at is None and not self.paused:
            at = self.now
            self.beats.receive(datagram.data, at)
        if self.paused or self.busy:
            self._waiting = [*self._waiting, (sender, datagram, at)][-SOCKET:]
        elif sender == "w":
            self.link.receive(datagram.data)  # most of what comes late is refused here, and the pair not entered
            self._drain()
            self._due = self.pair.next_deadline()
        else:
            self.heard_at = self.world.now
            self.enter(lambda pair: pair.receive(datagram.data, self.now, at))

    def enter(self, action: Callable[[Pair], None]) -> None:
        if self.pair is not None and not self.paused and not self.busy:
            action(self.pair)
            self._drain()
            self._due = self.pair.next_deadline()
            self.world.watch.entered(self)

    def _drain(self) -> None:
        """Until neither the pair nor the link has anything to say."""
        assert self.pair is not None and self.link is not None
        progress = True
        while progress:
            effects, said = list(self.pair.poll()), list(self.link.poll())
            progress = bool(effects or said)
            for effect in effects:
                if isinstance(effect, Ask):
                    self.link.ask(effect)
                elif isinstance(effect, Arm | Once | Rest):
                    self.beats.perform(effect, self.now)
                else:
                    self._happened(effect)
            self._send_beats()
            for out in said:
                if isinstance(out, Transmit):
                    self.world.send(self.name, out)
                elif isinstance(out, Answered):
                    self.world.note(self.name, f"is answered {out.answer}")
                    self.pair.answered(out.ticket, out.answer, self.now)
                else:
                    self.pair.noticed(self.now)

    def _send_beats(self) -> None:
        for out in self.beats.poll():
            self.world.send(self.name, out)

    def _happened(
        self, effect: RoleChanged | LevelChanged | CommandRefused | Remember | PeerUp | PeerDown | PeerSaid
    ) -> None:
        world = self.world
        match effect:
            case Remember(epoch):
                world.watch.remembered(self, epoch)
                self.epoch = epoch
            case RoleChanged(before, after, epoch, reason, fenced):
                broken = "" if fenced else " (NOT FENCED)"
                world.note(self.name, f"=== {before.name} -> {after.name}, epoch {epoch}: {reason}{broken} ===")
                world.transitions += 1
                if after is Role.ACTIVE:
                    world.watch.promoted(self, effect)
                    world.tell_epoch(self.name, epoch)
            case LevelChanged(level, _, reason):
                world.note(self.name, f"level {level.name}: {reason}")
            case PeerDown(reason):
                world.note(self.name, f"peer down: {reason.value}")
            case PeerUp():
                world.note(self.name, "peer up")
            case CommandRefused(verb, reason):
                world.note(self.name, f"refuses {verb.value}: {reason}")


class HaWorld(Clockwork):
    """One schedule."""

    def __init__(self, seed: int, plan: HaPlan | None = None, weather: HaWeather = CALM) -> None:
        super().__init__()
        self.seed, self.plan, self.weather = seed, plan or HaPlan(), weather
        self.chance = random.Random(f"{seed} ha world")
        self.lines: list[str] = []
        self.transitions = 0
        self.slow: dict[tuple[str, str], tuple[float, float]] = {}
        """One direction between two machines whose datagrams take longer."""
        self.cuts: dict[tuple[str, str, int], int] = {}  # how many faults cut it; path -1: all
        self.witness = WitnessMachine(self, _at("w", 4790), SECRET, TTL, breaks=self.plan.policy == "break")
        self.machines = {name: Machine(self, name) for name in "ab"}
        self.watch = HaWatch(self)
        self.guarded(lambda: self.witness.start(rested=True))

    # --- what a schedule does -----------------------------------------------------------------------------------

    def start(self, names: str = "ab") -> HaWorld:
        for name in names:
            if self.machines[name].pair is None:
                self.note(name, "STARTS")
                self.guarded(self.machines[name].start)
        return self

    def crash(self, name: str) -> None:
        self.note(name, "CRASHES")
        self.watch.disturbed()
        self.machines[name].crash()

    def pause(self, name: str) -> None:
        if self.machines[name].pair is not None:
            self.note(name, "STANDS STILL")
            self.watch.disturbed()
            self.machines[name].paused = True

    def keep_busy(self, name: str) -> None:
        """Only its loop: the thread of the beats goes on."""
        if self.machines[name].pair is not None:
            self.note(name, "IS BUSY")
            self.watch.disturbed()
            self.machines[name].busy = True

    def resume(self, name: str) -> None:
        if self.machines[name].paused or self.machines[name].busy:
            self.note(name, "GOES ON")
            self.guarded(self.machines[name].resume)

    def jump_clock(self, name: str, seconds: float) -> None:
        self.note(name, f"its clock jumps by {seconds:.0f} s")
        self.watch.disturbed()
        self.machines[name].offset += seconds
        self.machines[name].went_on_at = self.now  # a gap in its own beats is how it knows that it stood still

    def cut(self, sender: str, receiver: str, path: int = -1, healed_after: float = 0.0) -> None:
        self.note("net", f"cut {sender}>{receiver}{f' path {path}' if path >= 0 else ''}")
        self.watch.disturbed()
        key = (sender, receiver, path)
        self.cuts[key] = self.cuts.get(key, 0) + 1
        self.later(healed_after, lambda: self._heal(key))

    def _heal(self, key: tuple[str, str, int]) -> None:
        self.note("net", f"healed {key[0]}>{key[1]}")
        self.cuts[key] = max(0, self.cuts.get(key, 0) - 1)

    def crash_witness(self) -> None:
        self.watch.disturbed()
        self.witness.crash()

    def fall_ill(self, name: str, reasons: HealthReason) -> None:
        self.note(name, f"health: {named(reasons)}")
        self.watch.disturbed()
        self.machines[name].health = reasons
        self.guarded(
            lambda: self.machines[name].enter(
                lambda pair: pair.command(HealthChanged(reasons), self.machines[name].now)
            )
        )

    def announce(self, name: str, *, soon: bool) -> None:
        """The cloud says that this machine is going to be taken away, or that this is over."""
        self.note(name, "its machine leaves soon" if soon else "its machine stays")
        self.watch.disturbed()
        command = MachineLeaves(soon)
        self.guarded(lambda: self.machines[name].enter(lambda pair: pair.command(command, self.machines[name].now)))

    def tell_epoch(self, name: str, epoch: int) -> None:
        """Who became active announces it; a route server takes its time, and knows no cuts between the machines."""
        self.schedule(self.now + self.chance.uniform(*ANNOUNCED_AFTER), lambda: self.hear_epoch(OTHER[name], epoch))

    def hear_epoch(self, name: str, epoch: int) -> None:
        """A route comes with this mark."""
        machine = self.machines[name]
        if machine.pair is not None and not machine.paused and not machine.busy:
            machine.enter(lambda pair: pair.command(EpochAnnounced(epoch % 2**32), machine.now))
            self.watch.told(machine, epoch)

    def operate(self, name: str, verb: Verb) -> None:
        self.note(name, f"operator: {verb.value}")
        self.guarded(
            lambda: self.machines[name].enter(lambda pair: pair.command(Operate(verb), self.machines[name].now))
        )

    def settle(self) -> None:
        """All faults are over: exactly one active within the bound, and nothing changes any more."""
        self.note("", "--- all faults are over ---")
        self.clear()
        self.converge(PATIENCE)
        self.run(TTL + DEAD_TIME)  # a lease that could not be renewed is lost only now
        self.converge(PATIENCE)
        before = self.transitions
        self.run(QUIET)
        # With preemption, the one that is preferred may take it back once
        if self.transitions > before and self.plan.preempt:
            before = self.transitions
            self.run(QUIET)
        if self.transitions > before:
            self.fail("all faults are over, and the roles go on changing")
        if reason := self.unrest():
            self.fail(f"at rest, but {reason}")

    def clear(self) -> None:
        """All faults end, and none is left that was to come."""
        self.weather = CALM
        self.cuts.clear()
        self.slow.clear()
        self.drop_faults()
        self.witness.start()
        self.start()
        for name in "ab":
            self.resume(name)
            self.fall_ill(name, HealthReason(0))
            self.announce(name, soon=False)
            self.operate(name, Verb.RESUME)

    def attracts(self, name: str) -> bool:
        pair = self.machines[name].pair
        return pair is not None and pair.election.level > Level.STANDBY

    def calm_preference(self, name: str) -> bool:
        """Whether nobody takes the role back to `name` by preference."""
        return not (self.plan.preempt and name == "a")

    def converge(self, within: float, names: str = "ab") -> None:
        if not self.run_until(lambda: not self.unrest(names), within):
            self.fail(f"not exactly one active within {within:.0f} s: {self.unrest(names)}")

    def unrest(self, names: str = "ab") -> str:
        """Why it is not as it should be; "" when it is."""
        roles = sorted(str(self.machines[name].role and self.machines[name].role.name) for name in names)
        if roles != (["ACTIVE", "STANDBY"] if len(names) == 2 else ["ACTIVE"]):
            why = {name: one.pair.election.why_not(one.now) for name, one in self.machines.items() if one.pair}
            return f"the roles are {roles}: {why}"
        return self.watch.unrest(names)

    def fail(self, why: str) -> None:
        replay = os.environ.get("PYTEST_CURRENT_TEST", TESTS).split(" ")[0].split("[")[0]
        shown = self.lines if os.environ.get("SIM_SEED") else self.lines[-LADDER_LINES:]
        left = len(self.lines) - len(shown)
        ladder = "\n".join([f"... {left} lines before"] * bool(left) + shown)
        again = f"again, with the whole ladder: SIM_SEED={self.seed} pytest {replay}"
        raise SimulationFailure(f"seed {self.seed}, t={self.now:.3f}: {why}\n{again}\n{self.plan}\n{ladder}")

    # --- what a machine needs -----------------------------------------------------------------------------------

    def note(self, who: str, text: str) -> None:
        self.lines.append(f"{self.now:10.3f}  {who:<4} {text}")

    def send(self, sender: str, datagram: Transmit) -> None:
        receiver = _NAMES[datagram.remote.host]
        path = datagram.local.port - 4780 if "w" not in (sender, receiver) else -1
        lost = self.cuts.get((sender, receiver, -1), 0) or (path >= 0 and self.cuts.get((sender, receiver, path), 0))
        weather, chance = self.weather, self.chance
        span = self.slow.get((sender, receiver), weather.delay)
        delays = [chance.uniform(*span)]
        if weather.duplicate and chance.random() < weather.duplicate:
            delays.append(chance.uniform(*span))
        for delay in delays:
            if not lost and (not weather.loss or chance.random() >= weather.loss):
                self.schedule(self.now + delay, lambda: self._arrive(sender, receiver, datagram))

    def _arrive(self, sender: str, receiver: str, datagram: Transmit) -> None:
        if receiver != "w":
            self.machines[receiver].arrive(sender, datagram)
        else:
            self.witness.receive(datagram)

    def answer(self, datagram: Transmit) -> None:
        """Of the witness."""
        self.send("w", datagram)

    def granted(self, record: Record) -> None:
        self.watch.granted(record)

    def _timers(self) -> list[tuple[float | None, str]]:
        timers: list[tuple[float | None, str]] = [(machine.wake_at, name) for name, machine in self.machines.items()]
        return [*timers, (self.witness.wake_at, "w")]

    def _ring(self, name: str) -> None:
        if name == "w":
            self.witness.wake()
        else:
            self.machines[name].offset += 1e-9
            self.watch.woken(self.machines[name])
            self.machines[name].wake()

    def guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
            self.watch.check()
        except Broken as broken:
            self.fail(str(broken))


def _at(name: str, port: int) -> Endpoint:
    return Endpoint(HOSTS[name], port)


_NAMES = {host: name for name, host in HOSTS.items()}
