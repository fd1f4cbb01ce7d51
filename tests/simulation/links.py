"""What must hold between the two ends of a connection, asked after every step.

A link is *up* once both ends send on SAs that the other can open, and from then on it has to stay up until somebody
names an excuse: a crash, a partition longer than the peers' patience, an operator. An excuse ends with the next up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from simulation.shell import Shell
from simulation.trace import Broken

from gateway.config.model import Prefix
from gateway.esp.dataplane import Direction, SaParameters
from gateway.ike.exchanges.delete import DeleteChild, DeleteIke
from gateway.ike.states import IkeState
from gateway.node.tunnel import Tunnel


@dataclass(slots=True)
class End:
    """One node's side of a connection."""

    shell: Shell
    connection: str
    number: int = field(init=False)
    prefixes: tuple[Prefix, ...] = field(init=False)
    """What the connection protects."""
    _leads: tuple[int, tuple[str | int, ...]] = (-1, ())

    def __post_init__(self) -> None:
        settings = self.shell.settings.tunnel(self.connection)
        assert settings is not None
        self.number, self.prefixes = settings.id, settings.protected

    @property
    def tunnel(self) -> Tunnel | None:
        return self.shell.node.tunnels.get(self.connection) if self.shell.running else None

    def sending(self, child: str) -> SaParameters | None:
        """The SA the child's packets leave on."""
        tunnel = self.tunnel
        if tunnel is None:
            return None
        for spi in self.shell.policies.get(self.number, ()):
            if any(one.event.spi_out == spi and one.event.child == child for one in tunnel.installed.values()):
                return self.shell.sad.get((Direction.OUTBOUND, self.number, spi))
        return None

    def routed(self) -> bool:
        """Every protected prefix leads into the TUN."""
        return all(self.leads(child) for child in range(len(self.prefixes)))

    def leads(self, child: int) -> bool:
        """Whether the child's remote network is routed into the TUN."""
        kernel = self.shell.kernel
        if self._leads[0] != kernel.version:
            self._leads = (kernel.version, tuple(kernel.lookup(prefix) for prefix in self.prefixes))
        return self._leads[1][child] == self.shell.interfaces.get(self.connection, -1)

    def outlived(self, now: float) -> bool:
        """Whether a CHILD_SA reached the end of its life, as while the machine stood still; its DELETE may wait its turn."""
        sa = self.shell.node.ike.primary(self.connection)
        if sa is None:
            return False
        waiting = [
            one.child for one in sa.queue if isinstance(one, DeleteChild) and one.reason == "CHILD_LIFETIME_EXPIRED"
        ]
        return bool(waiting) or any(child.life_at <= now for child in sa.children.values())


@dataclass(slots=True)
class Link:
    """The two ends of one connection."""

    ends: tuple[End, End]
    children: tuple[str, ...]
    up: bool = False
    wanted: bool = True
    """False while an operator has taken it down."""
    epoch: int = 0
    up_at: float = 0.0
    excuses: list[tuple[float, str]] = field(default_factory=list)

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
            # What the kernel is still doing belongs to what was before
            self.up = not wrong and not any(end.shell.busy or end.outlived(now) for end in self.ends)
            self.up_at = now if self.up else self.up_at
            return self.up
        if wrong:
            raise Broken(f"the connection is down without an excuse: {wrong}")
        return False

    def _wrong(self) -> Iterator[str]:
        for here, there in (self.ends, self.ends[::-1]):
            if not here.shell.running:
                yield f"{here.shell.name} does not run"
                return
            primary = here.shell.node.ike.primary(here.connection)
            if primary is None or not primary.established:
                yield f"{here.shell.name} has no established IKE_SA"
            for child in self.children:
                yield from _unopenable(here, there, child)
            if not here.routed():
                yield f"{here.shell.name} has no route into its TUN"


def _unopenable(here: End, there: End, child: str) -> Iterator[str]:
    """Why `there` could not open what `here` sends."""
    name = here.shell.name
    sa = here.sending(child)
    if sa is None:
        yield f"{name} has no SA to send {child} on"
        return
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
    spis = set()
    for end in link.ends:
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
        if names != sorted(link.children):
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
