"""Whom a certificate names to ask whether it is revoked (RFC 5280 4.2.1.13, 4.2.2.1), and what of it can be asked.

    places   anybody, in whatever way: decides who is let in when nothing is known, so that it fails closed
    *_urls   what is fetched: plain HTTP, few and short

Only of a certificate whose path holds: else a stranger has us fetch what he likes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID

from gateway.ike.certificate_path import MALFORMED, E, extension

URL_OCTETS_MAX = 1024
URLS_MAX = 2
PLACES_SHOWN, PLACE_SHOWN = 3, 80
"""How many of them are told, and how many characters of each."""


def places(certificate: x509.Certificate) -> tuple[str, ...]:
    """Everybody whom it names, for people; empty: nobody. What cannot be read, or is indirect, names somebody too."""
    try:
        responders = tuple(map(_place, _responders(extension(certificate, x509.AuthorityInformationAccess))))
        points = extension(certificate, x509.CRLDistributionPoints)
    except MALFORMED:
        return ("somebody who cannot be read",)
    crls = tuple(place for point in points or () for place in _of_point(point))
    return responders + (crls if crls or points is None else ("an empty list",))


def out_of_reach(certificate: x509.Certificate) -> str:
    """Why nobody whom it names can be asked; empty: somebody can, or it names nobody."""
    named = places(certificate)
    if not named or ocsp_urls(certificate) or crl_urls(certificate):
        return ""
    return f"it names only {', '.join(named[:PLACES_SHOWN])} to ask, and only http:// is fetched"


def ocsp_urls(certificate: x509.Certificate) -> list[str]:
    access = readable(certificate, x509.AuthorityInformationAccess)
    return http_urls(_responders(access))


def crl_urls(certificate: x509.Certificate) -> list[str]:
    points = readable(certificate, x509.CRLDistributionPoints)
    return http_urls(name for point in points or () if not point.crl_issuer for name in point.full_name or ())


def http_urls(names: Iterable[object]) -> list[str]:
    urls = [one.value for one in names if isinstance(one, x509.UniformResourceIdentifier)]
    usable = [one for one in urls if _is_http(one) and len(one) <= URL_OCTETS_MAX]
    return list(dict.fromkeys(usable))[:URLS_MAX]


def readable(certificate: x509.Certificate, kind: type[E]) -> E | None:
    try:
        return extension(certificate, kind)
    except MALFORMED:
        return None


def _responders(access: x509.AuthorityInformationAccess | None) -> Iterator[x509.GeneralName]:
    return (one.access_location for one in access or () if one.access_method == AuthorityInformationAccessOID.OCSP)


def _of_point(point: x509.DistributionPoint) -> Iterator[str]:
    if point.crl_issuer:
        yield "an indirect CRL"
    elif point.relative_name:
        yield "a name relative to the CA's"
    else:
        yield from map(_place, point.full_name or ())


def _place(name: x509.GeneralName) -> str:
    if not isinstance(name, x509.UniformResourceIdentifier):
        return "a name that is no URL"
    if _is_http(name.value) and len(name.value) > URL_OCTETS_MAX:
        return f"a URL of {len(name.value)} octets"
    return "".join(one if one.isprintable() else "?" for one in name.value[:PLACE_SHOWN])


def _is_http(url: str) -> bool:
    return url.lower().startswith("http://")
