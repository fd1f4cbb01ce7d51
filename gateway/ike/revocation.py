"""Whether a certificate is revoked, by CRLs (RFC 5280 6.3) and OCSP responses (RFC 6960), each believed only when it verifies.

    judge(certificate, issuer, evidence, at)  ->  good until, revoked, or why there is no telling

No indirect CRLs; a delta CRL (delta_crls.py) says who was revoked since, and who is no longer on hold. A responder is the CA itself, or delegated by it directly, and then itself not revoked. All of
it is work for `Compute`; where evidence comes from is revocation_search.py's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import CRLEntryExtensionOID, ExtendedKeyUsageOID, ExtensionOID, SignatureAlgorithmOID

from gateway.ike import delta_crls
from gateway.ike.certificate_names import SEQUENCE, content, described
from gateway.ike.certificate_path import MALFORMED, extension, not_understood
from gateway.ike.revocation_places import http_urls, out_of_reach, places, readable
from gateway.ike.signatures import weakness
from gateway.wire import Reader

SKEW = timedelta(minutes=5)
"""A responder's clock may be this much ahead of ours."""
WITHOUT_END = timedelta(hours=1)
"""An OCSP response that does not say until when it holds is taken for this long (RFC 6960 2.4: newer ones are always there)."""
DELEGATES_MAX = 8
"""Certificates of an OCSP response among which its signer is looked for."""
BIT_STRING = 0x03
_UNDERSTOOD = (ExtensionOID.ISSUING_DISTRIBUTION_POINT, ExtensionOID.DELTA_CRL_INDICATOR)
_SHA2 = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_CERT_ID_HASHES = {"sha1", "sha256", "sha384", "sha512"}


class Standing(Enum):
    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Evidence:
    """A CRL or an OCSP response in DER, as it came; nobody has looked into it yet."""

    octets: bytes
    is_crl: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """`until`: as long as the evidence holds. `by`: which of it decided. `valid`: all of it that verified, until when.
    `unchecked`: responders who vouch, if only it were known that they are not revoked themselves. `fresher`: where the CRL that
    decided, or the certificate, says that its deltas are."""

    standing: Standing
    detail: str = ""
    until: datetime | None = None
    by: Evidence | None = None
    valid: tuple[tuple[Evidence, datetime], ...] = ()
    unchecked: tuple[x509.Certificate, ...] = ()
    fresher: tuple[str, ...] = ()


_ABOUT_OTHERS = Verdict(Standing.UNKNOWN)


def judge(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    evidence: Sequence[Evidence],
    at: datetime,
    delegates: bool = True,
) -> Verdict:
    """The first evidence that says revoked, else that says good. `delegates`: whether anybody but the CA may say so by OCSP."""
    decided: Verdict | None = None
    reasons: list[str] = []
    valid: list[tuple[Evidence, datetime]] = []
    unchecked: list[x509.Certificate] = []
    for one in evidence:
        try:
            if one.is_crl:
                found = _by_crl(certificate, issuer, one, at, evidence)
            else:
                found = _by_ocsp(certificate, issuer, one, at, evidence if delegates else None)
        except MALFORMED as error:
            found = _unknown(f"it is malformed: {error}")
        if found.by is not None and found.until is not None:
            valid.append((found.by, found.until))
        unchecked += found.unchecked
        if found.standing is Standing.REVOKED or (found.standing is Standing.GOOD and decided is None):
            decided = decided if decided is not None and decided.standing is Standing.REVOKED else found
        elif found.detail:
            reasons.append(f"{'CRL' if one.is_crl else 'OCSP response'}: {found.detail}")
    if decided is None:
        decided = _unknown("; ".join(dict.fromkeys(reasons)) or "there is neither CRL nor OCSP response about it")
    open_ = decided.standing is Standing.UNKNOWN
    return replace(decided, valid=tuple(valid), unchecked=tuple(dict.fromkeys(unchecked)) if open_ else ())


def ocsp_request(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """RFC 6960 4.1, with SHA-1 in the CertID, which every responder knows and nothing depends on."""
    request = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1()).build()
    return request.public_bytes(serialization.Encoding.DER)


# --- CRLs ---------------------------------------------------------------------------------------------------------


def _by_crl(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    evidence: Evidence,
    at: datetime,
    others: Sequence[Evidence],
) -> Verdict:
    crl = x509.load_der_x509_crl(evidence.octets)
    if crl.issuer != issuer.subject:
        return _ABOUT_OTHERS
    if (problem := _crl_problem(certificate, issuer, crl, at)) is not None:
        return _unknown(problem)
    entry = crl.get_revoked_certificate_by_serial_number(certificate.serial_number)
    is_delta = delta_crls.is_delta(crl)
    # RFC 5280 5.2.4, 6.3.3 j, k: what was taken back since is no revocation
    beside = (
        list(_verified(certificate, issuer, others, at)) if is_delta or (entry and delta_crls.on_hold(entry)) else []
    )
    taken_back = entry is not None and any(
        delta_crls.supersedes(one, crl) if is_delta else _removed_by(one, crl, certificate) for one in beside
    )
    if is_delta and (entry is None or taken_back or delta_crls.removes(entry)):
        # By itself it says nothing of those whom it does not list
        return Verdict(Standing.UNKNOWN, until=crl.next_update_utc, by=evidence)
    if entry is None or taken_back:
        # Who was not revoked then may be by now; who was still is
        if crl.next_update_utc is None or crl.next_update_utc < at:
            return _unknown(f"it should have been replaced at {crl.next_update_utc or 'a time it does not say'}")
        fresher = tuple(http_urls(delta_crls.named(crl, certificate)))
        return Verdict(Standing.GOOD, until=crl.next_update_utc, by=evidence, fresher=fresher)
    if _is_of_another_ca(entry):
        return _unknown("it is an indirect CRL")
    # RFC 5280 5.3: an entry with something critical that we do not know is no less of a revocation
    when = entry.revocation_date_utc
    return Verdict(
        Standing.REVOKED,
        f"{_described(certificate)} is revoked since {when:%Y-%m-%d}{_reason(entry)}",
        crl.next_update_utc,
        evidence,
    )


def _verified(
    certificate: x509.Certificate, issuer: x509.Certificate, evidence: Iterable[Evidence], at: datetime
) -> Iterator[x509.CertificateRevocationList]:
    """The CRLs among them that hold."""
    for one in evidence:
        try:
            crl = x509.load_der_x509_crl(one.octets) if one.is_crl else None
            if crl is None or crl.issuer != issuer.subject or crl.next_update_utc is None or crl.next_update_utc < at:
                continue
            if _crl_problem(certificate, issuer, crl, at) is None:
                yield crl
        except MALFORMED:
            continue


def _removed_by(
    delta: x509.CertificateRevocationList, complete: x509.CertificateRevocationList, certificate: x509.Certificate
) -> bool:
    entry = delta.get_revoked_certificate_by_serial_number(certificate.serial_number)
    return entry is not None and delta_crls.removes(entry) and delta_crls.extends(delta, complete)


def _is_of_another_ca(entry: x509.RevokedCertificate) -> bool:
    """RFC 5280 5.3.3. In a CRL that does not say it is indirect, one that cannot be read is no less of a revocation."""
    try:
        return any(one.oid == CRLEntryExtensionOID.CERTIFICATE_ISSUER for one in entry.extensions)
    except MALFORMED:
        return False


def _reason(entry: x509.RevokedCertificate) -> str:
    try:
        return f" ({entry.extensions.get_extension_for_class(x509.CRLReason).value.reason.value})"
    except (x509.ExtensionNotFound, *MALFORMED):
        return ""


def _crl_problem(
    certificate: x509.Certificate, issuer: x509.Certificate, crl: x509.CertificateRevocationList, at: datetime
) -> str | None:
    """RFC 5280 6.3.3 a to g; what is cheap first."""
    if crl.last_update_utc > at + SKEW:
        return f"it is not valid before {crl.last_update_utc:%Y-%m-%d %H:%M} UTC"
    usage = extension(issuer, x509.KeyUsage)
    if usage is not None and not usage.crl_sign:
        return "its CA may not sign CRLs (keyUsage)"
    unknown = [one.oid for one in crl.extensions if one.critical and one.oid not in _UNDERSTOOD]
    if unknown:
        return f"it has the critical extension {unknown[0].dotted_string}"
    if not _in_scope(certificate, crl):
        return "it is not about certificates of this kind"
    if crl.signature_hash_algorithm is not None and not isinstance(crl.signature_hash_algorithm, _SHA2):
        return f"it is signed with {crl.signature_hash_algorithm.name}"
    key = issuer.public_key()
    if weakness(key) or not crl.is_signature_valid(key):  # type: ignore[arg-type]
        return "its signature does not verify"
    return None


def _in_scope(certificate: x509.Certificate, crl: x509.CertificateRevocationList) -> bool:
    """RFC 5280 6.3.3 b 2, 5.2.5."""
    try:
        point = crl.extensions.get_extension_for_class(x509.IssuingDistributionPoint).value
    except x509.ExtensionNotFound:
        return True
    if point.indirect_crl or point.only_contains_attribute_certs or point.only_some_reasons or point.relative_name:
        return False
    basic = extension(certificate, x509.BasicConstraints)
    is_ca = basic is not None and basic.ca
    if (point.only_contains_ca_certs and not is_ca) or (point.only_contains_user_certs and is_ca):
        return False
    if not point.full_name:
        return True
    named = readable(certificate, x509.CRLDistributionPoints) or ()
    return any(name in point.full_name for one in named for name in getattr(one, "full_name", None) or ())


# --- OCSP ---------------------------------------------------------------------------------------------------------


def _by_ocsp(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    evidence: Evidence,
    at: datetime,
    about_delegates: Sequence[Evidence] | None,
) -> Verdict:
    """`about_delegates`: what there is about a responder whom the CA named; None: only the CA itself will do."""
    response = ocsp.load_der_ocsp_response(evidence.octets)
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        return _unknown(f"the responder says {response.response_status.name}")
    about = [one for one in response.responses if _is_about(one, certificate, issuer)]
    if not about:
        return _ABOUT_OTHERS
    # The signature before anything is read out of it
    problem, unchecked = _responder_problem(response, issuer, at, about_delegates)
    if problem:
        return _unknown(problem)
    (single, *_) = about
    begin = single.this_update_utc
    if begin > at + SKEW:
        return _unknown(f"it holds from {begin:%Y-%m-%d %H:%M} UTC")
    end = single.next_update_utc or begin + WITHOUT_END
    if end < at:
        return _unknown(f"it holds from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC")
    match single.certificate_status:
        case ocsp.OCSPCertStatus.GOOD if unchecked is not None:
            text = f"whether its responder {described(unchecked.subject)} is revoked is not known"
            text += f": {why}" if (why := out_of_reach(unchecked)) else ""
            return Verdict(Standing.UNKNOWN, text, end, evidence, unchecked=(unchecked,))
        case ocsp.OCSPCertStatus.GOOD:
            return Verdict(Standing.GOOD, until=end, by=evidence)
        case ocsp.OCSPCertStatus.REVOKED:
            since = f"{single.revocation_time_utc:%Y-%m-%d}" if single.revocation_time_utc else "a time it does not say"
            return Verdict(Standing.REVOKED, f"{_described(certificate)} is revoked since {since}", end, evidence)
        case _:
            return _unknown("the responder does not know the certificate")


def _is_about(single: ocsp.OCSPSingleResponse, certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """RFC 6960 3.2, 4.1.1: serial number and both hashes of the issuer."""
    if single.serial_number != certificate.serial_number or single.hash_algorithm.name not in _CERT_ID_HASHES:
        return False
    hashed = single.hash_algorithm.name
    by_name = hashlib.new(hashed, issuer.subject.public_bytes(), usedforsecurity=False).digest()
    by_key = hashlib.new(hashed, _key_octets(issuer), usedforsecurity=False).digest()
    return (single.issuer_name_hash, single.issuer_key_hash) == (by_name, by_key)


def _responder_problem(
    response: ocsp.OCSPResponse, issuer: x509.Certificate, at: datetime, about_delegates: Sequence[Evidence] | None
) -> tuple[str, x509.Certificate | None]:
    """RFC 6960 4.2.2.2: the CA signed it, or somebody to whom the CA itself gave id-kp-OCSPSigning; "" when it did.
    And that somebody, when it should be but is not known whether he is revoked."""
    if _signed(response, issuer):
        return "", None
    problem = "neither the CA nor a responder that it named has signed it"
    for delegate in response.certificates[:DELEGATES_MAX] if about_delegates is not None else ():
        if _is_responder(response, delegate) and _delegated(delegate, issuer, at) and _signed(response, delegate):
            standing = _standing_of(delegate, issuer, about_delegates or (), at)
            if standing is not Standing.REVOKED:
                return "", delegate if standing is Standing.UNKNOWN else None
            problem = f"its responder {described(delegate.subject)} is revoked itself"
    return problem, None


def _standing_of(
    delegate: x509.Certificate, issuer: x509.Certificate, evidence: Sequence[Evidence], at: datetime
) -> Standing:
    """RFC 6960 4.2.2.2.1: id-pkix-ocsp-nocheck says that nobody need ask; else who is named to be asked must have been, also
    one whom we cannot ask, and where nobody is, it is our choice: what there is counts, and silence is no objection."""
    if extension(delegate, x509.OCSPNoCheck) is not None:
        return Standing.GOOD
    found = judge(delegate, issuer, evidence, at, delegates=False).standing
    if found is Standing.UNKNOWN and not places(delegate):
        return Standing.GOOD
    return found


def _is_responder(response: ocsp.OCSPResponse, certificate: x509.Certificate) -> bool:
    if response.responder_key_hash is not None:
        return response.responder_key_hash == hashlib.sha1(_key_octets(certificate), usedforsecurity=False).digest()
    return response.responder_name == certificate.subject


def _delegated(certificate: x509.Certificate, issuer: x509.Certificate, at: datetime) -> bool:
    purposes, usage = extension(certificate, x509.ExtendedKeyUsage), extension(certificate, x509.KeyUsage)
    if purposes is None or ExtendedKeyUsageOID.OCSP_SIGNING not in purposes:
        return False
    # RFC 5280 4.2, 4.2.1.3
    if not_understood(certificate) or (usage is not None and not usage.digital_signature):
        return False
    if not certificate.not_valid_before_utc <= at <= certificate.not_valid_after_utc or weakness(
        certificate.public_key()
    ):
        return False
    if certificate.signature_hash_algorithm is not None and not isinstance(certificate.signature_hash_algorithm, _SHA2):
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except InvalidSignature:
        return False
    return True


def _signed(response: ocsp.OCSPResponse, by: x509.Certificate) -> bool:
    key, octets, signature = by.public_key(), response.tbs_response_bytes, response.signature
    used = response.signature_hash_algorithm
    if weakness(key) or (used is not None and not isinstance(used, _SHA2)):
        return False
    try:
        match key:
            case rsa.RSAPublicKey() if (
                used is not None and response.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS
            ):
                key.verify(signature, octets, padding.PKCS1v15(), used)
            case ec.EllipticCurvePublicKey() if used is not None:
                key.verify(signature, octets, ec.ECDSA(used))
            case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey() if used is None:
                key.verify(signature, octets)
            case _:
                return False
    except InvalidSignature:
        return False
    return True


def _key_octets(certificate: x509.Certificate) -> bytes:
    """RFC 6960 4.1.1: the value of the subjectPublicKey, without tag, length and unused bits: a SubjectKeyIdentifier's input."""
    der = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return _subject_public_key(der)


def _subject_public_key(info: bytes) -> bytes:
    """The BIT STRING's octets of a SubjectPublicKeyInfo."""
    whole = content(Reader(info), SEQUENCE)
    content(whole, SEQUENCE)
    return content(whole, BIT_STRING).rest()[1:]


def _unknown(detail: str) -> Verdict:
    return Verdict(Standing.UNKNOWN, detail)


def _described(certificate: x509.Certificate) -> str:
    return f"the certificate of {described(certificate.subject)}"
