"""An IKE message on the wire (RFC 7296 3.1, 3.2): header, payload chain, the SK payload's envelope.

UDP 4500: non-ESP marker (stripped before) | header | payloads...          plain
                                           | header | SK { payloads... }   sealed by keymat.py
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from struct import Struct

from gateway.ike.errors import PeerError, Violation, malformed
from gateway.ike.layout import octets_of, parse
from gateway.ike.payloads import (
    KNOWN_TYPES,
    PAYLOAD_TYPES,
    PAYLOADS,
    Encrypted,
    EncryptedFragment,
    Notify,
    Payload,
    Unknown,
)
from gateway.ike.registry import ExchangeType, Flags, NotifyType, PayloadType
from gateway.wire import Reader, Truncated, packed

HEADER_OCTETS = 28
PAYLOAD_HEADER_OCTETS = 4
VERSION = 0x20  # RFC 7296 3.1: major 2, minor 0
CRITICAL = 0x80
MESSAGE_MAX = 65535
PAYLOADS_MAX = 100
SEALED = (PayloadType.SK, PayloadType.SKF)
STRUCTURED_MAX: dict[int, int] = {
    PayloadType.SA: 4096,
    PayloadType.DELETE: 8192,
    PayloadType.TSI: 12288,
    PayloadType.TSR: 12288,
}
"""Octets, all of a message together, of payloads that cost far more to take apart than they do to send. Room for five hundred
transforms and for every traffic selector that a payload can count; a datagram of nothing else would keep us busy for 20 ms."""
INIT_REQUEST_MAX = 8192
"""Octets of an IKE_SA_INIT request, which is kept for AUTH before anybody proved anything. Room for an SA payload of the size above,
the largest public value that comes in one (RFC 9370 2.2.1: what is larger comes later, in IKE_INTERMEDIATE) and the rest twice."""
_HEADER = Struct(">QQBBBBII")
_CHAINED, _PAYLOAD_HEADER, _PLACE = Struct(">BBH"), Struct(">BxH"), Struct(">HH")


@dataclass(frozen=True, slots=True)
class Header:
    """RFC 7296 3.1.

    |                       IKE SA Initiator's SPI                  |
    |                       IKE SA Responder's SPI                  |
    |  Next Payload | MjVer | MnVer | Exchange Type |     Flags     |
    |                          Message ID                           |
    |                            Length                             |
    """

    initiator_spi: int
    responder_spi: int
    exchange: ExchangeType
    flags: Flags
    message_id: int

    @property
    def is_response(self) -> bool:
        return bool(self.flags & Flags.RESPONSE)

    @property
    def receiver_spi(self) -> int:
        """The one that its receiver chose."""
        return self.responder_spi if self.from_original_initiator else self.initiator_spi

    @property
    def from_original_initiator(self) -> bool:
        return bool(self.flags & Flags.INITIATOR)


@dataclass(frozen=True, slots=True)
class Message:
    """A header, its payloads in order, and the octets they came from (for AUTH and for retransmission)."""

    header: Header
    payloads: tuple[Payload, ...]
    octets: bytes = b""
    inner: tuple[int, bytes] = (0, b"")
    """Of an opened one: the first payload's type, and the plaintext."""

    def first(self, kind: type[Payload]) -> Payload | None:
        """The first payload of exactly this class."""
        return next((payload for payload in self.payloads if type(payload) is kind), None)

    def notifies(self) -> Iterator[Notify]:
        return (payload for payload in self.payloads if isinstance(payload, Notify))

    def notify(self, kind: NotifyType) -> Notify | None:
        """The first Notify of a type."""
        return next((notify for notify in self.notifies() if notify.type == kind), None)

    def error(self) -> Notify | None:
        """The first error Notify (RFC 7296 3.10.1)."""
        return next((notify for notify in self.notifies() if NotifyType(notify.type).is_error), None)

    @property
    def encrypted(self) -> Encrypted | None:
        last = self.payloads[-1] if self.payloads else None
        return last if isinstance(last, Encrypted) else None

    @property
    def fragment(self) -> EncryptedFragment | None:
        last = self.payloads[-1] if self.payloads else None
        return last if isinstance(last, EncryptedFragment) else None


def parse_header(data: bytes) -> tuple[Header, int]:
    """Header and first payload type; PeerError for another major version or a wrong length."""
    reader = Reader(data)
    try:
        initiator_spi, responder_spi, first, version, exchange, flags, message_id, length = reader.unpack(_HEADER)
    except Truncated as short:
        raise PeerError(Violation.MALFORMED, f"IKE header: {short}") from None
    header = Header(initiator_spi, responder_spi, ExchangeType(exchange), Flags(flags & 0x38), message_id)
    # RFC 7296 2.5: a higher minor version is accepted, a higher major one is not
    if version >> 4 != VERSION >> 4:
        raise PeerError(
            Violation.MAJOR_VERSION, f"version {version >> 4}.{version & 15}", NotifyType.INVALID_MAJOR_VERSION
        )
    if length != len(data) or initiator_spi == 0:
        raise PeerError(Violation.MALFORMED, f"length {length} in a datagram of {len(data)}")
    if length > INIT_REQUEST_MAX and header.exchange == ExchangeType.IKE_SA_INIT and not header.is_response:
        raise PeerError(Violation.MALFORMED, f"IKE_SA_INIT of {length} octets")
    return header, first


def parse_message(data: bytes) -> Message:
    """A whole datagram without its marker. SK stays sealed: see `parse_inner`."""
    return parse_rest(data, *parse_header(data))


def parse_rest(data: bytes, header: Header, first: int) -> Message:
    """The same, of one whose header has been read."""
    return Message(header, parse_chain(data[HEADER_OCTETS:], first), bytes(data))


def parse_chain(data: bytes, first: int) -> tuple[Payload, ...]:
    """RFC 7296 3.2: the chain of payloads that fills `data` exactly."""
    reader = Reader(data)
    payloads: list[Payload] = []
    kind = first
    structured = dict.fromkeys(STRUCTURED_MAX, 0)
    try:
        while kind != PayloadType.NONE:
            if len(payloads) == PAYLOADS_MAX:
                raise malformed("too many payloads")
            following, flags, length = reader.unpack(_CHAINED)
            body = reader.sub(length - PAYLOAD_HEADER_OCTETS)
            if kind in structured:
                structured[kind] += length
                if structured[kind] > STRUCTURED_MAX[kind]:
                    raise malformed(f"more than {STRUCTURED_MAX[kind]} octets of {PayloadType(kind).name}")
            payload = _parse_payload(kind, bool(flags & CRITICAL), body, following)
            if payload is not None:
                payloads.append(payload)
            # RFC 7296 3.14: SK is the last payload; its next-payload octet names the first one inside
            kind = PayloadType.NONE if kind in SEALED else following
        reader.expect_end()
    except Truncated as short:
        raise malformed(str(short)) from None
    return tuple(payloads)


def find_payload(data: bytes, first: int, wanted: int) -> bytes | None:
    """The body of the first payload of a type in a message in clear, nothing else of it read; None if there is none to be found
    among as many as a message may have."""
    reader = Reader(data)
    try:
        reader.take(HEADER_OCTETS)
        kind = first
        for _ in range(PAYLOADS_MAX):
            if kind == PayloadType.NONE:
                break
            following, _, length = reader.unpack(_CHAINED)
            body = reader.take(length - PAYLOAD_HEADER_OCTETS)
            if kind == wanted:
                return body
            kind = following
    except Truncated:
        return None
    return None


def _parse_payload(kind: int, critical: bool, body: Reader, following: int) -> Payload | None:
    codec = PAYLOADS.get(kind)
    if codec is None:
        # RFC 7296 2.5: unknown payloads are skipped unless critical; the critical bit of known ones is ignored
        if critical and kind not in KNOWN_TYPES:
            raise PeerError(
                Violation.CRITICAL_PAYLOAD,
                f"payload type {kind}",
                NotifyType.UNSUPPORTED_CRITICAL_PAYLOAD,
                bytes([kind & 0xFF]),
            )
        return Unknown(body.rest(), kind)
    if codec is Encrypted:
        return Encrypted(body.rest(), following)
    payload = parse(codec, body)
    body.expect_end()
    return replace(payload, first_inner=following) if isinstance(payload, EncryptedFragment) else payload


def _payload_type(payload: Payload) -> int:
    return payload.type if isinstance(payload, Unknown) else PAYLOAD_TYPES[type(payload)]


def emit_chain(payloads: tuple[Payload, ...]) -> tuple[int, bytes]:
    """First payload type and the octets of the chain."""
    kinds = [*map(_payload_type, payloads), PayloadType.NONE]
    parts: list[bytes] = []
    for following, payload in zip(kinds[1:], payloads, strict=True):
        body = octets_of(payload)
        parts += packed(_PAYLOAD_HEADER, following, PAYLOAD_HEADER_OCTETS + len(body)), body
    return kinds[0], b"".join(parts)


def emit_header(header: Header, first: int, length: int) -> bytes:
    return packed(
        _HEADER, header.initiator_spi, header.responder_spi, first, VERSION, header.exchange, header.flags,
        header.message_id, length,
    )  # fmt: skip


def emit_message(header: Header, payloads: tuple[Payload, ...]) -> bytes:
    """A message without encryption."""
    first, body = emit_chain(payloads)
    return emit_header(header, first, HEADER_OCTETS + len(body)) + body


def header_of(data: bytes) -> Header:
    """Of a message that cannot be parsed, for whoever answers it in clear; the caller knows that it is long enough."""
    return Header(
        int.from_bytes(data[:8], "big"),
        int.from_bytes(data[8:16], "big"),
        ExchangeType(data[18]),
        Flags(data[19] & 0x38),
        int.from_bytes(data[20:24], "big"),
    )


def intermediate_octets(header: Header, first_inner: int, plaintext: bytes) -> bytes:
    """RFC 9242 3.3.2: IntAuth_A | IntAuth_P, a message as if nothing were encrypted, padded or cut into fragments."""
    return sealed_prefix(header, first_inner, len(plaintext)) + plaintext


def sealed_prefix(header: Header, first_inner: int, sealed_octets: int, place: tuple[int, int] | None = None) -> bytes:
    """RFC 7296 3.14: what stands before the IV of a sealed message, hence the associated data of an AEAD.
    `place`: number and total of a fragment (RFC 7383 2.5)."""
    length = PAYLOAD_HEADER_OCTETS + (4 if place else 0) + sealed_octets
    head = emit_header(header, PayloadType.SKF if place else PayloadType.SK, HEADER_OCTETS + length)
    return head + packed(_PAYLOAD_HEADER, first_inner, length) + (packed(_PLACE, *place) if place else b"")
