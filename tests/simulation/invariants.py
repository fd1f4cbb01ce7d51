"""What must hold inside one node after every step, and what must be gone when it is at rest.

after every step   one usable CHILD_SA per child and one IKE_SA, beyond an overlap that ends
                   the data plane holds the SAs the IKE_SAs know, no others
                   every IKE_SA has a timer or work under way, and the endpoint's timer is the earliest of them
for every SA       both ends hold it with the same keys, suite and selectors; no key serves two directions
at rest            nothing is left of what is over
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence

from simulation.links import End
from simulation.trace import Broken

from gateway.esp.dataplane import Direction, SaParameters
from gateway.ike.exchanges import timers
from gateway.ike.recorder import KEPT
from gateway.ike.sa import IkeSa
from gateway.ike.settings import ConnectionSettings
from gateway.ike.states import IkeState
from gateway.ike.uniqueness import UNHEARD_LIFE

MANY_CHILDREN = 4
"""CHILD_SAs of one name that may be usable at once on one IKE_SA: the old one, two rivals, and what a lost DELETE leaves
for a while. Several IKE_SAs have as many each: both ends may rekey on the one that is going to be closed, too."""
MANY_IKE_SAS = 12
OVERLAP = 120.0


class Watch:
    """Of one node."""

    def __init__(self, ends: Sequence[End]) -> None:
        self.ends, self.shell = ends, ends[0].shell
        self._seen: weakref.WeakSet[IkeSa] = weakref.WeakSet()  # every IKE_SA ever, until it is collected
        self._spare_since: dict[End, dict[tuple[str, int], float]] = {end: {} for end in ends}
        self._gone_once: set[End] = set()  # from the configuration

    def check(self, now: float) -> None:
        """After every step."""
        for end in self.ends:
            sas = self.shell.node.ike.sas(end.connection)
            self._seen.update(sas)
            self._check_counts(end, sas, now)
            self._check_data_plane(end, sas)
        self._check_timers()

    def restarted(self) -> None:
        """Its process is another one, or stood still: time begins anew."""
        for since in self._spare_since.values():
            since.clear()

    def began(self) -> None:
        """Its process is another one."""
        self._gone_once.clear()
        self.restarted()

    def _check_counts(self, end: End, sas: list[IkeSa], now: float) -> None:
        name, primary = f"{self.shell.name}, {end.connection}:", self.shell.node.ike.primary(end.connection)
        # What strangers half open is bounded otherwise
        many = sum(sa.is_initiator or sa.established_at is not None for sa in sas)
        if many > MANY_IKE_SAS:
            raise Broken(f"{name} holds {many} IKE_SAs of one connection")
        if primary is not None and primary not in sas:
            raise Broken(f"{name} relies on an IKE_SA that is gone")
        spare = {("IKE_SA", sa.initiator_spi) for sa in sas if sa is not primary}
        usable: dict[str, list[tuple[float, int]]] = {}
        for sa in sas:
            found = [child for child in sa.children.values() if child.usable]
            for child in found:
                usable.setdefault(child.name, []).append((child.installed_at, child.spi_in))
            # A DELETE waits its turn behind the rekeys of those beside it (RFC 9611)
            beside = max((child.resources for child in sa.settings.children), default=0)
            if len(found) > MANY_CHILDREN + beside:
                child_name, most = Counter(child.name for child in found).most_common(1)[0]
                if most > MANY_CHILDREN + beside:
                    raise Broken(f"{name} holds {most} usable CHILD_SAs {child_name} on one IKE_SA")
        for child_name, installed in usable.items():
            spare |= {(f"CHILD_SA {child_name}", spi) for _, spi in sorted(installed)[:-1]}
        before = self._spare_since[end]
        self._spare_since[end] = since = {key: before.get(key, now) for key in spare}
        # Until the peer, which asked for the rekey, is heard on the new one
        replaced = {("IKE_SA", sa.initiator_spi) for sa in sas if sa.state is IkeState.REKEYED}
        for (what, spi), since_when in since.items():
            patience = _overlap(sas[0].settings) + ((what, spi) in replaced) * UNHEARD_LIFE
            if now - since_when > patience:
                raise Broken(f"{name} holds {what} {spi:x} beside another one for more than {patience:.0f} s")

    def _check_data_plane(self, end: End, sas: list[IkeSa]) -> None:
        name, known, tunnel = f"{self.shell.name}, {end.connection}:", set[tuple[Direction, int, int]](), end.tunnel
        if tunnel is None:
            self._gone_once.add(end)
        for sa in sas if tunnel is not None else ():
            for child in sa.children.values():
                known.add((Direction.INBOUND, end.number, child.spi_in))
                if not child.left:
                    known.add((Direction.OUTBOUND, end.number, child.spi_out))
            known |= {(Direction.INBOUND, end.number, lingering.spi_in) for lingering in sa.lingering}
        if tunnel is not None and end in self._gone_once:
            # The connection went from the configuration, and its SAs from the data plane; an IKE_SA may outlive it until it is back
            ours = tunnel.installed.keys() | {one.event.spi_out for one in tunnel.installed.values()}
            known = {key for key in known if key[2] in ours}
        held = {key for key in self.shell.sad if key[1] == end.number}
        if known != held:
            raise Broken(
                f"{name} SAs in the data plane that no IKE_SA knows: {held - known}, and the other way: {known - held}"
            )
        if tunnel is not None and tuple(tunnel.active) != self.shell.policies.get(end.number, ()):
            raise Broken(f"{name} the data plane sends on other SAs than the tunnel says")

    def _check_timers(self) -> None:
        ike, name = self.shell.node.ike, self.shell.name
        sas = list(ike._sas.values())
        deadlines = [min(timers.deadlines(sa), default=None) for sa in sas]
        for sa, deadline in zip(sas, deadlines, strict=True):
            if deadline is None and not any(waiting[0] is sa for waiting in ike._tickets.values()):
                raise Broken(
                    f"{name}: IKE_SA {sa.initiator_spi:016x} ({sa.state.value}) has no timer: nothing will end it"
                )
        earliest = min((deadline for deadline in deadlines if deadline is not None), default=None)
        if ike.next_deadline() != earliest:
            raise Broken(f"{name}: the timer is set for {ike.next_deadline()}, the earliest deadline is {earliest}")

    # --- at rest ------------------------------------------------------------------------------------------------

    def leaks(self) -> Iterator[str]:
        """What a node at rest still holds of what is over."""
        name, ike = self.shell.name, self.shell.node.ike
        sas = [sa for end in self.ends for sa in ike.sas(end.connection)]
        if ike._tickets:
            yield f"{name} waits for {len(ike._tickets)} computations"
        if set(ike._sas.values()) != set(sas) or ike.half_open:
            yield f"{name} holds {len(ike._sas)} IKE_SAs and {ike.half_open} half-open ones"
        for sa in sas:
            if any(one.plaintexts for one in sa.reassembly.values()):
                yield f"{name} keeps fragments"
            if sa.predecessor is not None and not sa.predecessor.established:
                yield f"{name} keeps the IKE_SA before this one"
        for end in self.ends:
            yield from self._leaks_of(end)
        if self.shell.busy:
            yield f"{name} has kernel work under way"

    def _leaks_of(self, end: End) -> Iterator[str]:
        name, tunnel = f"{self.shell.name}, {end.connection}:", end.tunnel
        if len(self.shell.node.ike.recorder.lines(end.connection)) > KEPT:
            yield f"{name} records without end"
        # Those of removed SAs are kept until the next reading
        if tunnel is not None and len(tunnel.counters.keys() - tunnel._removed) > 2 * len(tunnel.installed):
            yield f"{name} keeps counters of {len(tunnel.counters)} ESP SAs, {len(tunnel.installed)} pairs are installed"

    def kept(self) -> Iterator[str]:
        """As `leaks`, by the garbage collector."""
        gc.collect()
        if left := set(self._seen) - set(self.shell.node.ike._sas.values()):
            states = ", ".join(sa.state.value for sa in left)
            yield f"{self.shell.name}: IKE_SAs that are over are still in memory ({states})"


def _overlap(ike: ConnectionSettings) -> float:
    """Seconds within which a second usable CHILD_SA or a second IKE_SA is gone: a liveness check and its retransmissions,
    twice."""
    waits = (ike.retransmit_timeout * ike.retransmit_base**tries for tries in range(ike.retransmit_tries + 1))
    return max(OVERLAP, 2 * (ike.dpd_delay + sum(waits)))


class Agreement:
    """Between the two ends: every ESP SA that both ever held."""

    def __init__(self) -> None:
        self._by_spi: dict[tuple[str, int], SaParameters] = {}
        self._keys: dict[bytes, tuple[str, int]] = {}

    def installed(self, holder: str, peer: str, sa: SaParameters) -> None:
        """`holder` put it into its data plane."""
        receiver = holder if sa.direction is Direction.INBOUND else peer
        key = (receiver, sa.spi)
        other = self._by_spi.setdefault(key, sa)
        if other.direction is not sa.direction:
            self._compare(sa, other)
        if self._keys.setdefault(sa.encryption_key, key) != key:
            raise Broken(f"{holder} installs ESP SA {sa.spi:08x} with a key that another SA or direction has")

    def _compare(self, sa: SaParameters, other: SaParameters) -> None:
        if (sa.encryption_key, sa.integrity_key, sa.suite) != (other.encryption_key, other.integrity_key, other.suite):
            raise Broken(f"the two ends of ESP SA {sa.spi:08x} hold different keys or suites")
        mirrored = [(one.remote_first, one.remote_last, one.local_first, one.local_last) for one in other.selectors]
        if [(one.local_first, one.local_last, one.remote_first, one.remote_last) for one in sa.selectors] != mirrored:
            raise Broken(f"the two ends of ESP SA {sa.spi:08x} hold different selectors")
