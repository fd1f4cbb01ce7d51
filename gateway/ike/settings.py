"""What the IKE core is told about a connection; built from the configuration by node/."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from cryptography.x509 import Certificate

from gateway.contract import Endpoint
from gateway.ike.payloads import TrafficSelector
from gateway.ike.proposal import Offer
from gateway.ike.signatures import SigningKey

MEMBER = "#"
"""Between the configured name of a CHILD_SA and the number of a per-resource one; in no configured name."""
IKE_PORT = 500
NATT_PORT = 4500
NAT_KEEPALIVE_INTERVAL = 20.0
"""Seconds (RFC 3948 4)."""


@dataclass(frozen=True, slots=True)
class Identity:
    """RFC 7296 3.5; `text` is for people."""

    type: int
    data: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Credentials:
    """How we prove ourselves with a certificate. `intermediates` go with it; `pss`: rather RSASSA-PSS than PKCS #1;
    `sha1`: RSA with SHA-1 for a peer that knows no RFC 7427."""

    certificate: Certificate
    intermediates: tuple[Certificate, ...]
    key: SigningKey = field(repr=False)
    pss: bool = True
    sha1: bool = False


Revocation = Literal["off", "relaxed", "ifuri", "strict"]
"""Who is let in of whom it is not known whether he is revoked: everybody, not even asked; everybody; whoever's certificate
names nobody to ask; nobody. As swanctl has it."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whose certificates prove a peer. `sha1`: RSA with SHA-1 is taken from a peer that knows no RFC 7427. `crls`: in DER.
    `intermediates`: CAs that are known but trusted only as far as an anchor vouches for them."""

    anchors: tuple[Certificate, ...]
    sha1: bool = False
    revocation: Revocation = "off"
    crls: tuple[bytes, ...] = ()
    intermediates: tuple[Certificate, ...] = ()

    @property
    def authorities(self) -> tuple[Certificate, ...]:
        return (*self.anchors, *self.intermediates)


@dataclass(frozen=True, slots=True)
class PostQuantumKey:
    """A PPK (RFC 8784); `required`: without it no IKE_SA is established."""

    id: bytes
    secret: bytes = field(repr=False)
    required: bool = True


@dataclass(frozen=True, slots=True)
class ChildSettings:
    """One configured CHILD_SA. Times in seconds."""

    name: str
    offers: tuple[Offer, ...]
    local_ts: tuple[TrafficSelector, ...]
    remote_ts: tuple[TrafficSelector, ...]
    rekey_time: float = 3600.0
    life_time: float = 3960.0
    resources: int = 0
    """How many more of it there may be, each for one worker of the data plane (RFC 9611)."""
    resource: int | None = None
    """Of one of those: for which. None: of the one that is everybody's."""

    @property
    def group(self) -> str:
        """The name as configured."""
        return self.name.partition(MEMBER)[0]

    def members(self) -> tuple[ChildSettings, ...]:
        """Those others."""
        return tuple(replace(self, name=f"{self.name}{MEMBER}{one}", resource=one) for one in range(self.resources))


@dataclass(frozen=True, slots=True)
class ConnectionSettings:
    """One configured connection. `local`/`remote` are the IKE end points (port 500 unless configured).

    We prove ourselves with `credentials`, the peer itself to `trust`; where one of them is None, with the `psk`."""

    name: str
    local: Endpoint
    remote: Endpoint
    local_id: Identity
    remote_id: Identity
    psk: bytes = field(repr=False)
    offers: tuple[Offer, ...] = ()
    children: tuple[ChildSettings, ...] = ()
    credentials: Credentials | None = None
    trust: Trust | None = None
    ppk: PostQuantumKey | None = None
    post_quantum: str = "off"
    """"off", "prefer" or "require", as the offers already are; an IKE_SA without one is reported unless "off"."""
    quick_crash_detection: bool = True
    mobike: bool = False
    shared: bool = False
    """`local` is that of whichever gateway of a pair is active, and its SAs are kept at both."""
    redirect: Literal["follow", "ignore"] = "ignore"
    encap: bool = True
    rekey_time: float = 14400.0
    reauth_time: float = 0.0
    """Seconds until both ends prove themselves again, by a new IKE_SA beside the old one (RFC 7296 2.8.3). 0: never."""
    rekey_check: float = 0.0
    """Seconds, twice that at most, after which everything is rekeyed once on a new or changed connection. 0: never."""
    childless: bool = False
    """As initiator: no CHILD_SA in IKE_AUTH, if the peer can do without (RFC 6023). As responder we always can."""
    dpd_delay: float = 10.0
    retransmit_timeout: float = 1.0
    retransmit_base: float = 1.6
    retransmit_tries: int = 6
    half_open_timeout: float = 30.0
    fragment_size: int = 1280
    """Octets of the largest datagram with its IP header; larger messages go in fragments (RFC 7383). 0: never."""

    @property
    def negotiated(self) -> object:
        """What a rekey depends on."""
        children = tuple((child.offers, child.local_ts, child.remote_ts) for child in self.children)
        return self.remote, self.offers, children

    def child(self, name: str) -> ChildSettings | None:
        """The configured one, or one of those beside it."""
        everyone = (one for child in self.children for one in (child, *child.members()))
        return next((child for child in everyone if child.name == name), None)
