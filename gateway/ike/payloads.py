"""IKEv2 payloads (RFC 7296 3.2 to 3.16): frozen values, each with its layout table.

The generic payload header (3.2) belongs to message.py. The law `parse(emit(x)) == x` is tested for
every class of `PAYLOADS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from gateway.ike.layout import Chunks, CountOf, Items, Layout, LengthOf, More, Octets, Reserved, Rest, TotalLength, UInt
from gateway.ike.registry import (
    KEY_LENGTH_ATTRIBUTE,
    TRANSFORM_IDS,
    NotifyType,
    Number,
    PayloadType,
    Protocol,
    TransformType,
    TsType,
)

NONCE_MIN, NONCE_MAX = 16, 256  # RFC 7296 3.9
PROPOSALS_MAX = 64
"""Of one SA payload. Each is held against each of ours; what implementations send has two or three, Windows some twenty."""


@dataclass(frozen=True, slots=True)
class Transform:
    """RFC 7296 3.3.2.

    | 0 (last) or 3 |   RESERVED    |        Transform Length       |
    |Transform Type |   RESERVED    |          Transform ID         |
    ~                      Transform Attributes                     ~
    """

    LAYOUT: ClassVar[Layout] = (
        More(3),
        Reserved(1),
        TotalLength(2),
        UInt("type", 1),
        Reserved(1),
        UInt("id", 2),
        Rest("attributes"),
    )
    type: int
    id: int
    attributes: bytes = b""

    @classmethod
    def make(cls, kind: TransformType, number: int, key_bits: int = 0) -> Transform:
        """A transform, with a key length attribute when `key_bits` is not 0."""
        if not key_bits:
            return cls(int(kind), int(number))
        attribute = (0x8000 | KEY_LENGTH_ATTRIBUTE).to_bytes(2, "big") + key_bits.to_bytes(2, "big")
        return cls(int(kind), int(number), attribute)

    @property
    def key_bits(self) -> int:
        """The key length attribute, 0 if absent, -1 if there are attributes we do not understand."""
        if not self.attributes:
            return 0
        if len(self.attributes) == 4 and self.attributes[:2] == (0x8000 | KEY_LENGTH_ATTRIBUTE).to_bytes(2, "big"):
            return int.from_bytes(self.attributes[2:], "big")
        return -1

    def __str__(self) -> str:
        names = TRANSFORM_IDS.get(self.type, Number)
        name = names(self.id).name if names is not Number else f"{self.type}:{self.id}"
        return f"{name}-{self.key_bits}" if self.key_bits > 0 else name


@dataclass(frozen=True, slots=True)
class Proposal:
    """RFC 7296 3.3.1.

    | 0 (last) or 2 |   RESERVED    |         Proposal Length       |
    | Proposal Num  |  Protocol ID  |    SPI Size   |Num  Transforms|
    ~                        SPI (variable)                         ~
    ~                        <Transforms>                           ~
    """

    LAYOUT: ClassVar[Layout] = (
        More(2),
        Reserved(1),
        TotalLength(2),
        UInt("number", 1),
        UInt("protocol", 1),
        LengthOf("spi", 1),
        CountOf("transforms", 1),
        Octets("spi"),
        Items("transforms", Transform),
    )
    number: int
    protocol: int
    spi: bytes
    transforms: tuple[Transform, ...]

    def __str__(self) -> str:
        return f"{Protocol(self.protocol).name}:" + "/".join(str(transform) for transform in self.transforms)


@dataclass(frozen=True, slots=True)
class SecurityAssociation:
    """RFC 7296 3.3."""

    LAYOUT: ClassVar[Layout] = (Items("proposals", Proposal, PROPOSALS_MAX),)
    proposals: tuple[Proposal, ...]


@dataclass(frozen=True, slots=True)
class KeyExchange:
    """RFC 7296 3.4.

    |   Key Exchange Method         |           RESERVED            |
    ~                       Key Exchange Data                       ~
    """

    LAYOUT: ClassVar[Layout] = (UInt("method", 2), Reserved(2), Rest("data"))
    method: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Identification:
    """RFC 7296 3.5.

    |   ID Type     |                 RESERVED                      |
    ~                   Identification Data                         ~
    """

    LAYOUT: ClassVar[Layout] = (UInt("type", 1), Reserved(3), Rest("data"))
    type: int
    data: bytes


class IdentificationInitiator(Identification):
    """IDi."""

    __slots__ = ()


class IdentificationResponder(Identification):
    """IDr."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Certificate:
    """RFC 7296 3.6.

    | Cert Encoding |                                               |
    ~                       Certificate Data                        ~
    """

    LAYOUT: ClassVar[Layout] = (UInt("encoding", 1), Rest("data"))
    encoding: int
    data: bytes


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """RFC 7296 3.7.

    | Cert Encoding |                                               |
    ~                    Certification Authority                    ~
    """

    LAYOUT: ClassVar[Layout] = (UInt("encoding", 1), Rest("data"))
    encoding: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Authentication:
    """RFC 7296 3.8.

    | Auth Method   |                RESERVED                       |
    ~                      Authentication Data                      ~
    """

    LAYOUT: ClassVar[Layout] = (UInt("method", 1), Reserved(3), Rest("data"))
    method: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Nonce:
    """RFC 7296 3.9."""

    LAYOUT: ClassVar[Layout] = (Rest("data"),)
    data: bytes


@dataclass(frozen=True, slots=True)
class Notify:
    """RFC 7296 3.10.

    |  Protocol ID  |   SPI Size    |      Notify Message Type      |
    ~                Security Parameter Index (SPI)                 ~
    ~                       Notification Data                       ~
    """

    LAYOUT: ClassVar[Layout] = (UInt("protocol", 1), LengthOf("spi", 1), UInt("type", 2), Octets("spi"), Rest("data"))
    type: int
    data: bytes = b""
    protocol: int = 0
    spi: bytes = b""

    @property
    def name(self) -> str:
        return NotifyType(self.type).name


@dataclass(frozen=True, slots=True)
class Delete:
    """RFC 7296 3.11.

    | Protocol ID   |   SPI Size    |          Num of SPIs          |
    ~               Security Parameter Index(es) (SPI)              ~
    """

    LAYOUT: ClassVar[Layout] = (UInt("protocol", 1), LengthOf("spis", 1), CountOf("spis", 2), Chunks("spis"))
    protocol: int
    spis: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class VendorId:
    """RFC 7296 3.12."""

    LAYOUT: ClassVar[Layout] = (Rest("data"),)
    data: bytes


@dataclass(frozen=True, slots=True)
class TrafficSelector:
    """RFC 7296 3.13.1; both addresses have the length of the type, checked by grammar.py.

    |   TS Type     |IP Protocol ID |       Selector Length         |
    |           Start Port          |           End Port            |
    ~                       Starting Address                        ~
    ~                        Ending Address                         ~
    """

    LAYOUT: ClassVar[Layout] = (
        UInt("type", 1),
        UInt("protocol", 1),
        TotalLength(2),
        UInt("start_port", 2),
        UInt("end_port", 2),
        Rest("addresses"),
    )
    type: int
    protocol: int
    start_port: int
    end_port: int
    addresses: bytes

    @property
    def first(self) -> bytes:
        return self.addresses[: len(self.addresses) // 2]

    @property
    def last(self) -> bytes:
        return self.addresses[len(self.addresses) // 2 :]


@dataclass(frozen=True, slots=True)
class TrafficSelectors:
    """RFC 7296 3.13.

    | Number of TSs |                 RESERVED                      |
    ~                       <Traffic Selectors>                     ~
    """

    LAYOUT: ClassVar[Layout] = (CountOf("selectors", 1), Reserved(3), Items("selectors", TrafficSelector))
    selectors: tuple[TrafficSelector, ...]


class TrafficSelectorsInitiator(TrafficSelectors):
    """TSi."""

    __slots__ = ()


class TrafficSelectorsResponder(TrafficSelectors):
    """TSr."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Encrypted:
    """RFC 7296 3.14, as it stands on the wire: IV, ciphertext and ICV; `first_inner` is its next-payload octet."""

    LAYOUT: ClassVar[Layout] = (Rest("data"),)
    data: bytes
    first_inner: int = 0


@dataclass(frozen=True, slots=True)
class EncryptedFragment:
    """RFC 7383 2.5, as it stands on the wire; `first_inner` is its next-payload octet, 0 in all but the first.

    |        Fragment Number        |        Total Fragments        |
    ~            IV, ciphertext, Integrity Checksum Data            ~
    """

    LAYOUT: ClassVar[Layout] = (UInt("number", 2), UInt("total", 2), Rest("data"))
    number: int
    total: int
    data: bytes
    first_inner: int = 0


@dataclass(frozen=True, slots=True)
class Unknown:
    """A payload this implementation has no codec for (RFC 7296 2.5); skipped unless critical."""

    LAYOUT: ClassVar[Layout] = (Rest("data"),)
    data: bytes
    type: int = 0


Payload = (
    SecurityAssociation
    | KeyExchange
    | Identification
    | Certificate
    | CertificateRequest
    | Authentication
    | Nonce
    | Notify
    | Delete
    | VendorId
    | TrafficSelectors
    | Encrypted
    | EncryptedFragment
    | Unknown
)

PAYLOADS: dict[int, type[Payload]] = {
    PayloadType.SA: SecurityAssociation,
    PayloadType.KE: KeyExchange,
    PayloadType.IDI: IdentificationInitiator,
    PayloadType.IDR: IdentificationResponder,
    PayloadType.CERT: Certificate,
    PayloadType.CERTREQ: CertificateRequest,
    PayloadType.AUTH: Authentication,
    PayloadType.NONCE: Nonce,
    PayloadType.NOTIFY: Notify,
    PayloadType.DELETE: Delete,
    PayloadType.VENDOR_ID: VendorId,
    PayloadType.TSI: TrafficSelectorsInitiator,
    PayloadType.TSR: TrafficSelectorsResponder,
    PayloadType.SK: Encrypted,
    PayloadType.SKF: EncryptedFragment,
}
PAYLOAD_TYPES: dict[type[Payload], PayloadType] = {codec: PayloadType(number) for number, codec in PAYLOADS.items()}

TS_ADDRESS_OCTETS = {TsType.IPV4_ADDR_RANGE: 4, TsType.IPV6_ADDR_RANGE: 16}
KNOWN_TYPES = frozenset(PAYLOADS) | {
    PayloadType.CP,
    PayloadType.EAP,
}
"""Payloads whose meaning we know, with or without a codec: the critical bit does not matter for them (RFC 7296 2.5)."""
