"""Certification authorities made while a test runs; nothing of them is kept.

ca = Authority("root")                          self-signed
sub = ca.sub("sub")                             an intermediate under it
gw = sub.issue("gw", dns=("gw.example.net",))   an end entity: certificate, key, PEM of both
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

EPOCH = datetime(2030, 1, 1, tzinfo=UTC)
"""What tests on a virtual clock take for now."""
DAY = timedelta(days=1)
_CURVES = {"p256": ec.SECP256R1(), "p384": ec.SECP384R1(), "p521": ec.SECP521R1(), "p224": ec.SECP224R1()}


def new_key(kind: str = "p256") -> Any:
    """p256, p384, p521, ed25519, ed448, rsa2048, ...; RSA keys with an exponent: rsa2048e3."""
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind])
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "ed448":
        return ed448.Ed448PrivateKey.generate()
    bits, _, exponent = kind.removeprefix("rsa").partition("e")
    return rsa.generate_private_key(int(exponent or 65537), int(bits))


@cache
def shared_key(kind: str, which: str) -> Any:
    """RSA keys take their time: one of a kind for a whole run."""
    return new_key(kind)


def name(common: str, **more: str) -> x509.Name:
    fixed = [x509.NameAttribute(NameOID.COUNTRY_NAME, "CH"), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Lab")]
    attributes = [x509.NameAttribute(getattr(NameOID, oid), value) for oid, value in more.items()]
    return x509.Name([*fixed, *attributes, x509.NameAttribute(NameOID.COMMON_NAME, common)])


def alternative(
    *, dns: Sequence[str] = (), ip: Sequence[str] = (), email: Sequence[str] = ()
) -> list[x509.GeneralName]:
    return [
        *map(x509.DNSName, dns),
        *(x509.IPAddress(ip_address(one)) for one in ip),
        *map(x509.RFC822Name, email),
    ]


@dataclass(slots=True)
class Issued:
    """A certificate, its key and whatever stands between it and the root."""

    certificate: x509.Certificate
    key: Any = field(repr=False)
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def pem(self) -> str:
        """The certificate, then its intermediates."""
        return "".join(pem_of(one) for one in (self.certificate, *self.chain))

    @property
    def key_pem(self) -> str:
        encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(encoding, form, serialization.NoEncryption()).decode()


def pem_of(one: x509.Certificate) -> str:
    return one.public_bytes(serialization.Encoding.PEM).decode()


class Authority(Issued):
    """A CA. `constraints`, `path_length`, and whatever a test wants different go to `extensions`."""

    def __init__(
        self,
        common: str = "root",
        kind: str = "p256",
        *,
        parent: Authority | None = None,
        at: datetime = EPOCH,
        days: float = 3650,
        path_length: int | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        key: Any = None,
        ca: bool = True,
        usage: bool = True,
        serial: int = 0,
    ) -> None:
        key = key or new_key(kind)
        subject = name(common)
        added = [(x509.BasicConstraints(ca, path_length if ca else None), True), *extensions]
        if usage:
            added.append((key_usage(key_cert_sign=True, crl_sign=True), True))
        issuer, issuer_key = (parent.certificate.subject, parent.key) if parent else (subject, key)
        above = parent.certificate if parent else None
        made = build(subject, key, issuer, issuer_key, above, at - DAY, at + days * DAY, added, serial=serial)
        super().__init__(made, key, (made, *parent.chain) if parent else ())

    def sub(self, common: str = "sub", kind: str = "p256", **options: Any) -> Authority:
        return Authority(common, kind, parent=self, **options)

    def issue(
        self,
        common: str = "end",
        kind: str = "p256",
        *,
        at: datetime = EPOCH,
        days: float = 365,
        subject: x509.Name | None = None,
        extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
        key: Any = None,
        digest: Any = None,
        pss: bool = False,
        serial: int = 0,
        **names: Sequence[str],
    ) -> Issued:
        key = key or new_key(kind)
        added = list(extensions)
        if names:
            added.append((x509.SubjectAlternativeName(alternative(**names)), False))
        subject = name(common) if subject is None else subject
        made = build(
            subject, key, self.certificate.subject, self.key, self.certificate, at - DAY, at + days * DAY, added,
            digest=digest, pss=pss, serial=serial,
        )  # fmt: skip
        return Issued(made, key, self.chain)


def crl_of(
    authority: Issued,
    revoked: Sequence[x509.Certificate] = (),
    *,
    at: datetime = EPOCH,
    days: float = 7,
    key: Any = None,
    issuer: x509.Name | None = None,
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = (),
    digest: Any = None,
    reason: x509.ReasonFlags = x509.ReasonFlags.key_compromise,
) -> x509.CertificateRevocationList:
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer or authority.certificate.subject)
        .last_update(at - DAY)
        .next_update(at + days * DAY)
    )
    for one in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(one.serial_number).revocation_date(at - DAY)
        entry = entry.add_extension(x509.CRLReason(reason), False)
        builder = builder.add_revoked_certificate(entry.build())
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    key = key or authority.key
    eddsa = isinstance(key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    return builder.sign(key, None if eddsa else digest or hashes.SHA256())


def der(crl: x509.CertificateRevocationList) -> bytes:
    return crl.public_bytes(serialization.Encoding.DER)


def scope(**changes: Any) -> x509.IssuingDistributionPoint:
    given: dict[str, Any] = {
        "full_name": None, "relative_name": None, "only_contains_user_certs": False, "only_contains_ca_certs": False,
        "only_some_reasons": None, "indirect_crl": False, "only_contains_attribute_certs": False,
    }  # fmt: skip
    return x509.IssuingDistributionPoint(**(given | changes))


def freshest(url: str) -> tuple[x509.ExtensionType, bool]:
    """Where deltas are (RFC 5280 5.2.6), in a CRL or a certificate."""
    point = x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None)
    return x509.FreshestCRL([point]), False


def ocsp_of(
    authority: Issued,
    certificate: x509.Certificate,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    *,
    at: datetime = EPOCH,
    hours: float | None = 24,
    signer: Issued | None = None,
    show: Sequence[x509.Certificate] = (),
    about: Issued | None = None,
    hashed: Any = None,
    digest: Any = None,
) -> bytes:
    """`signer`: who signs, the CA itself unless told; `about`: the issuer that the CertID names."""
    signer = signer or authority
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=certificate,
        issuer=(about or authority).certificate,
        algorithm=hashed or hashes.SHA1(),
        cert_status=status,
        this_update=at - timedelta(hours=1),
        next_update=None if hours is None else at + timedelta(hours=hours),
        revocation_time=at - DAY if revoked else None,
        revocation_reason=x509.ReasonFlags.key_compromise if revoked else None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
    if show:
        builder = builder.certificates(list(show))
    eddsa = isinstance(signer.key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey)
    response = builder.sign(signer.key, None if eddsa else digest or hashes.SHA256())
    return response.public_bytes(serialization.Encoding.DER)


def points_to(*, crl: Sequence[str] = (), ocsp: Sequence[str] = ()) -> list[tuple[x509.ExtensionType, bool]]:
    """Where to ask about a certificate."""
    found: list[tuple[x509.ExtensionType, bool]] = []
    if crl:
        names = [[x509.UniformResourceIdentifier(url)] for url in crl]
        found.append(
            (x509.CRLDistributionPoints([x509.DistributionPoint(one, None, None, None) for one in names]), False)
        )
    if ocsp:
        responders = [
            x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(url))
            for url in ocsp
        ]
        found.append((x509.AuthorityInformationAccess(responders), False))
    return found


def key_usage(**set_: bool) -> x509.KeyUsage:
    names = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{one: set_.get(one, False) for one in names})


def build(
    subject: x509.Name,
    key: Any,
    issuer: x509.Name,
    issuer_key: Any,
    above: x509.Certificate | None,
    start: datetime,
    end: datetime,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
    *,
    digest: Any = None,
    pss: bool = False,
    serial: int = 0,
) -> x509.Certificate:
    """Anything that the builder lets pass."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    if above is not None:
        identifier = above.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), False
        )
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    if isinstance(issuer_key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey):
        return builder.sign(issuer_key, None)
    padded = padding.PSS(padding.MGF1(hashes.SHA256()), 32) if pss else None
    return builder.sign(issuer_key, digest or hashes.SHA256(), rsa_padding=padded)
