"""ESP by scapy: a third implementation, beside the data plane's C and the reference's Python."""

from __future__ import annotations

from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.ipsec import ESP, SecurityAssociation
from support.esp_material import ALL_SUITES

from gateway.esp.dataplane import Encryption, Integrity
from gateway.esp.packet import EspKeys

ENDS = ("192.0.2.2", "192.0.2.1")
_ENCRYPTION = {
    Encryption.AES_GCM_16: "AES-GCM",
    Encryption.CHACHA20_POLY1305: "CHACHA20-POLY1305",
    Encryption.AES_CBC: "AES-CBC",
}
_INTEGRITY = {
    Integrity.NONE: None,
    Integrity.HMAC_SHA1_96: "HMAC-SHA1-96",
    Integrity.HMAC_SHA2_256_128: "SHA2-256-128",
    Integrity.HMAC_SHA2_384_192: "SHA2-384-192",
    Integrity.HMAC_SHA2_512_256: "SHA2-512-256",
}
SCAPY_SUITES = frozenset(suite for suite in ALL_SUITES if suite.encryption in _ENCRYPTION)
"""It has no AES-GCM with a shorter ICV."""


class ThirdParty:
    """One SA in tunnel mode."""

    def __init__(self, keys: EspKeys, spi: int, *, encapsulate: bool = True, ends: tuple[str, str] = ENDS) -> None:
        self._esn, self._encapsulate = keys.suite.esn, encapsulate
        self._outer = IP(src=ends[0], dst=ends[1])
        self._association = SecurityAssociation(
            ESP,
            spi=spi,
            crypt_algo=_ENCRYPTION[keys.suite.encryption],
            crypt_key=keys.encryption_key,
            auth_algo=_INTEGRITY[keys.suite.integrity],
            auth_key=keys.integrity_key or None,
            tunnel_header=self._outer,
            nat_t_header=UDP(sport=4500, dport=4500) if encapsulate else None,
            esn_en=keys.suite.esn,
        )

    def open(self, esp: bytes, sequence: int) -> bytes:
        """The inner packet; an exception of scapy's when the ICV does not verify."""
        between = self._outer / UDP(sport=4500, dport=4500) if self._encapsulate else self._outer
        return self.open_whole(bytes(between / ESP(esp)), sequence)

    def open_whole(self, packet: bytes, sequence: int) -> bytes:
        """The same from the wire, outer header and all."""
        return bytes(self._association.decrypt(IP(packet), esn_en=self._esn, esn=sequence >> 32))

    def seal(self, inner: bytes, sequence: int) -> bytes:
        """The ESP packet of a whole, sane inner packet."""
        return bytes(IP(self.seal_whole(inner, sequence))[ESP])

    def seal_whole(self, inner: bytes, sequence: int) -> bytes:
        """With its outer header."""
        packet = IPv6(inner) if inner[0] >> 4 == 6 else IP(inner)
        low, high = sequence & 0xFFFFFFFF, sequence >> 32
        return bytes(self._association.encrypt(packet, seq_num=low, esn_en=self._esn, esn=high))
