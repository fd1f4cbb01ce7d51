"""From a peer's certificate to a CA we trust (RFC 5280 6, RFC 4945 5), strict and bounded.

    CERT: end entity, intermediates in any order  ->  a path of at most DEPTH_MAX whose every check holds  ->  Path

Not revocation (revocation.py), not who it is (certificate_names.py). Certificate policies are not processed: where a CA
demands that they be, the path is refused. Time is an argument. All of it is work for `Compute`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, ObjectIdentifier, SignatureAlgorithmOID

from gateway.ike.certificate_names import check_constraints, described, shown_names
from gateway.ike.errors import PeerError, Violation
from gateway.ike.registry import NotifyType
from gateway.ike.signatures import weakness

DEPTH_MAX = 8
"""Certificates of a path, the trust anchor among them."""
SIGNATURES_MAX = 32
"""Signatures checked for one peer, however many paths its certificates pretend."""

_SIGNED_WITH = frozenset(
    {
        SignatureAlgorithmOID.RSA_WITH_SHA256,
        SignatureAlgorithmOID.RSA_WITH_SHA384,
        SignatureAlgorithmOID.RSA_WITH_SHA512,
        SignatureAlgorithmOID.RSASSA_PSS,
        SignatureAlgorithmOID.ECDSA_WITH_SHA256,
        SignatureAlgorithmOID.ECDSA_WITH_SHA384,
        SignatureAlgorithmOID.ECDSA_WITH_SHA512,
        SignatureAlgorithmOID.ED25519,
        SignatureAlgorithmOID.ED448,
    }
)
_SHA2 = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
# RFC 5280 4.2: a critical extension that is not here refuses the certificate
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.NAME_CONSTRAINTS,
        ExtensionOID.CERTIFICATE_POLICIES,  # any will do, see above
    }
)
# RFC 4945 5.1.3.12: iKEIntermediate and what web CAs write are taken too
_PURPOSES = frozenset(
    {
        ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,
        ExtendedKeyUsageOID.IPSEC_IKE,
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ObjectIdentifier("1.3.6.1.5.5.8.2.2"),
    }
)


MALFORMED = (
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What reading a certificate, a CRL or an OCSP response of a stranger may raise; much is read only when it is asked for."""


@dataclass(frozen=True, slots=True)
class Path:
    """A path whose every check held: the end entity first, the trust anchor last."""

    certificates: tuple[x509.Certificate, ...]

    @property
    def end_entity(self) -> x509.Certificate:
        return self.certificates[0]

    def links(self) -> tuple[tuple[x509.Certificate, x509.Certificate], ...]:
        """Each certificate with its issuer."""
        return tuple(zip(self.certificates, self.certificates[1:], strict=False))


def build(
    end_entity: x509.Certificate,
    others: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    at: datetime,
) -> Path:
    """The first path that holds; PeerError naming what is wrong with the one that came furthest."""
    search = _Search(others, anchors, at)
    found = search.extend((end_entity,))
    if found is not None:
        return found
    raise search.refusal or refused(
        Violation.CERTIFICATE_UNKNOWN_CA,
        f"the certificate of {shown_names(end_entity)} is issued by {described(end_entity.issuer)}, "
        "and no path leads from there to a CA of `ca`",
    )


def refused(why: Violation, detail: str) -> PeerError:
    return PeerError(why, detail, NotifyType.AUTHENTICATION_FAILED)


@dataclass(slots=True)
class _Search:
    """Depth first; no certificate twice in a path, so a ring of CAs ends."""

    others: Sequence[x509.Certificate]
    anchors: Sequence[x509.Certificate]
    at: datetime
    left: int = SIGNATURES_MAX
    refusal: PeerError | None = field(default=None)

    def extend(self, path: tuple[x509.Certificate, ...]) -> Path | None:
        for anchor in self.anchors:
            if self._issued(path[-1], anchor):
                try:
                    check(complete := (*path, anchor), self.at)
                    return Path(complete)
                except PeerError as error:
                    self.refusal = self.refusal or error
        if len(path) + 1 >= DEPTH_MAX:
            return None
        for other in self.others:
            if other not in path and other not in self.anchors and self._issued(path[-1], other):
                found = self.extend((*path, other))
                if found is not None:
                    return found
        return None

    def _issued(self, subject: x509.Certificate, issuer: x509.Certificate) -> bool:
        """Whether that key signed it. What does not name it as its issuer costs nothing."""
        if subject == issuer or subject.issuer != issuer.subject or not _key_identifiers_agree(subject, issuer):
            return False
        if weak := _weak_signature(subject) or weakness(_public_key(issuer)):
            self.refusal = self.refusal or refused(
                Violation.CERTIFICATE_WEAK, f"{_described(subject)} is signed with {weak}"
            )
            return False
        if not self.left:
            self.refusal = refused(Violation.CERTIFICATE_CHAIN, f"more than {SIGNATURES_MAX} signatures to check")
            return False
        self.left -= 1
        try:
            subject.verify_directly_issued_by(issuer)
        except (InvalidSignature, *MALFORMED):
            self.refusal = self.refusal or refused(
                Violation.CERTIFICATE_CHAIN, f"the signature of {_described(subject)} does not verify"
            )
            return False
        return True


def check(path: Sequence[x509.Certificate], at: datetime) -> None:
    """RFC 5280 6.1 for a path whose signatures hold. PeerError says which certificate fails, and why."""
    for place, certificate in enumerate(path):
        _check_extensions(certificate)
        _check_time(certificate, at)
        if weak := weakness(_public_key(certificate)):
            raise refused(Violation.CERTIFICATE_WEAK, f"{_described(certificate)} has {weak}")
        if place:
            _check_ca(certificate, path[1:place])
        # RFC 5280 6.1.3: a self-issued intermediate is not held to the constraints of those above
        if not place or not _self_issued(certificate):
            check_constraints([found for above in path[place + 1 :] for found in _constraints(above)], certificate)
    _check_end_entity(path[0])


def check_issuer(certificate: x509.Certificate) -> str:
    """Why that certificate is none of a CA, for the configuration; "" when it is one."""
    try:
        _check_extensions(certificate)
        _check_ca(certificate, ())
    except PeerError as error:
        return error.detail
    return weakness(_public_key(certificate))


def _check_time(certificate: x509.Certificate, at: datetime) -> None:
    if at < certificate.not_valid_before_utc:
        since = certificate.not_valid_before_utc.isoformat()
        raise refused(Violation.CERTIFICATE_NOT_YET_VALID, f"{_described(certificate)} is valid only from {since}")
    if at > certificate.not_valid_after_utc:
        until = certificate.not_valid_after_utc.isoformat()
        raise refused(Violation.CERTIFICATE_EXPIRED, f"{_described(certificate)} expired at {until}")


def _check_extensions(certificate: x509.Certificate) -> None:
    try:
        if certificate.version is not x509.Version.v3:
            raise refused(Violation.CERTIFICATE_CHAIN, f"{_described(certificate)} is not of version 3")
        unknown = not_understood(certificate)
    except MALFORMED as error:
        raise refused(Violation.CERTIFICATE_CHAIN, f"a malformed certificate: {error}") from None
    if unknown:
        raise refused(
            Violation.CERTIFICATE_CHAIN,
            f"{_described(certificate)} has the critical extension {unknown[0].dotted_string}, which is not understood",
        )


def not_understood(certificate: x509.Certificate) -> list[ObjectIdentifier]:
    """Its critical extensions that we do not know. MALFORMED where they cannot be read."""
    return [one.oid for one in certificate.extensions if one.critical and one.oid not in _UNDERSTOOD]


def _check_ca(certificate: x509.Certificate, below: Sequence[x509.Certificate]) -> None:
    """RFC 5280 6.1.4 k to n. `below`: the intermediates between it and the end entity."""
    basic = extension(certificate, x509.BasicConstraints)
    if basic is None or not basic.ca:
        raise refused(Violation.CERTIFICATE_CHAIN, f"{_described(certificate)} is not of a CA (basicConstraints)")
    usage = extension(certificate, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise refused(Violation.CERTIFICATE_CHAIN, f"{_described(certificate)} may not sign certificates (keyUsage)")
    length = sum(1 for one in below if not _self_issued(one))
    if basic.path_length is not None and length > basic.path_length:
        raise refused(
            Violation.CERTIFICATE_CHAIN,
            f"{_described(certificate)} allows {basic.path_length} CAs below it, there are {length} (pathLenConstraint)",
        )


def _check_end_entity(certificate: x509.Certificate) -> None:
    """RFC 4945 5.1.3.2, 5.1.3.12."""
    usage = extension(certificate, x509.KeyUsage)
    if usage is not None and not (usage.digital_signature or usage.content_commitment):
        raise refused(Violation.CERTIFICATE_CHAIN, f"{_described(certificate)} is not for signatures (keyUsage)")
    purposes = extension(certificate, x509.ExtendedKeyUsage)
    if purposes is not None and not _PURPOSES & set(purposes):
        raise refused(Violation.CERTIFICATE_CHAIN, f"{_described(certificate)} is not for IKE (extendedKeyUsage)")


E = TypeVar("E", bound=x509.ExtensionType)


def extension(certificate: x509.Certificate, kind: type[E]) -> E | None:
    """The extension of that class, if there is one."""
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _constraints(certificate: x509.Certificate) -> list[x509.NameConstraints]:
    found = extension(certificate, x509.NameConstraints)
    return [] if found is None else [found]


def _self_issued(certificate: x509.Certificate) -> bool:
    return certificate.issuer == certificate.subject


def _key_identifiers_agree(subject: x509.Certificate, issuer: x509.Certificate) -> bool:
    """RFC 5280 4.2.1.1: they tell keys of one CA apart."""
    try:
        wanted = extension(subject, x509.AuthorityKeyIdentifier)
        offered = extension(issuer, x509.SubjectKeyIdentifier)
    except MALFORMED:
        return False
    if wanted is None or wanted.key_identifier is None or offered is None:
        return True
    return wanted.key_identifier == offered.digest


def _weak_signature(certificate: x509.Certificate) -> str:
    oid = certificate.signature_algorithm_oid
    if oid not in _SIGNED_WITH:
        return f"the algorithm {oid.dotted_string}, which is not taken"
    try:
        used = certificate.signature_hash_algorithm
    except MALFORMED:
        return "a hash that is not known"
    return "" if used is None or isinstance(used, _SHA2) else f"the hash {used.name}, which is not taken"


def _public_key(certificate: x509.Certificate) -> object:
    try:
        return certificate.public_key()
    except MALFORMED:
        return None


def _described(certificate: x509.Certificate) -> str:
    return f"the certificate of {described(certificate.subject)}"
