r"""The double of runtime/: one node with its data plane and its kernel, driven as runtime/driver.py and daemon.py drive it.

    datagram, deadline, kernel answer -> feed -> node -> poll -> perform -> network | data plane | kernel model
                                                              \-> Compute -> later -> computed

A crash takes the process: node, data plane, TUNs. The kernel's routes and rules stay, as they do on a host; and what was kept of the
connections, with the TUNs, where a manager stores descriptors (`stores`).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Protocol

from simulation.doubles import CheapKeyExchanges, SeededRandom
from support.kernel_model import Kernel

from gateway.contract import Compute, Endpoint, Transmit
from gateway.esp.dataplane import Direction, SaParameters
from gateway.esp.reference import ReferenceDataPlane
from gateway.ike.settings import IKE_PORT
from gateway.node import effects, inputs
from gateway.node.gateway import Gateway
from gateway.node.keeping import Earlier, Keep, KeptConnection, KeptSa
from gateway.node.settings import GatewaySettings
from gateway.observe.snapshot import TunnelStatus
from gateway.routing import model as routing

Input = Callable[[Gateway, float], None]
COUNTER_INTERVAL = 0.5
UNDERLAY = 1


@dataclass(frozen=True, slots=True)
class Pace:
    """How long the machine takes, in seconds: a draw between the two."""

    compute: tuple[float, float] = (0.0, 0.0)
    kernel: tuple[float, float] = (0.0, 0.0)


class CountedKernel(Kernel):
    """The same, and how often it changed, so that whoever asks for every packet need not."""

    version = 0

    def apply(self, op: routing.Op) -> routing.OpError | None:
        self.version += 1
        return super().apply(op)

    def delete_interface(self, index: int) -> None:
        self.version += 1
        super().delete_interface(index)


class Surroundings(Protocol):
    """What a shell needs of its world."""

    now: float

    def schedule(self, at: float, action: Callable[[], None]) -> None: ...
    def transmit(self, shell: Shell, data: bytes, local: Endpoint, remote: Endpoint) -> None: ...
    def happened(self, shell: Shell, event: effects.Event) -> None: ...
    def performed(self, shell: Shell, effect: object) -> None: ...
    def settled(self, shell: Shell) -> None: ...
    def check_kernel(self, shell: Shell) -> None: ...
    def exhausted(self, shell: Shell, connection: int) -> None:
        """An SA of the connection reached its hard limit and carries nothing more."""


class Shell:
    """One host that runs gatewayd."""

    node: Gateway
    dataplane: ReferenceDataPlane

    def __init__(
        self,
        world: Surroundings,
        name: str,
        settings: GatewaySettings,
        connected: str,
        seed: int,
        pace: Pace,
        plane: type[ReferenceDataPlane] = ReferenceDataPlane,
    ) -> None:
        self.world, self.name, self.settings, self.pace, self.plane = world, name, settings, pace, plane
        self.connected = frozenset({ip_network(connected)})
        self.seed = seed
        self.chance = random.Random(f"{seed} {name} machine")
        self.kernel = CountedKernel({UNDERLAY})
        self.running = self.frozen = self.stores = False
        self.kept: dict[str, KeptConnection] = {}
        self.epoch = 0
        """The highest of its pair, as it is on its disk."""
        self.ever_guarded = False
        self.incarnation = 0
        self.wake_at: float | None = None
        self.interfaces: dict[str, int] = {}
        # The data plane as the node programmed it, readable
        self.sad: dict[tuple[Direction, int, int], SaParameters] = {}
        self.policies: dict[int, tuple[int, ...]] = {}
        self._opened: set[int] = set()
        self._held: list[Callable[[], None]] = []  # what became due while the machine stood still
        self.drawn: dict[str, TunnelStatus] = {}
        self._next_interface = 10
        self._inputs: deque[Input] = deque()
        self._busy = False
        self._jobs: deque[Callable[[], None]] = deque()
        self._under_way: routing.RouteOps | None = None

    # --- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.incarnation += 1
        self.running = True
        self.drawn = {}
        seed = f"{self.seed} {self.name} {self.incarnation}"
        if not self.stores:
            self.kept.clear()
        earlier = Earlier(dict(self.kept), clean=False)
        self.node = Gateway(self.settings, SeededRandom(seed), CheapKeyExchanges(), epoch=self.epoch, earlier=earlier)
        self.dataplane = self.plane(SeededRandom(seed + " esp"))
        self.command(inputs.Underlay(self.connected))
        self.command(inputs.Start())
        self._later(COUNTER_INTERVAL, self._read_counters)

    def crash(self) -> None:
        """The process is gone at once; of a batch under way the kernel may have seen a part."""
        if self._under_way is not None:
            for op in self._under_way.ops[: self.chance.randrange(len(self._under_way.ops) + 1)]:
                self.kernel.apply(op)
                self.world.check_kernel(self)
        if self.running and self.stores:
            self._write_progress()
        self.running = False
        self.incarnation += 1
        self.wake_at = None
        self.frozen = False
        self._held.clear()
        self._inputs.clear()
        self._jobs.clear()
        self._under_way = None
        self.sad.clear()
        self.policies.clear()
        self._opened.clear()
        if not self.stores:
            self._delete_tuns()

    def _write_progress(self) -> None:
        """As the data plane does into its own memory with every packet."""
        done = {(direction, spi): one.sequence for (direction, _, spi), one in self.dataplane.sa_counters().items()}

        def exact(one: KeptSa) -> KeptSa:
            seen = done.get((Direction.INBOUND, one.event.spi_in))
            if seen is None:
                return one  # kept by a process before this one, which did not go on with it
            sent = done.get((Direction.OUTBOUND, one.event.spi_out), one.granted)
            return replace(one, granted=sent, seen=seen, exact=True)

        self.kept = {name: replace(kept, sas=tuple(map(exact, kept.sas))) for name, kept in self.kept.items()}

    def _delete_tuns(self) -> None:
        for index in self.interfaces.values():
            self.kernel.delete_interface(index)
            self.world.check_kernel(self)
        self.interfaces.clear()

    def reboot(self) -> None:
        """The host is gone, and with it what the kernel held."""
        self.crash()
        self.kept.clear()
        self._delete_tuns()
        self.kernel = CountedKernel({UNDERLAY})
        self.kernel.version = self.incarnation << 32
        self.ever_guarded = False

    def freeze(self) -> None:
        """The machine stands still, with all it knows: it hears nothing, and no timer of its rings."""
        self.frozen = True

    def thaw(self) -> None:
        """It goes on where it stood, later."""
        self.frozen = False
        held, self._held = self._held, []
        for action in held:
            action()
        self.wake()

    @property
    def busy(self) -> bool:
        """Whether netlink work is under way."""
        return bool(self._jobs)

    def exhausted(self, sa: SaParameters) -> bool:
        """Whether the data plane carries nothing more on it."""
        return self.dataplane._sas[sa.direction, sa.connection, sa.spi].hard_reached

    def delete_tun(self, connection: str) -> None:
        """Somebody else deletes a device of ours."""
        index = self.interfaces.pop(connection, None)
        if index is not None:
            self.kernel.delete_interface(index)
            self.world.check_kernel(self)
            self.command(routing.InterfaceGone(index))

    # --- inputs -------------------------------------------------------------------------------------------------

    def command(self, command: object) -> None:
        self.feed(lambda node, now: node.command(command, now))

    def wake(self) -> None:
        self.feed(lambda node, now: node.handle_deadline(now))

    def feed(self, entry: Input) -> None:
        """As Driver.feed: inputs that arise meanwhile wait their turn."""
        if not self.running:
            return
        self._inputs.append(entry)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inputs:
                self._inputs.popleft()(self.node, self.world.now)
                for effect in self.node.poll():
                    self._perform(effect)
        finally:
            self._busy = False
        self.ever_guarded = self.ever_guarded or self.node.guarded
        self.wake_at = self.node.next_deadline()
        self.world.settled(self)

    def receive(self, data: bytes, local: Endpoint, remote: Endpoint) -> list[tuple[int, bytes]]:
        """A datagram from the network; returns what ESP carried inside, as (connection, packet)."""
        if local.port == IKE_PORT:
            self.feed(lambda node, now: node.receive_ike(data, local, remote, now))
            return []
        inner = self.dataplane.inbound(data, local, remote, self.world.now)
        self._drain()
        return inner

    def send_inside(self, connection: str, packet: bytes, worker: int = 0) -> list[tuple[bytes, Endpoint, Endpoint]]:
        """A host's packet that the kernel routed into the connection's TUN, to the queue of a worker."""
        tunnel = self.node.tunnels[connection]
        if tunnel.settings.id not in self._opened:
            return []  # the device outlived a process, and the next one has not taken it up yet
        datagrams = self.dataplane.outbound(tunnel.settings.id, packet, self.world.now, worker)
        self._drain()
        return datagrams

    def _drain(self) -> None:
        for data, local, remote in self.dataplane.drain_punted():
            self.feed(lambda node, now, args=(data, local, remote): node.receive_ike(*args, now))  # type: ignore[misc]
        for event in self.dataplane.drain_events():
            if event.kind == "expire-hard":
                self.world.exhausted(self, event.connection)
            moved = _endpoint(event.detail) if event.kind == "peer-moved" else None
            self.command(inputs.DataPlaneEvent(event.kind, event.connection, event.spi, moved))

    def _read_counters(self) -> None:
        self.command(inputs.Counters(self.dataplane.sa_counters(), self.dataplane.drop_counters()))
        self._later(COUNTER_INTERVAL, self._read_counters)

    # --- effects ------------------------------------------------------------------------------------------------

    def _perform(self, effect: object) -> None:
        dataplane = self.dataplane
        match effect:
            case Transmit(data, local, remote):
                self.world.transmit(self, data, local, remote)
            case Compute():
                self._compute(effect)
            case Keep(name, kept):
                if kept is None:
                    self.kept.pop(name, None)
                else:
                    self.kept[name] = kept
            case effects.AddSa(sa):
                dataplane.add_sa(sa)
                self.sad[sa.direction, sa.connection, sa.spi] = sa
            case effects.RemoveSa(direction, connection, spi):
                dataplane.remove_sa(direction, connection, spi)
                self.sad.pop((direction, connection, spi), None)
            case effects.MoveSa(connection, spi, remote, local):
                dataplane.move_sa(connection, spi, remote, local)
            case effects.SetPolicies(connection, spis):
                dataplane.replace_policies(connection, spis)
                self.policies[connection] = spis
            case effects.Grant(connection, spi, limit):
                dataplane.grant(connection, spi, limit)
            case effects.Advance(connection, spi, by):
                dataplane.advance(connection, spi, by)
            case effects.SetTunnelMtu():
                dataplane.update_connection(
                    effect.connection, effect.mtu, effect.tcp_mss4, effect.tcp_mss6, effect.dscp, effect.clear_df
                )
            case effects.OpenTunnel():
                # As runtime/dataplane.py: a lost device is replaced under the same queues, its SAs live on
                if effect.connection not in self._opened:
                    dataplane.add_connection(effect.connection, effect.name, effect.mtu)
                self._opened.add(effect.connection)
                self._job(lambda: self._tunnel_ready(effect.name))
            case effects.CloseTunnel(connection, name):
                self._forget(connection)
                self._job(lambda: self.kernel.delete_interface(self.interfaces.pop(name, 0)))
            case routing.RouteOps():
                self._under_way = effect
                self._job(lambda: self._apply(effect))
            case routing.DumpRequest(ticket):
                self._job(lambda: self.command(routing.Reconcile(ticket, self.kernel.dump())))
            case routing.Resolve(address):
                self._job(lambda: self.command(routing.NextHopResolved(address, routing.Resolution(address, UNDERLAY))))
            case effects.Event():
                self.world.happened(self, effect)
            case effects.SetInstances(instances=()):
                pass  # every TUN in the one table that `kernel` is
            case effects.SaveGuard():
                pass  # no BGP here, so nothing is learned that a reboot could forget
            case effects.BgpLine() | effects.BgpStart() | effects.BgpDrained():
                pass
            case _:
                raise TypeError(f"effect {effect!r} has nobody to carry it out")
        self.world.performed(self, effect)

    def _forget(self, connection: int) -> None:
        self._opened.discard(connection)
        self.dataplane.remove_connection(connection)
        self.sad = {key: sa for key, sa in self.sad.items() if key[1] != connection}
        self.policies.pop(connection, None)

    def _compute(self, effect: Compute) -> None:
        def done() -> None:
            try:
                result: object = effect.job()
            except Exception as error:  # the driver hands any exception of a job back
                result = error
            self.feed(lambda node, now: node.computed(effect.ticket, result, now))

        self._later(self.chance.uniform(*self.pace.compute), done)

    def _tunnel_ready(self, name: str) -> None:
        if name not in self.interfaces:
            self._next_interface += 1
            self.interfaces[name] = self._next_interface
        self.kernel.interfaces.add(self.interfaces[name])
        self.command(inputs.TunnelReady(name, self.interfaces[name]))

    def _apply(self, effect: routing.RouteOps) -> None:
        self._under_way = None
        errors = {}
        for position, op in enumerate(effect.ops):
            error = self.kernel.apply(op)
            if error is not None:
                errors[position] = error
            self.world.check_kernel(self)
        self.command(routing.Applied(effect.ticket, errors))

    def _job(self, job: Callable[[], None]) -> None:
        """Netlink jobs: one after the other, in the order asked, each taking a while."""
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._later(self.chance.uniform(*self.pace.kernel), self._work)

    def _work(self) -> None:
        job = self._jobs[0]
        job()
        # The job's own consequences may have queued more behind it
        self._jobs.popleft()
        if self._jobs:
            self._later(self.chance.uniform(*self.pace.kernel), self._work)

    def _later(self, delay: float, action: Callable[[], None]) -> None:
        """Not if the process died meanwhile."""
        incarnation = self.incarnation

        def guarded() -> None:
            if self.incarnation != incarnation:
                return
            if self.frozen:
                self._held.append(action)
            else:
                action()

        self.world.schedule(self.world.now + delay, guarded)


def _endpoint(detail: bytes) -> Endpoint:
    host, port = detail.decode().split()
    return Endpoint(host, int(port))
