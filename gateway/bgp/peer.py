"""One neighbor's session as seen through ExaBGP, with its two RIBs. No decisions; the speaker makes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

from gateway.bgp import messages
from gateway.bgp.attraction import mark_of
from gateway.bgp.events import Level, PeerStatus
from gateway.bgp.messages import NeighborRow
from gateway.bgp.outbound import Outbound
from gateway.bgp.path import Attributes, Path
from gateway.bgp.rib import AdjRibIn, AdjRibOut
from gateway.bgp.settings import Address, NeighborSettings, OverLimit, Prefix, Role, SpeakerSettings

SHOWN = 5
SPACING = 0.25  # between two commands for one prefix, see AdjRibOut
SETTLE = 0.25  # after a session came up, while ExaBGP replays its own table
QUIET = 10.0  # after this long without an UPDATE a neighbor has told its table
REFILL = 2.0  # from the first withdrawal by a neighbor over its limit until it is asked for what was refused
# How long a session must have stood for ExaBGP's adj-RIB-in to count as complete though no End-of-RIB was heard
DUMP_TRUSTED_AFTER = 5
# How long a NOTIFICATION explains why there is no session, when nothing but failures to connect follows
REMEMBERED = 90.0
NOTIFICATION = re.compile(r"notification (sent|received) \((\d+),(\d+)\)")

# RFC 4271 8.2.2
STATES = {"IDLE": "Idle", "CONNECT": "Connect", "ACTIVE": "Active", "OPENSENT": "OpenSent",
          "OPENCONFIRM": "OpenConfirm", "ESTABLISHED": "Established"}  # fmt: skip


class Dump(Enum):
    """What the rows of ExaBGP's adj-RIB-in are worth for one neighbor."""

    IGNORE = "ignore"  # its session changed since: rows may be of the table before
    MERGE = "merge"  # they are true, but may be incomplete
    COMPLETE = "complete"  # what is not among them is gone


class Peer:
    """The state of one neighbor."""

    def __init__(self, settings: NeighborSettings, role: Role, outbound: Outbound, keeping: bool = False) -> None:
        self.settings = settings
        self.role = role
        self.adj_in = AdjRibIn()
        self.adj_out = AdjRibOut(SPACING)
        self.adj_out.keeping = keeping
        self.outbound = outbound
        self.up = False
        self.state = "Idle"
        self.established_at: float | None = None
        self.ready_at = 0.0
        self.stale_deadline: float | None = None
        self.router_id = 0
        self.flaps = 0
        self.last_error = ""
        self.notification: tuple[bool, int, int] | None = None  # since it was up: sent by us, code, subcode
        self.notified_at = 0.0
        self.told_as: int | None = None
        self.told_hold: int | None = None
        self.messages_sent = 0
        self.messages_received = 0
        self.discarded = 0
        self.complained: set[str] = set()
        self.dump = Dump.IGNORE
        self.touched: set[Prefix] = set()  # spoken of by events since the dump was asked for
        self.wants_refresh = False
        self.dump_at: float | None = None  # when ExaBGP's adj-RIB-in is looked at again
        self.tells_end = True  # RFC 4724 2: an End-of-RIB follows its table
        self.refreshes = True  # RFC 2918: it takes a ROUTE-REFRESH
        # Interop: ExaBGP 5.0.15 does not keep in its adj-RIB-in what it left a malformed attribute out of
        self.partial = False
        self.refill_at: float | None = None  # when it is asked for what was refused over its limit
        self.level_in = self.level_out = Level.FINE
        self.suspended_until: float | None = None
        self.mark: int | None = None  # of an epoch, as heard last
        self.heard_end_of_rib = False
        self.owes_end_of_rib = False

    @property
    def name(self) -> str:
        return self.settings.name

    def path(self, prefix: Prefix, next_hop: Address, attributes: Attributes, external: bool) -> Path:
        """What it teaches us."""
        if external and attributes.local_preference is not None:
            # RFC 4271 5.1.5: LOCAL_PREF from another AS is ignored
            attributes = attributes._replace(local_preference=None)
        known = self.settings
        return Path(
            prefix, known.name, known.connection, next_hop, attributes, known.address, known.remote_as, external,
            self.router_id,
        )  # fmt: skip

    def new_mark(self, attributes: Attributes, local_as: int) -> int | None:
        """The mark of an epoch that the last path had not. What a site says of our epochs is no matter: it may say anything."""
        if not attributes.large_communities or self.role is Role.SITE:
            return None
        mark = mark_of(attributes.large_communities, local_as)
        if mark is None or mark == self.mark:
            return None
        self.mark = mark
        return mark

    def moved(self) -> None:
        """To another instance. The session lives on, and what was told stands until it is compared; what it taught us counted
        in the instance before."""
        self.adj_in, self.heard_end_of_rib, self.stale_deadline = AdjRibIn(), False, None

    def went_up(self, established_at: float, now: float) -> None:
        self.up = True
        self.state = "Established"
        self.established_at = established_at
        self.ready_at = now + SETTLE
        self.notification = None
        self.complained.clear()
        self.discarded = 0
        self.level_in = Level.FINE
        self.heard_end_of_rib = False
        self.partial = False
        self.refill_at = self.dump_at = None
        self.owes_end_of_rib = self.settings.graceful_restart > 0
        self.dump = Dump.IGNORE

    def counted(self, row: NeighborRow) -> None:
        self.messages_sent, self.messages_received = row.sent, row.received
        self.router_id = row.router_id or self.router_id
        self.refreshes = row.refreshes

    def listed(self, seconds: int, now: float) -> None:
        """The first list of a link says that its session has stood for so many whole seconds."""
        known = self.established_at if self.heard_end_of_rib else None
        began = now - seconds
        loaded = seconds >= DUMP_TRUSTED_AFTER or (known is not None and abs(known - began) < 1.5)
        self.established_at = began
        self.dump_at = None
        self.dump = Dump.COMPLETE if loaded and not self.partial else Dump.MERGE
        self.wants_refresh = self.partial

    def patience(self, stale_time: float) -> float:
        """How long stale routes are kept once the session is up. Without graceful restart no End-of-RIB is promised, and a
        table counts as told when nothing came for a while."""
        return stale_time if self.tells_end else min(stale_time, QUIET)

    def ended(self, reason: str, now: float) -> None:
        """Interop: ExaBGP 5.0.15 tells of most NOTIFICATIONs in the reason alone, and of later failures to connect as well."""
        told = NOTIFICATION.search(reason)
        if told is not None:
            self.notified(told[1] == "sent", int(told[2]), int(told[3]), now)
        elif now - self.notified_at > REMEMBERED:
            self.notification = None

    def notified(self, sent: bool, code: int, subcode: int, now: float) -> None:
        self.notification = (sent, code, subcode)
        self.notified_at = now

    def fsm(self, message: messages.FsmState) -> None:
        if not self.up and message.state != "ESTABLISHED":
            self.state = STATES.get(message.state, self.state)

    def opened(self, message: messages.Opened) -> None:
        self.router_id, self.refreshes = message.router_id, message.refreshes
        self.tells_end = message.tells_end and self.settings.graceful_restart > 0  # FRR says it only if both have it
        self.told_as, self.told_hold = message.asn, message.hold_time

    def told(self, message: messages.Notified, now: float) -> None:
        self.notified(message.sent, message.code, message.subcode, now)
        direction = "sent" if message.sent else "received"
        text = f": {message.text}" if message.text.isprintable() and message.text else ""
        self.last_error = f"NOTIFICATION {direction} {message.code}/{message.subcode}{text}"

    def went_down(self, reason: str) -> None:
        self.up = False
        self.state = "Idle"
        self.established_at = None
        self.flaps += 1
        self.last_error = reason
        self.dump = Dump.IGNORE

    def deadlines(self, deferral: float, pumped_at: float) -> list[float | None]:
        """While the link is in step: when something is due. RFC 4724 4.1: `deferral` is the longest an End-of-RIB waits."""
        deadlines = [self.refill_at, self.dump_at]
        if self.up and not self.adj_out.settled:
            deadlines += [self.ready_at or None, self.adj_out.next_release()]
        elif self.up and self.owes_end_of_rib and self.established_at is not None:
            deadlines.append(max(self.established_at + deferral, pumped_at + 1.0))
        return deadlines

    def may_end_rib(self, complete: bool) -> bool:
        """RFC 4724 4.1: whether the marker is owed and everything is told; `complete`: the others have told what they know."""
        return self.up and self.owes_end_of_rib and not self.ready_at and self.adj_out.settled and complete

    def status(self, best: int, local_as: int, carried: Sequence[Prefix] = ()) -> PeerStatus:
        prefixes = {
            "adj_in": len(self.adj_in.entries),
            "accepted": self.adj_in.accepted,
            "best": best,
            "adj_out": len(self.adj_out.wanted) if self.up else 0,
            "stale": len(self.adj_in.stale),
            "discarded": self.discarded,
            "held_back": len(self.adj_out.held),
            "carried": len(carried),
        }
        return PeerStatus(
            name=self.name,
            address=str(self.settings.address),
            asn=self.settings.remote_as,
            state=self.state,
            local_address=str(self.settings.local_address),
            connection=self.settings.connection,
            established_at=self.established_at,
            prefixes=prefixes,
            messages_sent=self.messages_sent,
            messages_received=self.messages_received,
            flaps=self.flaps,
            last_error=self.last_error,
            limit_in=self.settings.max_prefixes,
            limit_out=self.settings.budget,
            level_in=self.level_in,
            level_out=self.level_out,
            suspended_until=self.suspended_until,
            instance=self.settings.instance,
            carried=tuple(map(str, carried[:SHOWN])),
            local_as=local_as,
            hold_time=self.settings.hold_time,
            multihop=self.settings.multihop,
            ttl_security=self.settings.ttl_security,
            password=self.settings.password is not None,
            passive=self.settings.passive,
            notification=self.notification,
            told_as=self.told_as,
            told_hold=self.told_hold,
        )


def identity(settings: SpeakerSettings, neighbor: NeighborSettings) -> tuple[object, ...]:
    """What makes it another session altogether: nothing learned or told before holds."""
    return (
        settings.local_as, settings.router_id, neighbor.address, neighbor.local_address, neighbor.remote_as,
        neighbor.connection,
    )  # fmt: skip


def session_settings(neighbor: NeighborSettings) -> NeighborSettings:
    """The settings without those that are only ours, not ExaBGP's."""
    return replace(
        neighbor, advertise=None, max_prefixes=1, accept_default=False, allow_own_as=0, import_policy=None,
        export_policy=None, transit=False, aggregate=(), more_specific=(), default_always=False, default_while=None,
        over_limit=OverLimit.DISCARD, restart_after=0.0, budget=0, standby=False, outdo=False, instance="",
    )  # fmt: skip
