"""Delta CRLs (RFC 5280 5.2.4): what changed since a complete CRL; and the place that is named for them (5.2.6).

Nothing here verifies anything: revocation.py looks only at CRLs that did.
"""

from __future__ import annotations

from collections.abc import Iterator

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from gateway.ike.certificate_path import MALFORMED, E


def is_delta(crl: x509.CertificateRevocationList) -> bool:
    return any(one.oid == ExtensionOID.DELTA_CRL_INDICATOR for one in crl.extensions)


def extends(delta: x509.CertificateRevocationList, complete: x509.CertificateRevocationList) -> bool:
    """RFC 5280 5.2.4: whether both together are a newer complete one. Both are of the same issuer, whose key signed both."""
    base = _value(delta, x509.DeltaCRLIndicator)
    newer, older = number(delta), number(complete)
    if base is None or newer is None or older is None or is_delta(complete):
        return False
    scopes = [_value(one, x509.IssuingDistributionPoint) for one in (delta, complete)]
    return scopes[0] == scopes[1] and base.crl_number <= older < newer


def supersedes(complete: x509.CertificateRevocationList, delta: x509.CertificateRevocationList) -> bool:
    """A complete one of that number or a later one has all that the delta says, but for what was taken back."""
    numbers = number(complete), number(delta)
    return not is_delta(complete) and None not in numbers and numbers[0] >= numbers[1]  # type: ignore[operator]


def number(crl: x509.CertificateRevocationList) -> int | None:
    found = _value(crl, x509.CRLNumber)
    return found.crl_number if found is not None else None


def removes(entry: x509.RevokedCertificate) -> bool:
    """RFC 5280 5.3.1: it was on hold, and is no longer."""
    return _reason(entry) is x509.ReasonFlags.remove_from_crl


def on_hold(entry: x509.RevokedCertificate) -> bool:
    return _reason(entry) is x509.ReasonFlags.certificate_hold


def named(*where: x509.Certificate | x509.CertificateRevocationList) -> Iterator[x509.GeneralName]:
    """RFC 5280 5.2.6, 4.2.1.15: places of delta CRLs."""
    for one in where:
        try:
            points = one.extensions.get_extension_for_class(x509.FreshestCRL).value
        except (x509.ExtensionNotFound, *MALFORMED):
            continue
        for point in points:
            yield from point.full_name or () if not point.crl_issuer else ()


def _reason(entry: x509.RevokedCertificate) -> x509.ReasonFlags | None:
    try:
        return entry.extensions.get_extension_for_class(x509.CRLReason).value.reason
    except (x509.ExtensionNotFound, *MALFORMED):
        return None


def _value(crl: x509.CertificateRevocationList, kind: type[E]) -> E | None:
    try:
        return crl.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
