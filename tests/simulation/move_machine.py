"""One gateway of a pair, or the edge: the shell of the other simulator with a clock of its own, and what a pair needs beside.

A machine may stand still as after SIGSTOP: then its sockets and devices fill, and when it goes on its data plane sends before its
Python says a word. Or its loop may be busy: then everything else goes on, and what comes for the loop waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import chain
from typing import TYPE_CHECKING

from simulation.move_plan import CONNECTED, CONNECTION, SHARED, MovePlan
from simulation.move_session import AGAIN, PATIENCE, Session
from simulation.plane import LightDataPlane
from simulation.shell import Pace, Shell
from support.heartbeat_network import SeededRandom

from gateway.contract import Endpoint
from gateway.ha.message import Role
from gateway.ha.reference import Beats
from gateway.ha.replica import Said
from gateway.node import effects, inputs
from gateway.node.high_availability import HighAvailability

if TYPE_CHECKING:
    from simulation.move_world import MoveWorld

SOCKET = 64
"""Packets and datagrams that wait for a process that stands still."""


class OwnTime:
    """The world by the clock of one machine: of another beginning and another speed, and it goes on while the process stands still."""

    def __init__(self, world: MoveWorld) -> None:
        self.world = world
        self.offset = world.chance.uniform(0, 1e6)
        self.rate = world.chance.uniform(0.995, 1.005)
        self.happened, self.performed, self.settled = world.happened, world.performed, world.settled
        self.transmit, self.check_kernel, self.exhausted = world.transmit, world.check_kernel, world.exhausted

    @property
    def now(self) -> float:
        return self.offset + self.rate * self.world.now

    def outside(self, local: float) -> float:
        """When this is, by the clock of the world."""
        return max(self.world.now, (local - self.offset) / self.rate)

    def schedule(self, at: float, action: Callable[[], None]) -> None:
        self.world.schedule(self.outside(at), action)


class Machine(Shell):
    """The edge."""

    def __init__(self, world: MoveWorld, name: str, plan: MovePlan, pace: Pace) -> None:
        self.time = OwnTime(world)
        super().__init__(self.time, name, plan.settings(name), CONNECTED[name], world.seed, pace, LightDataPlane)

    @property
    def next_wake(self) -> float | None:
        """By the clock of the world."""
        if not self.running or self.frozen or self.wake_at is None:
            return None
        return self.time.outside(self.wake_at)

    def send(self, packet: bytes) -> None:
        """A host's packet."""
        if self.running and CONNECTION in self.node.tunnels:
            held = self.sad.copy()  # the node may remove an SA as soon as it hears that this was its last packet
            for data, local, remote in self.send_inside(CONNECTION, packet):
                self.time.world.leaves(self, held, data, local, remote)

    def arrive(self, data: bytes, local: Endpoint, remote: Endpoint) -> None:
        """From the network."""
        if self.running:
            for _, packet in self.receive(data, local, remote):
                self.time.world.opened(self, packet)


class PairMachine(Machine):
    """`session`: for copies of SAs, if there is one."""

    def __init__(self, world: MoveWorld, name: str, plan: MovePlan, pace: Pace) -> None:
        super().__init__(world, name, plan, pace)
        self.stores = True
        self.stalled = False
        """Its loop has no time."""
        self.session: Session | None = None
        self.beats = Beats(SeededRandom(0))
        self._boots = 0
        self._seeks = self._dialing = False
        self._waiting: deque[Callable[[], None]] = deque()
        self._inside: deque[bytes] = deque()  # what waits in its TUN

    # --- what others ask ----------------------------------------------------------------------------------------

    @property
    def ha(self) -> HighAvailability:
        assert self.node.pairing.ha is not None
        return self.node.pairing.ha

    @property
    def role(self) -> Role | None:
        return self.ha.pair.election.role if self.running else None

    @property
    def acts(self) -> bool:
        """By its own clock, with a lease that is valid."""
        return self.role is Role.ACTIVE and self.ha.pair.acts(self.time.now)

    @property
    def has_copy(self) -> bool:
        """Whether it could go on with the connection now."""
        return self.running and self.node.replication.has_copy(self.ha.pair.election.epoch, self.time.now)

    @property
    def next_wake(self) -> float | None:
        if not self.running or self.frozen:
            return None
        due = [self.beats.next_deadline(), None if self.stalled else self.wake_at]
        return min((self.time.outside(at) for at in due if at is not None), default=None)

    # --- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._boots += 1
        self.beats = Beats(SeededRandom(self.seed * 1000 + self._boots * 10 + ord(self.name)))
        super().start()
        self._later(AGAIN, self._dial)

    def crash(self) -> None:
        """The process is gone; the kernel ends its session, and its address stays until somebody else has it."""
        session, self.session = self.session, None
        if session is not None:
            session.abort(self.name)
        self._end()

    def power_off(self) -> None:
        """The machine is gone, and with it its address."""
        session, self.session = self.session, None
        if session is not None:
            session.vanish(self.name)
        self.time.world.hold(self.name, held=False)
        self._end()
        self.reboot()

    def _end(self) -> None:
        super().crash()
        self._waiting.clear()
        self._inside.clear()
        self._seeks = self._dialing = self.stalled = self._busy = False

    def freeze(self) -> None:
        self.go_on()
        super().freeze()

    def thaw(self) -> None:
        """First what waits in its devices, for the data plane asks nobody. Then its timers, its sockets, and what the kernel did
        meanwhile, in any order."""
        if not self.frozen:
            return
        self.frozen = False
        inside, self._inside = self._inside, deque()
        waiting, self._waiting = list(self._waiting), deque()
        for packet in inside:
            super().send(packet)
        turns = [[self.wake], [super().thaw], waiting]
        self.chance.shuffle(turns)
        for action in chain.from_iterable(turns):
            action()

    def stall(self) -> None:
        self.stalled = self._busy = True

    def go_on(self) -> None:
        if self.stalled:
            self.stalled = self._busy = False
            self.wake()

    def wake(self) -> None:
        now = self.time.now
        if (due := self.beats.next_deadline()) is not None and now >= due:
            self.beats.handle_deadline(now)
            self._send_beats()
        if not self.stalled and self.wake_at is not None and now >= self.wake_at:
            super().wake()

    # --- what comes ---------------------------------------------------------------------------------------------

    def send(self, packet: bytes) -> None:
        if self.frozen:
            if len(self._inside) < SOCKET:
                self._inside.append(packet)
        else:
            super().send(packet)

    def arrive(self, data: bytes, local: Endpoint, remote: Endpoint) -> None:
        if self.frozen:
            if len(self._waiting) < SOCKET:
                self._waiting.append(lambda: self.arrive(data, local, remote))
        elif local.host == SHARED:
            super().arrive(data, local, remote)
        elif self.running:
            at = self.time.now
            self.beats.receive(data, at)
            self.feed(lambda node, now: node.receive_pair(data, now, at))

    # --- the session --------------------------------------------------------------------------------------------

    def _dial(self) -> None:
        if self._seeks and self.session is None and not self._dialing:
            self._dialing = True
            self._later(PATIENCE, self._dialed)
            self.time.world.dial(self)
        self._later(AGAIN, self._dial)

    def _dialed(self) -> None:
        self._dialing = False

    def open(self, session: Session, *, dialed: bool) -> None:
        before, self.session = self.session, session
        self._dialing = False
        if before is not None:
            before.abort(self.name)
        self.command(inputs.ReplicaOpened(dialed))

    def hear(self, session: Session, said: Said) -> None:
        if self.frozen:
            self._waiting.append(lambda: self.hear(session, said))
        elif self.session is session:
            self.command(inputs.ReplicaSaid(said))

    def lost(self, session: Session) -> None:
        if self.frozen:
            self._waiting.append(lambda: self.lost(session))
        elif self.session is session:
            self.session = None
            self.command(inputs.ReplicaClosed())

    # --- effects ------------------------------------------------------------------------------------------------

    def _perform(self, effect: object) -> None:
        world = self.time.world
        match effect:
            case effects.PairBeat(beat):
                self.beats.perform(beat, self.time.now)
                self._send_beats()
            case effects.PairTransmit(data, local, remote):
                world.send(self.name, data, local, remote)
            case effects.SaveEpoch(epoch):
                self.epoch = epoch
            case effects.MoveFence(until):
                self.dataplane.move_fence(until)
            case effects.HoldAddresses(_, held):
                self._job(lambda: world.hold(self.name, held=held))
            case effects.ReplicaSeek(wanted):
                self._seeks = wanted
            case effects.ReplicaSay(said):
                if self.session is not None:
                    self.session.say(self.name, said)
            case effects.ReplicaClose():
                session, self.session = self.session, None
                if session is not None:
                    session.abort(self.name)
            case _:
                super()._perform(effect)

    def _send_beats(self) -> None:
        for out in self.beats.poll():
            self.time.world.send(self.name, out.data, out.local, out.remote)
