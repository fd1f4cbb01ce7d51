"""A whole pair with an address that moves, its witness and its edge on a virtual clock: `node.Gateway` unchanged, three times.

    MoveWorld(seed, plan) -> start -> faults ... run -> settle

After every step: at most one gateway acts; whoever sends from the shared address has a lease by its own clock; no IV and no message
ID comes twice from both together, in IKE and in ESP; no packet of a protected prefix could leave in clear. At rest: one gateway is
active and has the address, its IKE_SA is the edge's, traffic passes both ways, the standby has a copy and nothing else.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator

from simulation.clockwork import Clockwork
from simulation.ha_witness import WitnessMachine
from simulation.move_machine import Machine, PairMachine
from simulation.move_plan import CONNECTION, DEAD_TIME, HOSTS, OTHER, SECRET, SHARED, TTL, MovePlan
from simulation.move_session import Session
from simulation.network import CALM, Copy, Network, Passage, Weather
from simulation.shell import Pace, Shell
from simulation.trace import LADDER_LINES, Broken, Trace
from simulation.world import SimulationFailure

from gateway.contract import Endpoint, Transmit
from gateway.esp.dataplane import Direction, SaParameters
from gateway.ha.message import Role
from gateway.ha.roles import Operate, Verb
from gateway.ha.witness_node import Record
from gateway.ike.registry import ExchangeType
from gateway.ike.settings import NATT_PORT
from gateway.node import effects, inputs

TESTS = "tests/simulation/test_move_schedules.py"
PATIENCE = 120.0
"""Seconds within which all is at rest after anything: an edge finds out by its liveness check that an IKE_SA is over, and a gateway that
left a connection down is forgiven for it (`replication.PARDON`)."""
QUIET = 8.0
CLOSELY, SELDOM, CLOSE_TIME = 0.02, 0.4, 1.0
"""Seconds between two probes, and how long after something happens they come closely."""
MARKER = bytes(4)
EXCHANGE_AT = 18
WITNESS = Endpoint(HOSTS["w"], 4781)
SPINNING = 200


class MoveWorld(Clockwork):
    """One schedule. Names: `a` and `b`, the gateways; `e`, the edge; `w`, the witness."""

    def __init__(
        self, seed: int, plan: MovePlan | None = None, weather: Weather = CALM, pace: Pace | None = None
    ) -> None:
        super().__init__()
        self.seed, self.plan = seed, plan or MovePlan()
        self.chance = random.Random(f"{seed} move world")
        self.trace = Trace()
        self.network = Network(seed, self.schedule, self._deliver)
        self.network.weather = weather
        for name, host in HOSTS.items():
            self.network.attach(name, host)
        self.machines = {name: PairMachine(self, name, self.plan, pace or Pace()) for name in OTHER}
        self.edge = Machine(self, "e", self.plan, pace or Pace())
        self.everybody: dict[str, Machine] = {**self.machines, "e": self.edge}
        self.witness = WitnessMachine(self, WITNESS, SECRET, TTL, breaks=self.plan.broken)
        self.delivered = {"there": 0, "back": 0}
        """Probes to the edge, and from it."""
        self.negotiations = 0
        """IKE_SA_INIT requests; repeated ones count once."""
        self.happenings: Counter[str] = Counter()
        """Events of the gateways."""
        self.transitions = 0
        self._roles: dict[str, Role | None] = {}
        self._inits: set[bytes] = set()
        self._taken: set[tuple[object, ...]] = set()
        self._probes = 0
        self._closely_until = 0.0
        self._epoch = 0
        self._instant: tuple[str, float, int] = ("", 0.0, 0)
        self.guarded(lambda: self.witness.start(rested=True))

    # --- what a schedule does -----------------------------------------------------------------------------------

    def start(self, names: str = "eab") -> MoveWorld:
        for name in names:
            if not self.everybody[name].running:
                self.note(name, "STARTS")
                self.guarded(self.everybody[name].start)
        if not self._probes:
            self._probe()
        return self

    def crash(self, name: str) -> None:
        """kill -9; what was kept is kept, and the address stays where it is."""
        self._fault(name, "CRASHES")
        self.guarded(self.everybody[name].crash)

    def power_off(self, name: str) -> None:
        self._fault(name, "LOSES ITS POWER")
        self.guarded(self.machines[name].power_off)

    def pause(self, name: str) -> None:
        if self.machines[name].running:
            self._fault(name, "STANDS STILL")
            self.guarded(self.machines[name].freeze)

    def keep_busy(self, name: str) -> None:
        if self.machines[name].running and not self.machines[name].frozen:
            self._fault(name, "IS BUSY")
            self.machines[name].stall()

    def resume(self, name: str) -> None:
        machine = self.machines[name]
        if machine.frozen or machine.stalled:
            self._fault(name, "GOES ON")
            self.guarded(machine.thaw)
            self.guarded(machine.go_on)

    def jump_clock(self, name: str, seconds: float) -> None:
        """The machine was suspended."""
        self._fault(name, f"its clock jumps by {seconds:.0f} s")
        self.machines[name].time.offset += seconds

    def cut(self, sender: str, receiver: str, healed_after: float) -> None:
        self._fault("net", f"cut {sender}>{receiver}")
        self.network.cut(sender, receiver)
        self.later(healed_after, lambda: self._mend(sender, receiver))

    def _mend(self, sender: str, receiver: str) -> None:
        self._fault("net", f"healed {sender}>{receiver}")
        self.network.mend(sender, receiver)

    def crash_witness(self) -> None:
        self.witness.crash()

    def operate(self, name: str, verb: Verb) -> None:
        self._fault(name, f"operator: {verb.value}")
        self.guarded(lambda: self.machines[name].command(Operate(verb)))

    def rekey(self, name: str, child: str = "") -> None:
        self.note(name, f"rekeys {child or 'the IKE_SA'}")
        self.look_closely()
        self.guarded(lambda: self.everybody[name].command(inputs.Operate("rekey", CONNECTION, child)))

    def _fault(self, who: str, text: str) -> None:
        self.note(who, text)
        self.look_closely()

    def converge(self, within: float = PATIENCE) -> None:
        if not self.run_until(lambda: not self.unrest(), within):
            self.fail(f"not at rest within {within:.0f} s: {self.unrest()}")

    def settle(self) -> None:
        """All faults are over: it comes to rest and stays there."""
        self.note("", "--- all faults are over ---")
        self.clear()
        self.converge()
        self.run(TTL + DEAD_TIME)  # a lease that could not be renewed is lost only now
        self.converge()
        for _ in range(2 if self.plan.preempt else 1):  # the one that is preferred may take it back once
            before = self.transitions
            self.run(QUIET)
        if self.transitions > before:
            self.fail("all faults are over, and the roles go on changing")
        self.converge(QUIET)  # but for a liveness check
        delivered = dict(self.delivered)
        self.run(2.0)
        if not all(self.delivered[way] > delivered[way] for way in delivered):
            self.fail(f"at rest, but no traffic passes: {self.delivered}, before {delivered}")

    def clear(self) -> None:
        """All faults end, and none is left that was to come."""
        self.network.weather = CALM
        self.network.heal()
        self.drop_faults()
        self.witness.start()
        self.start()
        for name, machine in self.machines.items():
            self.resume(name)
            for verb in (Verb.RESUME, Verb.UNDRAIN):
                self.guarded(lambda machine=machine, verb=verb: machine.command(Operate(verb)))  # type: ignore[misc]

    # --- what is asked of it ------------------------------------------------------------------------------------

    @property
    def active(self) -> PairMachine | None:
        return next((one for one in self.machines.values() if one.role is Role.ACTIVE), None)

    @property
    def standby(self) -> PairMachine | None:
        return next((one for one in self.machines.values() if one.role is Role.STANDBY), None)

    def unrest(self) -> str:
        """Why it is not as it should be; "" when it is."""
        return next(self._unrest(), "")

    def _unrest(self) -> Iterator[str]:
        active, standby = self.active, self.standby
        if active is None or standby is None:
            yield f"the roles are {[one.role and one.role.name for one in self.machines.values()]}"
            return
        if self.network.at(SHARED) != active.name:
            yield f"{active.name} is active and the address is at {self.network.at(SHARED) or 'nobody'}"
        yield from self._not_alone(active)
        yield from self._not_alone(self.edge)
        here, there = (one.node.ike.primary(CONNECTION) for one in (active, self.edge))
        if here is None or there is None or here.spis != there.spis:
            yield "the two ends have different IKE_SAs"
        if standby.sad or standby.node.ike.sas(CONNECTION):
            yield f"{standby.name} is standby and has SAs"
        if not standby.has_copy:
            yield f"{standby.name} is standby and has no copy"

    def _not_alone(self, machine: Machine) -> Iterator[str]:
        """Not exactly one IKE_SA with one pair of SAs, and nothing under way."""
        # What a stranger half opened, or a repeated datagram of long ago, ends by itself
        sas = [one for one in machine.node.ike.sas(CONNECTION) if one.is_initiator or one.established_at is not None]
        if len(sas) != 1 or not sas[0].established:
            yield f"{machine.name} has IKE_SAs {[one.state.value for one in sas]}"
            return
        sa = sas[0]
        if sa.exchange is not None or sa.queue or sa.window.pending is not None or sa.lingering:
            yield f"{machine.name}: something is under way"
        expected = {(Direction.INBOUND, child.spi_in) for child in sa.children.values()}
        expected |= {(Direction.OUTBOUND, child.spi_out) for child in sa.children.values()}
        held = {(direction, spi) for direction, _, spi in machine.sad}
        if len(sa.children) != 1 or held != expected:
            yield f"{machine.name} has {len(sa.children)} CHILD_SAs, and {len(held)} SAs in the data plane"

    def fail(self, why: str) -> None:
        replay = os.environ.get("PYTEST_CURRENT_TEST", TESTS).split(" ")[0].split("[")[0]
        limit = 0 if os.environ.get("SIM_SEED") else LADDER_LINES
        again = f"again, with the whole ladder: SIM_SEED={self.seed} pytest {replay}"
        raise SimulationFailure(
            f"seed {self.seed}, t={self.now:.3f}: {why}\n{again}\n{self.plan}\n{self.trace.ladder(limit)}"
        )

    # --- what a machine needs -----------------------------------------------------------------------------------

    def note(self, who: str, text: str) -> None:
        self.trace.note(self.now, who, text)

    def delay(self) -> float:
        """When something that is sent now arrives."""
        return self.now + self.chance.uniform(*self.network.weather.delay)

    def is_cut(self, sender: str, receiver: str) -> bool:
        return self.network.is_cut(sender, receiver)

    def hold(self, name: str, *, held: bool) -> None:
        """The neighbors are told that the shared address is at this gateway; or it is not there any more."""
        if held:
            self.network.attach(name, SHARED)
        elif self.network.at(SHARED) == name:
            self.network.detach(SHARED)

    def dial(self, machine: PairMachine) -> None:
        """A TCP connection to the other gateway, if anything comes of it."""
        here, there, incarnation = machine.name, self.machines[OTHER[machine.name]], machine.incarnation

        def answered() -> None:
            if there.running and not there.frozen and not there.stalled and not self.is_cut(here, there.name):
                begins_at = self.delay()
                session = Session(self, begins_at)
                self.schedule(begins_at, lambda: opened(session))
                there.open(session, dialed=False)

        def opened(session: Session) -> None:
            if machine.incarnation == incarnation and not machine.frozen and not self.is_cut(there.name, here):
                machine.open(session, dialed=True)
            else:
                session.abort(here)

        self.schedule(self.delay(), answered)

    def send(self, name: str, data: bytes, local: Endpoint, remote: Endpoint) -> None:
        """A datagram of the pair or to the witness."""
        self.network.send(name, data, local, remote, self.now)

    def answer(self, datagram: Transmit) -> None:
        self.send("w", datagram.data, datagram.local, datagram.remote)

    def granted(self, record: Record) -> None:
        if record.epoch <= self._epoch:
            raise Broken(f"the witness grants epoch {record.epoch} after {self._epoch}")
        self._epoch = record.epoch

    def transmit(self, shell: Shell, data: bytes, local: Endpoint, remote: Endpoint) -> None:
        """An IKE message, or a NAT keepalive."""
        self._check_sender(shell, local)
        passage = self.network.send(shell.name, data, local, remote, self.now)
        if local.port == NATT_PORT and not data.startswith(MARKER):
            return
        ike = data.removeprefix(MARKER) if local.port == NATT_PORT else data
        if ike[EXCHANGE_AT] == ExchangeType.IKE_SA_INIT and ike not in self._inits and not int.from_bytes(ike[8:16]):
            self._inits.add(ike)
            self.negotiations += 1
        # To the edge the two gateways are one: what both send is looked at together
        self.trace.ike("g" if shell.name in self.machines else "e", CONNECTION, ike, passage)
        self.look_closely()

    def leaves(
        self,
        machine: Machine,
        held: dict[tuple[Direction, int, int], SaParameters],
        data: bytes,
        local: Endpoint,
        remote: Endpoint,
    ) -> None:
        """An ESP datagram from a data plane that had these SAs."""
        self._check_sender(machine, local)
        number = machine.node.tunnels[CONNECTION].settings.id
        key = held[Direction.OUTBOUND, number, int.from_bytes(data[:4], "big")].encryption_key
        self.trace.esp(machine.name, key, data)
        self.network.send(machine.name, data, local, remote, self.now, 1)

    def _check_sender(self, shell: Shell, local: Endpoint) -> None:
        """From the shared address sends only who has the lease."""
        machine = self.machines.get(shell.name)
        if machine is not None and local.host == SHARED and not machine.ha.pair.acts(machine.time.now):
            raise Broken(f"{shell.name} sends from the shared address without a lease")

    def opened(self, machine: Machine, packet: bytes) -> None:
        """A data plane took this for its hosts. What was taken elsewhere, or before a crash, may be taken again (RFC 6311 2.1)."""
        life = (machine.incarnation, machine.node.replication.epoch)
        taken = (machine.name, life, packet)
        if taken in self._taken:
            raise Broken(f"{machine.name} took a repeated packet")
        self._taken.add(taken)
        self.delivered["there" if machine is self.edge else "back"] += 1

    def happened(self, shell: Shell, event: effects.Event) -> None:
        self.note(shell.name, f"{event.event}: {event.text}")
        self.happenings[f"{event.event} at this gateway" if "at this gateway" in event.text else event.event] += 1
        self.look_closely()

    def performed(self, shell: Shell, effect: object) -> None:
        pass

    def exhausted(self, shell: Shell, connection: int) -> None:
        pass

    def settled(self, shell: Shell) -> None:
        for sa in shell.node.ike.sas(CONNECTION):
            self.trace.learn(sa)
        self.trace.check_ivs()

    def check_kernel(self, shell: Shell) -> None:
        """After every single operation: a protected prefix leads into its TUN or nowhere."""
        if not shell.ever_guarded:
            return
        settings = shell.settings.tunnel(CONNECTION)
        assert settings is not None
        allowed = {"blackhole", shell.interfaces.get(CONNECTION, "blackhole")}
        for prefix in settings.protected:
            if (where := shell.kernel.lookup(prefix)) not in allowed:
                raise Broken(f"{shell.name}: {prefix} leads to {where}: clear text")

    # --- traffic ------------------------------------------------------------------------------------------------

    def look_closely(self) -> None:
        self._closely_until = self.now + CLOSE_TIME

    def _probe(self) -> None:
        """Hosts send all the time, and to both gateways: whoever is not active drops it."""
        self._probes += 1
        number = self._probes.to_bytes(8, "big")
        for machine in self.machines.values():
            machine.send(_THERE + machine.name.encode() + number[1:])
        if not self.edge.frozen:
            self.edge.send(_BACK + number)
        pause = CLOSELY if self.now < self._closely_until else SELDOM
        self.schedule(self.now + pause, self._probe)

    def _deliver(self, passage: Passage, copy: Copy, local: Endpoint) -> None:
        copy.arrived = True
        if passage.receiver == "w":
            self.witness.receive(Transmit(copy.data, passage.source, passage.target))
        elif (machine := self.everybody.get(passage.receiver)) is not None:
            machine.arrive(copy.data, local, passage.source)

    # --- time ---------------------------------------------------------------------------------------------------

    def _timers(self) -> list[tuple[float | None, str]]:
        return [*((machine.next_wake, name) for name, machine in self.everybody.items()), (self.witness.wake_at, "w")]

    def _ring(self, name: str) -> None:
        if name == "w":
            self.witness.wake()
        else:
            self._check_spinning(name)
            self.everybody[name].time.offset += 1e-9
            self.everybody[name].wake()

    def _check_spinning(self, name: str) -> None:
        last, at, count = self._instant
        again = last == name and self.now - at < 1e-6
        self._instant = (name, at, count + 1) if again else (name, self.now, 0)
        if count > SPINNING:
            raise Broken(f"{name} wakes up again and again at one instant")

    def guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
            self._check()
        except Broken as broken:
            self.fail(str(broken))
        except SimulationFailure:
            raise
        except Exception as error:
            try:
                self.fail(f"{type(error).__name__}: {error}")
            except SimulationFailure as failure:
                raise failure from error

    def _check(self) -> None:
        for name, machine in self.machines.items():
            if self._roles.get(name) is not machine.role:
                self._roles[name] = machine.role
                self.transitions += 1
        # A loop that has no time learns later that its lease is over, and does nothing before
        acting = [one.name for one in self.machines.values() if not one.frozen and not one.stalled and one.acts]
        if len(acting) > 1 and not self.plan.broken:
            raise Broken(f"{' and '.join(acting)} act at the same time")


def _headers(source: bytes, target: bytes) -> bytes:
    """IPv4 and UDP of a probe."""
    header = bytes((0x45, 0)) + (36).to_bytes(2, "big") + bytes(4) + bytes((64, 17)) + bytes(2) + source + target
    return header + (9).to_bytes(2, "big") * 2 + (16).to_bytes(2, "big") + bytes(2)


_THERE = _headers(bytes((10, 1, 0, 1)), bytes((172, 16, 0, 1)))
_BACK = _headers(bytes((172, 16, 0, 1)), bytes((10, 1, 0, 1)))
