"""The heartbeat: what is in the body of a sealed datagram (`sealed.py`), octet by octet.

No standard: this is our own format, version 2.0. Times are microseconds of the sender's boot-time clock. What changes
with every datagram stands first: the sender in C (native/probe_beat.c) writes `sent_us`, `held_us`, the echo and the
sequence, and leaves the rest.

    octets
    8   sent_us          the sender's clock
    4   held_us          how long the echoed datagram was held
    8   revision         of what follows from `role` on: the highest is the newest, on whichever path it came
    16  challenge        what the peer must echo before its boot is believed
    16  echo: boot       of the datagram last heard on this path
    8   echo: sequence
    8   echo: sent_us
    16  echo: challenge
    1   role             0 INIT, 1 STANDBY, 2 ACTIVE, 3 DRAINING, 4 FAULT
    1   level            0 standby, 1 active, 2 took-over: how strongly it attracts traffic
    1   standing         of the lease: 0 not known, 1 free, 2 held by another, 3 held by the sender
    1   handover         0 none, 1 "give it to me", 2 "take it from me"
    1   flags            bit 0: ready to take over
    2   priority
    2   health           1000 is best
    4   reasons          bits, `HealthReason`
    8   epoch            the highest the sender knows to have been granted
    8   claim            without a witness: the epoch it asks the peer's consent for, 0: none
    8   yields           without a witness: the epoch it consents to, 0: none
    32  config_hash
    1+n name             printable ASCII, at most 32
    1+n software         likewise
        a later minor version appends here; what is not known is not looked at

A later minor version adds fields and bits and no values of the enumerations. A mirror image of our own datagram
verifies: the boot identifiers, not the key, tell the two directions apart (`heartbeat.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum, IntFlag
from struct import Struct

from gateway.ha.sealed import (
    BOOT_OCTETS,
    LONGEST,
    Keyring,
    Opened,
    Refused,
    Rejection,
)
from gateway.wire import Reader, Truncated, Writer

__all__ = [
    "BOOT_OCTETS",
    "CHALLENGE_OCTETS",
    "LONGEST",
    "MAGIC",
    "NO_CHALLENGE",
    "Advertised",
    "Echo",
    "Handover",
    "HealthReason",
    "Level",
    "Message",
    "Refused",
    "Rejection",
    "Role",
    "Standing",
    "body",
    "echoed",
    "keyring",
    "open_",
    "seal",
    "stamped",
    "to_echo",
]

MAGIC = b"GWHB"
CHALLENGE_OCTETS = 16
HASH_OCTETS = 32
NAME_OCTETS = 32
PATHS = 256
NOBODY = bytes(BOOT_OCTETS)
NO_CHALLENGE = bytes(CHALLENGE_OCTETS)
BEST_HEALTH = 1000
_READY = 0x01
_TIMES, _ECHOED = Struct(">QIQ"), Struct(">QQ")
_STATE = Struct(">BBBBBHHIQQQ")


class Role(IntEnum):
    """The current role. Carried; the election decides it, the heartbeat does not."""

    INIT = 0
    STANDBY = 1
    ACTIVE = 2
    DRAINING = 3
    FAULT = 4


class Level(IntEnum):
    """How strongly a gateway attracts traffic: which of three sets of BGP attributes it announces with."""

    STANDBY = 0
    ACTIVE = 1
    TOOK_OVER = 2  # must beat what a dead active announced last


class Standing(IntEnum):
    """What a gateway knows of the lease."""

    UNKNOWN = 0
    FREE = 1
    OTHER = 2
    OURS = 3


class Handover(IntEnum):
    """The planned switchover, as the two say it to each other."""

    NONE = 0
    WANTED = 1  # a standby: give it to me
    OFFERED = 2  # the active: take it, I have released the lease


class HealthReason(IntFlag):
    """What is wrong with a gateway."""

    LINK = 0x1
    TUNNELS = 0x2
    BGP = 0x4
    DATA_PLANE = 0x8
    COPY = 0x10


@dataclass(frozen=True, slots=True)
class Advertised:
    """What a gateway says of itself besides being alive. `reasons` may have bits that are named in a later version."""

    role: Role = Role.INIT
    priority: int = 0
    epoch: int = 0
    config_hash: bytes = bytes(HASH_OCTETS)
    level: Level = Level.STANDBY
    standing: Standing = Standing.UNKNOWN
    handover: Handover = Handover.NONE
    ready: bool = False
    health: int = BEST_HEALTH
    reasons: int = 0
    claim: int = 0
    yields: int = 0
    software: str = ""

    def __post_init__(self) -> None:
        if len(self.config_hash) != HASH_OCTETS:
            raise ValueError(f"config_hash must be {HASH_OCTETS} octets")
        if not (0 <= self.priority < 2**16 and 0 <= self.epoch < 2**64 and 0 <= self.health < 2**16):
            raise ValueError("priority and health have 16 bits, epoch 64")
        if self.software:
            _check_text(self.software)


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

    name: str
    boot: bytes
    sequence: int
    sent_us: int
    challenge: bytes = NO_CHALLENGE
    echo: Echo = Echo()
    advertised: Advertised = field(default_factory=Advertised)
    revision: int = 0
    path: int = 0


def keyring(secrets: Sequence[bytes], cluster: int = 0) -> Keyring:
    """The keys of a pair's heartbeats; the first secret seals."""
    return Keyring(MAGIC, secrets, cluster)


def seal(message: Message, keys: Keyring) -> bytes:
    """The datagram, encrypted and authenticated."""
    return keys.seal(message.boot, message.path, message.sequence, body(message))


def body(message: Message) -> bytes:
    """Without its header, and not encrypted."""
    writer = Writer()
    _emit(message, writer)
    return writer.done()


def stamped(body: bytes, sent_us: int, echo: Echo | None = None) -> bytes:
    """The same body with this clock, and with this echo: what the sender does (`beating.py`). None: the echo it has."""
    reader, writer = Reader(body), Writer()
    _, held_us, revision = reader.unpack(_TIMES)
    writer.pack(_TIMES, sent_us, held_us if echo is None else echo.held_us, revision)
    writer.put(reader.take(CHALLENGE_OCTETS))
    if echo is not None:
        _read_echo(reader)
        writer.put(echo.boot)
        writer.pack(_ECHOED, echo.sequence, echo.sent_us)
        writer.put(echo.challenge)
    writer.put(reader.rest())
    return writer.done()


def echoed(body: bytes) -> Echo:
    """What a body echoes."""
    reader = Reader(body)
    _, held_us, _ = reader.unpack(_TIMES)
    reader.take(CHALLENGE_OCTETS)
    return replace(_read_echo(reader), held_us=held_us)


def to_echo(boot: bytes, sequence: int, body: bytes) -> Echo:
    """What to give back of a datagram."""
    reader = Reader(body)
    sent_us, _, _ = reader.unpack(_TIMES)
    return Echo(boot, sequence, sent_us, 0, reader.take(CHALLENGE_OCTETS))


def open_(data: bytes, keys: Keyring) -> Message:
    """The message of an authentic datagram; raises Refused."""
    opened = keys.open(data)
    try:
        return _parse(opened)
    except (Truncated, ValueError) as error:
        raise Refused(Rejection.MALFORMED) from error


def _read_echo(reader: Reader) -> Echo:
    boot = reader.take(BOOT_OCTETS)
    sequence, sent_us = reader.unpack(_ECHOED)
    return Echo(boot, sequence, sent_us, 0, reader.take(CHALLENGE_OCTETS))


def _emit(message: Message, writer: Writer) -> None:
    told, echo = message.advertised, message.echo
    writer.pack(_TIMES, message.sent_us, echo.held_us, message.revision)
    writer.put(message.challenge)
    writer.put(echo.boot)
    writer.pack(_ECHOED, echo.sequence, echo.sent_us)
    writer.put(echo.challenge)
    flags = _READY if told.ready else 0
    states = (told.role, told.level, told.standing, told.handover, flags)
    writer.pack(_STATE, *states, told.priority, told.health, told.reasons, told.epoch, told.claim, told.yields)
    writer.put(told.config_hash)
    for text in (message.name, told.software):
        _check_text(text)
        writer.u8(len(text))
        writer.put(text.encode("ascii"))


def _parse(opened: Opened) -> Message:
    """Mirrors `_emit`; what is left at the end belongs to a later minor version."""
    reader = Reader(opened.body)
    sent_us, held_us, revision = reader.unpack(_TIMES)
    challenge = reader.take(CHALLENGE_OCTETS)
    echo = replace(_read_echo(reader), held_us=held_us)
    role, level, standing, handover, flags, priority, health, reasons, epoch, claim, yields = reader.unpack(_STATE)
    config_hash = reader.take(HASH_OCTETS)
    name, software = _text(reader), _text(reader)
    advertised = Advertised(
        Role(role), priority, epoch, config_hash, Level(level), Standing(standing), Handover(handover),
        bool(flags & _READY), health, reasons, claim, yields, software,
    )  # fmt: skip
    return Message(name, opened.boot, opened.sequence, sent_us, challenge, echo, advertised, revision, opened.path)


def _text(reader: Reader) -> str:
    text = reader.take(reader.u8()).decode("ascii")
    _check_text(text)
    return text


def _check_text(text: str) -> None:
    """It is shown to operators and in logs."""
    if len(text) > NAME_OCTETS or not (text.isascii() and text.isprintable()):
        raise ValueError(f"a name has at most {NAME_OCTETS} octets of printable ASCII")
