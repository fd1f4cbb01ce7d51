"""The vocabulary of the FIB: table entries, operations on them, commands in and effects out.

Values only, no behaviour beyond a key. The kernel's numbers for kinds and errors that the FIB must
tell apart stand here too; message layouts are runtime/rtnetlink.py's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

# Linux errno values, part of the rtnetlink interface.
ENOENT = 2
ESRCH = 3
EEXIST = 17

OWN_TABLE = 0
"""Stands for the gateway's own table, whatever its number; others are those of instances, by number."""


class RouteKind(IntEnum):
    """rtm_type of a route; for UNICAST the nexthop group says where to."""

    UNICAST = 1
    BLACKHOLE = 6
    THROW = 9


@dataclass(frozen=True, slots=True)
class Nexthop:
    """A nexthop object: a device, a gateway on a device, or (interface 0) a blackhole."""

    id: int
    family: int  # 4 or 6
    interface: int
    gateway: Address | None = None

    @property
    def key(self) -> Key:
        return self.id


@dataclass(frozen=True, slots=True)
class Group:
    """A nexthop group. Routes name groups only, also where there is one member (design, section 5)."""

    id: int
    members: tuple[int, ...]

    @property
    def key(self) -> Key:
        return self.id


class Route(NamedTuple):
    """One route of our table; `group` is 0 unless the kind is UNICAST."""

    prefix: Prefix
    metric: int
    kind: RouteKind
    group: int = 0

    @property
    def key(self) -> Key:
        return (self.prefix, self.metric)


Key = int | tuple[Prefix, int]
Entry = Nexthop | Group | Route


class Verb(Enum):
    ADD = "add"  # fails if something is there: what is foreign is never replaced
    REPLACE = "replace"  # of an entry known to be ours
    DELETE = "delete"


class Op(NamedTuple):
    verb: Verb
    entry: Entry


@dataclass(frozen=True, slots=True)
class OpError:
    """The kernel's answer to an operation that failed."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Dump:
    """What the kernel holds: our entries, and every nexthop id in use by anyone."""

    entries: tuple[Entry, ...] = ()
    used_ids: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ViaConnection:
    """Into a connection's TUN."""

    name: str


@dataclass(frozen=True, slots=True)
class ViaNextHop:
    """To an address on the underlay, in clear."""

    address: Address


@dataclass(frozen=True, slots=True)
class ViaCircuit:
    """In clear, as the host's own routes lead: the private circuit beside a connection that is there as its backup. Only
    while a liveness check says that it works."""

    connection: str


Single = ViaConnection | ViaNextHop | ViaCircuit


@dataclass(frozen=True, slots=True)
class ViaTiers:
    """Several at once: what is usable of the first tier that has something usable shares the flows. All into tunnels or
    all in clear. Routes of the same tiers have one group, so one message moves them all when a tier fails."""

    tiers: tuple[tuple[Single, ...], ...]

    @property
    def members(self) -> tuple[Single, ...]:
        return tuple(member for tier in self.tiers for member in tier)


Target = Single | ViaTiers


def members_of(target: Target) -> tuple[Single, ...]:
    return target.members if isinstance(target, ViaTiers) else (target,)


def encrypts(target: Target | None) -> bool:
    """Whether nothing that takes this way leaves in clear."""
    if isinstance(target, ViaTiers):
        return all(isinstance(member, ViaConnection) for member in target.members)
    return isinstance(target, ViaConnection)


@dataclass(frozen=True, slots=True)
class Resolution:
    """How the main table reaches a next hop: the gateway on the link (the next hop itself, or the router before it)."""

    gateway: Address
    interface: int


# Commands.


@dataclass(frozen=True, slots=True)
class ConnectionAdded:
    """A connection's TUN exists, is up and has carrier. Again with another index after it was re-created."""

    name: str
    interface: int


@dataclass(frozen=True, slots=True)
class ConnectionUp:
    name: str


@dataclass(frozen=True, slots=True)
class ConnectionDown:
    """Not usable: its routes become blackholes by one replacement of the group."""

    name: str


@dataclass(frozen=True, slots=True)
class ConnectionGone:
    """No longer configured: its routes go."""

    name: str


@dataclass(frozen=True, slots=True)
class Liveness:
    """Whether packets that take this target arrive, as a liveness check found out. One that fails is used only where nothing
    else is: it fails closed all the same, and what the check got wrong costs nothing."""

    target: Single
    works: bool


class SetRoute(NamedTuple):
    """`source` tells several candidates for one prefix apart; usable ones win, then the lower distance."""

    prefix: Prefix
    target: Target
    source: str = "bgp"
    distance: int = 20
    keep: bool = False  # once it led into a tunnel it stays closed when it goes


class RemoveRoute(NamedTuple):
    prefix: Prefix
    source: str = "bgp"


@dataclass(frozen=True, slots=True)
class SetProtected:
    """All prefixes that must never leave in clear by chance. Nothing is emitted before the first of these. Those of them that
    are `yielding` may by choice: by a private circuit that a tunnel is the backup of."""

    prefixes: frozenset[Prefix]
    yielding: frozenset[Prefix] = frozenset()


@dataclass(frozen=True, slots=True)
class Keep:
    """Prefixes an earlier process kept."""

    prefixes: tuple[Prefix, ...]


@dataclass(frozen=True, slots=True)
class Forget:
    """The operator's word: these need not stay closed."""

    prefixes: tuple[Prefix, ...]


@dataclass(frozen=True, slots=True)
class SetThrows:
    """Exceptions from the guard: connected prefixes and the outer addresses of our peers."""

    connected: frozenset[Prefix] = frozenset()
    endpoints: frozenset[Address] = frozenset()


@dataclass(frozen=True, slots=True)
class NextHopResolved:
    """Answer to Resolve; None: the main table does not reach it."""

    address: Address
    resolution: Resolution | None


@dataclass(frozen=True, slots=True)
class FollowNextHop:
    """Whether the main table reaches this address is to be told in `Fib.next_hops`, though perhaps no route leads there; again
    to hear it again."""

    address: Address
    wanted: bool = True


@dataclass(frozen=True, slots=True)
class InterfaceGone:
    """The kernel deleted a device or took it down, and with it every nexthop, group and route on it."""

    interface: int


@dataclass(frozen=True, slots=True)
class InterfaceChanged:
    """Underlay addresses, links or routes changed: next hops are resolved again and the kernel is read again."""


@dataclass(frozen=True, slots=True)
class Resync:
    """Something of ours changed behind our back (or the monitor lost messages): read the kernel again."""


@dataclass(frozen=True, slots=True)
class Applied:
    """Answer to RouteOps; `errors` by position in `ops`, successes absent."""

    ticket: int
    errors: Mapping[int, OpError] = field(default_factory=dict)
    table: int = OWN_TABLE


@dataclass(frozen=True, slots=True)
class Reconcile:
    """Answer to DumpRequest."""

    ticket: int
    dump: Dump
    table: int = OWN_TABLE


@dataclass(frozen=True, slots=True)
class Sweep:
    """The stale time after a start is over: remove what an earlier process installed and nobody asked for since."""


Command = (
    ConnectionAdded
    | ConnectionUp
    | ConnectionDown
    | ConnectionGone
    | Liveness
    | SetRoute
    | RemoveRoute
    | SetProtected
    | Keep
    | Forget
    | SetThrows
    | NextHopResolved
    | FollowNextHop
    | InterfaceGone
    | InterfaceChanged
    | Resync
    | Applied
    | Reconcile
    | Sweep
)


# Effects.


@dataclass(frozen=True, slots=True)
class RouteOps:
    """Operations to apply in this order, each by itself: a failure does not stop the rest. Answer: Applied."""

    ticket: int
    ops: tuple[Op, ...]
    table: int = OWN_TABLE


@dataclass(frozen=True, slots=True)
class DumpRequest:
    """Read our routes and nexthops from the kernel. Answer: Reconcile."""

    ticket: int
    table: int = OWN_TABLE


@dataclass(frozen=True, slots=True)
class Resolve:
    """Ask the main table for the way to a next hop. Answer: NextHopResolved."""

    address: Address


Effect = RouteOps | DumpRequest | Resolve


# Settings and status.


@dataclass(frozen=True, slots=True)
class FibSettings:
    table: int = OWN_TABLE
    first_id: int = 0x67770000  # of our nexthop objects: "gw"
    end_id: int = 0x70000000
    platform: bool = True  # whether the platform's addresses are excepted here; else rules see to them
    metric: int = 20  # one for all routes, so that a change of target replaces the route in one step
    batch: int = 200  # operations; a failover waits for one batch at most, and so does whoever else runs beside this
    slice: int = 256  # prefixes looked at in one go at the first comparison, entries of a dump
    retry: float = 5.0  # seconds until what failed is tried again


def of_table(table: int) -> FibSettings:
    """Of an instance's table, at most 4095: ids of its own, so that nobody touches another's nexthop objects."""
    first = 0x50000000 + (table << 16)
    return FibSettings(table=table, first_id=first, end_id=first + (1 << 16), platform=False)


@dataclass(frozen=True, slots=True)
class PrefixState:
    """One prefix in the kernel. `error`: why it is not as wanted."""

    installed: bool
    target: Target | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class FibStatus:
    """Counts of routes (the guard apart) and sentences about what is wrong."""

    desired: int
    installed: int
    failed: int
    stale: int
    guard: int
    guard_missing: int
    kept: int = 0  # of the guard: learned prefixes that stay protected
    problems: tuple[str, ...] = ()
