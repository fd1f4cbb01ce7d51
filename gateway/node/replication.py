"""Connections whose outer address goes from gateway to gateway: only the active one has them, and the standby holds a copy.

    Keep(name, kept) -> kept here and, as a Record, at the other gateway; what depends on it is held back until both have it
    the lease        -> MoveFence: until when the data plane may send on their SAs
    became active    -> the copy, or what this gateway had itself, where nobody was active in between; else they begin anew
    not active       -> their SAs are forgotten without a word to the peer, for the other goes on with them
    both             -> HoldAddresses: this host's; AddressCall: what the cloud is told, where there is one

Datagrams from such an address leave only while the lease lasts. Decides nothing about roles; `ha/replica.py` says what may be used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import inf

from gateway.config import derive
from gateway.contract import RandomSource, Transmit
from gateway.ha.replica import LONGEST, Begin, Copy, Gone, Holder, Ping, Record, Source
from gateway.node import effects, inputs
from gateway.node.cloud_addresses import CloudAddresses
from gateway.node.high_availability import HighAvailability
from gateway.node.keeping import Keep, Keeper, KeptConnection, shifted
from gateway.node.pair_settings import PairSettings
from gateway.node.settings import GatewaySettings
from gateway.node.tunnel import Tunnel

PARDON = 300.0
"""Seconds for which a gateway that left a connection down does not count it as well cared for elsewhere: else two that cannot reach a
peer would hand it to each other for ever."""
ARRIVAL = 15.0
"""Seconds that a connection which came to us without a copy has, before it counts as lost."""
PINGS = 4
"""In the time for which a copy may be used."""
OfOneSa = effects.RemoveSa | effects.MoveSa | effects.SetPolicies | effects.Grant | effects.Advance
OfSa = effects.AddSa | OfOneSa


class Replication:
    """`tunnels` is the node's own mapping. Without shared addresses it does nothing."""

    def __init__(self, tunnels: Mapping[str, Tunnel], keeper: Keeper, random: RandomSource) -> None:
        self.hosts: frozenset[str] = frozenset()
        self.acting = False
        """The shared addresses are ours."""
        self.source = Source()
        self.holder = Holder(0.0)
        self.dialed: bool | None = None
        """Who opened the session with the other gateway; None: there is none."""
        self.cloud = CloudAddresses(random)
        self._tunnels, self._keeper = tunnels, keeper
        self.epoch = 0
        """Under which the addresses are, or were last, here."""
        self._fence = 0.0
        self._offset = 0.0  # of our clock before the other's
        self._ping_at = self._arrives_by = inf
        self._held: deque[tuple[int, object]] = deque()
        self._copied: dict[int, str] = {}
        """Connections of which records were made since the addresses are here, by number; also of those that were removed since."""
        self._pardon_at = inf
        self._out: deque[object] = deque()

    # --- settings -----------------------------------------------------------------------------------------------

    def configure(self, settings: GatewaySettings, now: float) -> None:
        """Before the tunnels are made, and after."""
        pair = settings.pair
        self.hosts = frozenset(pair.shared) if pair is not None else frozenset()
        if pair is not None and self.hosts:
            self.holder.lasts = min(_lasts(pair), LONGEST)
            self._say(effects.HoldAddresses(pair.shared, self.acting))
            self._say(effects.ReplicaSeek(not self.acting))
        self.cloud.configure(pair.cloud if pair is not None and self.hosts else None, now)

    def start(self) -> None:
        """What the process before had goes on only where nobody was active after it."""
        mine = self._keeper.withdraw(tunnel.name for tunnel in self.shared)
        epochs = {kept.epoch for kept in mine.values()}
        if len(epochs) == 1:
            self.holder.inherit(Copy(epochs.pop(), dict(mine), inf))

    def adopt(self, tunnel: Tunnel) -> None:
        """A connection as it is configured now."""
        tunnel.shared = tunnel.settings.ike.local.host in self.hosts
        tunnel.elsewhere = tunnel.shared and not self.acting
        if tunnel.shared and self.acting:
            self._copied[tunnel.settings.id] = tunnel.name

    @property
    def shared(self) -> list[Tunnel]:
        return [tunnel for tunnel in self._tunnels.values() if tunnel.shared]

    def has_copy(self, epoch: int, now: float) -> bool:
        """Whether connections could go on here, were the lease ours now; `epoch`: the highest that was granted, as far as is known."""
        return not self.acting and self.holder.copy.epoch >= epoch and self.holder.usable(now)

    @property
    def arriving(self) -> list[Tunnel]:
        """Those that may go on here."""
        return [tunnel for tunnel in self.shared if not tunnel.elsewhere and not tunnel.device_fault]

    # --- roles --------------------------------------------------------------------------------------------------

    def follow(self, ha: HighAvailability | None, now: float) -> bool:
        """Whether the addresses came to us or left just now. The fence goes where the lease goes."""
        if not self.hosts or ha is None:
            return False
        until = ha.pair.acts_until if ha.pair.acts(now) else None
        if (fence := 0.0 if until is None else until) != self._fence:
            self._fence = fence
            self._say(effects.MoveFence(fence))
        # Active under another epoch: somebody may have been active in between
        renewed = self.acting and ha.pair.election.acting_epoch != self.epoch
        if (until is not None and not renewed) == self.acting:
            self.cloud.follow(self.acting, self.epoch, self._fence, now)
            return False
        self.acting = not self.acting
        for tunnel in self.shared:
            tunnel.failed_here = tunnel.failed_here or (not self.acting and not tunnel.usable)
            tunnel.elsewhere, tunnel.arriving = not self.acting, self.acting
        if self.acting:
            self.epoch = self._keeper.epoch = ha.pair.election.acting_epoch
            self._arrives_by = now + ARRIVAL
            self._copied = {tunnel.settings.id: tunnel.name for tunnel in self.shared}
            self._inherit(ha.fenced, now)
        else:
            self._pardon_at = now + PARDON
            self._leave()
        self.cloud.follow(self.acting, self.epoch, self._fence, now)
        return True

    def reconsidered(self, now: float) -> bool:
        """Whether something counts another way from now on: what did not come up in time is lost; what was lost here is forgiven."""
        arrived, pardoned = now >= self._arrives_by, now >= self._pardon_at
        for tunnel in self.shared if arrived or pardoned else ():
            tunnel.arriving = tunnel.arriving and not arrived
            tunnel.failed_here = tunnel.failed_here and not pardoned
        self._arrives_by = inf if arrived else self._arrives_by
        self._pardon_at = inf if pardoned else self._pardon_at
        return arrived or pardoned

    def _inherit(self, fenced: bool, now: float) -> None:
        """What goes on is the keeper's to resume. A lease that was taken by force leaves nothing: the other may still send."""
        found = self.holder.fit(self.epoch, now) if fenced else {}
        kept = {name: one for name, one in found.items() if isinstance(one, KeptConnection)}
        how = (
            f"{len(kept)} connections go on from the copy of epoch {self.epoch - 1}" if kept else self._why(fenced, now)
        )
        self._say(
            effects.Event("info" if kept else "warning", "ha-addresses-taken", "", f"shared addresses are here; {how}")
        )
        self._keeper.inherit(kept)
        self.source = Source()
        self._close()

    def _why(self, fenced: bool, now: float) -> str:
        copy = self.holder.copy
        if not fenced:
            why = "the lease was taken by force, so the other may still send on its SAs"
        elif not copy.contents:
            why = "no copy of their SAs is here"
        elif copy.epoch + 1 != self.epoch:
            why = f"the copy is of epoch {copy.epoch}, and somebody was active after it"
        else:
            why = f"the copy is {now - copy.until:.1f} s too old"
        return f"connections begin anew: {why}"

    def _leave(self) -> None:
        """What waits is over, but for SAs that go; what we had may come back to us."""
        mine: dict[str, object] = dict(self._keeper.known(tunnel.name for tunnel in self.shared))
        self.holder.inherit(Copy(self.epoch, mine, inf))
        self._offset = 0.0
        self._arrives_by = inf
        self._out.extend(effect for _, effect in self._held if isinstance(effect, OfSa))
        self._held.clear()
        self.source = Source()
        self._say(
            effects.Event(
                "warning", "ha-addresses-left", "", "shared addresses and their connections are the other gateway's now"
            )
        )
        self._close()

    def _close(self) -> None:
        """The session was that of another role."""
        if self.dialed is not None:
            self.closed()
            self._say(effects.ReplicaClose())
        self._say(effects.HoldAddresses(tuple(sorted(self.hosts)), self.acting))
        self._say(effects.ReplicaSeek(not self.acting))

    def stop(self) -> None:
        """This process ends: nobody need wait for its copy."""
        if not self.acting and self.dialed:
            self.holder.end()
            for said in self.holder.poll():
                self._say(effects.ReplicaSay(said))

    # --- the session --------------------------------------------------------------------------------------------

    def command(self, command: inputs.ReplicaCommand, now: float) -> None:
        match command:
            case inputs.AddressAnswered(ticket, outcome):
                self.cloud.answered(ticket, outcome, now)
            case inputs.ReplicaOpened(dialed):
                self._opened(dialed, now)
            case inputs.ReplicaClosed():
                self.closed()
            case inputs.ReplicaSaid(Ping() as ping) if self.acting:
                self.source.pinged(ping, now)
            case inputs.ReplicaSaid(Gone()) if self.acting:
                self.source.released()
            case inputs.ReplicaSaid(said) if not self.acting and not isinstance(said, Ping | Gone):
                if isinstance(said, Begin):
                    self._offset = now - said.at
                elif isinstance(said, Record) and isinstance(said.content, KeptConnection):
                    said = replace(said, content=shifted(said.content, self._offset))
                self.holder.receive(said, now)
            case _:
                pass
        self._carry(now)

    def closed(self) -> None:
        self.dialed = None
        self.source.detach()
        self._ping_at = inf

    def _opened(self, dialed: bool, now: float) -> None:
        if dialed is self.acting or (self.acting and now >= self._fence):
            # The active one answers, the other dials: somebody's role changed meanwhile
            self._say(effects.ReplicaClose())
            return
        self.dialed = dialed
        if self.acting:
            self.source.attach(self.epoch, now, self._keeper.known(tunnel.name for tunnel in self.shared))
        else:
            self.holder.opened()
            self._ping_at = now + self.holder.lasts / PINGS

    def _carry(self, now: float) -> None:
        for said in (*self.source.poll(), *self.holder.poll()):
            self._say(effects.ReplicaSay(said))
        # A process that stood still learns last that the lease is over
        while self.acting and now < self._fence and self._held and self.source.settled(self._held[0][0], now):
            self._say(self._held.popleft()[1])

    # --- what passes through ------------------------------------------------------------------------------------

    def take(self, effect: object, now: float) -> None:
        """One of the gateway's effects; what may be done comes out of `poll`."""
        if isinstance(effect, effects.CloseTunnel):
            self._held = deque(one for one in self._held if _connection(one[1]) != effect.connection)
        if isinstance(effect, Keep) and self.acting and effect.name in self._copied.values():
            self._say(effect)
            self.source.changed(effect.name, effect.kept)
            self._carry(now)
        elif not self._depends(effect):
            self._say(effect)
        elif isinstance(effect, Transmit) and not (self.acting and now < self._fence):
            pass  # the address is the other gateway's
        elif self._held or not self.source.settled(self.source.number, now):
            self._held.append((self.source.number, effect))
        else:
            self._say(effect)

    def poll(self) -> Iterator[object]:
        while self._out:
            yield self._out.popleft()
        yield from self.cloud.poll()

    @property
    def waiting(self) -> int:
        """Effects that are held back."""
        return len(self._held)

    @property
    def has_effects(self) -> bool:
        return bool(self._out) or self.cloud.has_effects

    def next_deadline(self) -> float | None:
        if not self.hosts:
            return None
        waits = self.source.until if self._held else inf
        return min(self._ping_at, self._arrives_by, self._pardon_at, waits, self.cloud.next_deadline())

    def handle_deadline(self, now: float) -> None:
        if now >= self._ping_at:
            self._ping_at = now + self.holder.lasts / PINGS
            self.holder.ping(now)
        self.cloud.handle_deadline(now)
        self._carry(now)

    def _depends(self, effect: object) -> bool:
        """Whether it may only be done once both gateways know of what it depends on."""
        if isinstance(effect, Transmit):
            return effect.local.host in self.hosts
        return self.acting and _connection(effect) in self._copied

    def _say(self, effect: object) -> None:
        self._out.append(effect)


def _connection(effect: object) -> int:
    """Whose SA it is about; 0 for no effect on an SA."""
    if isinstance(effect, effects.AddSa):
        return effect.sa.connection
    return effect.connection if isinstance(effect, OfOneSa) else 0


def _lasts(pair: PairSettings) -> float:
    return derive.copy_lasts(pair.heartbeat.interval * pair.heartbeat.dead_after, pair.ttl)
