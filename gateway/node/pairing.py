"""The gateway's place in a pair, if it has one, and the health by which it is judged there."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import ip_address
from math import inf

from gateway.bgp import events as bgp
from gateway.bgp.attraction import Attraction
from gateway.bgp.settings import Role, SpeakerSettings
from gateway.contract import RandomSource
from gateway.ha.roles import MachineLeaves, Operate, VoteChanged
from gateway.node import effects, inputs, outcomes
from gateway.node.health import Health
from gateway.node.high_availability import HighAvailability
from gateway.node.replication import Replication
from gateway.node.settings import GatewaySettings
from gateway.node.tunnel import Tunnel
from gateway.routing.model import Prefix

PairCommand = Operate | MachineLeaves | VoteChanged | bgp.EpochHeard | inputs.TableAnswered | inputs.WitnessAnswered


class Pairing:
    """`ha` is None for a gateway on its own. `epoch`: the highest that an earlier process knew."""

    def __init__(self, random: RandomSource, epoch: int) -> None:
        self.ha: HighAvailability | None = None
        self.health = Health()
        self._random = random
        self._epoch = epoch
        self._connected: Collection[Prefix] = ()
        self._outer: frozenset[str] = frozenset()
        self._linked: frozenset[str] = frozenset()
        """Outer addresses whose network was on a link."""
        self._guarded, self._workers = False, True
        self._effects: list[object] = []
        self._hold_times: dict[str, int] = {}
        self._untold: dict[str, float] = {}
        """Until when a neighbor without a session may keep what it was told last."""
        self._now = 0.0
        self._told_since: float | None = None
        """Since when all neighbors have been told everything."""
        self._told_at = inf
        """When that counts."""
        self._vote = VoteChanged(0)
        self._others: dict[str, str] = {}
        """By connection: the other gateway's address, for a peer that has its tunnel with the active one."""
        self._moving: dict[str, str] = {}
        """By connection: its address, which only the active gateway has."""
        self.sent_away: dict[str, str] = {}
        """Those whose peer is sent there now."""

    def start(self, settings: GatewaySettings, now: float) -> None:
        """What an earlier process told may stand as long as a hold time, unless a session of ours replaces it."""
        self.configure(settings, now)
        self._untold = {name: now + hold for name, hold in self._hold_times.items()}

    def configure(self, settings: GatewaySettings, now: float, established: Collection[str] = ()) -> None:
        """A pair with a witness where there was none, or without one, is another pair: it begins anew. `established`: the neighbors
        with a session."""
        self._outer = frozenset(tunnel.ike.local.host for tunnel in settings.tunnels)
        self._others = {tunnel.name: tunnel.redirect_to for tunnel in settings.tunnels if tunnel.redirect_to}
        shared = settings.pair.shared if settings.pair is not None else ()
        self._moving = {one.name: one.ike.local.host for one in settings.tunnels if one.ike.local.host in shared}
        self.health.neighbors(self._judged(settings.bgp), established)
        self._hold_times = _hold_times(settings.bgp) if settings.bgp is not None else {}
        self._untold = {name: until for name, until in self._untold.items() if name in self._hold_times}
        self.links(self._connected)
        wanted, current = settings.pair, self.ha
        if current is not None and wanted is not None and not current.is_another(wanted):
            current.configure(wanted, settings.fabric, now)
            return
        self.ha = None
        if wanted is not None:
            self.ha = HighAvailability(wanted, settings.fabric, self._random, now, self._epoch)
            self.ha.command(self._vote, now)
            self.health.changed = True
        elif current is not None:
            self._effects.append(bgp.Attract(None))

    def _judged(self, settings: SpeakerSettings | None) -> SpeakerSettings | None:
        """Neighbors whose sessions say something of this gateway: not those in a tunnel that is at the active one alone, or
        came from there with its address a moment ago."""
        if settings is None:
            return None
        return settings.without(
            {one.name for one in settings.neighbors if one.connection in self._others | self._moving}
        )

    @property
    def attraction(self) -> Attraction | None:
        """For a speaker that is new."""
        return self.ha.attraction if self.ha is not None else None

    # --- what is known of this gateway --------------------------------------------------------------------------

    def tunnel(self, tunnel: Tunnel, passes: bool) -> None:
        """One that starts with the first packet carries it. That a peer is at the other gateway says nothing of this one."""
        if tunnel.settings.redirect_to:
            self.health.tunnel(tunnel.name, None)
            return
        up = tunnel.usable or tunnel.settings.start_action == "trap"
        self.health.tunnel(
            tunnel.name, tunnel.arriving or (up and passes) or (tunnel.elsewhere and not tunnel.failed_here)
        )

    def links(self, connected: Collection[Prefix]) -> None:
        """An outer address whose network is on a link no more: the interface is down or gone. One that never was, a /32 of a cloud's or
        of the loopback interface, says nothing."""
        self._connected = connected
        linked = {one for one in self._outer if any(ip_address(one) in net for net in connected)}
        self._linked = (self._linked | linked) & self._outer
        self.health.set(links=linked >= self._linked)

    def copied(self, replication: Replication, now: float) -> None:
        """Where addresses are shared: who goes on with connections, or could."""
        if self.ha is not None:
            has_copy = replication.has_copy(self.ha.pair.election.epoch, now)
            self.health.set(copy=not replication.hosts or replication.acting or has_copy)

    def guarded(self) -> None:
        """The clear-text guard stands."""
        self._guarded = True
        self.health.set(data_plane=self._workers)

    def workers(self, work: bool) -> None:
        self._workers = work
        self.health.set(data_plane=self._guarded and work)

    # --- the contract -------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float, at: float | None = None) -> None:
        if self.ha is not None:
            self.ha.receive(data, now, at)

    def command(self, command: PairCommand, now: float) -> None:
        if isinstance(command, VoteChanged):
            self._vote = command
        if self.ha is None:
            return
        match command:
            case Operate() | MachineLeaves() | VoteChanged():
                self.ha.command(command, now)
            case bgp.EpochHeard(neighbor, mark):
                self.ha.epoch_announced(neighbor, mark, now)
            case inputs.TableAnswered(ticket, outcome):
                self.ha.table_answered(ticket, outcome, now)
            case inputs.WitnessAnswered(ticket, answer):
                self.ha.witness_answered(ticket, answer, now)

    def announced(self, everything: bool, noticed_within: float, now: float) -> None:
        """Whether all neighbors have been told all there is to tell. It counts only when it has lasted for as long as it takes to notice that
        a tunnel lets nothing through: what was said into one that was cut a moment before has reached nobody."""
        if not everything or self.ha is None:
            self._told_since, self._told_at = None, inf
            return
        self._told_since = now if self._told_since is None else self._told_since
        self._told_at = self._told_since + noticed_within
        if now >= self._told_at and all(now >= until for until in self._untold.values()):
            self.ha.announced(now)

    def session(self, neighbor: str, up: bool, now: float) -> None:
        """Of BGP. Who is lost may keep what it was told last for as long as its hold time began later than ours (RFC 4271 4.4:
        a third of it lies between two keepalives). Who comes back has forgotten it."""
        self.health.session(neighbor, up)
        if up:
            self._untold.pop(neighbor, None)
        elif neighbor in self._hold_times:
            self._untold[neighbor] = now + self._hold_times[neighbor] / 3

    def poll(self, now: float) -> Iterator[object]:
        """Judges first: what changed meanwhile is in what is said."""
        if self.ha is not None and self.health.changed:
            self.ha.command(self.health.judge(), now)
        while self._effects:
            yield self._effects.pop(0)
        for effect in self.ha.poll() if self.ha is not None else ():
            if isinstance(effect, effects.SaveEpoch):
                self._epoch = effect.epoch
            yield effect
        yield from self._redirect()

    def _redirect(self) -> Iterator[object]:
        """RFC 5685: whoever has one tunnel has it with the gateway that acts; it goes there before the one here ends."""
        wanted = self._others if self.ha is not None and self.ha.gives_way else {}
        if wanted == self.sent_away:
            return
        before, self.sent_away = self.sent_away, wanted
        changed = [name for name in before | wanted if before.get(name) != wanted.get(name)]
        for name in changed:
            yield inputs.Operate("drain", name, to=wanted.get(name, ""))
            yield outcomes.sent_away(name, wanted.get(name, ""))

    def next_deadline(self) -> float | None:
        if self.ha is None:
            return None
        waits = (self._told_at, *self._untold.values())
        return min([self.ha.next_deadline(), *(at for at in waits if at > self._now)])

    def handle_deadline(self, now: float) -> None:
        self._now = now
        if self.ha is not None and now >= self.ha.next_deadline():
            self.ha.handle_deadline(now)


def _hold_times(settings: SpeakerSettings) -> dict[str, int]:
    """By the name of the neighbor, of those to whom it matters; the other gateway of the pair is told everything as it is."""
    return {one.name: one.hold_time for one in settings.neighbors if settings.role(one) is not Role.PAIR}
