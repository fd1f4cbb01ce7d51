"""What a gateway and the witness node say to each other: the body of a sealed datagram (`sealed.py`, magic "GWLS").

No standard: this is our own format, version 2.0.

    octets
    1   kind             a request: 1 READ, 2 ACQUIRE, 3 RENEW, 4 RELEASE, 5 BREAK (`witness.Operation`)
                         an answer: 65 GRANTED, 66 HELD, 67 FREE, 68 FAILED, 69 CHALLENGE; unasked: 70 NOTICE
    1   flags            bit 0: the lease that is held is the asker's own
    16  echo: boot       of the request that is answered
    8   echo: sequence
    16  challenge        given with CHALLENGE, and given back with every request after it
    8   epoch
    4   ttl              milliseconds
    4   remaining        milliseconds; all ones: not known
    1+n name             of who asks, or of who has the lease; printable ASCII, at most 32
    1+n text             why not; likewise, at most 96
        a later minor version appends here; what is not known is not looked at
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from gateway.ha.sealed import BOOT_OCTETS, Keyring, Opened, Refused, Rejection
from gateway.wire import Reader, Truncated, Writer

MAGIC = b"GWLS"
CHALLENGE_OCTETS = 16
NAME_OCTETS, TEXT_OCTETS = 32, 96
_OURS = 0x01
_NOT_KNOWN = 0xFFFFFFFF


class Kind(IntEnum):
    READ = 1
    ACQUIRE = 2
    RENEW = 3
    RELEASE = 4
    BREAK = 5
    GRANTED = 65
    HELD = 66
    FREE = 67
    FAILED = 68
    CHALLENGE = 69
    NOTICE = 70


REQUESTS = frozenset({Kind.READ, Kind.ACQUIRE, Kind.RENEW, Kind.RELEASE, Kind.BREAK})


@dataclass(frozen=True, slots=True)
class LeaseMessage:
    """A request, an answer or a notice. Seconds; milliseconds on the wire."""

    kind: Kind
    boot: bytes
    sequence: int
    echo_boot: bytes = bytes(BOOT_OCTETS)
    echo_sequence: int = 0
    challenge: bytes = bytes(CHALLENGE_OCTETS)
    epoch: int = 0
    ttl: float = 0.0
    remaining: float | None = None
    ours: bool = False
    name: str = ""
    text: str = ""


def keyring(secrets: Sequence[bytes], cluster: int) -> Keyring:
    """The keys of a cluster's lease messages; the first secret seals."""
    return Keyring(MAGIC, secrets, cluster)


def seal(message: LeaseMessage, keys: Keyring) -> bytes:
    writer = Writer()
    writer.u8(message.kind)
    writer.u8(_OURS if message.ours else 0)
    writer.put(message.echo_boot)
    writer.u64(message.echo_sequence)
    writer.put(message.challenge)
    writer.u64(message.epoch)
    writer.u32(_milliseconds(message.ttl))
    writer.u32(_NOT_KNOWN if message.remaining is None else _milliseconds(message.remaining))
    for text, limit in ((message.name, NAME_OCTETS), (message.text, TEXT_OCTETS)):
        octets = text.encode("ascii", "replace")[:limit]
        writer.u8(len(octets))
        writer.put(octets)
    return keys.seal(message.boot, 0, message.sequence, writer.done())


def open_(data: bytes, keys: Keyring) -> LeaseMessage:
    """The message of an authentic datagram; raises Refused."""
    opened = keys.open(data)
    try:
        return _parse(opened)
    except (Truncated, ValueError) as error:
        raise Refused(Rejection.MALFORMED) from error


def _parse(opened: Opened) -> LeaseMessage:
    """Mirrors `seal`."""
    reader = Reader(opened.body)
    kind, flags, echo_boot, echo_sequence = Kind(reader.u8()), reader.u8(), reader.take(BOOT_OCTETS), reader.u64()
    challenge, epoch, ttl, remaining = reader.take(CHALLENGE_OCTETS), reader.u64(), reader.u32(), reader.u32()
    name, text = _text(reader, NAME_OCTETS), _text(reader, TEXT_OCTETS)
    return LeaseMessage(
        kind,
        opened.boot,
        opened.sequence,
        echo_boot,
        echo_sequence,
        challenge,
        epoch,
        ttl / 1000,
        None if remaining == _NOT_KNOWN else remaining / 1000,
        bool(flags & _OURS),
        name,
        text,
    )


def _text(reader: Reader, limit: int) -> str:
    text = reader.take(reader.u8()).decode("ascii")
    if len(text) > limit or not text.isprintable():
        raise ValueError("a text that is too long or cannot be shown")
    return text


def _milliseconds(seconds: float) -> int:
    """Never more than there is."""
    return min(max(0, int(seconds * 1000)), _NOT_KNOWN - 1)
