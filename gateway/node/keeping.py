"""What of each connection is kept for the next process, so that a restart, an upgrade or a crash drops no tunnel.

    something changed -> touch(name) -> ... end of the step -> Keep(name, KeptConnection), before every other effect of the step

A datagram leaves only after what it depends on is kept, so message IDs and IVs of IKE go on where they stopped. Sequence numbers
of ESP move too fast for that: a worker may use them up to a limit that is kept before it is granted, and the next process
begins above it. A repeated AES-GCM IV would give the key away, a gap costs nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from gateway.esp.dataplane import Direction, SaCounters
from gateway.ike import keeping as ike_keeping
from gateway.ike.commands import Abandon
from gateway.ike.endpoint import IkeEndpoint
from gateway.ike.events import ChildInstall
from gateway.ike.keeping import KeptIkeSa
from gateway.node.effects import Event
from gateway.node.installed import InstalledChild, Used
from gateway.node.settings import TunnelSettings
from gateway.node.tunnel import Tunnel

FORWARDS_AFTER = 30.0
"""Seconds after a start from nothing at which packets are said to go where we announce: sessions that begin until then find peers
that may have kept our routes from before it."""


@dataclass(frozen=True, slots=True)
class KeptSa:
    """A CHILD_SA of the data plane, as `InstalledChild` has it. `exact`: it sent `granted` and received `seen`, no more."""

    event: ChildInstall
    installed_at: float
    granted: int
    seen: int
    used: Used
    exact: bool = False


@dataclass(frozen=True, slots=True)
class KeptConnection:
    """`fingerprint`: of the settings that both ends agreed under; with others the connection begins anew."""

    name: str
    fingerprint: bytes
    mtu: int
    established_at: float | None
    ike: KeptIkeSa
    sas: tuple[KeptSa, ...] = field(repr=False)
    epoch: int = 0
    """Of a shared connection: under which its gateway was active."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Effect: this is what the next process shall know of the connection; None: nothing. Carried out before what follows it."""

    name: str
    kept: KeptConnection | None


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a process before this one kept, by connection. `clean`: it ended in order, after its last packet."""

    connections: Mapping[str, KeptConnection] = field(default_factory=dict)
    clean: bool = True


class Keeper:
    """Of all connections of the gateway."""

    def __init__(self, ike: IkeEndpoint, tunnels: Mapping[str, Tunnel], earlier: Earlier) -> None:
        self._ike = ike
        self._tunnels = tunnels
        self._earlier = dict(earlier.connections)
        self._clean = earlier.clean
        self.epoch = 0
        """Of shared connections: under which this gateway is active, or was last."""
        self._told: dict[str, KeptConnection] = {}
        self._fingerprints: dict[str, tuple[TunnelSettings, bytes]] = {}
        self._touched: dict[str, None] = dict.fromkeys(self._earlier)  # a set in order of insertion
        self.forwards = False
        """RFC 4724 4.1: whether routes and SAs of before the start were taken over, or it is long ago."""
        self.forwards_at: float | None = None

    # --- for the next process -----------------------------------------------------------------------------------

    def touch(self, name: str) -> None:
        """Something about it may be another thing now."""
        self._touched[name] = None

    def poll(self) -> Iterator[Keep]:
        """What changed since it was last told. What waits to be resumed stays as it is."""
        touched, self._touched = list(self._touched), {}
        for name in touched:
            if name in self._earlier:
                continue
            found = self._kept(name)
            if found is None or found != self._told.get(name):
                yield Keep(name, found)
            if found is not None:
                self._told[name] = found
            else:
                self._told.pop(name, None)
                self._fingerprints.pop(name, None)

    def grants(self, tunnel: Tunnel) -> Iterator[object]:
        """For SAs that have come far. What is kept of them is another thing, too, and comes first."""
        if tunnel.due:
            self.touch(tunnel.name)
            yield from tunnel.grants()

    @property
    def at_rest(self) -> bool:
        """No exchange is under way, and no IKE_SA on its way in or out: the next process would know of none of those."""
        return all(
            sa.established and not sa.window.pending and not sa.window.answering
            for name in self._tunnels
            for sa in self._ike.sas(name)
        )

    def at_the_end(self) -> Iterator[Keep]:
        """Of everything, after the last packet."""
        for name in self._tunnels:
            if (found := self._kept(name, last=True)) is not None:
                yield Keep(name, found)

    def _kept(self, name: str, *, last: bool = False) -> KeptConnection | None:
        tunnel, sa = self._tunnels.get(name), self._ike.primary(name)
        known = ike_keeping.kept(sa) if sa is not None else None
        if tunnel is None or known is None:
            return None
        alive = {child.spi_in for child in known.children} | {spi for _, spi, _ in known.lingering}
        sas = []
        for spi, installed in tunnel.installed.items():
            if spi in alive:
                one = _at_the_end(tunnel, installed) if last else installed
                sas.append(KeptSa(_at(one.event, known), one.installed_at, one.granted, one.seen, one.used, exact=last))
        return KeptConnection(
            name, self._fingerprint(tunnel), tunnel.mtu, tunnel.established_at, known, tuple(sas),
            self.epoch if tunnel.shared else 0,
        )  # fmt: skip

    def _fingerprint(self, tunnel: Tunnel) -> bytes:
        """Made anew only where the settings are others: this is asked after every exchange and every grant."""
        settings, found = self._fingerprints.get(tunnel.name, (None, b""))
        if settings is not tunnel.settings:
            found = fingerprint(tunnel.settings)
            self._fingerprints[tunnel.name] = tunnel.settings, found
        return found

    def known(self, names: Iterable[str]) -> dict[str, KeptConnection]:
        """Of these, what was told last."""
        return {name: self._told[name] for name in names if name in self._told}

    # --- from the process before, or from the other gateway --------------------------------------------------------------------------------

    def mtu(self, tunnel: Tunnel) -> int:
        """Of its TUN as it was; 0 where nothing is known."""
        found = self._earlier.get(tunnel.name)
        return found.mtu if found is not None and self._fits(tunnel, found) else 0

    def withdraw(self, names: Iterable[str]) -> dict[str, KeptConnection]:
        """Of these, what the process before kept; it is not resumed with the others."""
        return {name: self._earlier.pop(name) for name in names if name in self._earlier}

    def inherit(self, connections: Mapping[str, KeptConnection]) -> None:
        """What the other gateway had; nothing of how far its SAs were is exact."""
        self._earlier.update(connections)

    def resume(self, tunnels: Iterable[Tunnel], now: float) -> Iterator[object]:
        """Those of which something is known go on."""
        for tunnel in tunnels:
            yield from self._resume(tunnel, now)

    def resume_all(self, now: float, *, routes: bool) -> Iterator[object]:
        """All that are configured and here go on, what is left is over; effects for the data plane and for people. `routes`: the kernel
        has those of before."""
        known = bool(self._earlier) or not self._tunnels
        yield from self.resume([tunnel for tunnel in self._tunnels.values() if not tunnel.elsewhere], now)
        self.forwards = routes and known and not self._earlier
        self.forwards_at = None if self.forwards else now + FORWARDS_AFTER
        self._touched.update(dict.fromkeys(self._earlier))
        self._earlier.clear()

    def forwards_again(self, now: float) -> bool:
        """Whether that has just become true."""
        due = self.forwards_at is not None and now >= self.forwards_at
        if due:
            self.forwards, self.forwards_at = True, None
        return due

    def _resume(self, tunnel: Tunnel, now: float) -> list[object]:
        """All of it goes on, or nothing does: half a connection would be neither set up anew nor ended by anybody."""
        found = self._earlier.get(tunnel.name)
        self.touch(tunnel.name)
        if found is None or not self._fits(tunnel, found):
            return []
        installed = [
            InstalledChild(one.event, one.installed_at, sent=one.granted, seen=one.seen, used=one.used)
            for one in found.sas
        ]
        try:
            made = list(self._go_on(tunnel, found, installed, now))
        except Exception as error:  # whatever it is: what was kept is not what this release takes it for
            self._ike.command(Abandon(tunnel.name, reason=""), now)
            tunnel.established_at = None
            for one in installed:
                tunnel.leave_out(one)
            text = f"what was kept of it cannot be gone on from ({_place_of(error)}); it begins anew"
            return [Event("error", "ike-not-resumed", tunnel.name, text)]
        del self._earlier[tunnel.name]
        return made

    def _go_on(
        self, tunnel: Tunnel, found: KeptConnection, sas: Iterable[InstalledChild], now: float
    ) -> Iterator[object]:
        children = {child.spi_in: child for child in found.ike.children}
        for installed in sas:
            child = children.get(installed.event.spi_in)
            yield from tunnel.enter(installed, sends=child is not None and not child.left)
        tunnel.established(now if found.established_at is None else found.established_at)
        renew = not all(one.exact for one in found.sas)
        ike_keeping.resume(self._ike, tunnel.settings.ike, found.ike, now, renew=renew)
        how = "at this gateway" if tunnel.shared else f"after a {'restart' if self._clean else 'crash'}"
        text = f"goes on {how}, with {len(children)} CHILD_SAs"
        yield Event("info", "ike-resumed", tunnel.name, text)

    def _fits(self, tunnel: Tunnel, found: KeptConnection) -> bool:
        return found.fingerprint == fingerprint(tunnel.settings)


def fingerprint(settings: TunnelSettings) -> bytes:
    """Of all that both ends agreed on: other ends, identities or proposals need another IKE_SA."""
    ike = settings.ike
    children = tuple((child.name, child.resources) for child in ike.children)
    agreed = (ike.local, ike.remote, ike.local_id, ike.remote_id, ike.encap, ike.mobike, ike.negotiated, children)
    return hashlib.sha256(repr(agreed).encode()).digest()


def _place_of(error: Exception) -> str:
    """Not its own words: there may be keys in them."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    where = f" in {last.tb_frame.f_code.co_qualname}, line {last.tb_lineno}" if last is not None else ""
    return f"{type(error).__name__}{where}"


def shifted(kept: KeptConnection, by: float) -> KeptConnection:
    """The same on a clock that is `by` seconds ahead."""
    since = kept.established_at
    return replace(
        kept,
        established_at=None if since is None else since + by,
        ike=ike_keeping.shifted(kept.ike, by),
        sas=tuple(replace(one, installed_at=one.installed_at + by) for one in kept.sas),
    )


def _at(event: ChildInstall, known: KeptIkeSa) -> ChildInstall:
    """Where its packets go now, which MOBIKE or a NAT may have moved since."""
    local, remote = known.local, known.traffic_remote or known.remote
    return event if (event.local, event.remote) == (local, remote) else replace(event, local=local, remote=remote)


def _at_the_end(tunnel: Tunnel, installed: InstalledChild) -> InstalledChild:
    event, counters = installed.event, tunnel.counters
    inbound = counters.get((Direction.INBOUND, event.spi_in), SaCounters())
    return installed.at_the_end(inbound, counters.get((Direction.OUTBOUND, event.spi_out), SaCounters()))
