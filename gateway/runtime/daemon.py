"""The composition root: the whole wiring of the running gateway.

configuration -> settings -> node (gateway/node) <-> driver
                               |
    UdpSockets   NativeDataPlane   KernelRoutes   BgpService   Listeners   ControlServer   HttpServer   Notifier
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path

from gateway import __version__, _native
from gateway.config.derive import next_to_us, uses_ipv6
from gateway.contract import Endpoint, Fetch, Transmit
from gateway.ha.address_values import AddressCall
from gateway.ha.fabric_values import Call
from gateway.ha.witness import Ask
from gateway.ike.key_exchange import Libcrypto
from gateway.node import effects, inputs
from gateway.node.gateway import STALE_SWEEP, Gateway
from gateway.node.keeping import Keep
from gateway.node.pair_settings import PairSockets
from gateway.node.settings import GatewaySettings
from gateway.observe.build import ShellFacts, build, draw, draw_routes, draw_some, fade
from gateway.observe.explain import explain
from gateway.observe.journal import Journal
from gateway.observe.liveness import Liveness
from gateway.observe.snapshot import JournalEntry, Snapshot, TunnelStatus
from gateway.routing import model as routing
from gateway.runtime import earlier, logs, systemd
from gateway.runtime.bgp_service import BgpService, terms
from gateway.runtime.certificate_files import expiring
from gateway.runtime.clock import boottime
from gateway.runtime.control import ControlServer
from gateway.runtime.dataplane import NativeDataPlane
from gateway.runtime.disclosures import Disclosures
from gateway.runtime.driver import Driver
from gateway.runtime.ending import End, Ending
from gateway.runtime.fabric_calls import FabricCalls
from gateway.runtime.faults import DIRECTORY, explained
from gateway.runtime.fd_store import FdStore, Inherited
from gateway.runtime.fetcher import Fetcher
from gateway.runtime.host_checks import host_problems
from gateway.runtime.kept_state import KeptState
from gateway.runtime.kernel_routes import KernelRoutes
from gateway.runtime.listeners import Listeners
from gateway.runtime.loading import Loaded
from gateway.runtime.maintenance import Maintenance
from gateway.runtime.netlink import Netlink
from gateway.runtime.offloads import merge_udp
from gateway.runtime.operations import DaemonOperations
from gateway.runtime.predecessor import Predecessor
from gateway.runtime.probes import NativeProbes
from gateway.runtime.randomness import SystemRandom
from gateway.runtime.saving import Saving
from gateway.runtime.sharing import Sharing
from gateway.runtime.tun import interface_name
from gateway.runtime.turns import Tasks
from gateway.runtime.udp import UdpSockets
from gateway.runtime.witness_calls import WitnessCalls

log = logging.getLogger("gateway")
COUNTER_INTERVAL = 0.5
DRAW_INTERVAL, DRAWN_AT_ONCE = 0.25, 8
"""Connections are drawn before somebody asks for the picture, half a millisecond's worth in one turn of the loop."""
SHOWN_ROUTES = 100
"""BGP routes in a picture, where not all are asked for; and drawn in one go."""
HOST_CHECK_INTERVAL = 30.0
SETTLED = 10.0
"""Seconds after which what the process before left is known not to end this one."""
WORKERS_PATIENCE = 2.0
"""Seconds of no turn of any data plane thread, until another gateway shall take over."""
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Daemon:
    """The running gateway."""

    def __init__(self, loaded: Loaded, workers: int, inherited: Inherited) -> None:
        self.loaded = loaded
        config = loaded.config
        self.inherited, self.store = inherited, FdStore()
        self.kept = KeptState(inherited, self.store, len(config.connection))
        self.ended = End.CLOSED
        self.ending = Ending(self)
        self._early = AsyncExitStack()
        self.started_at = boottime()
        self.journal = Journal()
        self.problems: tuple[str, ...] = ()
        self.certificate_problems: tuple[str, ...] = ()
        self.stopping = asyncio.Event()
        self.notifier = systemd.Notifier()
        directory = Path(config.gateway.state_directory)
        self.node = Gateway(
            loaded.settings, SystemRandom(), Libcrypto(), _wall, earlier.secret(directory, self.tell),
            earlier.learned(directory, self.tell), earlier.epoch(directory, self.tell), self.kept.earlier,
        )  # fmt: skip
        self.driver = Driver(self.node, self._perform, hear=lambda: self.listeners.heartbeats.drain())
        self.dataplane = NativeDataPlane(
            workers, config.gateway.crypto_engine, config.dataplane, self.driver.command, self._received_ike,
            inherited, self.store, self.kept.progress,
        )  # fmt: skip
        self.fetcher = Fetcher(
            config.gateway.mark,
            lambda ticket, octets: self.driver.feed(lambda node, now: node.computed(ticket, octets, now)),
        )
        self.sockets = UdpSockets(
            config.gateway.mark, workers, self._received_ike, self.tell, inherited, self.store
        )  # fmt: skip
        self.probes = NativeProbes(config.gateway.mark, SystemRandom(), self.driver.command, self.tell)
        self.netlink = Netlink(config.gateway)
        self.operations = DaemonOperations(self)
        self.control = ControlServer(self.operations, Path(config.gateway.run_directory) / "control.sock")
        self.disclosures = Disclosures(self.node, lambda: self.loaded.config.observe, self._audit)
        self.routes: KernelRoutes | None = None
        self.bgp = BgpService(
            Path(config.gateway.run_directory), self._received_bgp, self.driver.command, self.tell,
            lambda: terms(self.loaded.config.bgp),
        )  # fmt: skip
        self.sharing = Sharing(config.gateway.mark, SystemRandom(), self.netlink, self.driver.command, self.tell)
        self.listeners = Listeners(self.picture, self._received_pair, self.snapshot, inherited)
        self.tables = FabricCalls(
            config.gateway.mark,
            lambda ticket, outcome: self.driver.command(inputs.TableAnswered(ticket, outcome)),
        )
        self.witness = WitnessCalls(
            config.gateway.mark,
            SystemRandom(),
            lambda ticket, answer: self.driver.command(inputs.WitnessAnswered(ticket, answer)),
        )
        self.saving = Saving(lambda: Path(self.loaded.config.gateway.state_directory), self.tell)
        self.maintenance = Maintenance(
            config.gateway.mark, lambda: self.node.pairing.ha, self.driver.command, self.tell
        )
        self._drawn: dict[str, TunnelStatus] = {}
        self._liveness, self._works = Liveness(WORKERS_PATIENCE), True
        self.failed = False
        self._tasks = Tasks(self._fail)

    async def run(self, predecessor: Predecessor | None = None) -> None:
        """Serves until told to stop. OSError with a sentence when it cannot begin. `predecessor`: hears when all is taken over."""
        config = self.loaded.config
        run_directory = Path(config.gateway.run_directory)
        with explained(f"run directory {run_directory}", DIRECTORY):
            run_directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        async with AsyncExitStack() as stack:
            stack.callback(self.driver.close)
            stack.push_async_callback(self.fetcher.close)
            await stack.enter_async_context(self.netlink)
            stack.push_async_callback(self._close_packet_sockets)
            stack.push_async_callback(self._stop_dataplane)
            self._open_packet_sockets()
            stack.callback(self.sockets.close)
            self._open_sockets(self.loaded.settings)
            stack.push_async_callback(self.listeners.close)
            stack.push_async_callback(self._early.aclose)
            self._early.push_async_callback(self.probes.close)
            self._early.push_async_callback(self.listeners.rest)
            await self.listeners.follow(config, _sockets(self.loaded))
            self._early.push_async_callback(self.sharing.close)
            await self.sharing.follow(self.loaded.settings.pair)
            self._early.push_async_callback(self.tables.close)
            self._early.push_async_callback(self.witness.close)
            self._early.push_async_callback(self.maintenance.close)
            self._configure_clouds(self.loaded)
            await self.control.start(self.inherited)
            stack.push_async_callback(self.control.stop)
            self.routes = KernelRoutes(self.netlink, self.driver.command, self)
            self._early.push_async_callback(self.routes.close)
            self._tasks.watch(self.routes.worker)
            await self.routes.prepare(self.node.settings.instances)
            self.bgp.start(self.routes.idle)
            self.driver.command(inputs.Start())
            self._begin_tasks()
            self._watch_signals()
            self.notifier.ready()
            log.info("gatewayd is running: %s", self.dataplane_name(), extra={"event": "started"})
            if predecessor is not None:
                await self.routes.idle()
                predecessor.serving()
                text = f"took over from process {predecessor.pid}; this is gatewayd {__version__}"
                self.tell("info", "upgraded", text)
            await self._until_it_ends()

    async def _until_it_ends(self) -> None:
        await self.stopping.wait()
        while not await self.ending.end():
            self.stopping.clear()
            await self.stopping.wait()

    # --- a process that takes over --------------------------------------------------------------------------------

    async def rest(self) -> None:
        """Ends all beside the data plane that this process could be in the way with: sockets, clouds, netlink. What they
        would be asked for, nobody asks for any more."""
        self.driver.rest()
        self.sockets.rest()
        await self.write_down()
        await self._early.aclose()
        # It closes behind whatever it still does
        await self.netlink.close()

    def held(self) -> dict[str, list[int]]:
        """By name, the descriptors that the process that takes over goes on with."""
        return {
            **self.inherited.held, **self.kept.held, **self.dataplane.held, **self.sockets.held,
            **self.listeners.held, **self.control.held,
        }  # fmt: skip

    async def rest_listeners(self) -> None:
        """Who comes now waits for the one that has copies of them."""
        await self.listeners.pass_on()
        await self.control.pass_on()

    async def close_servers(self) -> None:
        """Who asks from now on hears that nobody is there; who has asked has a moment more for the answer."""
        await asyncio.gather(self.control.stop(), self.listeners.close_http())

    async def write_down(self) -> None:
        """On disk is what was to be there now or in a moment."""
        if self.node.guarded and (save := self.node.learned.last()) is not None:
            self.saving.save_guard(save)
        await self.saving.done()

    # --- inputs -------------------------------------------------------------------------------------------------

    def _received_ike(self, data: bytes, local: Endpoint, remote: Endpoint) -> None:
        self.driver.feed(lambda node, now: node.receive_ike(data, local, remote, now))

    def _received_pair(self, data: bytes, at: float | None) -> None:
        self.driver.feed(lambda node, now: node.receive_pair(data, now, at))

    def _received_bgp(self, lines: str) -> None:
        self.driver.feed(lambda node, now: node.receive_bgp(lines, now))

    def _begin_tasks(self) -> None:
        again = self._tasks.again
        often = lambda: COUNTER_INTERVAL * (1 + len(self.node.settings.tunnels) / 1000)  # noqa: E731
        again(
            self._read_counters, "counters", "the SAs' counters are not read, so none may send beyond its grant", often
        )
        again(self._look_at_host, "host-checks", "the host is not checked", lambda: HOST_CHECK_INTERVAL)
        again(self._retry_tunnels, "retries", "tunnels that failed are not tried again", lambda: HOST_CHECK_INTERVAL)
        self._tasks.always(self._attend(), "systemd")
        self._tasks.once(self._close_unclaimed(), "inherited")

    async def _read_counters(self) -> None:
        self.read_counters(drops=False)
        self._look_at_workers()
        self._write(self.journal.flush(boottime()))
        # Not at the reload itself: the peer is told by the old socket that the IKE_SA ends
        configured = {tunnel.ike.local for tunnel in self.node.settings.tunnels}
        self.sockets.close_unused(configured, self.node.ike.hosts, self.dataplane.detach)

    async def _retry_tunnels(self) -> None:
        self.driver.command(inputs.RetryTunnels())

    def _look_at_workers(self) -> None:
        """Without any that goes on, the other gateway does better."""
        workers = self.dataplane.worker_status()
        works = len(self._liveness.stuck(workers, boottime())) < len(workers)
        if works != self._works:
            self._works = works
            self.driver.command(inputs.WorkersWork(works))

    def read_counters(self, drops: bool = True) -> None:
        """Not while the driver rests: what the data plane says of a change it says once, and nobody would hear it."""
        if self.driver.resting:
            return
        dropped = self.dataplane.drop_counters() if drops else {}
        self.driver.command(inputs.Counters(self.dataplane.changed_counters(), dropped))

    async def _draw(self) -> None:
        """Those to which something happened until now; more may happen meanwhile."""
        fade(self.node)
        if not self.node.redraw:
            return
        facts = self._facts()
        for _ in range(0, len(self.node.redraw), DRAWN_AT_ONCE):
            draw_some(self.node, facts, self._drawn, DRAWN_AT_ONCE)
            await asyncio.sleep(0)

    async def _attend(self) -> None:
        await self._draw()
        self._tasks.again(self._draw, "pictures", "the picture is not of this moment", lambda: DRAW_INTERVAL)
        await systemd.attend(self.notifier, self.picture)

    async def _close_unclaimed(self) -> None:
        """Of what the process before left: devices and sockets of connections that are not configured any more."""
        await asyncio.sleep(SETTLED)
        self.kept.settled()
        await asyncio.sleep(STALE_SWEEP - SETTLED)
        for name in self.inherited.close():
            self.store.drop(name)
        self.kept.progress.forget_found()

    async def _look_at_host(self) -> None:
        names = [interface_name(tunnel.name) for tunnel in self.node.settings.tunnels]
        underlay = await self.netlink.interfaces_towards(next_to_us(self.loaded.config))
        config = self.loaded.config
        found = await asyncio.to_thread(
            lambda: (
                *merge_udp(config.dataplane.udp_gro),
                *host_problems([*underlay, *names], ipv6=uses_ipv6(config)),
            )
        )
        for problem in found:
            if problem not in self.problems:
                self.tell("warning", "host-problem", problem)
        self.problems = found
        await self._look_at_certificates()

    async def _look_at_certificates(self) -> None:
        settings = self.node.settings
        found = await asyncio.to_thread(expiring, settings, datetime.now(UTC))
        if settings is not self.node.settings:
            return  # reloaded meanwhile, which looks at the new ones itself
        for problem in found:
            if problem not in self.certificate_problems:
                self.tell("warning", "certificate-expires", problem)
        self.certificate_problems = found

    # --- effects ------------------------------------------------------------------------------------------------

    def _perform(self, effect: object) -> None:
        assert self.routes is not None
        match effect:
            case Transmit():
                self.sockets.send(effect)
                self.disclosures.sent()
            case Fetch():
                self.fetcher.fetch(effect)
            case Keep():
                self.kept.keep(effect)
            case effects.AddSa(sa):
                self.dataplane.add_sa(sa)
            case effects.RemoveSa(direction, connection, spi):
                self.dataplane.remove_sa(direction, connection, spi)
            case effects.MoveSa():
                self.dataplane.move_sa(effect.connection, effect.spi, effect.remote, effect.local)
            case effects.SetPolicies(connection, spis):
                self.dataplane.replace_policies(connection, spis)
            case effects.Grant(connection, spi, limit):
                self.dataplane.grant(connection, spi, limit)
            case effects.MoveFence(until):
                self.dataplane.move_fence(until)
            case (
                AddressCall()
                | effects.HoldAddresses()
                | effects.ReplicaSeek()
                | effects.ReplicaSay()
                | effects.ReplicaClose()
            ):
                self.sharing.perform(effect)
            case effects.Advance(connection, spi, by):
                self.dataplane.advance(connection, spi, by)
            case effects.SetInstances():
                self.routes.set_instances(effect)
            case effects.OpenTunnel(connection):
                self.dataplane.expect(connection)
                self.routes.open_tunnel(effect)
            case effects.SetTunnelMtu():
                self._set_mtu(effect)
            case effects.CloseTunnel(connection):
                self.dataplane.remove_connection(connection)
                self.routes.close_tunnel(effect)
            case routing.RouteOps():
                self.routes.apply(effect)
            case routing.DumpRequest():
                self.routes.dump(effect)
            case routing.Resolve():
                self.routes.resolve(effect)
            case effects.BgpLine(text):
                self.bgp.send(text)
            case effects.BgpStart(settings, forwards):
                self.bgp.want(settings, forwards)
            case effects.BgpUnresponsive(times):
                self.bgp.unresponsive(times)
            case effects.BgpDrained():
                pass  # the service that ends ExaBGP withdraws, also when there is no speaker
            case effects.ProbeArm() | effects.ProbeSend() | effects.ProbeOpen() | effects.ProbeClose():
                self.probes.perform(effect)
            case effects.SaveGuard():
                self.saving.save_guard(effect)
            case effects.PairBeat(beat):
                self.listeners.heartbeats.perform(beat)
            case effects.PairTransmit():
                self.listeners.send(effect)
            case Call():
                self.tables.call(effect)
            case Ask():
                self.witness.ask(effect)
            case effects.SaveEpoch(epoch):
                self.saving.save_epoch(epoch)
            case effects.Event(level, event, tunnel, text, failure, context, each):
                told = f"{text}; {explain(failure, context)}" if failure else text
                self._journal(level, event, tunnel, told, _nothing_else() if each else failure)
            case _:
                raise TypeError(f"effect {effect!r} has nobody to carry it out")

    async def make(self, wanted: Sequence[effects.OpenTunnel]) -> list[effects.OpenTunnel]:
        """`kernel_routes.Devices`: TUNs that cannot be had are the node's to try again."""
        failed = await self.dataplane.make(wanted)
        for name, error in failed.items():
            self._journal("error", "tun-failed", name, str(error))
            self.driver.command(inputs.TunnelFailed(name, str(error)))
        return [one for one in wanted if one.name not in failed]

    async def close(self, names: Sequence[str]) -> None:
        """`kernel_routes.Devices`."""
        await self.dataplane.close_removed(lambda: self._delete_links(names))

    async def _stop_dataplane(self) -> None:
        if self.ended is End.CLOSED:
            await self.dataplane.stop(self._delete_links)
        else:
            await self.dataplane.leave()

    async def _delete_links(self, names: Sequence[str]) -> None:
        try:
            await self.netlink.delete_links(names)
        except OSError as error:
            # They go with their queues all the same, only slower
            log.warning("%s", error, extra={"event": "netlink-failed"})

    def _set_mtu(self, effect: effects.SetTunnelMtu) -> None:
        assert self.routes is not None
        self.dataplane.update_connection(
            effect.connection, effect.mtu, effect.tcp_mss4, effect.tcp_mss6, effect.dscp, effect.clear_df
        )
        tunnel = self.node.tunnels.get(effect.name)
        if tunnel is not None:
            self.routes.set_mtu(effect, tunnel.settings.addresses)

    def tell(self, level: str, event: str, text: str) -> None:
        """An event of the shell's own; only the same words again are held back."""
        self._journal(level, event, "", text, text)

    def _audit(self, event: str, tunnel: str, text: str) -> None:
        """Every one of them is written, however often somebody asks."""
        self._journal("warning", event, tunnel, text, _nothing_else())

    def _journal(self, level: str, event: str, tunnel: str, text: str, kind: str = "") -> None:
        self._write(self.journal.record(event, text, boottime(), tunnel, level, kind))

    def _write(self, entries: list[JournalEntry]) -> None:
        for entry in entries:
            log.log(LEVELS[entry.level], "%s", entry.text, extra={"event": entry.event, "tunnel": entry.tunnel})

    # --- views --------------------------------------------------------------------------------------------------

    def dataplane_name(self) -> str:
        return f"{_native.ENGINE}, {len(self.dataplane.worker_status())} workers"

    async def snapshot(self, routes: int | None = SHOWN_ROUTES) -> Snapshot:
        """The picture with the counters of this moment, and with BGP routes: some of them, or all (None)."""
        await self.dataplane.look_at_queues()
        self.read_counters()
        await self._draw()
        drawn = []
        for route in draw_routes(self.node, routes):
            drawn.append(route)
            if len(drawn) % SHOWN_ROUTES == 0:
                await asyncio.sleep(0)
        return build(self.node, self._facts(), boottime(), self._drawn, routes=drawn)

    def tunnel(self, name: str) -> TunnelStatus:
        return draw(self.node, self._facts(), self._drawn, name)

    def picture(self) -> Snapshot:
        """As last read and drawn, a moment ago, for those who look every moment."""
        return build(self.node, self._facts(), boottime(), self._drawn, stale=True)

    def _facts(self) -> ShellFacts:
        probes, refused = self.probes.counts()
        return ShellFacts(
            started_at=self.started_at,
            taken_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            engine=_native.ENGINE,
            exabgp=self.bgp.state,
            interfaces={tunnel.name: interface_name(tunnel.name) for tunnel in self.node.settings.tunnels},
            drop_reasons=_native.DROP_REASONS,
            workers=self.dataplane.worker_status(),
            probes=probes,
            probe_refused=refused,
            heartbeats_sent=self.listeners.heartbeats.sent,
            http_cut=self.listeners.http_cut,
            journal=self.journal.entries(),
            problems=(*self.problems, *((self.bgp.problem,) if self.bgp.problem else ()), *self.disclosures.problems()),
            certificate_problems=self.certificate_problems,
        )

    # --- reload and end ----------------------------------------------------------------------------------------

    async def reconfigure(self, loaded: Loaded) -> None:
        """Applies a checked configuration. What is bound comes first: an address not to be had leaves everything as it was."""
        async with self.listeners.following(loaded.config, _sockets(loaded)):
            try:
                self._open_sockets(loaded.settings)
                await self.sharing.follow(loaded.settings.pair)
                # Meanwhile what no connection names yet may have been closed again
                self._open_sockets(loaded.settings)
            except OSError:
                self._open_sockets(self.loaded.settings)
                raise
        self._configure_clouds(loaded)
        logs.set_level(loaded.config.gateway.log_level)
        self.loaded = loaded
        self.driver.command(inputs.Reconfigured(loaded.settings))
        # What the reload says of certificates the status says, too, from its answer on
        await self._look_at_certificates()
        self._tasks.once(self._look_at_host(), "host-check")

    def _configure_clouds(self, loaded: Loaded) -> None:
        self.tables.configure(loaded.config.fabric)
        self.sharing.configure(loaded.config.ha)
        self.witness.configure(loaded.config, loaded.path.parent)
        self.maintenance.configure(loaded.config.ha)

    def _open_sockets(self, settings: GatewaySettings) -> None:
        self.sockets.shared = frozenset(settings.pair.shared) if settings.pair is not None else frozenset()
        made = self.sockets.open(tunnel.ike.local for tunnel in settings.tunnels)
        made += self.sockets.open_raw(tunnel.ike.local.host for tunnel in settings.tunnels if not tunnel.ike.encap)
        self.sockets.expect((tunnel.ike.local.host, tunnel.ike.remote.host) for tunnel in settings.tunnels)
        self.dataplane.attach(self.sockets, made)

    def _open_packet_sockets(self) -> None:
        gateway = self.loaded.config.gateway
        if not self.loaded.config.dataplane.packet_socket:
            return
        try:
            self.dataplane.attach_packet_sockets(gateway.mark, gateway.route_protocol)
        except OSError as error:
            self.tell("warning", "packet-sockets-failed", f"{error.strerror}; raw sockets send everything")

    async def _close_packet_sockets(self) -> None:
        if self.dataplane.packets is not None:
            await self.dataplane.packets.close()

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._tasks.once(self._reload_by_signal(), "reload"))

    def _told_to_stop(self) -> None:
        self.ending.told = True
        self.stopping.set()

    async def _reload_by_signal(self) -> None:
        await self.operations.operate("reload", "", 0.0)

    async def end_tasks(self) -> None:
        await self._tasks.end()

    def _fail(self) -> None:
        """It ends as told to, but as failed: the service manager starts the next."""
        self.failed = True
        self.stopping.set()


def _sockets(loaded: Loaded) -> PairSockets:
    return loaded.settings.pair.sockets if loaded.settings.pair is not None else PairSockets()


def _nothing_else() -> str:
    """A kind for the journal that no other event has."""
    return f"{time.monotonic_ns()}"


def _wall(now: float) -> float:
    """The cores' clock never jumps; dates are of the other one, wherever somebody set it meanwhile."""
    return now + time.time() - boottime()
