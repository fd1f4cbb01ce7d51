"""The BFD Control packet (RFC 5880 4.1) with its SHA1 authentication (RFC 5880 4.4).

     0                   1                   2                   3
    |Vers |  Diag   |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
    |                       My Discriminator                        |
    |                      Your Discriminator                       |
    |                    Desired Min TX Interval                    |
    |                   Required Min RX Interval                    |
    |                 Required Min Echo RX Interval                 |
    |   Auth Type   |   Auth Len    |  Auth Key ID  |   Reserved    |
    |                        Sequence Number                        |
    |                   Auth Key/Hash (20 octets)                   |

`parse` gives a value or raises `Refused`; what depends on a session is `session.py`'s. Intervals are microseconds. No
password and MD5 authentication: nobody who authenticates should use them.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import Enum, IntEnum

from gateway.wire import Reader, Truncated, Writer

VERSION = 1
MANDATORY_OCTETS = 24
AUTHENTICATION_OCTETS = 28
KEY_OCTETS = 20
HASH_AT = MANDATORY_OCTETS + 8
# Where a session is told from another, for who looks without parsing (native/probe.c)
FLAGS_AT, YOUR_DISCRIMINATOR_AT = 1, 8
MICROSECOND = 1e-6


class State(IntEnum):
    """RFC 5880 4.1."""

    ADMIN_DOWN = 0
    DOWN = 1
    INIT = 2
    UP = 3


class Diagnostic(IntEnum):
    """Why the sender's session last left the Up state (RFC 5880 4.1)."""

    NONE = 0
    DETECTION_TIME_EXPIRED = 1
    ECHO_FAILED = 2
    NEIGHBOR_SIGNALED_DOWN = 3
    FORWARDING_PLANE_RESET = 4
    PATH_DOWN = 5
    CONCATENATED_PATH_DOWN = 6
    ADMINISTRATIVELY_DOWN = 7
    REVERSE_CONCATENATED_PATH_DOWN = 8

    @classmethod
    def _missing_(cls, value: object) -> Diagnostic | None:
        """The codes 9 to 31 are reserved; what they say is not known."""
        return cls.NONE if isinstance(value, int) and 0 <= value < 32 else None

    @property
    def text(self) -> str:
        return "" if self is Diagnostic.NONE else self.name.lower().replace("_", " ")


class AuthenticationType(IntEnum):
    """RFC 5880 4.1; the two of them that are taken."""

    KEYED_SHA1 = 4
    METICULOUS_KEYED_SHA1 = 5


_AUTHENTICATION_TYPES = frozenset(AuthenticationType)


class Refusal(Enum):
    """Why a packet is discarded; also the label of its counter."""

    LENGTH = "length"
    VERSION = "version"
    MULTIPLIER = "multiplier"
    MULTIPOINT = "multipoint"
    DISCRIMINATOR = "discriminator"
    AUTHENTICATION = "authentication"  # present or absent against the configuration, of another type or key
    SEQUENCE = "sequence"
    HASH = "hash"


class Refused(Exception):
    def __init__(self, why: Refusal) -> None:
        super().__init__(why.value)
        self.why = why


@dataclass(frozen=True, slots=True)
class Authentication:
    """The authentication section without its hash, which belongs to the octets."""

    kind: int
    key_id: int
    sequence: int


@dataclass(frozen=True, slots=True)
class ControlPacket:
    state: State
    diagnostic: Diagnostic
    multiplier: int
    my_discriminator: int
    your_discriminator: int
    desired_min_tx: int
    required_min_rx: int
    required_min_echo_rx: int = 0
    poll: bool = False
    final: bool = False
    control_plane_independent: bool = False
    demand: bool = False
    authentication: Authentication | None = None


# Bit of each flag in the second octet, below the two bits of the state
_POLL, _FINAL, _INDEPENDENT, _AUTHENTICATED, _DEMAND, _MULTIPOINT = 0x20, 0x10, 0x08, 0x04, 0x02, 0x01
POLL_OR_FINAL = _POLL | _FINAL


def parse(data: bytes) -> ControlPacket:
    """The checks of RFC 5880 6.8.6 that need no session. `Refused` names the one that failed."""
    try:
        return _parse(Reader(data), len(data))
    except Truncated:
        raise Refused(Refusal.LENGTH) from None


def _parse(reader: Reader, received: int) -> ControlPacket:
    first, flags, multiplier, length = reader.u8(), reader.u8(), reader.u8(), reader.u8()
    # RFC 5880 6.8.6: in this order
    if first >> 5 != VERSION:
        raise Refused(Refusal.VERSION)
    authenticated = bool(flags & _AUTHENTICATED)
    if length < (MANDATORY_OCTETS + 2 if authenticated else MANDATORY_OCTETS) or length > received:
        raise Refused(Refusal.LENGTH)
    if multiplier == 0:
        raise Refused(Refusal.MULTIPLIER)
    if flags & _MULTIPOINT:
        raise Refused(Refusal.MULTIPOINT)
    mine, yours, desired, required, echo = (reader.u32() for _ in range(5))
    state = State(flags >> 6)
    if mine == 0 or (yours == 0 and state not in (State.DOWN, State.ADMIN_DOWN)):
        raise Refused(Refusal.DISCRIMINATOR)
    return ControlPacket(
        state=state,
        diagnostic=Diagnostic(first & 0x1F),
        multiplier=multiplier,
        my_discriminator=mine,
        your_discriminator=yours,
        desired_min_tx=desired,
        required_min_rx=required,
        required_min_echo_rx=echo,
        poll=bool(flags & _POLL),
        final=bool(flags & _FINAL),
        control_plane_independent=bool(flags & _INDEPENDENT),
        demand=bool(flags & _DEMAND),
        authentication=_authentication(reader.sub(length - MANDATORY_OCTETS)) if authenticated else None,
    )


def _authentication(section: Reader) -> Authentication:
    kind, length = section.u8(), section.u8()
    if kind not in _AUTHENTICATION_TYPES:
        raise Refused(Refusal.AUTHENTICATION)
    # RFC 5880 4.4: the section is 28 octets
    if length != AUTHENTICATION_OCTETS or section.remaining != AUTHENTICATION_OCTETS - 2:
        raise Refused(Refusal.LENGTH)
    key_id, _ = section.u8(), section.u8()
    return Authentication(kind, key_id, section.u32())


def emit(packet: ControlPacket, key: bytes = b"") -> bytes:
    """The octets; with an authentication section the hash is made with `key`."""
    writer = Writer()
    section = packet.authentication
    flags = (
        packet.state << 6
        | _POLL * packet.poll
        | _FINAL * packet.final
        | _INDEPENDENT * packet.control_plane_independent
        | _AUTHENTICATED * (section is not None)
        | _DEMAND * packet.demand
    )
    writer.u8(VERSION << 5 | packet.diagnostic)
    writer.u8(flags)
    writer.u8(packet.multiplier)
    writer.u8(MANDATORY_OCTETS + (AUTHENTICATION_OCTETS if section is not None else 0))
    for value in (packet.my_discriminator, packet.your_discriminator, packet.desired_min_tx, packet.required_min_rx):
        writer.u32(value)
    writer.u32(packet.required_min_echo_rx)
    if section is None:
        return writer.done()
    for octet in (section.kind, AUTHENTICATION_OCTETS, section.key_id, 0):
        writer.u8(octet)
    writer.u32(section.sequence)
    head = writer.done()
    return head + _hash(head, key)


def verify(data: bytes, key: bytes) -> bool:
    """RFC 5880 6.7.4: whether the hash of an authenticated packet is made with `key`."""
    packet = data[: MANDATORY_OCTETS + AUTHENTICATION_OCTETS]
    return hmac.compare_digest(packet[HASH_AT:], _hash(packet[:HASH_AT], key))


def _hash(head: bytes, key: bytes) -> bytes:
    # RFC 5880 6.7.4: over the packet with the key, padded with zeros, in the place of the hash
    return hashlib.sha1(head + key.ljust(KEY_OCTETS, b"\0"), usedforsecurity=False).digest()
