"""Whom a certificate names to ask: anybody counts, and plain HTTP is asked."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID
from support.pki import Authority, points_to

from gateway.ike.revocation_places import crl_urls, ocsp_urls, out_of_reach, places

ROOT = Authority("root")
HTTP = x509.UniformResourceIdentifier("http://ca/1")
ELSEWHERE = x509.DirectoryName(ROOT.certificate.subject)
RELATIVE = x509.RelativeDistinguishedName([x509.NameAttribute(NameOID.COMMON_NAME, "crl")])


def points(*found: x509.DistributionPoint) -> x509.ExtensionType:
    return x509.CRLDistributionPoints(found)


def access(method: x509.ObjectIdentifier, where: x509.GeneralName) -> x509.ExtensionType:
    return x509.AuthorityInformationAccess([x509.AccessDescription(method, where)])


def issued(*found: x509.ExtensionType) -> x509.Certificate:
    return ROOT.issue("end", extensions=[(one, False) for one in found]).certificate


CALLED = {
    "by ldap": (points_to(crl=["ldap:///CN=x"])[0][0], "ldap:///CN=x"),
    "by https": (points_to(ocsp=["https://ca/ocsp"])[0][0], "https://ca/ocsp"),
    "by a URL that is too long": (points_to(crl=["http://ca/" + "x" * 2000])[0][0], "a URL of 2010 octets"),
    "by a URL of many lines": (points_to(crl=["ldap:///\n\x1b[2J"])[0][0], "ldap:///??[2J"),
    "by a directory's name": (points(x509.DistributionPoint([ELSEWHERE], None, None, None)), "a name that is no URL"),
    "by a responder's name": (access(AuthorityInformationAccessOID.OCSP, ELSEWHERE), "a name that is no URL"),
    "relatively": (points(x509.DistributionPoint(None, RELATIVE, None, None)), "a name relative to the CA's"),
    "indirectly": (points(x509.DistributionPoint([HTTP], None, None, [ELSEWHERE])), "an indirect CRL"),
    "by nothing": (points(), "an empty list"),
    "illegibly": (x509.UnrecognizedExtension(x509.CRLDistributionPoints.oid, b"\xff"), "somebody who cannot be read"),
}


@pytest.mark.parametrize("how", CALLED)
def test_whoever_is_named_is_somebody(how: str) -> None:
    value, said = CALLED[how]
    certificate = issued(value)
    assert places(certificate) == (said,)
    assert crl_urls(certificate) == ocsp_urls(certificate) == []
    assert out_of_reach(certificate) == f"it names only {said} to ask, and only http:// is fetched"


def test_one_who_can_be_asked_is_enough() -> None:
    certificate = issued(*(one for one, _ in points_to(crl=["ldap:///CN=x", "http://ca/2"], ocsp=["https://ca"])))
    assert places(certificate) == ("https://ca", "ldap:///CN=x", "http://ca/2")
    assert crl_urls(certificate) == ["http://ca/2"]
    assert out_of_reach(certificate) == ""


def test_who_names_nobody() -> None:
    for certificate in (issued(), issued(access(AuthorityInformationAccessOID.CA_ISSUERS, HTTP))):
        assert places(certificate) == ()
        assert out_of_reach(certificate) == ""


def test_not_all_of_a_long_list_is_told() -> None:
    certificate = issued(points_to(crl=["ldap://" + "x" * 500] * 9)[0][0])
    assert len(out_of_reach(certificate)) < 400


def test_urls_are_of_http_alone_few_and_short() -> None:
    """CVE-2022-40617 and its kin: what is fetched is what a CA wrote, and nothing else than HTTP."""
    urls = [
        "file:///etc/shadow",
        "ldap://ca/x",
        "https://ca/x",
        "HTTP://ca/1",
        "http://ca/" + "x" * 2000,
        "http://ca/2",
        "http://ca/3",
    ]
    certificate = issued(*(one for one, _ in points_to(crl=urls, ocsp=urls)))
    assert crl_urls(certificate) == ocsp_urls(certificate) == ["HTTP://ca/1", "http://ca/2"]
    assert crl_urls(issued()) == ocsp_urls(issued()) == []
