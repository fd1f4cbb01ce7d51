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
from dataclasses import fields
from hashlib import sha256
from itertools import count

from simulation import snapshots
from simulation.invariants import Agreement, Watch
from simulation.links import End, Link, deleting, unrest
from simulation.network import CALM, Copy, Fate, Network, Passage, Weather
from simulation.plane import LightDataPlane
from simulation.roaming import Roaming
from simulation.scenario import CONNECTED, CONNECTION, HOSTS, NAT_HOST, Plan, host
from simulation.shell import Pace, Shell
from simulation.trace import LADDER_LINES, Broken, Trace
from simulation.traffic import Traffic

from gateway.contract import Endpoint
from gateway.esp.reference import ReferenceDataPlane
from gateway.ike.exchanges.create_child import CreateChild
from gateway.ike.settings import NATT_PORT
from gateway.node import effects, inputs
from gateway.observe.build import ShellFacts, build

BEGINNING = 1000.0
PATIENCE = 240.0
"""Seconds within which the link is up again after anything."""
SPINNING = 200
"""Wake-ups of one node at one instant."""
PICTURES = 25
"""Every so many steps the status is drawn."""
TESTS = "tests/simulation/test_schedules.py"
MARKER = bytes(4)
ESP_PORT = 0
"""Of an end point of ESP without UDP."""
REKEYS = ("rekey", "rekey child", "rekey child")
SILENCE = ("DPD_TIMEOUT", "NO_ANSWER_ON_4500", "NO_ANSWER_TO_IKE_AUTH", "PEER_UNREACHABLE")


class SimulationFailure(AssertionError):
    """An invariant broke: why, how to see it again, and the message ladder up to it."""


class World:
    """One schedule. Every action is at `now`, or scheduled."""

    def __init__(
        self,
        seed: int,
        plan: Plan | None = None,
        weather: Weather = CALM,
        pace: Pace | None = None,
        plane: type[ReferenceDataPlane] = LightDataPlane,
        network: type[Network] = Network,
    ) -> None:
        self.plan = plan = plan or Plan()
        self.seed, self.now = seed, BEGINNING
        self.chance = random.Random(f"{seed} world")
        self.trace = Trace()
        self.network = network(seed, self.schedule, self._deliver)
        self.network.weather = weather
        self.shells: dict[str, Shell] = {}
        for name in plan.nodes:
            for number in range(len(plan.connections)):
                self.network.attach(name, host(name, number), NAT_HOST if plan.nat and name == "a" else "")
            self.shells[name] = Shell(self, name, plan.settings(name), CONNECTED[name], seed, pace or Pace(), plane)
        self.links = {
            name: Link(tuple(End(shell, name) for shell in self.shells.values()), one.children)
            for name, one in plan.connections.items()
        }
        self.link = self.links[CONNECTION]
        """The one that what happens next happens to."""
        numbers = count(1)
        self._traffic = {
            name: Traffic(link, self.network, self.trace, self.schedule, numbers) for name, link in self.links.items()
        }
        self._far = {end.local_host: link.name for link in self.links.values() for end in link.places[1:]}
        self.watches = {
            name: Watch([end for link in self.links.values() for end in link.places if end.shell is shell])
            for name, shell in self.shells.items()
        }
        self.agreement = Agreement()
        self.damaged = False
        """Whether what is kept may be such that nobody can go on from it."""
        self.thorough = False
        """Whether the garbage collector is asked at the end."""
        self._open: set[End] = set()
        """Ends of connections that are not in the configuration, or only just are: their prefixes need no guard."""
        self._pictures = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._wakes: dict[str, tuple[float, int]] = {}
        self._tries = max(
            tunnel.ike.retransmit_tries for shell in self.shells.values() for tunnel in shell.settings.tunnels
        )
        self.roaming = Roaming(self) if plan.roams else None

    @property
    def traffic(self) -> Traffic:
        """That of `link`."""
        return self._traffic[self.link.name]

    def connection_of(self, local: Endpoint, remote: Endpoint) -> str:
        """What a datagram between these belongs to; the first one's when nothing tells."""
        return self._far.get(local.host) or self._far.get(remote.host) or CONNECTION

    @property
    def hosts(self) -> tuple[str, ...]:
        """All outer addresses, without regard to NAT."""
        return HOSTS["a"], *self._far

    def look_at_one(self) -> Link:
        """What happens next happens to one of the connections."""
        if len(self.links) > 1:
            self.link = self.chance.choice(tuple(self.links.values()))
        return self.link

    # --- what a test does ---------------------------------------------------------------------------------------

    def start(self, *names: str) -> World:
        """All nodes, or those named; probes begin."""
        for link in self.links.values():
            link.wanted = link.name in self.plan.connections
        self.guarded(lambda: [self.shells[name].start() for name in names or self.shells])
        for name in names or self.shells:
            self.watches[name].began()
        for traffic in self._traffic.values():
            traffic.begin(self.now)
        return self

    def run(self, seconds: float) -> World:
        self.run_until(lambda: False, seconds)
        return self

    def run_until(self, condition: Callable[[], bool], within: float) -> bool:
        """Until the condition holds; False when the time is over before."""
        end = self.now + within
        while not condition():
            at, shell = end + 1, ""
            for name, one in self.shells.items():
                if one.wake_at is not None and not one.frozen and (one.wake_at, name) < (at, shell):
                    at, shell = one.wake_at, name
            if self._queue and self._queue[0][0] <= at:
                at, shell = self._queue[0][0], ""
            if at > end:
                self.now = end
                return condition()
            self.now = max(self.now, at)
            self.guarded(lambda name=shell: self._wake(name) if name else heapq.heappop(self._queue)[2]())  # type: ignore[misc]
        return True

    def converge(self, within: float) -> float:
        """Until every link is up that is wanted; returns when. Fails when it takes longer."""
        links = [link for link in self.links.values() if link.wanted]
        if not self.run_until(lambda: all(link.up for link in links), within):
            down = next(link for link in links if not link.up)
            self.fail(f"{down.name} not up after {within:.0f} s: {down.hindrance(self.now)}")
        return self.now

    def converge_from(self, why: str) -> None:
        """As `converge`, after what may have taken any of them down."""
        self.trace.note(self.now, "", why)
        self.converge(PATIENCE)

    def settle(self, within: float = 120.0) -> None:
        """The weather clears and nobody disturbs: the link must come to rest, in exactly one state, and carry traffic."""
        self.network.weather = CALM
        self.converge(within)
        self.run_until(lambda: not self._unrest(), within)
        if reason := self._unrest():
            self.fail(f"does not come to rest within {within:.0f} s: {reason}")
        before = {name: traffic.delivered for name, traffic in self._traffic.items()}
        self.run(1.0)
        for name, traffic in self._traffic.items():
            if traffic.delivered < before[name] + 4:
                self.fail(f"{name}: at rest, but no traffic passes")
        if self.thorough and (left := next((found for watch in self.watches.values() for found in watch.kept()), "")):
            self.fail(f"at rest, but {left}")

    def _unrest(self) -> str:
        """Why it is not at rest, or what is left of what is over."""
        reason = next((why for link in self.links.values() if (why := unrest(link))), "")
        return reason or next((leak for watch in self.watches.values() for leak in watch.leaks()), "")

    def operate(self, name: str, verb: str, child: str = "") -> None:
        """An operator's command to one node about the link."""
        if verb == "terminate":
            self.link.excuse(self.now, verb)
            self.link.wanted = False
        self.trace.note(self.now, name, f"{verb} {self.link.name} {child or 'IKE_SA'}")
        self.guarded(lambda: self.shells[name].command(inputs.Operate(verb, self.link.name, child)))

    def drain(self, name: str, to: str) -> None:
        """An operator sends the peer of one node to another one; "": no longer."""
        there = next((end.local_host for end in self.link.places if end.shell.name == to), "")
        self.trace.note(self.now, name, f"drains {self.link.name} to {to or 'nobody'}")
        self.traffic.look_closely(self.now)
        self.guarded(lambda: self.shells[name].command(inputs.Operate("drain", self.link.name, to=there)))

    def wish(self, name: str, child: str = "") -> None:
        """The end of `terminate`: an operator wants it up again. What was terminated may go down first."""
        self.operate(name, "initiate", child)
        link = self.link
        self.run_until(lambda: not any(deleting(end) for end in link.places), PATIENCE)
        link.excuse(self.now, "initiate")
        link.wanted = True

    def reload(self, name: str, plan: Plan) -> None:
        """A new configuration for one node. What is up stays up."""
        self.trace.note(self.now, name, f"reloads: {plan}")
        for one in plan.connections.keys() ^ self.plan.connections.keys():
            self.links[one].excuse(self.now, "it goes from the configuration or comes")
            self.links[one].wanted = one in plan.connections
        self.plan = plan
        self.traffic.look_closely(self.now)
        self.shells[name].settings = plan.settings(name)
        ends = self.watches[name].ends
        self._open.update(end for end in ends if end.connection not in plan.connections)
        self.guarded(lambda: self.shells[name].command(inputs.Reconfigured(plan.settings(name))))

    def instruct(self, name: str, *commands: object) -> None:
        """What the daemon itself tells its node at its end; the link may be down until the next `start`."""
        for link in self.links.values():
            link.excuse(self.now, f"{name} was told {commands}")
            link.wanted = False
        for command in commands:
            self.trace.note(self.now, name, type(command).__name__)
            self.guarded(lambda command=command: self.shells[name].command(command))  # type: ignore[misc]

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
            self.look_at_one()
            child = self.chance.choice(self.link.children) if scope else ""
            for name in names if self.chance.random() < 0.5 else self.chance.choice(names):
                self.operate(self.now_at(name), verb, child)
        return self

    def now_at(self, name: str) -> str:
        """`b` is whoever the peer is with now."""
        return self.link.ends["ab".index(name)].shell.name

    def crash(self, name: str, host: bool = False) -> None:
        """The process is gone; with `host` the kernel's routes and guard too. `start` begins without state."""
        self._fault(name, "the host CRASHES" if host else "CRASH", f"{name} crashed")
        self.guarded(self.shells[name].reboot if host else self.shells[name].crash)

    def freeze(self, name: str) -> None:
        """The machine stands still with its state, until `thaw`."""
        self._fault(name, "FREEZES", f"{name} stands still")
        self.shells[name].freeze()

    def thaw(self, name: str) -> None:
        self._fault(name, "goes on", f"{name} stood still")
        self.watches[name].restarted()
        self.guarded(self.shells[name].thaw)

    def delete_tun(self, name: str) -> None:
        self._fault(name, f"its TUN of {self.link.name} is deleted", f"{name} loses its TUN", self.link)
        self.guarded(lambda: self.shells[name].delete_tun(self.link.name))

    def rebind(self) -> None:
        self._fault("net", "the NAT forgets its mappings", "the NAT forgot its mappings")
        self.network.rebind()
        if self.roaming is not None:
            self.roaming.moved()

    def move(self, outside: str) -> None:
        """Who is behind the NAT has another address from now on."""
        self._fault("net", f"{outside} is where a is now", "a is at another address")
        self.network.move(HOSTS["a"], outside)
        if self.roaming is not None:
            self.roaming.moved()

    def _fault(self, who: str, text: str, excuse: str, only: Link | None = None) -> None:
        self.trace.note(self.now, who, text)
        for link in self.links.values() if only is None else (only,):
            link.excuse(self.now, excuse)
            self._traffic[link.name].look_closely(self.now)

    def inject(self, data: bytes, source: Endpoint, target: Endpoint) -> None:
        """Somebody else's datagram."""
        self.guarded(lambda: self.network.inject("x", data, source, target, self.now))

    def partition(self, directions: str = "ab ba") -> None:
        """Cuts the directions named, e.g. "ab"; `b` is all that is there."""
        self.trace.note(self.now, "net", f"cut {directions}")
        self.traffic.look_closely(self.now)
        for direction in directions.split():
            for far in self.shells.keys() - {"a"}:
                self.network.cut(*(far if one == "b" else one for one in direction))

    def heal(self) -> None:
        self.trace.note(self.now, "net", "healed")
        self.traffic.look_closely(self.now)
        self.network.heal()

    def fail(self, why: str) -> None:
        replay = os.environ.get("PYTEST_CURRENT_TEST", TESTS).split(" ")[0].split("[")[0]
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
        connection, ike = self.connection_of(local, remote), data.removeprefix(MARKER)
        self.trace.ike(shell.name, connection, ike if local.port == NATT_PORT else data, passage)
        self._traffic[connection].look_closely(self.now)

    def happened(self, shell: Shell, event: effects.Event) -> None:
        self.trace.note(self.now, shell.name, f"{event.tunnel} {event.event}: {event.text}".lstrip())
        if event.event == "ike-not-resumed" and not self.damaged:
            raise Broken(f"{shell.name} cannot go on from what it kept itself: {event.text}")
        silent = event.failure in SILENCE or any(event.text.endswith(reason) for reason in SILENCE)
        link = self.links.get(event.tunnel)
        if link is not None and event.event in ("ike-down", "ike-spare-down") and silent and link.up:
            if self.trace.unanswered(shell.name, link.name, self._tries) is None:
                raise Broken(f"{shell.name} gave {link.name} up, though the network brought it every answer")
            link.excuse(self.now, f"{shell.name} had no answer")

    def performed(self, shell: Shell, effect: object) -> None:
        if isinstance(effect, effects.AddSa):
            self.agreement.installed(shell.name, self.network.at(effect.sa.remote.host), effect.sa)
        if self.roaming is not None:
            self.roaming.check_target(shell, effect)

    def settled(self, shell: Shell) -> None:
        """A node has said all it had to say."""
        for link in self.links.values():
            for sa in shell.node.ike.sas(link.name):
                self.trace.learn(sa)
        self.trace.check_ivs()
        self.watches[shell.name].check(self.now)
        self._check_picture(shell)
        for link in self.links.values():
            if link.up and (why := self._outlived(link)):
                link.excuse(self.now, why)
            if link.check(self.now):
                self.trace.note(self.now, "", f"{link.name} is up")

    def _outlived(self, link: Link) -> str:
        """A CHILD_SA reached the end of its life while the network kept the messages of its rekey."""
        for end in link.places:
            for sa in end.shell.node.ike.sas(end.connection) if end.shell.running else ():
                rekey, pending = sa.exchange, sa.window.pending
                if not isinstance(rekey, CreateChild) or rekey.old is None or pending is None:
                    continue
                # The other end installed it at another moment
                ended = rekey.old.installed_at + rekey.old.settings.life_time - 1.0 <= self.now
                if ended and self.trace.hindered(end.shell.name, sa, pending.message_id):
                    return f"{end.shell.name}'s rekey was kept from it until the end of the old CHILD_SA"
        return ""

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

    def exhausted(self, shell: Shell, connection: int) -> None:
        for link in self.links.values():
            if any(end.shell is shell and end.number == connection for end in link.places):
                link.excuse(self.now, f"an SA of {shell.name} reached its hard limit")

    def check_kernel(self, shell: Shell) -> None:
        """After every single operation: a protected prefix leads into its TUN or nowhere."""
        if not shell.ever_guarded:
            return
        for end in self.watches[shell.name].ends:
            allowed = {"blackhole", shell.interfaces.get(end.connection, "blackhole")}
            found = [(prefix, shell.kernel.lookup(prefix)) for prefix in end.prefixes]
            open_ = [f"{prefix} leads to {where}" for prefix, where in found if where not in allowed]
            if not open_ and shell.settings.tunnel(end.connection) is not None and shell.node.fib.settled:
                self._open.discard(end)
            elif open_ and end not in self._open:
                raise Broken(f"{shell.name}: {open_[0]}: clear text")

    # --- time ---------------------------------------------------------------------------------------------------

    def guarded(self, action: Callable[[], object]) -> None:
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
        if shell is None or not shell.running or shell.frozen:
            return
        copy.arrived = True
        if copy.fate is Fate.INTACT and not passage.probe:
            self.trace.arrived(shell.name, copy.data.removeprefix(MARKER))
            if self.roaming is not None:
                self.roaming.arrived(shell, copy.data, passage.source)
        if copy.fate is Fate.CORRUPTED:
            packets = self._receive_damaged(shell, copy.data, local, passage.source)
        else:
            packets = [packet for _, packet in shell.receive(copy.data, local, passage.source)]
        connection = self.connection_of(passage.source, passage.target)
        self._traffic[connection].arrived(passage, copy, shell, packets, self.now)

    def _receive_damaged(self, shell: Shell, data: bytes, local: Endpoint, source: Endpoint) -> list[bytes]:
        """Nobody authenticated it: whatever it says, nothing that matters changes."""
        ike = data if local.port not in (NATT_PORT, ESP_PORT) else b""
        if local.port == NATT_PORT and data.startswith(MARKER):
            ike = data.removeprefix(MARKER)
        before = snapshots.take(shell, self.links, ike)
        packets = [packet for _, packet in shell.receive(data, local, source)]
        if changed := snapshots.difference(before, snapshots.take(shell, self.links, ike)):
            raise Broken(f"{shell.name}: a datagram that does not verify changed something: {changed}")
        return packets
