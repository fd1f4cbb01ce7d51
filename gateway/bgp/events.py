"""What goes into the speaker as intent, what comes out as effects, and its views for status."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from gateway.bgp.attraction import Attraction
from gateway.bgp.path import Path
from gateway.bgp.settings import Address, Prefix, SpeakerSettings


@dataclass(frozen=True, slots=True)
class ProcessUp:
    """The relay is connected. `generation` grows with every connection."""

    generation: int


@dataclass(frozen=True, slots=True)
class ProcessDown:
    """The relay is gone: ExaBGP, the relay or the socket ended."""


@dataclass(frozen=True, slots=True)
class Shutdown:
    """Withdraw everything; `Drained` follows."""


@dataclass(frozen=True, slots=True)
class Reconfigure:
    settings: SpeakerSettings


@dataclass(frozen=True, slots=True)
class Attract:
    """How strongly, from now on; None: this is no pair."""

    attraction: Attraction | None


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Whether packets get to the neighbor, as BFD found out (RFC 5882 4.2); its session may stand all the same."""

    name: str
    works: bool


@dataclass(frozen=True, slots=True)
class Close:
    """No path in clear may be used for these prefixes; with `closed` false they may again."""

    prefixes: tuple[Prefix, ...]
    closed: bool = True
    instance: str = ""


@dataclass(frozen=True, slots=True)
class NextHop:
    """Whether an address that paths in clear lead to is reached, as `FollowNextHop` asks."""

    address: Address
    reached: bool
    instance: str = ""


Command = ProcessUp | ProcessDown | Shutdown | Reconfigure | Attract | Forwarding | Close | NextHop


@dataclass(frozen=True, slots=True)
class SendLine:
    """One line for ExaBGP, without its end."""

    text: str


class BestChanged(NamedTuple):
    """The loc-RIB's path for `prefix` is now `path`, None: there is none. `others` are as good and used beside it,
    `backup` is used when all of these fail."""

    prefix: Prefix
    path: Path | None
    others: tuple[Path, ...] = ()
    backup: Path | None = None
    instance: str = ""


@dataclass(frozen=True, slots=True)
class FollowNextHop:
    """Answer by `NextHop` whether this address is reached, now and whenever that changes; with `wanted` false no longer."""

    address: Address
    wanted: bool = True
    instance: str = ""


@dataclass(frozen=True, slots=True)
class PeerUp:
    name: str


@dataclass(frozen=True, slots=True)
class PeerDown:
    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class EpochHeard:
    """A neighbor beside the tunnels teaches a route with this mark of an epoch (attraction.py), and none before it."""

    name: str
    mark: int


@dataclass(frozen=True, slots=True)
class Rejected:
    """The first path refused for `reason` since the session began; further ones are only counted."""

    name: str
    prefix: Prefix
    reason: str


class Level(IntEnum):
    """How near a number of prefixes is to its limit."""

    FINE = 0
    NEAR = 1  # from 80 % on
    OVER = 2  # some are held back or refused


@dataclass(frozen=True, slots=True)
class LimitCrossed:
    """`direction`: "in" for what a neighbor teaches us, "out" for what it is told. `count` includes what is over."""

    name: str
    direction: str
    level: Level
    count: int
    limit: int


@dataclass(frozen=True, slots=True)
class SessionsChanged:
    """ExaBGP shall have other sessions: those of `Speaker.session_settings`."""


@dataclass(frozen=True, slots=True)
class Resynchronized:
    """The RIBs agree with ExaBGP's again."""

    generation: int


@dataclass(frozen=True, slots=True)
class AnswersMissing:
    """ExaBGP does not answer. The shell drops the link, so that a full synchronisation follows; and from the second time in a
    row it ends ExaBGP itself."""

    times: int


@dataclass(frozen=True, slots=True)
class CommandRefused:
    """ExaBGP said `error` to this command."""

    text: str


@dataclass(frozen=True, slots=True)
class Drained:
    """After `Shutdown`: every withdrawal was answered, or there is nobody to tell."""


Effect = (
    SendLine | BestChanged | FollowNextHop | PeerUp | PeerDown | Rejected | LimitCrossed | SessionsChanged | Resynchronized | AnswersMissing
    | CommandRefused | Drained | EpochHeard
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """One neighbor, as status shows it."""

    name: str
    address: str
    asn: int
    state: str
    local_address: str
    connection: str
    established_at: float | None
    prefixes: dict[str, int] = field(default_factory=dict)
    messages_sent: int = 0
    messages_received: int = 0
    flaps: int = 0
    last_error: str = ""
    limit_in: int = 0
    limit_out: int = 0  # 0: none
    level_in: Level = Level.FINE
    level_out: Level = Level.FINE
    suspended_until: float | None = None
    carried: tuple[str, ...] = ()  # protected prefixes that its side would carry in clear; the first few
    instance: str = ""
    local_as: int = 0
    hold_time: int = 0
    multihop: int = 1
    ttl_security: bool = False
    password: bool = False
    passive: bool = False
    notification: tuple[bool, int, int] | None = None  # the last one since it was up: sent by us, code, subcode
    told_as: int | None = None  # by the neighbor's last OPEN
    told_hold: int | None = None


@dataclass(frozen=True, slots=True)
class RouteStatus:
    """One learned path, as status shows it. `installed` is the FIB's to say."""

    prefix: str
    peer: str
    next_hop: str
    as_path: tuple[int, ...]
    origin: str
    med: int | None
    local_preference: int | None
    communities: tuple[str, ...]
    best: bool
    reason: str
    installed: bool = False
    stale: bool = False
    multipath: bool = False  # used beside the best one
    backup: bool = False
    instance: str = ""
    accepted: bool = True


@dataclass(frozen=True, slots=True)
class AdvertisedStatus:
    """One announcement to one neighbor, as status shows it. `as_path` is complete, our AS included."""

    prefix: str
    peer: str
    next_hop: str
    as_path: tuple[int, ...]
    origin: str
    med: int | None
    local_preference: int | None
    communities: tuple[str, ...]
    state: str  # sent, waiting (not said yet), withdrawing, held-back (no room), down (there is no session)
    instance: str = ""
