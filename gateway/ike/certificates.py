"""CERT and CERTREQ payloads (RFC 7296 3.6, 3.7): what we show, what we ask for, what a peer shows, read within bounds."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import serialization

from gateway.ike import certificate_path, signatures
from gateway.ike.certificate_names import proves, shown_names
from gateway.ike.certificate_path import MALFORMED, Path, refused
from gateway.ike.errors import Violation
from gateway.ike.payloads import Authentication, Certificate, CertificateRequest
from gateway.ike.registry import AuthMethod, CertificateEncoding
from gateway.ike.settings import Credentials, Identity, Trust
from gateway.ike.signatures import PeerAbility

CERTIFICATES_MAX = 12
"""CERT payloads with a certificate that are read of one peer."""
CERTIFICATE_OCTETS_MAX = 16384


@dataclass(frozen=True, slots=True)
class Shown:
    """What a peer wants to prove itself by: its CERT payloads, its AUTH, and the octets that it should have signed."""

    certificates: tuple[Certificate, ...]
    auth: Authentication
    octets: bytes
    ability: PeerAbility


def payloads(credentials: Credentials) -> tuple[Certificate, ...]:
    """RFC 7296 3.6: the certificate of the key that signs first."""
    chain = (credentials.certificate, *credentials.intermediates)
    return tuple(
        Certificate(int(CertificateEncoding.X509_SIGNATURE), one.public_bytes(serialization.Encoding.DER))
        for one in chain
    )


def request(trust: Trust) -> CertificateRequest:
    """RFC 7296 3.7: the SHA-1 hashes of the public keys we trust, one after the other."""
    return CertificateRequest(
        int(CertificateEncoding.X509_SIGNATURE),
        b"".join(dict.fromkeys(key_hash(one) for one in trust.authorities)),
    )


def key_hash(certificate: x509.Certificate) -> bytes:
    """RFC 7296 3.7: of the SubjectPublicKeyInfo; names a key, protects nothing."""
    key = certificate.public_key()
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha1(der, usedforsecurity=False).digest()


def prove(shown: Shown, trust: Trust, expected: Identity, wall: float) -> Path:
    """For `Compute`: the path of a peer that is who it says and holds the key; else PeerError. `wall`: UNIX seconds.

    In this order: what costs little first, and nothing is believed of a certificate before its path holds."""
    try:
        end_entity, others = _read(shown)
        path = certificate_path.build(
            end_entity, [*others, *trust.intermediates], trust.anchors, datetime.fromtimestamp(wall, UTC)
        )
        if not proves(end_entity, expected):
            raise refused(
                Violation.CERTIFICATE_IDENTITY,
                f"the certificate is of {shown_names(end_entity)}, configured is {expected.text}",
            )
    except MALFORMED as error:
        raise refused(Violation.CERTIFICATE_CHAIN, f"a malformed certificate: {error}") from None
    key = end_entity.public_key()
    assert isinstance(key, signatures.PublicKey)
    signatures.verify(key, shown.auth, shown.octets, shown.ability, sha1=trust.sha1)
    return path


def _read(shown: Shown) -> tuple[x509.Certificate, list[x509.Certificate]]:
    found = [one.data for one in shown.certificates if one.encoding == CertificateEncoding.X509_SIGNATURE]
    if not found:
        others = "".join(f", only {CertificateEncoding(one.encoding).name}" for one in shown.certificates)
        how = AuthMethod(shown.auth.method).name
        raise refused(
            Violation.CERTIFICATE_MISSING, f"the peer shows no X.509 certificate{others}; it authenticates by {how}"
        )
    if len(found) > CERTIFICATES_MAX or any(len(one) > CERTIFICATE_OCTETS_MAX for one in found):
        raise refused(
            Violation.CERTIFICATE_CHAIN, f"{len(found)} certificates, {max(map(len, found))} octets the largest"
        )
    first, *others_found = map(x509.load_der_x509_certificate, dict.fromkeys(found))
    return first, others_found
