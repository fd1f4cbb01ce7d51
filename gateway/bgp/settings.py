"""What the BGP core is told: one speaker, its neighbors. Built by `node/` from the configuration.

Not the configuration model: values here are final (every default resolved), so that the core never
guesses. `never` holds the prefixes no neighbor may teach us: the outer addresses of our own tunnels'
peers and the platform's link-local services.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import Enum
from ipaddress import IPv4Address

from gateway.bgp.prefixes import Address as Address
from gateway.bgp.prefixes import Prefix as Prefix
from gateway.bgp.prefixes import PrefixSet, swift
from gateway.bgp.route_policy import RoutePolicy


class OverLimit(Enum):
    """What becomes of more prefixes than a neighbor may teach us."""

    WARN = "warn"  # accepted, and said
    DISCARD = "discard"  # not accepted
    TEARDOWN = "teardown"  # the session is closed, and begun again after a while


class Role(Enum):
    """Which side of the gateway a neighbor is on; routes pass only between the two sides."""

    SITE = "site"  # reached through a connection: a customer's edge
    FABRIC = "fabric"  # beside the tunnels: route server, VNet or VPC side
    PAIR = "pair"  # internal BGP outside of a connection: the other gateway


@dataclass(frozen=True, slots=True)
class InstanceSettings:
    """Neighbors that share a loc-RIB, and what lies on our side of them."""

    name: str = ""
    advertise: tuple[Prefix, ...] = ()
    protected: tuple[Prefix, ...] = ()  # that must not leave in clear
    # As written the prefixes are in order; to be asked often they are in sets
    advertise_set: PrefixSet = field(init=False, repr=False, compare=False)
    own: frozenset[Prefix] = field(init=False, repr=False, compare=False)
    protected_set: PrefixSet = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "protected_set", PrefixSet(self.protected))
        object.__setattr__(self, "advertise", tuple(map(swift, self.advertise)))
        object.__setattr__(self, "advertise_set", PrefixSet(self.advertise))
        object.__setattr__(self, "own", frozenset(self.advertise))


@dataclass(frozen=True, slots=True)
class NeighborSettings:
    """One neighbor. `connection` is "" when the session is not inside a tunnel, `instance` when it belongs to none."""

    name: str
    address: Address
    remote_as: int
    local_address: Address
    connection: str = ""
    multihop: int = 1
    ttl_security: bool = False
    password: bytes | None = field(default=None, repr=False)
    hold_time: int = 30
    passive: bool = False
    advertise: tuple[Prefix, ...] | None = None
    accept_default: bool = False
    allow_own_as: int = 0  # how often our AS may stand in a path
    import_policy: RoutePolicy | None = None
    export_policy: RoutePolicy | None = None
    transit: bool = False  # told also what neighbors on its own side taught us, and what has been through Microsoft
    aggregate: tuple[Prefix, ...] = ()  # announced instead of what lies inside them, while anything does
    more_specific: tuple[tuple[Prefix, int], ...] = ()  # announced also in parts of this length
    default_always: bool = False
    default_while: Prefix | None = None  # a default route is announced while the loc-RIB has this
    max_prefixes: int = 4000
    over_limit: OverLimit = OverLimit.DISCARD
    restart_after: float = 300.0  # seconds, after a teardown
    budget: int = 0  # prefixes it may be told at most; 0: no limit
    graceful_restart: int = 0  # seconds it is asked to keep our routes when the session goes; 0: off
    instance: str = ""
    outdo: bool = False  # told the halves of what it teaches us of protected prefixes
    standby: bool = False  # its connection is the backup of a private circuit: paths in clear come first
    own: frozenset[Prefix] = field(init=False, repr=False, compare=False)  # of `advertise`, its family's

    def __post_init__(self) -> None:
        if self.advertise is not None:
            object.__setattr__(self, "advertise", tuple(map(swift, self.advertise)))
        version = self.address.version
        object.__setattr__(self, "own", frozenset(one for one in self.advertise or () if one.version == version))


@dataclass(frozen=True, slots=True)
class SpeakerSettings:
    """The speaker and all its neighbors. `advertise` is for those that belong to no instance."""

    local_as: int
    router_id: IPv4Address
    advertise: tuple[Prefix, ...] = ()
    stale_time: float = 120.0
    max_paths: int = 1  # equally good paths used at the same time
    never: tuple[Prefix, ...] = ()
    neighbors: tuple[NeighborSettings, ...] = ()
    listen_port: int = 179
    instances: tuple[InstanceSettings, ...] = ()
    protected: tuple[Prefix, ...] = ()  # of those that belong to no instance

    never_set: PrefixSet = field(init=False, repr=False, compare=False)
    own_addresses: frozenset[Address] = field(init=False, repr=False, compare=False)  # those of sessions
    instances_by_name: dict[str, InstanceSettings] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "never_set", PrefixSet(self.never))
        object.__setattr__(self, "own_addresses", frozenset(one.local_address for one in self.neighbors))
        known = {one.name: one for one in (InstanceSettings("", self.advertise, self.protected), *self.instances)}
        object.__setattr__(self, "instances_by_name", known)

    def without(self, names: Collection[str]) -> SpeakerSettings:
        """These neighbors."""
        if not names:
            return self
        return replace(self, neighbors=tuple(one for one in self.neighbors if one.name not in names))

    def instance(self, neighbor: NeighborSettings) -> InstanceSettings:
        """The one it belongs to."""
        return self.instances_by_name[neighbor.instance]

    def role(self, neighbor: NeighborSettings) -> Role:
        if neighbor.connection:
            return Role.SITE
        return Role.PAIR if self.internal(neighbor) else Role.FABRIC

    def internal(self, neighbor: NeighborSettings) -> bool:
        """RFC 4271 1.1: IBGP is a session within one AS."""
        return neighbor.remote_as == self.local_as
