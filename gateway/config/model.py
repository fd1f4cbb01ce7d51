"""The configuration model: every key, its type, default, unit and one line of help.

Keys follow swanctl.conf where it has a word. Values that need parsing beyond their type (proposals,
durations, prefixes) become their final type here, so that nothing downstream parses text again.
`load.py` adds FILE:LINE:COL, `lint.py` the checks across keys, `secrets.py` reads the secrets.
"""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from gateway.config.units import parse_count, parse_duration, parse_octets

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface
Duration = Annotated[float, BeforeValidator(parse_duration)]
Octets = Annotated[int, BeforeValidator(parse_octets)]
Count = Annotated[int, BeforeValidator(parse_count)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,31}$")]
Asn = Annotated[int, Field(ge=1, le=4294967294)]


class Section(BaseModel):
    """Unknown keys are errors; values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretSource(Section):
    """Where a secret comes from: exactly one of the three."""

    file: str | None = Field(None, description="path, relative to the configuration file; owner root or the service user, mode 0600 or less")
    credential: str | None = Field(None, description="name of a systemd credential (LoadCredential=)")
    inline: str | None = Field(None, repr=False, description="the secret itself; needs gateway.allow_inline_secrets = true")


class Child(Section):
    """One CHILD_SA of a connection."""

    local_ts: tuple[Prefix, ...] = Field((IPv4Network("0.0.0.0/0"), IPv6Network("::/0")), description="traffic selectors on this side")
    remote_ts: tuple[Prefix, ...] = Field((IPv4Network("0.0.0.0/0"), IPv6Network("::/0")), description="traffic selectors on the peer's side")
    esp_proposals: tuple[str, ...] = Field(
        ("aes256gcm16-ecp256", "aes256gcm16", "aes128gcm16", "aes256-sha256"), description="ESP proposals in order; a KE group means PFS at rekey"
    )
    rekey_time: Duration = Field(3600.0, ge=60, description="CHILD_SA rekey after this long; a random part of rekey_margin earlier")
    rekey_bytes: Octets = Field(0, ge=0, description="rekey after this many octets; 0 off")
    rekey_packets: Count = Field(0, ge=0, description="rekey after this many packets; 0 off")
    life_time: Duration | None = Field(None, description="hard end of a CHILD_SA; default 110 % of rekey_time")
    replay_window: int = Field(4096, ge=64, le=65536, description="anti-replay window in packets")


class Connection(Section):
    """One remote site: an IKE_SA, its CHILD_SAs and its TUN."""

    local_addrs: Address = Field(description="our outer address")
    remote_addrs: Address = Field(description="the peer's outer address")
    local_port: int = Field(500, ge=1, le=65535, description="our IKE port")
    remote_port: int = Field(500, ge=1, le=65535, description="the peer's IKE port")
    local_id: str | None = Field(None, description="our identity: address, FQDN, user@FQDN or keyid:HEX; default local_addrs")
    remote_id: str | None = Field(None, description="the identity the peer must prove; default remote_addrs")
    psk: SecretSource = Field(description="pre-shared key")
    proposals: tuple[str, ...] = Field(
        ("aes256gcm16-prfsha384-ecp384", "aes256gcm16-prfsha256-ecp256-x25519-modp2048", "aes256-aes128-sha256-sha384-ecp256-ecp384-modp2048"),
        description="IKE proposals in order",
    )
    encap: bool = Field(True, description="force ESP in UDP 4500 also without a NAT (default towards clouds)")
    start_action: Literal["start", "trap", "none"] = Field("start", description="start: at once and for ever; trap: at the first packet; none: only respond")
    rekey_time: Duration = Field(14400.0, ge=60, description="IKE_SA rekey after this long")
    dpd_delay: Duration = Field(10.0, ge=1, description="liveness check after this much silence from the peer")
    retransmit_timeout: Duration = Field(1.0, gt=0, description="first retransmission of an IKE request")
    retransmit_base: float = Field(1.6, ge=1, le=4, description="back-off factor of retransmissions")
    retransmit_tries: int = Field(6, ge=1, le=20, description="retransmissions before the peer counts as dead")
    tunnel_address: tuple[Interface, ...] = Field((), description="our addresses inside the tunnel, on the connection's TUN, e.g. 169.254.21.1/30")
    protected: tuple[Prefix, ...] | None = Field(None, description="prefixes that must never leave in clear; default remote_ts; required where that is a default route")
    link_mtu: int = Field(1500, ge=576, le=65535, description="MTU of the path to the peer, outer headers included")
    local_ts: tuple[Prefix, ...] | None = Field(None, description="shorthand for the only child's local_ts")
    remote_ts: tuple[Prefix, ...] | None = Field(None, description="shorthand for the only child's remote_ts")
    esp_proposals: tuple[str, ...] | None = Field(None, description="shorthand for the only child's esp_proposals")
    child: dict[Name, Child] = Field(default_factory=dict, description="CHILD_SAs by name; default one named 'net'")


class Neighbor(Section):
    """One BGP neighbor."""

    address: Address = Field(description="the neighbor's address")
    remote_as: Asn = Field(description="the neighbor's AS number")
    local_address: Address | None = Field(None, description="our address of the session; default: tunnel_address of `connection` facing it, else gateway.address")
    connection: Name | None = Field(None, description="the session runs inside this connection's tunnel; its routes point into the TUN")
    multihop: int = Field(1, ge=1, le=255, description="TTL of the session; Azure Route Server needs 2 or more")
    ttl_security: bool = Field(False, description="GTSM (RFC 5082): accept only TTL 255")
    password: SecretSource | None = Field(None, description="TCP MD5 password (RFC 2385)")
    hold_time: int = Field(30, ge=3, le=65535, description="seconds")
    passive: bool = Field(False, description="wait for the neighbor to connect")
    advertise: tuple[Prefix, ...] | None = Field(None, description="prefixes announced to this neighbor; default: bgp.advertise and what other kinds of neighbor taught us")
    max_prefixes: int = Field(4000, ge=1, description="prefixes accepted; more are discarded and said")


class Bgp(Section):
    """BGP speaker."""

    local_as: Asn = Field(description="our AS number")
    router_id: IPv4Address | None = Field(None, description="default: the first IPv4 address configured")
    advertise: tuple[Prefix, ...] = Field((), description="our own prefixes, announced to every neighbor")
    listen_port: int = Field(179, ge=0, le=65535, description="port to listen on for passive neighbors; 0: connect only")
    stale_time: Duration = Field(120.0, ge=0, description="how long routes stay in the kernel after their session or ExaBGP went away")
    neighbor: dict[Name, Neighbor] = Field(default_factory=dict)


class HaPeer(Section):
    """The other gateway of the pair: an authenticated heartbeat."""

    local_address: Address = Field(description="our address of the heartbeat")
    remote_address: Address = Field(description="the other gateway's address")
    port: int = Field(4780, ge=1, le=65535, description="UDP port on both sides")
    secret: SecretSource = Field(description="shared by the pair; at least 16 octets")
    interval: Duration = Field(0.2, ge=0.05, description="between heartbeats")
    dead_after: int = Field(5, ge=2, le=100, description="heartbeats missed before the peer counts as down")


class Metrics(Section):
    """The HTTP listener: /metrics /healthz /readyz."""

    address: Address = Field(IPv4Address("127.0.0.1"))
    port: int = Field(9550, ge=0, le=65535, description="0: off")


class Gateway(Section):
    """The daemon itself."""

    name: Name = Field("gateway", description="shown in status and logs, sent in heartbeats")
    workers: int = Field(0, ge=0, le=64, description="data plane threads; 0: one per core")
    crypto_engine: Literal["auto", "ipsec-mb", "libcrypto"] = "auto"
    run_directory: str = Field("/run/gatewayd", description="control socket and relay socket")
    state_directory: str = Field("/var/lib/gatewayd", description="what must survive a restart")
    allow_inline_secrets: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    route_table: int = Field(221, ge=1, le=4294967295, description="kernel routing table of our routes")
    route_protocol: int = Field(221, ge=5, le=255, description="rtm_protocol of our routes")
    rule_priority: int = Field(22100, ge=1, le=32700, description="priority of the first of our ip rules")
    mark: int = Field(0x67770001, ge=1, le=4294967295, description="fwmark of our own IKE, ESP and cloud traffic")


class Config(Section):
    """A whole configuration file."""

    gateway: Gateway = Gateway()
    connection: dict[Name, Connection] = Field(default_factory=dict)
    bgp: Bgp | None = None
    ha: HaPeer | None = None
    metrics: Metrics = Metrics()
