"""What the BGP core is told: one speaker, its neighbors. Built by `node/` from the configuration.

Not the configuration model: values here are final (every default resolved), so that the core never
guesses. `never` holds the prefixes no neighbor may teach us: the outer addresses of our own tunnels'
peers and the platform's link-local services.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address

from gateway.bgp.prefixes import Address as Address
from gateway.bgp.prefixes import Prefix as Prefix
from gateway.bgp.prefixes import PrefixSet
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
class NeighborSettings:
    """One neighbor. `connection` is "" when the session is not inside a tunnel."""

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
    own: frozenset[Prefix] = field(init=False, repr=False, compare=False)  # of `advertise`, its family's

    def __post_init__(self) -> None:
        version = self.address.version
        object.__setattr__(self, "own", frozenset(one for one in self.advertise or () if one.version == version))


@dataclass(frozen=True, slots=True)
class SpeakerSettings:
    """The speaker and all its neighbors."""

    local_as: int
    router_id: IPv4Address
    advertise: tuple[Prefix, ...] = ()
    stale_time: float = 120.0
    max_paths: int = 1  # equally good paths used at the same time
    never: tuple[Prefix, ...] = ()
    neighbors: tuple[NeighborSettings, ...] = ()
    listen_port: int = 179

    # As written the prefixes are in order; to be asked often they are in sets
    never_set: PrefixSet = field(init=False, repr=False, compare=False)
    advertise_set: PrefixSet = field(init=False, repr=False, compare=False)
    own: frozenset[Prefix] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "never_set", PrefixSet(self.never))
        object.__setattr__(self, "advertise_set", PrefixSet(self.advertise))
        object.__setattr__(self, "own", frozenset(self.advertise))

    def role(self, neighbor: NeighborSettings) -> Role:
        if neighbor.connection:
            return Role.SITE
        return Role.PAIR if self.internal(neighbor) else Role.FABRIC

    def internal(self, neighbor: NeighborSettings) -> bool:
        """RFC 4271 1.1: IBGP is a session within one AS."""
        return neighbor.remote_as == self.local_as
