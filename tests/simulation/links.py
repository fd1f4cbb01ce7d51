"""What must hold between the two ends of a connection, asked after every step.

A link is *up* once both ends send on SAs that the other can open, and from then on it has to stay up until somebody
names an excuse: a crash, a partition longer than the peers' patience, an operator. An excuse ends with the next up.
Where peers are sent from one gateway to another, the far end is both of them: each packet of the near one can be opened by
one, and one reaches the near one. Being sent there is no excuse.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from simulation.shell import Shell
from simulation.trace import Broken

from gateway.config.model import Prefix
from gateway.esp.dataplane import Direction, SaParameters
from gateway.ike.child import ChildSa
from gateway.ike.exchanges.base import Exchange
from gateway.ike.exchanges.delete import DeleteChild, DeleteIke
from gateway.ike.sa import IkeSa
from gateway.ike.settings import MEMBER
from gateway.ike.states import IkeState
from gateway.node.tunnel import Tunnel


@dataclass(slots=True, eq=False)
class End:
    """One node's side of a connection."""

    shell: Shell
    connection: str
    number: int = field(init=False)
    local_host: str = field(init=False)
    """Its outer address, without regard to NAT."""
    prefixes: tuple[Prefix, ...] = field(init=False)
    """What the connection protects."""
    _leads: tuple[int, tuple[str | int, ...]] = (-1, ())

    def __post_init__(self) -> None:
        settings = self.shell.settings.tunnel(self.connection)
        assert settings is not None
        self.number, self.local_host, self.prefixes = settings.id, settings.ike.local.host, settings.protected

    @property
    def tunnel(self) -> Tunnel | None:
        return self.shell.node.tunnels.get(self.connection) if self.shell.running else None

    def sending(self, child: str) -> list[SaParameters]:
        """The SAs the child's packets leave on: the newest, and of those for one worker the newest of each."""
        tunnel, found = self.tunnel, dict[int | None, SaParameters]()
        if tunnel is None:
            return []
        ours = {one.event.spi_out for one in tunnel.installed.values() if one.event.child == child}
        for spi in self.shell.policies.get(self.number, ()):
            sa = self.shell.sad.get((Direction.OUTBOUND, self.number, spi)) if spi in ours else None
            if sa is not None:
                found.setdefault(sa.worker, sa)
        return list(found.values())

    def routed(self) -> bool:
        """Every protected prefix leads into the TUN."""
        return all(self.leads(child) for child in range(len(self.prefixes)))

    def leads(self, child: int) -> bool:
        """Whether the child's remote network is routed into the TUN."""
        kernel = self.shell.kernel
        if self._leads[0] != kernel.version:
            self._leads = (kernel.version, tuple(kernel.lookup(prefix) for prefix in self.prefixes))
        return self._leads[1][child] == self.shell.interfaces.get(self.connection, -1)

    def holder(self, direction: Direction, spi: int, now: float) -> bytes:
        """The SPIs of the IKE_SA that holds a CHILD_SA; empty when that is on its way out: at the end of its life, as while the
        machine stood still, or with a DELETE, its own or its IKE_SA's, that waits its turn or is not answered. It may carry
        packets until then."""
        for sa in self.shell.node.ike.sas(self.connection):
            for child in sa.children.values():
                if spi == (child.spi_in if direction is Direction.INBOUND else child.spi_out):
                    under_way = (sa.exchange, *sa.queue)
                    ends = any(isinstance(one, DeleteIke) or _deletes(one, child) for one in under_way)
                    ends = ends or not sa.established or not child.usable or child.life_at <= now
                    return b"" if ends else sa.spis
        return b""


def _deletes(exchange: Exchange | None, child: ChildSa) -> bool:
    return isinstance(exchange, DeleteChild) and exchange.child is child


@dataclass(slots=True)
class Link:
    """The ends of one connection: the near one, and the far one or the two that may be it."""

    places: tuple[End, ...]
    children: tuple[str, ...]
    up: bool = False
    wanted: bool = True
    """False while an operator has taken it down."""
    epoch: int = 0
    up_at: float = 0.0
    excuses: list[tuple[float, str]] = field(default_factory=list)
    _far: int = 1

    @property
    def name(self) -> str:
        return self.places[0].connection

    @property
    def ends(self) -> tuple[End, End]:
        """The near one, and the one that its IKE_SA is with or was last."""
        here = self.places[0]
        if len(self.places) > 2 and here.shell.running:
            primary = here.shell.node.ike.primary(self.name)
            for index, one in enumerate(self.places) if primary is not None else ():
                if primary.remote.host == one.local_host:
                    self._far = index
        return here, self.places[self._far]

    @property
    def talking(self) -> tuple[End, End]:
        """The near one, and the one by which the hosts of the far site reach it."""
        here, there = self.ends
        if len(self.places) > 2:
            there = next((one for one in (there, *self.places[1:]) if not any(self._silent(one))), there)
        return here, there

    def excuse(self, now: float, why: str) -> None:
        """From now on it may be down."""
        self.excuses.append((now, why))
        self.up = False
        self.epoch += 1

    def check(self, now: float) -> bool:
        """Broken when it is down without an excuse; True when it just came up."""
        if not self.wanted:
            return False
        wrong = next(self._wrong(), "")
        if not self.up:
            # What the kernel is still doing belongs to what was before, and so does what is about to end
            self.up = not self.hindrance(now)
            self.up_at = now if self.up else self.up_at
            return self.up
        if wrong:
            raise Broken(f"{self.name}: the connection is down without an excuse: {wrong}")
        return False

    def hindrance(self, now: float) -> str:
        """Why it does not count as up; "" when it does."""
        busy = "".join(f"{end.shell.name}'s kernel is busy" for end in self.ends if end.shell.busy)
        return next(self._wrong(), "") or busy or next(self._passing(now), "")

    def _passing(self, now: float) -> Iterator[str]:
        """What carries packets is on its way out, or held by different IKE_SAs, of which one is going to end."""
        ends = self.ends
        for here, there in (ends, ends[::-1]):
            for child in self.children:
                for sa in here.sending(child):
                    held = here.holder(Direction.OUTBOUND, sa.spi, now)
                    if not held or held != there.holder(Direction.INBOUND, sa.spi, now):
                        yield f"{here.shell.name} sends {child} on {sa.spi:08x}, which is about to end"

    def _wrong(self) -> Iterator[str]:
        here, *far = self.places
        if here.shell.running:
            yield from _reaching(here, far, self.children)
            yield from self._silent(self.talking[1])
        else:
            yield f"{here.shell.name} does not run"

    def _silent(self, end: End) -> Iterator[str]:
        """Why the near end hears nothing from this far one."""
        if end.shell.running:
            yield from _reaching(end, self.places[:1], self.children)
        else:
            yield f"{end.shell.name} does not run"


def _reaching(here: End, far: Sequence[End], children: tuple[str, ...]) -> Iterator[str]:
    """Why the far end does not get what `here` sends."""
    primary = here.shell.node.ike.primary(here.connection)
    if primary is None or not primary.established:
        yield f"{here.shell.name} has no established IKE_SA"
    for child in children:
        yield from _unopenable(here, far, child)
    if not here.routed():
        yield f"{here.shell.name} has no route into its TUN"


def _unopenable(here: End, far: Sequence[End], child: str) -> Iterator[str]:
    """Why none of `far` could open what `here` sends."""
    name = here.shell.name
    sending = here.sending(child)
    if not sending:
        yield f"{name} has no SA to send {child} on"
    for sa in sending:
        yield from _unopenable_sa(here, far, child, sa)


def _unopenable_sa(here: End, far: Sequence[End], child: str, sa: SaParameters) -> Iterator[str]:
    name = here.shell.name
    there = next((one for one in far if one.local_host == sa.remote.host), far[0])
    peer = there.shell.sad.get((Direction.INBOUND, there.number, sa.spi))
    if peer is None:
        yield f"{name} sends {child} on {sa.spi:08x}, which {there.shell.name} does not hold inbound"
    elif here.shell.exhausted(sa) or there.shell.exhausted(peer):
        yield f"{name} sends {child} on {sa.spi:08x}, which reached its hard limit"


def deleting(end: End) -> bool:
    """Whether a DELETE of the node's is under way or waits for its turn."""
    if not end.shell.running:
        return False
    sas = end.shell.node.ike.sas(end.connection)
    return any(isinstance(one, DeleteIke | DeleteChild) for sa in sas for one in (sa.exchange, *sa.queue))


def unrest(link: Link) -> str:
    """Why the link is not at rest: exactly one IKE_SA, one pair of SAs per child, nothing under way. "" when it is."""
    return next(_unrest(link), "")


def _unrest(link: Link) -> Iterator[str]:
    spis, ends = set(), link.ends
    for end in link.places:
        if end not in ends and (
            end.shell.node.ike.sas(end.connection) or any(key[1] == end.number for key in end.shell.sad)
        ):
            yield f"{end.shell.name} has IKE_SAs or CHILD_SAs still, though its peer is elsewhere"
    for end in ends:
        name, node = end.shell.name, end.shell.node
        sas = node.ike.sas(end.connection)
        if [sa.state for sa in sas] != [IkeState.ESTABLISHED]:
            yield f"{name} has IKE_SAs {[sa.state.value for sa in sas]}"
            return
        sa = sas[0]
        spis.add(sa.spis)
        if sa is not node.ike.primary(end.connection) or node.ike.half_open:
            yield f"{name}: the IKE_SA is not the primary one, or something is half open"
        if sa.exchange is not None or sa.queue or sa.lingering or sa.window.answering or sa.window.pending is not None:
            yield f"{name}: something is under way on its IKE_SA"
        names = sorted(child.name for child in sa.children.values())
        if names != sorted((*link.children, *_beside(link, sa))):
            yield f"{name} has CHILD_SAs {names}"
        expected = {(Direction.INBOUND, child.spi_in) for child in sa.children.values()}
        expected |= {(Direction.OUTBOUND, child.spi_out) for child in sa.children.values()}
        held = {(direction, spi) for direction, number, spi in end.shell.sad if number == end.number}
        if held != expected:
            yield f"{name}: the data plane holds {len(held)} SAs, the IKE_SA has {len(expected)}"
        tunnel = end.tunnel
        assert tunnel is not None
        if set(tunnel.active) != {child.spi_out for child in sa.children.values()} or len(tunnel.installed) != len(
            sa.children
        ):
            yield f"{name}: the tunnel sends on {len(tunnel.active)} SAs"
    if len(spis) != 1:
        yield "the two ends have different IKE_SAs"


def _beside(link: Link, sa: IkeSa) -> Iterator[str]:
    """Per-resource CHILD_SAs, as many as both ends have places for; but those that are not missed for a while after a refusal."""
    asking = (end.shell.node.ike.primary(end.connection) for end in link.ends)
    if any(one is not None and one.resources_at is not None for one in asking):
        yield from (child.name for child in sa.children.values() if child.settings.resource is not None)
        return
    both = [end.shell.settings.tunnel(end.connection) for end in link.ends]
    counts = [one.ike.children[0].resources for one in both if one is not None]
    yield from (f"{child}{MEMBER}{number}" for child in link.children for number in range(min(counts)))
