"""The values the RIBs hold: path attributes, a learned path, an announcement to one neighbor.

RFC 4271 5 (path attributes), RFC 1997 (communities), RFC 8092 (large communities). Tuples, because a table has thousands of
each, made and compared at every turn: a frozen dataclass takes three times as long.
"""

from __future__ import annotations

from typing import NamedTuple

from gateway.bgp.prefixes import Address, Prefix

ORIGINS = ("igp", "egp", "incomplete")  # RFC 4271 5.1.1, in order of preference
DEFAULT_LOCAL_PREFERENCE = 100

# RFC 1997: well-known communities
NO_EXPORT = "65535:65281"
NO_ADVERTISE = "65535:65282"
NO_EXPORT_SUBCONFED = "65535:65283"


class Attributes(NamedTuple):
    """The path attributes of one UPDATE, apart from its next hop."""

    origin: str = "incomplete"
    as_path: tuple[int, ...] = ()  # every AS in it, sets flattened
    as_path_length: int = 0  # RFC 4271 9.1.2.2 a: an AS_SET counts as one
    med: int | None = None
    local_preference: int | None = None
    communities: tuple[str, ...] = ()
    large_communities: tuple[str, ...] = ()

    @property
    def has_as_set(self) -> bool:
        return self.as_path_length != len(self.as_path)


class Path(NamedTuple):
    """One path learned from one neighbor. When it was learned makes no difference between paths."""

    prefix: Prefix
    neighbor: str
    connection: str
    next_hop: Address
    attributes: Attributes
    peer_address: Address
    peer_as: int
    external: bool  # learned over eBGP
    router_id: int = 0  # the peer's BGP Identifier as a number

    @property
    def as_path(self) -> tuple[int, ...]:
        return self.attributes.as_path

    @property
    def way(self) -> str | Address:
        """Where it leads: into a connection, or to a next hop on the underlay."""
        return self.connection or self.next_hop

    @property
    def neighbor_as(self) -> int:
        """RFC 4271 9.1.2.2 c: the AS MEDs are comparable within; our own for a path from inside it."""
        return self.attributes.as_path[0] if self.attributes.as_path else self.peer_as


class Announcement(NamedTuple):
    """What one neighbor is told about one prefix; `as_path` is complete, our AS included."""

    next_hop: Address
    as_path: tuple[int, ...]
    origin: str = "igp"
    med: int | None = None
    local_preference: int | None = None
    communities: tuple[str, ...] = ()
    large_communities: tuple[str, ...] = ()


def told(next_hop: Address, attributes: Attributes) -> Announcement:
    """An announcement as it is found in ExaBGP's own table."""
    return Announcement(
        next_hop, attributes.as_path, attributes.origin, attributes.med, attributes.local_preference,
        attributes.communities, attributes.large_communities,
    )  # fmt: skip
