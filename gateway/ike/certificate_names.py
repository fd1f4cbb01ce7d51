"""Names in certificates: distinguished names compared, identities found in a certificate, name constraints (RFC 5280 4.2.1.10).

A name matches or it does not: no wildcard, no part of a subject taken for a host name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.x509.oid import NameOID

from gateway.ike.errors import PeerError, Violation
from gateway.ike.registry import IdType, NotifyType
from gateway.ike.settings import Identity
from gateway.wire import Reader, Truncated

SEQUENCE, SET, OID = 0x30, 0x31, 0x06
TEXTS = {0x0C: "utf-8", 0x13: "ascii", 0x16: "ascii"}
"""UTF8String, PrintableString, IA5String: the same text is the same value, whichever was used (RFC 5280 7.1)."""
NAME_OCTETS_MAX = 2048
NAMES_SHOWN = 8

Attributes = tuple[frozenset[tuple[bytes, str]], ...]
"""A distinguished name: its RDNs in order, each a set of attributes."""


def same_name(one: bytes, other: bytes) -> bool:
    """Whether two distinguished names in DER say the same: attributes in the same order with the same text."""
    try:
        return parse_name(one) == parse_name(other)
    except (Truncated, UnicodeDecodeError):
        return False


_SHORT = {
    "550403": "CN", "550406": "C", "550407": "L", "550408": "ST", "55040a": "O", "55040b": "OU",
    "0992268993f22c640119": "DC", "2a864886f70d010901": "E",
}  # fmt: skip


def describe_name(der: bytes) -> str:
    """For people, in the order of the certificate; never raw control characters."""
    try:
        parsed = parse_name(der)
    except (Truncated, UnicodeDecodeError):
        return der[:64].hex()
    pairs = [f"{_SHORT.get(kind.hex(), kind.hex())}={text}" for rdn in parsed for kind, text in sorted(rdn)]
    return "".join(one if one.isprintable() else "?" for one in ", ".join(pairs))


def parse_name(der: bytes, only_text: bool = False) -> Attributes:
    """RFC 5280 4.1.2.4. Truncated when it is no Name in DER, or has values that are no text and has to be `only_text`."""
    if len(der) > NAME_OCTETS_MAX:
        raise Truncated(f"a name of {len(der)} octets")
    reader = Reader(der)
    rdns = content(reader, SEQUENCE)
    reader.expect_end()
    found = []
    while rdns.remaining:
        attributes, rdn = set(), content(rdns, SET)
        while rdn.remaining:
            pair = content(rdn, SEQUENCE)
            kind = content(pair, OID).rest()
            tag, value = _element(pair)
            pair.expect_end()
            octets = value.rest()
            if only_text and tag not in TEXTS:
                raise Truncated(f"a value of type {tag:#x}")
            attributes.add((kind, octets.decode(TEXTS[tag]) if tag in TEXTS else f"{tag}:{octets.hex()}"))
        found.append(frozenset(attributes))
    return tuple(found)


def content(reader: Reader, tag: int) -> Reader:
    """What is in the next element, which must have that tag. Truncated when it has not, or is not DER."""
    found, content = _element(reader)
    if found != tag:
        raise Truncated(f"tag {found:#x} instead of {tag:#x}")
    return content


def _element(reader: Reader) -> tuple[int, Reader]:
    tag, length = reader.u8(), reader.u8()
    if length & 0x80:
        octets = length & 0x7F
        length = reader.uint(octets) if 1 <= octets <= 2 else -1
        # DER: the shortest form alone
        if length < (0x80 if octets == 1 else 0x100):
            raise Truncated("a length that is not DER")
    return tag, reader.sub(length)


# --- identities ---------------------------------------------------------------------------------------------------


def proves(certificate: x509.Certificate, identity: Identity) -> bool:
    """RFC 4945 3.1: the subjectAltName of the identity's kind has it, or the whole subject is it."""
    if identity.type == IdType.DER_ASN1_DN:
        return same_name(certificate.subject.public_bytes(), identity.data)
    names = alternative_names(certificate)
    match identity.type:
        case IdType.FQDN:
            return any(isinstance(one, x509.DNSName) and _same_host(one.value, identity.data) for one in names)
        case IdType.RFC822_ADDR:
            return any(isinstance(one, x509.RFC822Name) and _same_mailbox(one.value, identity.data) for one in names)
        case IdType.IPV4_ADDR | IdType.IPV6_ADDR:
            return any(
                isinstance(one, x509.IPAddress) and getattr(one.value, "packed", b"") == identity.data for one in names
            )
        case _:
            return False


def own_identity(certificate: x509.Certificate) -> Identity:
    """What a certificate says of itself: its subject, else the first name beside it. ValueError when there is neither."""
    if certificate.subject.rdns:
        der = certificate.subject.public_bytes()
        return Identity(int(IdType.DER_ASN1_DN), der, describe_name(der))
    for name in alternative_names(certificate):
        match name:
            case x509.DNSName():
                return Identity(int(IdType.FQDN), name.value.encode("ascii"), name.value)
            case x509.RFC822Name():
                return Identity(int(IdType.RFC822_ADDR), name.value.encode("ascii"), name.value)
            case x509.IPAddress(value=IPv4Address() as address):
                return Identity(int(IdType.IPV4_ADDR), address.packed, str(address))
            case x509.IPAddress(value=IPv6Address() as address):
                return Identity(int(IdType.IPV6_ADDR), address.packed, str(address))
            case _:
                continue
    raise ValueError("it names nobody: its subject is empty, and so is its subjectAltName")


def described(name: x509.Name) -> str:
    """A subject or an issuer for people."""
    return describe_name(name.public_bytes()) or "an empty subject"


def shown_names(certificate: x509.Certificate) -> str:
    """What a certificate says of whose it is, for people."""
    names = [str(one.value) for one in alternative_names(certificate) if not isinstance(one, x509.DirectoryName)]
    text = "; ".join([described(certificate.subject), *names[:NAMES_SHOWN]])
    return "".join(one if one.isprintable() else "?" for one in text)


def alternative_names(certificate: x509.Certificate) -> tuple[x509.GeneralName, ...]:
    try:
        return tuple(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return ()


def _same_host(name: str, data: bytes) -> bool:
    return name.isascii() and name.lower().encode("ascii") == data.lower()


def _same_mailbox(name: str, data: bytes) -> bool:
    """RFC 5280 7.5: the local part as it is written, the host in any case."""
    local, _, host = name.rpartition("@")
    wanted_local, _, wanted_host = data.rpartition(b"@")
    return name.isascii() and (local.encode(), host.lower().encode()) == (wanted_local, wanted_host.lower())


# --- name constraints ---------------------------------------------------------------------------------------------


def check_constraints(constraints: Iterable[x509.NameConstraints], certificate: x509.Certificate) -> None:
    """PeerError when a CA above was not allowed to certify a name of that certificate (RFC 5280 6.1.3 b, c)."""
    found = tuple(constraints)
    names = tuple(_constrained_names(certificate)) if found else ()
    for one in found:
        for name in names:
            _check(one, name)


def _constrained_names(certificate: x509.Certificate) -> Iterator[x509.GeneralName]:
    yield from alternative_names(certificate)
    if certificate.subject.rdns:
        yield x509.DirectoryName(certificate.subject)
    # RFC 5280 4.2.1.10: mailboxes of old live in the subject
    for attribute in certificate.subject.get_attributes_for_oid(NameOID.EMAIL_ADDRESS):
        yield x509.RFC822Name(str(attribute.value))


def _check(constraints: x509.NameConstraints, name: x509.GeneralName) -> None:
    permitted = [one for one in constraints.permitted_subtrees or () if type(one) is type(name)]
    excluded = [one for one in constraints.excluded_subtrees or () if type(one) is type(name)]
    if permitted and not any(_within(name, one) for one in permitted):
        raise _outside(name, "which its CA is not permitted to certify")
    # What cannot be compared counts as excluded
    if any(_within(name, one) is not False for one in excluded):
        raise _outside(name, "which its CA is forbidden to certify")


def _outside(name: x509.GeneralName, why: str) -> PeerError:
    value = described(name.value) if isinstance(name, x509.DirectoryName) else str(name.value)
    return PeerError(
        Violation.CERTIFICATE_CHAIN, f"the name {value}, {why} (name constraints)", NotifyType.AUTHENTICATION_FAILED
    )


def _within(name: x509.GeneralName, subtree: x509.GeneralName) -> bool | None:
    """None: there is no telling."""
    match name, subtree:
        case x509.DNSName(), x509.DNSName():
            return _host_within(name.value, subtree.value, below=True)
        case x509.RFC822Name(), x509.RFC822Name():
            if "@" in subtree.value:
                return _same_mailbox(name.value, subtree.value.encode("utf-8", "replace"))
            return _host_within(name.value.rpartition("@")[2], subtree.value, below=False)
        case x509.UniformResourceIdentifier(), x509.UniformResourceIdentifier():
            return _uri_within(name.value, subtree.value)
        case x509.IPAddress(), x509.IPAddress():
            return _address_within(name, subtree)
        case x509.DirectoryName(), x509.DirectoryName():
            inner, outer = _folded(name.value), _folded(subtree.value)
            return None if inner is None or outer is None else inner[: len(outer)] == outer
        case _:
            return None


def _host_within(host: str, subtree: str, *, below: bool) -> bool:
    """`below`: a host name stands for all names under it, as for dNSName; else only one that begins with a dot does."""
    host, subtree = host.lower().rstrip("."), subtree.lower().rstrip(".")
    if not subtree or host == subtree:
        return True
    if subtree.startswith("."):
        return host.endswith(subtree)
    return below and host.endswith(f".{subtree}")


def _uri_within(uri: str, subtree: str) -> bool | None:
    try:
        host = urlsplit(uri).hostname
    except ValueError:
        return None
    try:
        ip_address(host or "")
    except ValueError:
        return _host_within(host, subtree, below=False) if host else None
    # RFC 5280 4.2.1.10: only host names can be constrained
    return None


def _address_within(name: x509.IPAddress, subtree: x509.IPAddress) -> bool | None:
    network, address = subtree.value, name.value
    if not isinstance(network, IPv4Network | IPv6Network) or not isinstance(address, IPv4Address | IPv6Address):
        return None
    return address.version == network.version and address in network


def _folded(name: x509.Name) -> Attributes | None:
    """RFC 5280 7.1, RFC 4518: case and runs of blanks make no other name."""
    try:
        parsed = parse_name(name.public_bytes(), only_text=True)
    except (Truncated, UnicodeDecodeError):
        return None
    return tuple(frozenset((kind, " ".join(text.split()).casefold()) for kind, text in rdn) for rdn in parsed)
