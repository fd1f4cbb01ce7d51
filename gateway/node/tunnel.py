"""One connection's life: who starts it, what is retried when, what the data plane and the FIB are told.

    start_action start: initiate -> up -> (down -> back off -> initiate)*, for ever
    every configured CHILD_SA that is missing while the IKE_SA is up is asked for again, with back-off

Holds no protocol: ike/ negotiates, this turns its events into SAs, policies and routes, and its failures into retries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.contract import RandomSource
from gateway.esp.dataplane import Direction, Limits, SaCounters
from gateway.esp.mtu import inner_mtu, outer_octets, tcp_mss
from gateway.ike.events import ChildActivate, ChildInstall, ChildRemove
from gateway.ike.sa import IkeSa
from gateway.node import effects, security_associations
from gateway.node.endings import Endings
from gateway.node.installed import InstalledChild
from gateway.node.settings import TunnelSettings

FIRST_RETRY, LAST_RETRY = 1.0, 30.0
"""Seconds; doubled at each failure, with jitter. Never given up."""
DEFAULT_WINDOW = 4096
CHILD_GRACE = 3.0
"""Seconds an established IKE_SA may be without a configured CHILD_SA before we ask for it; its responder waits longer."""
OF_THE_LINK = ("local_destinations", "addresses", "dscp", "clear_df")
"""Settings that the device and the data plane are told."""


def child_due(sa: IkeSa) -> float:
    """When a missing CHILD_SA is asked for."""
    return (sa.established_at or 0.0) + CHILD_GRACE * (1 if sa.is_initiator else 3)


ENDS = ("CONFIGURATION_CHANGED", "DELETED_BY_OPERATOR", "DELETED_BY_PEER")
"""Why it is down, but nothing of why it does not come up again."""


class BackOff:
    """When to try again."""

    __slots__ = ("_delay", "_random", "at")

    def __init__(self, random: RandomSource) -> None:
        self._random = random
        self._delay = FIRST_RETRY
        self.at: float | None = None

    def failed(self, now: float) -> None:
        self.at = now + self._delay * self._random.uniform(0.7, 1.3)
        self._delay = min(self._delay * 2, LAST_RETRY)

    def reset(self) -> None:
        self._delay = FIRST_RETRY
        self.at = None

    def due(self, now: float) -> bool:
        return self.at is None or now >= self.at


@dataclass(slots=True)
class Totals:
    """Packets and octets of SAs that are gone, so that counters never fall at a rekey."""

    packets: int = 0
    octets: int = 0


@dataclass(slots=True)
class Failure:
    reason: str
    context: dict[str, str] = field(default_factory=dict)
    at: float = 0.0


class Tunnel:
    """State of one configured connection."""

    def __init__(self, settings: TunnelSettings, random: RandomSource) -> None:
        self.settings = settings
        self.wanted = settings.start_action == "start"
        self.back_off = BackOff(random)
        self.child_back_off: dict[str, BackOff] = {}
        self.held: set[str] = set()  # children an operator took down; they wait for his word
        self.attempts = 0
        self.failure: Failure | None = None
        self.refused: dict[str, Failure] = {}  # rekeys, by child or "" for the IKE_SA's; what they were for works still
        self.interface = 0
        self.shared = False  # its outer address goes from gateway to gateway
        self.elsewhere = self.arriving = False  # it is at the other gateway; or came to us a moment ago
        self.failed_here = False  # it was down when it left
        self.device_fault = ""  # why its TUN cannot be had; until then nothing is negotiated
        self.mtu = 0
        self.installed: dict[int, InstalledChild] = {}  # by spi_in
        self.due: dict[int, InstalledChild] = {}  # by spi_in, of which more is to be granted and kept
        self.active: list[int] = []  # outbound SPIs, newest first
        self.established_at: float | None = None
        self.endings = Endings()
        self.gone: dict[tuple[str, Direction], Totals] = {}
        self.counters: dict[tuple[Direction, int], SaCounters] = {}
        self.last_seen: dict[tuple[str, Direction], float] = {}
        self._random = random
        self._names: dict[tuple[Direction, int], str] = {}
        self._removed: set[tuple[Direction, int]] = set()  # of them, those not read since

    @property
    def name(self) -> str:
        return self.settings.name

    @property
    def usable(self) -> bool:
        """Whether packets can leave encrypted."""
        return bool(self.active)

    def adopt(self, settings: TunnelSettings) -> bool:
        """The settings of a reload; True if `link` has to be said again."""
        before, mtu, self.settings = self.settings, self.mtu, settings
        if before.start_action != settings.start_action:
            self.wanted = settings.start_action == "start"
        self.held &= settings.limits.keys()
        self.mtu = self._inner_mtu()
        return mtu != self.mtu or any(getattr(before, name) != getattr(settings, name) for name in OF_THE_LINK)

    def link(self, local_destinations: tuple[str, ...] | None = None) -> effects.SetTunnelMtu:
        """What the device and the data plane must know of it now."""
        mtu, settings = self.mtu, self.settings
        mss4, mss6 = tcp_mss(mtu, False), tcp_mss(mtu, True)
        return effects.SetTunnelMtu(
            settings.id, self.name, mtu, mss4, mss6, local_destinations, settings.dscp, settings.clear_df
        )

    def missing(self, sa: IkeSa) -> Iterator[str]:
        """Configured children that have no CHILD_SA and should."""
        for child in sa.settings.children:
            if child.name not in self.held and sa.usable_child(child.name) is None:
                yield child.name

    # --- SAs ----------------------------------------------------------------------------------------------------

    def install(self, event: ChildInstall, now: float) -> Iterator[object]:
        yield from self.enter(InstalledChild(event, now))

    def enter(self, child: InstalledChild, *, sends: bool = True) -> Iterator[object]:
        """`sends`: its outbound SA, too, which nothing is sent on before `activate`."""
        settings, event = self.settings, child.event
        # A child that a reload removed meanwhile is deleted again by the IKE core
        limits, window = (
            settings.limits.get(event.child, Limits()),
            settings.replay_windows.get(event.child, DEFAULT_WINDOW),
        )
        inbound, outbound = child.parameters(settings.id, limits, window, fenced=self.shared)
        self._bank({(Direction.INBOUND, event.spi_in), (Direction.OUTBOUND, event.spi_out)} & self._removed)
        self.installed[event.spi_in] = child
        self._names[Direction.INBOUND, event.spi_in] = event.child
        yield effects.AddSa(inbound)
        if sends:
            self._names[Direction.OUTBOUND, event.spi_out] = event.child
            yield effects.AddSa(outbound)
            yield effects.Grant(settings.id, event.spi_out, child.granted)

    def leave_out(self, child: InstalledChild) -> None:
        """It was entered, and the data plane has not heard of it."""
        event = child.event
        self.installed.pop(event.spi_in, None)
        for key in ((Direction.INBOUND, event.spi_in), (Direction.OUTBOUND, event.spi_out)):
            self._names.pop(key, None)

    def activate(self, event: ChildActivate) -> Iterator[object]:
        """The new SA first; the data plane takes the first whose selectors match. One that it never heard of is none (`leave_out`)."""
        if (Direction.OUTBOUND, event.spi_out) not in self._names:
            return
        self.active = [event.spi_out, *(spi for spi in self.active if spi != event.spi_out)]
        self.back_off_of(event.child).reset()
        self.refused.pop(event.child, None)
        self.failure = None
        yield from self._fit_mtu()
        yield effects.SetPolicies(self.settings.id, tuple(self.active))

    def remove(self, event: ChildRemove) -> Iterator[object]:
        if event.spi_out:
            if event.spi_out in self.active:
                self.active.remove(event.spi_out)
                yield effects.SetPolicies(self.settings.id, tuple(self.active))
            self._removed.add((Direction.OUTBOUND, event.spi_out))
            yield effects.RemoveSa(Direction.OUTBOUND, self.settings.id, event.spi_out)
        if event.spi_in:
            self.installed.pop(event.spi_in, None)
            self._removed.add((Direction.INBOUND, event.spi_in))
            yield effects.RemoveSa(Direction.INBOUND, self.settings.id, event.spi_in)

    def _fit_mtu(self) -> Iterator[object]:
        mtu = self._inner_mtu()
        if mtu != self.mtu:
            self.mtu = mtu
            yield self.link()

    def _inner_mtu(self) -> int:
        """The inner MTU is the smallest any active suite allows (peers.md, "MTU and MSS by suite")."""
        sizes = [
            inner_mtu(
                security_associations.suite(event.choice),
                self.settings.link_mtu,
                ":" in event.local.host,
                event.encapsulate,
            )
            for event in self._sending()
        ]
        return min(sizes, default=self.mtu)

    def link_mtu_for(self, octets: int) -> int:
        """The `link_mtu` under which nothing is longer on the link than a packet of so many octets inside."""
        return min(
            (
                outer_octets(
                    security_associations.suite(event.choice), octets, ":" in event.local.host, event.encapsulate
                )
                for event in self._sending()
            ),
            default=0,
        )

    def _sending(self) -> list[ChildInstall]:
        return [child.event for child in self.installed.values() if child.event.spi_out in self.active]

    # --- counters -----------------------------------------------------------------------------------------------

    def read(self, counters: dict[tuple[Direction, int], SaCounters]) -> dict[int, float]:
        """Takes a reading; the inbound SPIs on which the peer was heard since the last one, and when. It is the last one of
        those SAs that were removed before."""
        heard = {}
        for key, value in counters.items():
            before = self.counters.get(key, SaCounters())
            child = self._names.get(key, "")
            if value.packets > before.packets:
                self.last_seen[child, key[0]] = value.last_used
                if key[0] is Direction.INBOUND:
                    heard[key[1]] = value.last_used
        self.counters.update({key: value for key, value in counters.items() if key in self._names})
        self._look_ahead(counters)
        self._bank(set(self._removed))
        return heard

    def _look_ahead(self, counters: dict[tuple[Direction, int], SaCounters]) -> None:
        for spi, child in self.installed.items():
            inbound = counters.get((Direction.INBOUND, spi))
            outbound = counters.get((Direction.OUTBOUND, child.event.spi_out)) if self._sends(child) else None
            if (inbound or outbound) and child.read(inbound, outbound):
                self.due[spi] = child

    def _sends(self, child: InstalledChild) -> bool:
        """Whether its outbound SA is in the data plane still."""
        return (Direction.OUTBOUND, child.event.spi_out) in self._names.keys() - self._removed

    def grants(self) -> Iterator[effects.Grant]:
        """For SAs that have come far since they were last asked for. What is kept of them is another thing, too."""
        due, self.due = self.due, {}
        for child in filter(self._sends, due.values()):
            yield effects.Grant(self.settings.id, child.event.spi_out, child.granted)

    def _bank(self, removed: set[tuple[Direction, int]]) -> None:
        """What they carried is kept, they are forgotten."""
        self._removed -= removed
        for key in removed:
            child, last = self._names.pop(key, None), self.counters.pop(key, None)
            if child is not None and last is not None:
                total = self.gone.setdefault((child, key[0]), Totals())
                total.packets += last.packets
                total.octets += last.octets

    def totals(self, child: str, direction: Direction) -> Totals:
        """Everything this child ever carried in one direction."""
        past = self.gone.get((child, direction), Totals())
        live = [
            self.counters[key]
            for key, name in self._names.items()
            if name == child and key[0] is direction and key in self.counters
        ]
        return Totals(past.packets + sum(one.packets for one in live), past.octets + sum(one.octets for one in live))

    # --- retries ------------------------------------------------------------------------------------------------

    def back_off_of(self, child: str) -> BackOff:
        return self.child_back_off.setdefault(child, BackOff(self._random))

    def context(self, known: dict[str, str]) -> dict[str, str]:
        """What explain.py wants to know of every failure."""
        tries = str(self.settings.ike.retransmit_tries + 1)
        return {"tunnel": self.name, "peer": str(self.settings.ike.remote.host), "tries": tries, **known}

    def failed(self, reason: str, context: dict[str, str], now: float) -> None:
        """The connection went down, or never came up."""
        self.failure = Failure(reason, context, now)
        self.refused.clear()
        self.established_at = None
        self.back_off.failed(now)

    def taken_down(self, since: float | None, now: float) -> None:
        """By the peer, which does not say why."""
        if since is not None:
            self.endings.note(since, max(self.last_seen.values(), default=since), now)

    def closed(self, reason: str, context: dict[str, str], now: float) -> None:
        """We ended it ourselves."""
        self.endings.clear()
        self.failure = Failure(reason, context, now)
        self.refused.clear()
        self.established_at = None
        self.back_off.reset()

    def note(self, reason: str, context: dict[str, str], now: float) -> None:
        """The IKE_SA stands, but nothing can be sent: why."""
        self.failure = Failure(reason, context, now)

    def hint(self, reason: str, context: dict[str, str], now: float) -> None:
        """As note, where only the peer tries: our own attempts end with a failure of their own."""
        if not self.wanted:
            self.note(reason, context, now)

    def established(self, now: float) -> None:
        self.established_at = now
        self.attempts = 0
        self.refused.pop("", None)
        # One of this very moment tells why the IKE_SA came without a CHILD_SA
        if self.failure is not None and self.failure.at < now:
            self.failure = None
        self.back_off.reset()
