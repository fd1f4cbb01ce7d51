"""The heartbeat datagram: layout, key and authentication.

No standard: this is our own format, version 1. Times are microseconds of the sender's monotonic clock. All integers in network byte order; 169 octets plus the name.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +---------------------------------------------------------------+
    |                       magic  "GWHB"                           |
    +---------------+---------------+-------------------------------+
    |   version     |     role      |           priority            |
    +---------------+---------------+-------------------------------+
    |                          cluster                              |
    +---------------------------------------------------------------+
    | boot (16)  sequence (8)  sent_us (8)  challenge (16)          |
    +---------------------------------------------------------------+
    | echo: boot (16)  sequence (8)  sent_us (8)  held_us (4)       |
    |       challenge (16)                                          |
    +---------------------------------------------------------------+
    | epoch (8)  config_hash (32)  name length (1)  name            |
    +---------------------------------------------------------------+
    | HMAC-SHA256 over all of the above, leftmost 16 octets         |
    +---------------------------------------------------------------+

The key is HKDF-SHA256 (RFC 5869) of the shared secret; the cluster number is part of the derivation, so that two
pairs with one secret do not hear each other. Truncation as RFC 2104 section 5. A mirror image of our own datagram
verifies: the boot identifiers, not the key, tell the two directions apart (`heartbeat.py`).
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from enum import Enum, IntEnum

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.wire import Reader, Truncated, Writer

VERSION = 1
MAGIC = b"GWHB"
MAC_OCTETS = 16
BOOT_OCTETS = 16
CHALLENGE_OCTETS = 16
HASH_OCTETS = 32
NAME_OCTETS = 32
LONGEST = 256
SECRET_OCTETS = 16  # the least we accept
NOBODY = bytes(BOOT_OCTETS)
NO_CHALLENGE = bytes(CHALLENGE_OCTETS)


class Rejection(Enum):
    """Why a datagram was refused; the value is the `reason` label of gateway_ha_rejected_total."""

    BAD_VERSION = "bad_version"
    BAD_MAC = "bad_mac"
    REPLAY = "replay"
    UNKNOWN_BOOT = "unknown_boot"
    OWN_REFLECTION = "own_reflection"
    MALFORMED = "malformed"


class Refused(Exception):
    """The datagram is not an authentic heartbeat."""

    def __init__(self, why: Rejection) -> None:
        super().__init__(why.value)
        self.why = why


class Role(IntEnum):
    """The current role. Carried; the election reads it, the heartbeat does not."""

    INIT = 0
    STANDBY = 1
    ACTIVE = 2
    DRAINING = 3
    FAULT = 4


@dataclass(frozen=True, slots=True)
class Advertised:
    """What a gateway says of itself besides being alive."""

    role: Role = Role.INIT
    priority: int = 0
    epoch: int = 0
    config_hash: bytes = bytes(HASH_OCTETS)

    def __post_init__(self) -> None:
        if len(self.config_hash) != HASH_OCTETS:
            raise ValueError(f"config_hash must be {HASH_OCTETS} octets")
        if not (0 <= self.priority < 2**16 and 0 <= self.epoch < 2**64):
            raise ValueError("priority has 16 bits, epoch 64")


@dataclass(frozen=True, slots=True)
class Echo:
    """What we last heard from the peer, given back: proof that it is heard, and its own clock for the round trip."""

    boot: bytes = NOBODY
    sequence: int = 0
    sent_us: int = 0
    held_us: int = 0
    challenge: bytes = NO_CHALLENGE


@dataclass(frozen=True, slots=True)
class Message:
    """One heartbeat. `challenge` is what the peer must echo before we believe its boot identifier."""

    cluster: int
    name: str
    boot: bytes
    sequence: int
    sent_us: int
    challenge: bytes = NO_CHALLENGE
    echo: Echo = Echo()
    advertised: Advertised = Advertised()


def derive_key(secret: bytes, cluster: int) -> bytes:
    """RFC 5869: extract and expand, SHA-256."""
    if len(secret) < SECRET_OCTETS:
        raise ValueError(f"the heartbeat secret must have at least {SECRET_OCTETS} octets")
    info = b"heartbeat" + bytes([VERSION]) + cluster.to_bytes(4, "big")
    return HKDF(algorithm=SHA256(), length=32, salt=b"gatewayd", info=info).derive(secret)


def seal(message: Message, key: bytes) -> bytes:
    """The datagram, authenticated."""
    writer = Writer()
    _emit(message, writer)
    body = writer.done()
    return body + _mac(body, key)


def open_(data: bytes, key: bytes) -> Message:
    """The message of an authentic datagram; raises Refused. Nothing but magic and version is looked at before the MAC."""
    if not MAC_OCTETS + len(MAGIC) < len(data) <= LONGEST or not data.startswith(MAGIC):
        raise Refused(Rejection.MALFORMED)
    if not data.startswith(MAGIC + bytes([VERSION])):
        raise Refused(Rejection.BAD_VERSION)
    reader = Reader(data)
    body = reader.take(len(data) - MAC_OCTETS)
    if not hmac.compare_digest(reader.rest(), _mac(body, key)):
        raise Refused(Rejection.BAD_MAC)
    try:
        return _parse(Reader(body))
    except (Truncated, ValueError) as error:
        raise Refused(Rejection.MALFORMED) from error


def _mac(body: bytes, key: bytes) -> bytes:
    return hmac.digest(key, body, "sha256")[:MAC_OCTETS]


def _emit(message: Message, writer: Writer) -> None:
    name = message.name.encode("ascii")
    if len(name) > NAME_OCTETS:
        raise ValueError(f"a node name has at most {NAME_OCTETS} octets")
    told, echo = message.advertised, message.echo
    writer.put(MAGIC)
    writer.u8(VERSION)
    writer.u8(told.role)
    writer.u16(told.priority)
    writer.u32(message.cluster)
    writer.put(message.boot)
    writer.u64(message.sequence)
    writer.u64(message.sent_us)
    writer.put(message.challenge)
    writer.put(echo.boot)
    writer.u64(echo.sequence)
    writer.u64(echo.sent_us)
    writer.u32(echo.held_us)
    writer.put(echo.challenge)
    writer.u64(told.epoch)
    writer.put(told.config_hash)
    writer.u8(len(name))
    writer.put(name)


def _parse(reader: Reader) -> Message:
    """Mirrors `_emit`."""
    reader.take(len(MAGIC))
    reader.u8()
    role, priority, cluster = Role(reader.u8()), reader.u16(), reader.u32()
    boot, sequence, sent_us, challenge = (
        reader.take(BOOT_OCTETS),
        reader.u64(),
        reader.u64(),
        reader.take(CHALLENGE_OCTETS),
    )
    echo = Echo(reader.take(BOOT_OCTETS), reader.u64(), reader.u64(), reader.u32(), reader.take(CHALLENGE_OCTETS))
    advertised = Advertised(role, priority, reader.u64(), reader.take(HASH_OCTETS))
    name = reader.take(reader.u8()).decode("ascii")
    reader.expect_end()
    if len(name) > NAME_OCTETS or not name.isprintable():
        raise ValueError("node name too long or not printable")
    return Message(cluster, name, boot, sequence, sent_us, challenge, echo, advertised)
