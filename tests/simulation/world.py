"""Whole gateways on one virtual clock: time, traffic, faults, and the question after every step whether all still holds.

    World(seed, plan) -> start -> stimulate, crash, cut ... run -> settle

Everything follows from the seed: `SIM_SEED=n pytest ...` replays a failure exactly. The node under test is
`gateway.node.Gateway`, unchanged; network.py, shell.py and doubles.py stand for the machines around it.
"""

from __future__ import annotations

import heapq
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, fields
from hashlib import sha256

from simulation.links import End, Link, check_counts, unrest
from simulation.network import CALM, Copy, Fate, Network, Passage, Weather
from simulation.scenario import CONNECTED, CONNECTION, HOSTS, NAT_HOST, Plan
from simulation.shell import Pace, Shell
from simulation.trace import LADDER_LINES, Broken, Trace

from gateway.contract import Endpoint
from gateway.esp.dataplane import Direction
from gateway.ike.settings import NATT_PORT
from gateway.node import effects, inputs
from gateway.observe.build import ShellFacts, build

BEGINNING = 1000.0
PROBE_INTERVAL, DENSE_INTERVAL, DENSE_TIME = 0.2, 0.01, 0.06
LATE = 4.0
"""A probe that took longer than this may find its SA gone."""
SPINNING = 200
"""Wake-ups of one node at one instant."""
PICTURES = 7
"""Every so many steps the status is drawn."""
MARKER = bytes(4)
REKEYS = ("rekey", "rekey child", "rekey child")
SILENCE = ("DPD_TIMEOUT", "NO_ANSWER_TO_IKE_AUTH", "PEER_UNREACHABLE")


class SimulationFailure(AssertionError):
    """An invariant broke: why, how to see it again, and the message ladder up to it."""


@dataclass(frozen=True, slots=True)
class Probe:
    """One inner packet that a host sent."""

    packet: bytes
    sent_at: float
    epoch: int


class World:
    """One schedule. Every action is at `now`, or scheduled."""

    def __init__(self, seed: int, plan: Plan | None = None, weather: Weather = CALM, pace: Pace | None = None) -> None:
        plan = plan or Plan()
        self.seed, self.now = seed, BEGINNING
        self.chance = random.Random(f"{seed} world")
        self.trace = Trace()
        self.network = Network(seed, self.schedule, self._deliver)
        self.network.weather = weather
        self.shells: dict[str, Shell] = {}
        for name in ("a", "b"):
            self.network.attach(name, HOSTS[name], NAT_HOST if plan.nat and name == "a" else "")
            self.shells[name] = Shell(self, name, plan.settings(name), CONNECTED[name], seed, pace or Pace())
        ends = (End(self.shells["a"], CONNECTION), End(self.shells["b"], CONNECTION))
        self.link = Link(ends, plan.children)
        self.probe_interval = PROBE_INTERVAL
        self._pictures = 0
        self.probes_sent = self.probes_delivered = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._probes: dict[int, Probe] = {}
        self._refused: set[int] = set()
        self._packets = [
            [_packet(end, other, index) for index in range(len(plan.children))] for end, other in (ends, ends[::-1])
        ]
        self._probe_at = 0.0
        self._dense_until = 0.0
        self._wakes: dict[str, tuple[float, int]] = {}
        self._tries = max(
            tunnel.ike.retransmit_tries for shell in self.shells.values() for tunnel in shell.settings.tunnels
        )

    # --- what a test does ---------------------------------------------------------------------------------------

    def start(self, *names: str) -> World:
        """Both nodes, or those named; probes begin."""
        self._guarded(lambda: [self.shells[name].start() for name in names or self.shells])
        if not self._probe_at:
            self._next_probe(self.probe_interval)
        return self

    def run(self, seconds: float) -> World:
        self.run_until(lambda: False, seconds)
        return self

    def run_until(self, condition: Callable[[], bool], within: float) -> bool:
        """Until the condition holds; False when the time is over before."""
        end = self.now + within
        while not condition():
            at, shell = min(
                ((shell.wake_at, name) for name, shell in self.shells.items() if shell.wake_at is not None),
                default=(end + 1, ""),
            )
            if self._queue and self._queue[0][0] <= at:
                at, shell = self._queue[0][0], ""
            if at > end:
                self.now = end
                return condition()
            self.now = max(self.now, at)
            self._guarded(lambda name=shell: self._wake(name) if name else heapq.heappop(self._queue)[2]())  # type: ignore[misc]
        return True

    def converge(self, within: float) -> float:
        """Until the link is up; returns when. Fails when it takes longer."""
        if not self.run_until(lambda: self.link.up, within):
            self.fail(f"not up after {within:.0f} s")
        return self.now

    def settle(self, within: float = 120.0) -> None:
        """The weather clears and nobody disturbs: the link must come to rest, in exactly one state, and carry traffic."""
        self.network.weather = CALM
        self.probe_interval = 1.0
        self.converge(within)
        self.run_until(lambda: not unrest(self.link), within)
        if reason := unrest(self.link):
            self.fail(f"does not come to rest within {within:.0f} s: {reason}")
        before = self.probes_delivered
        self.run(2.5)
        if self.probes_delivered < before + 4:
            self.fail("at rest, but no traffic passes")

    def operate(self, name: str, verb: str, child: str = "") -> None:
        """An operator's command to one node."""
        if verb in ("terminate", "initiate"):
            self.link.excuse(self.now, verb)
            self.link.wanted = verb == "initiate"
        self.trace.note(self.now, name, f"{verb} {child or 'IKE_SA'}")
        self._guarded(lambda: self.shells[name].command(inputs.Operate(verb, CONNECTION, child)))

    def disturb(
        self,
        seconds: float,
        names: str = "ab",
        period: tuple[float, float] = (1.0, 5.0),
        verbs: tuple[str, ...] = REKEYS,
    ) -> World:
        """For so long, at random times, one of the operator's commands to one node or to several at the same instant."""
        until = self.now + seconds
        while self.now < until:
            self.run(min(self.chance.uniform(*period), until - self.now))
            verb, _, scope = self.chance.choice(verbs).partition(" ")
            child = self.chance.choice(self.link.children) if scope else ""
            for name in names if self.chance.random() < 0.5 else self.chance.choice(names):
                self.operate(name, verb, child)
        return self

    def crash(self, name: str) -> None:
        self.trace.note(self.now, name, "CRASH")
        self.link.excuse(self.now, f"{name} crashed")
        self._guarded(self.shells[name].crash)

    def inject(self, data: bytes, source: Endpoint, target: Endpoint) -> None:
        """Somebody else's datagram."""
        self._guarded(lambda: self.network.inject("x", data, source, target, self.now))

    def partition(self, directions: str = "ab ba") -> None:
        """Cuts the directions named, e.g. "ab"."""
        self.trace.note(self.now, "net", f"cut {directions}")
        for direction in directions.split():
            self.network.cut(direction[0], direction[1])

    def heal(self) -> None:
        self.trace.note(self.now, "net", "healed")
        self.network.heal()

    def fail(self, why: str) -> None:
        replay = os.environ.get("PYTEST_CURRENT_TEST", "the test").split(" ")[0].split("[")[0]
        limit = 0 if os.environ.get("SIM_SEED") else LADDER_LINES
        header = f"seed {self.seed}, t={self.now:.3f}: {why}\nagain, with the whole ladder: SIM_SEED={self.seed} pytest {replay}"
        raise SimulationFailure(f"{header}\n{self.trace.ladder(limit)}")

    def fingerprint(self) -> str:
        """Of everything that was sent: equal for equal seeds."""
        return sha256(b"".join(line.octets + repr(line.at).encode() for line in self.trace.lines)).hexdigest()

    # --- what a shell needs -------------------------------------------------------------------------------------

    def schedule(self, at: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._queue, (at, self._count, action))

    def transmit(self, shell: Shell, data: bytes, local: Endpoint, remote: Endpoint) -> None:
        passage = self.network.send(shell.name, data, local, remote, self.now)
        if local.port == NATT_PORT and not data.startswith(MARKER):
            return  # a NAT keepalive
        self.trace.ike(shell.name, data.removeprefix(MARKER) if local.port == NATT_PORT else data, passage)
        self._dense_until = self.now + DENSE_TIME
        if self._probe_at > self.now + DENSE_INTERVAL:
            self._next_probe(DENSE_INTERVAL)

    def happened(self, shell: Shell, event: effects.Event) -> None:
        self.trace.note(self.now, shell.name, f"{event.event}: {event.text}")
        silent = event.failure in SILENCE or any(event.text.endswith(reason) for reason in SILENCE)
        if event.event in ("ike-down", "ike-spare-down") and silent and self.link.up:
            if self.trace.unanswered(shell.name, self._tries) is None:
                raise Broken(f"{shell.name} gave up, though the network brought it every answer")
            self.link.excuse(self.now, f"{shell.name} had no answer")

    def performed(self, shell: Shell, effect: object) -> None:
        """A hook for tests that look at single effects."""

    def settled(self, shell: Shell) -> None:
        """A node has said all it had to say."""
        for end in self.link.ends:
            if end.shell is shell:
                for sa in shell.node.ike.sas(end.connection):
                    self.trace.learn(sa)
                check_counts(end)
        self._check_picture(shell)
        if self.link.check(self.now):
            self.trace.note(self.now, "", "the connection is up")

    def _check_picture(self, shell: Shell) -> None:
        """Now and then: what is kept of the last picture must be what a new one shows."""
        self._pictures += 1
        if self._pictures % PICTURES:
            return
        facts = ShellFacts(0.0, "")
        kept = build(shell.node, facts, self.now, shell.drawn).tunnels
        for one, fresh in zip(kept, build(shell.node, facts, self.now).tunnels, strict=True):
            if one != fresh:
                stale = [field.name for field in fields(one) if getattr(one, field.name) != getattr(fresh, field.name)]
                raise Broken(f"{shell.name} would show an old picture of {one.name}: {stale}")

    def check_kernel(self, shell: Shell) -> None:
        """After every single operation: a protected prefix leads into its TUN or nowhere."""
        if not shell.ever_guarded:
            return
        for end in self.link.ends:
            if end.shell is not shell:
                continue
            allowed = {"blackhole", shell.interfaces.get(end.connection, "blackhole")}
            for prefix in end.prefixes:
                if (found := shell.kernel.lookup(prefix)) not in allowed:
                    raise Broken(f"{shell.name}: {prefix} leads to {found}: clear text")

    # --- time ---------------------------------------------------------------------------------------------------

    def _guarded(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Broken as broken:
            self.fail(str(broken))
        except SimulationFailure:
            raise
        except Exception as error:
            try:
                self.fail(f"{type(error).__name__}: {error}")
            except SimulationFailure as failure:
                raise failure from error

    def _wake(self, name: str) -> None:
        at, count = self._wakes.get(name, (0.0, 0))
        count = count + 1 if at == self.now else 0
        self._wakes[name] = (self.now, count)
        if count > SPINNING:
            raise Broken(f"{name} wakes up again and again without doing anything")
        self.shells[name].wake()

    # --- datagrams ----------------------------------------------------------------------------------------------

    def _deliver(self, passage: Passage, copy: Copy, local: Endpoint) -> None:
        shell = self.shells.get(passage.receiver)
        if shell is None or not shell.running:
            return
        copy.arrived = True
        if copy.fate is Fate.INTACT and not passage.probe:
            self.trace.arrived(shell.name, copy.data.removeprefix(MARKER))
        inner = [packet for _, packet in shell.receive(copy.data, local, passage.source)]
        probe = self._probes.get(passage.probe)
        if probe is not None and copy.fate is Fate.INTACT:
            self._arrived(passage, shell, probe, inner)
        elif inner:
            raise Broken(f"{shell.name} took a {'repeated' if copy.fate is Fate.INTACT else 'forged'} ESP packet")

    def _arrived(self, passage: Passage, shell: Shell, probe: Probe, packets: list[bytes]) -> None:
        """A good copy of a probe that was not yet taken; a node that was not ready for the first may take the second."""
        if packets == [probe.packet]:
            self.probes_delivered += 1
            del self._probes[passage.probe]
            return
        if packets:
            raise Broken(f"{shell.name} opened another packet than the one sent")
        if self.link.up and self.link.epoch == probe.epoch and self.now - probe.sent_at < LATE:
            drops = {reason: count for (_, reason), count in shell.dataplane.drop_counters().items()}
            sent = f"sent at {probe.sent_at:.3f} on SPI {passage.data[:4].hex()}"
            raise Broken(f"{shell.name} dropped probe {passage.probe} {sent}: {drops}")

    # --- probes -------------------------------------------------------------------------------------------------

    def _next_probe(self, delay: float) -> None:
        at = self._probe_at = self.now + delay
        self.schedule(at, lambda: self._probe() if self._probe_at == at else None)

    def _probe(self) -> None:
        for index in range(2):
            for child in range(len(self.link.children)):
                self._send_probe(index, child)
        self._next_probe(DENSE_INTERVAL if self.now < self._dense_until else self.probe_interval)

    def _send_probe(self, index: int, child: int) -> None:
        """A host of one site sends to the other."""
        end = self.link.ends[index]
        shell = end.shell
        if not shell.running or shell.kernel.lookup(end.prefixes[child]) != shell.interfaces.get(end.connection):
            return
        self.probes_sent += 1
        packet = self._packets[index][child] + self.probes_sent.to_bytes(8, "big")
        datagrams = shell.send_inside(end.connection, packet)
        if not datagrams and self.link.up:
            raise Broken(f"{shell.name} has a tunnel but no SA for {self.link.children[child]}")
        for data, local, remote in datagrams:
            key = shell.sad[Direction.OUTBOUND, end.number, int.from_bytes(data[:4], "big")].encryption_key
            self.trace.esp(shell.name, key, data)
            epoch = self.link.epoch if self.link.up else -1
            self._probes[self.probes_sent] = Probe(packet, self.now, epoch)
            self.network.send(shell.name, data, local, remote, self.now, self.probes_sent)


def _packet(end: End, other: End, child: int) -> bytes:
    """IPv4 and UDP headers of a probe: from the first host of our child's network to the first of the other's."""
    source, target = other.prefixes[child][1].packed, end.prefixes[child][1].packed
    header = bytes((0x45, 0)) + (36).to_bytes(2, "big") + bytes(4) + bytes((64, 17)) + bytes(2) + source + target
    return header + (9).to_bytes(2, "big") * 2 + (16).to_bytes(2, "big") + bytes(2)
