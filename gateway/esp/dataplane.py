"""The data plane as the control plane programs it (RFC 4301 4.4: SPD and SAD).

Two implementations: `gateway._native` behind `runtime/dataplane.py` (production) and
`esp/reference.py` (slow and obvious; the oracle of the tests and the data plane of the simulator).

         TUN of a connection            UDP 4500 (or protocol 50)
    ---> selectors -> outbound SA -> seal ----------------------->
    <--- selectors <- inbound SA  <- open <- replay <-------------
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from gateway.contract import Endpoint


class Encryption(Enum):
    """ESP encryption algorithms of the data plane; the value is its name in `gateway._native`."""

    AES_GCM_16 = "aes-gcm-16"  # RFC 4106
    AES_GCM_12 = "aes-gcm-12"
    AES_GCM_8 = "aes-gcm-8"
    CHACHA20_POLY1305 = "chacha20-poly1305"  # RFC 7634
    AES_CBC = "aes-cbc"  # RFC 3602

    @property
    def aead(self) -> bool:
        """Whether it brings its own integrity and takes a salt."""
        return self in AEAD_ICV_OCTETS


class Integrity(Enum):
    """ESP integrity algorithms; NONE only with a combined-mode cipher."""

    NONE = "none"
    HMAC_SHA1_96 = "hmac-sha1-96"  # RFC 2404
    HMAC_SHA2_256_128 = "hmac-sha2-256-128"  # RFC 4868
    HMAC_SHA2_384_192 = "hmac-sha2-384-192"
    HMAC_SHA2_512_256 = "hmac-sha2-512-256"


ICV_OCTETS = {
    Integrity.HMAC_SHA1_96: 12,
    Integrity.HMAC_SHA2_256_128: 16,
    Integrity.HMAC_SHA2_384_192: 24,
    Integrity.HMAC_SHA2_512_256: 32,
}
AEAD_ICV_OCTETS = {
    Encryption.AES_GCM_16: 16,
    Encryption.AES_GCM_12: 12,
    Encryption.AES_GCM_8: 8,
    Encryption.CHACHA20_POLY1305: 16,
}
AEAD_SALT_OCTETS = 4


class Direction(Enum):
    INBOUND = "in"
    OUTBOUND = "out"


@dataclass(frozen=True, slots=True)
class Suite:
    """One CHILD_SA's algorithms. `key_octets` counts the cipher key only (AES 16, 24 or 32; ChaCha20 32)."""

    encryption: Encryption
    key_octets: int
    integrity: Integrity = Integrity.NONE
    esn: bool = False


@dataclass(frozen=True, slots=True)
class Selector:
    """One traffic selector pair seen from this gateway (RFC 4301 4.4.1.1).

    Addresses are packed network order (4 or 16 octets, both ends of one family); ranges inclusive;
    `protocol` 0 is any. Ports 0..65535 is any port.
    """

    protocol: int
    local_first: bytes
    local_last: bytes
    local_port_first: int
    local_port_last: int
    remote_first: bytes
    remote_last: bytes
    remote_port_first: int
    remote_port_last: int


@dataclass(frozen=True, slots=True)
class Limits:
    """Soft limits raise an `expire` event once; at a hard limit the SA stops. 0 is no limit."""

    soft_octets: int = 0
    hard_octets: int = 0
    soft_packets: int = 0
    hard_packets: int = 0


@dataclass(frozen=True, slots=True)
class SaParameters:
    """All the data plane needs of one unidirectional SA.

    `encryption_key` is the cipher key followed, for an AEAD, by the 4-octet salt (RFC 4106 8.1, RFC 7634 2).
    `selectors`: inbound, inner packets must match one of them; outbound, what the SA may carry.
    `local`/`remote`: the outer end points; ESP goes in UDP between them when `encapsulate`,
    else as protocol 50. `worker`: the one whose traffic an outbound SA is for (RFC 9611 2: a per-resource
    CHILD_SA), modulo their number; None: everybody's, and the fallback of workers without one. `sequence`: that number and all
    below it are used up, by a process before this one: outbound never sent, inbound taken as seen. `fenced`: the other gateway
    of a pair may have it too, so it sends only before `move_fence`, and nothing before its first grant.
    """

    direction: Direction
    spi: int
    connection: int
    suite: Suite
    encryption_key: bytes = field(repr=False)
    integrity_key: bytes = field(repr=False)
    local: Endpoint
    remote: Endpoint
    selectors: tuple[Selector, ...]
    encapsulate: bool = True
    replay_window: int = 4096
    limits: Limits = Limits()
    worker: int | None = None
    sequence: int = 0
    fenced: bool = False


@dataclass(frozen=True, slots=True)
class SaCounters:
    """What one SA did so far. `last_used` is CLOCK_MONOTONIC seconds of the last packet, 0.0 if none."""

    packets: int = 0
    octets: int = 0
    sequence: int = 0
    last_used: float = 0.0
    replay_drops: int = 0
    integrity_failures: int = 0
    selector_drops: int = 0


class DataPlane(Protocol):
    """Every call takes effect for all workers before it returns.

    SAs are named by (direction, spi): inbound SPIs are ours and unique; an outbound SPI is the
    peer's, so it is qualified by its connection.
    """

    def add_connection(self, connection: int, name: str, mtu: int) -> None:
        """Makes the connection's TUN with its link up. Idempotent for an existing one."""

    def update_connection(
        self,
        connection: int,
        mtu: int,
        tcp_mss4: int,
        tcp_mss6: int,
        dscp: int | None = None,
        clear_df: bool = False,
    ) -> None:
        """Sets the inner MTU (octets of an inner IP packet) and the MSS clamps; 0 turns a clamp off. `dscp`: of every
        outer packet; None: the inner packet's. `clear_df`: IPv4 packets beyond the MTU are fragmented whatever their DF
        bit says."""

    def remove_connection(self, connection: int) -> None:
        """Removes its SAs, policies and TUN."""

    def add_sa(self, sa: SaParameters) -> None:
        """Installs an SA. An outbound one carries nothing until `replace_policies` names it."""

    def remove_sa(self, direction: Direction, connection: int, spi: int) -> None:
        """Removes an SA and wipes its keys. Unknown SAs are ignored."""

    def move_sa(self, connection: int, spi: int, remote: Endpoint, local: Endpoint | None = None) -> None:
        """Moves an outbound SA to another address or port of the peer's; with `local` to another of ours, too."""

    def replace_policies(self, connection: int, spis: tuple[int, ...]) -> None:
        """The outbound SAs of the connection in order of preference, replaced at once."""

    def grant(self, connection: int, spi: int, limit: int) -> None:
        """No sequence number above `limit` is sent on this outbound SA."""

    def move_fence(self, until: float) -> None:
        """Until when fenced SAs may send, in seconds of CLOCK_BOOTTIME; infinity: always, 0: not at all."""

    def advance(self, connection: int, spi: int, by: int) -> None:
        """So many sequence numbers of this outbound SA are never used (RFC 6311 5.1), or all that are left."""

    def sa_counters(self) -> dict[tuple[Direction, int, int], SaCounters]:
        """(direction, connection, spi) -> counters."""

    def drop_counters(self) -> dict[tuple[int, str], int]:
        """(connection, reason) -> packets; connection 0 where none is known."""
