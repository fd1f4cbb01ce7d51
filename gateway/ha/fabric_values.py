"""What the cloud's route tables are told and what they answer: the values between `fabric.py` and the shell.

No behaviour: the rules of whose a route is stand in `fabric_routes.py`. An address or interface is text as the cloud writes it; a
prefix is canonical text, or what the cloud has in its place (a service tag, a prefix list).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_network

Prefix = IPv4Network | IPv6Network
APPLIANCE = "VirtualAppliance"
"""The kind of a route to a gateway, in every cloud; the others are the cloud's own words."""
VNET_LOCAL = "VnetLocal"


class Ownership(Enum):
    """By what a route is known as the pair's: Azure's routes have names, AWS's have none."""

    NAME = "name"
    PREFIX = "prefix"


@dataclass(frozen=True, slots=True)
class Hops:
    """What the routes of one gateway point to: an address for each family, or the same network interface for both."""

    ipv4: str
    ipv6: str = ""

    def towards(self, prefix: Prefix) -> str:
        """The hop of a route to `prefix`; empty where the gateway has none of this family."""
        return self.ipv4 if prefix.version == 4 else self.ipv6


@dataclass(frozen=True, slots=True)
class Table:
    """One route table that is ours to write into. `reference` is the cloud's name for it, `name` the configuration's."""

    name: str
    reference: str
    prefixes: tuple[Prefix, ...]
    effective_of: str = ""
    """Azure: the network interface whose effective routes prove a switch; empty: they are not asked for."""


@dataclass(frozen=True, slots=True)
class FabricSettings:
    """`cluster` tells pairs apart in names and tags; `node` is this gateway in them."""

    cluster: str
    node: str
    ours: Hops
    theirs: Hops
    tables: tuple[Table, ...]
    ownership: Ownership = Ownership.NAME
    calls_at_once: int = 1
    """Calls under way in one table; ARM refuses a second one."""
    check_interval: float = 60.0
    dry_run: bool = False
    gateway_subnet: Prefix | None = None
    route_server_subnet: Prefix | None = None


@dataclass(frozen=True, slots=True)
class SeenRoute:
    """One route as a table has it; `name` is empty where the cloud has no names."""

    prefix: str
    kind: str
    hop: str
    name: str = ""

    @property
    def key(self) -> str:
        """What no two routes of a table have in common."""
        return self.name or self.prefix

    def __str__(self) -> str:
        named = f" ({self.name})" if self.name else ""
        return f"{self.prefix} -> {self.hop or self.kind}{named}"


@dataclass(frozen=True, slots=True)
class Claim:
    """Who wrote the table last, as its tags say: one tag for each gateway, so that a late write lowers nobody's."""

    epoch: int
    node: str


# --- operations -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Read:
    """What the table holds, its tags, and the subnets that use it."""


@dataclass(frozen=True, slots=True)
class Put:
    """A route as it shall be. `replace`: one of the pair's is there; else where there is any, it is left and told."""

    route: SeenRoute
    replace: bool


@dataclass(frozen=True, slots=True)
class Remove:
    """A route of ours that is wanted no longer."""

    route: SeenRoute


@dataclass(frozen=True, slots=True)
class Mark:
    """Our epoch, as a tag of the table."""

    key: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Verify:
    """The routes that a network interface really uses."""

    interface: str


Operation = Read | Put | Remove | Mark | Verify


@dataclass(frozen=True, slots=True)
class Call:
    """An effect: carry this out and say how it ended, by `computed(ticket, outcome, now)`. Always answered, in bounded time."""

    ticket: int
    table: Table
    operation: Operation

    @property
    def subject(self) -> str:
        return self.table.name


# --- outcomes ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Contents:
    """What a table holds. `subnets` are the cloud's names of those that use it; `remarks` what else was seen on the way."""

    routes: tuple[SeenRoute, ...]
    tags: tuple[tuple[str, str], ...] = ()
    subnets: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """The write took effect."""


@dataclass(frozen=True, slots=True)
class Effective:
    """The routes in use of an interface."""

    routes: tuple[SeenRoute, ...]


class Why(Enum):
    """What to do about a failure."""

    BUSY = "busy"
    """Later, and not before it says."""
    EXPIRED = "expired"
    """The token was refused, and has been given up: again at once."""
    UNREACHABLE = "unreachable"
    """Nothing was written."""
    AMBIGUOUS = "ambiguous"
    """It may have been written: read first."""
    CONFLICT = "conflict"
    """The table is not as we thought: read first."""
    REFUSED = "refused"
    """As it stands it will be refused again."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Why a call failed; the sentence is for people and has no secret in it."""

    why: Why
    sentence: str
    retry_after: float = 0.0


Outcome = Contents | Done | Effective | Failed


# --- intent, events ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Activate:
    """We are active with this epoch: the routes shall lead to us."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Deactivate:
    """We are not active: nothing is written."""


@dataclass(frozen=True, slots=True)
class Look:
    """Read every table now: where the other gateway fell silent, a takeover that follows has a fresh picture."""


@dataclass(frozen=True, slots=True)
class Configure:
    """Other settings from now on."""

    settings: FabricSettings


@dataclass(frozen=True, slots=True)
class HigherEpoch:
    """A table carries a claim above ours: whoever believes to be active is not. Nothing is written any more."""

    table: str
    claim: Claim


@dataclass(frozen=True, slots=True)
class Switched:
    """Every route of the table leads to us, `seconds` after we were told to be active."""

    table: str
    epoch: int
    routes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Drifted:
    """Somebody changed what we had written."""

    table: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Troubled:
    """What keeps the table from being right; empty: nothing any more."""

    table: str
    sentence: str


Event = HigherEpoch | Switched | Drifted | Troubled


# --- the picture ------------------------------------------------------------------------------------------------------


class RouteState(Enum):
    """Of one wanted route."""

    UNKNOWN = "unknown"
    OURS = "ours"
    PEER = "peer"
    ABSENT = "absent"
    CHANGED = "changed"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class RouteView:
    """A wanted route: where it leads, and the sentence of why it is not as wanted."""

    prefix: str
    state: RouteState
    hop: str
    error: str


@dataclass(frozen=True, slots=True)
class TableView:
    """A table as last seen. `trouble` lasts; `last_error` may be a call that is being repeated."""

    name: str
    reference: str
    routes: tuple[RouteView, ...]
    foreign: tuple[str, ...]
    planned: tuple[str, ...]
    claims: tuple[Claim, ...]
    read_at: float | None
    last_call: str
    last_call_at: float | None
    last_error: str
    trouble: str
    remarks: tuple[str, ...]
    drift: int
    calls: int
    failures: int
    settled: bool
    switch_seconds: float | None
    verified: str


@dataclass(frozen=True, slots=True)
class FabricView:
    """Everything `gatewayctl fabric` shows."""

    active: bool
    epoch: int
    outdone_by: Claim | None
    dry_run: bool
    tables: tuple[TableView, ...]


def canonical(text: str) -> str:
    """A prefix as we write it; anything else as it is."""
    try:
        return str(ip_network(text, strict=False))
    except ValueError:
        return text
