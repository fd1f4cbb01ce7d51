"""Keys in the words of Wireshark: lines of its tables `ikev2_decryption_table` and `esp_sa`.

Text only: who may have it, for how long and where it goes is `runtime/disclosures.py`'s. Nothing here is kept.

Interop: Wireshark 4.0 knows no extended sequence numbers: it reads such packets, but calls their ICVs wrong if it is
asked to check them.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from gateway.esp.dataplane import Encryption, Integrity, SaParameters
from gateway.ike.proposal import Choice
from gateway.ike.registry import EncryptionId, IntegrityId

IKE_TABLE, ESP_TABLE = "ikev2_decryption_table", "esp_sa"

_IKE_CIPHERS = {
    EncryptionId.AES_CBC: "AES-CBC-{bits} [RFC3602]",
    EncryptionId.AES_GCM_16: "AES-GCM-{bits} with 16 octet ICV [RFC5282]",
    EncryptionId.AES_GCM_12: "AES-GCM-{bits} with 12 octet ICV [RFC5282]",
    EncryptionId.AES_GCM_8: "AES-GCM-{bits} with 8 octet ICV [RFC5282]",
}
_IKE_INTEGRITY = {
    IntegrityId.NONE: "NONE [RFC4306]",
    IntegrityId.HMAC_SHA1_96: "HMAC_SHA1_96 [RFC2404]",
    IntegrityId.HMAC_SHA2_256_128: "HMAC_SHA2_256_128 [RFC4868]",
    IntegrityId.HMAC_SHA2_384_192: "HMAC_SHA2_384_192 [RFC4868]",
    IntegrityId.HMAC_SHA2_512_256: "HMAC_SHA2_512_256 [RFC4868]",
}
# Interop: Wireshark 4.0 takes combined-mode ciphers by the octets of their ICV, and only with NULL authentication
_ESP_ALGORITHMS = {
    (Encryption.AES_GCM_16, Integrity.NONE): ("AES-GCM with 16 octet ICV [RFC4106]", "NULL"),
    (Encryption.AES_GCM_12, Integrity.NONE): ("AES-GCM with 12 octet ICV [RFC4106]", "NULL"),
    (Encryption.AES_GCM_8, Integrity.NONE): ("AES-GCM with 8 octet ICV [RFC4106]", "NULL"),
    (Encryption.AES_CBC, Integrity.HMAC_SHA1_96): ("AES-CBC [RFC3602]", "HMAC-SHA-1-96 [RFC2404]"),
    (Encryption.AES_CBC, Integrity.HMAC_SHA2_256_128): ("AES-CBC [RFC3602]", "HMAC-SHA-256-128 [RFC4868]"),
    (Encryption.AES_CBC, Integrity.HMAC_SHA2_384_192): ("AES-CBC [RFC3602]", "HMAC-SHA-384-192 [RFC4868]"),
    (Encryption.AES_CBC, Integrity.HMAC_SHA2_512_256): ("AES-CBC [RFC3602]", "HMAC-SHA-512-256 [RFC4868]"),
}
_CHACHA_IKE = "ChaCha20-Poly1305 [RFC7634]"
_CHACHA_ESP = ("ChaCha20 with Poly1305 [RFC7634]", "NULL")


def ike_line(initiator_spi: int, responder_spi: int, secrets: Mapping[str, bytes], choice: Choice) -> str:
    """One IKE_SA; `secrets` as `IkeKeys.secrets_for_keylog` gives them."""
    encryption = _IKE_CIPHERS.get(EncryptionId(choice.encryption), "")
    fields = [
        f"{initiator_spi:016x}",
        f"{responder_spi:016x}",
        secrets["SK_ei"].hex(),
        secrets["SK_er"].hex(),
        f'"{encryption.format(bits=choice.key_octets * 8) or _CHACHA_IKE}"',
        secrets["SK_ai"].hex(),
        secrets["SK_ar"].hex(),
        f'"{_IKE_INTEGRITY[IntegrityId(choice.integrity)]}"',
    ]
    return _unless_unknown(bool(encryption), ",".join(fields))


def esp_line(sa: SaParameters) -> str:
    """One direction of a CHILD_SA."""
    source, destination = (sa.local, sa.remote) if sa.direction.value == "out" else (sa.remote, sa.local)
    known = _ESP_ALGORITHMS.get((sa.suite.encryption, sa.suite.integrity))
    encryption, integrity = known or _CHACHA_ESP
    fields = [
        f"IPv{ip_address(source.host).version}",
        source.host,
        destination.host,
        f"0x{sa.spi:08x}",
        encryption,
        _key(sa.encryption_key),
        integrity,
        _key(sa.integrity_key),
    ]
    return _unless_unknown(known is not None, ",".join(f'"{field}"' for field in fields))


def _key(octets: bytes) -> str:
    return f"0x{octets.hex()}" if octets else ""


def _unless_unknown(known: bool, line: str) -> str:
    """Wireshark refuses a whole table for one algorithm it has no name for, so such a line is a comment there."""
    return line if known else f"# not known to Wireshark 4.0: {line}"
