"""The [bgp] section: the speaker, its neighbors, and the policies named by them."""

from __future__ import annotations

from pydantic import Field

from gateway.config.addresses import AddressField, Ipv4AddressField, PrefixField
from gateway.config.types import Asn, Duration, Integer, Name, SecretSource, Section, Switch


class Neighbor(Section):
    """One BGP neighbor."""

    address: AddressField = Field(description="the neighbor's address")
    remote_as: Asn = Field(description="the neighbor's AS number")
    local_address: AddressField | None = Field(
        default=None,
        description="our address of the session; default: tunnel_address of `connection` facing it, else what this host's routes choose, "
        "else the first local_addrs of its family",
    )
    connection: Name | None = Field(
        default=None, description="the session runs inside this connection's tunnel; its routes point into the TUN"
    )
    multihop: Integer = Field(
        default=1, ge=1, le=255, description="TTL of the session; Azure Route Server needs 2 or more"
    )
    ttl_security: Switch = Field(default=False, description="GTSM (RFC 5082): accept only TTL 255")
    password: SecretSource | None = Field(default=None, description="TCP MD5 password (RFC 2385)")
    hold_time: Integer = Field(default=30, ge=3, le=65535, description="hold time offered, in seconds")
    passive: Switch = Field(default=False, description="wait for the neighbor to connect")
    advertise: tuple[PrefixField, ...] | None = Field(
        default=None,
        description="prefixes announced to this neighbor; default: bgp.advertise and what other kinds of neighbor "
        "taught us",
    )
    max_prefixes: Integer = Field(default=4000, ge=1, description="prefixes accepted; more are discarded and said")


class Bgp(Section):
    """BGP speaker."""

    local_as: Asn = Field(description="our AS number")
    router_id: Ipv4AddressField | None = Field(default=None, description="default: the first IPv4 address configured")
    advertise: tuple[PrefixField, ...] = Field(default=(), description="our own prefixes, announced to every neighbor")
    listen_port: Integer = Field(
        default=179, ge=0, le=65535, description="port to listen on for passive neighbors; 0: connect only"
    )
    stale_time: Duration = Field(
        default=120.0, ge=0, description="how long routes stay in the kernel after their session or ExaBGP went away"
    )
    neighbor: dict[Name, Neighbor] = Field(default_factory=dict, description="neighbors by name")
