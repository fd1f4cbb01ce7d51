"""The gateway's place in a pair, if it has one, and the health by which it is judged there."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from ipaddress import ip_address

from gateway.bgp import events as bgp
from gateway.contract import Endpoint, RandomSource
from gateway.ha.roles import Operate
from gateway.node import effects, inputs
from gateway.node.health import Health
from gateway.node.high_availability import HighAvailability
from gateway.node.settings import GatewaySettings
from gateway.node.tunnel import Tunnel
from gateway.routing.model import Prefix


class Pairing:
    """`ha` is None for a gateway on its own. `epoch`: the highest that an earlier process knew."""

    def __init__(self, random: RandomSource, epoch: int) -> None:
        self.ha: HighAvailability | None = None
        self.health = Health()
        self._random = random
        self._epoch = epoch
        self._connected: Collection[Prefix] = ()
        self._outer: frozenset[str] = frozenset()
        self._guarded, self._workers = False, True
        self._effects: list[object] = []
        self._hold_times: dict[str, int] = {}
        self._untold_until = self._now = 0.0

    def configure(self, settings: GatewaySettings, now: float) -> None:
        """A pair with a witness where there was none, or without one, is another pair: it begins anew."""
        self._outer = frozenset(tunnel.ike.local.host for tunnel in settings.tunnels)
        self.health.neighbors(settings.bgp)
        self._hold_times = (
            {one.name: one.hold_time for one in settings.bgp.neighbors} if settings.bgp is not None else {}
        )
        self.links(self._connected)
        wanted, current = settings.pair, self.ha
        if current is not None and wanted is not None and not current.is_another(wanted):
            current.configure(wanted, settings.fabric, now)
            return
        self.ha = None
        if wanted is not None:
            self.ha = HighAvailability(wanted, settings.fabric, self._random, now, self._epoch)
            self.health.changed = True
        elif current is not None:
            self._effects.append(bgp.Attract(None))

    # --- what is known of this gateway --------------------------------------------------------------------------

    def tunnel(self, tunnel: Tunnel, passes: bool) -> None:
        """One that starts with the first packet carries it."""
        up = tunnel.usable or tunnel.settings.start_action == "trap"
        self.health.tunnel(tunnel.name, up and passes)

    def links(self, connected: Collection[Prefix]) -> None:
        """An outer address whose network is on no link: the interface is down or gone."""
        self._connected = connected
        fit = all(any(ip_address(one) in net for net in connected) for one in self._outer)
        self.health.set(links=fit or not connected)

    def guarded(self) -> None:
        """The clear-text guard stands."""
        self._guarded = True
        self.health.set(data_plane=self._workers)

    def workers(self, work: bool) -> None:
        self._workers = work
        self.health.set(data_plane=self._guarded and work)

    # --- the contract -------------------------------------------------------------------------------------------

    def receive(self, data: bytes, remote: Endpoint, now: float) -> None:
        if self.ha is not None:
            self.ha.receive(data, remote, now)

    def command(self, command: Operate | inputs.TableAnswered | inputs.WitnessAnswered, now: float) -> None:
        if self.ha is None:
            return
        match command:
            case Operate():
                self.ha.command(command, now)
            case inputs.TableAnswered(ticket, outcome):
                self.ha.table_answered(ticket, outcome, now)
            case inputs.WitnessAnswered(ticket, answer):
                self.ha.witness_answered(ticket, answer, now)

    def announced(self, everything: bool, now: float) -> None:
        """Whether all neighbors have been told all there is to tell."""
        if self.ha is not None and everything and now >= self._untold_until:
            self.ha.announced(now)

    def session(self, neighbor: str, up: bool, now: float) -> None:
        """Of BGP. Who is lost may keep what it was told last for as long as its hold time began later than ours (RFC 4271 4.4:
        a third of it lies between two keepalives)."""
        self.health.session(neighbor, up)
        if not up:
            self._untold_until = max(self._untold_until, now + self._hold_times.get(neighbor, 0) / 3)

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

    def next_deadline(self) -> float | None:
        if self.ha is None:
            return None
        at = self.ha.next_deadline()
        return min(at, self._untold_until) if self._now < self._untold_until else at

    def handle_deadline(self, now: float) -> None:
        self._now = now
        if self.ha is not None and now >= self.ha.next_deadline():
            self.ha.handle_deadline(now)
