"""ESP packets in plain Python: seal, open, anti-replay. Slow, obvious, the oracle of native/esp.c and native/replay.c.

Written from the RFCs, not from native/: RFC 4303 (ESP, anti-replay, ESN in Appendix A), RFC 4106 (AES-GCM), RFC 7634
(ChaCha20-Poly1305), RFC 3602 (AES-CBC), RFC 2404 and RFC 4868 (HMACs). No tables, no clock; CBC IVs come from an injected source.

    SPI(4) sequence(4) | IV | payload, padding 1 2 3 ..., pad length, next header | ICV
    <---------- AAD -->      <------------------ encrypted ----------------------->
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import constant_time, hashes, hmac
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from gateway.contract import RandomSource
from gateway.esp.dataplane import AEAD_SALT_OCTETS, Encryption, Integrity, Suite
from gateway.esp.mtu import ALIGNMENT_OCTETS, ESP_HEADER_OCTETS, ESP_TRAILER_OCTETS, IV_OCTETS, icv_octets
from gateway.wire import Reader, Truncated

NEXT_HEADER_IPV4 = 4
NEXT_HEADER_IPV6 = 41
NEXT_HEADER_NONE = 59
SEQUENCE_SPACE = 2**32


class Drop(StrEnum):
    """Drop reasons, by their labels in native/drop_reasons.h."""

    NO_SA = "no_sa"
    SEQUENCE_EXHAUSTED = "sequence_exhausted"
    NOT_ACTIVE = "not_active"
    HARD_LIMIT = "hard_limit"
    TOO_BIG = "too_big"
    INNER_MALFORMED = "inner_malformed"
    UNKNOWN_SPI = "unknown_spi"
    TOO_SHORT = "too_short"
    REPLAY = "replay"
    INTEGRITY = "integrity"
    BAD_TRAILER = "bad_trailer"
    SELECTOR = "selector"
    DUMMY = "dummy"
    KEEPALIVE = "keepalive"


HASHES: dict[Integrity, type[hashes.HashAlgorithm]] = {
    Integrity.HMAC_SHA1_96: hashes.SHA1,
    Integrity.HMAC_SHA2_256_128: hashes.SHA256,
    Integrity.HMAC_SHA2_384_192: hashes.SHA384,
    Integrity.HMAC_SHA2_512_256: hashes.SHA512,
}


@dataclass(frozen=True, slots=True)
class EspKeys:
    """The keys of one SA, checked against its suite on creation (ValueError)."""

    suite: Suite
    encryption_key: bytes = field(repr=False)
    integrity_key: bytes = field(repr=False)

    def __post_init__(self) -> None:
        aead = self.suite.encryption.aead
        if aead != (self.suite.integrity is Integrity.NONE):
            raise ValueError("an AEAD takes no separate integrity algorithm, AES-CBC needs one")
        salt = AEAD_SALT_OCTETS if aead else 0
        # RFC 7634 2: ChaCha20 has one key length.
        lengths = (32,) if self.suite.encryption is Encryption.CHACHA20_POLY1305 else (16, 24, 32)
        if self.suite.key_octets not in lengths or len(self.encryption_key) != self.suite.key_octets + salt:
            raise ValueError("encryption key length does not fit the suite")
        # RFC 4868 2.1.1, RFC 2404 3: the key is as long as the digest.
        digest = 0 if aead else HASHES[self.suite.integrity]().digest_size
        if len(self.integrity_key) != digest:
            raise ValueError("integrity key length does not fit the suite")


class Opened(NamedTuple):
    """What an authentic ESP packet carried."""

    payload: bytes
    next_header: int


# ---- one packet ----


def seal(keys: EspKeys, spi: int, sequence: int, payload: bytes, next_header: int, random: RandomSource) -> bytes:
    """The ESP packet of an inner packet. ValueError when the sequence number may not be used."""
    # RFC 4303 3.3.3: numbers start at 1 and never cycle.
    if not 1 <= sequence < (2**64 if keys.suite.esn else SEQUENCE_SPACE):
        raise ValueError(f"sequence number {sequence} is out of range")
    header = spi.to_bytes(4, "big") + (sequence % SEQUENCE_SPACE).to_bytes(4, "big")
    text = payload + _trailer(len(payload), ALIGNMENT_OCTETS[keys.suite.encryption], next_header)
    if keys.suite.encryption.aead:
        # RFC 4106 3.1, RFC 7634 2: the IV must not repeat under the key; the 64-bit sequence number does not.
        iv = sequence.to_bytes(8, "big")
        return header + iv + _aead_seal(keys, iv, text, _aad(keys, header, sequence))
    # RFC 3602 3: the IV must be unpredictable.
    iv = random.octets(16)
    encryptor = Cipher(algorithms.AES(keys.encryption_key), modes.CBC(iv)).encryptor()
    packet = header + iv + encryptor.update(text) + encryptor.finalize()
    return packet + _icv(keys, packet, sequence)


def open_packet(keys: EspKeys, packet: bytes, sequence: int) -> Opened | Drop:
    """The reverse. `sequence` is the full number the receiver inferred; its high half matters with ESN only."""
    reader = Reader(packet)
    icv_length = icv_octets(keys.suite)
    try:
        header = reader.take(ESP_HEADER_OCTETS)
        iv = reader.take(IV_OCTETS[keys.suite.encryption])
        text = reader.take(reader.remaining - icv_length)
        icv = reader.take(icv_length)
    except Truncated:
        return Drop.TOO_SHORT
    if len(text) == 0 or len(text) % ALIGNMENT_OCTETS[keys.suite.encryption]:
        return Drop.TOO_SHORT
    if keys.suite.encryption.aead:
        try:
            plain = _aead_open(keys, iv, text, icv, _aad(keys, header, sequence))
        except InvalidTag:
            return Drop.INTEGRITY
        return _without_trailer(plain)
    if not constant_time.bytes_eq(icv, _icv(keys, header + iv + text, sequence)):
        return Drop.INTEGRITY
    decryptor = Cipher(algorithms.AES(keys.encryption_key), modes.CBC(iv)).decryptor()
    return _without_trailer(decryptor.update(text) + decryptor.finalize())


def _trailer(payload_octets: int, alignment: int, next_header: int) -> bytes:
    # RFC 4303 2.4: 1, 2, 3, ... up to the alignment.
    pad = -(payload_octets + ESP_TRAILER_OCTETS) % alignment
    return bytes(range(1, pad + 1)) + bytes((pad, next_header))


def _without_trailer(text: bytes) -> Opened | Drop:
    pad, next_header = text[-2], text[-1]
    body = text[:-ESP_TRAILER_OCTETS]
    if pad > len(body) or body[len(body) - pad :] != bytes(range(1, pad + 1)):
        return Drop.BAD_TRAILER
    if next_header not in (NEXT_HEADER_IPV4, NEXT_HEADER_IPV6, NEXT_HEADER_NONE):
        return Drop.BAD_TRAILER
    return Opened(body[: len(body) - pad], next_header)


def _aead_seal(keys: EspKeys, iv: bytes, text: bytes, aad: bytes) -> bytes:
    key, salt = keys.encryption_key[:-AEAD_SALT_OCTETS], keys.encryption_key[-AEAD_SALT_OCTETS:]
    aead = ChaCha20Poly1305(key) if keys.suite.encryption is Encryption.CHACHA20_POLY1305 else AESGCM(key)
    # RFC 4106 6: a shorter ICV is the beginning of the long one.
    return aead.encrypt(salt + iv, text, aad)[: len(text) + icv_octets(keys.suite)]


def _aead_open(keys: EspKeys, iv: bytes, text: bytes, icv: bytes, aad: bytes) -> bytes:
    """InvalidTag when it does not verify."""
    key, salt = keys.encryption_key[:-AEAD_SALT_OCTETS], keys.encryption_key[-AEAD_SALT_OCTETS:]
    if keys.suite.encryption is Encryption.CHACHA20_POLY1305:
        return ChaCha20Poly1305(key).decrypt(salt + iv, text + icv, aad)
    if keys.suite.encryption is Encryption.AES_GCM_16:
        return AESGCM(key).decrypt(salt + iv, text + icv, aad)
    decryptor = Cipher(algorithms.AES(key), modes.GCM(salt + iv, icv, min_tag_length=len(icv))).decryptor()
    decryptor.authenticate_additional_data(aad)
    return decryptor.update(text) + decryptor.finalize()


def _aad(keys: EspKeys, header: bytes, sequence: int) -> bytes:
    # RFC 4106 5, RFC 7634 2.1: SPI and the 32-bit or, with ESN, the 64-bit sequence number.
    return header[:4] + _high(sequence) + header[4:] if keys.suite.esn else header


def _icv(keys: EspKeys, covered: bytes, sequence: int) -> bytes:
    mac = hmac.HMAC(keys.integrity_key, HASHES[keys.suite.integrity]())
    mac.update(covered)
    if keys.suite.esn:
        # RFC 4303 2.2.1: the high half is covered though not transmitted.
        mac.update(_high(sequence))
    return mac.finalize()[: icv_octets(keys.suite)]


def _high(sequence: int) -> bytes:
    return (sequence // SEQUENCE_SPACE).to_bytes(4, "big")


# ---- anti-replay ----


class ReplayWindow:
    """RFC 4303 3.4.3 with a set of numbers. Size 0 switches replay protection off, but ESN inference goes on."""

    def __init__(self, size: int, esn: bool) -> None:
        self.size = 0
        if size:
            self.size = 64
            while self.size < size:
                self.size *= 2
        self.esn = esn
        self.top = self._resumed = 0
        self._seen: set[int] = set()

    def resume(self, top: int) -> None:
        """Of a new window: all numbers up to `top` were seen elsewhere."""
        self.top = top
        self._resumed = top if self.size else 0

    def infer(self, low: int) -> int:
        """RFC 4303 Appendix A2.1: the one number with these low bits in the 2^32 from the window's bottom on."""
        if not self.esn:
            return low
        bottom = max(self.top - (self.size or SEQUENCE_SPACE // 2) + 1, 0)
        return bottom + (low - bottom) % SEQUENCE_SPACE

    def check(self, sequence: int) -> bool:
        """Whether the number would be accepted."""
        if not 1 <= sequence < (2**64 if self.esn else SEQUENCE_SPACE):
            return False
        if self.size == 0 or sequence > self.top:
            return True
        return self.top - sequence < self.size and sequence > self._resumed and sequence not in self._seen

    def accept(self, sequence: int) -> bool:
        """Marks the number after its packet was authenticated; False for a replay."""
        if not self.check(sequence):
            return False
        self.top = max(self.top, sequence)
        if self.size:
            self._seen.add(sequence)
            if len(self._seen) > 2 * self.size:
                self._seen = {number for number in self._seen if self.top - number < self.size}
        return True
