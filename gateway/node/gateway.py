"""The whole gateway: every core composed into one machine with the contract of gateway/contract.py.

    IKE datagrams, BGP lines, datagrams of the pair, data plane events, kernel answers, operator commands, time
        -> cores -> their events -> tunnels, routes, sessions
        -> Transmit, Compute, data plane and kernel effects, journal events

It decides nothing the cores can decide: it carries one core's events to the others. Order at start: the
clear-text guard, then TUNs, then IKE and BGP; nothing is tried before the guard stands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from itertools import islice

from gateway.bgp import events as bgp
from gateway.bgp.speaker import Speaker
from gateway.contract import Compute, Endpoint, Fetch, RandomSource, Transmit
from gateway.ha.roles import MachineLeaves, Operate, VoteChanged
from gateway.ike import commands as ike
from gateway.ike import events as ike_events
from gateway.ike.endpoint import IkeEndpoint
from gateway.ike.key_exchange import KeyExchanges
from gateway.ike.services import WallClock, since_1970
from gateway.node import effects, inputs, negotiated, operator, outcomes
from gateway.node.keeping import Earlier, Keeper
from gateway.node.learned import Learned
from gateway.node.liveness import Liveness
from gateway.node.pairing import Pairing
from gateway.node.replication import Replication
from gateway.node.routes import fib_commands, journal_event, tell_next_hops
from gateway.node.settings import GatewaySettings
from gateway.node.supervisor import Supervisor
from gateway.node.tables import OWN, Tables
from gateway.node.tunnel import Tunnel
from gateway.routing import model as routing
from gateway.routing.fib import Fib

INITIAL_MTU = 1400
"""Of a TUN before a suite is negotiated."""
STALE_SWEEP = 30.0
"""Seconds after a start at which routes an earlier process left, and nobody asked for since, are removed; with BGP its stale_time."""
REOPEN_DELAY = 5.0
"""Seconds until a TUN that could not be made is tried again."""
BURST = 8
"""Connections supervised in one go; the rest follow at once, but datagrams and timers may come between."""


class Gateway:
    """One gateway node. `routing`, `ike` and `speaker` are read by observe/build.py."""

    def __init__(
        self,
        settings: GatewaySettings,
        random: RandomSource,
        key_exchanges: KeyExchanges,
        wall: WallClock = since_1970,
        crash_secret: bytes = b"",
        learned: Mapping[str, tuple[routing.Prefix, ...]] | None = None,
        epoch: int = 0,
        earlier: Earlier | None = None,
    ) -> None:
        self.settings = settings
        self.ike = IkeEndpoint(random, key_exchanges, wall, crash_secret)
        self.tables = Tables()
        self.learned = Learned(self.tables, learned or {})
        self.speaker = Speaker(settings.bgp) if settings.bgp is not None else None
        self.pairing = Pairing(random, epoch)
        self.tunnels: dict[str, Tunnel] = {}
        self.liveness = Liveness(self.tunnels, random)
        self.keeper = Keeper(self.ike, self.tunnels, earlier or Earlier())
        self.replication = Replication(self.tunnels, self.keeper, random)
        self._cores = (self.replication, self.ike, self.tables, self.liveness, self.pairing)
        self._names: dict[int, str] = {}  # of the tunnels, by connection number
        self._supervisor = Supervisor(self.tunnels, self.ike)
        self._to_close: dict[str, None] = {}  # a set in order of insertion, at the end
        self._settled_at = 0.0
        self.redraw: set[str] = set()
        """Connections whose picture may be another one than when somebody last took them out of here."""
        self.fading: dict[str, float] = {}
        """When their picture says something no longer, though nothing happens to them; told by who draws it."""
        self.drops: dict[tuple[int, str], int] = {}
        self.started = self.guarded = self.stopping = self._guarding = False
        self._random = random
        self._effects: deque[object] = deque()
        self._reopen_at: float | None = None
        self._connected: frozenset[routing.Prefix] = frozenset()

    # --- the contract -------------------------------------------------------------------------------------------

    def receive_ike(self, data: bytes, local: Endpoint, remote: Endpoint, now: float) -> None:
        """An IKE datagram, without its non-ESP marker."""
        if self.guarded:
            self.ike.receive(data, local, remote, now)
            if self.ike.has_news:
                self._settle(now)

    def receive_bgp(self, lines: str, now: float) -> None:
        """Lines of ExaBGP's output."""
        if self.speaker is not None:
            self.speaker.receive(lines, now)
            self._settle(now)

    def receive_pair(self, data: bytes, now: float, at: float | None = None) -> None:
        """Of the other gateway, or of the witness; it arrived at `at`, or now."""
        self.pairing.receive(data, now, at)
        self._settle(now)

    def command(self, command: object, now: float) -> None:
        """An input of inputs.py, or an answer the FIB or the speaker waits for."""
        match command:
            case inputs.Start():
                self._start(now)
            case inputs.Stop():
                self._stop(now)
            case inputs.CloseTunnels():
                self._to_close = dict.fromkeys(self.tunnels)
            case inputs.RetryTunnels():
                if self.guarded:
                    self._open_tunnels()
            case inputs.Reconfigured(settings):
                self._reconfigure(settings, now)
            case inputs.TunnelReady(name, interface):
                self._tunnel_ready(name, interface, now)
            case inputs.TunnelFailed(name, reason):
                self._tunnel_failed(name, reason, now)
            case inputs.Underlay(connected):
                self._connected = connected
                self._set_throws(now)
                self.pairing.links(connected)
            case inputs.TablesLeft(numbers):
                self.tables.leave_behind(numbers, now)
            case inputs.DataPlaneEvent():
                self._data_plane_event(command, now)
            case inputs.Counters():
                self._read_counters(command, now)
            case inputs.ProbePacket(number, octets):
                self.liveness.packet(number, octets, now)
            case inputs.ProbeExpired(number, generation):
                self.liveness.expired(number, generation, now)
            case inputs.Operate():
                self._operate(command, now)
            case Operate() | MachineLeaves() | inputs.TableAnswered() | inputs.WitnessAnswered():
                self.pairing.command(command, now)
            case inputs.ReplicaOpened() | inputs.ReplicaSaid() | inputs.ReplicaClosed() | inputs.AddressAnswered():
                self.replication.command(command, now)
            case inputs.WorkersWork(works):
                self.pairing.workers(works)
            case bgp.ProcessUp() | bgp.ProcessDown():
                if self.speaker is not None:
                    self.speaker.command(command, now)
            case inputs.ForgetLearned(prefixes, instance):
                self._forget_learned(prefixes, instance, now)
            case routing.InterfaceGone(interface):
                self._interface_gone(interface, now)
            case _:
                self.tables.command(command, now)
        self._settle(now)

    def computed(self, ticket: int, result: object, now: float) -> None:
        self.ike.computed(ticket, result, now)
        self._settle(now)

    def poll(self) -> Iterator[object]:
        passing = self.replication
        while self._effects or passing.has_effects:
            yield from passing.poll()
            if self._effects:
                passing.take(self._effects.popleft(), self._settled_at)

    @property
    def fib(self) -> Fib:
        """That of the gateway's own table."""
        return self.tables[OWN]

    @property
    def now(self) -> float:
        """The moment of the last input."""
        return self._settled_at

    def next_deadline(self) -> float | None:
        deadlines = [core.next_deadline() for core in self._cores]
        deadlines += [self.keeper.forwards_at, self._reopen_at]
        if self.guarded:
            deadlines.append(self.learned.save_at)
        if self.speaker is not None:
            deadlines.append(self.speaker.next_deadline())
        if self._to_close:
            deadlines.append(self._settled_at)
        if self.guarded and not self.stopping:
            deadlines.append(self._settled_at if self._supervisor.busy else self._supervisor.next_deadline())
        return min((deadline for deadline in deadlines if deadline is not None), default=None)

    def handle_deadline(self, now: float) -> None:
        for core in self._cores:
            core.handle_deadline(now)
        if self.speaker is not None and (due := self.speaker.next_deadline()) is not None and now >= due:
            self.speaker.handle_deadline(now)
        if self.keeper.forwards_again(now):
            self._start_bgp()
        if self._reopen_at is not None and now >= self._reopen_at:
            self._reopen_at = None
            self._open_tunnels()
        if self.guarded and (save := self.learned.due(now)) is not None:
            self._emit(save)
        for name in self._supervisor.due(now):
            self._look_after(name)
        self._settle(now)

    # --- start, stop, reload ------------------------------------------------------------------------------------

    def _start(self, now: float) -> None:
        self.started = True
        self.tables.sweep_later(now + (self.settings.bgp.stale_time if self.settings.bgp is not None else STALE_SWEEP))
        self._set_instances(guarded=False)
        self.learned.start(self.settings.instances, now)
        self.replication.configure(self.settings, now)
        self._adopt_tunnels(now)
        self.replication.start()
        self._set_throws(now)
        self._set_protected(now)
        self._configure_ike(now)
        self.liveness.adopt(self.settings.watches, now)
        self.pairing.start(self.settings, now)

    def _stop(self, now: float) -> None:
        self.stopping = True
        self.replication.stop()
        self.liveness.stop(now)
        if self.speaker is not None:
            self.speaker.command(bgp.Shutdown(), now)
        else:
            self._emit(effects.BgpDrained())

    def _reconfigure(self, settings: GatewaySettings, now: float) -> None:
        before = self.settings
        self.settings = settings
        if settings.instances or before.instances:
            self._set_instances(guarded=False)
        self.learned.adopt(settings.instances, now)
        self.replication.configure(settings, now)
        now_wanted = {wanted.name: wanted for wanted in settings.tunnels}
        for name, tunnel in list(self.tunnels.items()):
            wanted = now_wanted.get(name)
            if wanted is tunnel.settings:
                continue
            self.tables.leave(tunnel.settings, wanted, now)
            if wanted is None:
                del self.tunnels[name]
                del self._names[tunnel.settings.id]
                self.pairing.health.tunnel(name, None)
                self._look_after(name)
                self.ike.command(ike.Terminate(name, reason="REMOVED_FROM_CONFIGURATION"), now)
                self._emit(effects.CloseTunnel(tunnel.settings.id, name))
        self._adopt_tunnels(now)
        self._set_throws(now)
        self._set_protected(now)
        self._configure_ike(now)
        if self.guarded:
            self._open_tunnels()
        self._reconfigure_bgp(now)
        if (before.keeping, before.on_circuits) != (settings.keeping, settings.on_circuits):
            for change in self.speaker.best() if self.speaker is not None else ():
                self._route(change, now)
        self.liveness.adopt(settings.watches, now)
        peers = self.speaker.peers_status() if self.speaker is not None else ()
        self.pairing.configure(settings, now, {peer.name for peer in peers if peer.established_at is not None})

    def _set_instances(self, *, guarded: bool = True) -> None:
        """The rules that lead into new tables precede the guards in them: what is looked up in an empty one goes nowhere in
        clear. Those that led into a table go once the guards stand (`guarded`): what is looked up elsewhere then is closed."""
        self._guarding = not guarded
        members = {one.name: one.instance for one in self.settings.tunnels}
        self._emit(effects.SetInstances(self.settings.instances, members, guarded))

    def _reconfigure_bgp(self, now: float) -> None:
        """A `bgp` section that goes needs a restart of the daemon (config/diff.py); one that comes does not."""
        settings = self.settings.bgp
        if settings is None:
            return
        if self.speaker is None:
            self.speaker = Speaker(settings)
            self.speaker.command(bgp.Attract(self.pairing.attraction), now)
        else:
            self.speaker.command(bgp.Reconfigure(settings), now)
        if self.guarded:
            self._start_bgp()

    def _start_bgp(self) -> None:
        """The sessions ExaBGP shall have."""
        if self.speaker is not None:
            self._emit(effects.BgpStart(self.speaker.session_settings, self.keeper.forwards))

    def _adopt_tunnels(self, now: float) -> None:
        for settings in self.settings.tunnels:
            known = self.tunnels.get(settings.name)
            if known is not None and known.settings is settings:
                continue
            self._look_after(settings.name)
            if known is None:
                known = self.tunnels[settings.name] = Tunnel(settings, self._random)
                self._names[settings.id] = settings.name
            elif known.settings.ike != settings.ike and self.ike.primary(known.name) is None:
                # What was tried so far was tried with the old settings
                self.ike.command(ike.Terminate(known.name, reason="CONFIGURATION_CHANGED"), now)
                known.back_off.reset()
            changed = known.adopt(settings)
            self.replication.adopt(known)
            if changed and known.interface:
                self._emit(known.link(settings.local_destinations))
            self.tables.enter(settings, known.interface, now)
            self._connection_state(known, now)

    def _move_shared(self, now: float) -> None:
        """The shared addresses came to us, or left, or what came with them had its time to come up."""
        for tunnel in self.replication.shared:
            if tunnel.elsewhere:
                self.ike.command(ike.Abandon(tunnel.name), now)
            self._look_after(tunnel.name)
        self._configure_ike(now)
        if self.guarded:
            self._emit_all(self.keeper.resume(self.replication.arriving, now))
            self.keeper.withdraw(self.replication.holder.copy.contents)
        for tunnel in self.replication.shared:
            self._connection_state(tunnel, now)

    def _connection_state(self, tunnel: Tunnel, now: float) -> None:
        """A tunnel that starts with the first packet must get that packet: the data plane drops it and says `acquire`."""
        up = tunnel.usable or tunnel.settings.start_action == "trap"
        state = routing.ConnectionUp(tunnel.name) if up else routing.ConnectionDown(tunnel.name)
        self._fib_of(tunnel).command(state, now)
        self.liveness.path(tunnel.name, now)
        self.pairing.tunnel(tunnel, self.liveness.passes(tunnel.name))

    def _configure_ike(self, now: float) -> None:
        without = {name for name, tunnel in self.tunnels.items() if tunnel.device_fault or tunnel.elsewhere}
        usable = tuple(tunnel.ike for tunnel in self.settings.tunnels if tunnel.name not in without)
        pair = self.settings.pair
        self.ike.tokens.share(pair.shared if pair else (), pair.token_secret if pair else b"")
        self.ike.command(ike.Configure(usable), now)

    def _set_protected(self, now: float) -> None:
        self.tables.protect(self.settings.tunnels, now)
        self.learned.changed(now)

    def _set_throws(self, now: float) -> None:
        endpoints = frozenset(tunnel.remote for tunnel in self.settings.tunnels) | self.settings.beside
        self.tables.set_throws(self._connected, endpoints, now)
        self.learned.changed(now)

    def _forget_learned(self, prefixes: tuple[routing.Prefix, ...], instance: str, now: float) -> None:
        self.learned.forget(prefixes, instance, self.speaker, now)
        self._emit(outcomes.forgotten(prefixes))

    def _open_tunnels(self) -> None:
        for tunnel in self.tunnels.values():
            if not tunnel.interface:
                self._open_tunnel(tunnel)

    def _open_tunnel(self, tunnel: Tunnel) -> None:
        tunnel.mtu = tunnel.mtu or self.keeper.mtu(tunnel) or INITIAL_MTU
        settings = tunnel.settings
        self._emit(
            effects.OpenTunnel(settings.id, tunnel.name, tunnel.mtu, settings.addresses, settings.local_destinations)
        )
        self._emit(tunnel.link())

    def _check_guard(self, now: float) -> None:
        """Nothing is tried before every protected prefix has its blackhole in the kernel."""
        if not self.started or not self.tables.guard_complete:
            return
        if self._guarding:
            self._set_instances()
        if self.guarded:
            return
        self.guarded = True
        self.pairing.guarded()
        for name in self.tunnels:
            self._look_after(name)
        self._event("info", "guard-installed", "", "clear-text guard is in the kernel")
        self.learned.changed(now, 0.0)
        self._open_tunnels()
        self._emit_all(self.keeper.resume_all(now, routes=self.tables.forwards))
        self._start_bgp()

    # --- inputs -------------------------------------------------------------------------------------------------

    def _tunnel_ready(self, name: str, interface: int, now: float) -> None:
        self._look_after(name)
        if (tunnel := self.tunnels.get(name)) is not None:
            tunnel.interface = interface
            self._fib_of(tunnel).command(routing.ConnectionAdded(name, interface), now)
            self.liveness.path(name, now)
            if tunnel.device_fault:
                tunnel.device_fault = ""
                tunnel.failure = None
                tunnel.back_off.reset()
                self._configure_ike(now)

    def _tunnel_failed(self, name: str, reason: str, now: float) -> None:
        """A connection without a device is none: its SAs would have nowhere to go, so nothing is negotiated for it."""
        self._reopen_at = now + REOPEN_DELAY
        self._look_after(name)
        if reason and (tunnel := self.tunnels.get(name)) is not None:
            tunnel.device_fault = reason
            self._configure_ike(now)
            tunnel.note("TUN_FAILED", tunnel.context({"detail": reason}), now)

    def _interface_gone(self, interface: int, now: float) -> None:
        """Somebody deleted a device. One of ours is made again; its SAs live on in the data plane."""
        self.tables.command(routing.InterfaceGone(interface), now)
        for tunnel in self.tunnels.values():
            if tunnel.interface == interface:
                tunnel.interface = 0
                self.liveness.path(tunnel.name, now)
                self._look_after(tunnel.name)
                text = "its TUN was removed or taken down by somebody else; restoring it"
                self._event("warning", "tun-lost", tunnel.name, text)
                self._open_tunnel(tunnel)

    def _fib_of(self, tunnel: Tunnel) -> Fib:
        return self.tables[tunnel.settings.instance]

    def _by_id(self, connection: int) -> Tunnel | None:
        return self.tunnels.get(self._names.get(connection, ""))

    def _data_plane_event(self, event: inputs.DataPlaneEvent, now: float) -> None:
        if (tunnel := self._by_id(event.connection)) is None:
            return
        self._look_after(tunnel.name)
        self._emit_all(negotiated.heed(tunnel, self.ike, event, now))

    def _read_counters(self, reading: inputs.Counters, now: float) -> None:
        if drops := dict(reading.drops):
            changed = set(drops.items()) ^ set(self.drops.items())
            self.redraw.update(self._names.get(number, "") for (number, _), _ in changed)
            self.drops = drops
        for number, counters in reading.by_connection.items():
            tunnel = self._by_id(number)
            if tunnel is not None:
                self.redraw.add(tunnel.name)
                if heard := tunnel.read(counters):
                    self.ike.command(ike.TrafficSeen(tunnel.name, frozenset(heard), max(heard.values())), now)
                self._emit_all(self.keeper.grants(tunnel))

    def _operate(self, command: inputs.Operate, now: float) -> None:
        if (tunnel := self.tunnels.get(command.connection)) is not None:
            self._look_after(tunnel.name)
            operator.obey(tunnel, self.ike, command, now)

    def _look_after(self, name: str) -> None:
        """Something about this connection changed."""
        self.redraw.add(name)
        self._supervisor.look_after(name)

    # --- carrying events between the cores ----------------------------------------------------------------------

    def _settle(self, now: float) -> None:
        """Until no core has anything more to say. Many connections to look after are taken in turns of BURST."""
        progress, turns = True, BURST
        self._settled_at = now
        while progress:
            progress = False
            for effect in self.ike.poll():
                progress = True
                self._ike_event(effect, now)
            for effect in self.speaker.poll() if self.speaker is not None else ():
                progress = True
                self._bgp_event(effect, now)
            self.pairing.announced(self._all_told, self._noticed_within, now)
            for effect in self.pairing.poll(now):
                progress = True
                self._pair_event(effect, now)
            if self.replication.follow(self.pairing.ha, now) or self.replication.reconsidered(now):
                self._move_shared(now)
                progress = True
            self.pairing.copied(self.replication, now)
            for effect in self.liveness.poll():
                progress = True
                self._liveness_event(effect, now)
            for effect in self.tables.poll():
                progress = True
                self._emit(effect)
            progress = self.learned.take_news(self.speaker, now) or progress
            progress = tell_next_hops(self.tables, self.speaker, now) or progress
            self._check_guard(now)
            for name in self.ike.stirred():
                self._look_after(name)
                self.keeper.touch(name)
            if self.guarded and not self.stopping:
                turns -= (supervised := self._supervisor.look_after_some(turns, now))
                progress = progress or supervised > 0
            for name in list(islice(self._to_close, turns)):
                del self._to_close[name]
                self.ike.command(ike.Terminate(name, reason="STOPPING"), now)
                progress, turns = True, turns - 1
        # What leaves depends on what is kept
        self._effects.extendleft(self.keeper.poll())

    def _ike_event(self, event: object, now: float) -> None:
        if isinstance(event, Transmit | Compute | Fetch):
            self._emit(event)
            return
        connection = getattr(event, "connection", "")
        if (tunnel := self.tunnels.get(connection)) is None:
            if isinstance(event, ike_events.Notice):
                self._event(event.level, event.event, connection, event.text)
            return
        # Whatever it says may show in the connection's picture
        self.redraw.add(connection)
        established = self.ike.primary(tunnel.name) is not None
        self._emit_all(negotiated.follow(tunnel, event, established, now))
        if isinstance(event, ike_events.ChildActivate | ike_events.ChildRemove):
            self._connection_state(tunnel, now)
        elif isinstance(event, ike_events.ChildMoved):
            self.liveness.moved(tunnel.name, now)

    def _bgp_event(self, event: object, now: float) -> None:
        match event:
            case bgp.SendLine(text):
                self._emit(effects.BgpLine(text))
            case bgp.BestChanged() | bgp.FollowNextHop():
                self._route(event, now)
            case bgp.SessionsChanged():
                self._start_bgp()
            case bgp.PeerUp(name):
                self.liveness.established(name, now)
                self.pairing.session(name, up=True, now=now)
            case bgp.PeerDown(name):
                self.pairing.session(name, up=False, now=now)
            case bgp.EpochHeard():
                self.pairing.command(event, now)
            case bgp.AnswersMissing(times):
                self._emit(effects.BgpUnresponsive(times))
            case bgp.Drained():
                self._emit(effects.BgpDrained())
        self._tell(journal_event(event))

    def _route(self, event: bgp.BestChanged | bgp.FollowNextHop, now: float) -> None:
        fib = self.tables.get(event.instance)
        for command in fib_commands(event, self.settings.keeping, self.settings.on_circuits):
            if fib is not None:
                fib.command(command, now)

    def _liveness_event(self, event: object, now: float) -> None:
        match event:
            case routing.Liveness(target, works):
                self.tables.command(event, now)
                if isinstance(target, routing.ViaConnection) and (tunnel := self.tunnels.get(target.name)):
                    self.pairing.tunnel(tunnel, works)
            case bgp.Forwarding() if self.speaker is not None:
                self.speaker.command(event, now)
            case ike.CheckLiveness():
                self.ike.command(event, now)
            case VoteChanged():
                self.pairing.command(event, now)
            case _:
                if isinstance(event, effects.Event):
                    self.redraw.add(event.tunnel)
                self._emit(event)

    @property
    def _all_told(self) -> bool:
        """What is sent into a tunnel that lets nothing through is told to nobody."""
        speaker = self.speaker
        if speaker is None or not speaker.settings.neighbors:
            return True
        return speaker.all_told and all(map(self.liveness.passes, speaker.connections))

    @property
    def _noticed_within(self) -> float:
        return self.liveness.notices(self.speaker.connections) if self.speaker is not None else 0.0

    def _pair_event(self, event: object, now: float) -> None:
        if isinstance(event, inputs.Operate):
            self._operate(event, now)
        elif not isinstance(event, bgp.Attract):
            self._emit(event)
        elif self.speaker is not None:
            self.speaker.command(event, now)

    def _event(
        self, level: str, event: str, tunnel: str, text: str, failure: str = "", context: dict[str, str] | None = None
    ) -> None:
        self._emit(effects.Event(level, event, tunnel, text, failure, context or {}))

    def _tell(self, event: effects.Event | None) -> None:
        if event is not None:
            self._emit(event)

    def _emit(self, effect: object) -> None:
        self._effects.append(effect)

    def _emit_all(self, found: Iterator[object]) -> None:
        self._effects.extend(found)
