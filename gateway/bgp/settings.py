"""What the BGP core is told: one speaker, its neighbors. Built by `node/` from the configuration.

Not the configuration model: values here are final (every default resolved), so that the core never
guesses. `never` holds the prefixes no neighbor may teach us: the outer addresses of our own tunnels'
peers and the platform's link-local services.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network


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
    max_prefixes: int = 4000
    accept_default: bool = False


@dataclass(frozen=True, slots=True)
class SpeakerSettings:
    """The speaker and all its neighbors."""

    local_as: int
    router_id: IPv4Address
    advertise: tuple[Prefix, ...] = ()
    stale_time: float = 120.0
    never: tuple[Prefix, ...] = ()
    neighbors: tuple[NeighborSettings, ...] = ()
    listen_port: int = 179

    def role(self, neighbor: NeighborSettings) -> Role:
        if neighbor.connection:
            return Role.SITE
        return Role.PAIR if self.internal(neighbor) else Role.FABRIC

    def internal(self, neighbor: NeighborSettings) -> bool:
        """RFC 4271 1.1: IBGP is a session within one AS."""
        return neighbor.remote_as == self.local_as
