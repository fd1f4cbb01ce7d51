"""One neighbor's session as seen through ExaBGP, with its two RIBs. No decisions; the speaker makes them."""

from __future__ import annotations

from enum import Enum

from gateway.bgp.events import Level, PeerStatus
from gateway.bgp.outbound import Outbound
from gateway.bgp.rib import AdjRibIn, AdjRibOut
from gateway.bgp.settings import NeighborSettings, Prefix, Role

SPACING = 0.25  # between two commands for one prefix, see AdjRibOut
SETTLE = 0.25  # after a session came up, while ExaBGP replays its own table

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

    def __init__(self, settings: NeighborSettings, role: Role, outbound: Outbound) -> None:
        self.settings = settings
        self.role = role
        self.adj_in = AdjRibIn()
        self.adj_out = AdjRibOut(SPACING)
        self.outbound = outbound
        self.up = False
        self.state = "Idle"
        self.established_at: float | None = None
        self.ready_at = 0.0
        self.stale_deadline: float | None = None
        self.router_id = 0
        self.flaps = 0
        self.last_error = ""
        self.messages_sent = 0
        self.messages_received = 0
        self.discarded = 0
        self.complained: set[str] = set()
        self.dump = Dump.IGNORE
        self.touched: set[Prefix] = set()  # spoken of by events since the dump was asked for
        self.wants_refresh = False
        self.level_in = self.level_out = Level.FINE
        self.suspended_until: float | None = None
        self.heard_end_of_rib = False
        self.owes_end_of_rib = False

    @property
    def name(self) -> str:
        return self.settings.name

    def went_up(self, established_at: float, now: float) -> None:
        self.up = True
        self.state = "Established"
        self.established_at = established_at
        self.ready_at = now + SETTLE
        self.complained.clear()
        self.discarded = 0
        self.level_in = Level.FINE
        self.heard_end_of_rib = False
        self.owes_end_of_rib = self.settings.graceful_restart > 0
        self.dump = Dump.IGNORE

    def went_down(self, reason: str) -> None:
        self.up = False
        self.state = "Idle"
        self.established_at = None
        self.flaps += 1
        self.last_error = reason
        self.dump = Dump.IGNORE

    def status(self, best: int) -> PeerStatus:
        prefixes = {
            "adj_in": len(self.adj_in.entries),
            "accepted": self.adj_in.accepted,
            "best": best,
            "adj_out": len(self.adj_out.wanted) if self.up else 0,
            "stale": len(self.adj_in.stale),
            "discarded": self.discarded,
            "held_back": len(self.adj_out.held),
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
        )
