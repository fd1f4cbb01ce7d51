"""The sections that say how a neighbor or a tunnel is watched, beside its own protocol's timers."""

from __future__ import annotations

from pydantic import Field

from gateway.config.addresses import AddressField
from gateway.config.types import Duration, Integer, SecretSource, Section


class Bfd(Section):
    """BFD with a neighbor (RFC 5880); an empty table takes the defaults.

    Single hop (RFC 5881) with `multihop = 1`, inside a tunnel or beside: both ends send with TTL 255 to UDP 3784. Else
    multihop (RFC 5883), UDP 4784. The slower end's interval counts, and the other end's `multiplier` is how many packets may
    be missed: 0.3 s and 3 find a failure within 0.9 s, 0.1 s and 3 within 0.3 s. When the session fails, other routes are
    used at once and the neighbor's are announced to nobody; its BGP session is left alone. A neighbor that never was up, or
    says that it is administratively down, counts as one without BFD (RFC 5882).
    """

    interval: Duration = Field(
        default=0.3, ge=0.05, le=60, description="between packets, both sent and received; at least 0.3 with a secret"
    )
    multiplier: Integer = Field(
        default=3, ge=1, le=255, description="packets of ours that may be missed before the neighbor gives us up"
    )
    secret: SecretSource | None = Field(
        default=None, description="meticulous keyed SHA1 (RFC 5880 6.7.4) with this key of 1 to 20 octets"
    )
    key_id: Integer = Field(default=1, ge=0, le=255, description="number of the key, the same at both ends")


class Circuit(Section):
    """The private circuit that carries in clear what the connection is the backup for (`protection = "backup"`).

    An address behind it is pinged in clear, by the host's own routes. While it answers, the connection's prefixes follow
    these routes, and so leave in clear; when it is silent they go into the tunnel, and where that is down too they are
    dropped. Handed back is after it answered for `hold`. A daemon that was killed watches nothing: what went by the circuit
    goes on following the host's routes.
    """

    address: AddressField = Field(description="an address that answers pings across the circuit, not by the tunnel")
    local_address: AddressField | None = Field(
        default=None, description="our address that it is pinged from; default: local_addrs"
    )
    interval: Duration = Field(default=0.3, ge=0.05, le=60, description="between two echo requests")
    multiplier: Integer = Field(default=3, ge=2, le=255, description="answers that may be missed")
    hold: Duration = Field(default=10.0, ge=0, le=86400, description="how long it must answer again before it is used")


class Probe(Section):
    """Liveness of a tunnel whose peer has no BFD: ICMP echo to an address behind it, from tunnel_address.

    Only answers count, for they prove both directions. After as many answers in a row as `multiplier` says the tunnel counts
    as alive; when it then is silent, other routes are used at once, and IKE asks the peer for a sign of life. What has
    no other way keeps this one. As long as nothing ever answered the probe says nothing.

    It also finds MTU black holes: when the tunnel came up or moved, and every ten minutes, packets of the tunnel's whole
    MTU are asked for. If they vanish while small ones are answered, `gatewayctl explain` says how much passes and which
    `link_mtu` to set; nothing is changed by itself. Without a probe nobody looks.
    """

    address: AddressField = Field(description="an address that answers pings, e.g. the peer's inside the tunnel")
    interval: Duration = Field(default=0.3, ge=0.05, le=60, description="between two echo requests")
    multiplier: Integer = Field(default=3, ge=2, le=255, description="answers that may be missed")
